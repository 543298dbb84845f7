"""Golden inputs and outputs inside the bundle: does it still compute here what it computed where it was built?

The inputs come from generated text, never from the user's samples. Another CPU or another version of the backend rounds
differently, INT8 more so; what is caught is a tokenizer, graph or backend that computes something else.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import Engine
from edgekit.runtime.loops import single
from edgekit.runtime.session import Session
from edgekit.spec.errors import IntegrityError
from edgekit.spec.tensor import Signature

FILE = "golden.npz"
TOLERANCE = 0.05
"""Largest difference, as a share of the golden outputs' spread (at least 1)."""


@dataclass(frozen=True)
class GoldenResult:
    """How far this machine is from the one that built the bundle.

    Attributes:
        rows: golden examples.
        difference: the largest of a logit, as a share of the spread of all (at least 1).
        flips: examples whose largest output is another one.
    """

    rows: int
    difference: float
    flips: int

    @property
    def passed(self) -> bool:
        """Within ``TOLERANCE``."""
        return self.difference <= TOLERANCE


def answers(engine: Engine, signature: Signature, rows: Sequence[Mapping[str, np.ndarray]], shapes: tuple[int, ...] = ()) -> np.ndarray:
    """Runs rows one by one, padded to their bucket where there are any: float32 ``[rows, labels]``."""
    return np.concatenate([single.run(engine, signature, [row], shapes) for row in rows])


def pack(signature: Signature, rows: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[np.ndarray]) -> bytes:
    """Inputs, lengths and the outputs of each variant as an ``.npz``; the same arrays give the same bytes."""
    arrays = {f"input.{n}": a for n, a in single.collate(signature, rows).items()}
    lengths = np.array([len(row[signature.inputs[0].name]) for row in rows], np.int64)
    stream = io.BytesIO()
    named: dict[str, Any] = {"lengths": lengths, **{f"outputs.{i}": o for i, o in enumerate(outputs)}, **arrays}
    np.savez(stream, **named)
    return stream.getvalue()


def rows(bundle: Path) -> list[dict[str, np.ndarray]]:
    """The golden inputs, each as long as its text: input name to ``int64 [sequence]``.

    Raises:
        IntegrityError: when the file cannot be read.
    """
    return _read(bundle)[0]


def check(session: Session, bundle: Path) -> GoldenResult:
    """Runs the golden inputs of a bundle in a session.

    Raises:
        IntegrityError: when the file cannot be read.
    """
    inputs, outputs = _read(bundle)
    expected = outputs[session.variant_index]
    got = session.run_rows(inputs)
    spread = max(1.0, float(np.ptp(expected)))
    difference = float(np.abs(got - expected).max()) / spread
    flips = int((got.argmax(axis=1) != expected.argmax(axis=1)).sum())
    return GoldenResult(len(inputs), difference if np.isfinite(difference) else float("inf"), flips)


def _read(bundle: Path) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    try:
        with np.load(bundle / FILE, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        lengths = arrays.pop("lengths")
        outputs = [arrays[f"outputs.{i}"] for i in range(sum(name.startswith("outputs.") for name in arrays))]
        inputs = {name.removeprefix("input."): array for name, array in arrays.items() if name.startswith("input.")}
        if not outputs or not inputs:
            raise KeyError("input." if outputs else "outputs.0")
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as problem:
        raise IntegrityError(f"{bundle / FILE} cannot be read ({problem}). Build or copy the bundle again.") from problem
    return [{name: a[i, :length] for name, a in inputs.items()} for i, length in enumerate(lengths)], outputs
