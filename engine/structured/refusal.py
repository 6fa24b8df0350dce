"""How a constraint is refused, and the bounds on its size."""

from __future__ import annotations

from typing import Final

from engine.types import RequestRejected

MAX_SCHEMA_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 16
MAX_PROPERTIES: Final = 500
MAX_ENUM_VALUES: Final = 500
MAX_ENUM_CHARACTERS: Final = 16 * 1024
MAX_LENGTH: Final = 1024
MAX_BOUNDED_STRINGS: Final = 8
MAX_REGEX_BYTES: Final = 1024
MAX_GRAMMAR_BYTES: Final = 16 * 1024
MAX_GRAMMAR_NESTING: Final = 64
#: A float holds integers up to here exactly; so does every JSON reader.
MAX_INTEGER: Final = 2**53

INVALID: Final = "invalid_json_schema"
UNSUPPORTED: Final = "unsupported_schema_feature"
UNSATISFIABLE: Final = "unsatisfiable_schema"
TOO_COMPLEX: Final = "schema_too_complex"
UNICODE: Final = "invalid_unicode"
VALUE: Final = "invalid_value"


class NotEnforceable(Exception):
    """Something below a constraint cannot be held to. ``at``: its JSON path below it, such as ``.properties.a``."""

    def __init__(self, code: str, hint: str, at: str = "") -> None:
        super().__init__(hint)
        self.code = code
        self.hint = hint
        self.at = at

    def below(self, at: str) -> NotEnforceable:
        """The same, seen from one step further up."""
        return NotEnforceable(self.code, self.hint, at + self.at)

    def rejected(self, param: str) -> RequestRejected:
        """As the answer to a request whose field ``param`` holds the constraint."""
        where = f" at '{self.at.lstrip('.')[:200]}'" if self.at else ""
        return RequestRejected(f"Invalid '{param}'{where}: {self.hint}", param=param, code=self.code)
