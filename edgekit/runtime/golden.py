"""Golden inputs and outputs inside the bundle: does it still compute here what it computed where it was built?

The inputs come from generated text, never from the user's samples. Another CPU or another version of the backend rounds
differently, INT8 more so; what is caught is a tokenizer, graph or backend that computes something else.

How far a sound kernel may be off depends on its kind. Kernels whose arithmetic the graph fixes (float, INT8 by stored scales) keep within ``TOLERANCE`` of
what the variant answered at the build. Where activations are quantized as they come, the kernel chooses of how many numbers it takes the range: on CPUs
with SME, ONNX Runtime takes it by row, elsewhere by tensor. Such a variant also passes by the float32 answers that are stored beside: it may be at most
``SLACK`` times as far from them as the build's kernel was, and must give their answer on each row where that distance cannot change it.

The file is an ``.npz`` of stored arrays, in one of two layouts, by the signature of the graph. The table is for integer inputs of one axis that varies and one
float32 output of fixed shape: ``lengths``, ``input.NAME`` ``[rows, longest]``, ``outputs.VARIANT`` and ``reference`` ``[rows, ...]``. All other graphs have
``input.NAME``, ``outputs.VARIANT.NAME`` and ``reference.NAME`` as :func:`edgekit.spec.rows.pack` makes them: ragged arrays are flat, with their shapes beside.
In both, ``kept.NAME`` (packed alike) are the arrays of an input that no graph takes and that tell the task what the outputs are of, e.g. which tokens begin
a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekit.bundle.trust import Bundle
from edgekit.machine.cpu import cpu_instructions
from edgekit.runtime.golden_file import FILE, Golden, pack, read
from edgekit.runtime.runner import GraphRunner
from edgekit.spec import rows as of_rows
from edgekit.spec.errors import OutputError
from edgekit.spec.manifest import Variant
from edgekit.spec.protocols import Arrays, Task

__all__ = ["FILE", "SLACK", "TOLERANCE", "Golden", "GoldenResult", "check", "check_engine", "compare", "pack", "read"]

TOLERANCE = 0.05
"""Largest difference, as a share of the golden outputs' spread (at least 1)."""
SLACK = 1.5
"""How many times as far from the float32 answers as the build's kernel another one may be: the largest of a few dozen numbers varies."""
_RANGES_AS_THEY_COME = (
    "dynamic",
    "weight_only",
)  # methods whose activations are quantized when they are there, if at all


@dataclass(frozen=True)
class GoldenResult:
    """How far this machine is from the one that built the bundle.

    Attributes:
        rows: golden examples.
        difference: largest difference of an output value, as a share of the spread of all (at least 1).
        flips: examples that are answered otherwise than at the build.
        distance: largest difference of an output value from the float32 answers that the variant had at the build, as a share of that spread; None where they
            do not count, or the bundle does not hold them.
        off: the same on this machine.
        decisive: examples whose float32 answer is so clear that a difference of ``distance`` cannot change it.
        lost: of these, examples that this machine answers otherwise.
    """

    rows: int
    difference: float
    flips: int
    distance: float | None = None
    off: float | None = None
    decisive: int = 0
    lost: int = 0

    @property
    def same_kernel(self) -> bool:
        """Within ``TOLERANCE`` of what was answered at the build."""
        return self.difference <= TOLERANCE

    @property
    def passed(self) -> bool:
        """What this machine computes serves: as at the build, or by another kernel that is as near to the float32 answers."""
        if self.same_kernel:
            return True
        return (
            self.distance is not None
            and self.off is not None
            and self.off <= SLACK * self.distance
            and self.decisive > self.lost == 0
        )

    def text(self) -> str:
        """What was compared and how it came out."""
        text = f"largest difference {self.difference:.2g} of the outputs' spread, {self.flips} label(s) changed"
        if self.same_kernel or self.distance is None:
            return text
        text += (
            f"; from the float32 answers {self.off:.2g} (at the build {self.distance:.2g}), {self.lost} of the {self.decisive} labels changed "
            "that such a difference cannot change"
        )
        return text + _sme() if self.passed else text

    def problem(self) -> str:
        """Why what this machine computes does not serve; empty where it does."""
        if self.passed:
            return ""
        text = f"its answers to the golden inputs are {self.difference:.2g} of their spread off, expected at most {TOLERANCE}"
        if self.distance is not None:
            text += (
                f"; from the float32 answers {self.off:.2g}, expected at most {SLACK:g} times the {self.distance:.2g} of the build; "
                f"{self.lost} of {self.decisive} clear labels changed"
            )
        return text + _sme()


