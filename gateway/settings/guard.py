"""What is checked before, during and after a generation, by whom, and what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import regex
from pydantic import Field, field_validator, model_validator

from gateway.guardian.policy import DEFAULT_THRESHOLD, Policy, PolicySet, StreamPolicy
from gateway.guardian.risks import RISKS
from gateway.guardian.templates import GuardFormat
from gateway.settings.section import Section

Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class RulesSettings(Section):
    """Patterns, secrets, personal data."""

    kind: Literal["rules"] = Field(description="The kind of evaluator.")
    name: str = Field("rules", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Its name in metrics and logs.")
    patterns: dict[str, str] = Field(
        {}, description="Regular expressions by the name of their risk, read without regard to case."
    )
    secrets: bool = Field(True, description="Look for keys, tokens and passwords (risk `secrets`).")
    pii: bool = Field(
        True, description="Look for e-mail addresses, phone, card, account and social security numbers (risk `pii`)."
    )

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: dict[str, str]) -> dict[str, str]:
        for risk, pattern in patterns.items():
            try:
                compiled = regex.compile(pattern, regex.IGNORECASE)
            except regex.error as error:
                raise ValueError(f"{risk}: not a regular expression: {error}") from None
            if compiled.search(""):
                raise ValueError(f"{risk}: it matches an empty text, so every text")
        return patterns

    @model_validator(mode="after")
    def _check_anything(self) -> Self:
        if not (self.patterns or self.secrets or self.pii):
            raise ValueError("no patterns, and neither secrets nor pii: it would judge nothing")
        return self


class ModerationSettings(Section):
    """An OpenAI-compatible moderation endpoint elsewhere."""

    kind: Literal["moderation"] = Field(description="The kind of evaluator.")
    name: str = Field("moderation", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Its name in metrics and logs.")
    url: str = Field(pattern=r"^https?://", description="Its address, up to and without `/moderations`.")
    api_key_file: Path | None = Field(None, description="A file that holds its API key.")
    model: str | None = Field(None, description="The `model` to ask for; default: the endpoint's own.")
    window: int = Field(8000, ge=256, description="Characters per question; longer texts are asked about in pieces.")


class GuardModelSettings(Section):
    """A guard model of this server, or an adapter on one of its models."""

    kind: Literal["model"] = Field(description="The kind of evaluator.")
    name: str = Field("model", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Its name in metrics and logs.")
    model: str = Field(min_length=1, description="The id of a model of this server.")
    adapter: str | None = Field(None, description="A LoRA adapter on it; default: the model itself.")
    format: GuardFormat = Field("granite-3.2", description="How it is asked.")
    risks: list[str] = Field([], description="The risks it judges; default: all that its format knows.")
    window: int = Field(4000, ge=256, description="Characters per question; longer texts are asked about in pieces.")

    @field_validator("risks")
    @classmethod
    def _known(cls, risks: list[str]) -> list[str]:
        for risk in risks:
            if risk not in RISKS:
                raise ValueError(f"{risk}: not one of {', '.join(RISKS)}")
        return risks


class ClassifierSettings(Section):
    """A sequence classifier of this server."""

    kind: Literal["classifier"] = Field(description="The kind of evaluator.")
    name: str = Field("classifier", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Its name in metrics and logs.")
    model: str = Field(min_length=1, description="The id of a model of this server, of the kind `classify`.")
    labels: dict[str, str] = Field(
        min_length=1, description="The risk that each of its labels shows; labels that show none are left out."
    )
    window: int = Field(1500, ge=64, description="Characters per question; longer texts are asked about in pieces.")


class SampleSettings(Section):
    """The embedded demonstration guard: a small classifier of attempts to talk a model out of its rules. It shows how
    a guard works; it does not protect anything.
    """

    kind: Literal["sample"] = Field(description="The kind of evaluator.")
    name: str = Field("sample", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Its name in metrics and logs.")


AnyEvaluator: TypeAlias = RulesSettings | ModerationSettings | GuardModelSettings | ClassifierSettings | SampleSettings
EvaluatorSettings = Annotated[AnyEvaluator, Field(discriminator="kind")]


class StreamGuardSettings(Section):
    """How output is held back while it is looked at."""

    window: int = Field(1000, ge=64, le=100_000, description="Characters looked at each time.")
    hold_back: int = Field(160, ge=1, le=50_000, description="Characters never sent before more was seen behind them.")
    step: int = Field(80, ge=1, le=50_000, description="New output that calls for another look.")
    unit: Literal["characters", "tokens", "sentences"] = Field("characters", description="What `step` counts.")
    on_flag: Literal["finish", "error"] = Field(
        "finish", description="End a cut answer with finish_reason `content_filter`, or with an error."
    )


class GuardPolicySettings(Section):
    """What is checked, how strictly, and what happens then."""

    risks: dict[str, Threshold] | None = Field(
        None, description="Thresholds by risk, or a list of risks; default: all that the evaluators judge, at 0.5."
    )
    input: bool = Field(True, description="Check what requests say.")
    output: bool = Field(False, description="Check what models say.")
    system: bool = Field(True, description="System messages are part of the input.")
    tools: bool = Field(True, description="Results and declarations of tools are part of the input.")
    action: Literal["block", "annotate", "redact", "shadow"] = Field(
        "block",
        description="Stop it, let it through with a header, take it out, or only count it. What cannot be taken out is "
        "stopped.",
    )
    on_failure: Literal["closed", "open"] = Field(
        "closed", description="Without a verdict: answer 503, or let it through."
    )
    timeout: float = Field(2.0, gt=0, le=600, description="Seconds that one look may take.")
    sample: float = Field(1.0, ge=0, le=1, description="Share of requests that shadow mode looks at.")
    stream: StreamGuardSettings = StreamGuardSettings()

    @field_validator("risks", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return dict.fromkeys(value, DEFAULT_THRESHOLD) if isinstance(value, list) else value

    @field_validator("risks")
    @classmethod
    def _some(cls, risks: dict[str, float] | None) -> dict[str, float] | None:
        if risks is not None and not risks:
            raise ValueError("an empty list: nothing would be looked for; leave it out for all risks")
        return risks

    def change(self) -> dict[str, Any]:
        """What of it was set, for :func:`gateway.guardian.policy.changed`."""
        return self.model_dump(exclude_unset=True)

    def policy(self) -> Policy:
        """The whole of it."""
        values = self.model_dump()
        return Policy(**{**values, "stream": StreamPolicy(**values["stream"])})


class GuardPolicies(Section):
    """The policy of the deployment, and what differs for some."""

    policy: GuardPolicySettings = GuardPolicySettings()
    models: dict[str, GuardPolicySettings] = Field({}, description="What differs for a model, by its id.")
    routes: dict[str, GuardPolicySettings] = Field({}, description="What differs for a route, by its path.")
    keys: dict[str, GuardPolicySettings] = Field({}, description="What differs for keys that name this guard policy.")

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        for policy in (self.policy, *self.models.values(), *self.routes.values(), *self.keys.values()):
            if policy.stream.window < policy.stream.hold_back:
                raise ValueError("stream.window is smaller than stream.hold_back")
        return self

    def policies(self) -> PolicySet:
        """All policies together."""
        return PolicySet(
            self.policy.policy(),
            {name: each.change() for name, each in self.models.items()},
            {name: each.change() for name, each in self.routes.items()},
            {name: each.change() for name, each in self.keys.items()},
        )


class GuardSettings(GuardPolicies):
    """The guard. Without evaluators there is none."""

    evaluators: list[EvaluatorSettings] = Field([], description="Who judges; by `kind`.")
    cache_entries: int = Field(50_000, ge=0, description="Verdicts remembered by the hash of what was judged.")
    concurrency: int = Field(32, ge=1, description="Questions to one evaluator at once; more wait within the timeout.")
    audit_text: bool = Field(False, description="Keep what was blocked in the audit log, not only its hash.")
    unready_on_failure: bool = Field(
        False,
        description="While an evaluator does not answer `/readyz` is 503; else it stays 200 and names it.",
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [each.name for each in self.evaluators]
        if len(set(names)) != len(names):
            raise ValueError("two evaluators have one name: give each its own `name`")
        return self
