"""JSON Schemas that a grammar can hold to: everything else is refused by name, in bounded time.

Source: JSON Schema 2020-12, core and validation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import Any, Final

from engine.structured import formats, refusal
from engine.structured.disjoint import all_disjoint
from engine.structured.keywords import ALONE, ANNOTATIONS, CONTAINERS, EXTENSION, JSON_TYPES, OF_TYPE, REFUSED
from engine.structured.lowered import any_name, lowered_text
from engine.structured.patterns import check_pattern
from engine.structured.refusal import INVALID, TOO_COMPLEX, UNICODE, UNSATISFIABLE, UNSUPPORTED, NotEnforceable
from engine.structured.satisfiable import Node, finite, turns_in_place

MAX_SCHEMAS: Final = 1_000
#: A string that is only to be longer than this many characters costs no more than any other.
MAX_UNCOUNTED_LENGTH: Final = 4
#: Places behind the point that xgrammar looks at where a number is bounded.
DECIMALS: Final = 6
ROOT: Final = "#"


def check_schema(schema: object) -> str:
    """``schema`` as JSON in the engine's words (:mod:`engine.structured.lowered`), whose grammar lets only valid values
    through.

    Raises :class:`NotEnforceable` for a schema that is none, that costs too much, that has no valid value, or that
    says more than a grammar can hold to.
    """
    if not isinstance(schema, dict):
        raise NotEnforceable(INVALID, "expected a JSON Schema object.")
    try:
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise NotEnforceable(UNICODE, "it holds half of a surrogate pair.") from error
    except RecursionError as error:
        raise NotEnforceable(TOO_COMPLEX, "it is nested too deep.") from error
    if size > refusal.MAX_SCHEMA_BYTES:
        raise NotEnforceable(TOO_COMPLEX, f"a schema may have {refusal.MAX_SCHEMA_BYTES} bytes: {size}.")
    check = _Check(schema)
    try:
        check.at(ROOT, schema, 1)
        check.references()
    except RecursionError as error:
        raise NotEnforceable(TOO_COMPLEX, "a value is nested too deep.") from error
    if turns_in_place(check.nodes):
        raise NotEnforceable(UNSATISFIABLE, "a schema refers to itself without anything in between.")
    if not finite(check.nodes, ROOT):
        raise NotEnforceable(UNSATISFIABLE, "every valid value would be infinitely large.")
    return lowered_text(text)


class _Check:
    """One walk over a schema. ``nodes``: what each schema in it needs to end, by its JSON pointer."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.nodes: dict[str, Node] = {}
        self._root = root
        self._references: list[str] = []
        self._properties = 0
        self._values = 0
        self._characters = 0
        self._bounded_strings = 0

    def references(self) -> None:
        """Refuse what is referred to outside of the places where schemas are expected: it has not been looked at."""
        for target in self._references:
            if target not in self.nodes:
                raise NotEnforceable(UNSUPPORTED, f"'$ref' points to no place for schemas: '{target[:64]}'.")

    def at(self, pointer: str, schema: object, depth: int) -> str:
        """Check ``schema``; gives ``pointer`` back."""
        try:
            self._schema(pointer, schema, depth)
        except NotEnforceable as error:
            raise error if error.at else error.below(pointer.replace("/", ".")) from None
        return pointer

    def _schema(self, pointer: str, schema: object, depth: int) -> None:
        if schema is True:
            self.nodes[pointer] = Node("all", (), writes=True)
            return
        if not isinstance(schema, dict):
            raise NotEnforceable(INVALID, "expected a schema; 'false' is for additional properties and items only.")
        if depth > refusal.MAX_DEPTH:
            raise NotEnforceable(TOO_COMPLEX, f"schemas may be nested {refusal.MAX_DEPTH} deep.")
        if len(self.nodes) >= MAX_SCHEMAS:
            raise NotEnforceable(TOO_COMPLEX, f"there may be {MAX_SCHEMAS} schemas inside of one another.")
        # Taken now, so that a schema that refers to itself is not walked twice.
        self.nodes[pointer] = Node("all", (), writes=True)
        for container in CONTAINERS & schema.keys():
            for name, each in _mapping(schema, container).items():
                self.at(f"{pointer}/{container}/{_step(name)}", each, depth + 1)
        keywords = [key for key in schema if key not in ANNOTATIONS | CONTAINERS and not key.startswith(EXTENSION)]
        if "$id" in keywords and pointer == ROOT:
            keywords.remove("$id")
        self.nodes[pointer] = self._node(pointer, schema, keywords, depth)

    def _node(self, pointer: str, schema: dict[str, Any], keywords: Sequence[str], depth: int) -> Node:
        for keyword in keywords:
            if keyword in REFUSED:
                raise _unsupported(keyword)
        alone = next((keyword for keyword in ALONE if keyword in keywords), None)
        if alone is None:
            return self._typed(pointer, schema, keywords, depth)
        for keyword in keywords:
            if keyword != alone and not (keyword == "type" and alone in ("const", "enum")):
                raise NotEnforceable(UNSUPPORTED, f"'{keyword[:64]}' beside '{alone}' cannot be enforced.")
        match alone:
            case "$ref":
                return Node("all", (self._reference(schema["$ref"]),), writes=False)
            case "const" | "enum":
                self._literals(schema, [schema["const"]] if alone == "const" else _list(schema, "enum"))
                return Node("all", (), writes=True)
            case _:
                return self._branches(pointer, schema, alone, depth)

    def _branches(self, pointer: str, schema: dict[str, Any], keyword: str, depth: int) -> Node:
        branches = _list(schema, keyword)
        if not branches:
            raise NotEnforceable(INVALID, f"'{keyword}' is empty.")
        if keyword == "allOf" and len(branches) > 1:
            raise NotEnforceable(UNSUPPORTED, "'allOf' of several schemas cannot be enforced.")
        children = [self.at(f"{pointer}/{keyword}/{place}", each, depth + 1) for place, each in enumerate(branches)]
        if keyword == "oneOf" and not all_disjoint([b for b in branches if isinstance(b, dict)], self._resolved):
            raise NotEnforceable(
                UNSUPPORTED, "'oneOf' of alternatives that may overlap cannot be enforced; use 'anyOf'."
            )
        return Node("any", children, writes=False)

    def _typed(self, pointer: str, schema: dict[str, Any], keywords: Sequence[str], depth: int) -> Node:
        types = _types(schema, keywords)
        known = {"type"}.union(*(OF_TYPE[name] for name in types)) if types else set()
        for keyword in keywords:
            if keyword not in known:
                raise _unplaced(keyword, types)
        if "string" in types:
            self._string(schema)
        for name in ("integer", "number"):
            if name in types:
                _check_numbers(schema, name)
        needs = []
        if "object" in types:
            needs.append(self._object(pointer, schema, depth))
        if "array" in types:
            needs.append(self._array(pointer, schema, depth))
        # Any other type needs no children to end.
        return needs[0] if len(types) == len(needs) == 1 else _either(self.nodes, pointer, needs, len(types))

    def _object(self, pointer: str, schema: dict[str, Any], depth: int) -> Node:
        properties = _mapping(schema, "properties")
        self._properties += len(properties)
        if self._properties > refusal.MAX_PROPERTIES:
            raise NotEnforceable(TOO_COMPLEX, f"a schema may have {refusal.MAX_PROPERTIES} properties.")
        for name in properties:
            _check_text(name)
        children = {
            name: self.at(f"{pointer}/properties/{_step(name)}", each, depth + 1) for name, each in properties.items()
        }
        # Left out, xgrammar takes it for false: what it lets through is valid all the same.
        additional = schema.get("additionalProperties")
        if additional is not None and not isinstance(additional, bool):
            self.at(f"{pointer}/additionalProperties", additional, depth + 1)
        if "propertyNames" in schema and not any_name(schema["propertyNames"]):
            children = dict.fromkeys(self._names(pointer, schema, depth), f"{pointer}/additionalProperties")
            properties = dict(children)
        if "patternProperties" in schema:
            self._named_by_pattern(pointer, schema, depth)
        required = _list(schema, "required")
        if any(not isinstance(name, str) for name in required) or len(set(required)) != len(required):
            raise NotEnforceable(INVALID, "'required' is a list of different names.")
        for name in required:
            if name not in properties:
                raise NotEnforceable(UNSUPPORTED, f"'required' names '{name[:64]}', which is not one of 'properties'.")
        least, most = _bounds(schema, "minProperties", "maxProperties")
        if least > len(required) and (additional or (additional is None and least > len(properties))):
            # A name could be written twice, and two of the same count as one.
            raise NotEnforceable(UNSUPPORTED, "'minProperties' needs 'additionalProperties': false beside it.")
        if (additional is False and least > len(properties)) or (most is not None and most < len(required)):
            raise NotEnforceable(UNSATISFIABLE, "no object has that many properties.")
        spare = [child for name, child in children.items() if name not in required]
        return Node("all", [children[name] for name in required], True, spare, max(least - len(required), 0))

    def _names(self, pointer: str, schema: dict[str, Any], depth: int) -> Sequence[str]:
        """What ``propertyNames`` lists; nothing where it describes them otherwise."""
        if schema.get("properties") or "patternProperties" in schema:
            raise NotEnforceable(UNSUPPORTED, "'propertyNames' beside other properties cannot be enforced.")
        if _bounds(schema, "minProperties", "maxProperties")[0]:
            raise NotEnforceable(UNSUPPORTED, "'minProperties' beside 'propertyNames' cannot be enforced.")
        names = schema["propertyNames"]
        if isinstance(names, dict) and not {"type", "$ref", "enum", "const"} & names.keys():
            names = {"type": "string", **names}
        self.at(f"{pointer}/propertyNames", names, depth + 1)
        if not isinstance(names, dict) or not _only_text(self._resolved(names)):
            raise NotEnforceable(UNSUPPORTED, "of 'propertyNames' only a string or a list of names can be enforced.")
        if schema.get("additionalProperties") is False:
            raise NotEnforceable(UNSUPPORTED, "'propertyNames' needs 'additionalProperties' that are allowed.")
        if f"{pointer}/additionalProperties" not in self.nodes:
            self.nodes[f"{pointer}/additionalProperties"] = Node("all", (), writes=True)
        listed: list[str] = names.get("enum", [])
        return listed

    def _named_by_pattern(self, pointer: str, schema: dict[str, Any], depth: int) -> None:
        patterns = _mapping(schema, "patternProperties")
        if len(patterns) != 1 or schema.get("properties") or isinstance(schema.get("additionalProperties"), dict):
            raise NotEnforceable(UNSUPPORTED, "'patternProperties' can be enforced only alone, and with one pattern.")
        if _bounds(schema, "minProperties", "maxProperties")[0]:
            raise NotEnforceable(UNSUPPORTED, "'minProperties' beside 'patternProperties' cannot be enforced.")
        for pattern, each in patterns.items():
            check_pattern(pattern, inside_json=True, invalid=INVALID)
            self.at(f"{pointer}/patternProperties/{_step(pattern)}", each, depth + 1)

    def _array(self, pointer: str, schema: dict[str, Any], depth: int) -> Node:
        if schema.get("uniqueItems", False) is not False:
            raise _unsupported("uniqueItems")
        first = _list(schema, "prefixItems")
        items = schema.get("items", True)
        if isinstance(items, list):
            raise NotEnforceable(UNSUPPORTED, "'items' as a list has become 'prefixItems'.")
        least, most = _bounds(schema, "minItems", "maxItems")
        if most is not None and most < len(first):
            raise NotEnforceable(UNSUPPORTED, "'maxItems' below the number of 'prefixItems' cannot be enforced.")
        children = [self.at(f"{pointer}/prefixItems/{place}", each, depth + 1) for place, each in enumerate(first)]
        needed = children[:least]
        if "items" not in schema and least > len(first):
            raise NotEnforceable(UNSUPPORTED, "'minItems' needs 'items' beside it.")
        if items is False:
            if least > len(first):
                raise NotEnforceable(UNSATISFIABLE, "no array has that many items.")
        else:
            rest = self.at(f"{pointer}/items", items, depth + 1)
            needed += [rest] if least > len(first) else []
        return Node("all", needed, writes=True)

    def _string(self, schema: dict[str, Any]) -> None:
        least, most = _bounds(schema, "minLength", "maxLength")
        bounded = most is not None or least > MAX_UNCOUNTED_LENGTH
        self._bounded_strings += bounded
        if self._bounded_strings > refusal.MAX_BOUNDED_STRINGS:
            raise NotEnforceable(TOO_COMPLEX, f"{refusal.MAX_BOUNDED_STRINGS} strings may be bounded in length.")
        form, pattern = schema.get("format"), schema.get("pattern")
        if form is not None and not isinstance(form, str):
            raise NotEnforceable(INVALID, "'format' is a string.")
        if pattern is not None and not isinstance(pattern, str):
            raise NotEnforceable(INVALID, "'pattern' is a string.")
        if pattern is not None and (form, pattern) not in formats.WELL_KNOWN:
            check_pattern(pattern, inside_json=True, invalid=INVALID)
        if form is not None and form not in formats.STRINGS and not (pattern and form in formats.BY_PATTERN):
            raise NotEnforceable(UNSUPPORTED, f"the format {json.dumps(form)[:64]} cannot be enforced.")
        if formats.held_by(form, pattern, least, most) is None:
            raise NotEnforceable(UNSUPPORTED, "of 'pattern', 'format' and bounds of length only one can be enforced.")

    def _literals(self, schema: dict[str, Any], values: Sequence[object]) -> None:
        if not values:
            raise NotEnforceable(INVALID, "'enum' is empty.")
        types = _types(schema, ("type",)) if "type" in schema else ()
        self._values += len(values)
        for value in values:
            self._characters += len(_literal_text(value))
            kind = JSON_TYPES.get(type(value), "")
            if types and kind not in types and not (kind == "integer" and "number" in types):
                raise NotEnforceable(UNSUPPORTED, "a value is not of the type beside it.")
        if self._values > refusal.MAX_ENUM_VALUES or self._characters > refusal.MAX_ENUM_CHARACTERS:
            raise NotEnforceable(
                TOO_COMPLEX,
                f"a schema may list {refusal.MAX_ENUM_VALUES} values of {refusal.MAX_ENUM_CHARACTERS} characters.",
            )

    def _reference(self, reference: object) -> str:
        if not isinstance(reference, str):
            raise NotEnforceable(INVALID, "'$ref' is a string.")
        if (reference != ROOT and not reference.startswith("#/")) or "%" in reference or "~" in reference:
            raise NotEnforceable(
                UNSUPPORTED, "'$ref' may point into this schema only, with names that need no escapes."
            )
        self._target(reference)
        self._references.append(reference)
        return reference

    def _target(self, reference: str) -> object:
        found: Any = self._root
        for step in reference.split("/")[1:]:
            if isinstance(found, list) and step.isdecimal() and len(step) < 5 and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, dict) and step in found:
                found = found[step]
            else:
                raise NotEnforceable(INVALID, f"'$ref' points to nothing: '{reference[:64]}'.")
        return found

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        seen: set[str] = set()
        while "$ref" in schema and schema["$ref"] not in seen:
            seen.add(schema["$ref"])
            target = self._target(schema["$ref"])
            schema = target if isinstance(target, dict) else {}
        return schema


