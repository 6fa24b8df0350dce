"""Grammars are tried out where they can be stopped: the real library in the real worker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.structured.judge import MAX_WAITING, MAX_WAITING_EACH, GrammarJudge, JudgeLimits
from engine.structured.plan import Plan, check_constraint, plan_of
from engine.types import Constraint, EngineOverloaded, RequestRejected, SchemasWaiting


@pytest.fixture(scope="module")
def vocabulary(default_model: Path) -> str:
    from transformers import AutoTokenizer
    from xgrammar import TokenizerInfo

    return str(TokenizerInfo.from_huggingface(AutoTokenizer.from_pretrained(default_model)).serialize_json())


@pytest.fixture
async def judge(vocabulary: str) -> AsyncIterator[GrammarJudge]:
    judge = GrammarJudge(lambda: vocabulary, JudgeLimits(compile_seconds=0.5))
    yield judge
    await judge.stop()


def schema(value: Any) -> Plan:
    return Plan("json", json.dumps(value), "p")


async def refused(judge: GrammarJudge, plan: Plan) -> str:
    with pytest.raises(RequestRejected) as caught:
        await judge.check(plan)
    assert caught.value.param == "p"
    return caught.value.code


async def test_verdicts(judge: GrammarJudge) -> None:
    for plan in (
        schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
        Plan("regex", "[a-z]{2,9}", "p"),
        Plan("grammar", 'root ::= "a" | "b" root', "p"),
        plan_of(Constraint("choice", json.dumps(['say "hi"\n', "back\\slash", "é😀"]), "p")),
        plan_of(Constraint("json_object", "", "p")),
    ):
        await judge.check(plan)
    # S12, S18: what the checks ahead of it would not have let through either
    assert await refused(judge, schema({"type": "string", "pattern": "^([a-z]{1,20}){1,20}$"})) == "schema_too_complex"
    assert await refused(judge, Plan("regex", "((a{0,20}){0,20}){0,20}", "p")) == "schema_too_complex"
    # S20
    for text in ("nothing", 'start ::= "a"', "root ::= other", "root ::= " + "(" * 20_000):
        assert await refused(judge, Plan("grammar", text, "p")) == "invalid_value"
    assert await refused(judge, Plan("grammar", "root ::= a\na ::= b\nb ::= a", "p")) == "unsatisfiable_schema"
    assert await refused(judge, Plan("regex", "(unclosed", "p")) == "invalid_value"
    assert await refused(judge, Plan("structural_tag", "{}", "p")) == "invalid_value"


async def test_a_hostile_one_costs_itself_only(judge: GrammarJudge) -> None:
    await judge.check(schema({"type": "null"}))
    worker = judge._process
    hostile = schema({"enum": [f"{index:05}" * 9 for index in range(20_000)]})
    assert await refused(judge, hostile) == "schema_too_complex"
    await judge.check(schema({"type": "boolean"}))
    assert judge._process is worker


async def test_equal_plans_are_tried_once_and_remembered(judge: GrammarJudge) -> None:
    asked = []
    ask = judge._ask

    async def counted(plan: Plan, caller: str) -> dict[str, Any]:
        asked.append(plan)
        return await ask(plan, caller)

    judge._ask = counted  # type: ignore[method-assign]
    plans = [Plan("regex", "abc", param) for param in ("p", "q", "r")]
    await asyncio.gather(*map(judge.check, plans))
    await judge.check(plans[0])
    assert len(asked) == 1
    for _ in range(2):
        with pytest.raises(RequestRejected) as caught:
            await judge.check(Plan("regex", "(", "elsewhere"))
        assert caught.value.param == "elsewhere"
    assert len(asked) == 2


async def test_a_caller_that_leaves_takes_nobody_elses_answer_away(judge: GrammarJudge) -> None:
    plan = Plan("regex", "left|right", "p")
    leaving, staying = asyncio.create_task(judge.check(plan)), asyncio.create_task(judge.check(plan))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert leaving.cancelled()


async def test_too_many_at_once_are_turned_away(judge: GrammarJudge) -> None:
    checks = [judge.check(Plan("regex", f"a{index}", "p"), f"caller{index % 4}") for index in range(MAX_WAITING + 3)]
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert [type(each) for each in results].count(SchemasWaiting) == 3
    assert results.count(None) == MAX_WAITING


async def test_a_dead_worker_is_replaced(judge: GrammarJudge) -> None:
    await judge.check(Plan("regex", "a", "p"))
    assert judge._process is not None
    os.kill(judge._process.pid, signal.SIGKILL)
    await judge._process.wait()
    await judge.check(Plan("regex", "b", "p"))


async def test_a_worker_that_dies_at_work_is_an_overload_not_a_verdict(judge: GrammarJudge) -> None:
    await judge.check(Plan("regex", "a", "p"))
    process = judge._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    check = asyncio.create_task(judge.check(Plan("regex", "b", "p")))
    await asyncio.sleep(0.05)
    process.kill()
    with pytest.raises(EngineOverloaded):
        await check
    await judge.check(Plan("regex", "b", "p"))


async def test_nothing_is_left_behind(vocabulary: str) -> None:
    judge = GrammarJudge(lambda: vocabulary, JudgeLimits())
    judge.start()
    await judge.check(Plan("regex", "a", "p"))
    assert judge._process is not None
    worker = psutil.Process(judge._process.pid)
    await judge.stop()
    await judge.stop()
    assert not worker.is_running()


@pytest.mark.parametrize(
    ("constraint", "code"),
    [
        (Constraint("regex", "((a{0,20}){0,20}){0,20}", "p"), "schema_too_complex"),  # S18
        (Constraint("regex", "(a", "p"), "invalid_value"),  # S19
        (Constraint("regex", "a\x00", "p"), "invalid_value"),
        (Constraint("regex", "a" * 1025, "p"), "invalid_value"),
        (Constraint("regex", r"(a)\1", "p"), "unsupported_schema_feature"),
        (Constraint("regex", "a^b", "p"), "unsupported_schema_feature"),
        (Constraint("regex", "(?i)yes", "p"), "unsupported_schema_feature"),
        (Constraint("regex", "^$", "p"), "invalid_value"),
        (Constraint("grammar", "root ::= " + "(" * 20_000, "p"), "invalid_value"),  # S20
        (Constraint("grammar", "x" * 17_000, "p"), "invalid_value"),
        (Constraint("choice", json.dumps(["\ud800"]), "p"), "invalid_unicode"),
        (Constraint("json_schema", "[]", "p"), "invalid_json_schema"),
        (Constraint("json_schema", "[" * 100_000, "p"), "schema_too_complex"),
    ],
)
def test_refused_before_anything_is_compiled(constraint: Constraint, code: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        check_constraint(constraint)
    assert (caught.value.param, caught.value.code) == ("p", code)


@pytest.mark.parametrize("pattern", [r"\d{3}-\d{4}", r'"[^"]*"', r"(?:yes|no)\.", "[\\s\\S]*", r"a{2,}b?", "x*?"])
def test_ordinary_patterns_are_allowed(pattern: str) -> None:
    check_constraint(Constraint("regex", pattern, "p"))


@pytest.mark.parametrize(
    "pattern", [r"\d{3}-\d{4}", r'"[^"]*"', r"a.b|[^\d\n]\W", r"\x0a\t[]\\^-]{2}(|z)", r"a(bc+)?\S\s"]
)
def test_a_regular_expression_means_what_python_says(pattern: str) -> None:
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string

    grammar = Grammar.from_regex(plan_of(Constraint("regex", pattern, "p")).text)
    texts = [
        "123-4567",
        "123-456",
        '"a"',
        '""',
        "a-b",
        "a\nb",
        "x-",
        "7-",
        "é ",
        "\n\t]]",
        "\n\t\\^z",
        "abcc- ",
        "ac- ",
        "a\x85 ",
    ]
    wrong = [
        text for text in texts if bool(_is_grammar_accept_string(grammar, text)) != bool(re.fullmatch(pattern, text))
    ]
    assert wrong == []


async def test_f69_a_flood_of_one_caller_makes_another_wait_for_one_plan_at_most(judge: GrammarJudge) -> None:
    order = []

    async def asked(plan: Plan, caller: str) -> None:
        await judge.check(plan, caller)
        order.append(caller)

    await judge.check(Plan("regex", "warm", "p"))
    flood = [asyncio.create_task(asked(Plan("regex", f"f{index}", "p"), "flood")) for index in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(*(asked(Plan("regex", f"o{index}", "p"), "other") for index in range(2)))
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert [type(each) for each in results].count(SchemasWaiting) == 20 - MAX_WAITING_EACH
    assert "".join(name[0] for name in order).startswith("fofo")
    assert not judge._waiting
