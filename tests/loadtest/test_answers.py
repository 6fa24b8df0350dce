import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.answers import InvalidRunError, read_completion, read_model_id, read_stream
from loadtest.client import Recording

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def token(text: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
FINISH = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
DONE = event(b"[DONE]")


def usage(tokens: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 9}})


def chunked(pieces: list[bytes]) -> bytes:
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def recording(raw: bytes, reads: list[int] | None = None) -> Recording:
    """An answer that arrived in ``reads`` (ends of the reads), one every second after it was sent at 100.0."""
    ends = [*(reads or []), len(raw)]
    return Recording(100.0, bytearray(raw), [(101.0 + number, end) for number, end in enumerate(ends)])


def test_times_are_those_of_the_reads_that_completed_the_events() -> None:
    pieces = [ROLE, token("a"), token("b"), token("c") + FINISH, usage(3), DONE]
    ends = [len(chunked(pieces[:count])) - len(b"0\r\n\r\n") for count in range(1, len(pieces))]
    times = read_stream(recording(chunked(pieces), ends), tokens=3)
    assert (times.ttft, times.gaps, times.events) == (2.0, [1.0, 1.0], 3)


def test_events_that_leave_together_arrive_together() -> None:
    times = read_stream(recording(chunked([ROLE + token("a") + token("b"), FINISH + usage(2) + DONE])), tokens=2)
    assert (times.ttft, times.gaps) == (1.0, [0.0])


def test_an_event_arrives_with_its_last_byte() -> None:
    raw = chunked([ROLE, token("a"), FINISH + usage(1) + DONE])
    inside_the_token = raw.index(b'"a"')
    assert read_stream(recording(raw, [inside_the_token]), tokens=1).ttft == 2.0


@given(st.lists(st.integers(1, 5000), max_size=30), st.lists(st.integers(0, 4000), max_size=30))
def test_chunks_and_reads_may_split_anywhere(chunk_ends: list[int], reads: list[int]) -> None:
    stream = b": keep-alive\n\n" + ROLE + b"".join(token(f"t{n}") for n in range(20)) + FINISH + usage(20) + DONE
    cuts = sorted({0, len(stream), *(end for end in chunk_ends if end < len(stream))})
    raw = chunked([stream[start:end] for start, end in pairwise(cuts)])
    times = read_stream(recording(raw, sorted({end for end in reads if end < len(raw)})), tokens=20)
    assert times.events == 20
    assert min([times.ttft, *times.gaps]) >= 0


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([ROLE, token("a"), FINISH, usage(1), DONE], id="a token short"),
        pytest.param([ROLE, token("a"), token("b"), FINISH, usage(3), DONE], id="a token too many"),
        pytest.param([ROLE, token("a"), token("b"), FINISH, DONE], id="no usage"),
        pytest.param([ROLE, token("a"), token("b"), FINISH, usage(2)], id="no end"),
        pytest.param([ROLE, token("a"), token("b", "stop"), usage(2), DONE], id="stopped"),
        pytest.param([ROLE, token("a"), event({"error": {"message": "x"}})], id="an error event"),
        pytest.param([ROLE, FINISH, usage(2), DONE], id="no token event"),
        pytest.param([], id="nothing"),
    ],
)
def test_a_stream_that_is_not_what_was_asked_for_invalidates_the_run(pieces: list[bytes]) -> None:
    with pytest.raises(InvalidRunError):
        read_stream(recording(chunked(pieces)), tokens=2)


def plain(status: bytes, body: object) -> Recording:
    payload = json.dumps(body).encode()
    return recording(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(payload), payload))


def test_a_completion_must_have_the_tokens_asked_for() -> None:
    answer = plain(b"200 OK", {"choices": [{"message": {}}], "usage": {"completion_tokens": 1}})
    read_completion(answer, tokens=1)
    with pytest.raises(InvalidRunError, match="2 tokens"):
        read_completion(answer, tokens=2)


def test_an_error_answer_is_shown_and_invalidates_the_run() -> None:
    answer = plain(b"503 Service Unavailable", {"error": {"code": "engine_overloaded"}})
    with pytest.raises(InvalidRunError, match="engine_overloaded"):
        read_completion(answer, tokens=1)
    with pytest.raises(InvalidRunError, match="engine_overloaded"):
        read_stream(answer, tokens=1)


def test_the_first_listed_model_is_the_one_asked() -> None:
    assert read_model_id(plain(b"200 OK", {"object": "list", "data": [{"id": "toy"}, {"id": "other"}]})) == "toy"
