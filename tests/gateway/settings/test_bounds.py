"""The published bounds are those of the code: docs/limits.md, "Bounds"."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.access import failures, tokens
from gateway.app import http_bounds
from gateway.errors import MAX_MESSAGE_BYTES
from gateway.http import listener
from gateway.http.bounds import HttpBounds
from gateway.limits import memory
from gateway.observability import logs, tenants
from gateway.observability.metrics import MAX_ADAPTER_LABELS
from gateway.protocol import strictjson
from gateway.registry.metrics import MAX_ARM_LABELS
from gateway.settings import Settings, load
from gateway.sinks import MAX_PENDING_BYTES
from gateway.store import audit
from gateway.usage import ledger

PAGE: Final = Path(__file__).parents[3] / "docs" / "limits.md"
_UNITS: Final = {"KiB": 1024, "MiB": 2**20, "s": 1, "%": 0.01, None: 1}
FIXED: Final[dict[str, float]] = {
    "descriptors kept free of connections": listener._RESERVED_DESCRIPTORS,
    "target of a request": HttpBounds().max_target_bytes,
    "chunk extensions and trailers of a body": HttpBounds().max_chunk_overhead,
    "nesting of JSON": strictjson.MAX_DEPTH,
    "keys of one JSON object": strictjson.MAX_KEYS,
    "body that is read before somebody wants it, per connection": HttpBounds().max_read_ahead,
    "answer that is not sent yet, per connection": HttpBounds().send_buffer_bytes,
    "text held back for a slow reader, per stream": MAX_PENDING_BYTES,
    "message of an error": MAX_MESSAGE_BYTES,
    "log lines waiting for their sink": logs.LogOptions().capacity,
    "ledger rows waiting for their file": ledger.CAPACITY,
    "audit entries waiting for the database": audit.CAPACITY,
    "keys, models and addresses with limits, without Redis": memory.MAX_SUBJECTS,
    "addresses whose wrong credentials are counted": failures.MAX_ADDRESSES,
    "verified tokens remembered": tokens.MAX_REMEMBERED,
    "tenants with metric series of their own": tenants.SHOWN,
    "adapters with metric series of their own": MAX_ADAPTER_LABELS,
    "versions of public names with metric series of their own": MAX_ARM_LABELS,
}


def published() -> list[tuple[str, float, str | None]]:
    """What, how much, and the setting, of each row."""
    section = PAGE.read_text().split("## Bounds\n")[1]
    rows = re.findall(r"^\| ([^|]+?) \| ([0-9,]+) ?(KiB|MiB|s|%)? \| (?:`([a-z_.]+)`)? ?\|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n| ") - 2, "a row that is not of this form"
    return [
        (what, int(number.replace(",", "")) * _UNITS[unit or None], setting) for what, number, unit, setting in rows
    ]


def default_of(setting: str, settings: Settings) -> Any:
    value: Any = settings
    for name in setting.split("."):
        value = getattr(value, name)
    return value


def test_the_page_says_what_the_code_does() -> None:
    settings = load()
    for what, number, setting in published():
        assert number == pytest.approx(default_of(setting, settings) if setting else FIXED[what]), what
    assert {what for what, _, setting in published() if not setting} == FIXED.keys()


def test_the_front_has_what_the_settings_say() -> None:
    defaults, given = HttpBounds(), http_bounds(load())
    for name in type(load().http).model_fields:
        assert getattr(given, name) == getattr(defaults, name), name


def test_every_bound_of_the_front_is_published() -> None:
    named = {setting for _, _, setting in published() if setting}
    bounds = {f"http.{name}" for name in type(load().http).model_fields if name.startswith("max_")}
    assert bounds <= named
