"""``sluice usage``: reads the database itself, whether a gateway runs or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from gateway.access.secret import deployment_secret
from gateway.protocol.usage import UsageQuery
from gateway.protocol.validation import first_problem
from gateway.settings import Settings, SettingsError
from gateway.store.database import Database, StoreUnavailable
from gateway.store.migrate import prepare
from gateway.store.usage import UsageFilter, UsageRepository, UsageTotal
from gateway.usage.described import usage_object

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
MAX_ROWS: Final = 100_000

Config = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="SLUICE_CONFIG", help="Settings file (YAML).", dir_okay=False)
]


def usage_command(load: Callable[[Path | None], Settings]) -> Callable[..., None]:
    """The command; ``load`` reads the settings and may raise :class:`~gateway.settings.SettingsError`."""

    def usage(
        first_day: Annotated[str | None, typer.Option("--from", help="First day (UTC), YYYY-MM-DD.")] = None,
        last_day: Annotated[str | None, typer.Option("--to", help="Last day (UTC), inclusive.")] = None,
        by: Annotated[
            str, typer.Option(help="key, tenant, model, adapter, arm, day, outcome, between commas.")
        ] = "key,model",
        key: Annotated[str | None, typer.Option(help="Only this key's: its public id.")] = None,
        tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
        model: Annotated[str | None, typer.Option(help="Only this model's.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
        config: Config = None,
    ) -> None:
        """Sum up what was used, and what it cost."""
        given = {"from": first_day, "to": last_day, "group_by": by, "key": key, "tenant": tenant, "model": model}
        try:
            query = UsageQuery.model_validate({name: value for name, value in given.items() if value is not None})
            totals, has_more = _totals(load(config), query)
        except ValidationError as error:
            problem = first_problem(error).body
            _complain(f"--{_flag(problem.param or '')}: {problem.message}", EXIT_USAGE)
        except SettingsError as error:
            _complain(str(error), EXIT_USAGE)
        except StoreUnavailable as error:
            _complain(f"the store is not available: {error}", EXIT_FAILED)
        else:
            typer.echo(json.dumps([usage_object(each) for each in totals], indent=2) if as_json else _table(totals))
            if has_more:
                typer.echo(f"sluice: these are the first {MAX_ROWS} rows of more", err=True)

    return usage


def _flag(field: str) -> str:
    return "by" if field.startswith("group_by") else field


def _complain(message: str, status: int) -> None:
    typer.echo(f"sluice: {message}", err=True)
    raise typer.Exit(status)


def _totals(settings: Settings, query: UsageQuery) -> tuple[list[UsageTotal], bool]:
    database = Database(settings.store_url())
    try:
        prepare(database, deployment_secret(settings.deployment_secret(), settings.state_dir))
        days = [None if day is None else day.isoformat() for day in (query.first_day, query.last_day)]
        wanted = UsageFilter(days[0], days[1], query.key, query.tenant, query.model)
        return UsageRepository(database).totals(query.group_by, wanted, limit=MAX_ROWS)
    finally:
        database.close()


def _counts(total: UsageTotal) -> tuple[int, ...]:
    return (
        total.requests,
        total.prompt_tokens,
        total.cached_tokens,
        total.completion_tokens,
        total.reasoning_tokens,
    )


def _table(totals: list[UsageTotal]) -> str:
    if not totals:
        return "No usage."
    names = list(totals[0].group)
    head = [*names, "requests", "prompt", "cached", "completion", "reasoning", "cost"]
    rows = [head] + [
        [
            *(each.group[name] or "-" for name in names),
            *(f"{count:,}" for count in _counts(each)),
            "-" if each.cost is None else f"{each.cost:f}",
        ]
        for each in totals
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    texts = len(names)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
