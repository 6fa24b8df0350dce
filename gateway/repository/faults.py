"""What goes wrong with uploads and with the disk they are on, as answers."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.errors import SERVER, ApiError, conflict

log = logging.getLogger("sluice.repository")

#: Seconds to wait before another try when the volume is away.
RETRY_SECONDS: Final = 5.0
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def not_enabled() -> ApiError:
    """No repository here: 501."""
    return ApiError(
        501,
        "This server takes no uploads of models. Its operator can allow it (repository.enabled).",
        code="not_implemented",
        type=SERVER,
    )


def upload_not_found() -> ApiError:
    """No such upload, another tenant's, or one that was given up: 404."""
    return ApiError(404, "No such upload. It may have been given up.", code="upload_not_found", param="upload")


def stored_model_not_found() -> ApiError:
    """No model of this name in the repository, or another tenant's: 404."""
    return ApiError(404, "The repository has no such model.", code="model_not_found", param="name")


def file_not_announced() -> ApiError:
    """A part of a file that the upload does not have: 404."""
    return ApiError(404, "The upload was announced without such a file.", code="file_not_found", param="file")


def name_taken() -> ApiError:
    """The repository has a model of this name, whoever's it is: 409."""
    return conflict("The repository has a model of this name.", code="already_exists", param="name")


def busy(what: str) -> ApiError:
    """Somebody else is at it: 409."""
    return conflict(f"{what} Ask again later.", code="in_use", param="upload")


def disk_full() -> ApiError:
    """No room: 507. What the part had brought is gone, so that others have room again."""
    return ApiError(
        507, "The disk of the repository is full. What this part brought was dropped.", code="disk_full", type=SERVER
    )


def no_room(code: str, message: str) -> ApiError:
    """What is announced does not fit: 507."""
    return ApiError(507, message, code=code, type=SERVER, param="files")


@contextmanager
def on_disk() -> Iterator[None]:
    """Faults of the disk as answers: a full one is 507, any other 503."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full() from None
        log.error("the repository's directory cannot be used: %s", error)
        raise ApiError(
            503,
            "The repository is not available right now. Try again later.",
            code="repository_unavailable",
            type=SERVER,
            retry_after=RETRY_SECONDS,
        ) from None
