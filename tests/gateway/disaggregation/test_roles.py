"""Roles that could not work do not start, and say why."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.disaggregation.build import check_role
from gateway.settings import SettingsError, load

SECRET = "a secret that all servers are given"
CONFIG = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


def role(name: str, config: Any = CONFIG, **flags: Any) -> None:
    peers = {"peers": ["http://127.0.0.1:1"]} if name == "decode" else {}
    engine = {} if config is None else {"kv_transfer_config": config}
    check_role(load(flags={"secret": SECRET, "engine": engine, "disaggregation": {"role": name, **peers}, **flags}))


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_what_it_takes(name: str) -> None:
    role(name)
    with pytest.raises(SettingsError, match=f"{name} needs engine.kv_transfer_config"):
        role(name, None)
    with pytest.raises(SettingsError, match="SLUICE_SECRET"):
        role(name, secret=None)
    role(name, None, models=[{"name": "m", "model": "org/m", "engine": {"kv_transfer_config": CONFIG}}])


@pytest.mark.parametrize(("name", "wrong"), [("prefill", "kv_consumer"), ("decode", "kv_producer")])
def test_vllms_role_must_fit(name: str, wrong: str) -> None:
    with pytest.raises(SettingsError, match="kv_role"):
        role(name, CONFIG | {"kv_role": wrong})


def test_no_role_needs_nothing() -> None:
    role("none", None, secret=None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "decode"},
        {"role": "prefill", "peers": ["http://a:1"]},
        {"peers": ["http://a:1"]},
        {"role": "decode", "peers": ["ftp://a"]},
        {"role": "decode", "peers": ["http://user:password@a"]},
        {"role": "decode", "peers": ["http://a/path"]},
        {"role": "decode", "peers": ["http://a:1", "http://a:1/"]},
        {"role": "both"},
        {"role": "decode", "peers": ["http://a:1"], "timeout": 0},
    ],
)
def test_settings_that_contradict_themselves(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="disaggregation"):
        load(flags={"disaggregation": wrong})