def _either(nodes: dict[str, Node], pointer: str, needs: Sequence[Node], types: int) -> Node:
    """A value of one of several types."""
    if not needs or types > len(needs):
        return Node("all", (), writes=True)
    for place, node in enumerate(needs):
        nodes[f"{pointer}//{place}"] = node
    return Node("any", [f"{pointer}//{place}" for place in range(len(needs))], writes=True)


def _types(schema: Mapping[str, Any], keywords: Sequence[str]) -> Sequence[str]:
    """The allowed types; none if every type is. Without ``type``, keywords of objects or arrays tell."""
    found = schema.get("type")
    if found is None and "type" not in schema:
        return [name for name in ("object", "array") if keywords and OF_TYPE[name].issuperset(keywords)]
    types = [found] if isinstance(found, str) else found
    if not isinstance(types, list) or not types or any(not isinstance(each, str) for each in types):
        raise NotEnforceable(INVALID, "'type' is the name of a type, or a list of names.")
    for each in types:
        if each not in OF_TYPE:
            raise NotEnforceable(INVALID, f"there is no type '{each[:64]}'.")
    if len(set(types)) != len(types):
        raise NotEnforceable(INVALID, "'type' names a type twice.")
    return types


def _only_text(schema: Mapping[str, Any]) -> bool:
    if "enum" in schema:
        return all(isinstance(name, str) for name in schema["enum"])
    return schema.get("type") == "string" and "const" not in schema


