from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.identify import NoAuth, StaticKey, require_scope
from gateway.access.principal import Principal, Scope
from gateway.errors import ApiError

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
