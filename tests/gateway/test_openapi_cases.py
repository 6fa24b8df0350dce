"""Our own OpenAPI document, turned against us by schemathesis: requests that it allows, and some that it does not.

For every route: no 5xx, no status or media type that is not documented, no answer that breaks its schema.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from tests.support.gateways import Threaded, threaded
from tests.support.stub_engine import StubConfig, StubEngine

#: Of each kind (what the document allows, what it does not) and route.
EXAMPLES = 8
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    def build() -> StubEngine:
        return StubEngine(StubConfig(reply_tokens=4))

    state: Path = tmp_path_factory.mktemp("cases")
    limits = {"max_tokens": 64}
    with threaded(build, state, with_store=True, limits=limits) as running:
        yield running
        assert running.live.store is not None
        running.live.store.close(5.0)


def cases_of(operation: Any, mode: GenerationMode, url: str, headers: dict[str, str]) -> list[str]:
    """What went wrong with ``operation``."""
    wrong: list[str] = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and "model" in case.body and mode is GenerationMode.POSITIVE:
            case.body["model"] = "stub"  # any other is 404, and nothing behind that is reached
        response = case.call(base_url=url, headers=headers, timeout=30)
        if response.status_code >= 500 and response.status_code != 501:  # which says what is not configured
            wrong.append(f"{response.status_code} {response.text[:200]}\n{case.as_curl_command()[:500]}")
        try:
            case.validate_response(response, checks=CHECKS)
        except AssertionError as failure:
            wrong.append(f"{failure}\n{case.as_curl_command()[:500]}")
        except BaseExceptionGroup as failures:
            wrong.extend(f"{each}\n{case.as_curl_command()[:500]}" for each in failures.exceptions)

    ask()
    return wrong


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_finds_an_undocumented_answer(gateway: Threaded, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{gateway.live.url}/openapi.yaml")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 10
    wrong: list[str] = []
    asked = len(gateway.live.access_log.entries)
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
            continue  # there is nothing to get wrong
        wrong += cases_of(operation, mode, gateway.live.url, gateway.live.authorization)
    assert not wrong, "\n\n".join(wrong[:10000])
    answers = Counter(entry.status for entry in gateway.live.access_log.entries[asked:])
    assert answers[200 if mode is GenerationMode.POSITIVE else 400] > 20, answers
