"""The real helm on the chart: what it renders, and what it refuses. No cluster of the person's own is ever asked."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "sluice"
EXAMPLES: Final = sorted((CHART / "examples").glob("values-*.yaml"))

Object = dict[str, Any]


class Refused(Exception):
    """Helm said no; the message is what it wrote to standard error."""


@dataclass(frozen=True)
class Rendered:
    """The objects of one rendering."""

    objects: tuple[Object, ...]

    def all(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str, ending: str = "") -> Object:
        """The only one of its kind that belongs to the server or the chart's test, its name ending so."""
        (found,) = (
            item
            for item in self.all(kind)
            if item["metadata"]["labels"]["app.kubernetes.io/component"] in ("server", "test")
            and item["metadata"]["name"].endswith(ending)
        )
        return found

    @property
    def pod(self) -> Object:
        """The pod's spec in the Deployment."""
        spec: Object = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Object:
        (container,) = self.pod["containers"]
        found: Object = container
        return found

    @property
    def environment(self) -> dict[str, str]:
        """The container's literal environment."""
        return {entry["name"]: entry["value"] for entry in self.container["env"] if "value" in entry}


@dataclass(frozen=True)
class Helm:
    """One helm binary, without a cluster unless ``kubeconfig`` names one."""

    binary: Path
    kubeconfig: Path = Path(os.devnull)

    def run(self, *arguments: str | Path, stdin: str = "") -> str:
        """Standard output. Raises :class:`Refused` for a non-zero exit."""
        done = subprocess.run(
            [self.binary, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": f"{self.kubeconfig}-cache"},
        )
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def render(
        self, values: Mapping[str, Any] | None = None, *, files: Sequence[Path] = (), release: str = "demo"
    ) -> Rendered:
        """`helm template` with value files, then ``values`` on top."""
        named = [argument for file in files for argument in ("--values", file)]
        text = self.run("template", release, CHART, *named, "--values", "-", stdin=json.dumps(values or {}))
        return Rendered(tuple(item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item))

    def notes(self, values: Mapping[str, Any] | None = None) -> str:
        """What a person reads after `helm install`; needs a cluster that helm 3 can greet."""
        text = self.run(
            "install", "demo", CHART, "--namespace", "models", "--dry-run=client",
            "--disable-openapi-validation", "--values", "-",
            stdin=json.dumps(values or {}),
        )  # fmt: skip
        return text.split("\nNOTES:\n", 1)[1]
