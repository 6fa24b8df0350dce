"""Windows, segments and seams, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.speech.heard import compression, segments_of, without_loop
from engine.speech.join import joined
from engine.speech.windows import LONGEST, OVERLAP, SHORTEST, Window, is_silent, windows_of
from engine.types import Segment

RATE = 1000


def speech(seconds: float, pauses: list[float]) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(max(1, int(seconds * RATE))) * 4000
    for at in pauses:
        noise[int((at - 0.3) * RATE) : int((at + 0.3) * RATE)] = 3
    return noise.astype(np.int16)


def test_a_short_sound_is_one_window() -> None:
    assert windows_of(speech(30.0, []), RATE) == [Window(0.0, 30.0)]
    assert windows_of(speech(0.001, []), RATE) == [Window(0.0, 0.001)]


def test_cuts_are_in_pauses() -> None:
    windows = windows_of(speech(70.0, [12.0, 22.0, 28.0, 45.0, 53.0]), RATE)
    assert [window.start for window in windows] == pytest.approx([0.0, 28.0, 53.0], abs=0.3)
    assert all(window.overlap == 0.0 for window in windows)


def test_without_a_pause_windows_overlap() -> None:
    windows = windows_of(speech(65.0, []), RATE)
    assert all(window.overlap == OVERLAP for window in windows[1:])
    for before, after in pairwise(windows):
        assert after.start == pytest.approx(before.end - OVERLAP)


@given(st.floats(0.01, 200), st.lists(st.floats(1, 199), max_size=8))
@settings(max_examples=30)
def test_windows_cover_everything(seconds: float, pauses: list[float]) -> None:
    samples = speech(seconds, [at for at in pauses if at < seconds - 1])
    windows = windows_of(samples, RATE)
    assert windows[0].start == 0.0
    assert windows[-1].end == len(samples) / RATE
    assert all(window.end - window.start <= LONGEST for window in windows)
    assert all(window.end - window.start >= SHORTEST - 0.1 for window in windows[:-1])
    for before, after in pairwise(windows):
        assert after.start + after.overlap == pytest.approx(before.end)


def test_silence() -> None:
    assert is_silent(np.zeros(100, np.int16))
    assert is_silent(np.array([3, -5], np.int16))
    assert not is_silent(np.array([0, -32768], np.int16))
    assert is_silent(np.array([], np.int16))


FIRST = 1000


def decode(tokens: Sequence[int]) -> str:
    return "".join(f" w{token}" for token in tokens)


def heard(tokens: list[int], length: float = 10.0) -> list[tuple[float, float, str]]:
    return [(each.start, each.end, each.text) for each in segments_of(tokens, FIRST, length, decode)]


def test_segments_lie_between_timestamps() -> None:
    assert heard([1, 2, FIRST + 100, FIRST + 150, 3, FIRST + 200]) == [(0.0, 2.0, " w1 w2"), (3.0, 4.0, " w3")]
    assert heard([1, FIRST + 50, 2]) == [(0.0, 1.0, " w1"), (1.0, 10.0, " w2")]
    assert heard([]) == heard([FIRST + 5]) == []


@given(st.lists(st.integers(0, 5) | st.integers(FIRST, FIRST + 1500), max_size=40), st.floats(0.1, 30))
def test_times_never_fall(tokens: list[int], length: float) -> None:
    times = [time for start, end, _ in heard(tokens, length) for time in (start, end)]
    assert times == sorted(times)
    assert all(0 <= time <= length for time in times)


def test_loops_go_round_once() -> None:
    assert without_loop([9, 8, *[1, 2, 3] * 6]) == [9, 8, 1, 2, 3]
    assert without_loop([9, *[5] * 30]) == [9, 5]
    assert without_loop([1, 2, 3, 1, 2, 3]) == [1, 2, 3, 1, 2, 3]
    assert without_loop([]) == []
    assert compression("ha " * 200) > 10
    assert compression("") == 0.0


def segment(start: float, end: float, text: str) -> Segment:
    return Segment(start, end, text, (), 0.0, -0.1, 1.0, 0.0, 0)


def seam(before: str, after: str) -> str:
    left, right = joined([segment(0, 29, before)], [segment(27, 40, after)], 29.0)
    return "".join(each.text for each in [*left, *right])


@pytest.mark.parametrize(
    ("before", "after", "whole"),
    [
        (" the quick brown fox jum", " brown fox jumps over", " the quick brown fox jumps over"),
        (" one two three", " Three, four", " one two three four"),
        (" said the old man", " old man, and he went", " said the old man and he went"),
        (" we met in Sept", " met in September last", " we met in September last"),
        (" nothing alike", " is here at all", " nothing alike is here at all"),
        (" all of it", "", " all of it"),
        ("", " all of it", " all of it"),
    ],
)
def test_the_seam(before: str, after: str, whole: str) -> None:
    assert seam(before, after) == whole


def test_what_lies_in_the_overlap_alone_goes() -> None:
    left, right = joined([segment(0, 29, " a b c d")], [segment(27, 28.5, " x y"), segment(28.5, 33, " z")], 29.0)
    assert [each.text for each in [*left, *right]] == [" a b c d", " z"]


def test_whole_segments_are_dropped() -> None:
    before = [segment(0, 20, " first part"), segment(20, 29, " then we went home")]
    after = [segment(27, 29, " we went"), segment(29, 35, " home by train")]
    left, right = joined(before, after, 29.0)
    assert [each.text for each in [*left, *right]] == [" first part", " then we went home", " by train"]
