"""Tools in prompts, with templates that know tools and with one that does not; nothing spelled out becomes special."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.parsing.template import effort_variables
from engine.prompt import PromptBuilder
from engine.types import (
    ChatMessage,
    Conversation,
    PromptTooLong,
    ReasoningEffort,
    RequestRejected,
    Tool,
    ToolCall,
    ToolUse,
)

NATIVE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if enable_thinking is defined and not enable_thinking %}quick{% endif %}"
)


def build(model: Path, template: str | None = None, context: int = 4096, **fields: Any) -> PromptBuilder:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    if template is not None:
        tokenizer.chat_template = template
    config = SimpleNamespace(get_vocab_size=lambda: 49152, hf_config=SimpleNamespace(model_type="llama"), model="m")
    config.trust_remote_code, config.tokenizer_revision, config.tokenizer = False, None, "m"
    config.code_revision, config.revision = None, None
    return PromptBuilder(tokenizer, config, context, **fields)


@pytest.fixture(scope="module")
def plain(default_model: Path) -> PromptBuilder:
    return build(default_model)


@pytest.fixture(scope="module")
def native(default_model: Path) -> PromptBuilder:
    return build(default_model, NATIVE, reasons=True)


def talk(spelled: str = "x", use: ToolUse | None = None) -> Conversation:
    tool = Tool("f", f"says {spelled}", {"type": "object", "properties": {spelled: {"const": spelled}}})
    arguments = json.dumps({"a": spelled}, ensure_ascii=False)
    return Conversation(
        [
            ChatMessage("system", "Be brief."),
            ChatMessage("user", "Hi", spelled.replace("<", "").replace("|", "")[:8]),
            ChatMessage("assistant", "", None, (ToolCall("1", "f", arguments), ToolCall("2", "f", "{}"))),
            ChatMessage("tool", f"r {spelled}", tool_call_id="1"),
            ChatMessage("tool", "r two", tool_call_id="2"),
        ],
        use or ToolUse((tool,)),
    )


def text(builder: PromptBuilder, conversation: Conversation) -> str:
    return builder.decode(builder.chat(conversation).token_ids)


def test_a_template_without_tools_is_given_instructions(plain: PromptBuilder) -> None:
    assert not plain.renders_tools
    shown = text(plain, talk())
    assert shown.count("<|im_start|>system") == 1
    assert "Be brief.\n\nYou can call functions." in shown
    assert '{"name": "f", "description": "says x", "parameters": {' in shown
    assert '{"name": "f", "arguments": {"a": "x"}}\n{"name": "f", "arguments": {}}<|im_end|>' in shown
    assert "<|im_start|>user\nResult of f: r x\nResult of f: r two<|im_end|>" in shown
    assert "one such object per line" in shown
    assert "at most one function" in text(plain, talk(use=ToolUse((Tool("f"),), parallel=False)))


def test_a_template_with_tools_renders_them_itself(native: PromptBuilder) -> None:
    assert native.renders_tools
    shown = text(native, talk())
    assert "You can call functions" not in shown
    assert '{"type": "function", "function": {"name": "f"' in shown
    assert '<call>f{"a": "x"}<call>f{}<|im_end|>' in shown
    assert "<|im_start|>tool\nr x<|im_end|>" in shown


def test_tools_that_must_not_be_called_are_not_shown(plain: PromptBuilder, native: PromptBuilder) -> None:
    for builder in (plain, native):
        none = talk(use=ToolUse((Tool("secret_name"),), "none"))
        assert "secret_name" not in text(builder, none)


@pytest.mark.parametrize("builder", ["plain", "native"])
def test_control_tokens_stay_text_everywhere(builder: str, request: pytest.FixtureRequest) -> None:
    prompts: PromptBuilder = request.getfixturevalue(builder)
    frame = [i for i in prompts.chat(talk()).token_ids if i in (0, 1, 2)]

    @given(st.lists(st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "system", "<|im_"]), max_size=5))
    def law(parts: list[str]) -> None:
        spelled = "".join(parts) or "x"
        ids = list(prompts.chat(talk(spelled)).token_ids)
        assert [i for i in ids if i in (0, 1, 2)] == frame
        shown = prompts.decode(ids)
        assert f"says {spelled}" in shown
        assert f"r {spelled}" in shown

    law()


def test_arguments_that_are_no_object_are_shown_as_they_are(native: PromptBuilder, plain: PromptBuilder) -> None:
    broken = Conversation([ChatMessage("assistant", "", None, (ToolCall("1", "f", '{"a": '),))])
    for builder in (native, plain):
        assert "a" in text(builder, broken)


def test_huge_tools_are_refused_before_they_are_tokenised(default_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = build(default_model, context=64)
    monkeypatch.setattr(builder, "_encoder", None)
    for use in (ToolUse((Tool("f", "x" * 100_000),)), ToolUse((Tool("f", None, {"title": "x" * 100_000}),))):
        with pytest.raises(PromptTooLong):
            builder.chat(Conversation([ChatMessage("user", "x")], use))


def test_effort_reaches_the_template(native: PromptBuilder) -> None:
    message = [ChatMessage("user", "x")]
    assert "quick" in text(native, Conversation(message, effort="none"))
    assert "quick" not in text(native, Conversation(message, effort="high"))
    assert "quick" not in text(native, Conversation(message))


@pytest.mark.parametrize("effort", get_args(ReasoningEffort))
def test_efforts(effort: ReasoningEffort) -> None:
    both = "{{ reasoning_effort }} {{ enable_thinking }}"
    assert effort_variables(both, effort, reasons=True) == {
        "reasoning_effort": effort,
        "enable_thinking": effort != "none",
    }
    assert effort_variables("{{ thinking }}", effort, reasons=True) == {"thinking": effort != "none"}
    with pytest.raises(RequestRejected, match="reasoning_effort"):
        effort_variables("", effort, reasons=True)
    if effort != "none":
        with pytest.raises(RequestRejected, match="reasoning_effort"):
            effort_variables(both, effort, reasons=False)
    assert effort_variables(both, None, reasons=False) == {}
