"""The machine as far as latency depends on it, so that numbers of two machines, or of two states of one, are not compared.

Everything is read from files of the kernel and from package metadata: no backend is loaded, and a file that is missing or holds
something odd makes its part empty. A system without ``/proc`` and ``/sys`` has the names and versions that Python tells.

Sources: Linux, Documentation/admin-guide/pm/cpufreq.rst (governors, boost), Documentation/ABI/testing/sysfs-devices-system-cpu
(thermal_throttle) and sysfs-platform_profile, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1, proc_pid_mountinfo(5); NVIDIA, Jetson
Linux Developer Guide, "Platform Power and Performance" (over-current events).
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

__all__ = ["Limits", "fingerprint", "governor", "limits"]

_BESIDE = ("numpy", "tokenizers")  # what a call spends time in beside its backend
_CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Limits:
    """What the control groups of this process allow it. 0: there is no limit.

    Attributes:
        cpu: CPUs' worth of time.
        memory_mb: MiB.
        throttled: times that the limit of CPU time held the group, or one above it, back.
    """

    cpu: float
    memory_mb: int
    throttled: int


def fingerprint(root: Path = Path("/")) -> Fingerprint:
    """Looks at this machine; takes milliseconds (on a Jetson whose files do not tell its power mode, a second).

    Args:
        root: where the files are that tell of processor, board, GPU, clocks, limits and memory. Instructions, Python and packages are always this machine's.
    """
    board = jetson.board(root)
    gpu, driver = (board.model or board.soc, board.l4t) if board else _gpu(root)
    held = limits(root)
    versions = {name: backends.installed_version(name) for name in backends.names()} | {
        name: version_of(name) for name in _BESIDE
    }
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
        power_mode=board.power_mode if board else line(root / "sys/firmware/acpi/platform_profile"),
        cpu_limit=held.cpu,
        memory_limit_mb=held.memory_mb,
        throttled=held.throttled + _cpu_throttled(root) + _board_throttled(root),
    )


def governor(root: Path = Path("/"), board: Board | None = None) -> str:
    """What decides over the clock of the CPUs that this process may use, e.g. ``powersave (balance_performance), boost on``.

    In parentheses is the preference that the governor follows where the processor chooses its clock by itself (intel_pstate, amd-pstate):
    there the governor alone says little. On a Jetson that of the GPU is added, and whether ``jetson_clocks`` has locked the two.

    Args:
        root: where the files are.
        board: the Jetson that this machine is.
    """
    found = []
    for cpu in usable_cpus():
        folder = root / _CPUS / f"cpu{cpu}" / "cpufreq"
        preference = line(folder / "energy_performance_preference")
        if name := line(folder / "scaling_governor"):
            found.append(f"{name} ({preference})" if preference else name)
    parts = [" + ".join(sorted(set(found)))]
    no_turbo, boost = integer(root / _CPUS / "intel_pstate/no_turbo"), integer(root / _CPUS / "cpufreq/boost")
    if no_turbo in (0, 1) or boost in (0, 1):
        parts.append("boost on" if no_turbo == 0 or (no_turbo is None and boost == 1) else "boost off")
    if board:
        parts += [
            *_locked(board.cpu),
            *([f"GPU {board.gpu.governor or 'unknown'}", *_locked(board.gpu)] if board.gpu else []),
        ]
    return ", ".join(filter(None, parts))


def limits(root: Path = Path("/")) -> Limits:
    """The tightest limits of this process's control groups and all above them that are mounted here, of version 1 and version 2."""
    cpu, memory, throttled = [], [], 0
    for folder in _groups(root, "cpu"):
        cpu.append(_cpus_of(*text(folder / "cpu.max").partition(" ")[::2]))
        cpu.append(_cpus_of(text(folder / "cpu.cfs_quota_us"), text(folder / "cpu.cfs_period_us")))
        held = re.search(r"^nr_throttled ([0-9]{1,20})$", text(folder / "cpu.stat"), re.MULTILINE)
        throttled += int(held.group(1)) if held else 0
    for folder in _groups(root, "memory"):
        memory += [
            size // 2**20
            for name in ("memory.max", "memory.limit_in_bytes")
            if (size := integer(folder / name)) is not None
        ]
    # Version 1 writes the largest number of pages for no limit; one of at least the machine's memory limits nothing either.
    most = int(mebibytes(root / "proc/meminfo", "MemTotal")) or 2**40
    return Limits(
        round(min(filter(None, cpu), default=0.0), 3),
        min((size for size in memory if 0 < size < most), default=0),
        throttled,
    )


def _locked(clock: Clock | None) -> list[str]:
    return ["clocks locked"] if clock and clock.locked else []


