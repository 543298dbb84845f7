"""Latency and throughput by batch size and length, on encoded rows, i.e. without the tokenizer.

Each latency has an arithmetic limit, the least time of the linear layers on this machine (``roofline``), and the share
of the limit that the median reaches. The limit assumes an idle machine, so the share falls on a busy one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit import backends
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import open_bundle
from edgekit.machine.cpu import machine_name
from edgekit.report.roofline import Rate, limit_ms, measure
from edgekit.report.table import table
from edgekit.runtime.load import load
from edgekit.runtime.session import Session
from edgekit.runtime.stand_in import stand_in_variants
from edgekit.spec.errors import InputError, UsageError
from edgekit.spec.manifest import Variant
from edgekit.spec.options import BenchOptions
from edgekit.spec.parsing import Recorded
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.tensor import merge_signatures
from edgekit.spec.text import wrap_lines
from edgekit.stats.percentiles import Latency, latency

__all__ = ["Bench", "Point", "bench"]

_WARM_UP_CALLS = 5
_MIN_CALLS = 11  # calls that an estimate of the median needs


@dataclass(frozen=True)
class Point:
    """Measurements of one batch size and length.

    Attributes:
        batch: Number of rows per call.
        length: Number of tokens per row; None if all rows have one shape.
        latency: Latency of one call.
        rows_per_s: Throughput at the mean latency, in rows per second.
        limit_ms: Arithmetic limit of one call, in ms; None if it is not known.
        share: Limit divided by the median latency, so 1.0 is the limit; None if the limit is not known.
    """

    batch: int
    length: int | None
    latency: Latency
    rows_per_s: float
    limit_ms: float | None = None
    share: float | None = None


@dataclass(frozen=True, repr=False)
class Bench(Recorded):
    """Measurements of all batch sizes and lengths.

    Attributes:
        bundle: Path of the bundle.
        backend: Name of the backend that ran.
        method: Quantization method.
        threads: Number of threads per call.
        cpu: Name of the processor, after the name of the GPU if the bundle ran on one.
        points: Measurements, in the order of the options.
        linear_macs: Multiply-accumulate operations per token in the linear layers; 0 if the bundle does not state them.
        rate: Rate of the backend's fastest matrix product in the bundle's precision; None if it is not known.
        machine: Address of the device that ran it, on which ``bundle`` is a path; empty for this machine.
        left_out: Pairs ``BATCH x LENGTH`` that no profile of the engine accepts.
        rows: ``alone`` if the rows of a batch ran one by one, as in a list of inputs; else ``together``.
        max_tokens: Maximum number of rows times length per call; a larger batch took several calls. 0 for no limit.
    """

    bundle: str
    backend: str
    method: str
    threads: int
    cpu: str
    points: tuple[Point, ...]
    linear_macs: int = 0
    rate: Rate | None = None
    machine: str = ""
    left_out: tuple[str, ...] = ()
    rows: str = "together"
    max_tokens: int = 0

    def text(self) -> str:
        """Return the measurements as a table for a terminal."""
        where = f" on {self.machine}" if self.machine else ""
        head = f"{self.bundle}{where}: {self.method} on {self.backend}, {self.threads} thread(s), {self.cpu}"
        if self.rate is not None:
            head += f", {self.rate.text()}"
        header: tuple[str, ...] = ("batch", "length", "p50 ms", "p90 ms", "p99 ms", "calls", "rows/s")
        if self.rate is not None:
            header += ("limit ms", "share")
        notes = ["-: too few calls for this percentile; increase --seconds", self._limit_note()]
        if self.rows == "alone":
            notes.append("rows ran one by one, as in a list: in one call, an answer would depend on the other rows")
        elif self.max_tokens:
            notes.append(f"more than {self.max_tokens} tokens take several calls, as in a list")
        if self.left_out:
            notes.append(f"left out, not accepted by the engine's profiles: {', '.join(self.left_out)}")
        first = wrap_lines(f"{head}; encoded rows in, outputs out")
        last = wrap_lines("\n".join(f"({note})" for note in notes))
        return f"{first}\n{table(header, [self._row(point) for point in self.points], left=())}\n{last}"

    def _row(self, point: Point) -> tuple[str, ...]:
        """Return the cells of one point."""
        row: tuple[str, ...] = (
            str(point.batch),
            str(point.length or "-"),
            _format(point.latency.p50_ms),
            _format(point.latency.p90_ms),
            _format(point.latency.p99_ms),
            str(point.latency.count),
            f"{point.rows_per_s:.0f}",
        )
        if self.rate is not None:
            row += (_format(point.limit_ms), _format(point.share, ".0%"))
        return row

    def _limit_note(self) -> str:
        """Return the definition of the limit, or the reason why there is none."""
        if self.rate is not None:
            operations = 2 * self.linear_macs
            return f"limit: {operations} operations per token in linear layers, at that GEMM's rate; share: limit / p50"
        reason = f"{self.backend} ran no GEMM in the bundle's precision"
        if any(point.length is None for point in self.points):
            reason = "it is defined per token, and rows of one shape have no tokens"
        elif self.linear_macs <= 0:
            reason = (
                "the bundle does not state the operations per token, because it has several graphs or was built by "
                "an earlier version"
            )
        elif backends.get(self.backend).ENGINES:
            reason = "it is only defined for CPUs"
        return f"no limit and no share: {reason}"


def _format(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


@takes_paths("bundle")
def bench(
    bundle: str | Path,
    *,
    options: BenchOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Bench:
    """Measure the latency of every pair of batch size and length, with at least 11 calls each.

    Pairs that no profile of an engine accepts are left out. If all rows have one shape, lengths are ignored and each
    batch size is measured once.

    Args:
        bundle: Folder of the bundle.
        options: Options; None for the defaults.
        trust: Trusted keys of bundle makers; None to accept any bundle.
        progress: Progress callback, called before each pair and at the end.

    Raises:
        InputError: If the model does not accept a length, or the engine accepts none of the pairs.
        UsageError: If the bundle would run on ONNX Runtime in place of its device, whose latency differs.
    """
    chosen = options or BenchOptions()
    opened = open_bundle(bundle, trust)
    if stand_in_variants(opened.manifest.variants, chosen.backend):
        raise UsageError(
            f"{bundle} runs only on its device, and a stand-in on this CPU has other latencies. "
            "Measure on the device: edgekit bench BUNDLE --on ssh://HOST",
            code="stand-in-no-times",
        )
    with load(bundle, backend=chosen.backend, threads=chosen.threads, trust=trust) as session:
        session.warm_up()
        info = session.info
        variant = next(v for v in opened.manifest.variants if (v.backend, v.method) == (info.backend, info.method))
        requested = _request_pairs(chosen, info.max_length)
        axes = merge_signatures(opened.manifest.signatures).varying[:1]
        pairs = [pair for pair in requested if _is_accepted(variant, axes, *pair)]
        if not pairs and variant.engine is not None:
            raise InputError(
                "The engine accepts none of the requested batch sizes and lengths. "
                f"It accepts: {variant.engine.accepts()}. Change --batches or --lengths.",
                code="engine-profiles",
            )
        rate = None
        # A CPU's GEMM says nothing about a GPU, and TensorRT would have to build an engine to measure one.
        if variant.linear_macs > 0 and variant.engine is None and info.max_length is not None:
            rate = _measure_rate(session, variant)
        points = []
        for index, (batch, length) in enumerate(pairs):
            # Also before a point: a request to stop that came during the imports may only be noticed here.
            progress("bench", index, len(pairs))
            points.append(_measure_point(session, batch, length, chosen.seconds, variant.linear_macs, rate))
        progress("bench", len(pairs), len(pairs))
    left_out = []
    for batch, length in requested:
        if (batch, length) not in pairs:
            left_out.append(f"{batch}" if length is None else f"{batch} x {length}")
    return Bench(
        bundle=str(bundle),
        backend=info.backend,
        method=info.method,
        threads=info.threads,
        cpu=machine_name(variant.engine is not None),
        points=tuple(points),
        linear_macs=variant.linear_macs,
        rate=rate,
        left_out=tuple(left_out),
        rows=info.rows,
        max_tokens=info.max_tokens,
    )


def _request_pairs(options: BenchOptions, max_length: int | None) -> list[tuple[int, int | None]]:
    """Return the pairs of batch size and length that the options request.

    Raises:
        InputError: If the model does not accept a length.
    """
    if max_length is None:
        return [(batch, None) for batch in options.batches]
    longest = max(options.lengths)
    if longest > max_length:
        raise InputError(
            f"Length {longest} exceeds the model's maximum of {max_length} tokens. Reduce --lengths.",
            code="length-too-long",
        )
    return [(batch, length) for batch in options.batches for length in options.lengths]


def _is_accepted(variant: Variant, axes: Sequence[str], batch: int, length: int | None) -> bool:
    """Return whether a profile of the variant's engine accepts a batch size and length; true without an engine."""
    if variant.engine is None:
        return True
    sizes = {"batch": batch}
    if length is not None:
        sizes |= dict.fromkeys(axes, length)
    return variant.engine.holds(sizes)


