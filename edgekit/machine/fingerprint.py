"""Fingerprint of this machine: all properties that affect latency.

It prevents a comparison of latencies from two machines, or from two states of one machine.

Everything is read from files of the kernel and from package metadata. No backend is loaded. A file that is missing or
malformed leaves its field empty. A system without ``/proc`` and ``/sys`` has only the names and versions that Python
reports.

Sources: Linux, Documentation/admin-guide/pm/cpufreq.rst (governors, boost), Documentation/ABI/testing/
sysfs-devices-system-cpu (thermal_throttle) and sysfs-platform_profile, Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1, proc_pid_mountinfo(5); NVIDIA, Jetson Linux Developer Guide, "Platform Power and Performance" (over-current
events).
"""

from __future__ import annotations

import contextlib
import platform
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit import backends
from edgekit.drivers import cuda as cuda_driver
from edgekit.drivers import jetson
from edgekit.drivers.jetson import Board, Clock
from edgekit.drivers.sysfs import entries, integer, line, mebibytes, number, text
from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus, usable_cpus
from edgekit.spec.digests import code_digest
from edgekit.spec.distribution import DISTRIBUTION
from edgekit.spec.errors import BackendError
from edgekit.spec.registry import version_of
from edgekit.spec.subject import Fingerprint

__all__ = ["Limits", "fingerprint", "governor", "limits", "memory_limit"]

_OTHER_PACKAGES = ("numpy", "tokenizers")
"""Packages besides the backend that a call spends time in."""
_CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Limits:
    """Limits of the control groups of this process. 0 means no limit.

    Attributes:
        cpu: CPU bandwidth limit, in CPUs.
        memory_mb: Memory limit in MiB.
        throttled: Number of times that the CPU limit throttled a group of this process.
    """

    cpu: float
    memory_mb: int
    throttled: int


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
        cpus=cpus(),
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


def limits(root: Path = Path("/")) -> Limits:
    """Return the tightest limits of the control groups of this process and of all their visible parents.

    Control groups of version 1 and version 2 are read.

    Args:
        root: Root of the kernel's files.
    """
    cpu_limits = []
    memory_limits = []
    throttled = 0
    for folder in _groups(root, "cpu"):
        quota, _, period = text(folder / "cpu.max").partition(" ")
        cpu_limits.append(_bandwidth(quota, period))
        cpu_limits.append(_bandwidth(text(folder / "cpu.cfs_quota_us"), text(folder / "cpu.cfs_period_us")))
        count = re.search(r"^nr_throttled ([0-9]{1,20})$", text(folder / "cpu.stat"), re.MULTILINE)
        throttled += int(count.group(1)) if count else 0
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            size = integer(folder / name)
            if size is not None:
                memory_limits.append(size // 2**20)
    # Version 1 states "no limit" as the largest number of pages. A limit of the machine's memory or more has no effect.
    machine_mb = int(mebibytes(root / "proc/meminfo", "MemTotal")) or 2**40
    return Limits(
        cpu=round(min(filter(None, cpu_limits), default=0.0), 3),
        memory_mb=min((size for size in memory_limits if 0 < size < machine_mb), default=0),
        throttled=throttled,
    )


def memory_limit(root: Path = Path("/")) -> int:
    """Return the memory that this process may use, in bytes: that of the machine, or less by its control groups.

    It is 2**60 where the system does not tell.

    Args:
        root: Root of the kernel's files.
    """
    sizes = (int(mebibytes(root / "proc/meminfo", "MemTotal")), limits(root).memory_mb)
    return min(filter(None, sizes), default=2**40) * 2**20


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


def _bandwidth(quota: str, period: str) -> float:
    """Return a CPU bandwidth limit in CPUs, or 0.0 for no limit (``max`` or -1).

    Args:
        quota: CPU time per period, in microseconds.
        period: Length of a period, in microseconds.
    """
    quota_us = number(quota)
    period_us = number(period)
    if quota_us and period_us and quota_us > 0 and period_us > 0:
        return quota_us / period_us
    return 0.0


@dataclass(frozen=True)
class _Mount:
    """A mount of a control group hierarchy.

    Attributes:
        version: Version of the control groups, 1 or 2.
        group: Path of the group that is mounted, inside the hierarchy.
        folder: Mount point.
    """

    version: int
    group: str
    folder: str


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of the groups of this process and of their parents, in hierarchies that have a controller."""
    mounts = []
    for row in text(root / "proc/self/mountinfo").split("\n"):
        mount = _parse_mount(row, controller)
        if mount is not None:
            mounts.append(mount)
    folders = []
    for row in text(root / "proc/self/cgroup").split("\n"):
        identity, _, rest = row.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if identity == "0" and not controllers else 1
        if version == 2 or controller in controllers.split(","):
            folders += _group_and_parents(root, path, [mount for mount in mounts if mount.version == version])
    return folders


def _parse_mount(row: str, controller: str) -> _Mount | None:
    """Return the mount in a line of mountinfo, or None for another file system or controller."""
    before, _, after = row.partition(" - ")
    fields = before.split(" ")
    file_system = after.split(" ")
    if len(fields) < 6 or len(file_system) < 3:
        return None
    group, folder = (_unescape(field) for field in fields[3:5])
    if file_system[0] == "cgroup2":
        return _Mount(2, group, folder)
    if file_system[0] == "cgroup" and controller in file_system[2].split(","):
        return _Mount(1, group, folder)
    return None


def _unescape(field: str) -> str:
    """Replace the octal escapes of mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8) % 256), field)


def _group_and_parents(root: Path, path: str, mounts: list[_Mount]) -> list[Path]:
    """Return the folder of a group and those of its parents, up to the top of the mount that contains it.

    A mount may contain a part of the hierarchy only: a container often has its own group mounted under a path that is
    only valid outside. If no mount contains the group, the top of the first one is used, which is the group itself
    where there are control group namespaces.
    """
    for mount in mounts:
        group = PurePosixPath(path)
        top = PurePosixPath(mount.group)
        if group.is_relative_to(top) and ".." not in group.parts:
            parts = group.relative_to(top).parts
            folder = root / mount.folder.lstrip("/")
            return [folder / PurePosixPath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return [root / mount.folder.lstrip("/") for mount in mounts[:1]]