def _gpu(root: Path) -> tuple[str, str]:
    """Name of the first NVIDIA GPU and release of its driver."""
    driver = re.search(r"\b[0-9]{3,}(?:\.[0-9]+)+\b", line(root / "proc/driver/nvidia/version"))
    release = driver.group() if driver else ""
    for file in entries(root / "proc/driver/nvidia/gpus", "*/information"):
        if model := re.search(r"^Model:\s*(\S[^\n]*)$", text(file), re.MULTILINE):
            return model.group(1).strip(), release
    return _gpu_without_files(release) if root == Path("/") else ("", release)


def _gpu_without_files(release: str) -> tuple[str, str]:
    """As CUDA tells it: on Windows' Linux, and in some sandboxes, the driver has no files in ``/proc``."""
    try:
        with contextlib.closing(cuda_driver.Cuda()) as cuda:
            return cuda.name, release or f"CUDA {cuda.driver_version // 1000}.{cuda.driver_version % 1000 // 10}"
    except BackendError:  # the usual machine: it has no driver, and asking took no time
        return "", release


def _cpu_throttled(root: Path) -> int:
    """Thermal events since the machine started. Each CPU of a core counts the core's, and each of a package the package's: they are told once."""
    core: dict[tuple[int, str], int] = defaultdict(int)
    package: dict[int, int] = defaultdict(int)
    for cpu in entries(root / _CPUS, "cpu[0-9]*"):
        socket, of_core = integer(cpu / "topology/physical_package_id") or 0, line(cpu / "topology/core_id") or cpu.name
        core[socket, of_core] = max(core[socket, of_core], integer(cpu / "thermal_throttle/core_throttle_count") or 0)
        package[socket] = max(package[socket], integer(cpu / "thermal_throttle/package_throttle_count") or 0)
    return sum(core.values()) + sum(package.values())


def _board_throttled(root: Path) -> int:
    """Events since a Jetson started of too low a voltage or too high a current that slow its clocks (Orin and newer, Jetson Linux 35 and newer).

    Earlier boards, and thermal slow-downs of all of them, are told in the kernel's log alone.
    """
    count = 0
    for folder in entries(root / "sys/class/hwmon", "hwmon*"):
        if line(folder / "name") == "soctherm_oc":
            for file in entries(folder, "oc*_event_cnt"):
                slows = integer(folder / file.name.replace("event_cnt", "throt_en")) != 0
                count += max(integer(file) or 0, 0) if slows else 0
    return count


def _cpus_of(quota: str, period: str) -> float:
    """CPUs' worth of time of a bandwidth limit in microseconds; 0.0 for none (``max``, -1)."""
    allowed, of = number(quota), number(period)
    return allowed / of if allowed and of and allowed > 0 and of > 0 else 0.0


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of the groups that this process is in and of all above them, in the hierarchies that may hold this controller."""
    mounts = [found for row in text(root / "proc/self/mountinfo").split("\n") if (found := _mount(row, controller))]
    folders = []
    for row in text(root / "proc/self/cgroup").split("\n"):
        identity, _, rest = row.partition(":")
        controllers, _, path = rest.partition(":")
        second = identity == "0" and not controllers
        if second or controller in controllers.split(","):
            folders += _upwards(
                root, path, [(shown, at) for version, shown, at in mounts if version == (2 if second else 1)]
            )
    return folders


def _mount(row: str, controller: str) -> tuple[int, str, str] | None:
    """Version, the group that is shown and where, of a line of mountinfo; None for any other file system or controller."""
    before, _, after = row.partition(" - ")
    fields, kind = before.split(" "), after.split(" ")
    if (
        len(fields) < 6
        or len(kind) < 3
        or not (kind[0] == "cgroup2" or (kind[0] == "cgroup" and controller in kind[2].split(",")))
    ):
        return None
    shown, at = (
        re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8) % 256), field) for field in fields[3:5]
    )
    return (2 if kind[0] == "cgroup2" else 1), shown, at


def _upwards(root: Path, path: str, mounts: list[tuple[str, str]]) -> list[Path]:
    """The folder of a group and those above it, to the top of the mount that shows it.

    A mount may show a part of the tree only: a container often has its own group there, under a path that names it from outside.
    Where no mount shows the group, the top of one is what can be known: with namespaces that is the group itself.
    """
    for shown, at in mounts:
        group, top = PurePosixPath(path), PurePosixPath(shown)
        if group.is_relative_to(top) and ".." not in group.parts:
            parts = group.relative_to(top).parts
            return [root / at.lstrip("/") / PurePosixPath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return [root / at.lstrip("/") for _, at in mounts[:1]]
