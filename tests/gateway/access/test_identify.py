from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.identify import (
    Headers,
    Identities,
    NoAuth,
    StaticKey,
    bearer_token,
    require_scope,
    with_key_header,
)
from gateway.access.principal import Principal, Scope
from gateway.errors import ApiError, auth_unavailable, invalid_token

KEY = "sk-abc-0123456789"
IDENTITY = StaticKey(KEY)


def refusal(*headers: tuple[bytes, bytes]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        IDENTITY.identify(headers)
    return caught.value


def test_the_key_is_known_in_any_case_of_the_scheme() -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert IDENTITY.identify([(b"authorization", f"{scheme} {KEY}".encode())]).id == "static"


@pytest.mark.parametrize(
    "value",
    [b"", b"Bearer", b"Bearer ", b"Basic abc", b"Bearer  x", b"Bearer a b", b"Bearer sk-wrong", b"Bearer \xff",
     b"Bearer ' OR 1=1", b"Bearer *", b"Bearer {}", f"Bearer {KEY} ".encode(), f"Bearer {KEY}\x00".encode(),
     f"Bearer {KEY}x".encode(), f"Bearer {KEY[:-1]}".encode()],
)  # fmt: skip
def test_everything_else_gets_the_same_answer(value: bytes) -> None:
    error = refusal((b"authorization", value))
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert error.payload() == refusal((b"authorization", b"Bearer other")).payload()
    assert KEY.encode() not in error.payload()


def test_no_key_and_two_keys() -> None:
    assert (refusal().status, refusal().code) == (401, "missing_api_key")
    two = refusal((b"authorization", f"Bearer {KEY}".encode()), (b"authorization", b"Bearer x"))
    assert (two.status, two.code) == (400, "ambiguous_credentials")


@given(st.binary(max_size=80))
def test_no_header_gets_in(value: bytes) -> None:
    assert refusal((b"authorization", b"Bearer " + value + b"!")).status == 401


def test_without_authentication_everybody_is_one() -> None:
    assert NoAuth().identify([]).id == "anonymous"


def test_scopes() -> None:
    reader = Principal("r", frozenset({Scope.READ_ONLY}))
    require_scope(reader, Scope.READ_ONLY)
    require_scope(Principal("a", frozenset({Scope.ADMIN})), Scope.TRAINING)
    with pytest.raises(ApiError) as caught:
        require_scope(reader, Scope.INFERENCE)
    assert (caught.value.status, caught.value.code, caught.value.body.type) == (
        403,
        "insufficient_scope",
        "permission_error",
    )
    assert "inference" in caught.value.body.message


# -- several kinds of token -------------------------------------------------------------------------------------------


class Kind:
    """Knows one token; anything else with its prefix is refused with ``error``, the rest is not of its kind."""

    def __init__(self, prefix: bytes, error: Exception | None = None) -> None:
        self._prefix = prefix
        self._error = error or invalid_token()
        self.asked: list[bytes] = []

    def identify_token(self, token: bytes) -> Principal | None:
        self.asked.append(token)
        if not token.startswith(self._prefix):
            return None
        if token == self._prefix + b"-good":
            return Principal(token.decode(), frozenset())
        raise self._error


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + token.encode())]


def test_each_kind_judges_its_own_tokens() -> None:
    first, second = Kind(b"a"), Kind(b"b")
    identities = Identities([first, StaticKey(KEY), second])
    assert identities.identify(bearer("a-good")).id == "a-good"
    assert identities.identify(bearer("b-good")).id == "b-good"
    assert identities.identify(bearer(KEY)).id == "static"
    assert second.asked == [b"b-good"]


def test_a_refusal_is_final() -> None:
    """No other kind gets to see a token that one has refused."""
    first, second = Kind(b"a"), Kind(b"")
    with pytest.raises(ApiError) as caught:
        Identities([first, second]).identify(bearer("a-bad"))
    assert caught.value.code == "invalid_token"
    assert second.asked == []


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), auth_unavailable(1), KeyError("kid")])
def test_whatever_breaks_lets_nobody_in(error: Exception) -> None:
    second = Kind(b"")
    with pytest.raises(type(error)) as caught:
        Identities([Kind(b"a", error), second]).identify(bearer("a-bad"))
    assert caught.value is error
    assert second.asked == []


def test_a_token_of_no_kind() -> None:
    for kinds in ([], [Kind(b"a")], [StaticKey(KEY)]):
        with pytest.raises(ApiError) as caught:
            Identities(kinds).identify(bearer("unknown"))
        assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    with pytest.raises(ApiError) as caught:
        Identities([Kind(b"")]).identify([])
    assert caught.value.code == "missing_api_key"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"authorization", b"Bearer a")], b"a"),
        ([(b"x-api-key", b"a")], b"a"),
        ([(b"x-api-key", b"a"), (b"x-api-key", b"a")], b"a"),
        ([(b"x-api-key", b"a"), (b"authorization", b"bearer a")], b"a"),
        ([(b"x-api-key", b"a"), (b"authorization", b"Bearer b")], 400),
        ([(b"x-api-key", b"a"), (b"x-api-key", b"b")], 400),
        ([(b"x-api-key", b"a"), (b"authorization", b"Basic a")], 400),
        ([(b"x-api-key", b"")], 401),
        ([(b"x-api-key", b"a b")], 401),
        ([], 401),
    ],
)
def test_a_key_in_a_header_of_its_own(headers: Headers, expected: bytes | int) -> None:
    if isinstance(expected, bytes):
        assert bearer_token(with_key_header(headers, b"x-api-key")) == expected
        return
    with pytest.raises(ApiError) as caught:
        bearer_token(with_key_header(headers, b"x-api-key"))
    assert caught.value.status == expected
