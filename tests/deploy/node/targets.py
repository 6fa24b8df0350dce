"""Which pods of the one-node cluster Prometheus scrapes: Debian's is built without the search for pods.

``targets.py FILE SERVER TOKEN_FILE CA_FILE`` writes FILE for ``file_sd_configs`` every two seconds. Only the standard
library, so that it runs before any environment is there.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

SECONDS = 2.0
WANTED = "prometheus.io/scrape"
Group = dict[str, Any]


def groups(pods: list[dict[str, Any]]) -> list[Group]:
    """One group per running pod that asks to be scraped by its annotations."""
    return [_group(pod) for pod in pods if _asks(pod) and _runs(pod)]


def _asks(pod: dict[str, Any]) -> bool:
    return bool(pod["metadata"].get("annotations", {}).get(WANTED) == "true")


def _runs(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") == "Running" and "podIP" in pod["status"]


def _group(pod: dict[str, Any]) -> Group:
    metadata = pod["metadata"]
    notes = metadata["annotations"]
    labels = {"namespace": metadata["namespace"], "pod": metadata["name"]}
    labels["__metrics_path__"] = notes.get("prometheus.io/path", "/metrics")
    return {"targets": [f"{pod['status']['podIP']}:{notes['prometheus.io/port']}"], "labels": labels}


def main() -> None:
    name, server, token_file, ca_file = sys.argv[1:]
    file, token = Path(name), Path(token_file).read_text("utf-8").strip()
    context = ssl.create_default_context(cafile=ca_file)
    request = urllib.request.Request(f"{server}/api/v1/pods", headers={"Authorization": f"Bearer {token}"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as response:
                found = groups(json.load(response)["items"])
        except OSError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        else:
            new = file.with_suffix(".new")
            new.write_text(json.dumps(found), "utf-8")
            new.replace(file)
        time.sleep(SECONDS)


if __name__ == "__main__":
    main()
