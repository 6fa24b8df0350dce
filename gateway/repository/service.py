"""The repository as the gateway sees it: off the event loop, bounded in memory, every act written down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from engine.artifacts.names import format_of
from engine.artifacts.refusal import ArtifactRefused
from gateway.access.administration import Caller
from gateway.access.principal import Principal, Scope
from gateway.errors import ApiError, conflict, shutting_down
from gateway.exchange import Exchange
from gateway.protocol.repository import ModelAnnounced, PartOf
from gateway.repository.faults import (
    RETRY_SECONDS,
    file_not_announced,
    on_disk,
    stored_model_not_found,
    upload_not_found,
)
from gateway.repository.part import CHUNK, Part
from gateway.repository.shelves import Announced, Shelves, StoredFile, StoredModel
from gateway.repository.uploads import Uploads
from gateway.settings.repository import RepositorySettings
from gateway.store.audit import AuditEntry

log = logging.getLogger("sluice.repository")

T = TypeVar("T")

#: Seconds between two looks for uploads that have expired, at most.
SWEEP_SECONDS: Final = 60.0


class Repository:
    """``configured``: names that the configuration serves. Also a :class:`~gateway.lifecycle.Service`.

    Methods raise :class:`~gateway.errors.ApiError`: 400 and 422 for what is sent, 404, 409, 413, 503, 507.
    """

    def __init__(
        self,
        settings: RepositorySettings,
        directory: Path,
        configured: Collection[str],
        record: Callable[[AuditEntry], None],
    ) -> None:
        self._settings = settings
        self._configured = frozenset(configured)
        self._record = record
        self._ending = threading.Event()
        self._shelves = Shelves(directory)
        self._uploads = Uploads(self._shelves, settings, self._going_on)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="sluice-repository")
        self._sweeper: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        self._sweeper = asyncio.create_task(self._sweep(), name="repository-sweeper")

    async def stop(self) -> None:
        """See :class:`~gateway.lifecycle.Service`. Uploads stay: who sends one goes on with the next process."""
        self._ending.set()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        self._threads.shutdown(wait=False, cancel_futures=True)

    def degraded(self) -> Sequence[str]:
        """See :class:`~gateway.lifecycle.Service`."""
        return ()

    async def _sweep(self) -> None:
        while True:
            try:
                await self._off_loop(self._uploads.sweep)
            except OSError as error:
                log.error("the repository cannot be swept: %s", error)
            await asyncio.sleep(min(SWEEP_SECONDS, self._settings.upload_ttl / 2))

    def _going_on(self) -> None:
        if self._ending.is_set():
            raise shutting_down(RETRY_SECONDS)

    async def _off_loop(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, action)

    # -- uploads ------------------------------------------------------------------------------------------------

    async def announce(self, caller: Caller, wanted: ModelAnnounced) -> dict[str, Any]:
        """Begin an upload."""
        files = tuple(StoredFile(file.path, file.size, file.sha256) for file in wanted.files)
        with self._told(caller, "repository.upload", wanted.name):
            self._check_sizes(files)
            format_of([file.path for file in files])
            principal = caller.principal
            upload = await self._off_loop(
                lambda: self._uploads.announce(wanted.name, files, principal.tenant, principal.id)
            )
        self._note(caller, "repository.upload", wanted.name, {"upload": upload.id, "size": upload.size})
        return await self._off_loop(lambda: self._upload_object(upload))

    async def upload(self, principal: Principal, upload_id: str) -> dict[str, Any]:
        """How far an upload is."""
        upload = await self._own_upload(principal, upload_id)
        return await self._off_loop(lambda: self._upload_object(upload))

    async def receive(self, principal: Principal, upload_id: str, part: PartOf, exchange: Exchange) -> dict[str, Any]:
        """Take a part as it comes. What has come when it breaks off stays, and the next part goes on there."""
        upload = await self._own_upload(principal, upload_id)
        file = upload.file(part.file)
        if file is None:
            raise file_not_announced()
        opened = await self._off_loop(lambda: self._uploads.open_part(upload, file, part.offset))
        try:
            await self._take(opened, exchange, file.size - part.offset)
        finally:
            # A write may still be under way: closing waits for it, and nobody waits for that.
            closing = asyncio.ensure_future(self._off_loop(opened.close))
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(closing)
        return await self._off_loop(lambda: self._upload_object(upload))

    async def _take(self, part: Part, exchange: Exchange, limit: int) -> None:
        held: list[bytes] = []
        async for piece in exchange.body(limit, patient=True):
            held.append(piece)
            if sum(map(len, held)) >= CHUNK:
                data, held = b"".join(held), []
                await self._write(part, data)
        if held:
            await self._write(part, b"".join(held))

    async def _write(self, part: Part, data: bytes) -> None:
        await self._off_loop(lambda: part.write(data))

    async def publish(self, caller: Caller, upload_id: str) -> dict[str, Any]:
        """Check an upload and put its model in place. Goes on if the caller leaves."""
        upload = await self._own_upload(caller.principal, upload_id)
        with self._told(caller, "repository.publish", upload.name):
            model = await self._off_loop(lambda: self._uploads.publish(upload))
        detail = {"format": model.format, "architecture": model.architecture, "size": model.size}
        self._note(caller, "repository.publish", model.name, detail)
        return self._model_object(model)

    async def give_up(self, caller: Caller, upload_id: str) -> dict[str, Any]:
        """Throw an upload away."""
        upload = await self._own_upload(caller.principal, upload_id)
        if not await self._off_loop(lambda: self._uploads.give_up(upload)):
            raise upload_not_found()
        self._note(caller, "repository.give_up", upload.name, {"upload": upload.id})
        return {"id": upload.id, "object": "repository.upload", "deleted": True}

    async def _own_upload(self, principal: Principal, upload_id: str) -> Announced:
        with on_disk():
            upload = await self._off_loop(lambda: self._shelves.announced(upload_id))
        if upload is None or not _owns(principal, upload.tenant):
            raise upload_not_found()
        return upload

    def _check_sizes(self, files: Sequence[StoredFile]) -> None:
        bound = self._settings.max_file_bytes
        for number, file in enumerate(files):
            if file.size > bound:
                raise _too_large(f"A file may have {bound} bytes.", f"files[{number}].size")
        if sum(file.size for file in files) > self._settings.max_model_bytes:
            raise _too_large(f"A model may have {self._settings.max_model_bytes} bytes.", "files")

    # -- models -------------------------------------------------------------------------------------------------

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        """Those that ``principal`` may know of."""
        with on_disk():
            models = await self._off_loop(self._shelves.all_models)
        return [self._model_object(model) for model in models if _owns(principal, model.tenant)]

    async def model(self, principal: Principal, name: str) -> dict[str, Any]:
        """One of them."""
        return self._model_object(await self._own_model(principal, name))

    async def delete(self, caller: Caller, name: str) -> dict[str, Any]:
        """Delete a model that nothing serves."""
        model = await self._own_model(caller.principal, name)
        if model.name in self._configured:
            raise conflict("The configuration of this server names the model.", code="in_use", param="name")
        with on_disk():
            if not await self._off_loop(lambda: self._shelves.discard(self._shelves.models / model.name)):
                raise stored_model_not_found()
        self._note(caller, "repository.delete", name, {"size": model.size})
        return {"id": name, "object": "repository.model", "deleted": True}

    async def _own_model(self, principal: Principal, name: str) -> StoredModel:
        with on_disk():
            model = None if "/" in name else await self._off_loop(lambda: self._shelves.model(name))
        if model is None or not _owns(principal, model.tenant):
            raise stored_model_not_found()
        return model

    # -- what is told -------------------------------------------------------------------------------------------

    def _upload_object(self, upload: Announced) -> dict[str, Any]:
        received = self._uploads.received(upload)
        return {
            "id": upload.id,
            "object": "repository.upload",
            "name": upload.name,
            "files": [{**_file(file), "received": received[file.path]} for file in upload.files],
            "created_at": int(upload.created),
            "expires_at": int(self._uploads.expires(upload)),
        }

    def _model_object(self, model: StoredModel) -> dict[str, Any]:
        return {
            "name": model.name,
            "object": "repository.model",
            "format": model.format,
            "architecture": model.architecture,
            "size": model.size,
            "files": [_file(file) for file in model.files],
            "derived": [_file(file) for file in model.derived],
            "unservable": model.unservable,
            "configured": model.name in self._configured,
            "tenant": model.tenant,
            "created_at": int(model.created),
            "created_by": model.created_by,
        }

    @contextmanager
    def _told(self, caller: Caller, act: str, name: str) -> Iterator[None]:
        """Refusals as answers; files that may be an attack are written down."""
        try:
            yield
        except ArtifactRefused as refused:
            where = f"{refused.file}: " if refused.file else ""
            if refused.code == "unsafe_artifact":
                self._note(caller, act, name, {"code": refused.code, "file": refused.file}, allowed=False)
            status = 400 if refused.code == "unsafe_artifact" else 422
            raise ApiError(status, f"{where}{refused}", code=refused.code, param="files") from None

    def _note(self, caller: Caller, act: str, name: str, detail: dict[str, Any], *, allowed: bool = True) -> None:
        self._record(caller.entry(time.time(), act, name, detail, allowed=allowed))


def _owns(principal: Principal, tenant: str) -> bool:
    return principal.tenant == tenant or principal.may(Scope.ADMIN)


def _file(file: StoredFile) -> dict[str, Any]:
    return {"path": file.path, "size": file.size, "sha256": file.sha256}


def _too_large(message: str, param: str) -> ApiError:
    return ApiError(413, message, code="model_too_large", param=param)
