"""A small keep-alive server that answers with scripted bytes, in a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from loadtest.client import Target

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@contextmanager
def served(answer: Answer) -> Iterator[Target]:
    """A keep-alive server on loopback; ``answer`` gets each request's body."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await answer(await reader.readexactly(length), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(connection, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield Target(server.sockets[0].getsockname()[1], "sk-test", "toy")
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        _cancel_all(loop)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def stream_in_shreds(body: bytes, writer: asyncio.StreamWriter) -> None:
    """As many tokens as asked for, written seven bytes at a time: no read ends where an event or chunk does."""
    tokens = json.loads(body)["max_tokens"]
    events = [b'{"choices":[{"delta":{"role":"assistant","content":""}}]}']
    events += [b'{"choices":[{"delta":{"content":"\\r\\n0"}}]}'] * tokens
    events += [b'{"choices":[{"delta":{},"finish_reason":"length"}]}']
    events += [b'{"choices":[],"usage":{"completion_tokens":%d}}' % tokens, b"[DONE]"]
    raw = CHUNKED + b"".join(chunk(b"data: " + event + b"\n\n") for event in events) + chunk(b"")
    for start in range(0, len(raw), 7):
        writer.write(raw[start : start + 7])
        await writer.drain()
        await asyncio.sleep(0)


async def complete(body: bytes, writer: asyncio.StreamWriter) -> None:
    answer = b'{"choices":[],"usage":{"completion_tokens":%d}}' % json.loads(body)["max_tokens"]
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
    await writer.drain()
    writer.write(answer)
