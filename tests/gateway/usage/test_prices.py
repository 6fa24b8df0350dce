from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.settings import PriceSettings, SettingsError
from gateway.usage.prices import PriceList
from gateway.usage.records import Settled

PRICE = st.decimals(0, 10**9, allow_nan=False, allow_infinity=False)
TOKENS = st.integers(0, 2_000_000)


def used(
    prompt: int = 0, cached: int = 0, completion: int = 0, *, model: str = "m", adapter: str | None = None
) -> Settled:
    return Settled(
        "r", 2.0, "cancelled", None, prompt, completion, 1.0, 0.0, None, None, 1.0,
        model=model, adapter=adapter, cached_tokens=cached,
    )  # fmt: skip


def test_cost_by_the_kind_of_token() -> None:
    prices = PriceList({"m": PriceSettings(prompt=Decimal("2.50"), cached=Decimal("1.25"), completion=Decimal(10))})
    assert prices.cost_nanos(used(1_000_000)) == 2_500_000_000
    assert prices.cost_nanos(used(1_000_000, 1_000_000)) == 1_250_000_000
    assert prices.cost_nanos(used(0, 0, 1)) == 10_000
    assert prices.cost_nanos(used(3, 2, 5)) == 2_500 + 2 * 1_250 + 5 * 10_000
    assert prices.cost_nanos(used()) == 0


def test_cached_tokens_cost_what_others_do_where_nothing_else_is_said() -> None:
    prices = PriceList({"m": PriceSettings(prompt=Decimal(3))})
    assert prices.cost_nanos(used(10, 4)) == prices.cost_nanos(used(10)) == 30_000


def test_no_price_is_not_a_price_of_nothing() -> None:
    prices = PriceList({"m": PriceSettings(), "base:a": PriceSettings(prompt=Decimal(1))})
    assert prices.cost_nanos(used(5)) == 0
    assert prices.cost_nanos(used(5, model="other")) is None
    assert prices.cost_nanos(used(5, model="base")) is None


@pytest.mark.parametrize("model", ["base", "base:a"])
def test_an_adapter_has_its_own_price_or_that_of_its_base(model: str) -> None:
    base, own = PriceSettings(prompt=Decimal(1)), PriceSettings(prompt=Decimal(7))
    row = used(1, model=model, adapter="a")
    assert PriceList({"base": base, "base:a": own}).cost_nanos(row) == 7_000
    assert PriceList({"base": base, "base:b": own}).cost_nanos(row) == 1_000
    assert PriceList({"base:b": own}).cost_nanos(row) is None


def test_a_served_adapter_is_priced_by_its_name_alone() -> None:
    assert PriceList({"base:a": PriceSettings(prompt=Decimal(7))}).cost_nanos(used(1, model="base:a")) == 7_000


@pytest.mark.parametrize("price", ["1000000000.01", "1e30", "Infinity"])
def test_a_price_that_no_column_holds_is_refused_by_name(price: str) -> None:
    given_price = PriceSettings.model_construct(prompt=Decimal(0), cached=None, completion=Decimal(price))
    with pytest.raises(SettingsError, match=r"usage\.prices\.m: "):
        PriceList({"m": given_price})


@settings(deadline=None)
@given(prompt=PRICE, cached=st.none() | PRICE, completion=PRICE, tokens=st.tuples(TOKENS, TOKENS, TOKENS))
def test_rounding_happens_once_and_is_at_most_half_a_billionth(
    prompt: Decimal, cached: Decimal | None, completion: Decimal, tokens: tuple[int, int, int]
) -> None:
    row = used(tokens[0], min(tokens[0], tokens[1]), tokens[2])
    cost = PriceList({"m": PriceSettings(prompt=prompt, cached=cached, completion=completion)}).cost_nanos(row)
    fresh = row.prompt_tokens - row.cached_tokens
    price_of_cached = prompt if cached is None else cached
    true = fresh * Fraction(prompt) + row.cached_tokens * Fraction(price_of_cached)
    true += row.completion_tokens * Fraction(completion)
    assert cost is not None
    assert -Fraction(1, 2) <= true * 1000 - cost <= Fraction(1, 2)
    assert 0 <= cost < 2**63
