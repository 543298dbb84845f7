"""The one way to a terminal: strings of a bundle, of a table or of a device cannot act on it. Elsewhere no progress is drawn."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import click

from edgekit.cli import _stop
from edgekit.spec.parsing import to_json
from edgekit.spec.progress import Progress
from edgekit.spec.text import visible


def echo(message: object = "", err: bool = False) -> None:
    """Prints a line."""
    click.echo(visible(str(message)), err=err)


def show(result: Any, as_json: bool) -> None:
    """Prints what a verb came to: its text, or with ``--json`` its record."""
    echo(to_json(result.record(), indent=2) if as_json else result.text())


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """A progress function that draws a bar for each step on standard error, if that is a terminal and rich is installed."""
    # Click may be there without rich: huggingface_hub, which tokenizers asks for, brings it.
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield lambda step, done, total: _stop.check()
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as drawn:
        known: dict[str, TaskID] = {}

        def advance(step: str, done: int, total: int) -> None:
            _stop.check()
            if not step:
                return
            if step not in known:
                for task in known.values():
                    if drawn.tasks[task].total is None:
                        drawn.update(task, total=1, completed=1)  # a step of unknown length ends where the next begins
                known[step] = drawn.add_task(step, total=total or None)
            drawn.update(known[step], completed=done)

        yield advance
        for task in known.values():
            total = drawn.tasks[task].total
            drawn.update(task, total=total or 1, completed=total or 1)
