"""Time and memory, and numbers that may be said of them."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.engines import _sysfs
from edgekit.engines._arm_cores import core_names

# How many samples a percentile needs before an upper bound at 99 % confidence exists: MLPerf's early stopping
# (mlcommons/inference_policies, inference_rules.adoc, "Early stopping criterion"), with no sample above it discarded.
_SAMPLES_NEEDED = {50: 11, 90: 64, 95: 130, 99: 662}


@dataclass(frozen=True)
class Latency:
    """Times of single calls, in milliseconds. A percentile that the count cannot carry is None.

    Attributes:
        count: number of calls.
        mean_ms: their mean.
        p50_ms, p90_ms, p99_ms: percentiles.
    """

    count: int
    mean_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


def latency(times_ms: Sequence[float]) -> Latency:
    """Summarizes times of single calls."""
    return Latency(len(times_ms), sum(times_ms) / len(times_ms), *(percentile(times_ms, q) for q in (50, 90, 99)))


def percentile(values: Sequence[float], q: int) -> float | None:
    """The nearest-rank percentile, or None when there are too few values to state it (50: 11, 90: 64, 95: 130, 99: 662)."""
    if len(values) < _SAMPLES_NEEDED[q]:
        return None
    return sorted(values)[max(0, math.ceil(q / 100 * len(values)) - 1)]


def samples_needed(q: int) -> int:
    """How many values :func:`percentile` needs."""
    return _SAMPLES_NEEDED[q]


def memory_mb() -> float:
    """Resident memory of this process at its peak, MiB.

    From ``VmHWM``: unlike ``ru_maxrss`` it starts anew with each program, so the size of whoever started this process
    is not in it. 0.0 where the system does not tell.
    """
    try:
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name(root: Path = Path("/")) -> str:
    """The processor's name: on ARM the board and its kinds of cores, e.g. ``Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)``.

    Args:
        root: where ``proc`` is.
    """
    # First, since emulators of ARM print a made-up "model name" beside the numbers that are right.
    cores = " + ".join(core_names(_sysfs.text(root / "proc/cpuinfo")))
    board = _sysfs.line(root / "proc/device-tree/model")
    if cores:
        return f"{board} ({cores})" if board else cores
    return _cpuinfo("model name", root) or _cpuinfo("Hardware", root) or platform.processor() or platform.machine()


def gpu_name() -> str:
    """GPU and driver, as the kernel's driver or the board tells them without CUDA; empty where there is none."""
    found = []
    gpus = Path("/proc/driver/nvidia/gpus").glob("*/information")
    for file in (Path("/proc/device-tree/model"), Path("/etc/nv_tegra_release"), Path("/proc/driver/nvidia/version"), *gpus):
        with contextlib.suppress(OSError):
            found.append(file.read_text("utf-8", "replace").strip("\0\n").partition("\n")[0])
    return "; ".join(found)


def machine_name(with_gpu: bool) -> str:
    """The processor's name; with that of the GPU before it where that is what computes."""
    found = gpu_name() if with_gpu else ""
    return f"{found}; {cpu_name()}" if found else cpu_name()


INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sme"),
)
"""Instruction sets that decide how fast INT8 is and which kernels compute it, by the names that Linux gives them."""


def cpu_instructions() -> tuple[str, ...]:
    """Those of ``INSTRUCTIONS`` that this CPU has."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return tuple(f for f in INSTRUCTIONS if f in flags)


def has_vnni(instructions: Sequence[str]) -> bool:
    """Whether an x86 CPU with these has INT8 dot products, whose sums do not saturate at 16 bits."""
    return any(name in instructions for name in ("avx_vnni", "avx512_vnni", "amx_int8"))


def lacks_vnni(instructions: Sequence[str]) -> bool:
    """Whether this is known to be an x86 CPU without them: INT8 products of full range saturate there (onnxruntime issue 5849)."""
    return "avx2" in instructions and not has_vnni(instructions)


def _cpuinfo(key: str, root: Path = Path("/")) -> str | None:
    for line in _sysfs.text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None
