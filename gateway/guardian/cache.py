"""Findings by the hash of what was judged, so that a long conversation is not judged again at every turn."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from gateway.guardian.verdicts import Content, Finding

Key = tuple[str, str, bytes]


def digest(content: Content) -> bytes:
    """Sixteen bytes that stand for ``content``: no text is kept."""
    parts = (content.user, content.assistant, content.context, content.format, str(content.think))
    hashed = blake2b(digest_size=16)
    for part in parts:
        raw = b"" if part is None else part.encode("utf-8", "surrogatepass")
        hashed.update(b"%d:" % (-1 if part is None else len(raw)) + raw)
    return hashed.digest()


class FindingCache:
    """At most ``entries`` findings, the least recently used leave first. Failures are never kept."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._findings: OrderedDict[Key, Finding] = OrderedDict()

    def __len__(self) -> int:
        return len(self._findings)

    def get(self, key: Key) -> Finding | None:
        """The finding, if it is known."""
        finding = self._findings.get(key)
        if finding is not None:
            self._findings.move_to_end(key)
        return finding

    def put(self, key: Key, finding: Finding) -> None:
        """Keep a finding."""
        if not self._entries:
            return
        self._findings[key] = finding
        self._findings.move_to_end(key)
        if len(self._findings) > self._entries:
            self._findings.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._findings.clear()
