"""Who is asked next: laws of the choice."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from engine.types import TransferFacts
from gateway.disaggregation.peers import Peer, Standing, least_loaded

FACTS = TransferFacts("KvFiles", "abc", "bfloat16/auto", 128)
OTHER = TransferFacts("KvFiles", "abc", "bfloat16/auto", 16)


def peer(standing: Standing, queued: int, asked: int, last: int, facts: TransferFacts | None) -> Peer:
    models = {} if facts is None else {"m": facts}
    return Peer("http://p:1", standing, queued, asked, last, models)


PEERS = st.lists(
    st.builds(
        peer,
        st.sampled_from(Standing),
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 100),
        st.sampled_from([FACTS, FACTS, OTHER, None]),
    ),
    max_size=8,
)


@given(PEERS, st.sets(st.integers(0, 7)))
def test_the_least_loaded_of_those_who_can(peers: Sequence[Peer], out: set[int]) -> None:
    excluded = [each for index, each in enumerate(peers) if index in out]
    able = [
        each
        for index, each in enumerate(peers)
        if each.standing is Standing.USABLE and each.models.get("m") == FACTS and index not in out
    ]
    chosen = least_loaded(peers, "m", FACTS, excluded)
    if chosen is None:
        assert not able
        return
    assert any(chosen is each for each in able)
    assert all(chosen.load <= each.load for each in able)
    assert all(chosen.last_asked <= each.last_asked for each in able if each.load == chosen.load)


@given(st.integers(1, 6), st.integers(1, 60))
def test_idle_peers_take_turns(count: int, prompts: int) -> None:
    peers = [peer(Standing.USABLE, 0, 0, 0, FACTS) for _ in range(count)]
    asked = dict.fromkeys(range(count), 0)
    for turn in range(prompts):
        chosen = least_loaded(peers, "m", FACTS)
        assert chosen is not None
        chosen.last_asked = turn + 1
        asked[next(index for index, each in enumerate(peers) if each is chosen)] += 1
    assert max(asked.values()) - min(asked.values()) <= 1


def test_the_name_is_the_address_without_its_scheme() -> None:
    assert Peer("https://prefill-0.prefill:8000").name == "prefill-0.prefill:8000"
