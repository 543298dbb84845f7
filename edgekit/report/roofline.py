"""Lower bound of the latency: the time of a model's linear layers at the rate of the backend's fastest matrix product.

The rate is measured with the same machine, backend and number of threads, so the bound tells how much latency is left
to gain there. It depends neither on a data sheet nor on another library's kernels.

The timed graphs are the files in ``gemm/``. Each is one product of an input ``x [rows, 1024]`` with a constant weight
``[1024, 1024]``. The weight is computed from ``Range`` instead of stored, so that the files are small.

The idea is the roofline model (Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52(4), 2009), with its compute roof only: memory traffic, attention products and all
other operations than linear layers count as if they took no time.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.backends import Device, Engine, Feeds, summary
from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature, TensorSpec

__all__ = ["FOLDER", "ROWS", "WIDTH", "Rate", "limit_ms", "measure"]

FOLDER = Path(__file__).parent / "gemm"
WIDTH = 1024
"""Inputs and outputs of the measured product. No size from 512 to 4096 is faster, and 1024 needs little memory."""
ROWS = (64, 256, 1024)
"""Rows of the measured products. Few rows fit between two interruptions of a busy machine, many use all cores."""

# Graphs by precision, with the dtype of their input. The static graph reads UINT8, so no time is spent on quantization.
# ONNX Runtime runs it in INT8. OpenVINO needs a quantizer in the graph ("pairs"), which ONNX Runtime does not run in
# INT8. The quantization in that graph and in the dynamic one is negligible: one value per 1024 multiply-accumulates.
_GRAPHS = {
    "int8": {"int8-static": "uint8", "int8-dynamic": "float32", "int8-pairs": "float32"},
    "float32": {"float32": "float32"},
}
_FEWEST_ROUNDS = 2
_CALLS = 3  # Timed calls of each size in a round.


@dataclass(frozen=True)
class Rate:
    """Rate of the fastest matrix product that was measured with a backend.

    Attributes:
        precision: Precision of the product, ``int8`` or ``float32``.
        gops: Billions of operations per second. A multiply-accumulate counts as two.
        gemm: Sizes ``(rows, inputs, outputs)`` of the product ``[rows, inputs] x [inputs, outputs]``.
        graph: Name of the fastest graph.
    """

    precision: str
    gops: float
    gemm: tuple[int, int, int]
    graph: str

    def text(self) -> str:
        """Return a phrase for a terminal."""
        rows, inputs, outputs = self.gemm
        precision = "INT8" if self.precision == "int8" else self.precision
        return f"{precision} GEMM {self.gops:.0f} GOP/s ([{rows}, {inputs}] x [{inputs}, {outputs}])"


def limit_ms(linear_macs: int, tokens: int, gops: float) -> float:
    """Return the lower bound of the latency of a call in milliseconds.

    Args:
        linear_macs: Multiply-accumulates of one token in the linear layers.
        tokens: Tokens of the call, batch size times sequence length.
        gops: Rate of the matrix product, in billions of operations per second.
    """
    return 2 * linear_macs * tokens / (gops * 1e6)


def measure(device: Device, precision: str, seconds: float = 1.0) -> Rate | None:
    """Measure the rate of the fastest matrix product of a precision.

    A graph is left out if the backend cannot load it, or if its record of executed kernels shows another precision.

    The rate is that of the fastest call, not of the median or the mean: other load on the machine can only slow a call
    down, and no rate may exceed the limit. On two CPUs with other load, the median rate of a kernel was a quarter to
    two thirds of the fastest one. If the load disturbs every call, the measured rate is too low.

    Args:
        device: Open device with the number of threads to measure.
        precision: Precision of the product, ``int8`` or ``float32``. No graph has another one.
        seconds: Time for each graph. Each size gets at least 6 calls.

    Returns:
        The highest rate of all graphs and sizes; None if no graph ran in that precision.
    """
    rates = []
    for graph, dtype in _GRAPHS.get(precision, {}).items():
        rate = _measure_graph(device, precision, graph, dtype, seconds)
        if rate is not None:
            rates.append(rate)
    return max(rates, key=lambda rate: rate.gops, default=None)


def _measure_graph(device: Device, precision: str, graph: str, dtype: str, seconds: float) -> Rate | None:
    """Return the highest rate of one graph; None if it did not run in the precision."""
    inputs = (TensorSpec("x", dtype, ("rows", WIDTH)),)
    outputs = (TensorSpec("y", "float32", ("rows", WIDTH)),)
    try:
        with contextlib.closing(device.load(FOLDER / f"{graph}.onnx", Signature("gemm", inputs, outputs))) as engine:
            fastest = _time_fastest_calls(engine, dtype, seconds)
            executed = summary(engine.precisions())
    except BackendError:  # E.g. the backend lacks an operator of the graph.
        return None
    if executed != precision:
        return None
    rows = max(ROWS, key=lambda r: r / fastest[r])
    gops = 2 * rows * WIDTH * WIDTH / fastest[rows] / 1e9
    return Rate(precision, gops, (rows, WIDTH, WIDTH), graph)


def _time_fastest_calls(engine: Engine, dtype: str, seconds: float) -> dict[int, float]:
    """Return the time of the fastest call by number of rows, in seconds.

    The sizes are interleaved, so that an interruption of the machine affects all of them.
    """
    feeds = {rows: _make_feeds(rows, dtype) for rows in ROWS}
    fastest = dict.fromkeys(ROWS, math.inf)
    end = time.perf_counter() + seconds
    count = 0
    while time.perf_counter() < end or count < _FEWEST_ROUNDS:
        for rows, feed in feeds.items():
            engine.run(feed)  # Warm-up: the library may compile a kernel and allocate memory for a new size.
            for _ in range(_CALLS):
                start = time.perf_counter()
                engine.run(feed)
                fastest[rows] = min(fastest[rows], time.perf_counter() - start)
        count += 1
    return fastest


def _make_feeds(rows: int, dtype: str) -> Feeds:
    """Return random inputs, so that no kernel can use a shortcut for zeros."""
    random = np.random.default_rng(rows)
    if dtype == "uint8":
        return {"x": random.integers(0, 256, (rows, WIDTH), np.uint8)}
    return {"x": random.standard_normal((rows, WIDTH), np.float32)}
