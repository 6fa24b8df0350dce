"""From texts to consequences: asks the panel under a policy, counts, keeps the audit, and says what is to happen."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import ApiError, ErrorVerdict, content_policy_violation, guardian_unavailable
from gateway.guardian.check import Subject
from gateway.guardian.holdback import Ruling
from gateway.guardian.observer import GuardObserver
from gateway.guardian.panel import Assessment, Panel
from gateway.guardian.policy import DEFAULT_THRESHOLD, Policy
from gateway.guardian.risks import needs
from gateway.guardian.verdicts import Content, Verdict
from gateway.guardian.verdicts import Span as TextSpan
from gateway.observability.tracing.span import NO_SPAN, Attributes, Span
from gateway.store.audit import AuditEntry

INPUT: Final = "input"
OUTPUT: Final = "output"
#: The act of an audit entry.
BLOCKED: Final = "guard.block"


@dataclass(frozen=True, slots=True)
class Heard:
    """The panel's word on several texts, in order. ``failed``: some of it was not judged."""

    contents: Sequence[Content]
    assessments: Sequence[Assessment]

    @property
    def failed(self) -> bool:
        """Whether some risk of some text has no verdict."""
        return any(each.failed for each in self.assessments)

    @property
    def flagged(self) -> tuple[Verdict, ...]:
        """Unsafe verdicts, the worst for each risk."""
        worst: dict[str, Verdict] = {}
        for assessment in self.assessments:
            for verdict in assessment.flagged:
                if verdict.risk not in worst or worst[verdict.risk].score < verdict.score:
                    worst[verdict.risk] = verdict
        return tuple(worst.values())


class Court:
    """One deployment's panel with its audit. ``keep_text``: audit entries carry the text itself, not only its hash."""

    def __init__(
        self,
        panel: Panel,
        observer: GuardObserver,
        audit: Callable[[AuditEntry], None],
        *,
        keep_text: bool = False,
    ) -> None:
        self.panel = panel
        self.observer = observer
        self._audit = audit
        self._keep_text = keep_text

    def thresholds(self, policy: Policy) -> Mapping[str, float]:
        """The risks that ``policy`` asks about."""
        if policy.risks is not None:
            return policy.risks
        return dict.fromkeys(sorted(self.panel.risks), DEFAULT_THRESHOLD)

    async def hear(
        self,
        contents: Sequence[Content],
        policy: Policy,
        stage: str,
        *,
        glued: Sequence[Content] = (),
        remember: bool = True,
        span: Span = NO_SPAN,
    ) -> Heard:
        """Have all ``contents`` judged at once, and ``glued`` by evaluators that need no model, within ``span``."""
        thresholds = self.thresholds(policy)

        def assess(content: Content, *, learned: bool) -> Awaitable[Assessment]:
            return self.panel.assess(
                content,
                {risk: threshold for risk, threshold in thresholds.items() if _fits(risk, content)},
                stage=stage,
                seconds=policy.timeout,
                remember=remember,
                learned=learned,
                span=span,
            )

        assessments = await asyncio.gather(
            *(assess(each, learned=True) for each in contents), *(assess(each, learned=False) for each in glued)
        )
        return Heard([*contents, *glued], assessments)

    def require_judged(self, heard: Heard, policy: Policy) -> None:
        """Raise 503 if something was not judged and the policy fails closed."""
        if heard.failed and policy.on_failure == "closed":
            raise guardian_unavailable()

    def require_safe(self, heard: Heard, subject: Subject, stage: str) -> None:
        """Raise 400 for anything flagged."""
        if heard.flagged:
            raise self.block(heard, subject, stage)

    def block(self, heard: Heard, subject: Subject, stage: str) -> ApiError:
        """Record that ``heard`` is stopped; the error that says so."""
        self.record(heard, subject, stage, "block")
        return content_policy_violation(wire_verdicts(heard.flagged), param=subject.param if stage == INPUT else None)

    def record(self, heard: Heard, subject: Subject, stage: str, action: str) -> None:
        """Count what follows from ``heard``, and put it into the audit log."""
        self.observer.acted(stage, action)
        flagged = [
            content.judged for content, each in zip(heard.contents, heard.assessments, strict=True) if each.flagged
        ]
        detail: dict[str, Any] = {
            "stage": stage,
            "action": action,
            "risks": {verdict.risk: round(verdict.score, 4) for verdict in heard.flagged},
            "model": subject.model,
            "tenant": subject.principal.tenant,
            "sha256": [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in flagged],
        }
        if self._keep_text:
            detail["text"] = flagged
        self._audit(
            AuditEntry(
                ts=time.time(),
                actor=subject.principal.id,
                act=BLOCKED if action == "block" else f"guard.{action}",
                allowed=action != "block",
                target=subject.route or None,
                detail=detail,
                client_ip=subject.address or None,
                request_id=subject.request_id or None,
            )
        )


def _fits(risk: str, content: Content) -> bool:
    """Whether ``content`` has what ``risk`` is about: a question alone is no bad answer."""
    return all(getattr(content, name) is not None for name in needs(risk))


def wire_verdicts(verdicts: Sequence[Verdict]) -> tuple[ErrorVerdict, ...]:
    """As an error body carries them."""
    return tuple(ErrorVerdict(each.risk, each.unsafe, round(each.confidence, 4)) for each in verdicts)


def told_of(heard: Heard) -> Attributes:
    """What a span says of a hearing: how much was judged and what was flagged, never a word of it."""
    return {
        "sluice.guard.texts": len(heard.contents),
        "sluice.guard.flagged": tuple(sorted(verdict.risk for verdict in heard.flagged)) or None,
        "sluice.guard.unjudged": True if heard.failed else None,
    }


def ruling(assessment: Assessment, *, redact: bool) -> Ruling:
    """What becomes of an output: redacted where everything flagged knows its place, else stopped."""
    flagged = assessment.flagged
    if not flagged:
        return Ruling(stop=False)
    if redact and all(verdict.spans for verdict in flagged):
        return Ruling(stop=False, spans=spans_of(flagged))
    return Ruling(stop=True)


def spans_of(verdicts: Sequence[Verdict]) -> tuple[TextSpan, ...]:
    """Where everything flagged stands."""
    return tuple(sorted(span for verdict in verdicts for span in verdict.spans))
