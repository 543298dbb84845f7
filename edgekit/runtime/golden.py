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

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgekit.bundle.trust import Bundle
from edgekit.machine.cpu import cpu_instructions
from edgekit.runtime import _npz
from edgekit.runtime.loops import single
from edgekit.runtime.runner import GraphRunner
from edgekit.spec import rows as of_rows
from edgekit.spec.errors import IntegrityError, OutputError
from edgekit.spec.manifest import Variant
from edgekit.spec.protocols import Arrays, Task
from edgekit.spec.tensor import Signature, TensorSpec, merge_signatures

__all__ = ["FILE", "SLACK", "TOLERANCE", "Golden", "GoldenResult", "check", "check_engine", "compare", "pack", "read"]

FILE = "golden.npz"
TOLERANCE = 0.05
"""Largest difference, as a share of the golden outputs' spread (at least 1)."""
SLACK = 1.5
"""How many times as far from the float32 answers as the build's kernel another one may be: the largest of a few dozen numbers varies."""
_RANGES_AS_THEY_COME = (
    "dynamic",
    "weight_only",
)  # methods whose activations are quantized when they are there, if at all
_LIMIT = 64 * 2**20
_MOST_ROWS = 256
_KEPT = "kept."


@dataclass(frozen=True)
class Golden:
    """What a bundle holds to be compared with.

    Attributes:
        rows: inputs without padding: name to an array without a batch axis, those that no graph takes among them, where the bundle has these.
        outputs: what graphs gave for each row where the bundle was built, for each variant.
        reference: outputs of the float32 graph there; None in bundles of format 1.
    """

    rows: list[Arrays]
    outputs: list[list[Arrays]]
    reference: list[Arrays] | None


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


def pack(
    signature: Signature,
    rows: Sequence[Arrays],
    outputs: Sequence[Sequence[Arrays]],
    reference: Sequence[Arrays] | None,
) -> bytes:
    """The content of the file; the same arrays give the same bytes. Integer inputs are stored as the smallest type that holds them.

    Args:
        signature: signature of the graph; of a model with several, what :func:`edgekit.spec.tensor.merge_signatures` makes of theirs.
        rows: inputs, at least one row.
        outputs: outputs of each row, for each variant.
        reference: outputs of each row in float32; None where they are not known.
    """
    answered = {f"outputs.{i}": variant for i, variant in enumerate(outputs)} | (
        {} if reference is None else {"reference": reference}
    )
    taken = _of_graphs(rows, signature.inputs)
    named: dict[str, Any] = {}
    if _is_table(signature):
        (output,) = signature.outputs
        given = {f"input.{name}": _smallest(array) for name, array in single.collate(signature, rows).items()}
        columns = {name: np.stack([row[output.name] for row in variant]) for name, variant in answered.items()}
        reference_column = {name: columns.pop(name) for name in ("reference",) if name in columns}
        named = {
            "lengths": np.array([single.size(signature, row) for row in rows], np.int64),
            **columns,
            **given,
            **reference_column,
        }
    else:
        named = {f"input.{name}": _smallest(array) for name, array in of_rows.pack(taken).items()}
        for prefix, variant in answered.items():
            named |= {
                f"{prefix}.{name}": array
                for name, array in of_rows.pack(_of_graphs(variant, signature.outputs)).items()
            }
    kept = [
        {f"{_KEPT}{name}": array for name, array in row.items() if name not in own}
        for row, own in zip(rows, taken, strict=True)
    ]
    named |= {name: _smallest(array) for name, array in of_rows.pack(kept).items()}
    stream = io.BytesIO()
    np.savez(stream, **named)
    return stream.getvalue()


def _of_graphs(rows: Sequence[Arrays], specs: Sequence[TensorSpec]) -> list[Arrays]:
    """Rows without what a loop or a task keeps in them beside the inputs and outputs of graphs."""
    names = {spec.name for spec in specs}
    return [{name: array for name, array in row.items() if name in names} for row in rows]


