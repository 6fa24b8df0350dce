"""The oldest versions of libraries that may serve: what is older has a published fault that a caller could use.

Locks install newer ones; this is for an image or an environment in which one was put back. SECURITY.md has the same
table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Final


@dataclass(frozen=True, slots=True)
class Floor:
    """``version`` and later are good; ``fault`` is what older ones have."""

    distribution: str
    version: str
    fault: str


FLOORS: Final = (
    Floor("h11", "0.16.0", "CVE-2025-43859"),
    Floor("jinja2", "3.1.6", "CVE-2025-27516"),
    Floor("pillow", "11.3.0", "CVE-2025-48379"),
    Floor("pyjwt", "2.14.0", "CVE-2026-102267"),
    Floor("python-multipart", "0.0.27", "CVE-2026-42561"),
    Floor("redis", "4.5.4", "CVE-2023-28859"),
    Floor("starlette", "1.3.0", "PYSEC-2026-248"),
    Floor("xgrammar", "0.1.32", "CVE-2026-25048"),
)


def too_old(installed: Callable[[str], str] = metadata.version) -> Iterator[str]:
    """A sentence for each library below its floor; one that is not installed is no fault of ours."""
    for floor in FLOORS:
        try:
            found = installed(floor.distribution)
        except metadata.PackageNotFoundError:
            continue
        if _numbers(found) < _numbers(floor.version):
            yield (
                f"{floor.distribution} {found} is installed, which has {floor.fault}: "
                f"install {floor.version} or later, as the locks in requirements/ do"
            )


def _numbers(version: str) -> tuple[int, ...]:
    """The release of ``version``: what stands before any letter. Trailing zeros mean nothing."""
    release = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
