"""What happens to each keyword of JSON Schema 2020-12; what is in none of these tables is refused by name.

A grammar is *sound* here: whatever it lets through is valid. Checked against xgrammar 0.2.8 by
tests/engine/structured/test_soundness.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: They say nothing about what is valid; ``discriminator`` (OpenAPI) only tells which of ``oneOf`` it is.
ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$comment", "$schema", "discriminator", "example"}
)
#: Extensions of OpenAPI begin so, and say nothing about what is valid either.
EXTENSION: Final = "x-"
#: Places for schemas that others refer to.
CONTAINERS: Final = frozenset({"$defs", "definitions"})
#: Each of them decides alone what is valid; of the rest only annotations may stand beside it.
ALONE: Final = ("$ref", "anyOf", "oneOf", "allOf", "const", "enum")

_NUMBERS: Final = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"])
OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "object": frozenset(
        {"properties", "required", "additionalProperties", "minProperties", "maxProperties"}
        | {"propertyNames", "patternProperties"}
    ),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]),
    "string": frozenset(["minLength", "maxLength", "pattern", "format"]),
    "number": _NUMBERS,
    "integer": _NUMBERS,
    "boolean": frozenset(),
    "null": frozenset(),
}
#: In JSON Schema, but nothing that a grammar can hold to here.
REFUSED: Final = frozenset(
    {"not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"}
    | {"contains", "minContains", "maxContains", "multipleOf"}
    | {"unevaluatedProperties", "unevaluatedItems", "additionalItems", "$anchor", "$vocabulary"}
    | {"$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"}
    | {"contentEncoding", "contentMediaType", "contentSchema", "nullable"}
)
#: What a parsed value is called.
JSON_TYPES: Final[Mapping[type, str]] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}