def _unplaced(keyword: str, types: Sequence[str]) -> NotEnforceable:
    owners = [name for name, words in OF_TYPE.items() if keyword in words]
    if not owners:
        return _unsupported(keyword)
    if not types:
        return NotEnforceable(UNSUPPORTED, f"'{keyword}' cannot be enforced without 'type' beside it.")
    return NotEnforceable(UNSUPPORTED, f"'{keyword}' says nothing about the type '{types[0]}'.")


def _unsupported(keyword: str) -> NotEnforceable:
    return NotEnforceable(UNSUPPORTED, f"'{keyword[:64]}' cannot be enforced.")


def _check_numbers(schema: Mapping[str, Any], kind: str) -> None:
    whole = kind == "integer"
    if "format" in schema and schema["format"] not in formats.NUMBERS[kind]:
        raise NotEnforceable(UNSUPPORTED, f"the format {json.dumps(schema['format'])[:64]} cannot be enforced.")
    bounds: dict[str, float] = {}
    for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if name not in schema:
            continue
        value = schema[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise NotEnforceable(INVALID, f"'{name}' is a number.")
        if not abs(value) <= refusal.MAX_INTEGER or (whole and value != int(value)):
            raise NotEnforceable(INVALID, f"'{name}' is a number of at most 2^53, and whole for integers.")
        bounds[name] = value
    if {"minimum", "exclusiveMinimum"} <= bounds.keys() or {"maximum", "exclusiveMaximum"} <= bounds.keys():
        raise NotEnforceable(UNSUPPORTED, "a bound can be either exclusive or not.")
    if whole and schema.get("format") == "int32":
        bounds = _within_int32(bounds)
    step = 1 if whole else 0
    low = bounds.get("minimum", bounds.get("exclusiveMinimum", -float("inf")) + step)
    high = bounds.get("maximum", bounds.get("exclusiveMaximum", float("inf")) - step)
    exclusive = not whole and ("exclusiveMinimum" in bounds or "exclusiveMaximum" in bounds)
    if low > high or (exclusive and low == high):
        raise NotEnforceable(UNSATISFIABLE, "no number is within these bounds.")
    if not whole and not _decimal_between(bounds):
        raise NotEnforceable(UNSUPPORTED, f"no number of {DECIMALS} decimals is within these bounds.")


def _within_int32(bounds: Mapping[str, float]) -> dict[str, float]:
    low, high = formats.INT32
    least = max(low, bounds.get("minimum", low), bounds.get("exclusiveMinimum", low - 1) + 1)
    most = min(high, bounds.get("maximum", high), bounds.get("exclusiveMaximum", high + 1) - 1)
    return {"minimum": least, "maximum": most}


def _decimal_between(bounds: Mapping[str, float]) -> bool:
    """Whether a number of so many decimals is within ``bounds``: xgrammar knows no others."""
    scaled = {name: Fraction(value) * 10**DECIMALS for name, value in bounds.items()}
    lows = [ceil(scaled[name]) for name in scaled if name == "minimum"]
    lows += [floor(scaled[name]) + 1 for name in scaled if name == "exclusiveMinimum"]
    highs = [floor(scaled[name]) for name in scaled if name == "maximum"]
    highs += [ceil(scaled[name]) - 1 for name in scaled if name == "exclusiveMaximum"]
    return not lows or not highs or lows[0] <= highs[0]


def _bounds(schema: Mapping[str, Any], least: str, most: str) -> tuple[int, int | None]:
    """Two counts, checked."""
    for name in (least, most):
        value = schema.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise NotEnforceable(INVALID, f"'{name}' is a whole number from 0 on.")
        if value > refusal.MAX_LENGTH:
            raise NotEnforceable(TOO_COMPLEX, f"'{name}' may be {refusal.MAX_LENGTH}.")
    low, high = schema.get(least, 0), schema.get(most)
    if high is not None and low > high:
        raise NotEnforceable(UNSATISFIABLE, f"'{least}' is more than '{most}'.")
    return low, high


def _step(name: str) -> str:
    """``name`` in a JSON pointer. References with escapes are refused, so no other place is spelled like it."""
    return name.replace("~", "~0").replace("/", "~1")


def _mapping(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = schema.get(name, {})
    if not isinstance(found, dict):
        raise NotEnforceable(INVALID, f"'{name}' is an object.")
    return found


def _list(schema: Mapping[str, Any], name: str) -> list[Any]:
    found = schema.get(name, [])
    if not isinstance(found, list):
        raise NotEnforceable(INVALID, f"'{name}' is a list.")
    return found


def _check_text(text: str) -> None:
    if "\x00" in text or any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise NotEnforceable(UNICODE, "a name or a value holds NUL or half of a surrogate pair.")


def _literal_text(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if "\\u0000" in text:
        raise NotEnforceable(UNICODE, "a value holds NUL.")
    _check_literal_numbers(value)
    return text


def _check_literal_numbers(value: object) -> None:
    match value:
        case dict():
            for member in value.values():
                _check_literal_numbers(member)
        case list():
            for member in value:
                _check_literal_numbers(member)
        case int() | float() if not isinstance(value, bool) and not abs(value) <= refusal.MAX_INTEGER:
            raise NotEnforceable(INVALID, "a number is larger than 2^53.")
