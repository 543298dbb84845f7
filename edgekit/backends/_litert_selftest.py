"""Self-test of LiteRT: one INT8 layer is computed once per process before any graph is loaded.

It detects three faults that raise no error: XNNPACK does not take a layer with INT8 weights (LiteRT 2.3.0 leaves out
FULLY_CONNECTED of version 8, which is then 34 times slower), activations are rounded with one range per tensor instead
of one per row, and wrong numbers.

The first interpreter of a process writes a line to the standard error stream, which no setting of LiteRT 2.3.0 avoids.
The self-test removes that line and passes on everything else that was written meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends._litert_interpreter import Interpreted, executed_precisions, open_interpreter
from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature, TensorSpec

__all__ = ["GRAPH", "INPUTS", "OUTPUTS", "SIGNATURE", "expected_outputs", "find_fault", "layer"]

GRAPH = Path(__file__).with_name("_litert_selftest.tflite")
"""Graph of one FULLY_CONNECTED with the weights of :func:`layer`; ``tests/tflite.py`` writes it."""

INPUTS = 64
OUTPUTS = 8
SIGNATURE = Signature(
    "forward",
    (TensorSpec("rows", "float32", ("batch", INPUTS)),),
    (TensorSpec("products", "float32", ("batch", OUTPUTS)),),
)

_NOISE = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
_TOLERANCE = 0.02  # Share of the largest output of a row. Rounding a row to 256 steps moves it by up to 1 %.
_STANDARD_ERROR = 2


def layer() -> tuple[np.ndarray, np.ndarray]:
    """Return the weights ``[8, 64]`` int8 and one scale per output channel, each twice the previous one."""
    weights = ((np.arange(OUTPUTS * INPUTS).reshape(OUTPUTS, INPUTS) * 37) % 201 - 100).astype(np.int8)
    scales = (2.0 ** np.arange(OUTPUTS) / 4096).astype(np.float32)
    return weights, scales


def _rows() -> np.ndarray:
    """Return two rows; the second is 1,000 times as large as the first."""
    row = (((np.arange(INPUTS) * 29) % 121) - 60) / 64
    return np.stack([row, -1000 * row]).astype(np.float32)


def expected_outputs(rows: np.ndarray) -> np.ndarray:
    """Return the products of rows and weights in float64, without the rounding of the rows."""
    weights, scales = layer()
    products: np.ndarray = rows.astype(np.float64) @ (weights * scales.astype(np.float64)[:, None]).T
    return products


def find_fault(library: Any) -> str:
    """Return a description of what this installation computes wrongly; an empty text if it is correct.

    Args:
        library: Module ``ai_edge_litert.interpreter``.
    """
    rows = _rows()
    try:
        with _without_noise():
            interpreter = open_interpreter(library, GRAPH, 1, experimental_disable_delegate_node_fusion=True)
        precisions = executed_precisions(interpreter)
        run = Interpreted(interpreter, SIGNATURE, GRAPH.name).run
        together = run({"rows": rows})["products"]
        alone = run({"rows": rows[:1]})["products"]
    except (ValueError, RuntimeError, BackendError) as problem:
        return f"its test layer cannot be run ({problem})"
    expected = expected_outputs(rows)
    errors = np.abs(together - expected) / np.abs(expected).max(axis=1, keepdims=True)
    if not np.isfinite(errors).all() or errors.max() > _TOLERANCE:
        return f"an INT8 layer is wrong by up to {errors.max():.3g} of the largest value of a row"
    if not np.array_equal(alone, together[:1]):
        return "a row of an INT8 layer has another result alone than beside another row"
    if precisions != ["int8"]:
        return f"XNNPACK does not take an INT8 layer, which ran as: {', '.join(precisions) or 'nothing'}"
    return ""


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Hold back what is written to the standard error stream, and pass it on without LiteRT's line."""
    with contextlib.ExitStack() as stack:
        try:
            written = stack.enter_context(tempfile.TemporaryFile())
            original = os.dup(_STANDARD_ERROR)
        except OSError:  # A process without that stream, or without a folder for temporary files.
            yield
            return
        stack.callback(os.close, original)
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(written.fileno(), _STANDARD_ERROR)
        try:
            yield
        finally:
            os.dup2(original, _STANDARD_ERROR)
            written.seek(0)
            lines = written.read().splitlines(keepends=True)
            rest = b"".join(line for line in lines if line.strip() != _NOISE)
            if rest:
                os.write(original, rest)
