"""A progress bar on standard error for people; plain lines for logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """Yields ``report(stage, fraction)``; nothing is shown until it is called the first time."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = None

        def report(stage: str, fraction: float) -> None:
            nonlocal task
            description = f"{title}: {stage}"
            if task is None:
                task = progress.add_task(description, total=1.0)
                if not console.is_terminal:
                    console.print(f"{title} (once)")
            progress.update(task, description=description, completed=fraction)

        yield report
