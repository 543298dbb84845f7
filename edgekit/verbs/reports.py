"""``measure``, ``baseline``, ``compare`` and ``check``: a report is measured, judged and written."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bundle.signature import Trust
from edgekit.spec.errors import UsageError
from edgekit.spec.options import BaselineOptions, CheckOptions, CompareOptions, MeasureOptions
from edgekit.spec.paths import check_path, takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.sources import FilePath, SampleSource

if TYPE_CHECKING:
    from edgekit.report.baseline import BaselineRef
    from edgekit.spec.report import Report

__all__ = ["ReportResult", "baseline", "check", "compare", "measure"]


@dataclass(frozen=True)
class ReportResult:
    """A report, and how it is judged.

    Attributes:
        report: Report with all that was measured.
        strict: Whether a gate that stays inconclusive fails.
        allow_incomparable: Whether latency, start, memory and energy may stay incomparable.
        written: Files that the report was written to.
    """

    report: Report
    strict: bool = False
    allow_incomparable: bool = False
    written: tuple[Path, ...] = ()

    @property
    def exit_code(self) -> int:
        """Exit code of the command line.

        It is 0 for a pass, 3 for a regression or a result over budget, and 4 for an incomparable result or, with
        ``strict``, an inconclusive one.
        """
        return self.report.exit_code(self.strict, self.allow_incomparable)

    @property
    def passed(self) -> bool:
        """Whether no gate failed. A gate that stays inconclusive is no proof, and fails with ``strict`` alone."""
        return self.exit_code == 0

    def text(self) -> str:
        """Return the report as the command line prints it."""
        from edgekit.report.render.terminal import terminal

        return terminal(self.report, self.exit_code)

    def record(self) -> dict[str, object]:
        """Return the report as plain data, as its JSON file has it."""
        from edgekit.report import files

        return dict(json.loads(files.dumps(self.report)))

    def write(self, folder: FilePath) -> ReportResult:
        """Write all forms of the report (HTML, JSON, Markdown, JUnit, history) into a folder.

        Returns:
            The same result with the files.

        Raises:
            EdgekitError: If they cannot be written.
        """
        from edgekit.report.render import write_all

        check_path(folder, "folder")
        return replace(self, written=(*self.written, *write_all(self.report, Path(folder))))


@takes_paths("bundle")
def measure(
    bundle: FilePath,
    samples: SampleSource,
    *,
    options: MeasureOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> ReportResult:
    """Measure everything that can be measured of one bundle.

    That is accuracy by row and slice, latency, start, memory, scenarios and robustness.

    Args:
        bundle: Folder of the bundle.
        samples: Labelled samples, a path or rows in memory.
        options: Options; None for the defaults. Nothing is gated unless ``gates`` says so.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called with the progress of each part.

    Returns:
        The report.

    Raises:
        EdgekitError: If the bundle, the samples or the reference cannot be used.
    """
    from edgekit.report import check as reports
    from edgekit.verbs._teacher import find_reference

    chosen = options or MeasureOptions()
    if chosen.reference is not None:
        chosen = replace(chosen, reference=find_reference(chosen.reference, bundle))
    return ReportResult(reports.report(Path(bundle), samples, options=chosen, trust=trust, progress=progress))


@takes_paths("bundle", "file")
def baseline(
    bundle: FilePath,
    samples: SampleSource,
    *,
    file: FilePath | None = None,
    options: BaselineOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> ReportResult:
    """Measure the baseline that :func:`check` compares with later.

    It holds answers by row, the footprint, and the latency on this machine in one session.

    Args:
        bundle: Folder of the bundle.
        samples: Labelled samples, a path or rows in memory.
        file: JSON file that the baseline is written to, in place of one that is there; None to write none.
        options: Options; None for the defaults. With ``append`` the sessions of the file are kept.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called with the progress of each part.

    Returns:
        The report.

    Raises:
        UsageError: If the file cannot be a baseline, or with ``append`` is one of another bundle, other samples or
            another machine.
        EdgekitError: If the bundle or the samples cannot be used.
    """
    from edgekit.report import check as reports
    from edgekit.report import check_packages, files
    from edgekit.verbs._teacher import check_file

    if file is not None:
        check_file(file)
    check_packages("scipy")
    place = None if file is None else Path(file)
    report = reports.baseline(Path(bundle), samples, file=place, options=options, trust=trust, progress=progress)
    if place is None:
        return ReportResult(report)
    files.write(report, place)
    return ReportResult(report, written=(place,))


@takes_paths("after")
def compare(
    before: BaselineRef,
    after: FilePath,
    samples: SampleSource,
    *,
    options: CompareOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> ReportResult:
    """Compare a bundle with another one, or with its teacher, row by row and by the clock.

    Args:
        before: Bundle (both run interleaved), JSON report of an earlier run, file with a teacher's outputs (``.npz``,
            ``.jsonl``, ``.npy``), Hugging Face folder of the teacher, or a function from inputs to outputs.
        after: Folder of the bundle.
        samples: Labelled samples, a path or rows in memory.
        options: Options; None for the defaults.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called with the progress of each part.

    Returns:
        The report.

    Raises:
        EdgekitError: If a bundle, the samples or the gates cannot be used.
    """
    from edgekit.report import check as reports
    from edgekit.verbs._teacher import find_reference

    reference = find_reference(before, after)
    report = reports.compare(reference, Path(after), samples, options=options, trust=trust, progress=progress)
    return ReportResult(report)


@takes_paths("bundle")
def check(
    bundle: FilePath,
    baseline: BaselineRef | None,
    samples: SampleSource,
    *,
    options: CheckOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> ReportResult:
    """Check whether a bundle holds its gates against a baseline; a gate that fails is in the result and not raised.

    Args:
        bundle: Folder of the bundle.
        baseline: Older bundle, or file of :func:`baseline`; see :func:`compare` for all forms. None, with
            ``self_check``, to measure only the noise of this machine.
        samples: Labelled samples, a path or rows in memory.
        options: Options; None for the defaults.
        trust: Keys of makers whose bundles may be opened; None for those of ``options.keys``, or without any for
            anybody's.
        progress: Function that is called with the progress of each part.

    Returns:
        The report, judged by ``strict`` and ``allow_incomparable``, and written where ``options.report`` says.

    Raises:
        UsageError: If there is neither a baseline nor ``self_check``, every gate is off, or a margin is below the
            noise floor.
        EdgekitError: If the bundle, the baseline, the samples or the gates cannot be used.
    """
    from edgekit.report import check as reports
    from edgekit.report.render import check_writable
    from edgekit.verbs._teacher import find_reference

    chosen = options or CheckOptions()
    if chosen.report is not None:
        check_path(chosen.report, "report")
        check_writable(Path(chosen.report))
    trust = Trust(list(chosen.keys)) if trust is None and chosen.keys else trust
    if baseline is None and not chosen.self_check:
        raise UsageError(
            "check has no baseline. Give an older bundle, or a file of edgekit.baseline; "
            "or CheckOptions(self_check=True) for this machine's noise.",
            code="option-missing",
        )
    if baseline is None:
        report = reports.self_check(Path(bundle), samples, options=chosen, trust=trust, progress=progress)
    else:
        before = find_reference(baseline, bundle)
        report = reports.check(Path(bundle), before, samples, options=chosen, trust=trust, progress=progress)
    result = ReportResult(report, chosen.strict, chosen.allow_incomparable)
    return result if chosen.report is None else result.write(chosen.report)
