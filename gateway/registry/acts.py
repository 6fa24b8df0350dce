"""What can be done to a name: from one document to the next. Nothing here reads a clock or a store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from gateway.registry.names import (
    MAX_HISTORY,
    MAX_VERSIONS,
    Canary,
    Name,
    Rules,
    Shadow,
    Split,
    Stage,
    StickTo,
    Version,
)

MANUAL: Final = "rolled back by an operator"


class Refused(Exception):
    """It stands against what there is. ``param`` is the wire field at fault; ``missing``: it names nothing."""

    def __init__(self, message: str, code: str, param: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.missing = missing


def found(name: Name, number: int, param: str = "version") -> Version:
    """The version of that number. Raises :class:`Refused`."""
    version = name.version(number)
    if version is None:
        raise Refused(f"{name.name} has no version {number}.", "version_not_found", param, missing=True)
    return version


def added(name: Name, version: Version) -> tuple[Name, Version]:
    """``name`` with one more version, which gets the next number. Raises :class:`Refused`."""
    if len(name.versions) >= MAX_VERSIONS:
        raise Refused(f"A name has at most {MAX_VERSIONS} versions. Remove some.", "too_many", "name")
    numbered = replace(version, number=name.last + 1)
    return replace(name, versions=(*name.versions, numbered), last=numbered.number), numbered


def activated(name: Name, number: int) -> Name:
    """All traffic goes to this version, and to no other. Raises :class:`Refused`."""
    fit(name, number)
    require_no_canary(name)
    name = replace(name, split=None)
    if name.active == number:
        return name
    before = name.active
    history = name.history if before is None else (*name.history, before)[-MAX_HISTORY:]
    name = name if before is None else staged(name, before, "retired")
    return replace(staged(name, number, "active"), active=number, history=history)


def rolled_back(name: Name) -> Name:
    """Back to what answered before: from a canary to the active version, else from that to the one before it.

    A canary that is ended so has failed. Raises :class:`Refused`.
    """
    if name.canary is not None:
        return canary_failed(name, MANUAL)
    name = replace(name, split=None)
    candidates = [number for number in name.history if _usable(name, number)]
    if name.active is None or not candidates:
        raise Refused("No version was active before.", "nothing_before", "name")
    before = candidates[-1]
    history = name.history[: len(name.history) - 1 - name.history[::-1].index(before)]
    name = staged(name, name.active, "retired")
    return replace(staged(name, before, "active"), active=before, history=history)


def reset(name: Name, number: int) -> Name:
    """A version that failed may be tried again. Raises :class:`Refused`."""
    version = found(name, number)
    if version.stage != "failed":
        raise Refused(f"Version {number} has not failed.", "not_failed", "version")
    return staged(name, number, "draft")


def without(name: Name, number: int) -> Name:
    """``name`` without a version that answers nobody. Raises :class:`Refused`."""
    found(name, number)
    if number in in_use(name):
        raise Refused(f"Version {number} is in use.", "in_use", "version")
    return replace(
        name,
        versions=tuple(each for each in name.versions if each.number != number),
        history=tuple(each for each in name.history if each != number),
    )


def in_use(name: Name) -> set[int]:
    """The versions that requests may reach."""
    divided = {arm.version for arm in name.split.arms} if name.split is not None else set()
    canary = {name.canary.version} if name.canary is not None else set()
    shadow = {name.shadow.version} if name.shadow is not None else set()
    return divided | canary | shadow | ({name.active} if name.active is not None else set())


def divided(name: Name, split: Split) -> Name:
    """``name`` with its traffic divided so; a split that runs is replaced. Raises :class:`Refused`."""
    require_no_canary(name)
    for index, arm in enumerate(split.arms):
        fit(name, arm.version, f"arms[{index}].version")
    return replace(name, split=split)


def undivided(name: Name) -> Name:
    """All traffic to the active version again. Raises :class:`Refused`."""
    if name.split is None:
        raise Refused("The name's traffic is not divided.", "no_split", "name")
    return replace(name, split=None)


def canary_begun(name: Name, number: int, rules: Rules, stick_to: StickTo, now: float) -> Name:
    """``number`` gets the first step's share of the traffic. Raises :class:`Refused`."""
    require_no_canary(name)
    fit(name, number)
    if name.split is not None:
        raise Refused("The name's traffic is divided. End that first.", "split_running", "name")
    if name.active is None or name.active == number:
        what = "No version is active" if name.active is None else "The version is active already"
        raise Refused(f"{what}: there is nothing to compare with.", "no_champion", "version")
    epoch = name.epoch + 1
    return replace(name, epoch=epoch, canary=Canary(number, rules, epoch, now, stick_to=stick_to))


def canary_stopped(name: Name) -> Name:
    """All traffic to the active version again; nothing is said of the other. Raises :class:`Refused`."""
    _running(name)
    return replace(name, canary=None)


def canary_stepped(name: Name, now: float, champion_seconds: float | None) -> Name:
    """On to the next step; after the last one it is the active version. Raises :class:`Refused`."""
    canary = _running(name)
    if canary.step + 1 == len(canary.rules.steps):
        return activated(replace(name, canary=None), canary.version)
    epoch = name.epoch + 1
    after = replace(canary, step=canary.step + 1, epoch=epoch, since=now, champion_seconds=champion_seconds)
    return replace(name, epoch=epoch, canary=after)


def canary_failed(name: Name, reason: str) -> Name:
    """All traffic to the active version again, and none to the other until it is reset. Raises :class:`Refused`."""
    canary = _running(name)
    shadow = None if name.shadow is not None and name.shadow.version == canary.version else name.shadow
    return staged(replace(name, canary=None, shadow=shadow), canary.version, "failed", reason)


def shadowed(name: Name, shadow: Shadow) -> Name:
    """A version is asked what others are asked. Raises :class:`Refused`."""
    fit(name, shadow.version)
    return replace(name, shadow=shadow)


def unshadowed(name: Name) -> Name:
    """No version is. Raises :class:`Refused`."""
    if name.shadow is None:
        raise Refused("The name has no shadow.", "no_shadow", "name")
    return replace(name, shadow=None)


def require_no_canary(name: Name) -> None:
    """Raise :class:`Refused` while a canary runs: it decides what answers."""
    if name.canary is not None:
        raise Refused("A canary is running. Stop it or roll it back first.", "canary_running", "name")


def _running(name: Name) -> Canary:
    if name.canary is None:
        raise Refused("No canary is running.", "no_canary", "name")
    return name.canary


def fit(name: Name, number: int, param: str = "version") -> Version:
    """A version that may be given traffic. Raises :class:`Refused`."""
    version = found(name, number, param)
    if version.stage == "failed":
        why = f": {version.reason}" if version.reason else ""
        raise Refused(f"Version {number} has failed{why}. Reset it to try it again.", "version_failed", param)
    return version


def staged(name: Name, number: int, stage: Stage, reason: str | None = None) -> Name:
    """``name`` with one version at another stage."""
    return replace(name, versions=tuple(_at(name.versions, number, stage, reason)))


def _at(versions: Iterable[Version], number: int, stage: Stage, reason: str | None) -> Iterable[Version]:
    for each in versions:
        yield replace(each, stage=stage, reason=reason) if each.number == number else each


def _usable(name: Name, number: int) -> bool:
    version = name.version(number)
    return version is not None and version.stage != "failed"
