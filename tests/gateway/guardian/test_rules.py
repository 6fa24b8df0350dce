"""Patterns, secrets and personal data, and where they stand."""

from __future__ import annotations

import pytest

from gateway.guardian.rules import PII, SECRETS, Rules
from gateway.guardian.verdicts import Content, GuardFailure


def rules(**patterns: str) -> Rules:
    return Rules("rules", patterns, secrets=True, pii=True)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("my key is AKIAIOSFODNN7EXAMPLE ok", "AKIAIOSFODNN7EXAMPLE"),
        ("token ghp_" + "a1B2" * 9, "ghp_" + "a1B2" * 9),
        ("-----BEGIN RSA PRIVATE KEY-----", "BEGIN RSA PRIVATE KEY"),
        ("https://user:hunter2pass@example.com/x", "hunter2pass"),
    ],
)
async def test_secrets(text: str, part: str) -> None:
    finding = (await rules().evaluate(Content(text), [SECRETS]))[SECRETS]
    assert finding.score == 1.0
    assert any(text[start:end].find(part) >= 0 or part.find(text[start:end]) >= 0 for start, end in finding.spans)


@pytest.mark.parametrize(
    "text",
    [
        "write to jane.doe+x@mail.example.org please",
        "call +1 650-253-0000 tomorrow",
        "call (650) 253-0000",
        "my card 4111 1111 1111 1111",
        "IBAN GB82 WEST 1234 5698 7654 32",
        "ssn 536-90-4399",
    ],
)
async def test_personal_data(text: str) -> None:
    finding = (await rules().evaluate(Content(text), [PII]))[PII]
    assert finding.score == 1.0
    assert finding.spans


@pytest.mark.parametrize(
    "text",
    ["the year 2024 and 1,000,000 more", "4111 1111 1111 1112", "version 1.2.3.4", "a@b", "see section 123-45"],
)
async def test_what_only_looks_like_it(text: str) -> None:
    assert (await rules().evaluate(Content(text), [PII]))[PII].score == 0.0


async def test_a_pattern_that_never_ends_is_a_failure_and_not_safe() -> None:
    judge = rules(slow=r"(?:a+)+(?:b+)+c\b\1?(x)?")
    bad = Rules("rules", {"slow": r"^(a|a|aa)+$"}, secrets=False, pii=False)
    with pytest.raises(GuardFailure) as failure:
        await bad.evaluate(Content("a" * 4000 + "b"), ["slow"])
    assert failure.value.reason == "slow_pattern"
    assert judge.risks == {"slow", PII, SECRETS}


async def test_the_judged_text_is_the_assistants_where_there_is_one() -> None:
    judge = rules(planted="zorblax")
    assert (await judge.evaluate(Content("zorblax", "fine"), ["planted"]))["planted"].score == 0.0
    assert (await judge.evaluate(Content("fine", "zorblax"), ["planted"]))["planted"].score == 1.0
