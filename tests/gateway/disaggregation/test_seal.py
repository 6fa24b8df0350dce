from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.disaggregation.seal import WINDOW_SECONDS, Seal

KEY = b"k" * 32


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_seal_is_of_one_request_and_its_body(body: bytes, other: bytes) -> None:
    seal = Seal(KEY, Clock())
    value = seal.of_request("POST", "/p", body)
    assert seal.is_of_request(value, "POST", "/p")
    assert seal.holds(value, body)
    assert seal.holds(value, other) is (body == other)
    assert not seal.is_of_request(value, "GET", "/p")
    assert not seal.is_of_request(value, "POST", "/q")
    assert not Seal(b"x" * 32, Clock()).is_of_request(value, "POST", "/p")


@given(st.text(max_size=160))
def test_what_is_no_seal(text: str) -> None:
    seal = Seal(KEY, Clock())
    assert not seal.is_of_request(text, "POST", "/p")
    assert not seal.holds(text, b"")
    assert not seal.is_of_answer(text, "v1", b"")


def test_no_character_of_it_can_be_another() -> None:
    seal = Seal(KEY, Clock())
    value = seal.of_request("POST", "/p", b"body")
    for index, character in enumerate(value):
        changed = value[:index] + ("0" if character != "0" else "1") + value[index + 1 :]
        assert not seal.is_of_request(changed, "POST", "/p"), changed


def test_an_old_one_is_worth_nothing() -> None:
    clock = Clock()
    seal = Seal(KEY, clock)
    value = seal.of_request("GET", "/s", b"")
    clock.now += WINDOW_SECONDS
    assert seal.is_of_request(value, "GET", "/s")
    clock.now += 1
    assert not seal.is_of_request(value, "GET", "/s")
    clock.now -= 2 * WINDOW_SECONDS + 2
    assert not seal.is_of_request(value, "GET", "/s"), "nor one from the future"


def test_an_answer_belongs_to_its_request() -> None:
    seal = Seal(KEY, Clock())
    value = seal.of_answer("of this request", b"answer")
    assert seal.is_of_answer(value, "of this request", b"answer")
    assert not seal.is_of_answer(value, "of another", b"answer")
    assert not seal.is_of_answer(value, "of this request", b"forged")
    assert not seal.is_of_answer(None, "of this request", b"answer")
