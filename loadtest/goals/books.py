"""What the load generator saw of each request, laid beside the ledger and the engine's counters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gateway.usage.file import rotated_files
from gateway.usage.records import Entry, Settled, read_entries
from loadtest.answers import status
from loadtest.client import Recording
from tests.support.recorder import ClientEnding, Saw

_ID: Final = re.compile(rb"\r\nx-request-id: ([^\r]+)\r\n", re.IGNORECASE)
#: A client that went away before it knew the id of its request.
GONE: Final = Saw(None, None, "left")


def saw(recording: Recording) -> Saw:
    """One answer as its client saw it."""
    found = _ID.search(bytes(recording.raw[:4096]))
    code, body = status(recording), payload(recording)
    ending, last = _ending(code, body)
    failed = ending in ("error_response", "error_event")
    usage = {} if failed else _usage(last)
    return Saw(
        request_id=found[1].decode() if found else None,
        status=code,
        ending=ending,
        code=_code(last) if failed else None,
        completion_tokens=usage.get("completion_tokens"),
        prompt_tokens=usage.get("prompt_tokens"),
    )


def payload(recording: Recording) -> bytes:
    """The body of an answer, without the marks of its chunks."""
    raw = bytes(recording.raw)
    start = raw.index(b"\r\n\r\n") + 4
    if b"transfer-encoding: chunked" not in raw[:start].lower():
        return raw[start:]
    pieces: list[bytes] = []
    while size := int(raw[start : (data := raw.index(b"\r\n", start) + 2) - 2], 16):
        pieces.append(raw[data : data + size])
        start = data + size + 2
    return b"".join(pieces)


def header(recording: Recording, name: bytes) -> str | None:
    """A header of the answer, None if it has none; ``name`` in lower case."""
    head = bytes(recording.raw[: recording.raw.index(b"\r\n\r\n")])
    found = re.search(rb"\r\n" + name + rb": ([^\r]+)", head, re.IGNORECASE)
    return found[1].decode() if found else None


def _ending(code: int, body: bytes) -> tuple[ClientEnding, bytes]:
    """How it ended, and the document that says so: the error, or the one with the usage."""
    if code >= 300:
        return "error_response", body
    if not body.startswith((b"data: ", b":")):
        return "body", body
    events = [event[6:] for event in body.split(b"\n\n") if event.startswith(b"data: ")]
    if events and events[-1] == b"[DONE]":
        return "done", events[-2]
    if events and events[-1].startswith(b'{"error"'):
        return "error_event", events[-1]
    return "truncated", b""


def _usage(document: bytes) -> Mapping[str, int]:
    with suppress(ValueError, AttributeError):
        return json.loads(document).get("usage") or {}
    return {}


def _code(document: bytes) -> str | None:
    with suppress(ValueError, KeyError, TypeError):
        code: str | None = json.loads(document)["error"]["code"]
        return code
    return None


def ledger(directory: Path) -> list[Entry]:
    """All rows of a server's ledger, its rotated files included."""
    path = directory / "ledger.jsonl"
    files = [*rotated_files(path), path]
    return [entry for file in files for entry in read_entries(file)]


def settled(entries: Iterable[Entry]) -> list[Settled]:
    """Those that end a request."""
    return [entry for entry in entries if isinstance(entry, Settled)]


def texts(recordings: Sequence[Recording]) -> list[str]:
    """What each chat stream said."""
    return [_text(payload(recording)) for recording in recordings]


def _text(body: bytes) -> str:
    said: list[str] = []
    for event in body.split(b"\n\n"):
        if event.startswith(b"data: {"):
            choices: list[dict[str, Any]] = json.loads(event[6:])["choices"]
            said += [choice["delta"].get("content") or "" for choice in choices]
    return "".join(said)
