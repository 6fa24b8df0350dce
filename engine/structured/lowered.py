"""Schemas in the words that xgrammar holds to: what it takes too loosely is said in another way.

xgrammar 0.2.8 lets control characters into strings whose length is bounded, and what is written then is no JSON; the
same bounds as a pattern leave them out. tests/engine/structured/test_keywords.py tells when it has learned better.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

#: What may stand in a JSON string as it is. The last character is written out: xgrammar makes a grammar of it in a
#: fifth of the time that it takes for the same class in an escaped form.
_CHARACTER: Final = "[ !#-\\[\\]-\U0010ffff]"
_BY_NAME: Final = ("properties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties")


@lru_cache(maxsize=64)
def lowered_text(schema: str) -> str:
    """:func:`lowered` for a checked schema as JSON."""
    if 'Length"' not in schema:
        return schema
    return json.dumps(lowered(json.loads(schema)), ensure_ascii=False, separators=(",", ":"))


def lowered(schema: Any) -> Any:
    """``schema``, which is checked, as xgrammar is given it. Nothing in it is changed in place."""
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _inside(key, value) for key, value in schema.items()}
    if not {"minLength", "maxLength"} & found.keys():
        return found
    least, most = found.pop("minLength", 0), found.pop("maxLength", None)
    if least or most is not None:
        found["pattern"] = f"^{_CHARACTER}{{{least},{'' if most is None else most}}}$"
    return found


def _inside(key: str, value: Any) -> Any:
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: lowered(each) for name, each in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [lowered(each) for each in value]
    return lowered(value) if key in _SINGLE else value
