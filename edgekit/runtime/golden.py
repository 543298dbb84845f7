"""Golden inputs and outputs inside the bundle: does it still compute here what it computed where it was built?

The inputs come from generated text, never from the user's samples. Another CPU or another version of the backend rounds
differently, INT8 more so; what is caught is a tokenizer, graph or backend that computes something else.

How far a sound kernel may be off depends on its kind. Kernels whose arithmetic the graph fixes (float, INT8 by stored scales) keep within ``TOLERANCE`` of
what the variant answered at the build. Where activations are quantized as they come, the kernel chooses of how many numbers it takes the range: on CPUs
with SME, ONNX Runtime takes it by row, elsewhere by tensor. Such a variant also passes by the float32 answers that are stored beside: it may be at most
``SLACK`` times as far from them as the build's kernel was, and must give their label on each row where that distance cannot change it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.backends import Engine
from edgekit.bundle.trust import Bundle
from edgekit.machine.cpu import cpu_instructions
from edgekit.runtime import _npz
from edgekit.runtime.loops import single
from edgekit.runtime.session import Session
from edgekit.spec.errors import IntegrityError, OutputError
from edgekit.spec.tensor import Signature
from edgekit.tasks.text_classification import TextClassification

FILE = "golden.npz"
TOLERANCE = 0.05
"""Largest difference, as a share of the golden outputs' spread (at least 1)."""
SLACK = 1.5
"""How many times as far from the float32 answers as the build's kernel another one may be: the largest of a few dozen numbers varies."""
_RANGES_AS_THEY_COME = ("dynamic", "weight_only")  # methods whose activations are quantized when they are there, if at all
_LIMIT = 64 * 2**20
_MOST_ROWS = 256


@dataclass(frozen=True)
class Golden:
    """What a bundle holds to be compared with.

    Attributes:
        rows: encoded inputs, each as long as its text: input name to ``int64 [sequence]``.
        outputs: what each variant answered where the bundle was built: ``float32 [rows, labels]``.
        reference: what the float32 graph answered there, of the same shape; None in bundles of format 1.
    """

    rows: list[dict[str, np.ndarray]]
    outputs: list[np.ndarray]
    reference: np.ndarray | None


