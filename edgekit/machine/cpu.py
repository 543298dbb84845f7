"""CPU and GPU names, CPU count, instruction sets and memory of this process."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from edgekit.drivers import sysfs
from edgekit.machine import control_groups

__all__ = [
    "INSTRUCTIONS",
    "cpu_instructions",
    "cpu_name",
    "cpus",
    "gpu_name",
    "has_vnni",
    "lacks_vnni",
    "machine_name",
    "memory_mb",
    "usable_cpus",
]

# 64-bit ARM kernels print numbers in /proc/cpuinfo where other kernels print a name. The numbers are fields of the
# register MIDR_EL1. They are taken from Linux (arch/arm64/include/asm/cputype.h) and util-linux
# (sys-utils/lscpu-arm.c).
_ARM = 0x41
_FUJITSU = 0x46
_HISILICON = 0x48
_NVIDIA = 0x4E
_QUALCOMM = 0x51
_APPLE = 0x61
_AMPERE = 0xC0
_CORES = {
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0C): "Neoverse-N1",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD0E): "Cortex-A76AE",
    (_ARM, 0xD40): "Neoverse-V1",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD42): "Cortex-A78AE",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD48): "Cortex-X2",
    (_ARM, 0xD49): "Neoverse-N2",
    (_ARM, 0xD4A): "Neoverse-E1",
    (_ARM, 0xD4B): "Cortex-A78C",
    (_ARM, 0xD4C): "Cortex-X1C",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4E): "Cortex-X3",
    (_ARM, 0xD4F): "Neoverse-V2",
    (_ARM, 0xD80): "Cortex-A520",
    (_ARM, 0xD81): "Cortex-A720",
    (_ARM, 0xD82): "Cortex-X4",
    (_ARM, 0xD83): "Neoverse-V3AE",
    (_ARM, 0xD84): "Neoverse-V3",
    (_ARM, 0xD85): "Cortex-X925",
    (_ARM, 0xD87): "Cortex-A725",
    (_ARM, 0xD8E): "Neoverse-N3",
    (_FUJITSU, 0x001): "A64FX",
    (_HISILICON, 0xD01): "Kunpeng 920",
    (_NVIDIA, 0x003): "Denver 2",
    (_NVIDIA, 0x004): "Carmel",
    (_NVIDIA, 0x010): "Olympus",
    (_QUALCOMM, 0x001): "Oryon",
    (_QUALCOMM, 0x802): "Kryo 3xx Gold",
    (_QUALCOMM, 0x803): "Kryo 3xx Silver",
    (_QUALCOMM, 0x804): "Kryo 4xx Gold",
    (_QUALCOMM, 0x805): "Kryo 4xx Silver",
    (_APPLE, 0x022): "M1 Icestorm",
    (_APPLE, 0x023): "M1 Firestorm",
    (_APPLE, 0x032): "M2 Blizzard",
    (_APPLE, 0x033): "M2 Avalanche",
    (_AMPERE, 0xAC3): "Ampere-1",
    (_AMPERE, 0xAC4): "Ampere-1a",
}


def usable_cpus() -> list[int]:
    """Return the numbers of the CPUs that this process may use (affinity, cpusets), ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpus(root: Path = Path("/")) -> int:
    """Return the number of threads that this process can run all the time: the default for everything that computes.

    It is the number of CPUs that this process may use, or the CPU quota of its control groups (a container's limit) if
    that is smaller. A fraction is rounded down, because the system stops all threads of a group that has used up its
    quota, and threads that wait for each other use it up too: two threads at a quota of 1.5 are slower than one. The
    result is at least 1.

    Args:
        root: Root of the kernel's files.
    """
    count = len(usable_cpus())
    quota = control_groups.cpu_limit(root)
    return min(count, max(1, math.floor(quota))) if quota else count


def cpu_name(root: Path = Path("/")) -> str:
    """Return the name of the processor.

    On ARM it is the board and its core types, e.g. ``Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)``.

    Args:
        root: Folder that contains ``proc``.
    """
    # The core numbers come first, because ARM emulators print a false "model name" beside the correct numbers.
    cores = " + ".join(_core_names(sysfs.text(root / "proc/cpuinfo")))
    board = sysfs.line(root / "proc/device-tree/model")
    if cores:
        return f"{board} ({cores})" if board else cores
    return _cpuinfo("model name", root) or _cpuinfo("Hardware", root) or platform.processor() or platform.machine()


def gpu_name() -> str:
    """Return the GPU and its driver from files of the kernel driver or the board, without CUDA. Empty for no GPU."""
    gpus = Path("/proc/driver/nvidia/gpus").glob("*/information")
    files = (Path("/proc/device-tree/model"), Path("/etc/nv_tegra_release"), Path("/proc/driver/nvidia/version"), *gpus)
    return "; ".join(filter(None, map(sysfs.line, files)))


def machine_name(with_gpu: bool) -> str:
    """Return the name of the processor.

    Args:
        with_gpu: Flag to put the name of the GPU first, for a model that runs on the GPU.
    """
    gpu = gpu_name() if with_gpu else ""
    return f"{gpu}; {cpu_name()}" if gpu else cpu_name()


INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sme"),
)
"""Instruction sets that decide the speed of INT8 and the selection of its kernels, by their Linux names."""


def cpu_instructions() -> tuple[str, ...]:
    """Return the instruction sets of ``INSTRUCTIONS`` that this CPU has."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return tuple(f for f in INSTRUCTIONS if f in flags)


def has_vnni(instructions: Sequence[str]) -> bool:
    """Return whether an x86 CPU with these instruction sets has INT8 dot products that do not saturate at 16 bits."""
    return any(name in instructions for name in ("avx_vnni", "avx512_vnni", "amx_int8"))


def lacks_vnni(instructions: Sequence[str]) -> bool:
    """Return whether these are the instruction sets of an x86 CPU without VNNI.

    Products of INT8 values of the full range saturate there (onnxruntime issue 5849).
    """
    return "avx2" in instructions and not has_vnni(instructions)


def _core_names(cpuinfo: str) -> tuple[str, ...]:
    """Return each ARM core type once, in the order of ``/proc/cpuinfo``. A big.LITTLE chip has several.

    A core that is not in the table is named ``core 0x41:0xd99``. Another architecture gives an empty tuple.

    Args:
        cpuinfo: Content of ``/proc/cpuinfo``.
    """
    names = []
    implementer = 0
    for key, digits in re.findall(r"^CPU (implementer|part)\s*:\s*(0x[0-9a-fA-F]{1,8})\s*$", cpuinfo, re.MULTILINE):
        value = int(digits, 16)
        if key == "implementer":
            implementer = value
        else:
            names.append(_CORES.get((implementer, value), f"core {implementer:#04x}:{value:#05x}"))
    return tuple(dict.fromkeys(names))


def _cpuinfo(key: str, root: Path = Path("/")) -> str | None:
    for line in sysfs.text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def memory_mb() -> float:
    """Return the peak resident memory of this process in MiB, or 0.0 where the system does not report it.

    It is read from ``VmHWM``. Unlike ``ru_maxrss``, this value is reset by exec, so it does not include the size of the
    parent process.
    """
    return sysfs.mebibytes(Path("/proc/self/status"), "VmHWM")
