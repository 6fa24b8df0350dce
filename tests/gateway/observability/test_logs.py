from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.observability.logs import (
    MAX_EXCEPTION_CHARS,
    MAX_FIELD_CHARS,
    MAX_MESSAGE_CHARS,
    AccessEntry,
    LogEntry,
    LogOptions,
    Logs,
    StreamSink,
    encode_json,
    encode_text,
    install,
    printable,
    rfc3339,
)

ENTRY = AccessEntry(
    ts=1_700_000_000.1234,
    request_id="r-1",
    method="POST",
    route="/v1/chat/completions",
    status=200,
    outcome="completed",
    duration_ms=12.34567,
    principal="sk-abc",
    tenant="team-a",
    model="smol",
    stream=True,
    prompt_tokens=3,
    completion_tokens=5,
    ttft_ms=1.23456,
    client_ip="127.0.0.1",
    labels={"user": "u\n1"},
)


class Captured:
    """Logging installed on a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._logs: list[Logs] = []

    def install(self, options: LogOptions | None = None) -> Logs:
        self._logs.append(install(options or LogOptions(), fd=self._fd))
        return self._logs[-1]

    def text(self) -> str:
        assert all(logs.writer.flush(10) for logs in self._logs)
        return self._path.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def close(self) -> None:
        for logs in self._logs:
            logs.close()
        os.close(self._fd)


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[Captured]:
    captured = Captured(tmp_path / "log")
    yield captured
    captured.close()


def test_an_access_line_has_every_field(captured: Captured) -> None:
    captured.install().access.record(ENTRY)
    assert captured.lines() == [
        {
            "ts": "2023-11-14T22:13:20.123Z",
            "level": "INFO",
            "logger": "sluice.access",
            "request_id": "r-1",
            "method": "POST",
            "route": "/v1/chat/completions",
            "status": 200,
            "outcome": "completed",
            "principal": "sk-abc",
            "tenant": "team-a",
            "model": "smol",
            "adapter": None,
            "arm": None,
            "stream": True,
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "ttft_ms": 1.235,
            "duration_ms": 12.346,
            "client_ip": "127.0.0.1",
            "code": None,
            "labels": {"user": "u\\n1"},
            "trace_id": None,
        }
    ]


def test_a_log_record_carries_its_request_and_its_fields(captured: Captured) -> None:
    captured.install()
    logging.getLogger("sluice.x").warning("lost %d", 3, extra={"request_id": "r-9", "fields": {"a": 1, "b": object}})
    (line,) = captured.lines()
    assert (line["level"], line["logger"], line["message"], line["request_id"]) == (
        "WARNING",
        "sluice.x",
        "lost 3",
        "r-9",
    )
    assert line["fields"] == {"a": 1, "b": "<class 'object'>"}


def test_an_exception_keeps_its_ends_and_is_bounded(captured: Captured) -> None:
    captured.install()
    try:
        raise ValueError("x" * 100_000 + "the end")
    except ValueError:
        logging.getLogger("sluice").exception("failed")
    (line,) = captured.lines()
    assert len(line["exception"]) <= MAX_EXCEPTION_CHARS + 10
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("the end")


def test_long_messages_and_fields_are_cut(captured: Captured) -> None:
    captured.install()
    logging.getLogger("sluice").error("m" * 100_000, extra={"fields": {"f": "v" * 100_000}})
    (line,) = captured.lines()
    assert len(line["message"]) <= MAX_MESSAGE_CHARS + 3
    assert len(line["fields"]["f"]) == MAX_FIELD_CHARS


def test_a_wrong_log_call_still_gives_its_line(captured: Captured) -> None:
    captured.install()
    logging.getLogger("sluice").error("%d items", "three")
    assert captured.lines()[0]["message"].startswith("%d items")


def test_the_level_holds_and_unknown_levels_are_refused(captured: Captured) -> None:
    captured.install(LogOptions(level="warning"))
    logging.getLogger("sluice").info("quiet")
    logging.getLogger("sluice").warning("loud")
    assert [line["message"] for line in captured.lines()] == ["loud"]
    with pytest.raises(ValueError, match="LOUD"):
        captured.install(LogOptions(level="loud"))


@pytest.mark.parametrize("name", ["vllm", "vllm.v1.engine", "uvicorn.error", "sluice", "anything"])
def test_every_logger_of_the_process_comes_out_as_json_once(captured: Captured, name: str) -> None:
    own = logging.StreamHandler()
    vllm = logging.getLogger("vllm")
    vllm.addHandler(own)
    vllm.propagate = False
    try:
        captured.install()
        logging.getLogger(name).warning("hello")
        assert [(line["logger"], line["message"]) for line in captured.lines()] == [(name, "hello")]
    finally:
        vllm.removeHandler(own)
        vllm.propagate = True


def test_uvicorns_access_log_is_silent_ours_replaces_it(captured: Captured) -> None:
    captured.install()
    logging.getLogger("uvicorn.access").info("GET /")
    assert captured.lines() == []


def test_warnings_are_logged(captured: Captured) -> None:
    captured.install()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", UserWarning, stacklevel=1)
    assert "old thing" in captured.lines()[0]["message"]


def test_close_puts_the_old_set_up_back(captured: Captured) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    logs = captured.install()
    assert (root.handlers[:], root.level) != before
    logs.close()
    assert (root.handlers[:], root.level) == before


def test_text_format_is_for_people_and_cannot_be_forged(captured: Captured) -> None:
    logs = captured.install(LogOptions(format="text"))
    logs.access.record(ENTRY)
    try:
        raise ValueError("first\n2023-11-14T22:13:20.123Z INFO forged")
    except ValueError:
        logging.getLogger("sluice").exception("a\nb\x1b[31m")
    first, second, *rest = captured.text().splitlines()
    assert "POST /v1/chat/completions 200 completed 3+5 tokens ttft 1 ms 12 ms id=r-1" in first
    assert second.endswith("sluice: a\\nb\\x1b[31m")
    assert rest
    assert all(line.startswith("    ") for line in rest)


@pytest.mark.parametrize("encode", [encode_json, encode_text])
@settings(deadline=None)
@given(text=st.text(alphabet=st.characters(), max_size=60), other=st.text(alphabet=st.characters(), max_size=20))
def test_any_text_is_one_valid_line(encode: Callable[[Any], bytes], text: str, other: str) -> None:
    for entry in (
        LogEntry(1.0, "INFO", "sluice", text, request_id=other, fields={other: text}),
        AccessEntry(1.0, other, text, text, 200, "completed", 1.0, model=text, principal=other, code=text),
    ):
        line = encode(entry)
        assert line.endswith(b"\n")
        decoded = line[:-1].decode("utf-8")
        assert not any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F or c in "\u2028\u2029\u202e" for c in decoded)
        assert len(decoded.splitlines()) == 1


def test_secrets_are_masked_and_lookalikes_are_not() -> None:
    assert printable("key sk-abc123-SuperSecret_99 refused") == "key sk-abc123-*** refused"
    assert printable("Bearer eyJhbGciOiJI.eyJzdWIi.c2ln-x") == "Bearer jwt-***"
    assert printable("disk-usage-exceeded and sk-abc123") == "disk-usage-exceeded and sk-abc123"


def test_a_reader_that_stopped_costs_lines_and_says_so_when_it_is_back() -> None:
    reading, writing = os.pipe()
    dropped: list[int] = []
    logs = install(LogOptions(capacity=100), fd=writing, on_drop=dropped.append)
    try:
        while sum(dropped) < 50:
            logging.getLogger("sluice").warning("x" * 2000)
        received = b""
        while b"lines lost so far" not in received:
            received += os.read(reading, 65536)
    finally:
        logs.close()
        os.close(writing)
        os.close(reading)
    lines = [json.loads(line) for line in received.splitlines(keepends=True) if line.endswith(b"\n")]
    recovered = next(line for line in lines if "lost" in line["message"])
    assert recovered["fields"]["dropped"] >= 50


def test_a_stream_that_fails_in_mid_line_goes_on_with_a_new_one() -> None:
    reading, writing = os.pipe()
    sink = StreamSink(writing)
    sink.write(memoryview(b"whole\nto"))
    sink.close()
    sink.write(memoryview(b"torn\n"))
    sink.close()
    sink.write(memoryview(b"next\n"))
    assert os.read(reading, 100) == b"whole\nto\ntorn\nnext\n"
    os.close(reading)
    os.close(writing)


def test_a_non_blocking_descriptor_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    logs = install(LogOptions(capacity=10_000), fd=writing)
    for number in range(500):
        logging.getLogger("sluice").warning("%d %s", number, "x" * 1000)
    received = b""
    while received.count(b"\n") < 500:
        received += os.read(reading, 65536)
    assert [int(json.loads(line)["message"].split()[0]) for line in received.splitlines()] == list(range(500))
    assert logs.close()
    os.close(reading)
    os.close(writing)


def test_time_stamps() -> None:
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_700_000_000.9999).startswith("2023-11-14T22:13:20.999")
