"""The options ``-v`` and ``-q`` of every verb.

``-v`` prints log messages of the library on standard error. With ``-q`` a verb prints only errors and its result.
"""

from __future__ import annotations

import logging
import time
import warnings

import click

from edgekit.spec.text import on_one_line

__all__ = ["StepLines", "add_verbosity", "format_rate", "is_quiet", "without_notes"]

_QUIET = f"{__name__}.quiet"
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_NOTE = "note: "
_LEAST_S = 10.0  # between two lines of a step
_MOST_S = 60.0
_MINUTES_FROM_S = 180.0
_SHARE = 0.1  # of a step's units, after which it prints a line


class _LineHandler(logging.Handler):
    """A handler that prints each message as one line on standard error.

    Lines appear above the progress bars if there are any, since rich redirects that stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record: seconds since the start of the verb, level, logger and message."""
        message = on_one_line(record.getMessage())
        if record.levelno >= logging.WARNING:
            click.echo(f"edgekit: {record.levelname.lower()}: {message}", err=True)
        else:
            seconds = time.monotonic() - self._started
            click.echo(f"[{seconds:7.2f} s] {record.levelname.lower()} {record.name}: {message}", err=True)


def add_verbosity(command: click.Command) -> None:
    """Add ``-v`` and ``-q`` to a command, once per process."""
    if any("--verbose" in parameter.opts for parameter in command.params):
        return
    command.params += [
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_set_level,
            help="Print each step and decision on standard error; -vv prints details too.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_set_quiet,
            help="Print errors and the result alone: no progress and no notes.",
        ),
    ]


def _set_level(context: click.Context, parameter: click.Parameter, count: int) -> None:
    """Print messages of the library while the verb runs: warnings, with ``-v`` information, with ``-vv`` details."""
    logger = logging.getLogger("edgekit")
    handler = _LineHandler()
    handler.addFilter(lambda record: record.levelno >= logging.ERROR or not is_quiet())
    level = logger.level
    show_warning = warnings.showwarning
    logger.addHandler(handler)
    warnings.showwarning = _log_warning
    logger.setLevel(_LEVELS[min(count, len(_LEVELS) - 1)])

    def restore() -> None:
        logger.removeHandler(handler)
        logger.setLevel(level)
        warnings.showwarning = show_warning

    context.call_on_close(restore)


def _log_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning of Python as one of the log, without the line of code that it comes from."""
    logging.getLogger("edgekit.cli").warning("%s", message)


def _set_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[_QUIET] = value


def is_quiet() -> bool:
    """Return whether the running verb was given ``-q``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def without_notes(text: str) -> str:
    """Return a text without its notes: lines that begin with ``note: ``, and the indented lines that continue one."""
    lines: list[str] = []
    in_note = False
    for line in text.split("\n"):
        in_note = line.startswith(_NOTE) or (in_note and line.startswith(" "))
        if not in_note:
            lines.append(line)
    return "\n".join(lines)


class StepLines:
    """Progress without a terminal: a line on standard error for each step that has finished, with its seconds.

    A step that takes long prints how far it is: after a tenth of its units, but not within ten seconds, and at least
    once a minute. A step of known length finishes when all of its units are done, a step of unknown length when the
    next one begins.
    """

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._printed: dict[str, tuple[float, int]] = {}  # time and units of a step's last line
        self._open = ""  # the step of unknown length that is running

    def advance(self, step: str, done: int, total: int) -> None:
        """Note how far a step is.

        Args:
            step: Name of the step.
            done: Finished units.
            total: Number of units; 0 if it is unknown.
        """
        if self._open and step != self._open:
            self._finish(self._open)
        now = time.monotonic()
        if step not in self._began:
            self._began[step] = now
            self._printed[step] = (now, 0)
        self._open = "" if total else step
        if total and done >= total:
            self._finish(step)
        else:
            self._print_if_due(step, done, total, now)

    def finish(self) -> None:
        """Print the steps that are still open, e.g. one that ended before all of its units were needed."""
        for step in list(self._began):
            self._finish(step)

    def _print_if_due(self, step: str, done: int, total: int, now: float) -> None:
        """Print how far a step is, its rate since the last line, and the time left at this rate."""
        since, before = self._printed[step]
        seconds = now - since
        has_tenth = total > 0 and done - before >= _SHARE * total
        if done <= before or seconds < _LEAST_S or not (has_tenth or seconds >= _MOST_S):
            return
        self._printed[step] = (now, done)
        rate = (done - before) / seconds
        parts = [f"{done:,} of {total:,}" if total else f"{done:,}", f"{format_rate(rate)}/s"]
        if total:
            left_s = (total - done) / rate
            parts.append(f"{left_s:.0f} s left" if left_s < _MINUTES_FROM_S else f"{left_s / 60:,.0f} min left")
        click.echo(f"{on_one_line(step)}: {', '.join(parts)}", err=True)

    def _finish(self, step: str) -> None:
        seconds = time.monotonic() - self._began.pop(step)
        self._printed.pop(step)
        self._open = "" if step == self._open else self._open
        click.echo(f"{on_one_line(step)}: {seconds:.1f} s", err=True)


def format_rate(rate: float) -> str:
    """Return units per second as text, with two digits below ten."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
