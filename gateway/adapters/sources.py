"""Where an adapter's files come from, and how they get here: a directory, the hub, or an archive behind https.

S3 and its kin are reached by presigned https URLs. What is fetched lies in a directory of its own until the engine has
its private copy, and then nowhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

import httpx

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
MAX_REDIRECTS: Final = 3
_MAX_CONFIG_BYTES: Final = 1024 * 1024
_MAX_MEMBERS: Final = 1000
_CHUNK: Final = 1024 * 1024
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96}")

SourceFault = Literal[
    "path_not_allowed", "source_not_allowed", "sha256_required", "source_unavailable", "invalid_adapter"
]


class SourceRefused(Exception):
    """A source that is not allowed, does not answer, or does not hold what it should. ``code`` is the wire's."""

    def __init__(self, message: str, code: SourceFault) -> None:
        super().__init__(message)
        self.code: SourceFault = code


@dataclass(frozen=True, slots=True)
class Source:
    """``text``: a path, ``hub:org/name`` or an https URL of a tar archive, whose hash ``sha256`` then is."""

    text: str
    sha256: str | None = None
    revision: str | None = None

    @property
    def kind(self) -> Literal["path", "hub", "https"]:
        """Which of the three."""
        if self.text.startswith("hub:"):
            return "hub"
        return "https" if "://" in self.text else "path"


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """What is allowed. ``roots`` are directories; ``timeout`` is seconds, ``max_bytes`` of one adapter's weights.

    ``endpoint``: another hub than the public one.
    """

    roots: Sequence[Path] = ()
    allow_hub: bool = False
    allowed_hosts: Sequence[str] = ()
    timeout: float = 300.0
    max_bytes: int = 1024**3
    endpoint: str | None = None


