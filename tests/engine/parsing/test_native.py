"""vLLM's parsers behind our splitter: every cut of a text gives what the whole text gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm import __version__

from engine.parsing.held import MAX_CHARACTERS, HeldBack
from engine.parsing.native import CHECKED_VERSION, NativeCalls, detect, reasoning_marks
from engine.types import EngineUnavailable, Tool, ToolUse
from tests.engine.parsing.joined import cuts, joined

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
USE = ToolUse((Tool("get_weather", None, SCHEMA), Tool("add")))
NAMES = ["get_weather", "add"]
ADDED = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<|tool_call|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
]
CALL = '{"name": "get_weather", "arguments": {"city": "Köln"}}'
DEEPSEEK = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
    '```json\n{"city": "Köln"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
QWEN = "<tool_call>\n<function=get_weather>\n<parameter=city>\nKöln\n</parameter>\n</function>\n</tool_call>"
TEXTS = {
    "hermes": f"<tool_call>\n{CALL}\n</tool_call>",
    "llama3_json": CALL,
    "mistral": f"[TOOL_CALLS][{CALL}]",
    "pythonic": '[get_weather(city="Köln")]',
    "granite": f"<|tool_call|>[{CALL}]",
    "deepseek_v3": DEEPSEEK,
    "qwen3_coder": QWEN,
}


@pytest.fixture(scope="module")
def tokenizer(default_model: Path) -> Any:
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(default_model)
    found.add_tokens(ADDED)
    return found


def test_the_version_that_the_fence_was_checked_against() -> None:
    assert __version__.split("+")[0] == CHECKED_VERSION


@pytest.mark.parametrize("name", TEXTS)
def test_calls(name: str, tokenizer: Any) -> None:
    native = NativeCalls(name, tokenizer)
    found = joined(native.splitter(USE, NAMES), [TEXTS[name]])
    assert [(call, json.loads(arguments)) for call, arguments in found.calls] == [("get_weather", {"city": "Köln"})]
    assert found.content == ""
    undeclared = joined(native.splitter(USE, ["add"]), [TEXTS[name]])
    assert (undeclared.content, undeclared.calls) == (TEXTS[name], [])


@pytest.mark.parametrize("name", TEXTS)
def test_any_cut_gives_the_same(name: str, tokenizer: Any) -> None:
    native = NativeCalls(name, tokenizer)
    parts = [TEXTS[name], TEXTS[name][: len(TEXTS[name]) // 2], "Hello ", " ", "{", "<", "[", "\n", "é", "<tool_call>"]

    @settings(max_examples=40)
    @given(st.data())
    def law(data: st.DataObject) -> None:
        text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=5)))
        whole = joined(native.splitter(USE, NAMES), [text])
        assert joined(native.splitter(USE, NAMES), data.draw(cuts(text))) == whole
        assert whole.calls or whole.content == text

    law()


@pytest.mark.parametrize("name", TEXTS)
def test_s29_broken_and_huge_calls_are_text(name: str, tokenizer: Any) -> None:
    head = TEXTS[name][: TEXTS[name].index("K")]
    for text in (head, head + "x" * MAX_CHARACTERS, head + "[" * 10_000, head + "\x00{" * 100):
        found = joined(NativeCalls(name, tokenizer).splitter(USE, NAMES), [text])
        assert found.calls or found.content == text


def test_text_in_front_of_a_call_is_not_held_back(tokenizer: Any) -> None:
    splitter = NativeCalls("hermes", tokenizer).splitter(USE, NAMES)
    assert splitter.feed("Let me see").content == "Let me see"
    assert splitter.feed(". \n<tool").content == "."
    assert splitter.feed("box>").content == " \n<toolbox>"
    assert splitter.feed(f"\n{TEXTS['hermes']}").content == ""
    assert splitter.finish().content == ""


def test_only_the_first_call_without_parallel_calls(tokenizer: Any) -> None:
    use = ToolUse(USE.tools, parallel=False)
    assert len(joined(NativeCalls("hermes", tokenizer).splitter(use, NAMES), [TEXTS["hermes"] * 2]).calls) == 1
    assert len(joined(NativeCalls("hermes", tokenizer).splitter(USE, NAMES), [TEXTS["hermes"] * 2]).calls) == 2


def test_a_parser_that_raises_ends_as_text() -> None:
    def extract(text: str) -> Any:
        raise RuntimeError(text)

    assert joined(HeldBack(["!"], extract, NAMES, parallel=True), ["a ", "! b"]).content == "a ! b"


def test_grammars_of_strict_tools(tokenizer: Any) -> None:
    strict = ToolUse((Tool("get_weather", None, SCHEMA, strict=True),))
    tag = NativeCalls("hermes", tokenizer).strict_grammar(strict)
    assert tag is not None
    assert json.loads(tag)["type"] == "structural_tag"
    assert NativeCalls("granite", tokenizer).strict_grammar(strict) is None


@pytest.mark.parametrize("name", ["nobody", "lfm2"])
def test_parsers_that_do_not_fit_are_named(name: str, tokenizer: Any) -> None:
    with pytest.raises(EngineUnavailable, match=name):
        NativeCalls(name, tokenizer)


def test_reasoning_marks(tokenizer: Any) -> None:
    for name in ("deepseek_r1", "qwen3"):
        marks = reasoning_marks(name, tokenizer)
        assert (marks.start, marks.end) == ("<think>", "</think>")
        assert marks.end_id == tokenizer.convert_tokens_to_ids("</think>")
    for name in ("nobody", "granite"):
        with pytest.raises(EngineUnavailable, match=name):
            reasoning_marks(name, tokenizer)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (None, None),
        ("{{ messages }}", None),
        ("... <tool_call>\\n<function=x> ...", "qwen3_coder"),
        ("... <tool_call> ...", "hermes"),
        ("... [TOOL_CALLS] ...", "mistral"),
    ],
)
def test_the_chat_template_tells_the_parser(template: str | None, name: str | None) -> None:
    assert detect(template) == name
