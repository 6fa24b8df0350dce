"""The comparison as a page for the documentation."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.machine import describe
from loadtest.systems import ENGINE_ARGUMENTS, ENVIRONMENT
from loadtest.workload import Workload

_PAGE = """\
# Benchmarks

Written by `make bench`. Figures hold for this machine only; the ratios are what to compare.

{machine}

## Load

A random Llama of two layers with SmolLM2's tokenizer, so that the front end is the bottleneck.
{rounds} round(s); in each, every system was started once, one at a time, warmed up and measured:
{connections} keep-alive connections with {streams} streams of {tokens} tokens each; {request_connections} connections
with {requests} one-token completions each; one connection with {singles} short streams. Every stream was checked to
have delivered exactly the tokens asked for. Cells are medians over rounds (minimum - maximum); ratios are taken within
a round.

Engine arguments of every system: {arguments}.

Environment of every system: {environment}.

## Figures

```text
{report}
```

How each figure is taken: [loadtest/README.md](../loadtest/README.md).
"""


def page(report: str, facts: Mapping[str, object], work: Workload, *, rounds: int) -> str:
    """The page as Markdown around a rendered ``report``."""
    return _PAGE.format(
        machine=describe(facts).replace("\n", "  \n"),
        rounds=rounds,
        connections=work.stream_connections,
        streams=work.streams_each,
        tokens=work.stream_tokens,
        request_connections=work.request_connections,
        requests=work.requests_each,
        singles=work.single_streams,
        arguments=_listed(ENGINE_ARGUMENTS),
        environment=_listed(ENVIRONMENT),
        report=report,
    )


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in values.items())
