"""Answers of a bundle to all rows of a sample set, each row run once: alone, or with others in one call.

Rows share calls only where the build has measured that their answers are then those of single calls. A few thousand
rows run alone in any case, since latency is that of single calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

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
        note: Sentence on how the rows ran; empty if there are few.
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
    plan = _make_plan(side, side.bundle.manifest.variants[worker.variant_index()], inputs)
    run = _Run(worker, inputs, progress)
    times_ms = run.answer(plan.timed, _INPUTS_PER_REQUEST)
    run.answer(plan.longest, _INPUTS_PER_REQUEST)
    memory_mb = worker.memory_mb()
    run.answer(plan.shared, _WINDOW, batched=True)
    return Answers(run.outputs, times_ms, run.truncated, memory_mb, plan.note)


@dataclass(frozen=True)
class _Plan:
    """How rows run.

    Attributes:
        timed: Rows that run alone and are timed.
        longest: Rows that run alone because they are the longest of the others.
        shared: Rows that share calls.
        note: Sentence for the user; empty if there are few rows.
    """

    timed: Sequence[int]
    longest: Sequence[int] = ()
    shared: Sequence[int] = ()
    note: str = ""


def _make_plan(side: BundleUnderTest, variant: Variant, inputs: Sequence[Input]) -> _Plan:
    """Return how the rows run."""
    count = len(inputs)
    every = range(count)
    if count <= MOST_TIMED:
        return _Plan(every)
    reason = why_alone(variant)
    if reason or variant.lists is None:
        return _Plan(every, note=f"All {count:,} rows ran one by one: {reason}.")
    timed = np.sort(np.random.default_rng(0).permutation(count)[:MOST_TIMED])
    others = np.setdiff1d(every, timed)
    longest = others[:0]
    if any(signature.varying for signature in side.bundle.manifest.signatures):
        sizes = np.fromiter((len(side.task.modality.content(value)) for value in inputs), np.int64, count)
        longest = np.sort(others[np.argsort(-sizes[others], kind="stable")[:_LONGEST_ROWS]])
    shared = np.setdiff1d(others, longest)
    note = (
        f"{len(shared):,} of {count:,} rows shared calls, and latency is that of {len(timed):,} random rows that ran "
        "alone. By the build, answers in lists have the same labels as those to single rows, and outputs within "
        f"{variant.lists.allowed:g} of their range."
    )
    # Arrays are sequences in all but their type.
    return _Plan(*cast("tuple[Sequence[int], Sequence[int], Sequence[int]]", (timed, longest, shared)), note)


class _Run:
    """A run of all rows: what is known of them so far."""

    def __init__(self, worker: Worker, inputs: Sequence[Input], progress: Progress) -> None:
        self._worker = worker
        self._inputs = inputs
        self._progress = progress
        self._done = 0
        self.outputs = PackedRows(len(inputs))
        self.truncated = 0

    def answer(self, places: Sequence[int], size: int, *, batched: bool = False) -> list[float]:
        """Answer rows in requests of a size, and return the time of each call with one row in milliseconds."""
        times_ms: list[float] = []
        for part in _cut(places, size):
            try:
                answered = self._worker.answer(take(self._inputs, part), batched=batched)
            except (InputError, OutputError) as problem:
                raise _name_row(self._worker, self._inputs, part, problem) from problem
            self.outputs.put(part, answered.rows)
            self.truncated += answered.truncated
            times_ms += answered.times_ms
            self._done += len(part)
            self._progress("evaluate", self._done, len(self._inputs))
        return times_ms


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
