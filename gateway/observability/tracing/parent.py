"""``traceparent``: the span of somebody else's trace that a request belongs to (W3C Trace Context, level 1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

HEADER: Final = b"traceparent"
_FORM: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.DOTALL)
_VERSION: Final = b"00"
_INVALID_VERSION: Final = b"ff"
_SAMPLED: Final = 1


class Parent(NamedTuple):
    """Ids are never 0. ``sampled``: whether whoever began the trace keeps it."""

    trace_id: int
    span_id: int
    sampled: bool


def parent_of(headers: Iterable[tuple[bytes, bytes]]) -> Parent | None:
    """The parent that ``headers`` name; None without one, with several, or with one that is not valid."""
    values = [value for name, value in headers if name == HEADER]
    return parse(values[0]) if len(values) == 1 else None


def header_of(exemplar: Mapping[str, str] | None) -> str | None:
    """What to send with a request that belongs to the span of ``exemplar``; None for one that is not recorded."""
    return None if exemplar is None else f"00-{exemplar['trace_id']}-{exemplar['span_id']}-01"


def parse(value: bytes) -> Parent | None:
    """The parent in a header's ``value``, None if it is not valid. Later versions may carry more behind the flags."""
    match = _FORM.match(value)
    if match is None:
        return None
    version, trace, span, flags, rest = match.groups()
    if version == _INVALID_VERSION or (version == _VERSION and rest is not None):
        return None
    parent = Parent(int(trace, 16), int(span, 16), bool(int(flags, 16) & _SAMPLED))
    return parent if parent.trace_id and parent.span_id else None
