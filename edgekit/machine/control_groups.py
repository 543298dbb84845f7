"""Limits of the control groups of this process: CPU bandwidth and memory, e.g. those of a container.

Control groups of version 1 and version 2 are read from files of the kernel. A file that is missing or malformed is no
limit.

Sources: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.drivers.sysfs import integer, mebibytes, number, text

__all__ = ["Limits", "cpu_limit", "limits", "memory_limit"]


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


def limits(root: Path = Path("/")) -> Limits:
    """Return the tightest limits of the control groups of this process and of all their visible parents.

    Args:
        root: Root of the kernel's files.
    """
    memory_limits = []
    throttled = 0
    cpu_groups = _groups(root, "cpu")
    for folder in cpu_groups:
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
        cpu=round(_tightest(cpu_groups), 3),
        memory_mb=min((size for size in memory_limits if 0 < size < machine_mb), default=0),
        throttled=throttled,
    )


def cpu_limit(root: Path = Path("/")) -> float:
    """Return the tightest CPU bandwidth limit of the groups of this process and of their parents, in CPUs.

    The result is 0.0 for no limit.

    Args:
        root: Root of the kernel's files.
    """
    return _tightest(_groups(root, "cpu"))


def memory_limit(root: Path = Path("/")) -> int:
    """Return the memory that this process may use, in bytes: that of the machine, or less by its control groups.

    It is 2**60 where the system does not tell.

    Args:
        root: Root of the kernel's files.
    """
    sizes = (int(mebibytes(root / "proc/meminfo", "MemTotal")), limits(root).memory_mb)
    return min(filter(None, sizes), default=2**40) * 2**20


def _tightest(folders: list[Path]) -> float:
    """Return the smallest CPU bandwidth limit of groups, in CPUs; 0.0 for no limit."""
    cpu_limits = []
    for folder in folders:
        quota, _, period = text(folder / "cpu.max").partition(" ")
        cpu_limits.append(_bandwidth(quota, period))
        cpu_limits.append(_bandwidth(text(folder / "cpu.cfs_quota_us"), text(folder / "cpu.cfs_period_us")))
    return min(filter(None, cpu_limits), default=0.0)


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
