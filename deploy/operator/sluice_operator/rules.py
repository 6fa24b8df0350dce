"""What the schema of single fields cannot say, once as CEL for the API server and once for the operator itself.

Clusters before 1.25 do not run CEL, and one that does may be asked with validation off: the operator checks again and
says `Valid=False`. A test holds both forms equal on random specifications.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from sluice_operator.spec import RESERVED, Spec

#: A Service's name has no dot and begins with a letter; what is put behind it must fit into 63 characters.
NAME: Final = r"^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$"


_NAME: Final = re.compile(NAME)


class Invalid(Exception):
    """The specification cannot be carried out; the message names the fields."""


@dataclass(frozen=True)
class Rule:
    """One rule over several fields of ``spec``: as CEL on ``self``, as a predicate, and what is said when it is broken.

    CEL does not see fields without a declared type (``config``): such a rule is the operator's alone, and has no CEL.
    """

    cel: str | None
    holds: Callable[[Spec], bool]
    message: str


def _reserved_kept(spec: Spec) -> bool:
    return not any(name in spec.config for name in RESERVED)


RULES: Final = (
    Rule(
        "!(has(self.replicas) && has(self.autoscaling))",
        lambda spec: spec.replicas is None or spec.autoscaling is None,
        "replicas and autoscaling: choose one",
    ),
    Rule(
        "!has(self.autoscaling) || (has(self.autoscaling.minReplicas) ? self.autoscaling.minReplicas : 1)"
        " <= (has(self.autoscaling.maxReplicas) ? self.autoscaling.maxReplicas : 3)",
        lambda spec: spec.autoscaling is None or spec.autoscaling.min_replicas <= spec.autoscaling.max_replicas,
        "autoscaling.minReplicas must not be above autoscaling.maxReplicas",
    ),
    Rule(
        "!has(self.autoscaling) || !has(self.autoscaling.minReplicas) || self.autoscaling.minReplicas > 0"
        " || (has(self.autoscaling.by) && self.autoscaling.by == 'ScaledObject')",
        lambda spec: (
            spec.autoscaling is None or spec.autoscaling.min_replicas > 0 or spec.autoscaling.by == "ScaledObject"
        ),
        "autoscaling.minReplicas: 0 needs autoscaling.by: ScaledObject",
    ),
    Rule(
        "!has(self.autoscaling) || !has(self.autoscaling.by) || self.autoscaling.by != 'ScaledObject'"
        " || (has(self.metrics) && has(self.metrics.prometheusURL))",
        lambda spec: (
            spec.autoscaling is None or spec.autoscaling.by != "ScaledObject" or spec.metrics.prometheus_url is not None
        ),
        "autoscaling.by: ScaledObject needs metrics.prometheusURL",
    ),
    Rule(
        "!has(self.canary) || (has(self.metrics) && has(self.metrics.prometheusURL))",
        lambda spec: spec.canary is None or spec.metrics.prometheus_url is not None,
        "canary needs metrics.prometheusURL: without metrics nothing could roll it back",
    ),
    Rule(
        "!has(self.canary) || self.canary.version != (has(self.model.version) ? self.model.version : 'v1')",
        lambda spec: spec.canary is None or spec.canary.version != spec.model.version,
        "canary.version must differ from model.version",
    ),
    Rule(
        None,
        lambda spec: spec.guard is None or "guard" not in spec.config,
        "guard and config.guard: choose one",
    ),
    Rule(
        None,
        lambda spec: spec.limits is None or "limits" not in spec.config,
        "limits and config.limits: choose one",
    ),
    Rule(
        None,
        _reserved_kept,
        f"config: the operator sets {', '.join(RESERVED)} itself",
    ),
)

#: On the whole object, of which CEL sees the name.
NAME_RULE: Final = (f"self.metadata.name.matches('{NAME}')", "metadata.name: a letter, then a-z, 0-9, -, at most 52")


def _said(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:10])


def parse(raw: Mapping[str, Any], name: str) -> Spec:
    """The specification of the service called ``name``. Raises :class:`Invalid`."""
    try:
        # Strict, but an integer is a number: JSON does not tell 2 from 2.0.
        spec = Spec.model_validate(dict(raw), by_name=False)
    except ValidationError as error:
        raise Invalid(_said(error)) from None
    broken = [rule.message for rule in RULES if not rule.holds(spec)]
    if not _NAME.fullmatch(name):
        broken.append(NAME_RULE[1])
    if broken:
        raise Invalid("; ".join(broken))
    return spec
