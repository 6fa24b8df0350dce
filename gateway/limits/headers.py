"""OpenAI's rate-limit headers, and the errors of limits that are reached.

https://platform.openai.com/docs/guides/rate-limits: limit, remaining, and the time until the limit is as it was at
first, like ``6m0s`` or ``120ms``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.errors import SERVER, ApiError
from gateway.limits.plan import TOKEN_KINDS, Charge, Kind
from gateway.limits.reserve import Headers
from gateway.limits.store import NEVER, Level

REQUESTS: Final = "requests"
TOKENS: Final = "tokens"
QUOTA: Final = "insufficient_quota"
#: For limits that will never have room, and for leases, whose end nobody knows. Seconds.
_LATER: Final = 60.0
_SOON: Final = 1.0

_UNITS: Final = {
    Kind.REQUESTS: "requests per minute",
    Kind.TOKENS: "tokens per minute",
    Kind.DAY: "tokens per day",
    Kind.CONCURRENT: "concurrent requests",
    Kind.BUCKET: "requests of your address",
}


def duration(milliseconds: int) -> str:
    """``1h2m3s``, ``6m0s``, ``1.5s``, ``120ms``, ``0s``."""
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{seconds}.{rest:03d}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def headers(charges: Sequence[Charge], levels: Sequence[Level]) -> Headers:
    """``x-ratelimit-*`` of the tightest limit on requests and of the tightest on tokens."""
    found: list[tuple[bytes, bytes]] = []
    pairs = list(zip(charges, levels, strict=True))
    found += _of(REQUESTS, [pair for pair in pairs if pair[0].kind in (Kind.REQUESTS, Kind.BUCKET)])
    found += _of(TOKENS, [pair for pair in pairs if pair[0].kind in TOKEN_KINDS])
    return tuple(found)


def _of(what: str, pairs: Sequence[tuple[Charge, Level]]) -> Headers:
    if not pairs:
        return ()
    charge, level = min(pairs, key=lambda pair: pair[0].capacity - pair[1].used)
    remaining = max(0, charge.capacity - level.used)
    return (
        (f"x-ratelimit-limit-{what}".encode(), b"%d" % charge.capacity),
        (f"x-ratelimit-remaining-{what}".encode(), b"%d" % remaining),
        (f"x-ratelimit-reset-{what}".encode(), duration(level.reset_ms).encode()),
    )


def refused(charges: Sequence[Charge], levels: Sequence[Level]) -> ApiError:
    """The error of the limit that has room last, with the time until then."""
    waiting = [pair for pair in zip(charges, levels, strict=True) if pair[1].wait_ms]
    charge, level = max(waiting, key=lambda pair: pair[1].wait_ms if pair[1].wait_ms != NEVER else float("inf"))
    return limit_reached(charge, level, headers(charges, levels))


def limit_reached(charge: Charge, level: Level, rate_headers: Headers) -> ApiError:
    """The error of one limit."""
    shown = {name.decode(): value.decode() for name, value in rate_headers}
    what = f"Rate limit reached: {charge.capacity} {_UNITS[charge.kind]}, of which {level.used} are used."
    wait = _LATER if level.wait_ms == NEVER else level.wait_ms / 1000
    if charge.kind is Kind.CONCURRENT:
        # When one of the running requests ends is not known.
        return _error(what, "concurrency_limit_exceeded", REQUESTS, min(wait, _SOON), shown)
    if charge.kind is Kind.DAY:
        return _error(what, QUOTA, QUOTA, wait, {**shown, "x-should-retry": "false"})
    if level.wait_ms == NEVER:
        shown["x-should-retry"] = "false"
    return _error(what, "rate_limit_exceeded", TOKENS if charge.kind is Kind.TOKENS else REQUESTS, wait, shown)


def _error(message: str, code: str, kind: str, retry_after: float, shown: dict[str, str]) -> ApiError:
    when = f"{message} Try again in {duration(max(1, round(retry_after * 1000)))}."
    return ApiError(429, when, code=code, type=kind, retry_after=retry_after, headers=shown)


def too_large(charge: Charge, param: str | None) -> ApiError:
    """A request that alone is more than the limit: no waiting helps."""
    return ApiError(
        400,
        f"The request asks for up to {charge.amount} tokens, more than the limit of {charge.capacity} "
        f"{_UNITS[charge.kind]}. Lower max_tokens or shorten the {param or 'input'}.",
        code="request_exceeds_limit",
        param=param,
    )


def unavailable(retry_after: float) -> ApiError:
    """The limits cannot be checked, and nothing is served unchecked."""
    return ApiError(
        503,
        "Rate limits cannot be checked right now. Try again later.",
        code="limits_unavailable",
        type=SERVER,
        retry_after=retry_after,
    )
