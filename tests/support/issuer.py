"""An issuer of JWTs with real keys, and the HTTP endpoint where it publishes them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://issuer.example"
AUDIENCE = "sluice"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_MAKERS: dict[str, Callable[[], PrivateKey]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@cache
def private_key(algorithm: str, kid: str) -> PrivateKey:
    """The one key of this name in this test session."""
    return _MAKERS[algorithm]()


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def public_jwk(algorithm: str, key: Any, **members: Any) -> dict[str, Any]:
    """The public half of ``key``; a member None is left out."""
    jwk = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    return {name: value for name, value in {**jwk, **members}.items() if value is not None}


def jwk(algorithm: str, name: str, /, **members: Any) -> dict[str, Any]:
    """The key of :func:`private_key` as its issuer publishes it."""
    members = {"kid": name, "alg": algorithm, "use": "sig", **members}
    return public_jwk(algorithm, private_key(algorithm, name), **members)


def key_set(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def segment(value: object) -> bytes:
    """One part of a token; bytes are taken as they are, anything else as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims; a change None leaves one out."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "someone", "exp": now + 600, "iat": now, "scope": "inference"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(
    payload: object,
    *,
    algorithm: str = "RS256",
    kid: str = "one",
    header: object | None = None,
    key: PrivateKey | None = None,
) -> bytes:
    """A token with a good signature by ``algorithm``, whatever its ``header`` says; default: the truth."""
    head = {"alg": algorithm, "kid": kid, "typ": "JWT"} if header is None else header
    signing_input = segment(head) + b"." + segment(payload)
    signature = get_default_algorithms()[algorithm].sign(signing_input, key or private_key(algorithm, kid))
    return signing_input + b"." + segment(signature)


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes, status: str = "200 OK", *headers: str) -> Answer:
    """An answer with this body."""
    head = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers, "", ""]

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(head).encode() + body)
        await writer.drain()

    return send


def endless(chunk: bytes = b" " * 65536, pause: float = 0.0) -> Answer:
    """An answer that goes on until the client has had enough."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause)

    return send


async def silence(writer: asyncio.StreamWriter) -> None:
    """No answer for as long as the client stays."""
    await asyncio.sleep(3600)


class KeyServer:
    """An HTTP endpoint. ``answers`` by path; ``asked`` is every path that was asked for, in order."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()

    def url(self, path: str = "/jwks") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def publish(self, *keys: Mapping[str, Any]) -> None:
        """These keys at /jwks from here on."""
        self.answers["/jwks"] = http(key_set(*keys))

    async def start(self) -> None:
        """Listen; on the same port as before, if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            path = request.split(b" ", 2)[1].decode()
            self.asked.append(path)
            await self.answers.get(path, http(b"no such page", "404 Not Found"))(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client has gone: some are meant to.
        finally:
            self._serving.discard(task)
            writer.close()


@asynccontextmanager
async def key_server() -> AsyncIterator[KeyServer]:
    """One that listens."""
    server = KeyServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
