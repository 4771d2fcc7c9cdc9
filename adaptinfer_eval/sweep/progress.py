"""What a terminal shows of work that takes long."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar(console: Console, counted: str, before: str = "") -> Progress:
    """A bar with how many are done of what is `counted`; `before`: a format of the task's fields, shown before it."""
    return Progress(
        *([TextColumn(before)] if before else []),
        BarColumn(10),
        TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {counted}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        redirect_stdout=False,  # what is printed goes to the log
        redirect_stderr=False,
    )
