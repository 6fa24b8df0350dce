"""From one document of a name to the next."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from gateway.registry import acts
from gateway.registry.acts import Refused
from gateway.registry.names import MAX_VERSIONS, Name, Rules, Shadow, Split, Version, Weighted, split_id


def name_of(count: int, *, active: int | None = None) -> Name:
    name = Name("chat", "00" * 32)
    for _ in range(count):
        name, _version = acts.added(name, Version(0, "m"))
    return name if active is None else acts.activated(name, active)


def stages(name: Name) -> list[str]:
    return [version.stage for version in name.versions]


def test_one_version_is_active_at_a_time() -> None:
    name = name_of(3, active=1)
    assert (stages(name), name.active) == (["active", "draft", "draft"], 1)
    name = acts.activated(name, 3)
    assert (stages(name), name.active, name.history) == (["retired", "draft", "active"], 3, (1,))
    assert acts.activated(name, 3) == name


def test_rolling_back_goes_back_step_by_step() -> None:
    name = acts.activated(acts.activated(name_of(3, active=1), 2), 3)
    name = acts.rolled_back(name)
    assert (name.active, name.history, stages(name)) == (2, (1,), ["retired", "active", "retired"])
    name = acts.rolled_back(name)
    assert (name.active, name.history) == (1, ())
    with pytest.raises(Refused, match="before"):
        acts.rolled_back(name)


def test_rolling_back_passes_over_what_has_failed() -> None:
    name = acts.staged(acts.activated(acts.activated(name_of(3, active=1), 2), 3), 2, "failed", "slow")
    assert acts.rolled_back(name).active == 1


def test_what_has_failed_gets_no_traffic_until_it_is_reset() -> None:
    name = acts.staged(name_of(2, active=1), 2, "failed", "slow")
    with pytest.raises(Refused, match="slow") as refused:
        acts.activated(name, 2)
    assert refused.value.code == "version_failed"
    name = acts.reset(name, 2)
    assert acts.activated(name, 2).active == 2
    with pytest.raises(Refused, match="not failed"):
        acts.reset(name, 2)


def test_what_answers_is_not_removed_and_numbers_are_not_given_twice() -> None:
    name = acts.activated(name_of(2, active=1), 2)
    with pytest.raises(Refused, match="in use"):
        acts.without(name, 2)
    name = acts.without(name, 1)
    assert name.history == ()
    name, third = acts.added(name, Version(0, "m"))
    assert third.number == 3
    with pytest.raises(Refused) as refused:
        acts.activated(name, 1)
    assert refused.value.missing


def test_versions_are_bounded() -> None:
    name = name_of(MAX_VERSIONS)
    with pytest.raises(Refused, match="at most"):
        acts.added(name, Version(0, "m"))


def test_how_arms_are_called() -> None:
    assert split_id("chat@12") == ("chat", 12)
    for text in ("chat", "chat@", "chat@x", "chat@1@2", "chat@" + "9" * 12):
        assert split_id(text) == (text, None)
    assert name_of(1) == replace(name_of(1))


RULES = Rules((10.0, 50.0), min_requests=5, min_seconds=0, min_success_rate=0.9)


def canary_of(name: Name, number: int = 2) -> Name:
    return acts.canary_begun(name, number, RULES, "user", now=100.0)


def shares(name: Name) -> dict[int, float]:
    return {version.number: weight for version, weight in name.shares()}


def refusal(act: Callable[[], Name]) -> str:
    with pytest.raises(Refused) as refused:
        act()
    return refused.value.code


def test_traffic_is_divided_until_that_ends_or_one_version_is_activated() -> None:
    name = name_of(3, active=1)
    split = acts.divided(name, Split((Weighted(1, 3.0), Weighted(3, 1.0)), "key"))
    assert (shares(split), split.stick_to, split.active) == ({1: 3.0, 3: 1.0}, "key", 1)
    assert shares(acts.undivided(split)) == {1: 1.0}
    assert shares(acts.activated(split, 1)) == {1: 1.0}
    assert shares(acts.activated(split, 3)) == {3: 1.0}
    assert refusal(lambda: acts.without(split, 3)) == "in_use"
    assert refusal(lambda: canary_of(split)) == "split_running"
    assert refusal(lambda: acts.undivided(name)) == "no_split"
    assert refusal(lambda: acts.divided(name, Split((Weighted(9, 1.0),)))) == "version_not_found"
    failed = acts.staged(name, 2, "failed", "slow")
    assert refusal(lambda: acts.divided(failed, Split((Weighted(1, 1.0), Weighted(2, 1.0))))) == "version_failed"


def test_a_canary_goes_step_by_step_and_becomes_the_active_version() -> None:
    name = canary_of(name_of(2, active=1))
    assert shares(name) == {1: pytest.approx(0.9), 2: pytest.approx(0.1)}
    first = name.canary
    name = acts.canary_stepped(name, 200.0, 0.25)
    assert name.canary is not None
    assert first is not None
    assert (name.canary.step, name.canary.since, name.canary.champion_seconds) == (1, 200.0, 0.25)
    assert name.canary.epoch > first.epoch
    name = acts.canary_stepped(name, 300.0, None)
    assert (name.canary, name.active, name.history, shares(name)) == (None, 2, (1,), {2: 1.0})


def test_all_the_traffic_leaves_the_active_version_none() -> None:
    rules = Rules((100.0,), min_requests=1, min_seconds=0, min_success_rate=1)
    assert shares(acts.canary_begun(name_of(2, active=1), 2, rules, "key", 1.0)) == {2: 1.0}


def test_a_canary_that_failed_stays_failed() -> None:
    name = acts.canary_failed(canary_of(name_of(2, active=1)), "too slow")
    assert (shares(name), stages(name)) == ({1: 1.0}, ["active", "failed"])
    assert refusal(lambda: canary_of(name)) == "version_failed"
    again = canary_of(acts.reset(name, 2))
    assert again.canary is not None
    assert again.canary.epoch == name.epoch + 1


def test_an_operator_may_stop_a_canary_or_roll_it_back() -> None:
    running = canary_of(name_of(3, active=1))
    assert stages(acts.canary_stopped(running)) == ["active", "draft", "draft"]
    rolled = acts.rolled_back(running)
    assert (stages(rolled), rolled.active) == (["active", "failed", "draft"], 1)
    for act in (lambda: acts.activated(running, 3), lambda: canary_of(running, 3)):
        assert refusal(act) == "canary_running"
    assert refusal(lambda: acts.divided(running, Split((Weighted(1, 1.0),)))) == "canary_running"
    assert refusal(lambda: acts.without(running, 2)) == "in_use"
    assert refusal(lambda: acts.canary_stopped(name_of(1))) == "no_canary"
    for name in (name_of(2), name_of(2, active=2)):
        assert refusal(lambda name=name: canary_of(name)) == "no_champion"  # type: ignore[misc]


def test_a_shadow_gets_no_traffic_of_its_own_and_leaves_with_its_failure() -> None:
    name = acts.shadowed(name_of(2, active=1), Shadow(2, 10.0))
    assert shares(name) == {1: 1.0}
    assert refusal(lambda: acts.without(name, 2)) == "in_use"
    assert acts.unshadowed(name).shadow is None
    assert acts.canary_failed(canary_of(name), "slow").shadow is None
    assert refusal(lambda: acts.unshadowed(name_of(1))) == "no_shadow"
