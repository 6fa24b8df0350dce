"""Wire types of usage queries."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gateway.protocol.validation import bad_value


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def _each_once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) != len(value):
        raise bad_value("A name appears twice.").within()
    return value


def _written_as_a_day(value: Any) -> Any:
    # Numbers, and moments at midnight, would be days too.
    if isinstance(value, str) and not _DAY.fullmatch(value):
        raise bad_value("Expected a day, written as YYYY-MM-DD.").within()
    return value


_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
Day = Annotated[date, BeforeValidator(_written_as_a_day)]


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    first_day: Day | None = Field(None, alias="from", description="First day (UTC), YYYY-MM-DD.")
    last_day: Day | None = Field(None, alias="to", description="Last day (UTC), YYYY-MM-DD, inclusive.")
    model: str | None = Field(None, max_length=256, description="Only this model's.")
    limit: int = Field(100, ge=1, le=1000, description="Most rows in the answer.")
    offset: int = Field(0, ge=0, le=1_000_000, description="Rows to skip.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.first_day and self.last_day and self.first_day > self.last_day:
            raise bad_value("It must not be before 'from'.").within("to")
        return self


class OwnUsageQuery(_Query):
    """Which usage of one's own to sum up, and by what."""

    group_by: Annotated[
        tuple[Literal["model", "adapter", "arm", "day", "outcome"], ...],
        BeforeValidator(_split),
        AfterValidator(_each_once),
    ] = Field((), description="Names between commas: model, adapter, arm, day, outcome.")


class UsageQuery(_Query):
    """Which usage to sum up, and by what."""

    key: str | None = Field(None, max_length=128, description="Only this key's: its public id.")
    tenant: str | None = Field(None, max_length=128, description="Only this tenant's.")
    group_by: Annotated[
        tuple[Literal["key", "tenant", "model", "adapter", "arm", "day", "outcome"], ...],
        BeforeValidator(_split),
        AfterValidator(_each_once),
    ] = Field((), description="Names between commas: key, tenant, model, adapter, arm, day, outcome.")


class UsageRow(BaseModel):
    """Sums over the requests of one group; the names that were grouped by are fields too."""

    model_config = ConfigDict(extra="allow", frozen=True)

    object: Literal["usage"] = Field(description="Always `usage`.")
    requests: int = Field(description="Admitted requests, however they ended.")
    prompt_tokens: int = Field(description="Tokens of their prompts.")
    cached_tokens: int = Field(description="Of those, found in the prefix cache.")
    completion_tokens: int = Field(description="Tokens generated.")
    reasoning_tokens: int = Field(description="Of those, reasoning.")
    cost: str | None = Field(description="By the configured prices, a decimal number; null where no price is set.")


class UsageRows(BaseModel):
    """A page of sums."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[UsageRow] = Field(description="In the order of the groups.")
    has_more: bool = Field(description="Whether there are more rows behind these.")
