"""The CustomResourceDefinition, made from the models: ``python -m sluice_operator.crd > manifests/crd.yaml``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

import yaml

from sluice_operator.api import GROUP, KIND, PLURAL, VERSION
from sluice_operator.rules import NAME_RULE, RULES
from sluice_operator.spec import Spec

Schema = dict[str, Any]

#: Words of JSON Schema that a structural schema takes as they are.
_KEPT: Final = (
    "description", "enum", "format", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum", "pattern",
    "type",
)  # fmt: skip


def _structural(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """A JSON Schema of pydantic as a structural schema: no reference, no null, free objects kept as they are."""
    if "$ref" in node:
        found = _structural(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
        return {**found, **({"description": node["description"]} if "description" in node else {})}
    described = {key: node[key] for key in _KEPT if key in node}
    if "anyOf" in node:
        choices = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        if len(choices) == 1:
            return {**_structural(choices[0], definitions), **described}
        text: Mapping[str, Any] = next((choice for choice in choices if choice.get("type") == "string"), {})
        pattern = {"pattern": text["pattern"]} if "pattern" in text else {}
        return {"x-kubernetes-int-or-string": True, **pattern, **described}
    if "const" in node:
        described["enum"] = [node["const"]]
    # A bound that is not itself allowed is written as in OpenAPI 3.0.
    for word, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if word in node:
            described |= {bound: node[word], word: True}
    if node.get("type") == "array":
        described["items"] = _structural(node["items"], definitions)
    if node.get("type") == "object":
        if "properties" in node:
            described["properties"] = {
                name: _structural(part, definitions) for name, part in node["properties"].items()
            }
            if node.get("required"):
                described["required"] = node["required"]
        elif isinstance(node.get("additionalProperties"), dict):
            described["additionalProperties"] = _structural(node["additionalProperties"], definitions)
        else:
            described["x-kubernetes-preserve-unknown-fields"] = True
    return described


def spec_schema() -> Schema:
    """The schema of ``spec``, with its CEL rules."""
    whole = Spec.model_json_schema(by_alias=True)
    rules = [{"rule": rule.cel, "message": rule.message} for rule in RULES if rule.cel is not None]
    return {**_structural(whole, whole.get("$defs", {})), "x-kubernetes-validations": rules}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _count(description: str) -> Schema:
    return {"type": "integer", "format": "int32", "description": description}


STATUS: Final[Schema] = {
    "type": "object",
    "description": "What the operator last saw.",
    "properties": {
        "observedGeneration": {
            "type": "integer",
            "format": "int64",
            "description": "Specification that this is about.",
        },
        "version": _text("Version of the stable pods."),
        "replicas": _count("Stable pods."),
        "readyReplicas": _count("Stable pods that are ready."),
        "selector": _text("Selector of the stable pods, for the scale subresource."),
        "url": _text("Where requests in the cluster go."),
        "canary": {
            "type": "object",
            "description": "The canary of this specification, or the last one that was rolled back.",
            "properties": {
                "version": _text("Its version."),
                "phase": {
                    "type": "string",
                    "enum": ["Starting", "Progressing", "Passed", "RolledBack"],
                    "description": "Passed waits for you: make its version the model's.",
                },
                "step": _count("Index of its step."),
                "weight": _count("Share of the traffic that it is to have now, in percent."),
                "shareOfPods": _count("Share of the pods that it has, in percent: its traffic without a route."),
                "since": _text("When this step, or the roll-back, began."),
                "reason": _text("Why, in one word."),
                "message": _text("Why, with figures."),
            },
        },
        "conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                "properties": {
                    "type": _text("Valid, Reconciled, Ready, Progressing, Canary, Route or Autoscaling."),
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "reason": _text("Why, in one word."),
                    "message": _text("Why."),
                    "observedGeneration": {"type": "integer", "format": "int64"},
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                },
            },
        },
    },
}


def _column(name: str, path: str, kind: str = "string", priority: int = 0) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, **({"priority": priority} if priority else {})}


def definition() -> Schema:
    """The whole CustomResourceDefinition."""
    rule, message = NAME_RULE
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": KIND, "plural": PLURAL, "singular": KIND.lower(), "shortNames": ["slis"]},
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A model behind Sluice.",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec_schema(),
                                "status": STATUS,
                            },
                            "x-kubernetes-validations": [{"rule": rule, "message": message}],
                        }
                    },
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        _column("Model", ".spec.model.source"),
                        _column("Version", ".status.version"),
                        _column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
                        _column("Pods", ".status.readyReplicas", "integer"),
                        _column("Canary", ".status.canary.phase"),
                        _column("Age", ".metadata.creationTimestamp", "date"),
                    ],
                }
            ],
        },
    }


def text() -> str:
    """The file ``manifests/crd.yaml``."""
    note = "# Made by `python -m sluice_operator.crd` from sluice_operator/spec.py; a test holds that it is current.\n"
    return note + yaml.safe_dump(definition(), sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    sys.stdout.write(text())
