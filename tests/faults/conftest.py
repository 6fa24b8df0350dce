from __future__ import annotations

from pathlib import Path

import pytest

from engine.toy import make_toy_model


@pytest.fixture(scope="session")
def toy_model(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_model(tmp_path_factory.mktemp("toy"), default_model)
