"""Query strings: every value is read in one way, and what cannot be read is named in words."""

from __future__ import annotations

import pytest

from gateway.errors import ApiError
from gateway.protocol.keys import AuditQuery, KeyListQuery
from gateway.protocol.query import parse_query
from gateway.protocol.usage import UsageQuery


@pytest.mark.parametrize("number", ["1_0", "+5", "%205", "5%20", "5.0", "1e2", "%EF%BC%95", "", "0x5", "true", "5;6"])
def test_only_decimal_digits_are_an_integer(number: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_query(f"limit={number}".encode(), UsageQuery)
    error = caught.value
    assert (error.code, error.body.param) == ("invalid_value", "limit")
    assert error.body.message == "Invalid 'limit': Expected an integer."


@pytest.mark.parametrize("number", ["1_0", "+5", "%205", "nan", "inf", "-", "1e", ".5", ""])
def test_only_decimal_numbers_are_a_moment(number: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_query(f"since={number}".encode(), AuditQuery)
    assert (caught.value.code, caught.value.body.param) == ("invalid_value", "since")


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ("from=2026-02-30", "from", "Expected a day of the calendar."),
        ("from=0000-01-01", "from", "Expected a day of the calendar."),
        ("to=2026-1-1", "to", "Expected a day, written as YYYY-MM-DD."),
        ("limit=" + "9" * 5000, "limit", "Expected an integer."),
    ],
)
def test_what_cannot_be_read_is_said_in_words(query: str, param: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_query(query.encode(), UsageQuery)
    assert (caught.value.body.param, caught.value.body.message) == (param, f"Invalid '{param}': {message}")


def test_what_can_be_read_is() -> None:
    assert parse_query(b"lim%69t=7&offset=007", UsageQuery).offset == 7
    assert parse_query(b"since=1.5e3&before=12", AuditQuery).since == 1500.0
    assert parse_query(b"include_revoked=true", KeyListQuery).include_revoked
    with pytest.raises(ApiError, match="Expected true or false"):
        parse_query(b"include_revoked=maybe", KeyListQuery)