def _measure_rate(session: Session, variant: Variant) -> Rate | None:
    """Return the rate of the session's backend, device and threads, in the precision of most of its linear layers."""
    executed = session.executed_precision()
    precision = executed
    if executed.startswith(("int4", "int8")):  # Weights of 4 bits are multiplied in INT8.
        precision = "int8" if backends.is_integer(executed) else "float32"
    with contextlib.closing(backends.get(variant.backend).open_device(variant.device, session.info.threads)) as device:
        return measure(device, precision)


def _measure_point(
    session: Session, batch: int, length: int | None, seconds: float, linear_macs: int, rate: Rate | None
) -> Point:
    """Measure the latency of one batch size and length for ``seconds``, after a warm-up."""
    rows = session.example_rows(batch, 1 if length is None else length)
    for _ in range(_WARM_UP_CALLS):
        session.run_rows(rows, alone=False)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < _MIN_CALLS:
        start = time.perf_counter()
        session.run_rows(rows, alone=False)
        times.append((time.perf_counter() - start) * 1e3)
    measured = latency(times)
    limit = None
    if rate is not None and length is not None:
        limit = limit_ms(linear_macs, batch * length, rate.gops)
    share = None
    if limit is not None and measured.p50_ms is not None:
        share = limit / measured.p50_ms
    return Point(batch, length, measured, batch * 1e3 / float(np.mean(times)), limit, share)
