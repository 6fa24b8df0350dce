"""Tools that are one HTTP request each."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import httpx
import orjson

from gateway.agent.tool import Arguments, ToolFailed, ToolOutput, bounded
from gateway.settings.agent import PLACEHOLDER, HttpToolSettings

MAX_REDIRECTS: Final = 3
_IN_QUERY: Final = ("GET", "DELETE")
_SAME_METHOD: Final = (307, 308)
_REDIRECTS: Final = (301, 302, 303, 307, 308)


class HttpTool:
    """See :class:`gateway.agent.tool.ServerTool`. ``headers``: all that are sent, secrets included."""

    def __init__(self, name: str, settings: HttpToolSettings, headers: Mapping[str, str]) -> None:
        self.name = name
        self.description: str | None = settings.description
        self.parameters: Mapping[str, Any] = settings.parameters
        self.tenants = None if settings.tenants is None else frozenset(settings.tenants)
        self.timeout = settings.timeout
        self._settings = settings
        self._arguments = Arguments(settings.parameters)
        # Not compressed: a bound on what is read is then a bound on what it becomes.
        self._headers = {"accept": "application/json, text/*", **headers, "accept-encoding": "identity"}
        # What a tool would have us remember of one caller is not sent for the next one.
        forgetful = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx.AsyncClient(
            follow_redirects=False, timeout=settings.timeout, trust_env=False, cookies=forgetful
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def call(self, arguments: Mapping[str, Any]) -> ToolOutput:
        """See :class:`gateway.agent.tool.ServerTool`."""
        self._arguments.check(arguments)
        try:
            return await self._ask(self._request(arguments), MAX_REDIRECTS)
        except httpx.TimeoutException as error:
            raise ToolFailed("timeout", "the tool did not answer in time") from error
        except httpx.TransportError as error:
            raise ToolFailed("unavailable", "the tool cannot be reached") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise ToolFailed("error", "no request can be made of these arguments") from error

    def _request(self, arguments: Mapping[str, Any]) -> httpx.Request:
        in_url = set(PLACEHOLDER.findall(self._settings.url))
        rest = {name: value for name, value in arguments.items() if name not in in_url}
        path, mark, query = self._settings.url.partition("?")
        filled = _filled(path, arguments, in_path=True) + mark + _filled(query, arguments, in_path=False)
        method = self._settings.method
        if method in _IN_QUERY:
            url = httpx.URL(filled)
            extra = [(name, _text(value)) for name, value in rest.items()]
            if extra:
                url = url.copy_with(params=[*url.params.multi_items(), *extra])
            return self._client.build_request(method, url, headers=self._headers)
        headers = {**self._headers, "content-type": "application/json"}
        return self._client.build_request(method, filled, headers=headers, content=orjson.dumps(rest))

    async def _ask(self, request: httpx.Request, redirects: int) -> ToolOutput:
        response = await self._client.send(request, stream=True)
        try:
            if response.status_code in _REDIRECTS:
                follow = self._redirected(request, response, redirects)
            elif not response.is_success:
                raise ToolFailed("error", f"the tool answered with status {response.status_code}")
            else:
                return await self._read(response)
        finally:
            await response.aclose()
        return await self._ask(follow, redirects - 1)

    def _redirected(self, request: httpx.Request, response: httpx.Response, left: int) -> httpx.Request:
        """Only to the same origin, or headers with secrets, and what the model says, would go somewhere else."""
        target = urljoin(str(request.url), response.headers.get("location", ""))
        if left < 1 or _origin(target) != _origin(str(request.url)):
            raise ToolFailed("error", "the tool sent us elsewhere")
        if response.status_code in _SAME_METHOD:
            return self._client.build_request(request.method, target, headers=request.headers, content=request.content)
        return self._client.build_request("GET", target, headers=self._headers)

    async def _read(self, response: httpx.Response) -> ToolOutput:
        kind = response.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
        if not (kind.startswith("text/") or kind.endswith(("json", "xml"))):
            raise ToolFailed("error", f"the tool answered with {kind[:60]}, which is not text")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ToolFailed("error", "the tool answered with a compressed body")
        limit = self._settings.max_response_bytes
        data = b""
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > limit:
                break
        return bounded(data.decode("utf-8", "replace"), limit)


def _filled(template: str, arguments: Mapping[str, Any], *, in_path: bool) -> str:
    """``template`` with its placeholders replaced; what is put in can neither end a segment nor climb out of one."""
    return PLACEHOLDER.sub(lambda match: _encoded(_text(arguments[match[1]]), match[1], in_path=in_path), template)


def _encoded(text: str, name: str, *, in_path: bool) -> str:
    if in_path and text.strip(".") == "":
        raise ToolFailed("invalid_arguments", f"invalid arguments: '{name}' cannot be '{text[:20]}'")
    return quote(text, safe="")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
