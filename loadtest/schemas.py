"""What a new schema costs before admission: `python loadtest/schemas.py [--rounds 20]`.

The real judge with its worker process, the sample model's vocabulary, ten schemas of the kind that applications send.
New: never seen before (a fresh title each time); known: the same again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

from engine.samples import default_cache_root, ensure_default_model
from engine.structured.judge import GrammarJudge, JudgeLimits
from engine.structured.plan import check_constraint, plan_of
from engine.types import Constraint

TEXT = {"type": "string"}
NUMBER = {"type": "number"}


def closed(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    """An object of exactly these."""
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def listed(items: Any, **more: Any) -> dict[str, Any]:
    """An array of these."""
    return {"type": "array", "items": items, **more}


ADDRESS = closed(
    street=TEXT, city=TEXT, zip={"type": "string", "pattern": "^[0-9]{5}$"}, country={"enum": ["DE", "FR"]}
)
SCHEMAS: dict[str, dict[str, Any]] = {
    "sentiment": closed(label={"enum": ["positive", "neutral", "negative"]}, confidence=NUMBER),
    "person": closed(
        name=TEXT, age={"type": "integer", "minimum": 0, "maximum": 150}, email={**TEXT, "format": "email"}
    ),
    "calendar event": closed(title=TEXT, start={**TEXT, "format": "date-time"}, attendees=listed(TEXT, maxItems=20)),
    "invoice": closed(
        number=TEXT,
        issued={**TEXT, "format": "date"},
        lines=listed(closed(text=TEXT, quantity={"type": "integer", "minimum": 1}, price=NUMBER), maxItems=50),
        total=NUMBER,
        address=ADDRESS,
    ),
    "search query": closed(
        query={**TEXT, "maxLength": 80}, filters=listed(closed(field=TEXT, value=TEXT)), limit=NUMBER
    ),
    "chain of steps": closed(steps=listed(closed(explanation=TEXT, output=TEXT)), final_answer=TEXT),
    "user interface": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": closed(
                ["type", "children"],
                type={"enum": ["div", "button", "header", "section", "form"]},
                label=TEXT,
                children=listed({"$ref": "#/$defs/node"}),
            )
        },
    },
    "function call": {
        "anyOf": [
            closed(name={"const": "get_weather"}, arguments=closed(city=TEXT, unit={"enum": ["c", "f"]})),
            closed(name={"const": "send_mail"}, arguments=closed(to={**TEXT, "format": "email"}, body=TEXT)),
        ]
    },
    "medical record": closed(
        patient=closed(id={**TEXT, "format": "uuid"}, born={**TEXT, "format": "date"}),
        findings=listed(closed(code={**TEXT, "pattern": "^[A-Z][0-9]{2}(\\.[0-9])?$"}, text=TEXT)),
        follow_up={"anyOf": [{"type": "null"}, {**TEXT, "format": "date"}]},
    ),
    "product catalogue": closed(
        products=listed(
            closed(
                ["sku", "name", "price"],
                sku={**TEXT, "pattern": "^[A-Z0-9]{8}$"},
                name={**TEXT, "maxLength": 60},
                price=NUMBER,
                tags=listed(TEXT, maxItems=10),
                stock={"type": "integer", "minimum": 0},
            ),
            maxItems=100,
        )
    ),
}


def vocabulary(model: Path) -> str:
    """As the engine gives it to the judge."""
    from transformers import AutoTokenizer
    from xgrammar import TokenizerInfo

    return str(TokenizerInfo.from_huggingface(AutoTokenizer.from_pretrained(model)).serialize_json())


async def seconds(judge: GrammarJudge, schema: dict[str, Any]) -> float:
    """From the text of a schema to its verdict."""
    started = time.perf_counter()
    constraint = Constraint("json_schema", json.dumps(schema), "response_format")
    check_constraint(constraint)
    await judge.check(plan_of(constraint))
    return time.perf_counter() - started


async def measure(rounds: int) -> None:
    words = vocabulary(ensure_default_model(default_cache_root(), None))
    judge = GrammarJudge(lambda: words, JudgeLimits(compile_seconds=10.0))
    try:
        await seconds(judge, {"type": "null"})
        every: dict[str, list[float]] = {"new": [], "known": []}
        print("| schema | bytes | new p50 | new max | known p50 |\n| --- | --- | --- | --- | --- |")
        for name, schema in SCHEMAS.items():
            new = [await seconds(judge, {"title": f"{name} {number}", **schema}) for number in range(rounds)]
            known = [await seconds(judge, {"title": f"{name} 0", **schema}) for _ in range(rounds)]
            every["new"] += new
            every["known"] += known
            row = [statistics.median(new), max(new), statistics.median(known)]
            print(
                f"| {name} | {len(json.dumps(schema))} | " + " | ".join(f"{each * 1000:.2f} ms" for each in row) + " |"
            )
        for kind, found in every.items():
            cuts = statistics.quantiles(found, n=100)
            print(f"{kind}: p50 {cuts[49] * 1000:.2f} ms, p99 {cuts[98] * 1000:.2f} ms, n={len(found)}")
    finally:
        await judge.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    asyncio.run(measure(parser.parse_args().rounds))
