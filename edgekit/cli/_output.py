"""Output of the command line.

Text from bundles, tables and devices is escaped, so that it cannot control the terminal.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from edgekit.cli import _stop
from edgekit.cli._verbosity import StepLines, format_rate, is_quiet, without_notes
from edgekit.spec.errors import EdgekitError, UsageError
from edgekit.spec.parsing import to_json
from edgekit.spec.paths import convert_os_error
from edgekit.spec.progress import Progress
from edgekit.spec.text import WIDTH, visible, wrap_lines

_NARROWEST = 40  # columns below which nothing can be laid out
_BAR_WIDTH = 20  # columns; the numbers beside it need the rest of a line of 80
_MANY_UNITS = 100  # of a step, from which on their rate is shown


def echo(message: object = "", err: bool = False) -> None:
    """Print a line."""
    text = str(message)
    if is_quiet():
        shorter = without_notes(text)
        if text and not shorter:
            return
        text = shorter
    click.echo(visible(text), err=err)


def echo_text(text: str) -> None:
    """Print a text whose long lines are wrapped to the width of the terminal."""
    echo(wrap_lines(text))


def terminal_width() -> int:
    """Return the columns that output is laid out for: those of the terminal, at most 100; 100 without a terminal."""
    if not sys.stdout.isatty():
        return WIDTH
    return max(_NARROWEST, min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH))


def as_error(problem: EdgekitError | OSError | MemoryError) -> EdgekitError:
    """Return an error of the system as an error of EdgeKit, which has a code."""
    if isinstance(problem, EdgekitError):
        return problem
    if isinstance(problem, OSError):
        return convert_os_error(problem)
    return EdgekitError(
        "There is not enough memory. Close other programs, or use a machine with more memory.", code="out-of-memory"
    )


def error_line(error: EdgekitError, where: str = "") -> str:
    """Return the line that reports an error, e.g. ``edgekit: error[samples-empty]: ...``.

    Args:
        error: Error to report.
        where: Name of the bundle or target that the error belongs to, printed before the message.
    """
    return f"edgekit: error[{error.code}]: {f'{where}: ' if where else ''}{error}"


CLICK_CODES: Mapping[type[click.UsageError], tuple[str, str]] = {
    click.NoSuchOption: ("option-unknown", "The verb has no such option."),
    click.BadOptionUsage: ("option-usage", "An option lacks its value, or has one and takes none."),
    click.BadArgumentUsage: ("argument-usage", "A number of arguments that the verb does not take."),
    click.MissingParameter: ("option-missing", "An option or argument that the verb needs is missing."),
    click.BadParameter: ("option-invalid", "The value of an option or argument cannot be used."),
    click.UsageError: ("usage", "The command line cannot be parsed, e.g. an unknown verb."),
}
"""Codes of the errors that click raises, and what each stands for; the first class that fits counts."""


def usage_error(error: click.UsageError) -> str:
    """Return the usage of the verb and the error that click found, with its code."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # from click 8.2 on
        return error.format_message()
    code = next(code for kind, (code, _) in CLICK_CODES.items() if isinstance(error, kind))
    usage = f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n\n" if error.ctx else ""
    return usage + error_line(UsageError(error.format_message(), code=code))


def show(result: Any, as_json: bool) -> None:
    """Print the result of a verb: its text, or with ``--json`` its record."""
    if as_json:
        echo(to_json(result.record(), indent=2))
    else:
        echo_text(result.text())


def _describe_units(done: int, total: int, speed: float | None) -> str:
    """Return the units of a step that are done, and their rate if there are many, as text; empty without a number."""
    if not total:
        return f"{done:,}" if done else ""
    rate = f" {format_rate(speed)}/s" if speed and total >= _MANY_UNITS else ""
    return f"{done:,}/{total:,}{rate}"


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """Yield a progress function that writes to standard error.

    On a terminal it draws a bar for each step, with the units done, their rate and the time left. Elsewhere it prints a
    line for each step that has finished, and for a long one at intervals. It prints nothing with ``-q``.
    """
    if is_quiet():
        yield lambda step, done, total: _stop.check()
        return
    # Click may be there without rich: huggingface_hub, which tokenizers asks for, brings it.
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        lines = StepLines()

        def advance_lines(step: str, done: int, total: int) -> None:
            _stop.check()
            if step:
                lines.advance(step, done, total)

        yield advance_lines
        lines.finish()
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(_BAR_WIDTH),
        TextColumn("{task.fields[units]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
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
                known[step] = drawn.add_task(step, total=total or None, units="")
            drawn.update(known[step], completed=done)
            speed = drawn.tasks[known[step]].speed
            drawn.update(known[step], units=_describe_units(done, total, speed))

        yield advance
        for task in known.values():
            total = drawn.tasks[task].total
            drawn.update(task, total=total or 1, completed=total or 1)
