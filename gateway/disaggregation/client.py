"""Asks one peer over HTTP, and believes only answers under its seal."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import httpx
from pydantic import ValidationError

from gateway.disaggregation.seal import HEADER, Seal
from gateway.disaggregation.wire import PREFILL, STATE, PeerState, PrefillAnswer, PrefillRequest
from gateway.observability.tracing.parent import HEADER as TRACEPARENT

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
CONNECT_SECONDS: Final = 2.0
_REFUSALS: Final = (400, 401, 403, 404, 405, 409, 413)


class PeerFailed(Exception):
    """A peer did not do what it was asked. ``reason`` is one of: unreachable, timeout, refused, overloaded, failed,
    nonsense (an answer that is not under the seal, or not of the contract).
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class PeerClient:
    """Lasting connections to all peers. :meth:`open` before the first call."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._http: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Read the certificates, which takes longer than the event loop may be held."""
        tls: ssl.SSLContext = await asyncio.to_thread(httpx.create_ssl_context)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)
        # The time of a call is bounded by who makes it; no proxies: peers are named by who operates both.
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        self._http = httpx.AsyncClient(
            verify=tls, limits=limits, timeout=timeout, follow_redirects=False, trust_env=False
        )

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        if self._http is not None:
            await self._http.aclose()

    async def state(self, url: str, seconds: float) -> PeerState:
        """How the peer at ``url`` is. Raises :class:`PeerFailed`."""
        body = await self._ask("GET", url, STATE, b"", seconds)
        try:
            return PeerState.model_validate_json(body)
        except ValidationError as error:
            raise PeerFailed("nonsense", "not a state") from error

    async def prefill(
        self, url: str, request: PrefillRequest, seconds: float, parent: str | None = None
    ) -> PrefillAnswer:
        """Have the peer at ``url`` compute a prompt; cancelling closes the connection, which tells it to stop.

        ``parent``: the ``traceparent`` of what it does. Raises :class:`PeerFailed`.
        """
        body = await self._ask("POST", url, PREFILL, request.model_dump_json().encode(), seconds, parent)
        try:
            return PrefillAnswer.model_validate_json(body)
        except ValidationError as error:
            raise PeerFailed("nonsense", "not an answer to a prefill") from error

    async def _ask(
        self, method: str, url: str, path: str, body: bytes, seconds: float, parent: str | None = None
    ) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await self._sealed(method, url, path, body, parent)
        except TimeoutError:
            raise PeerFailed("timeout", f"no answer within {seconds:g} s") from None
        except httpx.TimeoutException as error:
            raise PeerFailed("timeout", "no connection in time") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise PeerFailed("unreachable", str(error) or type(error).__name__) from error

    async def _sealed(self, method: str, url: str, path: str, body: bytes, parent: str | None) -> bytes:
        assert self._http is not None
        seal = self._seal.of_request(method, path, body)
        headers = {HEADER: seal, "accept-encoding": "identity"} | ({"content-type": "application/json"} if body else {})
        headers |= {} if parent is None else {TRACEPARENT.decode(): parent}
        async with self._http.stream(method, url + path, content=body or None, headers=headers) as response:
            answer = await _bounded(response)
            if response.status_code != 200:
                raise _refusal(response.status_code, answer)
            if not self._seal.is_of_answer(response.headers.get(HEADER), seal, answer):
                raise PeerFailed("nonsense", "its answer is not under the seal of this deployment")
            return answer


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise PeerFailed("nonsense", f"more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _refusal(status: int, answer: bytes) -> PeerFailed:
    detail = f"HTTP {status} {answer[:200].decode('utf-8', 'replace')}"
    if status in _REFUSALS:
        return PeerFailed("refused", detail)
    return PeerFailed("overloaded" if status in (429, 503) else "failed", detail)
