"""Whose trace a request belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.observability.tracing.parent import Parent, header_of, parent_of, parse

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_good_ones(value: str, sampled: bool) -> None:
    assert parse(value.encode()) == Parent(int(TRACE, 16), int(SPAN, 16), sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f" {GOOD}",
        f"{GOOD}\n",
        f"{GOOD},{GOOD}",
        "00-" + "g" * 32 + f"-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
    ],
)
def test_bad_ones(value: str) -> None:
    assert parse(value.encode()) is None


def test_two_parents_are_none() -> None:
    header = (b"traceparent", GOOD.encode())
    assert parent_of([(b"accept", b"*/*"), header]) is not None
    assert parent_of([header, header]) is None
    assert parent_of([]) is None


PARTS = st.tuples(
    st.sampled_from(["00", "01", "cc", "ff", "0", "0G"]),
    st.one_of(st.text("0123456789abcdef", min_size=31, max_size=33), st.just("0" * 32), st.just(TRACE)),
    st.one_of(st.text("0123456789abcdefA", min_size=15, max_size=17), st.just("0" * 16), st.just(SPAN)),
    st.sampled_from(["00", "01", "02", "ff", "1"]),
)


@given(PARTS)
def test_we_read_it_as_opentelemetry_does(parts: tuple[str, str, str, str]) -> None:
    value = "-".join(parts)
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": value})).get_span_context()
    ours = parse(value.encode())
    if ours is None:
        assert not theirs.is_valid
    else:
        assert ours == Parent(theirs.trace_id, theirs.span_id, theirs.trace_flags.sampled)


def test_what_we_send_is_what_we_would_read() -> None:
    sent = header_of({"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"})
    assert sent is not None
    assert parse(sent.encode()) == Parent(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True)
    assert header_of(None) is None