class Opened(Protocol):
    """What a session lends to a comparison."""

    _bundle: Bundle
    _variant: Variant
    _task: Task

    @property
    def variant_index(self) -> int:
        """Place of the variant in the manifest."""

    def run_rows(self, rows: Sequence[Arrays]) -> list[Arrays]:
        """Outputs of rows, one at a time."""


def check(session: Opened) -> GoldenResult:
    """Runs the golden inputs of its bundle in a session.

    Raises:
        IntegrityError: when they cannot be read.
        BackendError: when the session cannot run them.
    """
    stored, index = read(session._bundle), session.variant_index
    try:
        found = session.run_rows(stored.rows)
    except OutputError:  # a machine on which it computes NaN is as far off as can be
        found = _no_numbers(stored.outputs[index])
    return compare(stored, index, found, session._task, session._variant.method in _RANGES_AS_THEY_COME)


def check_engine(runner: GraphRunner, bundle: Bundle, index: int, task: Task) -> str:
    """Why an engine that was just made does not serve, by the golden inputs of its bundle; empty where it does.

    Args:
        runner: of the engine.
        bundle: that was checked.
        index: place of the variant in the manifest.
        task: of the bundle.
    """
    stored = read(bundle)
    found = runner.run(stored.rows, alone=True, finite=False)
    return compare(stored, index, found, task, bundle.manifest.variants[index].method in _RANGES_AS_THEY_COME).problem()


def compare(stored: Golden, variant: int, found: Sequence[Arrays], task: Task, as_they_come: bool) -> GoldenResult:
    """What answers to the golden inputs come to.

    Args:
        stored: of the bundle.
        variant: place of the variant in the manifest.
        found: outputs of each row.
        task: tells what an answer is.
        as_they_come: activations are quantized as they come, so that another kernel may take other ranges.
    """
    spread = of_rows.spread(
        stored.outputs[variant]
    )  # of the answers alone: what the loop hands on of an input may be of any size
    expected, reference = _completed(stored.outputs[variant], found), stored.reference
    difference, flips = of_rows.difference(expected, found) / spread, int((~task.same_answer(found, expected)).sum())
    if reference is None or not as_they_come:
        return GoldenResult(len(expected), difference, flips)
    reference = _completed(reference, found)
    distance = of_rows.difference(expected, reference)
    clear = task.decided(reference, distance)
    lost = int((clear & ~task.same_answer(found, reference)).sum())
    off = of_rows.difference(reference, found) / spread
    return GoldenResult(len(expected), difference, flips, distance / spread, off, int(clear.sum()), lost)


def _completed(rows: Sequence[Arrays], found: Sequence[Arrays]) -> list[Arrays]:
    """Stored outputs of graphs, with what the loop has handed on of each input beside those that were found."""
    return [{**other, **row} for row, other in zip(rows, found, strict=True)]


def _no_numbers(rows: Sequence[Arrays]) -> list[Arrays]:
    return [
        {name: np.full_like(array, np.nan if array.dtype.kind == "f" else 0) for name, array in row.items()}
        for row in rows
    ]


def _sme() -> str:
    """What to know of the CPU beside a difference."""
    if "sme" not in cpu_instructions():
        return ""
    return ". This CPU has SME: dynamic INT8 takes the range of activations by row here, by tensor elsewhere, so answers differ and are no worse"
