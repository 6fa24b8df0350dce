"""CONFORMANCE, sampling and generation: on the real engine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.contract import Api, assert_error, events_of, joined

pytestmark = pytest.mark.engine

QUESTION = "What is the capital of France?"


def text_of(answer: Any, index: int = 0) -> str:
    choice = answer["choices"][index]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def tokens(api: Api, text: str) -> list[int]:
    live = api.gateway.live
    return list(api.gateway.run(live.engine.tokenize(api.model, text)).token_ids)


def test_it_knows_paris(api: Api) -> None:
    answer = api.chat(QUESTION, temperature=0).json()
    assert "Paris" in text_of(answer)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 0, "logprobs": True, "top_logprobs": 2},
        {"seed": 7},
        {"seed": 7, "n": 2},
        {"temperature": 0, "stop": [" of", "zzz"]},
        {"temperature": 0, "frequency_penalty": 1.5, "presence_penalty": 1.0, "repetition_penalty": 1.2},
        {"seed": 3, "top_p": 0.8, "top_k": 20, "min_p": 0.05},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_a_joined_stream_equals_the_whole_answer(api: Api, fields: dict[str, Any]) -> None:
    whole = api.chat(QUESTION, max_tokens=12, **fields).json()
    events = api.chat_events(QUESTION, max_tokens=12, stream_options={"include_usage": True}, **fields)
    for choice in whole["choices"]:
        index = choice["index"]
        assert joined(events, index) == (choice["message"]["content"], choice["finish_reason"])
        streamed = [
            token
            for event in events[:-2]
            for each in event["choices"]
            if each["index"] == index and each["logprobs"]
            for token in each["logprobs"]["content"]
        ]
        expected = choice["logprobs"]["content"] if choice["logprobs"] else []
        assert [token["token"] for token in streamed] == [token["token"] for token in expected]
        assert [token["logprob"] for token in streamed] == pytest.approx([t["logprob"] for t in expected], abs=0.05)
    assert events[-2]["usage"] == whole["usage"]


def test_the_order_of_a_stream(api: Api) -> None:
    events = api.chat_events(QUESTION, max_tokens=5, n=2, stream_options={"include_usage": True})
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] <= 10
    assert all(event["usage"] is None for event in events[:-2])
    for index in (0, 1):
        mine = [c for event in events[:-2] for c in event["choices"] if c["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert all("role" not in choice["delta"] for choice in mine[1:])
        assert mine[-1]["finish_reason"] in ("stop", "length")
        assert all(choice["finish_reason"] is None for choice in mine[:-1])
    assert len({event["id"] for event in events[:-1]}) == 1


def test_no_usage_unless_asked_for(api: Api) -> None:
    assert all("usage" not in event for event in api.chat_events(max_tokens=2)[:-1])


def test_length_and_clamping(api: Api) -> None:
    answer = api.chat("Count to one hundred.", max_tokens=3, temperature=0).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
    newer = api.chat("Count to one hundred.", max_completion_tokens=3, temperature=0).json()
    assert newer["usage"]["completion_tokens"] == 3
    # Above the server's bound a wish is clamped, not refused; the answer here ends by itself.
    assert api.chat(QUESTION, max_tokens=1_000_000, temperature=0).status_code == 200


def test_stop_is_not_part_of_the_output(api: Api) -> None:
    plain = text_of(api.chat(QUESTION, temperature=0).json())
    assert " of France" in plain
    stopped = api.chat(QUESTION, temperature=0, stop=" of France").json()
    assert text_of(stopped) == plain.split(" of France")[0]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    several = api.chat(QUESTION, temperature=0, stop=["nowhere to be seen", "capital"]).json()
    assert text_of(several) == plain.split("capital")[0]


def test_seeds(api: Api) -> None:
    def story(**fields: Any) -> str:
        return text_of(api.chat("Tell me a story.", max_tokens=12, temperature=1.5, **fields).json())

    assert story(seed=1) == story(seed=1)
    assert len({story(seed=seed) for seed in range(4)}) > 1
    assert story(seed=-(2**63)) == story(seed=-(2**63))
    assert story(seed=2**63 - 1) == story(seed=2**63 - 1)


def test_several_choices(api: Api) -> None:
    answer = api.chat("Tell me a story.", n=3, max_tokens=8, temperature=1.5).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({text_of(answer, index) for index in range(3)}) > 1
    assert answer["usage"]["completion_tokens"] <= 24
    greedy = api.chat(QUESTION, n=2, temperature=0).json()
    assert text_of(greedy, 0) == text_of(greedy, 1) == text_of(api.chat(QUESTION, temperature=0).json())


def test_logprobs(api: Api) -> None:
    answer = api.chat("Write one emoji: 🎉", max_tokens=8, temperature=0, logprobs=True, top_logprobs=3).json()
    choice = answer["choices"][0]
    content = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    joined_bytes = b"".join(bytes(token["bytes"]) for token in content)
    assert choice["message"]["content"].encode() in joined_bytes
    for token in content:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3
        ranked = [each["logprob"] for each in token["top_logprobs"]]
        assert ranked == sorted(ranked, reverse=True)
        assert token["token"] == token["top_logprobs"][0]["token"]  # greedy takes the best
    none = api.chat(max_tokens=1, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert none[0]["top_logprobs"] == []


def test_logit_bias_forces_and_forbids(api: Api) -> None:
    (forced,) = tokens(api, " banana")
    answer = api.completion("I like", max_tokens=3, temperature=0, logit_bias={str(forced): 100}).json()
    assert text_of(answer) == " banana banana banana"
    best = api.completion("I like", max_tokens=1, temperature=0).json()
    (token,) = tokens(api, text_of(best))
    other = api.completion("I like", max_tokens=1, temperature=0, logit_bias={str(token): -100}).json()
    assert text_of(other) != text_of(best)


def test_penalties_act(api: Api) -> None:
    def words(**fields: Any) -> list[str]:
        answer = api.completion("la la la la la la", max_tokens=32, temperature=0, ignore_eos=True, **fields).json()
        return text_of(answer).split()

    def repeated(said: list[str]) -> int:
        return len(said) - len(set(said))

    plain = words()
    for fields in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"repetition_penalty": 2.0}):
        assert repeated(words(**fields)) < repeated(plain)


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_narrow_sampling_is_greedy(api: Api, fields: dict[str, Any]) -> None:
    greedy = text_of(api.completion("The capital of France is", max_tokens=5, temperature=0).json())
    assert text_of(api.completion("The capital of France is", max_tokens=5, temperature=1.0, **fields).json()) == greedy


def test_ignore_eos_goes_on(api: Api) -> None:
    answer = api.chat(QUESTION, temperature=0, max_tokens=20, ignore_eos=True).json()
    assert answer["usage"]["completion_tokens"] == 20
    assert answer["choices"][0]["finish_reason"] == "length"


def test_prompts_of_every_kind_agree(api: Api) -> None:
    text = "The capital of France is"
    ids = tokens(api, text)
    fields = {"max_tokens": 3, "temperature": 0}
    expected = text_of(api.completion(text, **fields).json())
    assert "Paris" in expected
    for prompt in (ids, [text], [ids]):
        assert text_of(api.completion(prompt, **fields).json()) == expected
    other = "The capital of Japan is"
    batch = api.completion([text, other], n=2, **fields).json()
    assert [choice["index"] for choice in batch["choices"]] == [0, 1, 2, 3]
    assert ["Paris" in text_of(batch, 0), "Paris" in text_of(batch, 1)] == [True, True]
    assert ["Tokyo" in text_of(batch, 2), "Tokyo" in text_of(batch, 3)] == [True, True]
    assert batch["usage"]["prompt_tokens"] == len(ids) + len(tokens(api, other))


@pytest.mark.parametrize("as_ids", [False, True])
def test_echo(api: Api, as_ids: bool) -> None:
    text = "The capital of France is"
    prompt = tokens(api, text) if as_ids else text
    plain = text_of(api.completion(text, max_tokens=3, temperature=0).json())
    assert text_of(api.completion(prompt, max_tokens=3, temperature=0, echo=True).json()) == text + plain
    events = api.events("/v1/completions", prompt=[prompt, prompt], max_tokens=3, temperature=0, echo=True)
    assert joined(events, 0)[0] == joined(events, 1)[0] == text + plain


def test_legacy_logprobs(api: Api) -> None:
    answer = api.completion("The capital of France is", max_tokens=3, temperature=0, logprobs=2).json()
    logprobs = answer["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == text_of(answer)
    assert logprobs["text_offset"] == [sum(map(len, logprobs["tokens"][:i])) for i in range(3)]
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])


def test_roles_and_parts(api: Api) -> None:
    whole = api.chat("Name a colour.\nOne word.", temperature=0, max_tokens=5).json()
    parts = [{"type": "text", "text": "Name a colour."}, {"type": "text", "text": "One word."}]
    assert text_of(api.chat(parts, temperature=0, max_tokens=5).json()) == text_of(whole)
    messages = [
        {"role": "developer", "content": "You answer in one word."},
        {"role": "user", "content": "Hello", "name": "alice"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ]
    answer = api.post({"model": api.model, "messages": messages, "max_tokens": 2})
    assert answer.status_code == 200, answer.text


def test_too_long_prompts_name_both_numbers(api: Api) -> None:
    limit = api.http.get("/v1/models").json()["data"][0]["max_model_len"]
    response = api.chat("word " * (limit + 100))
    assert_error(response, 400, "context_length_exceeded", "messages")
    message = response.json()["error"]["message"]
    assert str(limit) in message
    assert any(int(number) > limit for number in message.replace(",", " ").split() if number.isdigit())
    both = api.chat("word", max_tokens=limit)
    assert_error(both, 400, "context_length_exceeded", "max_tokens")
    assert str(limit) in both.json()["error"]["message"]
    assert_error(api.completion("word " * (limit + 100)), 400, "context_length_exceeded", "prompt")
    assert_error(api.completion([1] * (limit + 1)), 400, "context_length_exceeded", "prompt")


def test_streams_are_metered_and_logged_like_the_rest(api: Api) -> None:
    live = api.gateway.live
    before = live.metric("sluice_tokens_total", model=api.model, kind="completion")
    body = {"model": api.model, "stream": True, "max_tokens": 4, "ignore_eos": True, "prompt": "a"}
    with api.http.stream("POST", "/v1/completions", json=body) as response:
        response.read()
        request_id = response.headers["x-request-id"]
    assert len(list(events_of(response.text))) >= 2
    assert live.metric("sluice_tokens_total", model=api.model, kind="completion") == before + 4
    entry = next(entry for entry in live.access_log.entries if entry.request_id == request_id)
    assert (entry.completion_tokens, entry.stream, entry.outcome) == (4, True, "completed")
