"""The baseline of a comparison: another bundle, a report of an earlier run, or a teacher.

A teacher is a function, or a file with its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.report import files, predictions
from edgekit.report.predictions import Answer
from edgekit.report.side import BundleUnderTest, Rows, check_same_task, open_for_test
from edgekit.report.summarize import score_fields, summarize_teacher
from edgekit.spec.errors import EdgekitError, UsageError
from edgekit.spec.protocols import Arrays, Input
from edgekit.spec.rows import encode_each
from edgekit.spec.sealed import matches
from edgekit.spec.subject import Fingerprint, Subject

__all__ = [
    "Baseline",
    "BaselineRef",
    "BundleBefore",
    "ReportBefore",
    "TeacherBefore",
    "add_row_arrays",
    "load_baseline",
]

BaselineRef = str | Path | Callable[[Sequence[Input]], Any]
"""Folder of a bundle, report (``.json``), file with a teacher's outputs (``.npy``, ``.npz``, ``.jsonl``), or teacher.

A teacher is a function from inputs to outputs. It returns one mapping of arrays per input or, for a model with one
output, one array ``[rows, ...]``.
"""


@dataclass(frozen=True)
class BundleBefore:
    """A baseline that runs again on this machine.

    Attributes:
        side: Bundle of the baseline.
        note: Note on the baseline file that names the bundle, one sentence; empty if there is none.
    """

    side: BundleUnderTest
    note: str = ""


@dataclass(frozen=True)
class ReportBefore:
    """A baseline that is only known from an earlier report.

    Attributes:
        subject: Measurements of the bundle.
        fingerprint: Fingerprint of the machine on which the report was written.
        outputs: Outputs of the bundle, one mapping per row; None if the report is about other samples.
        why_not: Reason why its answers are incomparable; empty if they are comparable.
        latency_why_not: Reason why its latencies are incomparable, besides ``why_not`` and a different machine; empty
            if there is none.
        note: Note on the bundle of the report, one sentence; empty if there is none.
    """

    subject: Subject
    fingerprint: Fingerprint
    outputs: Sequence[Arrays] | None = None
    why_not: str = ""
    latency_why_not: str = ""
    note: str = ""


@dataclass(frozen=True)
class TeacherBefore:
    """A baseline of which only the outputs are known.

    Attributes:
        subject: Scores of the teacher.
        outputs: Outputs of the teacher, one mapping per row.
        answer: Function that computes the outputs for other inputs; None if the outputs come from a file.
    """

    subject: Subject
    outputs: Sequence[Arrays]
    answer: Answer | None = None


Baseline = BundleBefore | ReportBefore | TeacherBefore


def load_baseline(before: BaselineRef, side: BundleUnderTest, rows: Rows) -> Baseline:
    """Load the baseline of a comparison.

    Args:
        before: Reference to the baseline, see ``BaselineRef``.
        side: Bundle to compare. A baseline bundle is opened with the same trusted keys and number of threads.
        rows: Samples that both models answer.

    Raises:
        UsageError: If the baseline does not exist, has an unknown type or is a model of another task.
        IntegrityError: If a bundle or a report is damaged or has a newer format.
        SamplesError: If a file has outputs of other rows.
    """
    if callable(before):
        function = before

        def answer(inputs: Sequence[Input]) -> list[Arrays]:
            outputs = predictions.name_outputs(function(inputs), len(inputs), side.outputs, "The teacher's outputs")
            return add_row_arrays(side, inputs, outputs)

        return _make_teacher(side, rows, answer(rows.inputs), "teacher", answer)
    path = Path(before)
    if path.is_dir():
        other = _match_stand_in(open_for_test(path, side.trust, threads=side.threads), side)
        check_same_task(other.task.identity, side.task, f"The baseline {path}")
        return BundleBefore(other)
    if path.suffix.lower() == ".json":
        return _load_report(path, side, rows)
    if path.suffix.lower() in predictions.FILE_TYPES:
        outputs = predictions.read_outputs(path, len(rows), side.outputs)
        return _make_teacher(side, rows, add_row_arrays(side, rows.inputs, outputs), path.stem)
    problem = "has an unknown type" if path.exists() else "does not exist"
    raise UsageError(
        f"The baseline {path} {problem}. Give the folder of a bundle, a report of 'edgekit baseline' or "
        f"'edgekit eval -o' (.json), or a teacher's outputs ({', '.join(predictions.FILE_TYPES)}).",
        code="baseline-not-found",
    )


def _match_stand_in(other: BundleUnderTest, side: BundleUnderTest) -> BundleUnderTest:
    """Return a device bundle on the stand-in backend if ``side`` runs on one; return other bundles unchanged."""
    if not side.stand_in_for:
        return other
    on_stand_in = replace(other, backend=side.backend)
    return on_stand_in if on_stand_in.stand_in_for else other


def add_row_arrays(side: BundleUnderTest, inputs: Sequence[Input], outputs: Sequence[Arrays]) -> list[Arrays]:
    """Return a teacher's outputs with the preprocessed arrays that a bundle returns beside the outputs of its graphs.

    These are the arrays of a row that no graph reads, e.g. the positions of the first token of each word. Arrays of the
    teacher take precedence.

    Args:
        side: Bundle to compare.
        inputs: Inputs of the rows.
        outputs: Outputs of the teacher, one mapping per row.
    """
    graph_inputs = {spec.name for signature in side.bundle.manifest.signatures for spec in signature.inputs}
    if not inputs or set(side.task.preprocess(inputs[:1])[0].arrays) <= graph_inputs:
        return list(outputs)
    result: list[Arrays] = []
    for row, row_outputs in zip(encode_each(side.task, inputs), outputs, strict=True):
        unread = {name: array for name, array in row.arrays.items() if name not in graph_inputs}
        result.append({**unread, **row_outputs})
    return result


def _make_teacher(
    side: BundleUnderTest, rows: Rows, outputs: Sequence[Arrays], name: str, answer: Answer | None = None
) -> TeacherBefore:
    return TeacherBefore(summarize_teacher(side.bundle.manifest.task, rows, outputs, name), outputs, answer)


def _load_report(file: Path, side: BundleUnderTest, rows: Rows) -> BundleBefore | ReportBefore:
    """Return the candidate of an earlier report: its bundle if it is still in its place, else the report's content."""
    report = files.read(file)
    subject = report.subjects[-1]
    check_same_task(subject.identity, side.task, f"The bundle of {file}")
    packed = subject.predictions
    if packed is None:
        raise UsageError(
            f"{file} contains no predictions to compare with. "
            f"Write a baseline: edgekit baseline BUNDLE --samples FILE -o {file}",
            code="baseline-no-predictions",
        )
    note = ""
    # A bundle that is compared with itself need not be timed against itself.
    if side.settings != subject.settings:
        other = _find_bundle(file.parent / subject.path, subject, side)
        if other is not None:
            return BundleBefore(
                other,
                f"The bundle of {file.name} is still at {subject.path}, so both bundles ran interleaved. "
                "The latencies in the file are not used.",
            )
        if subject.path:
            note = (
                f"The bundle of {file.name} is no longer at {subject.path}, so its latencies are taken from the file."
            )
    has_other_metric = subject.score_name != side.task.metrics[0].name
    if not matches(report.samples, rows.digest):
        why_not = f"the samples differ from those of {file.name}: they have changed since, or are others"
        if has_other_metric:
            subject = replace(subject, **score_fields(side.task, None, None))
        return ReportBefore(subject, report.fingerprint, why_not=why_not, note=note)
    outputs = predictions.unpack(packed)
    if has_other_metric:
        subject = replace(subject, **score_fields(side.task, rows.evaluation, outputs))
    latency_why_not = ""
    if report.speed is not None and not report.speed.comparable:
        latency_why_not = f"{file.name} marks its own latencies as incomparable: {report.speed.why_not}"
    return ReportBefore(subject, report.fingerprint, outputs, latency_why_not=latency_why_not, note=note)


def _find_bundle(path: Path, subject: Subject, side: BundleUnderTest) -> BundleUnderTest | None:
    """Return the bundle of a baseline from its recorded path; None if it is missing, damaged or another bundle."""
    if not subject.path or not path.is_dir():
        return None
    try:
        other = _match_stand_in(open_for_test(path, side.trust, threads=side.threads), side)
    except EdgekitError:
        return None
    return other if other.settings == subject.settings else None
