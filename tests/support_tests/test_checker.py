"""The checker finds nothing in a true world and every single lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store.tables import usage
from gateway.usage.records import Admitted, Entry, Settled
from tests.support.checker import EngineEvidence, Evidence, check, without_index
from tests.support.recorder import ClientEnding, Saw
from tests.support.stub_engine import Account

FATES = ("done", "body", "left", "left_late", "error_event", "error_response", "rejected")


@dataclass
class World:
    """What really happened, told by three parties that can be made to lie."""

    ledger: list[Entry]
    clients: list[Saw]
    accounts: dict[str, Account]
    finished: Counter[str]
    stored: list[dict[str, Any]]

    def evidence(self, **changes: Any) -> Evidence:
        tokens = sum(account.emitted for account in self.accounts.values())
        prompts = sum(account.prompt_tokens for account in self.accounts.values())
        cached = sum(account.cached for account in self.accounts.values())
        engine = EngineEvidence(self.accounts, self.finished, tokens, prompts, cached)
        whole = Evidence(
            self.ledger,
            self.clients,
            engine,
            {"in_flight": 0.0},
            without_index,
            echoes_canary=True,
            stored=self.stored,
        )
        return replace(whole, **changes)

    def rules(self, **changes: Any) -> set[str]:
        return {violation.rule for violation in check(self.evidence(**changes))}

    def live(self, number: int, fate: str, tokens: int) -> None:
        request_id, http_id, canary = f"cmpl-{number}", f"http-{number}", f"canary-{number:08d}"
        ending: ClientEnding = "error_response" if fate == "rejected" else fate.removesuffix("_late")  # type: ignore[assignment]
        succeeded = fate in ("done", "body")
        code = "engine_unavailable" if "error" in fate else "invalid_value" if fate == "rejected" else None
        seen = frozenset([canary]) if succeeded else frozenset[str]()
        told = tokens if succeeded else None
        prompt, cached = (7, 3) if succeeded else (None, None)
        self.clients.append(Saw(http_id, 200 if succeeded else None, ending, code, told, canary, seen, prompt, cached))
        if fate == "rejected":
            return
        completed = succeeded or fate == "left_late"
        outcome = "completed" if completed else "cancelled" if fate == "left" else "error"
        reasons = ("stop",) if completed else ()
        code = code if outcome == "error" else None
        self.ledger.append(Admitted(request_id, 1.0, "p", "/r", "m", 7, 100, 1, http_id))
        self.ledger.append(
            Settled(
                request_id,
                2.0,
                outcome,  # type: ignore[arg-type]
                code,
                7,
                tokens,
                1.0,
                0.1,
                0.2,
                0.3,
                0.4,
                reasons,
                principal="p",
                route="/r",
                model="m",
                http_request_id=http_id,
                cached_tokens=3,
                reasoning_tokens=1,
            )
        )
        self.stored.append(_stored(self.ledger[-1]))
        self.accounts[f"{request_id}-0"] = Account(7, tokens, tokens, cached=3)
        self.finished.update(reasons)

    def position(self, kind: type[Entry], outcome: str = "completed") -> int:
        """Of the first row of this kind (and, if settled, of this outcome) that used tokens."""
        return next(
            at
            for at, row in enumerate(self.ledger)
            if isinstance(row, kind) and (isinstance(row, Admitted) or row.outcome == outcome)
        )

    def change(self, kind: type[Entry], which: str, /, **values: Any) -> None:
        at = self.position(kind, which)
        self.ledger[at] = msgspec.structs.replace(self.ledger[at], **values)

    def client(self, ending: str) -> int:
        return next(at for at, saw in enumerate(self.clients) if saw.ending == ending)

    def change_client(self, which: str, /, **values: Any) -> None:
        at = self.client(which)
        self.clients[at] = replace(self.clients[at], **values)


def _stored(row: Entry) -> dict[str, Any]:
    """As the database has it."""
    assert isinstance(row, Settled)
    names = (column.name for column in usage.columns if column.name not in ("day", "ttft", "duration", "cost_nanos"))
    return {name: getattr(row, name) for name in names} | {"day": "1970-01-01", "ttft": 0.3, "duration": 0.4}


def world_of(fates: list[tuple[str, int]]) -> World:
    world = World([], [], {}, Counter(), [])
    for number, (fate, tokens) in enumerate(fates):
        world.live(number, fate, tokens)
    return world


# One of each at least, so that every lie finds somebody to tell it about.
WORLDS = st.lists(st.tuples(st.sampled_from(FATES), st.integers(1, 90)), max_size=12).map(
    lambda more: world_of([(fate, 5 + number) for number, fate in enumerate(FATES)] + more)
)


@settings(deadline=None)
@given(world=WORLDS)
def test_a_true_world_has_no_violation(world: World) -> None:
    assert check(world.evidence()) == []


@settings(deadline=None)
@given(world=WORLDS)
def test_an_engine_that_only_counts_is_enough_for_a_true_world(world: World) -> None:
    tokens = sum(account.emitted for account in world.accounts.values())
    counters = EngineEvidence(None, world.finished, tokens + 3)
    assert check(world.evidence(engine=counters)) == []


def drop(kind: type[Entry]) -> Callable[[World], None]:
    return lambda world: world.ledger.__delitem__(world.position(kind))


def double(kind: type[Entry]) -> Callable[[World], None]:
    return lambda world: world.ledger.append(world.ledger[world.position(kind)])


def settled(which: str = "completed", /, **values: Any) -> Callable[[World], None]:
    return lambda world: world.change(Settled, which, **values)


def saw(which: str, /, **values: Any) -> Callable[[World], None]:
    return lambda world: world.change_client(which, **values)


def invent_success(world: World) -> None:
    at = FATES.index("rejected")
    world.clients[at] = replace(world.clients[at], ending="body")


def swap_canaries(world: World) -> None:
    one, two = world.client("done"), world.client("body")
    seen = [world.clients[at].canaries_seen for at in (one, two)]
    world.clients[one] = replace(world.clients[one], canaries_seen=seen[1])
    world.clients[two] = replace(world.clients[two], canaries_seen=seen[0])


def swap_rows(world: World) -> None:
    world.ledger[0], world.ledger[1] = world.ledger[1], world.ledger[0]


def drop_pair(world: World) -> None:
    del world.ledger[0:2]


def double_request_under_a_new_id(world: World) -> None:
    for row in world.ledger[0:2]:
        world.ledger.append(msgspec.structs.replace(row, request_id="cmpl-new"))


def drop_client(world: World) -> None:
    world.clients.pop(world.client("done"))


def double_client(world: World) -> None:
    world.clients.append(world.clients[world.client("body")])


def drop_account(world: World) -> None:
    world.accounts.pop("cmpl-0-0")


def stray_account(world: World) -> None:
    world.accounts["cmpl-x-0"] = Account(7, 1, 1)


def emit_more(world: World) -> None:
    world.accounts["cmpl-2-0"].emitted += 1


def take_other_prompt(world: World) -> None:
    world.accounts["cmpl-0-0"].prompt_tokens -= 1


def finish_fewer(world: World) -> None:
    world.finished["stop"] -= 1


def finish_many_more(world: World) -> None:
    world.finished["length"] += 1000


def lose_cache(world: World) -> None:
    world.accounts["cmpl-0-0"].cached = 0


def drop_stored(world: World) -> None:
    world.stored.pop()


def double_stored(world: World) -> None:
    world.stored.append(world.stored[0])


def stray_stored(world: World) -> None:
    world.stored.append({**world.stored[0], "request_id": "cmpl-stray"})


def stored(**values: Any) -> Callable[[World], None]:
    return lambda world: world.stored[0].update(values)


LIES: dict[str, tuple[str, Callable[[World], None]]] = {
    "drop an admitted row": ("one_ending", drop(Admitted)),
    "drop a settled row": ("one_ending", drop(Settled)),
    "drop a request": ("client", drop_pair),
    "double an admitted row": ("one_ending", double(Admitted)),
    "double a settled row": ("one_ending", double(Settled)),
    "charge a request twice under another id": ("one_ending", double_request_under_a_new_id),
    "settle before admitting": ("one_ending", swap_rows),
    "completed becomes cancelled": ("client", settled("completed", outcome="cancelled", finish_reasons=())),
    "completed becomes error": ("row", settled("completed", outcome="error")),
    "cancelled becomes completed": ("row", settled("cancelled", outcome="completed")),
    "error loses its code": ("row", settled("error", code=None)),
    "error gets another code": ("client", settled("error", code="internal_error")),
    "completed without finish reasons": ("row", settled(finish_reasons=())),
    "too many finish reasons": ("row", settled(finish_reasons=("stop", "stop"))),
    "another finish reason": ("engine", settled(finish_reasons=("length",))),
    "one token less": ("usage", settled("cancelled", completion_tokens=6)),
    "tokens of the completed": ("usage", settled("completed", completion_tokens=99)),
    "negative tokens": ("row", settled(completion_tokens=-1)),
    "more tokens than admitted": ("row", settled(completion_tokens=101)),
    "other prompt tokens": ("row", settled(prompt_tokens=8)),
    "phases out of order": ("row", settled(dispatched=0.35)),
    "ended before it began": ("row", settled(ended=0.0)),
    "first token without dispatch": ("row", settled(dispatched=None)),
    "tokens without first token": ("row", settled(first_token=None)),
    "the client saw a truncated answer": ("client", saw("done", ending="truncated")),
    "the client saw two endings": ("client", saw("done", ending="malformed")),
    "the client saw an error instead": ("client", saw("done", ending="error_event")),
    "the client saw success instead": ("client", saw("error_event", ending="done")),
    "the client saw another code": ("client", saw("error_response", code="other")),
    "the rejected client saw success": ("client", invent_success),
    "the client was told other tokens": ("usage", saw("body", completion_tokens=1)),
    "the client saw a stranger's canary": ("canary", saw("done", canaries_seen=frozenset(["canary-stranger"]))),
    "a client that left saw a stranger's canary": ("canary", saw("left", canaries_seen=frozenset(["canary-stranger"]))),
    "the client misses its canary": ("canary", saw("done", canaries_seen=frozenset())),
    "swap canaries": ("canary", swap_canaries),
    "drop a client": ("client", drop_client),
    "double a client": ("client", double_client),
    "the engine forgets a request": ("usage", drop_account),
    "the engine ran a stranger": ("engine", stray_account),
    "the engine emitted more": ("usage", emit_more),
    "the engine took another prompt": ("usage", take_other_prompt),
    "the engine finished fewer": ("engine", finish_fewer),
    "the engine finished many more": ("engine", finish_many_more),
    "another's tokens": ("row", settled(principal="q")),
    "another tenant's tokens": ("row", settled(tenant="other")),
    "another model's tokens": ("row", settled(model="n")),
    "another request's row": ("row", settled(http_request_id="http-other")),
    "other cached tokens": ("usage", settled(cached_tokens=4)),
    "other cached tokens of the cancelled": ("usage", settled("cancelled", cached_tokens=2)),
    "more cached than asked": ("row", settled(cached_tokens=8)),
    "more reasoning than said": ("row", settled(reasoning_tokens=99)),
    "the client was told other cached tokens": ("usage", saw("body", cached_tokens=0)),
    "the client was told another prompt": ("usage", saw("done", prompt_tokens=8)),
    "the engine found less in its cache": ("usage", lose_cache),
    "drop a row of the database": ("store", drop_stored),
    "double a row of the database": ("store", double_stored),
    "a stranger in the database": ("store", stray_stored),
    "other tokens in the database": ("store", stored(completion_tokens=4)),
    "other cached tokens in the database": ("store", stored(cached_tokens=0)),
    "another key in the database": ("store", stored(principal="q")),
    "another tenant in the database": ("store", stored(tenant="other")),
    "another adapter in the database": ("store", stored(adapter="a")),
    "another day in the database": ("store", stored(day="1970-01-02")),
    "another ending in the database": ("store", stored(outcome="error")),
}


@pytest.mark.parametrize("lie", LIES)
@settings(deadline=None)
@given(world=WORLDS)
def test_every_lie_is_found(lie: str, world: World) -> None:
    rule, tell = LIES[lie]
    tell(world)
    assert rule in world.rules()


@settings(deadline=None)
@given(world=WORLDS, excess=st.integers(1, 5))
def test_an_engine_that_only_counts_still_shows_overcharging(world: World, excess: int) -> None:
    tokens = sum(account.emitted for account in world.accounts.values())
    counters = EngineEvidence(None, world.finished, tokens - excess)
    assert "usage" in world.rules(engine=counters)


def test_an_engine_that_only_counts_shows_undercharging_where_nothing_was_cut_short() -> None:
    world = world_of([("done", 5), ("body", 6)])
    assert world.rules(engine=EngineEvidence(None, world.finished, 12)) == {"usage"}
    assert world.rules(engine=EngineEvidence(None, world.finished, 11)) == set()


@pytest.mark.parametrize("counter", ["prompt_tokens", "cached_tokens"])
def test_an_engine_that_only_counts_prompts(counter: str) -> None:
    def rules(world: World, count: int) -> set[str]:
        values: Any = {counter: count}
        return world.rules(engine=EngineEvidence(**values))

    true = {"prompt_tokens": 14, "cached_tokens": 6}[counter]
    world = world_of([("done", 5), ("body", 6)])
    assert [rules(world, true + more) for more in (-1, 0, 1)] == [{"usage"}, set(), {"usage"}]
    # What was cut short may have been counted or not, but not more than it asked for.
    world = world_of([("done", 5), ("left", 6)])
    least, most = {"prompt_tokens": (7, 14), "cached_tokens": (3, 10)}[counter]
    assert [rules(world, least - 1), rules(world, most + 1)] == [{"usage"}, {"usage"}]
    assert [rules(world, least), rules(world, most)] == [set(), set()]


def test_without_a_database_nothing_is_asked_of_it() -> None:
    assert world_of([("done", 5)]).rules(stored=None) == set()


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_gauges_and_leaks(value: float) -> None:
    world = world_of([("done", 5)])
    assert world.rules(gauges={"in_flight": value}) == {"gauge"}
    assert world.rules(engine=EngineEvidence(leaks=["request_states holds r"])) == {"leak"}


def test_a_client_without_an_id_explains_one_row_and_no_more() -> None:
    world = world_of([("left", 5), ("left", 6)])
    world.clients[0] = replace(world.clients[0], request_id=None)
    assert world.rules() == set()
    world.clients.pop(1)
    assert world.rules() == {"client"}
