from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import EngineConfig, kind_of, require_files
from engine.description import described, description
from engine.types import EngineUnavailable


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"a": 1} x', "\ufeff{}"])
def test_a_configuration_that_cannot_be_read_stops_its_own_model_only(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        described(str(tmp_path))
    assert description(str(tmp_path)) == {}
    assert kind_of(str(tmp_path)) == "generate"
    with pytest.raises(EngineUnavailable, match=r"config\.json"):
        require_files(EngineConfig(str(tmp_path), "m"))


@pytest.mark.parametrize("text", ['{"architectures": []}', '{"architectures": [1]}', '{"architectures": "BertModel"}'])
def test_odd_architectures_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert kind_of(str(tmp_path)) == "generate"


def test_a_hub_id_has_none(tmp_path: Path) -> None:
    assert described(str(tmp_path / "org" / "name")) is None
