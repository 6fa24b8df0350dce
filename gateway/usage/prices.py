"""What usage costs, by the configured prices: exact, in billionths of the currency they are given in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from gateway.settings import PriceSettings, SettingsError
from gateway.usage.records import Settled

NANO: Final = 10**9
_PER: Final = 10**6
#: Per million tokens. Above it the cost of one large request would not fit into the table.
_DEAREST: Final = Decimal(10) ** 9


@dataclass(frozen=True, slots=True)
class _Rate:
    """Billionths per token, as integers over one ``denominator``."""

    prompt: int
    cached: int
    completion: int
    denominator: int

    def cost(self, row: Settled) -> int:
        """Rounded half up, once."""
        cached = min(row.cached_tokens, row.prompt_tokens)
        total = (
            (row.prompt_tokens - cached) * self.prompt + cached * self.cached + row.completion_tokens * self.completion
        )
        return (2 * total + self.denominator) // (2 * self.denominator)


class PriceList:
    """``prices`` are per million tokens, by model id or ``base:adapter``.

    Raises :class:`~gateway.settings.SettingsError` for a price that cannot be reckoned with.
    """

    def __init__(self, prices: Mapping[str, PriceSettings]) -> None:
        self._rates = {model: _rate(model, price) for model, price in prices.items()}

    def cost_nanos(self, row: Settled) -> int | None:
        """The cost of one request; None where no price is set. An adapter without a price costs what its base does."""
        base = row.model.removesuffix(f":{row.adapter}") if row.adapter else row.model
        rate = self._rates.get(f"{base}:{row.adapter}" if row.adapter else base) or self._rates.get(base)
        return None if rate is None else rate.cost(row)


def _rate(model: str, price: PriceSettings) -> _Rate:
    given = (price.prompt, price.prompt if price.cached is None else price.cached, price.completion)
    if not all(each.is_finite() and each <= _DEAREST for each in given):
        raise SettingsError(f"usage.prices.{model}: a price is above {_DEAREST:f} per million tokens")
    exact = [Fraction(each) * NANO / _PER for each in given]
    denominator = math.lcm(*(each.denominator for each in exact))
    prompt, cached, completion = (int(each * denominator) for each in exact)
    return _Rate(prompt, cached, completion, denominator)
