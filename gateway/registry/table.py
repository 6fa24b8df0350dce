"""What requests are routed by: every name in memory, read on the event loop, replaced when the store changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.access.principal import Principal
from gateway.adapters.catalog import Adapter
from gateway.registry.names import Name, StickTo, Version, arm_id
from gateway.registry.pick import pick


@dataclass(frozen=True, slots=True)
class Arm:
    """A version that answers for a name. ``sha256``: of the adapter's content that is meant, if that is known."""

    id: str
    name: str
    number: int
    model: str
    adapter: str | None
    sha256: str | None

    def fits(self, adapter: Adapter | None) -> bool:
        """Whether ``adapter`` is what the version was made of: of that model, with that content, switched on."""
        if adapter is None:
            return self.adapter is None
        same = not adapter.ready or self.sha256 is None or adapter.sha256 == self.sha256
        return adapter.model == self.model and adapter.enabled and same


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks. ``user``: what the request says of its end user; ``request_id``: its own."""

    principal: Principal
    user: str | None
    request_id: str

    def person(self, stick_to: StickTo) -> str:
        """Who stays in an arm. Users of one tenant are not those of another."""
        if stick_to == "request":
            return f"request\0{self.request_id}"
        if stick_to == "user" and self.user is not None:
            return f"user\0{self.principal.tenant}\0{self.user}"
        return f"key\0{self.principal.id}"


@dataclass(frozen=True, slots=True)
class Shadowed:
    """The version that is asked ``percent`` of what others are asked too."""

    arm: Arm
    percent: float
    salt: bytes


class _Routed:
    """A name as requests need it."""

    def __init__(self, name: Name) -> None:
        self.entry = name
        shares = name.shares()
        self.arms = {version.number: arm_of(name, version) for version, _ in shares}
        self.only = next(iter(self.arms.values())) if len(self.arms) == 1 else None
        self.weights = [(version.number, weight) for version, weight in shares]
        self.salt = bytes.fromhex(name.salt)
        self.shadow = _shadow_of(name, self.salt)


class RoutingTable:
    """``loaded``: whether it was ever read; before that nobody can say that a name does not exist."""

    def __init__(self, *, loaded: bool = True) -> None:
        self.loaded = loaded
        self.revision: int | None = None
        self._names: dict[str, _Routed] = {}

    def all(self) -> list[Name]:
        """Every name."""
        return [self._names[name].entry for name in sorted(self._names)]

    def get(self, name: str) -> Name | None:
        """The name's document."""
        routed = self._names.get(name)
        return None if routed is None else routed.entry

    def arms(self, name: str) -> Sequence[Arm]:
        """Those that answer for ``name`` now."""
        routed = self._names.get(name)
        return [] if routed is None else list(routed.arms.values())

    def arm(self, name: str, asker: Asker) -> Arm | None:
        """The version that answers ``asker``; None for what is no name, or has no version that answers."""
        routed = self._names.get(name)
        if routed is None or not routed.arms:
            return None
        return routed.only or routed.arms[pick(routed.salt, asker.person(routed.entry.stick_to), routed.weights)]

    def shadow(self, name: str) -> Shadowed | None:
        """The version that is asked what ``name`` is asked, if there is one."""
        routed = self._names.get(name)
        return None if routed is None else routed.shadow

    def replace(self, names: Iterable[Name], revision: int) -> None:
        """From now on these are all."""
        kept = self._names
        self._names = {
            each.name: kept[each.name] if each.name in kept and kept[each.name].entry == each else _Routed(each)
            for each in names
        }
        self.revision = revision
        self.loaded = True


def _shadow_of(name: Name, salt: bytes) -> Shadowed | None:
    version = None if name.shadow is None else name.version(name.shadow.version)
    return (
        None if version is None or name.shadow is None else Shadowed(arm_of(name, version), name.shadow.percent, salt)
    )


def arm_of(name: Name, version: Version) -> Arm:
    """``version`` as requests meet it."""
    number = version.number
    return Arm(arm_id(name.name, number), name.name, number, version.model, version.adapter, version.sha256)
