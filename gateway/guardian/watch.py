"""One request under guard. Its input is judged while it is admitted and prefilled, its output while it is generated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Final, TypeVar

from engine.types import DeltaSink, Engine
from gateway.guardian.check import Outlet, Passage, Passages, Subject, TokenPassage
from gateway.guardian.court import INPUT, OUTPUT, Court, Heard, ruling, spans_of, told_of
from gateway.guardian.curtain import Curtain
from gateway.guardian.held import without
from gateway.guardian.holdback import HoldBack, Ruling
from gateway.guardian.policy import Policy
from gateway.guardian.substitute import substituted
from gateway.guardian.tap import Tap
from gateway.guardian.verdicts import Content
from gateway.observability.tracing.span import NO_SPAN, Span

R = TypeVar("R")

#: Characters of the question that an answer is judged with; it was judged itself as input.
MAX_PROMPT: Final = 2000

Background = Callable[[Coroutine[object, object, None]], None]


class RequestWatch:
    """See :class:`gateway.guardian.check.Watch`.

    ``background`` takes work that nobody waits for; ``looked_at``: this request is in the sample of shadow mode.
    """

    def __init__(
        self, court: Court, engine: Engine, policy: Policy, subject: Subject, background: Background, *, looked_at: bool
    ) -> None:
        self._court = court
        self._engine = engine
        self._policy = policy
        self._subject = subject
        self._background = background
        self._looked_at = looked_at
        self._holds_input = policy.input and policy.action in ("block", "annotate")
        self._holds_output = policy.output and policy.action in ("block", "redact")
        self._hears_output = policy.output and policy.action in ("annotate", "shadow") and looked_at
        self._curtain: Curtain | None = None
        self._hold: HoldBack | None = None
        self._tap: Tap | None = None
        self._passed = asyncio.Event()
        if not self._holds_input:
            self._passed.set()
        self._prompt = ""
        self._streamed = False
        self.flagged = False

    @property
    def streams(self) -> bool:
        """See :class:`gateway.guardian.check.Watch`."""
        return self._holds_output

    # -- input ----------------------------------------------------------------------------------------------------

    async def screen(self, request: R, passages: Callable[[R], Passages]) -> R:
        """See :class:`gateway.guardian.check.Watch`."""
        if not (self._policy.input and self._policy.action == "redact"):
            return request
        heard = await self._hear_input(passages(request))
        if not heard.flagged:
            return request
        self._court.record(heard, self._subject, INPUT, "redact")
        request = substituted(request, _redacted(heard))
        # What cannot be taken out (it spans messages, or nobody knows where it stands) is still there.
        self._court.require_safe(await self._hear_input(passages(request)), self._subject, INPUT)
        return request

    def over(self, passages: Callable[[], Passages]) -> AbstractAsyncContextManager[object]:
        """See :class:`gateway.guardian.check.Watch`."""
        if self._policy.output:
            self._prompt = _last_of_user(passages())[-MAX_PROMPT:]
        if self._holds_input:
            return _Meanwhile(self._check(passages()), self._lift)
        if self._policy.input and self._policy.action == "shadow" and self._looked_at:
            self._background(self._shadow(passages()))
        return nullcontext()

    async def _check(self, passages: Passages) -> None:
        heard = await self._hear_input(passages)
        if not heard.flagged:
            return
        if self._policy.action == "annotate":
            self.flagged = True
            self._court.record(heard, self._subject, INPUT, "annotate")
            return
        raise self._court.block(heard, self._subject, INPUT)

    async def _hear_input(self, passages: Passages) -> Heard:
        with self._subject.span.child("guard input") as span:
            heard = await self._judge_input(passages, span)
            span.set(told_of(heard))
        if not heard.flagged:
            self._court.require_judged(heard, self._policy)
        return heard

    async def _judge_input(self, passages: Passages, span: Span = NO_SPAN) -> Heard:
        """Every passage by itself, and all of them as the model reads them: one after another."""
        selected = self._policy.selected(passages)
        labels = [each for each in selected if isinstance(each, Passage) and each.label]
        read = [each for each in selected if not (isinstance(each, Passage) and each.label)]
        texts = [await self._text(each) for each in read]
        joined = ["\n".join(texts)] if len(texts) > 1 else []
        contents = [Content(text) for text in dict.fromkeys([*texts, *joined]) if text.strip()]
        glued = dict.fromkeys([*_glued(read, texts), *(each.text for each in labels), _in_a_row(labels)])
        glued_contents = [Content(text) for text in glued if text.strip()]
        return await self._court.hear(contents, self._policy, INPUT, glued=glued_contents, span=span)

    async def check(self, passages: Passages) -> None:
        """Judge the input of a request that has no output, and wait for it. Raises as :meth:`over`."""
        if not self._policy.input:
            return
        if self._policy.action != "shadow":
            await self._check(passages)
        elif self._looked_at:
            self._background(self._shadow(passages))

    async def _shadow(self, passages: Passages) -> None:
        heard = await self._judge_input(passages)
        if heard.flagged:
            self._court.record(heard, self._subject, INPUT, "shadow")

    async def _text(self, passage: str | Passage | TokenPassage) -> str:
        if isinstance(passage, str):
            return passage
        if isinstance(passage, Passage):
            return passage.text
        return await self._engine.detokenize(self._subject.model or "", passage.token_ids)

    def _lift(self) -> None:
        self._passed.set()
        if self._curtain is not None:
            self._curtain.lift()

    # -- output ---------------------------------------------------------------------------------------------------

    def sink(self, outlet: Outlet) -> DeltaSink:
        """See :class:`gateway.guardian.check.Watch`."""
        sink = outlet.sink
        if self._hears_output:
            sink = self._tap = Tap(outlet)
        if not self._passed.is_set():
            sink = self._curtain = Curtain(sink, outlet.meter)
        if self._holds_output:
            outlet = Outlet(sink, outlet.meter, outlet.choices, outlet.max_tokens)
            sink = self._hold = HoldBack(outlet, self._policy.stream, self._judge)
        return sink

    async def run(self, generation: Awaitable[None]) -> None:
        """See :class:`gateway.guardian.check.Watch`."""
        work = asyncio.ensure_future(generation)
        pump = None if self._hold is None else asyncio.ensure_future(self._hold.pump())
        try:
            if pump is None:
                await work
            else:
                await self._follow(work, pump)
            await self._passed.wait()
        finally:
            await _end(work, pump)
        await self._listen()

    async def _follow(self, work: asyncio.Future[None], pump: asyncio.Future[None]) -> None:
        assert self._hold is not None
        await asyncio.wait({work, pump}, return_when=asyncio.FIRST_COMPLETED)
        if pump.done() and (pump.exception() is not None or self._hold.unfinished):
            if not work.done():
                self._court.observer.saved(self._hold.saved())
                await _end(work)
        else:
            await work
        await pump

    async def _judge(self, texts: Sequence[str]) -> Sequence[Ruling]:
        contents = [Content(self._prompt, text) for text in texts]
        with self._subject.span.child("guard output") as span:
            heard = await self._court.hear(contents, self._policy, OUTPUT, remember=False, span=span)
            span.set(told_of(heard))
        rulings = [ruling(each, redact=self._policy.action == "redact") for each in heard.assessments]
        if any(each.stop for each in rulings):
            error = self._court.block(heard, self._subject, OUTPUT)
            if self._policy.stream.on_flag == "error":
                raise error
            return rulings
        self._court.require_judged(heard, self._policy)
        if heard.flagged:
            self._court.observer.acted(OUTPUT, "redact")
        return rulings

    async def _listen(self) -> None:
        """Judge what was said when everything has been: for a header of a whole answer, or for the books."""
        if self._tap is None:
            return
        contents = [Content(self._prompt, text) for text in self._tap.heard()]
        if self._policy.action == "shadow":
            self._background(self._hear_output(contents))
        else:
            await self._hear_output(contents)

    async def _hear_output(self, contents: Sequence[Content]) -> None:
        heard = await self._court.hear(contents, self._policy, OUTPUT, remember=False)
        if heard.flagged:
            self.flagged = True
            self._court.record(heard, self._subject, OUTPUT, self._policy.action)


class _Meanwhile:
    """Runs ``check`` while a block runs: the block ends with what ``check`` raises, and goes on behind ``passed``.

    The way of :func:`asyncio.timeout`: the task is cancelled, and the cancellation becomes the error.
    """

    def __init__(self, check: Coroutine[object, object, None], passed: Callable[[], None]) -> None:
        self._coroutine = check
        self._on_passed = passed
        self._failure: BaseException | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._check = asyncio.ensure_future(self._coroutine)
        self._check.add_done_callback(self._done)

    def _done(self, check: asyncio.Future[None]) -> None:
        if check.cancelled():
            return
        self._failure = check.exception()
        if self._failure is None:
            self._on_passed()
        else:
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._check.remove_done_callback(self._done)
        if self._failure is not None:
            if self._task.uncancel() <= self._cancelling and kind in (None, asyncio.CancelledError):
                raise self._failure from None
            return
        await _end(self._check)


async def _end(*futures: asyncio.Future[None] | None) -> None:
    """Cancel what still runs, and wait until it has ended."""
    running = [future for future in futures if future is not None]
    for future in running:
        future.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _redacted(heard: Heard) -> dict[str, str]:
    return {
        content.judged: without(content.judged, 0, spans_of(each.flagged))
        for content, each in zip(heard.contents, heard.assessments, strict=True)
        if each.flagged
    }


def _glued(passages: Passages, texts: Sequence[str]) -> list[str]:
    """``texts`` without anything between them, as a model puts together what is said to it piece by piece: all; all
    but its own, which stand in between; and each speaker's alone.
    """
    if len(texts) < 2:
        return []
    spoken = list(zip(passages, texts, strict=True))
    speakers = dict.fromkeys(each.source for each in passages if isinstance(each, Passage))
    return [
        "".join(texts),
        "".join(text for each, text in spoken if not _by_model(each)),
        *(
            "".join(text for each, text in spoken if isinstance(each, Passage) and each.source == who)
            for who in speakers
        ),
    ]


def _in_a_row(labels: Sequence[Passage]) -> str:
    return "".join(dict.fromkeys(each.text for each in labels))


def _by_model(passage: str | Passage | TokenPassage) -> bool:
    return isinstance(passage, Passage) and passage.source == "assistant"


def _last_of_user(passages: Passages) -> str:
    for passage in reversed(passages):
        if isinstance(passage, str):
            return passage
        if isinstance(passage, Passage) and passage.source == "user":
            return passage.text
    return ""
