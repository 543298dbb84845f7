"""What a bundle is compared with: another bundle, a report of an earlier run, or a teacher as a function or as a file of its answers."""

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

__all__ = ["Before", "BundleBefore", "Known", "ReportBefore", "TeacherBefore", "completed", "known"]

Before = str | Path | Callable[[Sequence[Input]], Any]
"""A bundle's folder, a report (``.json``), a teacher's outputs (``.npy``, ``.npz``, ``.jsonl``), or the teacher as a function from inputs to outputs:
a row of named arrays for each input or, of a model with one output, one array ``[rows, ...]``."""


@dataclass(frozen=True)
class BundleBefore:
    """A bundle that runs again here.

    Attributes:
        side: the bundle.
        note: what became of a baseline that names it, a sentence; empty where there is nothing to be said.
    """

    side: BundleUnderTest
    note: str = ""


@dataclass(frozen=True)
class ReportBefore:
    """What an earlier report says of a bundle that is not at hand.

    Attributes:
        subject: the bundle.
        fingerprint: of the machine that the report was made on.
        outputs: one row each; None where the report is of other samples.
        why_not: why its answers cannot be compared; empty where they can.
        untimely: why its times cannot be, beside that and the machine; empty where they can.
        note: what became of its bundle, a sentence; empty where there is nothing to be said.
    """

    subject: Subject
    fingerprint: Fingerprint
    outputs: Sequence[Arrays] | None = None
    why_not: str = ""
    untimely: str = ""
    note: str = ""


@dataclass(frozen=True)
class TeacherBefore:
    """A model of which answers are all that is known.

    Attributes:
        subject: the model.
        outputs: one row each.
        answer: what can be asked for more, of a teacher that is a function.
    """

    subject: Subject
    outputs: Sequence[Arrays]
    answer: Answer | None = None


Known = BundleBefore | ReportBefore | TeacherBefore


def known(before: Before, side: BundleUnderTest, given: Rows) -> Known:
    """Opens what a bundle is compared with.

    Args:
        before: see ``Before``.
        side: the bundle; what it is compared with must be signed as it is, and runs with as many threads.
        given: the samples that it answers.

    Raises:
        UsageError: when it does not exist, is none of these, or is of another task.
        IntegrityError: for a bundle or a report that is damaged or of a newer format.
        SamplesError: for outputs of other rows.
    """
    if callable(before):
        function = before

        def answer(inputs: Sequence[Input]) -> list[Arrays]:
            return completed(
                side, inputs, predictions.named(function(inputs), len(inputs), side.outputs, "The teacher's outputs")
            )

        return _taught(side, given, answer(given.inputs), "teacher", answer)
    path = Path(before)
    if path.is_dir():
        other = _like(open_for_test(path, side.trust, threads=side.threads), side)
        check_same_task(other.task.identity, side.task, f"The baseline {path}")
        return BundleBefore(other)
    if path.suffix.lower() == ".json":
        return _reported(path, side, given)
    if path.suffix.lower() in predictions.FILE_TYPES:
        return _taught(
            side,
            given,
            completed(side, given.inputs, predictions.read_outputs(path, len(given), side.outputs)),
            path.stem,
        )
    what = "is none of these" if path.exists() else "does not exist"
    raise UsageError(
        f"{path} {what}: expected a bundle's folder, a report of 'edgekit baseline' or 'edgekit eval -o' (.json), "
        f"or a teacher's outputs ({', '.join(predictions.FILE_TYPES)}).",
        code="baseline-not-found",
    )


def _like(other: BundleUnderTest, side: BundleUnderTest) -> BundleUnderTest:
    """Return a bundle that runs on a stand-in where ``side`` does and it is one of a device too."""
    if not side.stand_in_for:
        return other
    asked = replace(other, backend=side.backend)
    return asked if asked.stand_in_for else other


def completed(side: BundleUnderTest, inputs: Sequence[Input], outputs: Sequence[Arrays]) -> list[Arrays]:
    """A teacher's outputs, with what a loop returns beside those of the graphs: arrays of the row that no graph takes, e.g. where words begin.

    Args:
        side: the bundle.
        inputs: of the rows.
        outputs: of the teacher to these.
    """
    taken = {spec.name for signature in side.bundle.manifest.signatures for spec in signature.inputs}
    if not inputs or set(side.task.preprocess(inputs[:1])[0].arrays) <= taken:
        return list(outputs)
    kept = [
        {name: array for name, array in row.arrays.items() if name not in taken}
        for row in encode_each(side.task, inputs)
    ]
    return [{**own, **row} for own, row in zip(kept, outputs, strict=True)]


def _taught(
    side: BundleUnderTest, given: Rows, outputs: Sequence[Arrays], name: str, answer: Answer | None = None
) -> TeacherBefore:
    return TeacherBefore(summarize_teacher(side.bundle.manifest.task, given, outputs, name), outputs, answer)


def _reported(file: Path, side: BundleUnderTest, given: Rows) -> BundleBefore | ReportBefore:
    """The candidate of an earlier report: its bundle itself, where that still lies where it was, else what the report says of it."""
    earlier = files.read(file)
    found = earlier.subjects[-1]
    check_same_task(found.identity, side.task, f"The bundle of {file}")
    if found.predictions is None:
        raise UsageError(
            f"{file} holds no predictions to compare with. Make one that does: edgekit baseline BUNDLE --samples FILE -o {file}",
            code="baseline-no-predictions",
        )
    if side.settings == found.settings:
        note = ""  # the bundle against itself: there is nothing to be proved in turns
    elif (other := _at_hand(file.parent / found.path, found, side)) is not None:
        return BundleBefore(
            other,
            f"The bundle of {file.name} is still at {found.path}: both ran in turns, and the file's own times decide nothing.",
        )
    else:
        note = (
            f"The bundle of {file.name} is no longer at {found.path}: its times are those of the file."
            if found.path
            else ""
        )
    packed = found.predictions
    if not matches(earlier.samples, given.digest):
        why = f"the samples are not those of {file.name}: they changed since, or are others"
        if found.score_name != side.task.metrics[0].name:
            found = replace(found, **score_fields(side.task, None, None))
        return ReportBefore(found, earlier.fingerprint, why_not=why, note=note)
    outputs = predictions.unpack(packed)
    if found.score_name != side.task.metrics[0].name:  # it was made with another metric
        found = replace(found, **score_fields(side.task, given.evaluation, outputs))
    untimely = (
        ""
        if earlier.speed is None or earlier.speed.comparable
        else f"{file.name} says of its own times: {earlier.speed.why_not}"
    )
    return ReportBefore(found, earlier.fingerprint, outputs, untimely=untimely, note=note)


def _at_hand(place: Path, found: Subject, side: BundleUnderTest) -> BundleUnderTest | None:
    """The bundle of a baseline, where it was left: the very same, files and settings. Another one there, or a damaged one, is none."""
    if not found.path or not place.is_dir():
        return None
    try:
        other = _like(open_for_test(place, side.trust, threads=side.threads), side)
    except EdgekitError:
        return None
    return other if other.settings == found.settings else None
