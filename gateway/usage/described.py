"""Sums of usage as people and programs see them."""

from __future__ import annotations

from typing import Any

from gateway.store.usage import UsageTotal


def usage_object(total: UsageTotal) -> dict[str, Any]:
    """As it stands on the wire."""
    return {
        "object": "usage",
        **total.group,
        "requests": total.requests,
        "prompt_tokens": total.prompt_tokens,
        "cached_tokens": total.cached_tokens,
        "completion_tokens": total.completion_tokens,
        "reasoning_tokens": total.reasoning_tokens,
        "cost": None if total.cost is None else f"{total.cost:f}",
    }
