from __future__ import annotations

from gateway.limits.journal import CHARGES_PER_BILL, Journal
from gateway.limits.outbox import Settlement
from gateway.limits.plan import Charge, Kind


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def charges(tokens: int = 50, subject: str = "s") -> tuple[Charge, ...]:
    return (
        Charge(f"r:{subject}", Kind.REQUESTS, 100, 1),
        Charge(f"t:{subject}", Kind.TOKENS, 1000, tokens),
        Charge(f"d:{subject}", Kind.DAY, 10_000, tokens),
        Charge(f"c:{subject}", Kind.CONCURRENT, 10, 1),
        Charge(f"b:{subject}", Kind.BUCKET, 10, 1, 1.0),
    )


def amounts(billed: tuple[Charge, ...]) -> dict[str, int]:
    return {each.key: each.amount for each in billed}


def test_what_ended_is_summed_up_and_billed_until_it_is_paid() -> None:
    journal = Journal(Clock())
    for name, tokens in (("a", 10), ("b", 20)):
        journal.admitted(name, charges())
        assert journal.ended(name, tokens) is None
    ((bill, billed),) = journal.bills()
    assert amounts(billed) == {"r:s": 2, "t:s": 30, "d:s": 30}
    assert journal.bills() == [(bill, billed)], "the same bill again, or it would be charged twice"
    journal.paid(bill)
    assert journal.bills() == []
    assert len(journal) == 0


def test_what_has_left_its_window_is_not_billed() -> None:
    clock = Clock()
    journal = Journal(clock)
    journal.admitted("a", charges())
    clock.now += 120
    journal.ended("a", 10)
    ((_, billed),) = journal.bills()
    assert amounts(billed) == {"d:s": 10}


def test_many_limits_are_several_bills() -> None:
    journal = Journal(Clock())
    for number in range(CHARGES_PER_BILL):
        journal.admitted(f"r{number}", charges(subject=str(number)))
        journal.ended(f"r{number}", 1)
    assert [len(billed) for _, billed in journal.bills()] == [CHARGES_PER_BILL] * 3


def test_what_runs_is_taken_over_and_settled_with_the_store() -> None:
    clock = Clock()
    journal = Journal(clock)
    journal.admitted("a", charges())
    clock.now += 120
    ((name, offered),) = journal.offers()
    # A minute is over, the day is not; the bucket has refilled; the lease is held.
    assert [each.amount for each in offered] == [0, 0, 50, 1, 0]
    assert journal.taken(name) == offered
    assert len(journal) == 0
    assert journal.offers() == []
    assert journal.ended("a", 30) == Settlement(name, offered, 30)
    assert journal.bills() == []


def test_an_offer_without_an_answer_is_withdrawn_when_the_request_ends() -> None:
    journal = Journal(Clock())
    journal.admitted("a", charges())
    ((name, offered),) = journal.offers()
    assert journal.ended("a", 30) == Settlement(name, offered, 0, unsure=True)
    assert journal.taken(name) is None
    ((_, billed),) = journal.bills()
    assert amounts(billed) == {"r:s": 1, "t:s": 30, "d:s": 30}
