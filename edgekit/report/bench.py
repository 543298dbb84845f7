"""Latency and throughput by batch and length, on token ids: what the engine does, without the tokenizer.

Beside each time stands the least that its linear layers could take here (``roofline``), and the share of that limit which
the median reaches. The limit is what the machine can do undisturbed; a median on a busy machine is not, and its share falls.
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

_WARM_UP = 5
_FEWEST = 11  # calls that a median needs


@dataclass(frozen=True)
class Point:
    """One pair of batch and length.

    Attributes:
        batch: rows.
        length: tokens of each row; None where all rows have one shape.
        latency: of one call.
        rows_per_s: throughput at the mean time.
        limit_ms: arithmetic limit of one call; None where it is not known.
        share: of the limit that is reached, limit over median time: 1.0 is all of it; None where the limit is not known.
    """

    batch: int
    length: int | None
    latency: Latency
    rows_per_s: float
    limit_ms: float | None = None
    share: float | None = None


@dataclass(frozen=True, repr=False)
class Bench(Recorded):
    """All pairs.

    Attributes:
        bundle: its path.
        backend: who ran it.
        method: quantization method.
        threads: threads of one call.
        cpu: the processor's name, with that of the GPU before it where that is what computes.
        points: pairs of batch and length, in the order asked for.
        linear_macs: multiply-accumulates of one token in the linear layers; 0 where the bundle does not state them.
        rate: of this backend's best matrix product in the bundle's precision; None where it is not known.
        machine: the device that ran it, where that was another one; ``bundle`` is a path there then.
        left_out: batch x length that no profile of the engine holds.
        rows: ``alone`` where rows of a batch were run one by one, as a list is.
        max_tokens: rows times length of one call at most, more were run as several; 0: no limit.
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
        """For a terminal."""

        def ms(value: float | None, form: str = ".2f") -> str:
            return "-" if value is None else format(value, form)

        rows: list[tuple[str, ...]] = [
            (
                str(p.batch),
                str(p.length or "-"),
                ms(p.latency.p50_ms),
                ms(p.latency.p90_ms),
                ms(p.latency.p99_ms),
                str(p.latency.count),
                f"{p.rows_per_s:.0f}",
            )
            for p in self.points
        ]
        header: tuple[str, ...] = ("batch", "length", "p50 ms", "p90 ms", "p99 ms", "calls", "rows/s")
        where = f" on {self.machine}" if self.machine else ""
        head = f"{self.bundle}{where}: {self.method} on {self.backend}, {self.threads} thread(s), {self.cpu}"
        if self.rate is not None:
            head += f", {self.rate.text()}"
            header += ("limit ms", "share")
            rows = [(*row, ms(p.limit_ms), ms(p.share, ".0%")) for row, p in zip(rows, self.points, strict=True)]
            about = f"limit: {2 * self.linear_macs} operations a token in linear layers, at the rate of that GEMM; share: limit / p50"
        elif any(p.length is None for p in self.points):
            about = "no limit and no share of it: it is stated for tokens, and rows of one shape have none"
        elif self.linear_macs <= 0:
            about = "no limit and no share of it: the bundle does not state the multiply-accumulates of a token: it has several graphs, or is to be built again"
        elif backends.get(self.backend).ENGINES:
            about = "no limit and no share of it: it is stated for CPUs alone"
        else:
            about = f"no limit and no share of it: {self.backend} ran no GEMM in the bundle's precision"
        if self.rows == "alone":
            about += ")\n(rows are run one by one, as in a list: in one call an answer would depend on the other rows"
        elif self.max_tokens:
            about += f")\n(more than {self.max_tokens} tokens take several calls, as in a list"
        if self.left_out:
            about += f")\n(left out, outside the engine's profiles: {', '.join(self.left_out)}"
        notes = f"(-: too few calls for that percentile; give it more --seconds)\n({about})"
        first = wrap_lines(f"{head}; encoded rows in, outputs out")
        return f"{first}\n{table(header, rows, left=())}\n{wrap_lines(notes)}"