class Sources:
    """``transport`` stands in for the network in tests."""

    def __init__(self, policy: SourcePolicy, work: Path, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._policy = policy
        self._work = work
        self._transport = transport

    def check(self, source: Source, *, trusted: bool = False) -> None:
        """Raises :class:`SourceRefused` if the policy alone says no: touches no network and follows no path.

        ``trusted``: the operator's own words, which need no other permission.
        """
        match source.kind:
            case "hub":
                if not (trusted or self._policy.allow_hub):
                    raise SourceRefused("The hub is not allowed (adapters.allow_hub).", "source_not_allowed")
                if not _REPOSITORY.fullmatch(source.text.removeprefix("hub:")):
                    raise SourceRefused("Expected hub:organisation/name.", "source_not_allowed")
            case "https":
                url = _https_url(source.text)
                if not trusted:
                    self._check_host(url)
                if source.sha256 is None:
                    raise SourceRefused("An archive behind a URL needs its sha256.", "sha256_required")
            case "path":
                if not trusted and ("\x00" in source.text or ".." in Path(source.text).parts):
                    raise SourceRefused("The path must not lead upwards.", "path_not_allowed")

    @asynccontextmanager
    async def opened(self, source: Source, *, trusted: bool = False) -> AsyncIterator[Path]:
        """A directory with the adapter in it, for the length of the block. Raises :class:`SourceRefused`.

        ``trusted``: as in :meth:`check`; where a URL redirects to is not the operator's word.
        """
        self.check(source, trusted=trusted)
        if source.kind == "path":
            yield await asyncio.to_thread(_expanded if trusted else self._inside_roots, source.text)
            return
        self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=".fetch-", dir=self._work))
        try:
            async with asyncio.timeout(self._policy.timeout):
                await (self._from_hub if source.kind == "hub" else self._from_url)(source, directory)
            yield directory
        except TimeoutError:
            raise SourceRefused("The source did not deliver in time.", "source_unavailable") from None
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    # -- directories --------------------------------------------------------------------------------------------

    def _inside_roots(self, text: str) -> Path:
        """The real path, if it is below a root: links lead where they lead."""
        try:
            real = Path(text).expanduser().resolve()
        except (OSError, RuntimeError):  # links in a circle, or somebody's home who is nobody
            raise SourceRefused("The path leads nowhere.", "path_not_allowed") from None
        for root in self._policy.roots:
            inside = root.expanduser().resolve()
            if real != inside and real.is_relative_to(inside):
                return real
        raise SourceRefused("The path is not inside an allowed directory (adapters.roots).", "path_not_allowed")

    # -- the hub ------------------------------------------------------------------------------------------------

    async def _from_hub(self, source: Source, directory: Path) -> None:
        await asyncio.to_thread(self._download, source, directory)

    def _download(self, source: Source, directory: Path) -> None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        repository = source.text.removeprefix("hub:")
        try:
            for name in (CONFIG, WEIGHTS):
                hf_hub_download(
                    repository, name, revision=source.revision, local_dir=directory, endpoint=self._policy.endpoint
                )
        except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
            raise SourceRefused(
                f"The hub did not deliver {repository}: {type(error).__name__}.", "source_unavailable"
            ) from error

    # -- archives -----------------------------------------------------------------------------------------------

    def _check_host(self, url: httpx.URL) -> None:
        if url.host not in self._policy.allowed_hosts:
            raise SourceRefused("That host is not an allowed one (adapters.allowed_hosts).", "source_not_allowed")

    async def _from_url(self, source: Source, directory: Path) -> None:
        archive = directory / ".archive"
        digest = hashlib.sha256()
        try:
            async with httpx.AsyncClient(transport=self._transport, timeout=self._policy.timeout) as client:
                with archive.open("xb") as file:
                    await self._stream(client, _https_url(source.text), file, digest.update)
        except httpx.HTTPError as error:
            raise SourceRefused(f"The source did not deliver: {type(error).__name__}.", "source_unavailable") from error
        if digest.hexdigest() != source.sha256:
            raise SourceRefused("What was fetched does not have that sha256.", "invalid_adapter")
        await asyncio.to_thread(_unpack, archive, directory, self._policy.max_bytes)

    async def _stream(
        self, client: httpx.AsyncClient, url: httpx.URL, file: IO[bytes], update: Callable[[bytes], None]
    ) -> None:
        asked = url.host
        for _ in range(MAX_REDIRECTS + 1):
            async with client.stream("GET", url) as response:
                if response.next_request is not None:
                    url = _https_url(str(response.next_request.url))
                    if url.host != asked:
                        self._check_host(url)
                    continue
                if response.status_code != 200:
                    raise SourceRefused(f"The source answered {response.status_code}.", "source_unavailable")
                await self._save(response, file, update)
                return
        raise SourceRefused("The source redirects too often.", "source_unavailable")

    async def _save(self, response: httpx.Response, file: IO[bytes], update: Callable[[bytes], None]) -> None:
        left = self._policy.max_bytes + _MAX_CONFIG_BYTES
        async for chunk in response.aiter_bytes(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise SourceRefused(f"The archive is larger than {self._policy.max_bytes} bytes.", "invalid_adapter")
            update(chunk)
            await asyncio.to_thread(file.write, chunk)


def _https_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise SourceRefused("The URL is malformed.", "source_not_allowed") from None
    if url.scheme == "s3":
        raise SourceRefused("For S3 give a presigned https URL.", "source_not_allowed")
    if url.scheme != "https" or url.userinfo:
        raise SourceRefused("Expected an https URL without credentials in it.", "source_not_allowed")
    return url


def _expanded(text: str) -> Path:
    return Path(text).expanduser()


def _unpack(archive: Path, directory: Path, max_bytes: int) -> None:
    """The two files, from the top of the archive or from its one directory; everything else is left where it is."""
    limits = {CONFIG: _MAX_CONFIG_BYTES, WEIGHTS: max_bytes}
    try:
        with tarfile.open(archive) as tar:
            for number, member in enumerate(tar):
                name = Path(member.name).name
                if number >= _MAX_MEMBERS:
                    raise SourceRefused("The archive holds too many files.", "invalid_adapter")
                if name not in limits or not member.isfile() or len(Path(member.name).parts) > 2:
                    continue
                if member.size > limits[name]:
                    raise SourceRefused(f"{name} is larger than {limits[name]} bytes.", "invalid_adapter")
                content = tar.extractfile(member)
                if content is not None:
                    with (directory / name).open("xb") as file:
                        shutil.copyfileobj(content, file, _CHUNK)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise SourceRefused("The source is not a tar archive of one adapter.", "invalid_adapter") from error
    finally:
        archive.unlink(missing_ok=True)
