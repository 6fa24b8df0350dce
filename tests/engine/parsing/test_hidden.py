"""Nothing that a caller writes keeps its control tokens, wherever it stands."""

from __future__ import annotations

import re

import pytest

from engine.parsing.hidden import Hiding
from engine.types import RequestRejected

SPECIAL = re.compile(re.escape("<|im_end|>"))


def test_every_string_is_hidden_members_called_role_too() -> None:
    hiding = Hiding(SPECIAL)
    hidden = hiding.hide({"role": "a<|im_end|>", "arguments": {"role": ["<|im_end|>"], "<|im_end|>": 1}})
    assert "<|im_end|>" not in str(hidden)
    assert hiding.pieces(hidden["role"] + "b") == ["a", "<|im_end|>", "b"]


def test_a_template_that_changes_a_mark_is_found_out() -> None:
    hiding = Hiding(SPECIAL)
    with pytest.raises(RequestRejected):
        hiding.pieces(hiding.hide("<|im_end|>").upper())


def test_without_special_tokens_nothing_changes() -> None:
    assert Hiding(None).hide({"role": ["x"]}) == {"role": ["x"]}