@takes_paths("bundle")
def bench(
    bundle: str | Path,
    *,
    options: BenchOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Bench:
    """Time every pair of batch and length, at least 11 calls each; pairs that an engine's profiles do not hold are left out.

    Where all rows have one shape, lengths have no meaning, and each batch is timed once.

    Args:
        bundle: Folder of the bundle.
        options: Options; None for the defaults.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called after each pair.

    Raises:
        InputError: for a length that the model does not take, or where no pair is left.
        UsageError: for a bundle of a device on ONNX Runtime, whose times are not the device's.
    """
    chosen = options or BenchOptions()
    batches, lengths, seconds = chosen.batches, chosen.lengths, chosen.seconds
    opened = open_bundle(bundle, trust)
    if stand_in_variants(opened.manifest.variants, chosen.backend):
        raise UsageError(
            f"{bundle} runs on a device alone, and the times of a stand-in on this CPU would not be the device's. "
            "Time it there: edgekit bench BUNDLE --on ssh://HOST",
            code="stand-in-no-times",
        )
    with load(bundle, backend=chosen.backend, threads=chosen.threads, trust=trust) as session:
        info = session.info
        variant = next(v for v in opened.manifest.variants if (v.backend, v.method) == (info.backend, info.method))
        sizes: Sequence[int | None] = (None,) if info.max_length is None else lengths
        if info.max_length is not None and max(lengths) > info.max_length:
            raise InputError(
                f"Length {max(lengths)} is more than the {info.max_length} tokens that this model takes. Give --lengths up to that.",
                code="length-too-long",
            )
        asked = [(b, n) for b in batches for n in sizes]
        axes = merge_signatures(opened.manifest.signatures).varying[:1]
        pairs = [
            (b, n)
            for b, n in asked
            if variant.engine is None
            or variant.engine.holds({"batch": b, **{axis: n for axis in axes if n is not None}})
        ]
        if not pairs and variant.engine is not None:
            raise InputError(
                f"The engine holds none of the batches and lengths that were asked for. It accepts: {variant.engine.accepts()}. Give others.",
                code="engine-profiles",
            )
        # A GPU's own limit is not that of a CPU's GEMM, and TensorRT would have to make an engine to measure it.
        rate = (
            _rate(session, variant)
            if variant.linear_macs > 0 and variant.engine is None and info.max_length is not None
            else None
        )
        points = []
        for index, (batch, length) in enumerate(pairs):
            points.append(_point(session, batch, length, seconds, variant.linear_macs, rate))
            progress("bench", index + 1, len(pairs))
        left_out = tuple(f"{b}" if n is None else f"{b} x {n}" for b, n in asked if (b, n) not in pairs)
    computes = machine_name(variant.engine is not None)
    done, macs = tuple(points), variant.linear_macs
    return Bench(
        str(bundle),
        info.backend,
        info.method,
        info.threads,
        computes,
        done,
        macs,
        rate,
        "",
        left_out,
        info.rows,
        info.max_tokens,
    )


def _rate(session: Session, variant: Variant) -> Rate | None:
    """Rate of the session's backend, device and threads, in the precision that most of its linear layers run in."""
    executed = session.executed_precision()
    mixed = "int8" if backends.is_int8(executed) else "float32"
    with contextlib.closing(backends.get(variant.backend).open_device(variant.device, session.info.threads)) as device:
        return measure(device, mixed if executed.startswith("int8") else executed)


def _point(
    session: Session, batch: int, length: int | None, seconds: float, linear_macs: int, rate: Rate | None
) -> Point:
    rows = session.example_rows(batch, 1 if length is None else length)
    for _ in range(_WARM_UP):
        session.run_rows(rows, alone=False)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < _FEWEST:
        start = time.perf_counter()
        session.run_rows(rows, alone=False)
        times.append((time.perf_counter() - start) * 1e3)
    taken = latency(times)
    limit = None if rate is None or length is None else limit_ms(linear_macs, batch * length, rate.gops)
    share = None if limit is None or taken.p50_ms is None else limit / taken.p50_ms
    return Point(batch, length, taken, batch * 1e3 / float(np.mean(times)), limit, share)
