"""A guard model of the pool, or an adapter on one, as an evaluator: all risks of a text are one batch on its engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import orjson

from engine.types import (
    AdapterHold,
    Constraint,
    Conversation,
    Delta,
    Engine,
    EngineError,
    GenerationRequest,
    Prompt,
    PromptTooLong,
    Sampling,
)
from gateway.guardian.cache import digest
from gateway.guardian.risks import DEFINITIONS
from gateway.guardian.templates import GuardFormat, Question, ask, read_choice, read_text
from gateway.guardian.verdicts import Content, Finding, GuardFailure
from gateway.protocol.encode import new_id
from gateway.usage.ledger import Ledger
from gateway.usage.life import Life

#: Before everything that waits at the engine: somebody's answer waits for it.
PRIORITY: Final = -(2**40)
#: Who the guard's own calls are accounted to, as principal and as tenant.
GUARDIAN: Final = "guardian"
#: The route of its rows in the ledger.
ROUTE: Final = "(guard)"
ALTERNATIVES: Final = 20
#: Texts that are too long for the context are halved; what is still too long after so many times is a failure.
MAX_HALVES: Final = 6
_SHORTEST: Final = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """Which model is asked, and how. ``adapter`` None: the model itself."""

    model: str
    style: GuardFormat
    adapter: str | None = None


class GuardModel:
    """See :class:`gateway.guardian.verdicts.Evaluator`.

    Its calls have rows of their own in the ledger, of the principal ``guardian``: they add up with the engine's
    counters, and count on nobody's limits.
    """

    learned = True

    def __init__(
        self, name: str, asked: Asked, engine: Engine, ledger: Ledger, *, risks: Sequence[str] = (), window: int = 4000
    ) -> None:
        self.name = name
        self.window: int | None = window
        self._asked = asked
        self._engine = engine
        self._ledger = ledger
        safe_or_not = asked.style in ("llama-guard", "qwen3guard")
        self.risks = frozenset(risks or (("harm",) if safe_or_not else DEFINITIONS))

    async def evaluate(self, content: Content, risks: Sequence[str]) -> Mapping[str, Finding]:
        """See :class:`gateway.guardian.verdicts.Evaluator`."""
        try:
            return await self._evaluate(content, risks, MAX_HALVES)
        except EngineError as error:
            raise GuardFailure("engine", str(error)) from error

    async def close(self) -> None:
        """See :class:`gateway.guardian.verdicts.Evaluator`."""

    async def _evaluate(self, content: Content, risks: Sequence[str], halves: int) -> dict[str, Finding]:
        questions = [ask(self._style(content), content, risk) for risk in risks]
        try:
            answers = await self._answer(content, questions)
        except PromptTooLong:
            if not halves or len(content.judged) < _SHORTEST:
                raise
            parts = [await self._evaluate(half, risks, halves - 1) for half in _halves(content)]
            return {risk: max((part[risk] for part in parts), key=lambda each: each.score) for risk in risks}
        found = {}
        for risk, question, answer in zip(risks, questions, answers, strict=True):
            positions = answer.logprobs or ()
            found[risk] = read_choice(question, positions) if question.choices else read_text(answer.text, positions)
        return found

    def _style(self, content: Content) -> GuardFormat:
        """The configured way, or the one that the caller wants of a Granite Guardian."""
        if not self._asked.style.startswith("granite") or content.format is None:
            return self._asked.style
        styles: dict[str, GuardFormat] = {"3.0": "granite-3.0", "3.2": "granite-3.2", "3.3": "granite-3.3"}
        return styles[content.format]

    async def _answer(self, content: Content, questions: Sequence[Question]) -> list[Delta]:
        hold = await self._engine.hold(self._asked.model)
        try:
            return await self._answer_loaded(content, questions)
        finally:
            hold.release()

    async def _answer_loaded(self, content: Content, questions: Sequence[Question]) -> list[Delta]:
        prompts = [await self._prompt(question) for question in questions]
        # Only the questions about one text share what is cached of it: nobody can time what others have asked.
        salt = digest(replace(content, format=None, think=False)).hex()
        for constraint in {_constraint(question) for question in questions}:
            await self._engine.constrain(self._asked.model, constraint, None)
        call = new_id("guard-")
        async with self._holding() as hold:
            requests = [
                self._request(f"{call}-{index}", prompt, question, salt, hold)
                for index, (prompt, question) in enumerate(zip(prompts, questions, strict=True))
            ]
            for request in requests:
                self._engine.check(request)
            return await self._run(call, requests)

    async def _run(self, call: str, requests: Sequence[GenerationRequest]) -> list[Delta]:
        life = Life(self._ledger, call)
        sinks = [_Whole(life) for _ in requests]
        life.admitted(
            principal=GUARDIAN,
            tenant=GUARDIAN,
            route=ROUTE,
            model=self._asked.model,
            adapter=self._asked.adapter,
            prompt_tokens=sum(len(request.prompt.token_ids) for request in requests),
            max_tokens=max(request.sampling.max_tokens for request in requests),
            n=len(requests),
        )
        life.dispatched()
        try:
            await _all(self._engine, requests, sinks)
        except EngineError:
            life.failed("guard_failed", completion_tokens=_tokens(life, sinks))
            raise
        except asyncio.CancelledError:
            life.cancelled(completion_tokens=_tokens(life, sinks))
            raise
        reasons = tuple(sink.last.finish_reason or "stop" for sink in sinks)
        life.completed(completion_tokens=_tokens(life, sinks), finish_reasons=reasons)
        return [sink.last for sink in sinks]

    @asynccontextmanager
    async def _holding(self) -> AsyncIterator[AdapterHold | None]:
        if self._asked.adapter is None:
            yield None
            return
        hold = await self._engine.hold_adapter(self._asked.model, self._asked.adapter)
        try:
            yield hold
        finally:
            hold.release()

    async def _prompt(self, question: Question) -> Prompt:
        if question.text is not None:
            return await self._engine.tokenize(self._asked.model, question.text, add_special_tokens=False)
        return await self._engine.render_chat(self._asked.model, Conversation(question.messages))

    def _request(
        self, request_id: str, prompt: Prompt, question: Question, salt: str, hold: AdapterHold | None
    ) -> GenerationRequest:
        return GenerationRequest(
            request_id=request_id,
            model=self._asked.model,
            prompt=prompt,
            sampling=Sampling(max_tokens=question.max_tokens, temperature=0.0, logprobs=ALTERNATIVES),
            stream=False,
            priority=PRIORITY,
            cache_salt=salt,
            constraint=_constraint(question),
            adapter=self._asked.adapter,
            hold=hold,
        )


class _Whole:
    """Keeps the one delta of a whole answer."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.last = Delta(0, "", 0)
        self.cached_tokens = 0

    def text(self, text: str, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self.delta(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._life.first_token()
        self.last = delta

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self.cached_tokens += tokens


async def _all(engine: Engine, requests: Sequence[GenerationRequest], sinks: Sequence[_Whole]) -> None:
    tasks = [asyncio.ensure_future(engine.run(request, sink)) for request, sink in zip(requests, sinks, strict=True)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tokens(life: Life, sinks: Sequence[_Whole]) -> int:
    life.cached_tokens = sum(sink.cached_tokens for sink in sinks)
    return sum(sink.last.tokens for sink in sinks)


def _constraint(question: Question) -> Constraint | None:
    if not question.choices:
        return None
    return Constraint("choice", orjson.dumps(sorted(question.choices)).decode(), "guard")


def _halves(content: Content) -> Iterator[Content]:
    text = content.judged
    middle, overlap = len(text) // 2, len(text) // 16
    yield content.with_judged(text[: middle + overlap])
    yield content.with_judged(text[middle - overlap :])
