"""One request and its response as ASGI 3 sees them (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from gateway.errors import ApiError, internal
from gateway.http.body import RequestBody
from gateway.http.connection import EXTENSION, ResponseStream
from gateway.http.head import RequestHead
from gateway.http.headers import request_id
from gateway.http.response import error_headers
from gateway.http.shared import LOGGER, FrontState, Message
from gateway.http.writer import ResponseWriter

if TYPE_CHECKING:
    from gateway.http.protocol import HttpConnection

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestCycle(ResponseWriter):
    """Runs the application for one request. Also the :class:`~gateway.http.connection.ResponseStream` it sees."""

    __slots__ = ("_asked", "_body", "_connection", "_delivered", "_head", "_request_id", "_task", "_waiters",
                 "error_body", "rejection")  # fmt: skip

    def __init__(
        self,
        shared: FrontState,
        connection: HttpConnection,
        transport: asyncio.Transport,
        head: RequestHead,
        body: RequestBody,
    ) -> None:
        super().__init__(shared, transport, head_only=head.method == "HEAD", http10=head.http10)
        self._connection = connection
        self._head = head
        self._body = body
        self._asked = False
        self._delivered = False
        self._request_id: str | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self.rejection: ApiError | None = None
        self.error_body: Callable[[ApiError], bytes] | None = None

    @property
    def request_id(self) -> str:
        """See :class:`~gateway.http.connection.ResponseStream`."""
        if self._request_id is None:
            self._request_id = request_id(self._head.headers)
        return self._request_id

    @property
    def body_limit(self) -> int:
        """See :class:`~gateway.http.connection.ResponseStream`."""
        return self._body.limit

    @body_limit.setter
    def body_limit(self, limit: int) -> None:
        self._body.limit = limit

    @property
    def body_patience(self) -> bool:
        """See :class:`~gateway.http.connection.ResponseStream`."""
        return self._body.patient

    @body_patience.setter
    def body_patience(self, patient: bool) -> None:
        self._body.patient = patient

    @property
    def withholds_continue(self) -> bool:
        """The peer waits for 100 (Continue), so it is not late with its body."""
        return self._head.expects_continue and not self._asked

    def begin(self) -> None:
        """Start the application as a task of its own."""
        self._shared.cycles.add(self)
        # The cycle is held by the set of cycles, the task by the cycle: the loop alone holds tasks weakly.
        self._task = self._shared.loop.create_task(self._run())

    def scope(self) -> dict[str, Any]:
        """The ASGI scope. ``raw_path`` is exactly what was sent; ``path`` is only percent-decoded, never merged."""
        head, connection = self._head, self._connection
        raw_path, _, query = head.target.partition(b"?")
        path = raw_path.decode("ascii")
        stream: ResponseStream = self
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if head.http10 else "1.1",
            "method": head.method,
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": head.headers,
            "client": connection.client,
            "server": connection.server,
            "state": {},
            "extensions": {EXTENSION: stream},
        }

    async def receive(self) -> Message:
        """The next part of the body, or ``http.disconnect`` once there is nothing more to come."""
        if not self._asked:
            self._open_body()
        body = self._body
        while not self.done:
            if body.unread or (body.complete and not self._delivered):
                return self._next_part(body)
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """One ASGI message. Waits while the send buffer is above its mark."""
        while self.paused and not self.done:
            await self._wait()
        if self.done and self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self._block is not None and not self.done:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.start":
            self.start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def reject(self, error: ApiError) -> None:
        """End this request with the front's own error; the application sees a disconnect."""
        if self.done:
            return
        self.rejection = error
        self._shared.rejects.note(error.code or "error")
        if self._opened:
            self.abort()
        else:
            self.answer(error)
            self.disconnected = True
            self._fire_disconnect()

    def answer(self, error: ApiError) -> None:
        """Replace whatever was held back with an error's response."""
        self.close_after = self.close_after or error.close
        self._block = None
        self.start(error.status, error_headers(error, self.request_id))
        self.finish(error.payload() if self.error_body is None else self.error_body(error))

    def body_arrived(self) -> None:
        """The body has grown or is complete."""
        self._wake()

    async def _run(self) -> None:
        try:
            await self._shared.app(self.scope(), self.receive, self.send)
        except Exception:  # noqa: BLE001 - whatever the application raises, the peer gets an answer
            LOGGER.exception("the application failed")
            self._fail()
        else:
            if not self.done:
                LOGGER.error("the application returned without a whole response")
                self._fail()
        finally:
            self.abort()
            self._shared.cycles.discard(self)

    def _fail(self) -> None:
        if not self.done and not self._opened:
            self.close_after = True
            self.answer(internal())

    def _open_body(self) -> None:
        self._asked = True
        try:
            self._body.open()
        except ApiError as error:
            self.reject(error)
            return
        if self._head.expects_continue and not self._body.complete and not self._opened and not self.done:
            self._write(_CONTINUE)
        self._connection.body_wanted()

    def _next_part(self, body: RequestBody) -> Message:
        part = body.take()
        self._delivered = body.complete
        if not body.complete:
            self._connection.body_wanted()
        return {"type": "http.request", "body": part, "more_body": not body.complete}

    def _send_body(self, data: bytes, *, more: bool) -> None:
        if not more:
            self.finish(data)
        elif data:
            self.write(data)
        else:
            self.flush()

    async def _wait(self) -> None:
        waiter = self._shared.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _keeps_alive(self) -> bool:
        if self._shared.draining or not self._head.keep_alive:
            return False
        return self._body.complete or (
            not self.withholds_continue and self._body.discardable(self._shared.bounds.discard_bytes)
        )

    def _completed(self) -> None:
        self._connection.response_complete(self)
