"""A client of the API on raw sockets: a test decides how it reads, waits and leaves; it records what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.recorder import ClientEnding, Recorder, Saw
from tests.support.wire import Connection, EventParser, Leave

TIMEOUT_SECONDS = 60.0
_CANARY = re.compile(rb"canary-[0-9a-z]{8,32}")


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. Header names are lower case; a repeated header keeps its last value."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Stream:
    """What came of one streamed request. ``events`` are the data of each event, ``[DONE]`` included."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    body: bytes = b""
    ending: ClientEnding = "truncated"

    def chunks(self) -> list[Any]:
        """The events as JSON, without ``[DONE]``."""
        return [json.loads(event) for event in self.events if event != "[DONE]"]

    def text(self) -> str:
        """What the first choice said, of chat chunks and of completion chunks."""
        choices = [choice for chunk in self.chunks() for choice in chunk.get("choices", ()) if choice["index"] == 0]
        return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


class Client:
    """Sends requests with one key and records what it saw. Every request has its own connection.

    A request carries a fresh ``X-Request-Id`` unless ``headers`` has one, so that it can be found in the ledger even
    if its client leaves before any answer.
    """

    def __init__(
        self,
        host: str,
        port: int,
        key: str | None,
        *,
        recorder: Recorder | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.host = host
        self.port = port
        self._key = key
        self._recorder = recorder or Recorder()
        self._timeout = timeout

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        """One GET. It is not recorded: no model runs."""
        return await self.request("GET", path, headers=headers)

    async def request(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Response:
        """One request that runs no model, and is not recorded."""
        payload = b"" if body is None else _payload(body)
        connection = await Connection.open(self.host, self.port)
        try:
            async with asyncio.timeout(self._timeout):
                await connection.send(self._request(method, path, payload, self._with_id(headers)))
                return await _response(connection)
        finally:
            await connection.close()

    async def post(
        self,
        path: str,
        body: object,
        *,
        headers: Mapping[str, str] | None = None,
        canary: str | None = None,
        leave_after: float | None = None,
        leave: Leave = Leave.CLOSE,
    ) -> Response | None:
        """One POST; None if the client left, which it does ``leave_after`` seconds after sending."""
        payload, sent = _payload(body), self._with_id(headers)
        connection = await Connection.open(self.host, self.port)
        response: Response | None = None
        ending: ClientEnding = "truncated"
        try:
            async with asyncio.timeout(self._timeout):
                await connection.send(self._request("POST", path, payload, sent))
                response = await _within(_response(connection), leave_after)
            if response is None:
                connection.leave(leave)
                ending = "left"
            else:
                ending = "body" if response.status < 300 else "error_response"
            return response
        finally:
            self._record_response(sent, response, ending, canary)
            await connection.close()

    async def stream(
        self,
        path: str,
        body: object,
        *,
        headers: Mapping[str, str] | None = None,
        canary: str | None = None,
        leave_after_events: int | None = None,
        leave: Leave = Leave.CLOSE,
        read_size: int = 65536,
        read_delay: float = 0.0,
        receive_buffer: int | None = None,
    ) -> Stream:
        """One streamed POST, read to its end or until the client left after so many events (0: before the head).

        ``read_size`` bytes at a time, ``read_delay`` seconds before each read: together a slow reader.
        """
        payload, sent = _payload(body), self._with_id(headers)
        connection = await Connection.open(self.host, self.port, receive_buffer=receive_buffer)
        stream = Stream()
        try:
            async with asyncio.timeout(self._timeout):
                await connection.send(self._request("POST", path, payload, sent))
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await _read_stream(connection, stream, leave_after_events, read_size, read_delay)
                if stream.ending == "left":
                    await _go(connection, leave)
            return stream
        finally:
            self._record_stream(sent, stream, canary)
            await connection.close()

    def _with_id(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        return {"x-request-id": str(uuid.uuid4()), **{name.lower(): value for name, value in (headers or {}).items()}}

    def _request(self, method: str, path: str, payload: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"host: {self.host}:{self.port}", "connection: close"]
        if self._key is not None and "authorization" not in headers:
            lines.append(f"authorization: Bearer {self._key}")
        if method == "POST" or payload:
            lines += ["content-type: application/json", f"content-length: {len(payload)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload

    def _record_response(
        self, sent: Mapping[str, str], response: Response | None, ending: ClientEnding, canary: str | None
    ) -> None:
        answered = response.headers if response else {}
        body = response.body if response else b""
        self._recorder.add(
            Saw(
                request_id=answered.get("x-request-id") or sent["x-request-id"],
                status=response.status if response else None,
                ending=ending,
                code=_error_code(body) if ending == "error_response" else None,
                canary=canary,
                canaries_seen=_canaries(body),
                **_told([body] if ending == "body" else []),
            )
        )

    def _record_stream(self, sent: Mapping[str, str], stream: Stream, canary: str | None) -> None:
        events = [event.encode() for event in stream.events]
        text = stream.text().encode() if stream.ending != "error_response" else b""
        last = stream.body if stream.ending == "error_response" else (events[-1] if events else b"")
        self._recorder.add(
            Saw(
                request_id=stream.headers.get("x-request-id") or sent["x-request-id"],
                status=stream.status,
                ending=stream.ending,
                code=_error_code(last) if stream.ending in ("error_response", "error_event") else None,
                canary=canary,
                canaries_seen=_canaries(stream.body + text),
                **_told(events if stream.ending == "done" else []),
            )
        )


async def _read_stream(
    connection: Connection, stream: Stream, leave_after: int | None, size: int, delay: float
) -> None:
    if leave_after == 0:
        stream.ending = "left"
        return
    stream.status, stream.headers = await connection.head()
    parser = EventParser()
    stream.comments = parser.comments
    async for piece in connection.pieces(stream.headers, size=size, delay=delay):
        stream.body += piece
        if stream.status >= 300:
            continue
        stream.events += parser.feed(piece)
        if leave_after is not None and len(stream.events) >= leave_after:
            stream.ending = "left"
            return
        if "[DONE]" not in stream.events:
            stream.ending = _ending_of(stream.events)
    stream.ending = "error_response" if stream.status >= 300 else _ending_of(stream.events)


def _ending_of(events: list[str]) -> ClientEnding:
    """How a stream with these events ended. ``done`` counts only where HTTP's own end followed."""
    endings = [number for number, event in enumerate(events) if event == "[DONE]" or event.startswith('{"error"')]
    if not endings:
        return "truncated"
    if endings != [len(events) - 1]:
        return "malformed"
    return "done" if events[-1] == "[DONE]" else "error_event"


async def _go(connection: Connection, how: Leave) -> None:
    connection.leave(how)
    if how is Leave.FIN:
        with contextlib.suppress(OSError):
            await connection.until_closed()


async def _response(connection: Connection) -> Response:
    status, headers = await connection.head()
    return Response(status, headers, b"".join([piece async for piece in connection.pieces(headers)]))


async def _within(answer: Coroutine[Any, Any, Response], seconds: float | None) -> Response | None:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        if seconds is None:
            raise
        return None


def _payload(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _canaries(text: bytes) -> frozenset[str]:
    return frozenset(match.decode() for match in _CANARY.findall(text))


def _error_code(body: bytes) -> str | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        code: str | None = json.loads(body)["error"]["code"]
        return code
    return None


def _told(documents: list[bytes]) -> dict[str, int]:
    """What the last document with a usage says, by the names of :class:`Saw`."""
    for document in reversed(documents):
        if b'"usage"' in document and (usage := json.loads(document).get("usage")) is not None:
            said = {**usage, **(usage.get("prompt_tokens_details") or {})}
            names = ("prompt_tokens", "completion_tokens", "cached_tokens")
            return {name: int(said[name]) for name in names if name in said}
    return {}
