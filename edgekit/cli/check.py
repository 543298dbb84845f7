"""``edgekit check``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import _verdict
from edgekit.cli._options import (
    backend_option,
    columns_option,
    gates_option,
    given_options,
    include_text_option,
    keys_option,
    max_time_option,
    metric_option,
    seed_option,
    slices_option,
    trust_of,
)
from edgekit.cli._output import as_error, bars, echo, error_line
from edgekit.cli._remote import check_local, connection, forwarded, on_options
from edgekit.spec import gates as gate_files
from edgekit.spec import project as projects
from edgekit.spec.errors import EdgekitError, UsageError
from edgekit.spec.project import Check, Project

if TYPE_CHECKING:
    from edgekit.verbs.reports import ReportResult

__all__ = ["command", "worst"]

# The worst first: what cannot be trusted, what regressed, what could not be examined.
_GRAVITY = (5, 3, 1, 2, 4, 0)


@click.command(name="check")
@click.argument("bundle", required=False)
@click.option(
    "--baseline",
    default=None,
    metavar="BUNDLE|FILE",
    help="Older bundle (both run interleaved), or a file of 'edgekit baseline' (its bundle runs too if it is still "
    "where it was).",
)
@click.option(
    "--samples",
    default=None,
    metavar="FILE",
    help="Samples with labels: JSONL, CSV, TSV, a TOML file that names them, or a folder LABEL/IMAGE.",
)
@columns_option
@slices_option
@gates_option
@click.option(
    "-o",
    "--out",
    default=None,
    metavar="FOLDER",
    help="Folder for report.html, report.json, report.md, junit.xml and history.json.",
)
@click.option("--strict", is_flag=True, help="Exit 4 if a gate is inconclusive.")
@click.option(
    "--allow-incomparable",
    is_flag=True,
    help="Accept incomparable latency, start, memory and energy, as against a file of another machine; not accuracy.",
)
@click.option(
    "--self-check",
    is_flag=True,
    help="First run BUNDLE against itself: print this machine's noise floor and refuse margins below it. Without a "
    "baseline do only that.",
)
@include_text_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the whole report as JSON; one after the other for several targets.",
)
@backend_option
@on_options
@keys_option
@max_time_option
@seed_option
@metric_option
def command(bundle, gates, include_text, as_json, where, **options):  # type: ignore[no-untyped-def]
    """Compare BUNDLE with a baseline and judge it by gates; for CI.

    Exit codes: 0 no gate failed (an inconclusive gate proves nothing; with --strict 4), 1 tool error, 2 usage,
    3 regression or over a limit, 4 a gated metric is incomparable, 5 a bundle or baseline is damaged.

    Without BUNDLE the nearest edgekit.toml names everything, for the bundles of all its targets in turn; options given
    here win over the file, and the worst exit code counts. With BUNDLE edgekit.toml is not read.

    With --on the device's own 'edgekit check' runs there; samples are copied to a private folder and removed
    afterwards.
    """
    python = options.pop("python")
    identity = options.pop("identity")
    limits = None if gates is None else gate_files.read(gates)
    if where is not None:
        device = (where, python, identity, options["keys"])
        click.get_current_context().exit(_run_there(bundle, gates, as_json, device, options))
    check_local()
    chosen = given_options(gates=limits, report=options.pop("out"), include_text=include_text, **options)
    if bundle is not None:
        checks = projects.checks(Project(), bundle, chosen)
        _complete(checks[0], self_check=bool(options["self_check"]))
    else:
        file = projects.nearest(
            Path.cwd(),
            "Write one (edgekit init), or name all here: edgekit check BUNDLE --baseline BUNDLE|FILE --samples FILE.",
        )
        file.need("edgekit check", "out", *([] if "samples" in chosen else ["eval"]))
        checks = projects.checks(file, None, chosen)
        _complete(checks[0], file, self_check=bool(options["self_check"]))
    if checks[0].baseline is None:
        _only_noise(include_text=include_text, gates=gates, **options)
    _verdict.check_ready(*(check.options.report for check in checks))
    click.get_current_context().exit(worst([_run(check, as_json) for check in checks]))


def _complete(check: Check, file: Project | None = None, *, self_check: bool) -> None:
    """Refuse a check without samples or baseline.

    Args:
        check: The check.
        file: The ``edgekit.toml`` that it is from; None where the options name all.
        self_check: Whether the options ask for the noise floor alone; a file that lost its baseline must not end in
            that.
    """
    if not check.samples:
        raise UsageError(
            "Missing option '--samples'. Give the labelled rows to compare on; without BUNDLE edgekit.toml names them.",
            code="option-missing",
        )
    if check.baseline is not None or self_check:
        return
    if file is None:
        raise UsageError(
            "Missing option '--baseline'. Give an older bundle or a file of 'edgekit baseline'; "
            "or --self-check for this machine's noise floor.",
            code="option-missing",
        )
    value = "baselines" if check.name else "baseline.json"
    raise UsageError(
        f'{file.path} names no baseline. Add baseline = "{value}" and make it: edgekit baseline. '
        "Or measure the noise of this machine alone: --self-check.",
        code="baseline-missing",
    )


def _only_noise(**options: Any) -> None:
    """Refuse options of a comparison where there is none: they would have no effect."""
    for name in ("gates", "slices", "strict", "allow_incomparable", "include_text"):
        if options[name]:
            option = "--slice" if name == "slices" else f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} is an option of a comparison, and --self-check without a baseline makes none. "
                "Add --baseline, or leave it out.",
                code="option-needs-other",
            )


def _run_there(
    bundle: str | None, gates: str | None, as_json: bool, device: tuple[Any, ...], options: dict[str, Any]
) -> int:
    """Check a bundle on a device; return the exit code."""
    from edgekit.deploy import measure

    if bundle is None:
        raise UsageError(
            "--on needs BUNDLE: without it edgekit.toml names the bundles, and checks them on this machine.",
            code="option-needs-other",
        )
    chosen = given_options(baseline=options["baseline"], samples=options["samples"])
    check = projects.checks(Project(), bundle, chosen)[0]
    _complete(check, self_check=bool(options["self_check"]))
    given_files = {"--samples": options["samples"], "--baseline": options["baseline"], "--gates": gates}
    files = {option: path for option, path in given_files.items() if path is not None}
    _verdict.check_ready(options["out"])
    with bars() as progress:
        reached = connection(device, progress)
        arguments = forwarded(("samples", "baseline", "gates", "out", "as_json"))
        report = measure.report("check", bundle, files, arguments, reached)
    from edgekit.verbs.reports import ReportResult

    result = ReportResult(report, bool(options["strict"]), bool(options["allow_incomparable"]))
    return _finish(result, options["out"], as_json)


def _finish(result: ReportResult, folder: str | None, as_json: bool) -> int:
    """Print and write a report; return its exit code."""
    if not as_json:
        return _verdict.finish(result, folder)
    from edgekit.report import files

    _verdict.write(result, folder)
    _verdict.say(files.dumps(result.report).rstrip("\n"))
    return result.exit_code


def _run(check: Check, as_json: bool) -> int:
    """Check one bundle and return its exit code.

    An error is printed and not raised, so that the bundles of other targets are checked too.
    """
    from edgekit.verbs import reports

    try:
        trust = trust_of([os.fspath(key) for key in check.options.keys])
        with bars() as progress:
            result = reports.check(
                check.bundle, check.baseline, check.samples, options=check.options, trust=trust, progress=progress
            )
        return _finish(result, None, as_json)
    except (EdgekitError, OSError, MemoryError) as problem:
        error = as_error(problem)
        echo(error_line(error, check.name), err=True)
        return error.exit_code


def worst(codes: Sequence[int]) -> int:
    """Return the worst of several exit codes."""
    return min(codes, key=_GRAVITY.index)
