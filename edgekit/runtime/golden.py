"""Golden inputs and outputs of a bundle: they show whether this machine computes what the build machine computed.

The inputs come from generated text, never from the user's samples. Another CPU or another version of the backend rounds
differently, and INT8 differs more. The comparison detects a tokenizer, graph or backend that computes something else.

The allowed difference depends on the kernel. If the graph defines the arithmetic (float, INT8 with stored scales),
outputs stay within ``TOLERANCE`` of those of the build. If activations are quantized dynamically, the kernel chooses
the values that share a range: on CPUs with SME, ONNX Runtime uses one range per row, elsewhere one per tensor. Such a
variant can also pass by the float32 outputs, which the bundle stores too: their distance may be at most ``SLACK`` times
that of the build's kernel, and the answer must be the same for each row where that distance cannot change it.

The file is an ``.npz`` of uncompressed arrays. The signature of the graph determines its layout:

- The table layout is for integer inputs with one variable axis and one float32 output of fixed shape. It has
  ``lengths``, ``input.NAME`` ``[rows, longest]``, ``outputs.VARIANT`` and ``reference`` ``[rows, ...]``.
- All other graphs have ``input.NAME``, ``outputs.VARIANT.NAME`` and ``reference.NAME`` in the form of
  :func:`edgekit.spec.rows.pack`: ragged arrays are flat, and their shapes are stored beside them.

In both layouts, ``kept.NAME`` (in the packed form) is an array of an input that no graph takes. The task needs it to
interpret the outputs, e.g. to know which tokens begin a word.
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
from edgekit.spec import rows as row_format
from edgekit.spec.errors import OutputError
from edgekit.spec.manifest import Variant
from edgekit.spec.protocols import Arrays, Task

__all__ = ["FILE", "SLACK", "TOLERANCE", "Golden", "GoldenResult", "check", "check_engine", "compare", "pack", "read"]

TOLERANCE = 0.05
"""Largest allowed difference, as a share of the range of the golden outputs (at least 1)."""
SLACK = 1.5
"""Largest allowed distance from the float32 outputs, as a multiple of the distance of the build's kernel.

