"""The CRD, its CEL and the operator's own check say the same about any specification."""

from __future__ import annotations

from typing import Any

import cel
import jsonschema
import kubernetes_validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_operator import crd
from sluice_operator.rules import NAME_RULE, RULES, Invalid, parse
from sluice_operator.spec import Spec
from tests.deploy.helm import ROOT
from tests.deploy.operator.services import EVERYTHING, SMALL, SPECS

#: OpenAPI 3.0 in CRDs descends from this draft (`exclusiveMinimum: true`).
SCHEMA = jsonschema.Draft4Validator(crd.spec_schema())
CRD = ROOT / "deploy" / "operator" / "manifests" / "crd.yaml"


def test_the_committed_definition_is_current() -> None:
    assert CRD.read_text("utf-8") == crd.text(), (
        "run: cd deploy/operator && python -m sluice_operator.crd > manifests/crd.yaml"
    )


@pytest.mark.parametrize("version", ["1.25", "1.30", "1.36"])
def test_the_definition_is_valid_kubernetes(version: str) -> None:
    assert kubernetes_validate.validate(crd.definition(), version, strict=True) == version


def nodes(schema: dict[str, Any], path: str = "spec") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, below in schema.get("properties", {}).items():
        found += nodes(below, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            found += nodes(schema[word], f"{path}[]")
    return found


def test_the_schema_is_structural() -> None:
    """Every node has a type or says that it is free; no reference, no null, no choice (apiextensions' rules)."""
    for path, node in nodes(crd.spec_schema()):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "$defs", "anyOf", "allOf", "oneOf", "default", "title"} & node.keys(), path
        if node.get("type") == "array":
            assert "maxItems" in node, f"{path}: CEL's cost needs a bound"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"replicas": 2, "autoscaling": {}}, "replicas and autoscaling"),
        ({"autoscaling": {"minReplicas": 4}}, "minReplicas must not be above"),
        ({"autoscaling": {"minReplicas": 0}}, "needs autoscaling.by"),
        ({"autoscaling": {"by": "ScaledObject"}}, "needs metrics.prometheusURL"),
        ({"canary": {"version": "v2"}}, "canary needs metrics.prometheusURL"),
        ({"canary": {"version": "v1"}, "metrics": {"prometheusURL": "http://p"}}, "must differ"),
        ({"guard": {"name": "a", "key": "b"}, "config": {"guard": {}}}, "guard and config.guard"),
        ({"limits": {"name": "a", "key": "b"}, "config": {"limits": {}}}, "limits and config.limits"),
        ({"config": {"dev": True}}, "config: the operator sets"),
        ({"model": {"source": ""}}, "model.source"),
        ({"replicaz": 2}, "replicaz"),
        ({"resources": {"limits": {"cpu": "many"}}}, "resources.limits.cpu"),
        ({"canary": {"version": "v2", "weight": 100}}, "canary.weight"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_by_name(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Invalid, match=word):
        parse({**SMALL, **change}, "demo")


@pytest.mark.parametrize("name", ["1demo", "a.b", "a" * 53, "Demo", "a-"])
def test_names_that_no_service_can_have_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match=r"metadata\.name"):
        parse(SMALL, name)
    assert cel.evaluate(NAME_RULE[0], {"self": {"metadata": {"name": name}}}) is False


@pytest.mark.parametrize("name", SPECS)
def test_what_the_tests_use_is_valid_for_all_three(name: str) -> None:
    parse(SPECS[name], "demo")
    SCHEMA.validate(SPECS[name])
    assert all(cel.evaluate(rule.cel, {"self": dict(SPECS[name])}) for rule in RULES if rule.cel)
    assert cel.evaluate(NAME_RULE[0], {"self": {"metadata": {"name": "demo"}}}) is True


versions = st.sampled_from(["v1", "v2"])
prometheus = st.fixed_dictionaries({}, optional={"prometheusURL": st.just("http://p")})
specs = st.fixed_dictionaries(
    {"model": st.fixed_dictionaries({"source": st.just("m")}, optional={"version": versions})},
    optional={
        "replicas": st.integers(0, 3),
        "autoscaling": st.fixed_dictionaries(
            {},
            optional={
                "minReplicas": st.integers(0, 5),
                "maxReplicas": st.integers(1, 5),
                "by": st.sampled_from(["HorizontalPodAutoscaler", "ScaledObject"]),
            },
        ),
        "metrics": prometheus,
        "canary": st.fixed_dictionaries({"version": versions}),
    },
)


@given(specs)
@settings(max_examples=300)
def test_cel_and_the_operator_agree_rule_by_rule(raw: dict[str, Any]) -> None:
    parsed = Spec.model_validate(raw)
    for rule in RULES:
        if rule.cel is not None:
            assert cel.evaluate(rule.cel, {"self": raw}) is rule.holds(parsed), rule.cel


def test_defaults_in_cel_are_those_of_the_models() -> None:
    """CEL does not see the operator's defaults, so the rules spell them out."""
    spec = Spec.model_validate({**SMALL, "autoscaling": {}})
    assert spec.autoscaling is not None
    assert (spec.model.version, spec.autoscaling.min_replicas, spec.autoscaling.max_replicas) == ("v1", 1, 3)


def test_the_schema_of_the_api_server_refuses_what_the_models_refuse() -> None:
    changes: list[dict[str, Any]] = [
        {"replicas": -1},
        {"port": "http"},
        {"model": {}},
        {"canary": {"version": "V 2"}},
        {"resources": {"limits": {"cpu": "many"}}},
    ]
    for broken in changes:
        with pytest.raises(jsonschema.ValidationError):
            SCHEMA.validate({**EVERYTHING, **broken})
        with pytest.raises(Invalid):
            parse({**EVERYTHING, **broken}, "demo")
