"""Answers of a bundle to all rows of a sample set, each row run once: alone, or with others in one call.

Rows share calls only where the build has measured that their answers are then those of single calls. A few thousand
rows run alone in any case, since latency is that of single calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.report.side import BundleUnderTest
from edgekit.spec.errors import EdgekitError, InputError, OutputError
from edgekit.spec.manifest import Variant
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Input
from edgekit.spec.rows import PackedRows, take
from edgekit.timing.worker import Worker

__all__ = ["MOST_TIMED", "Answers", "answer_rows", "why_alone"]

MOST_TIMED = 2000
"""Largest number of rows that run alone for their latency where the others may share calls."""

_LONGEST_ROWS = 16
"""Number of the longest rows that run alone, so that the peak memory of single calls is that of all rows."""

_INPUTS_PER_REQUEST = 50
_WINDOW = 256
"""Rows that are sent in one request to be batched by length. Calls are cut from it as from a list of a session."""


@dataclass(frozen=True)
class Answers:
    """Answers of a bundle to rows.

    Attributes:
        outputs: Outputs, one row per input.
        times_ms: Latency of single calls in milliseconds: all rows, or a random choice of ``MOST_TIMED``.
        truncated: Number of inputs that are longer than the model's maximum.
        memory_mb: Peak resident memory of the process after all single calls, in MiB.
        note: How the rows ran, one sentence, if not all of them had to run alone; otherwise empty.
    """

    outputs: PackedRows
    times_ms: Sequence[float]
    truncated: int
    memory_mb: float
    note: str


def why_alone(variant: Variant) -> str:
    """Return why the rows of a list must run one by one; empty if the build has shown that they need not."""
    name = f"{variant.method} on {variant.backend}"
    if variant.rows == "alone":
        return f"this bundle does not run rows of a list together with {name}"
    if variant.lists is None:
        return f"the build could not compare answers in lists with those to single rows for {name}"
    if not variant.lists.is_within_limit:
        return f"answers in lists differ from those to single rows for {name}"
    return ""


def answer_rows(worker: Worker, side: BundleUnderTest, inputs: Sequence[Input], progress: Progress) -> Answers:
    """Answer all rows in one process.

    Args:
        worker: Process of the bundle.
        side: Bundle that runs there.
        inputs: Inputs of the rows, at least one.
        progress: Progress callback, called after each request.

    Raises:
        InputError: If the session refuses an input; the message has the number of the row.
        OutputError: If an output is not finite; the message has the number of the row.
        BackendError: If the process ends, or the clock goes backwards.
    """
    variant = side.bundle.manifest.variants[worker.variant_index()]
    timed: Sequence[int] = range(len(inputs))
    longest: Sequence[int] = ()
    others: Sequence[int] = ()
    note = ""
    if len(inputs) > MOST_TIMED:
        reason = why_alone(variant)
        if reason:
            note = f"All {len(inputs):,} rows ran one by one: {reason}."
        else:
            timed, longest, others = _divide(side, inputs)
            note = (
                f"{len(others):,} of {len(inputs):,} rows shared calls, and latency is that of {len(timed):,} random "
                f"rows that ran alone. By the build, answers in lists have the same labels as those to single rows, "
                f"and outputs within {variant.lists.allowed if variant.lists else 0:g} of their range."
            )
    outputs = PackedRows(len(inputs))
    times_ms: list[float] = []
    truncated = 0
    done = 0
    memory_mb = 0.0
    for places, batched in ((timed, False), (longest, False), (others, True)):
        if batched:
            memory_mb = worker.memory_mb()
        for part in _cut(places, _WINDOW if batched else _INPUTS_PER_REQUEST):
            try:
                answered = worker.answer(take(inputs, part), batched=batched)
            except (InputError, OutputError) as problem:
                raise _name_row(worker, inputs, part, problem) from problem
            outputs.put(part, answered.rows)
            truncated += answered.truncated
            if places is timed:
                times_ms += answered.times_ms
            done += len(part)
            progress("evaluate", done, len(inputs))
    return Answers(outputs, times_ms, truncated, memory_mb, note)


def _divide(side: BundleUnderTest, inputs: Sequence[Input]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return the rows that are timed alone, the longest of the others, and the remaining rows, each in order."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(inputs))[:MOST_TIMED])
    rest = np.setdiff1d(np.arange(len(inputs)), chosen)
    longest = rest[:0]
    if any(signature.varying for signature in side.bundle.manifest.signatures):
        sizes = np.fromiter((len(side.task.modality.content(value)) for value in inputs), np.int64, len(inputs))
        longest = np.sort(rest[np.argsort(-sizes[rest], kind="stable")[:_LONGEST_ROWS]])
    return chosen, longest, np.setdiff1d(rest, longest)


def _cut(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield the parts of a sequence, each of a size but for the last."""
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _name_row(worker: Worker, inputs: Sequence[Input], places: Sequence[int], problem: EdgekitError) -> EdgekitError:
    """Return the error of the first row that fails alone, with its number; the error itself if none does."""
    for place in places:
        try:
            worker.answer([inputs[place]])
        except (InputError, OutputError) as error:
            return error.reworded(f"Row {place + 1} of the samples: {error}")
    return problem
