"""Fingerprint of this machine: all properties that affect latency.

It prevents a comparison of latencies from two machines, or from two states of one machine.

Everything is read from files of the kernel and from package metadata. No backend is loaded. A file that is missing or
malformed leaves its field empty. A system without ``/proc`` and ``/sys`` has only the names and versions that Python
reports.

Sources: Linux, Documentation/admin-guide/pm/cpufreq.rst (governors, boost), Documentation/ABI/testing/
sysfs-devices-system-cpu (thermal_throttle) and sysfs-platform_profile; NVIDIA, Jetson Linux Developer Guide, "Platform
Power and Performance" (over-current events).
"""

from __future__ import annotations

import contextlib
import platform
import re
from collections import defaultdict
from pathlib import Path

from edgekit import backends
from edgekit.drivers import cuda as cuda_driver
from edgekit.drivers import jetson
from edgekit.drivers.jetson import Board, Clock
from edgekit.drivers.sysfs import entries, integer, line, mebibytes, text
from edgekit.machine.control_groups import limits
from edgekit.machine.cpu import cpu_instructions, cpu_name, usable_cpus
from edgekit.spec.digests import code_digest
from edgekit.spec.distribution import DISTRIBUTION
from edgekit.spec.errors import BackendError
from edgekit.spec.registry import version_of
from edgekit.spec.subject import Fingerprint

__all__ = ["fingerprint", "governor"]

_OTHER_PACKAGES = ("numpy", "tokenizers")
"""Packages besides the backend that a call spends time in."""
_CPUS = "sys/devices/system/cpu"


def fingerprint(root: Path = Path("/")) -> Fingerprint:
    """Return the fingerprint of this machine.

    It takes milliseconds, or a second on a Jetson without a file for its power mode.

    Args:
        root: Root of the files for the processor, board, GPU, clocks, limits and memory. Instruction sets, Python and
            packages are always those of this machine.
    """
    board = jetson.board(root)
    gpu, driver = (board.model or board.soc, board.l4t) if board else _gpu(root)
    group_limits = limits(root)
    versions = {name: backends.installed_version(name) for name in backends.names()}
    for name in _OTHER_PACKAGES:
        versions[name] = version_of(name)
    power_mode = board.power_mode if board else line(root / "sys/firmware/acpi/platform_profile")
    return Fingerprint(
        edgekit=version_of(DISTRIBUTION) or f"source {code_digest()[:12]}",
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu_name(root),
        cpus=len(usable_cpus()),
        instructions=cpu_instructions(),
        memory_mb=int(mebibytes(root / "proc/meminfo", "MemTotal")),
        gpu=gpu,
        driver=driver,
        backends={name: version for name, version in versions.items() if version},
        governor=governor(root, board),
        power_mode=power_mode,
        cpu_limit=group_limits.cpu,
        memory_limit_mb=group_limits.memory_mb,
        throttled=group_limits.throttled + _cpu_throttle_count(root) + _board_throttle_count(root),
    )


def governor(root: Path = Path("/"), board: Board | None = None) -> str:
    """Return the frequency control of the CPUs that this process may use.

    Example: ``powersave (balance_performance), boost on``. In parentheses is the energy preference of a processor that
    selects its frequency itself (intel_pstate, amd-pstate), where the governor alone says little. On a Jetson, the
    governor of the GPU and locked clocks (``jetson_clocks``) are added.

    Args:
        root: Root of the kernel's files.
        board: Jetson board, or None for another machine.
    """
    governors = set()
    for cpu in usable_cpus():
        folder = root / _CPUS / f"cpu{cpu}" / "cpufreq"
        preference = line(folder / "energy_performance_preference")
        if name := line(folder / "scaling_governor"):
            governors.add(f"{name} ({preference})" if preference else name)
    parts = [" + ".join(sorted(governors))]
    no_turbo = integer(root / _CPUS / "intel_pstate/no_turbo")
    boost = integer(root / _CPUS / "cpufreq/boost")
    if no_turbo in (0, 1) or boost in (0, 1):
        is_boosting = no_turbo == 0 or (no_turbo is None and boost == 1)
        parts.append("boost on" if is_boosting else "boost off")
    if board:
        parts += _locked_clocks(board.cpu)
        if board.gpu:
            parts.append(f"GPU {board.gpu.governor or 'unknown'}")
            parts += _locked_clocks(board.gpu)
    return ", ".join(filter(None, parts))


def _locked_clocks(clock: Clock | None) -> list[str]:
    return ["clocks locked"] if clock and clock.locked else []


def _gpu(root: Path) -> tuple[str, str]:
    """Return the name of the first NVIDIA GPU and the release of its driver."""
    driver = re.search(r"\b[0-9]{3,}(?:\.[0-9]+)+\b", line(root / "proc/driver/nvidia/version"))
    release = driver.group() if driver else ""
    for file in entries(root / "proc/driver/nvidia/gpus", "*/information"):
        if model := re.search(r"^Model:\s*(\S[^\n]*)$", text(file), re.MULTILINE):
            return model.group(1).strip(), release
    return _gpu_from_cuda(release) if root == Path("/") else ("", release)


def _gpu_from_cuda(release: str) -> tuple[str, str]:
    """Return name and driver from CUDA. In WSL and in some sandboxes the driver has no files in ``/proc``."""
    try:
        with contextlib.closing(cuda_driver.Cuda()) as cuda:
            return cuda.name, release or f"CUDA {cuda.driver_version // 1000}.{cuda.driver_version % 1000 // 10}"
    except BackendError:  # Most machines have no CUDA driver. Loading it then fails at once.
        return "", release


def _cpu_throttle_count(root: Path) -> int:
    """Return the number of thermal throttling events since the start of the machine.

    Each CPU reports the count of its core and of its package, so each core and each package is counted once.
    """
    core_counts: dict[tuple[int, str], int] = defaultdict(int)
    package_counts: dict[int, int] = defaultdict(int)
    for cpu in entries(root / _CPUS, "cpu[0-9]*"):
        package = integer(cpu / "topology/physical_package_id") or 0
        core = package, line(cpu / "topology/core_id") or cpu.name
        core_count = integer(cpu / "thermal_throttle/core_throttle_count") or 0
        package_count = integer(cpu / "thermal_throttle/package_throttle_count") or 0
        core_counts[core] = max(core_counts[core], core_count)
        package_counts[package] = max(package_counts[package], package_count)
    return sum(core_counts.values()) + sum(package_counts.values())


def _board_throttle_count(root: Path) -> int:
    """Return the number of under-voltage and over-current events that reduced the clocks of a Jetson since its start.

    Boards from Orin on with Jetson Linux 35 or newer report them. Older boards, and thermal throttling of all boards,
    are only in the kernel log.
    """
    count = 0
    for folder in entries(root / "sys/class/hwmon", "hwmon*"):
        if line(folder / "name") != "soctherm_oc":
            continue
        for file in entries(folder, "oc*_event_cnt"):
            reduces_clock = integer(folder / file.name.replace("event_cnt", "throt_en")) != 0
            count += max(integer(file) or 0, 0) if reduces_clock else 0
    return count
