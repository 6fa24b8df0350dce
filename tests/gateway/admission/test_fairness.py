from __future__ import annotations

from gateway.admission.fairness import FairShares


def served(shares: FairShares[str], tenant: str, cost: int, *, expected: float = 10) -> float:
    start = shares.dispatch(tenant, 1.0, 1, expected)
    shares.finish(tenant, 1.0, 1, expected, cost)
    return start


def test_a_place_in_the_order_is_kept_until_its_turn() -> None:
    """The last waiting request of a tenant begins where it stood, not where those behind it stand."""
    shares: FairShares[str] = FairShares()
    shares.push("light", "l")
    shares.push("heavy", "h1")
    shares.push("heavy", "h2")
    heavy = shares.share("heavy")
    shares.pop(heavy)
    assert served(shares, "heavy", 1000) == 0
    due = shares.due()
    assert due.tenant == "light"
    assert shares.pop(due) == "l"
    assert served(shares, "light", 10) == 0
    assert shares.share("light").next_start == 10


def test_who_comes_back_is_charged_from_now_on() -> None:
    shares: FairShares[str] = FairShares()
    for _ in range(5):
        served(shares, "busy", 100)
    assert served(shares, "back", 10) == 400
    shares.push("busy", "b")
    assert shares.share("busy").next_start == 500


def test_what_a_tenant_owes_it_owes_until_the_others_have_caught_up() -> None:
    shares: FairShares[str] = FairShares()
    served(shares, "greedy", 5000)
    shares.push("modest", "m")
    shares.push("greedy", "g")
    assert shares.due().tenant == "modest"
    assert shares.share("greedy").next_start == 5000


def test_costs_are_expected_as_they_were_seen() -> None:
    shares: FairShares[str] = FairShares()
    assert shares.expect("new", 8000) == 8000
    for _ in range(50):
        served(shares, "known", 100)
    assert shares.expect("known", 8000) == 100
    assert shares.expect("known", 40) == 40, "never more than it can cost"
    assert shares.expect("new", 8000) == 100, "of somebody unknown: as of everybody"


def test_weights_divide_what_is_charged() -> None:
    shares: FairShares[str] = FairShares()
    shares.dispatch("heavy", 4.0, 1, 100)
    assert shares.share("heavy").next_start == 25
    shares.finish("heavy", 4.0, 1, 100, 60)
    assert shares.share("heavy").next_start == 15


def test_only_so_many_idle_tenants_are_remembered() -> None:
    shares: FairShares[str] = FairShares(max_idle=3)
    shares.push("waits", "w")
    shares.dispatch("runs", 1.0, 1, 10)
    for number in range(10):
        served(shares, f"t{number}", 100)
    assert shares.share("waits").waiting
    assert shares.share("runs").running == 1
    assert shares.share("t9").next_start > 0
    assert shares.share("t1").next_start == 0, "forgotten"