def read(bundle: Bundle) -> Golden:
    """Reads the golden inputs and outputs of a bundle that was checked.

    Raises:
        IntegrityError: when the file is missing, damaged, or does not go with the manifest.
    """
    entry = bundle.manifest.files.get(FILE)
    try:
        if entry is not None and entry.size > _LIMIT:
            raise ValueError(f"it has {entry.size} bytes, expected at most {_LIMIT}")
        return _read(bundle.read(FILE), bundle)
    except ValueError as problem:
        raise IntegrityError(
            f"{bundle.path / FILE} cannot be read ({problem}). Build or copy the bundle again.", code="bundle-assets"
        ) from problem


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


def _is_table(signature: Signature) -> bool:
    """Whether all inputs are integers of one axis that varies, the same, and the one output is float32 of a fixed shape."""
    if len(signature.varying) != 1 or len(signature.outputs) != 1:
        return False
    shape = ("batch", signature.varying[0])
    (output,) = signature.outputs
    fixed = output.dtype == "float32" and len(output.shape) == 2 and not set(output.shape[1:]) & set(signature.varying)
    return fixed and all(np.dtype(spec.dtype).kind in "iu" and spec.shape == shape for spec in signature.inputs)


def _smallest(array: np.ndarray) -> np.ndarray:
    """The same integers in the smallest type that holds them; other numbers as they are."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    return array.astype(np.result_type(*map(np.min_scalar_type, (array.min(), array.max()))))


def _read(content: bytes, bundle: Bundle) -> Golden:
    signatures = bundle.manifest.signatures
    signature, outputs = merge_signatures(signatures), [f"outputs.{i}" for i in range(len(bundle.manifest.variants))]
    if _is_table(signature):
        return _read_table(content, signature, outputs)
    return _read_packed(content, signature, outputs, whole=len(signatures) == 1)


def _read_table(content: bytes, signature: Signature, outputs: Sequence[str]) -> Golden:
    names = {f"input.{spec.name}": spec for spec in signature.inputs}
    arrays = _npz.read(content, ["lengths", *outputs, *names], ["reference"], _KEPT)
    lengths = arrays["lengths"]
    if lengths.dtype != np.int64 or lengths.ndim != 1 or not 1 <= len(lengths) <= _MOST_ROWS or lengths.min() < 1:
        raise ValueError(
            f"its lengths are {lengths.dtype} {lengths.shape}, expected int64 of 1 to {_MOST_ROWS} rows, each at least 1"
        )
    size = (len(lengths), int(lengths.max()))
    for name in names:
        if arrays[name].dtype.kind not in "iu" or arrays[name].dtype == np.uint64 or arrays[name].shape != size:
            raise ValueError(f"'{name}' is {arrays[name].dtype} {arrays[name].shape}, expected integers {size}")
    kept = [*outputs, *(["reference"] if "reference" in arrays else [])]
    width = arrays[outputs[0]].shape[-1:]
    for name in kept:
        if arrays[name].dtype != np.float32 or arrays[name].shape != (len(lengths), *width) or 0 in width:
            raise ValueError(
                f"'{name}' is {arrays[name].dtype} {arrays[name].shape}, expected float32 ({len(lengths)}, labels)"
            )
    whole = {spec.name: arrays[name].astype(spec.dtype) for name, spec in names.items()}
    rows: list[Arrays] = [
        {name: array[i, :length] for name, array in whole.items()} for i, length in enumerate(lengths.tolist())
    ]
    (output,) = signature.outputs
    columns: dict[str, list[Arrays]] = {name: [{output.name: row} for row in arrays[name]] for name in kept}
    return Golden(_with_kept(rows, arrays), [columns[name] for name in outputs], columns.get("reference"))


def _read_packed(content: bytes, signature: Signature, outputs: Sequence[str], *, whole: bool) -> Golden:
    """Reads the layout of named arrays; ``whole``: a row has all inputs and outputs. Of several graphs some are made and used up between them."""
    parts = {"input": signature.inputs, **dict.fromkeys([*outputs, "reference"], signature.outputs)}
    known = {part: [f"{part}.{spec.name}" for spec in specs] for part, specs in parts.items()}
    needed = [name for part, names in known.items() for name in names if whole and part != "reference"]
    arrays = _npz.read(
        content, needed, [name + end for names in known.values() for name in names for end in ("", ".shapes")], _KEPT
    )
    parts = {part: tuple(spec for spec in specs if f"{part}.{spec.name}" in arrays) for part, specs in parts.items()}
    if not parts["reference"]:
        del parts["reference"]
    for part, specs in parts.items():
        if not specs or (part != "input" and specs != parts[outputs[0]]):
            raise ValueError(
                f"of '{part}' it holds {[spec.name for spec in specs]}, expected the arrays of a row, the same of each variant"
            )
    rows = {part: _packed_rows(arrays, part, specs) for part, specs in parts.items()}
    count = len(rows["input"])
    if not 1 <= count <= _MOST_ROWS or any(len(found) != count for found in rows.values()):
        raise ValueError(
            f"it is of {count} inputs and {[len(found) for found in rows.values()]} answers, expected 1 to {_MOST_ROWS} rows of all"
        )
    if any(0 in array.shape for row in rows["input"] for array in row.values()):
        raise ValueError("an input is empty, expected at least one value")
    return Golden(_with_kept(rows["input"], arrays), [rows[name] for name in outputs], rows.get("reference"))


def _with_kept(rows: Sequence[Arrays], arrays: Mapping[str, np.ndarray]) -> list[Arrays]:
    """Inputs of graphs with the arrays beside them, where the file has these."""
    kept = _unpacked(arrays, "kept") or [{}] * len(rows)
    if len(kept) != len(rows):
        raise ValueError(f"it is of {len(rows)} inputs and what was kept of {len(kept)}")
    whole_numbers = [
        {name: array.astype(np.int64) if array.dtype.kind in "iu" else array for name, array in row.items()}
        for row in kept
    ]
    return [{**row, **beside} for row, beside in zip(rows, whole_numbers, strict=True)]


def _packed_rows(arrays: Mapping[str, np.ndarray], part: str, specs: Sequence[TensorSpec]) -> list[Arrays]:
    """The rows of one part of the file in the types of the signature.

    Raises:
        ValueError: for arrays that do not fit it.
    """
    rows = _unpacked(arrays, part)
    for row in rows:
        for spec in specs:
            array, axes = row[spec.name], spec.shape[1:]
            typed = array.dtype == spec.dtype or (
                array.dtype.kind in "iu" and array.dtype != np.uint64 and np.dtype(spec.dtype).kind in "iu"
            )
            if (
                not typed
                or array.ndim != len(axes)
                or any(a != n for a, n in zip(axes, array.shape, strict=True) if isinstance(a, int))
            ):
                raise ValueError(
                    f"'{part}.{spec.name}' has a row that is {array.dtype} {array.shape}, expected {spec.dtype} {axes}"
                )
    return [{spec.name: row[spec.name].astype(spec.dtype, copy=False) for spec in specs} for row in rows]


def _unpacked(arrays: Mapping[str, np.ndarray], part: str) -> list[dict[str, np.ndarray]]:
    """The rows of one part of the file as they are stored.

    Raises:
        ValueError: for more rows than a bundle has, and for arrays that do not fit each other.
    """
    taken = {name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")}
    if any(
        not array.ndim or (len(array) > _MOST_ROWS and (key.endswith(".shapes") or f"{key}.shapes" not in taken))
        for key, array in taken.items()
    ):
        raise ValueError(f"'{part}' has more than {_MOST_ROWS} rows, or none")  # before anything is done for each row
    return of_rows.unpack(taken)
