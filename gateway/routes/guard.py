"""POST /v1/guard, /v1/guard/batch, /v1/guard/scan, /v1/moderations: the guard's evaluators, for callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from gateway.access.principal import Scope
from gateway.errors import SERVER, ApiError, guardian_unavailable, model_not_found
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.guardian.guardian import Guardian
from gateway.guardian.moderation import CATEGORY_RISKS
from gateway.guardian.panel import Assessment
from gateway.guardian.risks import RISKS, needs
from gateway.guardian.verdicts import Content, Verdict
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol.encode import new_id
from gateway.protocol.guard import (
    GuardAnswer,
    GuardBatchAnswer,
    GuardBatchRequest,
    GuardRequest,
    GuardScanAnswer,
    GuardScanRequest,
    ModerationAnswer,
    ModerationRequest,
    content_of,
    known_risk,
    parse_guard,
    parse_guard_batch,
    parse_guard_scan,
    parse_moderation,
)
from gateway.protocol.validation import not_one_of
from gateway.routing import Route

ENDPOINT: Final = "endpoint"
EVERYBODY: Final = "guardian"
#: Names of OpenAI's own moderation models: clients send them by habit.
_OPENAI: Final = ("omni-moderation", "text-moderation")


class _Question(Protocol):
    @property
    def model(self) -> str | None: ...


def routes(pipeline: Pipeline, guardian: Guardian | None) -> list[Route]:
    """The routes of this resource; without a ``guardian`` they answer 501."""

    def configured() -> Guardian:
        if guardian is None:
            raise ApiError(
                501, "This server has no guard. Its operator can configure one.", code="not_implemented", type=SERVER
            )
        return guardian

    async def guard(exchange: Exchange) -> None:
        await pipeline.enter(exchange)
        bench = _Bench(configured())
        request = await pipeline.read(exchange, parse_guard)
        (assessment,) = await bench.judge(request, [content_of(request.input, request)], request.risks)
        exchange.respond(200, orjson.dumps(bench.answer(request, _verdicts(assessment))))

    async def scan(exchange: Exchange) -> None:
        await pipeline.enter(exchange)
        bench = _Bench(configured())
        request = await pipeline.read(exchange, parse_guard_scan)
        (assessment,) = await bench.judge(request, [content_of(request.input, request)], ())
        highest = max(assessment.flagged, key=lambda verdict: verdict.score, default=None)
        answer = bench.answer(request, _verdicts(assessment))
        exchange.respond(200, orjson.dumps({**answer, "highest_risk": highest.risk if highest else None}))

    async def batch(exchange: Exchange) -> None:
        await pipeline.enter(exchange)
        bench = _Bench(configured())
        request = await pipeline.read(exchange, parse_guard_batch)
        contents = [content_of(each, request) for each in request.inputs]
        assessments = await bench.judge(request, contents, request.risks)
        results = [{"index": index, **_verdicts(each)} for index, each in enumerate(assessments)]
        exchange.respond(200, orjson.dumps(bench.answer(request, {"results": results})))

    async def moderate(exchange: Exchange) -> None:
        await pipeline.enter(exchange)
        bench = _Bench(configured())
        request = await pipeline.read(exchange, parse_moderation)
        if request.model is not None and request.model.startswith(_OPENAI):
            request = request.model_copy(update={"model": None})
        assessments = await bench.judge(request, [Content(text) for text in request.input], ())
        answer = {
            "id": new_id("modr-"),
            "model": request.model or EVERYBODY,
            "results": [_moderation(each) for each in assessments],
        }
        exchange.respond(200, orjson.dumps(answer))

    declared: dict[str, Any] = {
        "scope": Scope.INFERENCE,
        "limit_class": LimitClass.REQUEST,
        "guard": GuardPolicy.EVALUATION,
        "runs_model": True,
    }
    return [
        Route(
            "POST",
            "/v1/guard",
            guard,
            "Judge a text for risks",
            request=GuardRequest,
            response=GuardAnswer,
            **declared,
        ),
        Route(
            "POST",
            "/v1/guard/batch",
            batch,
            "Judge many texts for risks",
            request=GuardBatchRequest,
            response=GuardBatchAnswer,
            **declared,
        ),
        Route(
            "POST",
            "/v1/guard/scan",
            scan,
            "Judge a text for every risk",
            request=GuardScanRequest,
            response=GuardScanAnswer,
            **declared,
        ),
        Route(
            "POST",
            "/v1/moderations",
            moderate,
            "Judge texts by OpenAI's categories",
            request=ModerationRequest,
            response=ModerationAnswer,
            **declared,
        ),
    ]


class _Bench:
    """One call: which evaluators, which risks, and how long it took."""

    def __init__(self, guardian: Guardian) -> None:
        self._guardian = guardian
        self._began = time.monotonic()

    async def judge(self, question: _Question, contents: Sequence[Content], risks: Sequence[str]) -> list[Assessment]:
        """An assessment of every content. Raises :class:`ApiError`: 400, 404, 501, or 503 if one has no verdict."""
        panel = self._guardian.court.panel
        if question.model is not None and question.model not in panel.names:
            raise model_not_found()
        judged = panel.judged_by(question.model)
        for index, risk in enumerate(risks):
            _require_judged(risk, judged, index)
        policy = self._guardian.policies.base
        limits = self._guardian.court.thresholds(policy)
        found = await asyncio.gather(
            *(
                panel.assess(
                    content,
                    {risk: limits.get(risk, 0.5) for risk in (risks or sorted(judged)) if _fits(risk, content)},
                    stage=ENDPOINT,
                    seconds=policy.timeout,
                    only=question.model,
                )
                for content in contents
            )
        )
        if any(each.failed for each in found):
            raise guardian_unavailable()
        return found

    def answer(self, question: _Question, said: Mapping[str, Any]) -> dict[str, Any]:
        """``said`` with who judged and how long it took."""
        elapsed = (time.monotonic() - self._began) * 1000
        return {"model": question.model or EVERYBODY, **said, "latency_ms": round(elapsed, 3)}


def _require_judged(risk: str, judged: frozenset[str], index: int) -> None:
    if risk in judged:
        return
    if known_risk(risk):
        raise ApiError(
            501,
            f"No evaluator of this server judges '{risk}'.",
            code="not_implemented",
            param=f"risks[{index}]",
            type=SERVER,
        )
    allowed = ", ".join(f"'{name}'" for name in sorted({*RISKS, *judged}))
    raise not_one_of(risk, allowed).at(f"risks[{index}]")


def _fits(risk: str, content: Content) -> bool:
    return all(getattr(content, name) is not None for name in needs(risk))


def _verdicts(assessment: Assessment) -> dict[str, Any]:
    return {"flagged": bool(assessment.flagged), "verdicts": [_verdict(each) for each in assessment.verdicts]}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "risk": verdict.risk,
        "unsafe": verdict.unsafe,
        "confidence": round(verdict.confidence, 6),
        "reasoning": verdict.reasoning,
    }


def _moderation(assessment: Assessment) -> dict[str, Any]:
    by_risk = {verdict.risk: verdict for verdict in assessment.verdicts}
    found = {category: by_risk.get(category) or by_risk.get(risk or "") for category, risk in CATEGORY_RISKS.items()}
    return {
        "flagged": bool(assessment.flagged),
        "categories": {name: verdict is not None and verdict.unsafe for name, verdict in found.items()},
        "category_scores": {name: 0.0 if verdict is None else verdict.score for name, verdict in found.items()},
        "category_applied_input_types": {name: [] if verdict is None else ["text"] for name, verdict in found.items()},
        "categories_not_checked": [name for name, verdict in found.items() if verdict is None],
    }
