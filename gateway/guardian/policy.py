"""What is checked, how strictly, and what happens then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from gateway.guardian.check import Passage, Passages, Subject, TokenPassage

Action = Literal["block", "annotate", "redact", "shadow"]
StepUnit = Literal["characters", "tokens", "sentences"]

DEFAULT_THRESHOLD: Final = 0.5
#: Without the end of a sentence for so many characters, they are looked at all the same.
LONGEST_SENTENCE: Final = 400


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How output is held back. In characters: ``hold_back`` are never sent before more has been seen behind them,
    ``window`` are looked at each time. ``step`` is how much new output (in ``unit``) calls for another look.
    """

    window: int = 1000
    hold_back: int = 160
    step: int = 80
    unit: StepUnit = "characters"
    on_flag: Literal["finish", "error"] = "finish"


@dataclass(frozen=True, slots=True)
class Policy:
    """``risks``: threshold by name; None: all that the evaluators judge, at the default threshold.

    ``system``, ``tools``: whether system messages, and results and declarations of tools, are part of the input.
    ``timeout`` in seconds is what the guard may take for one look; ``sample`` the share looked at in shadow.
    """

    risks: Mapping[str, float] | None = None
    input: bool = True
    output: bool = False
    system: bool = True
    tools: bool = True
    action: Action = "block"
    on_failure: Literal["closed", "open"] = "closed"
    timeout: float = 2.0
    sample: float = 1.0
    stream: StreamPolicy = field(default_factory=StreamPolicy)

    def selected(self, passages: Passages) -> list[str | Passage | TokenPassage]:
        """Those of ``passages`` that this policy checks."""
        return [passage for passage in passages if not isinstance(passage, Passage) or self._reads(passage)]

    def _reads(self, passage: Passage) -> bool:
        if passage.source == "system":
            return self.system
        return self.tools or passage.source not in ("tool", "tools")


Change = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PolicySet:
    """The policy of the deployment, and what differs by model, by route and by the policy that a key names.

    What is more particular wins, setting by setting: a key's policy over a route's over a model's.
    """

    base: Policy = field(default_factory=Policy)
    models: Mapping[str, Change] = field(default_factory=dict)
    routes: Mapping[str, Change] = field(default_factory=dict)
    keys: Mapping[str, Change] = field(default_factory=dict)

    def policy(self, subject: Subject) -> Policy:
        """What applies to ``subject``."""
        named = subject.principal.guard_policy
        policy = self.base
        for change in (
            self.models.get(subject.model or ""),
            self.models.get(f"{subject.model}:{subject.adapter}") if subject.adapter else None,
            self.routes.get(subject.route),
            self.keys.get(named) if named is not None else None,
        ):
            if change:
                policy = changed(policy, change)
        return policy


def changed(policy: Policy, change: Change) -> Policy:
    """``policy`` with the settings of ``change``; those of ``stream`` one by one."""
    values = dict(change)
    if "stream" in values:
        values["stream"] = replace(policy.stream, **values["stream"])
    return replace(policy, **values)
