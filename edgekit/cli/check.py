"""``edgekit check``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _verdict
from edgekit.cli._options import (
    columns_option,
    gates_option,
    given,
    include_text_option,
    keys_option,
    max_time_option,
    metric_option,
    seed_option,
    slices_option,
    trust_of,
)
from edgekit.cli._output import as_error, bars, echo, error_line
from edgekit.spec import gates as gate_files
from edgekit.spec import project as projects
from edgekit.spec.errors import EdgekitError, UsageError
from edgekit.spec.project import Check, Project

__all__ = ["command", "worst"]

# The gravest first: what cannot be trusted, what was found, what could not be looked at.
_GRAVITY = (5, 3, 1, 2, 4, 0)


@click.command(name="check")
@click.argument("bundle", required=False)
@click.option(
    "--baseline",
    default=None,
    metavar="BUNDLE|FILE",
    help="An older bundle (both run in turns), or a file of 'edgekit baseline' (its bundle runs, where it still lies where it was).",
)
@click.option(
    "--samples",
    default=None,
    metavar="FILE",
    help="Samples with labels: JSONL, CSV, TSV, a TOML that names them, or a folder LABEL/IMAGE.",
)
@columns_option
@slices_option
@gates_option
@click.option(
    "-o", "--out", default=None, metavar="FOLDER", help="report.html, .json, .md, junit.xml and history.json go here."
)
@click.option("--strict", is_flag=True, help="Exit 4 where a gate stays inconclusive.")
@click.option(
    "--allow-incomparable",
    is_flag=True,
    help="Latency, start, memory and energy may stay incomparable, as against a file of another machine. Accuracy may not.",
)
@click.option(
    "--self-check",
    is_flag=True,
    help="Run BUNDLE against itself first: print this machine's noise floor, refuse margins below it. Without a baseline: only that.",
)
@include_text_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the whole report as JSON instead, one after the other for several targets.",
)
@keys_option
@max_time_option
@seed_option
@metric_option
def command(bundle, gates, include_text, as_json, **said):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201, ANN003
    """Hold BUNDLE against a baseline and its gates; for CI.

    Exit 0: no gate failed; one that stays inconclusive is no proof (--strict: 4). 1: something broke. 2: the call is off.
    3: a regression, or over a limit. 4: something gated cannot be compared. 5: a bundle or baseline is damaged.

    Without BUNDLE everything is as the nearest edgekit.toml says, for the bundles of all its targets in turn; what is given here wins
    over the file, and the gravest exit code counts. With BUNDLE edgekit.toml is not read.
    """
    held = None if gates is None else gate_files.read(gates)
    chosen = given(gates=held, report=said.pop("out"), include_text=include_text, **said)
    if bundle is not None:
        checks = projects.checks(Project(), bundle, chosen)
        _complete(checks[0], asked=bool(said["self_check"]))
    else:
        file = projects.nearest(
            Path.cwd(), "Write one, or say it here: edgekit check BUNDLE --baseline BUNDLE|FILE --samples FILE."
        )
        file.need("edgekit check", "out", *([] if "samples" in chosen else ["eval"]))
        checks = projects.checks(file, None, chosen)
        _complete(checks[0], file, asked=bool(said["self_check"]))
    if checks[0].baseline is None:
        _only_noise(include_text=include_text, gates=gates, **said)
    _verdict.check_ready(*(check.options.report for check in checks))
    click.get_current_context().exit(worst([_run(check, as_json) for check in checks]))


def _complete(check: Check, file: Project | None = None, *, asked: bool) -> None:
    """Refuses a check that lacks what it takes. ``asked``: the noise alone was asked for here; a file that lost its baseline must not come to that."""
    if not check.samples:
        raise UsageError(
            "Missing option '--samples'. Give the labelled rows to compare on; only without BUNDLE does edgekit.toml name them.",
            code="option-missing",
        )
    if check.baseline is not None or asked:
        return
    if file is None:
        raise UsageError(
            "Missing option '--baseline'. Give an older bundle, or a file of 'edgekit baseline'; or --self-check for this machine's noise.",
            code="option-missing",
        )
    columns = ",".join(f"{role}={name}" for role, name in check.options.columns.items())
    told = f"--samples {check.samples}" + (f" --columns {columns}" if columns else "")
    where = f"baselines/{check.name}.json, of every target's bundle," if check.name else "baseline.json"
    raise UsageError(
        f"{file.path} names no baseline. Make one with: edgekit baseline {check.bundle} {told} -o {where} "
        f'and add baseline = "{"baselines" if check.name else "baseline.json"}"; or measure the noise of this machine alone: --self-check.',
        code="baseline-missing",
    )


def _only_noise(**said: Any) -> None:
    """Refuses what was given for a comparison where there is none: it would do nothing."""
    for name in ("gates", "slices", "strict", "allow_incomparable", "include_text"):
        if said[name]:
            option = "--slice" if name == "slices" else f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} is of a comparison, and --self-check without a baseline makes none. Give --baseline too, or leave it out.",
                code="option-needs-other",
            )


def _run(check: Check, as_json: bool) -> int:
    """Checks one bundle and says so; of several, an error of one does not keep the others from being looked at."""
    from edgekit.verbs import reports

    try:
        trust = trust_of([os.fspath(key) for key in check.options.keys])
        with bars() as progress:
            result = reports.check(
                check.bundle, check.baseline, check.samples, options=check.options, trust=trust, progress=progress
            )
        if not as_json:
            return _verdict.finish(result, None)
        from edgekit.report import files

        _verdict.say(files.dumps(result.report).rstrip("\n"))
        return result.exit_code
    except (EdgekitError, OSError, MemoryError) as problem:
        error = as_error(problem)
        echo(error_line(error, check.name), err=True)
        return error.exit_code


def worst(codes: Sequence[int]) -> int:
    """The gravest of several exit codes."""
    return min(codes, key=_GRAVITY.index)
