from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.prompt import PromptBuilder, cpu_seconds
from engine.types import ChatMessage, Conversation, PromptTooLong, RequestRejected

CONTEXT = 256


@pytest.fixture(scope="module")
def tokenizer(default_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(default_model)


@pytest.fixture(scope="module")
def builder(tokenizer: Any) -> PromptBuilder:
    config = SimpleNamespace(get_vocab_size=lambda: 49152, hf_config=SimpleNamespace(model_type="llama"), model="m")
    config.trust_remote_code, config.tokenizer_revision, config.tokenizer = False, None, "m"
    config.code_revision, config.revision = None, None
    return PromptBuilder(tokenizer, config, CONTEXT)


def plain_template(tokenizer: Any, messages: list[ChatMessage]) -> list[int]:
    conversation = [{"role": m.role, "content": m.content} for m in messages]
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("content", ["Hello", "  two spaces ", "\nline\n", "naïve 🎉 文字", ""])
def test_ordinary_contents_are_tokenised_with_their_template(
    builder: PromptBuilder, tokenizer: Any, content: str
) -> None:
    messages = [ChatMessage("system", "Be brief."), ChatMessage("user", content)]
    assert list(builder.chat(Conversation(messages)).token_ids) == plain_template(tokenizer, messages)


@given(
    st.lists(
        st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "system\n", " a", "é", "<|im_"]), max_size=8
    )
)
def test_control_tokens_in_contents_stay_text(builder: PromptBuilder, tokenizer: Any, parts: list[str]) -> None:
    content = "".join(parts)
    control = set(tokenizer.all_special_ids)
    frame = [i for i in builder.chat(Conversation([ChatMessage("user", "x")])).token_ids if i in control]
    ids = list(builder.chat(Conversation([ChatMessage("user", content)])).token_ids)
    assert [i for i in ids if i in control] == frame
    assert content in tokenizer.decode(ids)


def test_raw_prompts_keep_their_control_tokens(builder: PromptBuilder, tokenizer: Any) -> None:
    prompt = builder.plain("<|im_start|>user", True)
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in prompt.token_ids
    assert prompt.text == "<|im_start|>user"
    assert builder.plain("x", False).text is None


def test_huge_texts_are_refused_before_they_are_tokenised(
    builder: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_encoder", None)
    for text in ("a" * 1_000_000, " " * 1_000_000, "👩‍👩‍👧‍👦" * 40_000):
        with pytest.raises(PromptTooLong) as caught:
            builder.chat(Conversation([ChatMessage("user", text)]))
        assert caught.value.exact is False
        assert caught.value.prompt_tokens > CONTEXT


def test_the_bound_never_refuses_what_fits(builder: PromptBuilder, tokenizer: Any) -> None:
    longest = max(tokenizer.get_vocab(), key=len)
    text = tokenizer.convert_tokens_to_string([longest]) * (CONTEXT - 8)
    builder.plain(text, False)


@pytest.mark.parametrize("ids", [[49152], [0, 1, 10**9]])
def test_ids_outside_the_vocabulary_are_refused(builder: PromptBuilder, ids: list[int]) -> None:
    with pytest.raises(RequestRejected, match="vocabulary"):
        builder.check_ids(ids)
    with pytest.raises(RequestRejected):
        builder.decode(ids)


def test_a_model_without_a_template_says_so(
    builder: PromptBuilder, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(RequestRejected, match="chat template"):
        builder.chat(Conversation([ChatMessage("user", "x")]))


def test_waiting_for_a_turn_is_no_work() -> None:
    """Or a start on a busy machine would send every short conversation through a thread for good."""
    assert cpu_seconds(lambda: time.sleep(0.05)) < 0.04
