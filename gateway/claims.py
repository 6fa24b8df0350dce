"""Names that are being given at this moment: an adapter and a public name must not both get the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import conflict


class Claims:
    """Both kinds look whether a name is free, and write it down later. Used on one event loop; other replicas are not
    known here.
    """

    def __init__(self) -> None:
        self._claims: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def claimed(self, name: str, kind: str) -> Iterator[None]:
        """For the length of a block nothing of another kind can get ``name``. Raises :class:`ApiError` 409."""
        if any(other == name and of != kind for other, of in self._claims):
            raise conflict("The name is being given to something else.", code="already_exists", param="name")
        self._claims[name, kind] += 1
        try:
            yield
        finally:
            self._claims[name, kind] -= 1
            if not self._claims[name, kind]:
                del self._claims[name, kind]
