"""Bounds on grammars in EBNF; whether they mean anything is for xgrammar to say (:mod:`engine.structured.judge`)."""

from __future__ import annotations

from engine.structured.refusal import MAX_GRAMMAR_BYTES, MAX_GRAMMAR_NESTING, VALUE, NotEnforceable


def check_grammar(grammar: str) -> None:
    """Refuse what is too large to be looked at. Raises :class:`NotEnforceable`."""
    if "\x00" in grammar or not 0 < len(grammar.encode("utf-8", "surrogatepass")) <= MAX_GRAMMAR_BYTES:
        raise NotEnforceable(VALUE, f"expected a grammar of at most {MAX_GRAMMAR_BYTES} bytes without NUL.")
    depth = 0
    for character in grammar:
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_GRAMMAR_NESTING:
            raise NotEnforceable(VALUE, f"expected at most {MAX_GRAMMAR_NESTING} nested brackets.")
