"""The arithmetic limit: no call can take less time than its linear layers at the rate of this library's best matrix product.

The rate is measured on the machine, the backend and the threads in question, so the limit says how much is left to gain
there: neither a processor's data sheet nor another library's kernel has a part in it. The graphs that are timed are the
files in ``gemm/``: each is one product of an input ``x [rows, 1024]`` with a constant weight ``[1024, 1024]``, which the
file does not hold but computes from ``Range``, so that it is small. A new file there is one more kernel that is tried.

The idea is the roofline's (Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52(4), 2009), with its arithmetic roof alone: memory traffic, attention products and
everything that is not a linear layer count as if they took no time.
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
"""Inputs and outputs of the measured product. Of 512 to 4096, none gives more than 1024 does, and it takes least memory."""
ROWS = (64, 256, 1024)
"""Rows of the measured product. Small ones fit between two interruptions of a busy machine, large ones fill many cores."""

# Graphs by precision, with the type of their input. The static product reads UINT8, so that no time goes into quantizing, and
# ONNX Runtime multiplies it in INT8; OpenVINO does so only behind a quantizer in the graph ("pairs"), ONNX Runtime not there.
# That one and the dynamic kernel quantize one value for the 1024 multiply-accumulates that are made with it.
_GRAPHS = {
    "int8": {"int8-static": "uint8", "int8-dynamic": "float32", "int8-pairs": "float32"},
    "float32": {"float32": "float32"},
}
_FEWEST = 2  # rounds
_CALLS = 3  # timed calls of each size in a round


@dataclass(frozen=True)
class Rate:
    """The fastest matrix product that a backend was seen to make.

    Attributes:
        precision: ``int8`` or ``float32``.
        gops: billions of operations per second; a multiply-accumulate is two.
        gemm: its sizes ``(rows, inputs, outputs)``: ``[rows, inputs] x [inputs, outputs]``.
        graph: name of the graph that made it.
    """

    precision: str
    gops: float
    gemm: tuple[int, int, int]
    graph: str

    def text(self) -> str:
        """For a terminal."""
        rows, inputs, outputs = self.gemm
        return f"{'INT8' if self.precision == 'int8' else self.precision} GEMM {self.gops:.0f} GOP/s ([{rows}, {inputs}] x [{inputs}, {outputs}])"


def limit_ms(linear_macs: int, tokens: int, gops: float) -> float:
    """Least time of a call, milliseconds.

    Args:
        linear_macs: multiply-accumulates of one token in the linear layers.
        tokens: of the whole call, batch times length.
        gops: rate of the matrix product, billions of operations per second.
    """
    return 2 * linear_macs * tokens / (gops * 1e6)


def measure(device: Device, precision: str, seconds: float = 1.0) -> Rate | None:
    """Times the graphs of a precision on an opened device.

    A graph that the backend refuses, or does not execute in that precision by its own record, does not count.

    The fastest call is what counts, neither the median nor the mean: whatever else the machine does can only make a
    call slower, and a limit must lie above all that is reached. On two CPUs with other work on them the median rate of a
    kernel was a quarter to two thirds of its fastest. Where no call at all is left undisturbed, the rate comes out too low.

    Args:
        device: with the threads that the rate is wanted for.
        precision: ``int8`` or ``float32``; there is no graph for another one.
        seconds: for each graph; at least 6 calls of each size.

    Returns:
        The highest rate of all graphs and sizes, or None where no graph ran in that precision.
    """
    rates = [
        rate
        for graph, dtype in _GRAPHS.get(precision, {}).items()
        if (rate := _graph_rate(device, precision, graph, dtype, seconds)) is not None
    ]
    return max(rates, key=lambda rate: rate.gops, default=None)


def _graph_rate(device: Device, precision: str, graph: str, dtype: str, seconds: float) -> Rate | None:
    signature = Signature(
        "gemm", (TensorSpec("x", dtype, ("rows", WIDTH)),), (TensorSpec("y", "float32", ("rows", WIDTH)),)
    )
    try:
        with contextlib.closing(device.load(FOLDER / f"{graph}.onnx", signature)) as engine:
            fastest = _fastest(engine, dtype, seconds)
            executed = summary(engine.precisions())
    except BackendError:  # e.g. an operator that only another backend has
        return None
    if executed != precision:
        return None
    rows = max(ROWS, key=lambda r: r / fastest[r])
    return Rate(precision, 2 * rows * WIDTH * WIDTH / fastest[rows] / 1e9, (rows, WIDTH, WIDTH), graph)


def _fastest(engine: Engine, dtype: str, seconds: float) -> dict[int, float]:
    """Least time of a call by rows, in seconds. The sizes take turns, so that an interruption meets all of them."""
    feeds = {rows: _feeds(rows, dtype) for rows in ROWS}
    fastest = dict.fromkeys(ROWS, math.inf)
    end = time.perf_counter() + seconds
    count = 0
    while time.perf_counter() < end or count < _FEWEST:
        for rows, feed in feeds.items():
            engine.run(feed)  # not timed: for another size the library may make a kernel and find memory
            for _ in range(_CALLS):
                start = time.perf_counter()
                engine.run(feed)
                fastest[rows] = min(fastest[rows], time.perf_counter() - start)
        count += 1
    return fastest


def _feeds(rows: int, dtype: str) -> Feeds:
    """Random values, so that no kernel may take a way for zeros."""
    random = np.random.default_rng(rows)
    x = (
        random.integers(0, 256, (rows, WIDTH), np.uint8)
        if dtype == "uint8"
        else random.standard_normal((rows, WIDTH), np.float32)
    )
    return {"x": x}