@dataclass(frozen=True)
class GoldenResult:
    """How far this machine is from the one that built the bundle.

    Attributes:
        rows: golden examples.
        difference: the largest of a logit, as a share of the spread of all (at least 1).
        flips: examples that are answered otherwise than at the build.
        distance: the largest difference of a logit from the float32 answers that the variant had at the build, as a share of that spread; None where they do
            not count, or the bundle does not hold them.
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
        return self.distance is not None and self.off is not None and self.off <= SLACK * self.distance and self.decisive > self.lost == 0

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


def answers(engine: Engine, signature: Signature, rows: Sequence[Mapping[str, np.ndarray]], shapes: tuple[int, ...] = ()) -> np.ndarray:
    """Runs rows one by one, padded to their bucket where there are any: float32 ``[rows, labels]``."""
    return np.concatenate([single.run(engine, signature, [row], shapes) for row in rows])


def pack(signature: Signature, rows: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[np.ndarray], reference: np.ndarray | None) -> bytes:
    """Inputs, lengths, the outputs of each variant and those in float32 (None: not known) as an ``.npz``; the same arrays give the same bytes.

    Inputs are stored as the smallest type of integer that holds them.
    """
    arrays = {f"input.{n}": a.astype(np.result_type(*map(np.min_scalar_type, (a.min(), a.max())))) for n, a in single.collate(signature, rows).items()}
    lengths = np.array([len(row[signature.inputs[0].name]) for row in rows], np.int64)
    stream = io.BytesIO()
    named: dict[str, Any] = {"lengths": lengths, **{f"outputs.{i}": o for i, o in enumerate(outputs)}, **arrays}
    if reference is not None:
        named["reference"] = reference
    np.savez(stream, **named)
    return stream.getvalue()


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
        raise IntegrityError(f"{bundle.path / FILE} cannot be read ({problem}). Build or copy the bundle again.") from problem


def check(session: Session) -> GoldenResult:
    """Runs the golden inputs of its bundle in a session.

    Raises:
        IntegrityError: when they cannot be read.
        BackendError: when the session cannot run them.
    """
    stored = read(session._bundle)
    as_they_come = session._variant.method in _RANGES_AS_THEY_COME
    try:
        found = session.run_rows(stored.rows)
    except OutputError:  # a machine on which it computes NaN is as far off as can be
        found = np.full_like(stored.outputs[session.variant_index], np.nan)
    return compare(stored, session.variant_index, found, session._task, as_they_come)


def compare(stored: Golden, variant: int, found: np.ndarray, task: TextClassification, as_they_come: bool) -> GoldenResult:
    """What answers to the golden inputs come to.

    Args:
        stored: of the bundle.
        variant: place of the variant in the manifest.
        found: what it answers: ``float32 [rows, labels]``.
        task: that tells what a label is.
        as_they_come: activations are quantized as they come, so that another kernel may take other ranges.
    """
    expected, reference = stored.outputs[variant], stored.reference
    spread = max(1.0, float(np.ptp(expected)))
    difference, flips = _largest(found - expected) / spread, task.changed(found, expected)
    if reference is None or not as_they_come:
        return GoldenResult(len(expected), difference, flips)
    distance = _largest(expected - reference)
    clear = task.margins(reference) > distance
    lost = sum(task.changed(found[i : i + 1], reference[i : i + 1]) for i in np.flatnonzero(clear))
    return GoldenResult(len(expected), difference, flips, distance / spread, _largest(found - reference) / spread, int(clear.sum()), lost)


def _largest(differences: np.ndarray) -> float:
    """The largest, by size; infinity where one is no number."""
    return float(np.abs(differences).max()) if np.isfinite(differences).all() else float("inf")


def _sme() -> str:
    """What to know of the CPU beside a difference."""
    if "sme" not in cpu_instructions():
        return ""
    return ". This CPU has SME: dynamic INT8 takes the range of activations by row here, by tensor elsewhere, so answers differ and are no worse"


def _read(content: bytes, bundle: Bundle) -> Golden:
    signature, variants = bundle.manifest.signatures[0], len(bundle.manifest.variants)
    names = {f"input.{spec.name}": spec for spec in signature.inputs}
    outputs = [f"outputs.{i}" for i in range(variants)]
    arrays = _npz.read(content, ["lengths", *outputs, *names], ["reference"])
    lengths = arrays["lengths"]
    if lengths.dtype != np.int64 or lengths.ndim != 1 or not 1 <= len(lengths) <= _MOST_ROWS or lengths.min() < 1:
        raise ValueError(f"its lengths are {lengths.dtype} {lengths.shape}, expected int64 of 1 to {_MOST_ROWS} rows, each at least 1")
    size = (len(lengths), int(lengths.max()))
    for name in names:
        if arrays[name].dtype.kind not in "iu" or arrays[name].dtype == np.uint64 or arrays[name].shape != size:
            raise ValueError(f"'{name}' is {arrays[name].dtype} {arrays[name].shape}, expected integers {size}")
    kept = [*outputs, *(["reference"] if "reference" in arrays else [])]
    width = arrays[outputs[0]].shape[-1:]
    for name in kept:
        if arrays[name].dtype != np.float32 or arrays[name].shape != (len(lengths), *width) or 0 in width:
            raise ValueError(f"'{name}' is {arrays[name].dtype} {arrays[name].shape}, expected float32 ({len(lengths)}, labels)")
    whole = {spec.name: arrays[name].astype(spec.dtype) for name, spec in names.items()}
    rows = [{name: array[i, :length] for name, array in whole.items()} for i, length in enumerate(lengths.tolist())]
    return Golden(rows, [arrays[name] for name in outputs], arrays.get("reference"))
