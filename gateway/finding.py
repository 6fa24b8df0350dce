"""One line of ``sluice doctor``'s report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy`` says what to do if ``ok`` is False."""

    ok: bool
    what: str
    remedy: str = ""
