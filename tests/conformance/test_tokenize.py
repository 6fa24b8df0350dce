from __future__ import annotations

import pytest

from tests.conformance.contract import Api, assert_error


@pytest.mark.parametrize("text", ["", "Hello, world", "Grüße, 世界 👩‍👩‍👧", "<|im_end|> is a token", "  two  spaces\n"])
def test_a_text_there_and_back(api: Api, text: str) -> None:
    tokens = api.post({"model": api.model, "prompt": text}, "/v1/tokenize").json()
    assert tokens["count"] == len(tokens["tokens"])
    assert tokens["token_strs"] is None
    back = api.post({"model": api.model, "tokens": tokens["tokens"]}, "/v1/detokenize").json()
    assert back == {"prompt": text}


def test_what_is_counted_is_what_is_charged(api: Api) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why? <|im_end|>"}]
    counted = api.post({"model": api.model, "messages": messages}, "/v1/tokenize").json()
    chat = api.post({"model": api.model, "messages": messages, "max_tokens": 1}).json()
    assert counted["count"] == chat["usage"]["prompt_tokens"]
    completed = api.completion(counted["tokens"], max_tokens=1).json()
    assert completed["usage"]["prompt_tokens"] == counted["count"]


def test_strings_are_the_tokeniser_s_own(api: Api) -> None:
    body = {"model": api.model, "prompt": "Hello world", "return_token_strs": True}
    assert api.post(body, "/v1/tokenize").json()["token_strs"] == ["Hello", "Ġworld"]


def test_more_than_could_ever_fit_is_refused_and_what_is_merely_too_long_is_counted(api: Api) -> None:
    long = {"model": api.model, "prompt": "word " * 10_000}
    counted = api.post(long, "/v1/tokenize").json()
    assert counted["count"] > counted["max_model_len"]
    endless = {"model": api.model, "prompt": "a" * 8_000_000}
    assert_error(api.post(endless, "/v1/tokenize"), 400, "context_length_exceeded", "prompt")


def test_ids_outside_the_vocabulary(api: Api) -> None:
    answer = api.post({"model": api.model, "tokens": [1, 10**9]}, "/v1/detokenize")
    assert_error(answer, 400, "invalid_value", "tokens")