It is above 1 because the largest of a few dozen differences varies."""
# Methods that quantize activations dynamically, or not at all.
_DYNAMIC_METHODS = ("dynamic", "dynamic_rows", "dynamic_rows_int4", "weight_only")


@dataclass(frozen=True)
class GoldenResult:
    """Difference between this machine and the one that built the bundle.

    Attributes:
        rows: Number of golden inputs.
        difference: Largest difference of an output value from the build, as a share of the outputs' range (at least 1).
        flips: Number of inputs whose answer differs from the one at the build.
        distance: Largest difference of an output value of the build from the float32 outputs, as a share of the same
            range; None if float32 outputs do not count for the method, or the bundle has none.
        off: Largest difference of an output value of this machine from the float32 outputs, in the same unit.
        decisive: Number of inputs whose float32 answer cannot be changed by a difference of ``distance``.
        lost: Number of those inputs whose answer differs on this machine.
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
        """Whether the outputs are within ``TOLERANCE`` of those of the build."""
        return self.difference <= TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether the outputs are those of the build, or of another kernel that is as close to float32."""
        if self.same_kernel:
            return True
        return (
            self.distance is not None
            and self.off is not None
            and self.off <= SLACK * self.distance
            and self.decisive > self.lost == 0
        )

    def text(self) -> str:
        """Return the result as text."""
        text = f"largest difference {self.difference:.2g} of the output range, {self.flips} label(s) changed"
        if self.same_kernel or self.distance is None:
            return text
        text += (
            f"; distance from the float32 outputs {self.off:.2g} (at the build {self.distance:.2g}), "
            f"{self.lost} of {self.decisive} clear label(s) changed"
        )
        return text + _sme_note() if self.passed else text

    def problem(self) -> str:
        """Return why the variant is unusable on this machine; empty if it is usable."""
        if self.passed:
            return ""
        text = (
            f"its outputs for the golden inputs differ by {self.difference:.2g} of their range, "
            f"expected at most {TOLERANCE}"
        )
        if self.distance is not None:
            text += (
                f"; their distance from the float32 outputs is {self.off:.2g}, "
                f"expected at most {SLACK:g} times the {self.distance:.2g} of the build; "
                f"{self.lost} of {self.decisive} clear label(s) changed"
            )
        return text + _sme_note()


class OpenSession(Protocol):
    """The part of a session that a comparison uses."""

    _bundle: Bundle
    _variant: Variant
    _task: Task

    @property
    def variant_index(self) -> int:
        """Index of the variant in the manifest."""

    def run_rows(self, rows: Sequence[Arrays]) -> list[Arrays]:
        """Return the outputs of rows, which run one at a time."""

    def warm_up(self) -> None:
        """Compile what the load deferred."""


def check(session: OpenSession) -> GoldenResult:
    """Run the golden inputs of a session's bundle, and compare the outputs.

    Static shapes are compiled first, because their kernels are to be checked too.

    Args:
        session: Open session.

    Raises:
        IntegrityError: If the golden inputs cannot be read.
        BackendError: If the session cannot run them.
    """
    stored = read(session._bundle)
    index = session.variant_index
    session.warm_up()
    try:
        outputs = session.run_rows(stored.rows)
    except OutputError:
        # NaN counts as an infinite difference.
        outputs = [_fill_with_nan(row) for row in stored.outputs[index]]
    return compare(stored, index, outputs, session._task, session._variant.method in _DYNAMIC_METHODS)


def check_engine(runner: GraphRunner, bundle: Bundle, index: int, task: Task) -> str:
    """Return why a newly compiled engine fails the comparison with the golden outputs; empty if it passes.

    Args:
        runner: Runner of the engine.
        bundle: Verified bundle.
        index: Index of the variant in the manifest.
        task: Task of the bundle.
    """
    stored = read(bundle)
    outputs = runner.run(stored.rows, alone=True, finite=False)
    is_dynamic = bundle.manifest.variants[index].method in _DYNAMIC_METHODS
    return compare(stored, index, outputs, task, is_dynamic).problem()


def compare(stored: Golden, variant: int, outputs: Sequence[Arrays], task: Task, is_dynamic: bool) -> GoldenResult:
    """Compare outputs for the golden inputs with the stored ones.

    Args:
        stored: Golden inputs and outputs of the bundle.
        variant: Index of the variant in the manifest.
        outputs: Outputs of each row on this machine.
        task: Task of the bundle, which defines when two answers are the same.
        is_dynamic: Whether activations are quantized dynamically, so that another kernel may use other ranges.
    """
    # The range is that of the graphs' outputs alone: arrays that the loop adds from the input may have any size.
    spread = row_format.spread(stored.outputs[variant])
    expected = _add_input_arrays(stored.outputs[variant], outputs)
    difference = row_format.difference(expected, outputs) / spread
    flips = int((~task.same_answer(outputs, expected)).sum())
    if stored.reference is None or not is_dynamic:
        return GoldenResult(len(expected), difference, flips)
    reference = _add_input_arrays(stored.reference, outputs)
    distance = row_format.difference(expected, reference)
    clear = task.decided(reference, distance)
    lost = int((clear & ~task.same_answer(outputs, reference)).sum())
    off = row_format.difference(reference, outputs) / spread
    return GoldenResult(len(expected), difference, flips, distance / spread, off, int(clear.sum()), lost)


def _add_input_arrays(rows: Sequence[Arrays], outputs: Sequence[Arrays]) -> list[Arrays]:
    """Return stored outputs of graphs, with the arrays that the loop adds to its outputs from each input."""
    return [{**output, **row} for row, output in zip(rows, outputs, strict=True)]


def _fill_with_nan(row: Arrays) -> Arrays:
    """Return arrays of the same shapes: NaN for floats, 0 for integers."""
    filled = {}
    for name, array in row.items():
        filled[name] = np.full_like(array, np.nan if array.dtype.kind == "f" else 0)
    return filled


def _sme_note() -> str:
    """Return an explanation of differences on a CPU with SME; empty on other CPUs."""
    if "sme" not in cpu_instructions():
        return ""
    return (
        ". This CPU has SME: dynamic INT8 uses one activation range per row here and one per tensor elsewhere, "
        "so outputs differ without being less accurate"
    )
