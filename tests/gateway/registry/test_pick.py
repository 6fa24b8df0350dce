"""The laws of choosing an arm."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.registry.pick import pick

salts = st.binary(min_size=16, max_size=32)
people = st.text(max_size=40)
weights = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


def arms(weights: list[float]) -> list[tuple[int, float]]:
    return list(enumerate(weights, start=1))


@given(salts, people, weights)
def test_the_same_again_and_again_whatever_the_order(salt: bytes, person: str, given: list[float]) -> None:
    chosen = pick(salt, person, arms(given))
    assert chosen == pick(salt, person, arms(given)) == pick(salt, person, arms(given)[::-1])


@given(salts, st.lists(st.floats(0.5, 10), min_size=2, max_size=4))
def test_arms_get_their_share(salt: bytes, given: list[float]) -> None:
    people = 2000
    counts = Counter(pick(salt, f"user-{index}", arms(given)) for index in range(people))
    for number, weight in arms(given):
        share = weight / sum(given)
        # Six standard deviations: hypothesis looks for the worst of many salts.
        assert abs(counts[number] / people - share) <= 6 * (share * (1 - share) / people) ** 0.5


@given(salts, people, st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6))
def test_whoever_is_in_a_canary_stays_in_it_as_it_grows(salt: bytes, person: str, steps: list[float]) -> None:
    seen = [pick(salt, person, [(1, 1 - share), (2, share)]) for share in sorted(steps)]
    assert seen == sorted(seen)


@given(salts, people, weights, st.data())
def test_only_the_arm_whose_weight_changes_gains_or_loses_people(
    salt: bytes, person: str, given: list[float], data: st.DataObject
) -> None:
    before = pick(salt, person, arms(given))
    index = data.draw(st.integers(0, len(given) - 1))
    changed = [*given]
    changed[index] = data.draw(st.floats(0.01, 100))
    after = pick(salt, person, arms(changed))
    assert after == before or index + 1 in (before, after)


@given(people, weights)
def test_arms_of_no_weight_are_empty(person: str, given: list[float]) -> None:
    assert pick(b"salt", person, [(99, 0.0), *arms(given)]) != 99


def test_another_salt_is_another_choice() -> None:
    two = arms([1.0, 1.0])
    differ = sum(pick(b"a" * 32, str(index), two) != pick(b"b" * 32, str(index), two) for index in range(1000))
    assert 400 < differ < 600
