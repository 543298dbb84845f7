"""CPU and GPU names, CPU count, instruction sets."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from edgekit.machine import _sysfs
from edgekit.machine._arm_cores import core_names

__all__ = ["INSTRUCTIONS", "cpu_instructions", "cpu_name", "cpus", "gpu_name", "has_vnni", "lacks_vnni", "machine_name"]


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
