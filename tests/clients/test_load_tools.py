"""Other people's load generators, pointed at Sluice: `LOAD_TOOLS=1 pytest tests/clients/test_load_tools.py`.

Not part of CI: each of them takes half a minute to import, and one more than a gigabyte to install.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.test_clients import MODEL, prepared
from tests.support.gateways import KEY, Threaded

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get("LOAD_TOOLS"), reason="takes minutes; asked for by LOAD_TOOLS=1"),
]

REQUESTS = 20
TOKENS = 16
VLLM = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())
"""


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def answered(real: Threaded) -> float:
    labels = {"route": "/v1/chat/completions", "status": "200", "outcome": "completed", "code": ""}
    return real.live.metric("sluice_requests_total", **labels)


def test_vllm_bench_serve(real: Threaded, default_model: Path, tmp_path: Path) -> None:
    before = answered(real)
    command = [sys.executable, "-c", VLLM, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--base-url", real.live.url, "--model", MODEL, "--tokenizer", str(default_model)]
    command += ["--dataset-name", "random", "--random-input-len", "32", "--random-output-len", str(TOKENS)]
    command += ["--num-prompts", str(REQUESTS), "--max-concurrency", "4"]
    command += ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "vllm.json"]
    run(command, OPENAI_API_KEY=KEY)
    seen: dict[str, Any] = json.loads((tmp_path / "vllm.json").read_text("utf-8"))
    print({name: seen[name] for name in ("completed", "output_throughput", "median_ttft_ms", "median_itl_ms")})
    assert seen["completed"] == REQUESTS
    # One more: it tries the server before it begins.
    assert answered(real) - before >= REQUESTS


def test_guidellm(real: Threaded, default_model: Path, tmp_path: Path) -> None:
    guidellm = Path(prepared("guidellm")).with_name("guidellm")
    before, report = answered(real), tmp_path / "guidellm.json"
    command = [str(guidellm), "run"]
    # It looks for /health, and asks streams for their usage at every chunk: neither is ours yet.
    backend = f"kind=openai_http,target={real.live.url},model={MODEL},api_key={KEY}"
    command += ["--backend", f"{backend},validate_backend=false,stream=false"]
    command += ["--tokenizer", f"kind=huggingface_auto,model={default_model}"]
    command += ["--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={TOKENS}"]
    command += ["--profile", "kind=concurrent,streams=4", "--constraint", f"kind=max_requests,count={REQUESTS}"]
    command += ["--output", f"kind=json,path={report}", "--disable-progress"]
    run(command)
    (benchmark,) = json.loads(report.read_text("utf-8"))["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    print(totals)
    assert totals["successful"] == REQUESTS
    assert totals["errored"] == 0
    assert answered(real) - before >= REQUESTS
