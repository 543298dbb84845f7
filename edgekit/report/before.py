"""What a bundle is compared with: another bundle, a report of an earlier run, or a teacher as a function or as a file of its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.bundle.signature import Trust
from edgekit.report import files, predictions
from edgekit.report.predictions import Answer
from edgekit.report.side import Rows, Side, opened, same_task, teacher
from edgekit.spec.errors import EdgekitError, UsageError
from edgekit.spec.sealed import matches
from edgekit.spec.subject import Fingerprint, Subject

Before = str | Path | Answer
"""A bundle's folder, a report (``.json``), a teacher's logits (``.npy``, ``.npz``, ``.jsonl``), or the teacher as a function from texts to logits."""


@dataclass(frozen=True)
class Known:
    """What is known of it before anything is measured. A bundle is a side; anything else comes with its answers.

    Attributes:
        side: of a bundle that runs again here.
        subject: of a report or a teacher.
        logits: of a report or a teacher, float32 ``[rows, labels]``; None where they answer other samples.
        answer: what can be asked for more, of a teacher that is a function.
        fingerprint: of the machine that a report was made on.
        why_not: why its answers cannot be compared; empty where they can.
        untimely: why its times cannot be, beside that and the machine; empty where they can.
        note: what became of a baseline's bundle, a sentence; empty where there is nothing to be said.
    """

    side: Side | None = None
    subject: Subject | None = None
    logits: np.ndarray | None = None
    answer: Answer | None = None
    fingerprint: Fingerprint | None = None
    why_not: str = ""
    untimely: str = ""
    note: str = ""


def known(before: Before, side: Side, given: Rows, trust: Trust | None) -> Known:
    """Opens what a bundle is compared with.

    Args:
        before: see ``Before``.
        side: the bundle.
        given: the samples that it answers.
        trust: whose bundles may be opened.

    Raises:
        UsageError: when it does not exist, is none of these, or is of another task.
        IntegrityError: for a bundle or a report that is damaged or of a newer format.
        SamplesError: for logits of other rows.
    """
    if callable(before):
        logits = _asked(before, given, len(side.task.settings.labels))
        return Known(subject=teacher(side.task, given, logits, "teacher"), logits=logits, answer=before)
    path = Path(before)
    if path.is_dir():
        other = opened(path, trust, threads=side.threads)
        same_task(other.task.settings.problem_type, other.task.settings.labels, side.task, f"The baseline {path}")
        return Known(side=other)
    if path.suffix.lower() == ".json":
        return _reported(path, side, given, trust)
    if path.suffix.lower() in predictions.FILE_TYPES:
        logits = predictions.read_logits(path, len(given.texts), len(side.task.settings.labels))
        return Known(subject=teacher(side.task, given, logits, path.stem), logits=logits)
    what = "is none of these" if path.exists() else "does not exist"
    raise UsageError(
        f"{path} {what}: expected a bundle's folder, a report of 'edgekit baseline' or 'edgekit report' (.json), "
        f"or a teacher's logits ({', '.join(predictions.FILE_TYPES)})."
    )


def _reported(file: Path, side: Side, given: Rows, trust: Trust | None) -> Known:
    """The candidate of an earlier report: its bundle itself, where that still lies where it was, else what the report says of it."""
    earlier = files.read(file)
    found = earlier.subjects[-1]
    same_task(found.problem_type, found.labels, side.task, f"The bundle of {file}")
    if found.predictions is None:
        raise UsageError(f"{file} holds no predictions to compare with. Make one that does: edgekit baseline BUNDLE --samples FILE -o {file}")
    if side.settings == found.settings:
        note = ""  # the bundle against itself: there is nothing to be proved in turns
    elif (other := _at_hand(file.parent / found.path, found, side, trust)) is not None:
        note = f"The bundle of {file.name} is still at {found.path}: both ran in turns, and the file's own times decide nothing."
        return Known(side=other, note=note)
    else:
        note = f"The bundle of {file.name} is no longer at {found.path}: its times are those of the file." if found.path else ""
    if not matches(earlier.samples, given.digest):
        why = f"the samples are not those of {file.name}: they changed since, or are others"
        return Known(subject=found, fingerprint=earlier.fingerprint, why_not=why, note=note)
    logits, _ = predictions.unpack(found.problem_type, found.predictions)
    untimely = "" if earlier.speed is None or earlier.speed.comparable else f"{file.name} says of its own times: {earlier.speed.why_not}"
    return Known(subject=found, logits=logits, fingerprint=earlier.fingerprint, untimely=untimely, note=note)


def _at_hand(place: Path, found: Subject, side: Side, trust: Trust | None) -> Side | None:
    """The bundle of a baseline, where it was left: the very same, files and settings. Another one there, or a damaged one, is none."""
    if not found.path or not place.is_dir():
        return None
    try:
        other = opened(place, trust, threads=side.threads)
    except EdgekitError:
        return None
    return other if other.settings == found.settings else None


def _asked(answer: Callable[..., object], given: Rows, labels: int) -> np.ndarray:
    logits = np.asarray(answer(given.texts), np.float32)
    expected = (len(given.texts), labels)
    if logits.shape != expected or not np.isfinite(logits).all():
        raise UsageError(
            f"The teacher answers {len(given.texts)} texts with {list(logits.shape)}{'' if np.isfinite(logits).all() else ' and numbers that are not finite'}, "
            f"expected finite logits float32 {list(expected)}: a row a text, a column a label, in the bundle's order."
        )
    return logits
