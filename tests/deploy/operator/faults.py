"""A proxy in front of the API server that fails as told, and remembers what was asked of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

#: What to do with a request, by method and path: None passes it on.
Fault = Callable[[str, str], "str | None"]
_SESSION = web.AppKey("session", aiohttp.ClientSession)
_HTML = "<html><body>404 Not Found: no such backend</body></html>"


def _nothing(method: str, path: str) -> str | None:
    return None


@dataclass
class FaultyProxy:
    """``fault`` may be exchanged at any time. ``asked`` are the method and path of requests that were passed on."""

    upstream: str
    url: str = ""
    fault: Fault = _nothing
    asked: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        what = self.fault(request.method, request.path)
        if what is not None:
            self.failed.append((request.method, request.path))
            return await self._fail(request, what)
        self.asked.append((request.method, request.path))
        session = request.app[_SESSION]
        headers = {key: value for key, value in request.headers.items() if key.lower() != "host"}
        async with session.request(
            request.method, self.upstream + request.raw_path, headers=headers, data=await request.read() or None
        ) as answer:
            kept = {
                key: value
                for key, value in answer.headers.items()
                if key.lower() not in ("transfer-encoding", "content-length", "content-encoding", "connection")
            }
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    @staticmethod
    async def _fail(request: web.Request, what: str) -> web.StreamResponse:
        if what == "hang":
            await asyncio.sleep(60)
        if what == "reset" and request.transport is not None:
            request.transport.abort()
        if what == "404 of a proxy":
            return web.Response(status=404, text=_HTML, content_type="text/html")
        if what == "404 of an API":
            # What the server says while an API group is being registered: NotFound, but of no object.
            body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                    "message": "the server could not find the requested resource", "details": {}}  # fmt: skip
            return web.json_response(body, status=404)
        if what == "empty":
            return web.json_response({})
        code = int(what) if what.isdigit() else 500
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "InternalError", "code": code,
                "message": "etcdserver: request timed out"}  # fmt: skip
        return web.json_response(body, status=code)


@contextmanager
def proxied(upstream: str) -> Iterator[FaultyProxy]:
    """A proxy in front of ``upstream``, in a thread of its own."""
    proxy = FaultyProxy(upstream)
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", proxy._serve)
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(ssl=False, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=True) as session:
            application[_SESSION] = session
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            started.set()
            await stop.wait()
            await runner.cleanup()

    def run() -> None:
        loop.run_until_complete(serve())
        # Watches that the operator left open.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
