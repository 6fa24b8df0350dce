"""Uploads and decoded sounds in anonymous memory files: they have no name, and go with whoever held them."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from gateway.errors import SERVER, ApiError


class SpoolBudget:
    """Bounds the bytes of all spools together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Count ``size`` bytes more. Raises :class:`ApiError` 503 where they do not fit."""
        if self.used + size > self._limit:
            raise ApiError(
                503,
                "Too many sounds are being transcribed. Try again later.",
                code="engine_overloaded",
                type=SERVER,
                retry_after=5.0,
                close=True,
            )
        self.used += size

    def give(self, size: int) -> None:
        """``size`` bytes are free again."""
        self.used -= size


class Spool:
    """A file in memory for the length of a block; ``fd`` is its descriptor."""

    def __init__(self, budget: SpoolBudget, name: str) -> None:
        self._budget = budget
        self._taken = 0
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises :class:`ApiError` 503 beyond the budget."""
        self.reserve(len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def reserve(self, size: int) -> None:
        """Count ``size`` bytes that somebody else will write. Raises :class:`ApiError` 503 beyond the budget."""
        self._budget.take(size)
        self._taken += size

    def settle(self) -> int:
        """Its size in bytes now; what was reserved beyond that is free again."""
        size = os.fstat(self.fd).st_size
        self._budget.give(self._taken - size)
        self._taken = size
        return size

    def close(self) -> None:
        """Forget the content. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._budget.give(self._taken)
            self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()
