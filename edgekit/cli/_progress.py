"""Progress bars on a terminal; elsewhere nothing is drawn."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator

from edgekit.cli import _stop
from edgekit.spec.progress import Progress


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
