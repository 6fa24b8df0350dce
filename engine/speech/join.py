"""Two windows that overlap heard some words twice: the seam where one ends and the other begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Final

from engine.types import Segment

#: Words on each side among which the seam is looked for: what is said in the overlap, and some.
_REACH: Final = 14
#: Words in a row that are too many to be alike by chance; one long one is enough.
_ALIKE: Final = 2
_LONG_WORD: Final = 5
_WORD: Final = re.compile(r"\s*\S+\s*?(?=\s|\Z)")


def joined(before: Sequence[Segment], after: Sequence[Segment], seam: float) -> tuple[list[Segment], list[Segment]]:
    """Both without what is in both. ``seam``: seconds at which the earlier window ended.

    The words around the longest run that both have are kept once: what the earlier window heard up to the end of the
    run, and what the later one heard after it. What follows the run in the earlier window was cut off in a word.
    """
    left = _words(before)[-_REACH:]
    right = _words(after)[:_REACH]
    match = SequenceMatcher(None, [_plain(w) for w in left], [_plain(w) for w in right], autojunk=False)
    run = match.find_longest_match()
    if run.size >= _ALIKE or (run.size == 1 and len(_plain(left[run.a])) >= _LONG_WORD):
        return _drop_last(before, len(left) - run.a - run.size), _drop_first(after, run.b + run.size)
    # Nothing is alike: the later window's segments that lie wholly in the overlap were heard better before.
    return list(before), [segment for segment in after if segment.end > seam]


def _words(segments: Sequence[Segment]) -> list[str]:
    return [word for segment in segments for word in _WORD.findall(segment.text)]


def _plain(word: str) -> str:
    return re.sub(r"[^\w]", "", word).casefold()


def _drop_last(segments: Sequence[Segment], count: int) -> list[Segment]:
    kept = list(segments)
    while count and kept:
        words = _WORD.findall(kept[-1].text)
        last = kept.pop()
        if len(words) > count:
            kept.append(replace(last, text="".join(words[:-count])))
            break
        count -= len(words)
    return kept


def _drop_first(segments: Sequence[Segment], count: int) -> list[Segment]:
    kept = list(segments)
    while count and kept:
        words = _WORD.findall(kept[0].text)
        first = kept.pop(0)
        if len(words) > count:
            kept.insert(0, replace(first, text="".join(words[count:])))
            break
        count -= len(words)
    return kept
