"""What EdgeKit knows of a Jetson: the board, its JetPack, what slows it down, and where the TensorRT is that JetPack brings.

Files are read, and a program is asked only for what they do not tell: this runs at every load on a Jetson.
JetPack 7 shares its packages with Arm servers (SBSA), so a Jetson is told by its Tegra chip and not by being ``aarch64``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgekit.drivers import sysfs
from edgekit.spec.engine import OLDEST, is_supported_version
from edgekit.spec.engine import version as numbers
from edgekit.spec.errors import UsageError

__all__ = ["Board", "Clock", "advice", "board", "is_supported", "missing_kernels", "system_tensorrt"]

# Jetson Linux (L4T), or what it begins with, to the JetPack that it is of and the TensorRT which that one brings.
# NVIDIA, JetPack archive, and the table of dusty-nv/jetson-containers; TensorRT of 7.2 as read off boards (roboflow/inference 2531).
_RELEASES = {
    "32": ("4.x", ""),
    "34": ("5.0 DP", ""),
    "35": ("5.x", ""),
    "35.1": ("5.0.2", "8.4.1"),
    "35.2": ("5.1", "8.5.2"),
    "35.3": ("5.1.1", "8.5.2"),
    "35.4": ("5.1.2", "8.5.2"),
    "35.5": ("5.1.3", "8.5.2"),
    "35.6": ("5.1.x", "8.5.2"),
    "35.6.0": ("5.1.4", "8.5.2"),
    "35.6.1": ("5.1.5", "8.5.2"),
    "35.6.2": ("5.1.5", "8.5.2"),
    "35.6.4": ("5.1.6", "8.5.2"),
    "36": ("6.x", ""),
    "36.2": ("6.0 DP", "8.6.2"),
    "36.3": ("6.0", "8.6.2"),
    "36.4": ("6.1 or 6.2", "10.3.0"),
    "36.4.0": ("6.1", "10.3.0"),
    "36.4.3": ("6.2", "10.3.0"),
    "36.4.4": ("6.2.1", "10.3.0"),
    "36.4.7": ("6.2.1", "10.3.0"),
    "36.5": ("6.2.x", "10.3.0"),
    "36.5.0": ("6.2.2", "10.3.0"),
    "36.5.2": ("6.2.3", "10.3.0"),
    "38": ("7.x", ""),
    "38.2": ("7.0", "10.13.3"),
    "38.4": ("7.1", "10.13.3"),
    "39": ("7.x", ""),
    "39.2": ("7.2.x", "10.16.2"),
    "39.2.0": ("7.2", "10.16.2"),
    "39.2.1": ("7.2.1", "10.16.2"),
}
_FAMILIES = {
    "tegra210": "Nano and TX1",
    "tegra186": "TX2",
    "tegra194": "Xavier",
    "tegra234": "Orin",
    "tegra264": "Thor",
}
# A container does not see the device tree, but the kernel tells the chip there too, by its number (Linux, include/soc/tegra/fuse.h).
_CHIPS = {0x21: "tegra210", 0x18: "tegra186", 0x19: "tegra194", 0x23: "tegra234", 0x26: "tegra264"}
# The last JetPack of boards for which there is none with a TensorRT that is supported.
_ENDED = {"tegra210": "JetPack 4", "tegra186": "JetPack 4", "tegra194": "JetPack 5 (TensorRT 8.5)"}
_LIMIT_S = 0.9  # of each of the two programs that may be asked
_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_VENV = "-m venv --system-site-packages DIR"


@dataclass(frozen=True)
class Clock:
    """How fast a processor may run now.

    Attributes:
        current_mhz: now; a GPU without work slows down.
        maximum_mhz: in this power mode.
        governor: what decides between the two.
        locked: always at the maximum, as ``jetson_clocks`` leaves it.
    """

    current_mhz: int
    maximum_mhz: int
    governor: str
    locked: bool


@dataclass(frozen=True)
class Board:
    """A Jetson. What it does not tell is an empty text, 0 or None.

    Attributes:
        model: as the device tree has it, e.g. ``NVIDIA Jetson Orin Nano Developer Kit``.
        soc: its chip: ``tegra194`` (Xavier), ``tegra234`` (Orin), ``tegra264`` (Thor).
        l4t: release of Jetson Linux, e.g. ``36.4.3``.
        jetpack: the JetPack of that release, e.g. ``6.2``; ``6.x`` for one that is newer than this table.
        tensorrt: what that JetPack brings, e.g. ``10.3.0``.
        power_mode: name and number, e.g. ``MAXN_SUPER (2)``.
        gpu, cpu: their clocks; of several CPU clusters the fastest, and locked only when all are.
        memory_mb: of CPU and GPU together, MiB.
        free_mb: what programs can still have of it, MiB.
    """

    model: str
    soc: str
    l4t: str
    jetpack: str
    tensorrt: str
    power_mode: str
    gpu: Clock | None
    cpu: Clock | None
    memory_mb: int
    free_mb: int

    @property
    def family(self) -> str:
        """The boards with this chip, e.g. ``Orin``; empty for a chip that is not known."""
        return _FAMILIES.get(self.soc, "")


def board(root: Path = Path("/")) -> Board | None:
    """The Jetson that this machine is, or None on any other. Never raises, and takes two seconds at the most.

    Args:
        root: where its files are; programs are asked only when this is the machine's own.
    """
    soc, release = _soc(root), _release(root)
    if not soc and not release:
        return None
    l4t = release or _command(root, "dpkg-query", "-W", "-f=${Version}", "nvidia-l4t-core").partition("-")[0]
    jetpack, tensorrt = _jetpack(l4t)
    model = sysfs.text(root / "proc/device-tree/model") or sysfs.text(root / "sys/devices/soc0/machine")
    total, free = (int(sysfs.mebibytes(root / "proc/meminfo", name)) for name in ("MemTotal", "MemAvailable"))
    return Board(model, soc, l4t, jetpack, tensorrt, _power_mode(root), _gpu(root), _cpu(root), total, free)


def is_supported(version: str) -> bool:
    """Whether EdgeKit works with this TensorRT; False for a text that is no version."""
    return is_supported_version(_numbers(version))


def advice(version: str, board: Board | None) -> str:
    """What to do about a TensorRT that is too old (or too new) for EdgeKit or a bundle: a sentence.

    Args:
        version: that was found.
        board: the Jetson that it was found on; None for another machine.
    """
    oldest = ".".join(map(str, OLDEST))
    if _numbers(version) >= (12,):
        return "Install TensorRT 10 or 11, or a newer EdgeKit."
    if board is None:
        return f"Install TensorRT {oldest} or newer. Run: pip install -U 'tensorrt<12'"
    if board.soc in _ENDED:
        return (
            f"Jetson {board.family} ends at {_ENDED[board.soc]}, which EdgeKit does not serve, so TensorRT cannot be used on this board. "
            "Build the bundle for its CPU: --target onnxruntime"
        )
    own = _numbers(board.tensorrt)
    has = f"JetPack {board.jetpack} brings TensorRT {board.tensorrt}"
    if is_supported(board.tensorrt) and _numbers(version)[:2] < own[:2]:
        return f"{has}: use that one, in an environment without another. Run: /usr/bin/python3 {_VENV}"
    if own and own >= OLDEST:
        return f"{has}. Move this board to a newer JetPack (7.2 brings 10.16), or build the bundle for a target with a lower minimum."
    first = "7.0" if board.soc == "tegra264" else "6.1"
    return f"{has + '. ' if own else ''}Move this board to JetPack {first} or newer, which brings TensorRT {oldest} or newer."


def missing_kernels(version: str, board: Board | None) -> str:
    """A warning for a TensorRT that may have no kernels for Orin; empty for any other.

    Packages for Arm servers (SBSA) before 10.16 leave out compute capability 8.7 (NVIDIA-ISAAC-ROS/isaac-ros-cli issue 22: 10.13.3), and
    they install on an Orin as well. No JetPack brings a version between 10.3 and 10.16 to it; which package one is cannot be told.

    Args:
        version: of TensorRT.
        board: the Jetson that it is on.
    """
    found = _numbers(version)
    if board is None or board.soc != "tegra234" or not (10, 8) <= found[:2] < (10, 16):
        return ""
    usual = (
        f"that of JetPack {board.jetpack} ({board.tensorrt})"
        if is_supported(board.tensorrt)
        else "that of JetPack 6.1 or newer"
    )
    return (
        f"TensorRT {version} for Arm servers has no kernels for Orin (making an engine ends with 'Target GPU SM 87 is not supported'). "
        f"If this is that package, use {usual} in its place."
    )


def system_tensorrt(root: Path = Path("/")) -> tuple[str | None, str]:
    """The TensorRT of the system's own Python, which is where JetPack puts it, and why this Python does not see it.

    Nothing of it is imported.

    Args:
        root: where the machine's files are.

    Returns:
        Its version, None where there is none; and a sentence with the remedy, empty where this Python sees it (or where the machine is no
        Jetson and has none).
    """
    found = [
        place
        for lib in ("usr/lib", "usr/local/lib")
        for place in sysfs.entries(root / lib, "python3.*/dist-packages/tensorrt")
    ]
    if not found:
        return None, _not_installed(board(root))
    package = max(found, key=lambda place: _python(place) == _HERE)  # the first, when there is none for this Python
    records = sysfs.entries(package.parent, "tensorrt-*.dist-info")
    stated = re.search(r"__version__\s*=\s*[\"']([^\"']+)", sysfs.text(package / "__init__.py"))
    version = (
        records[-1].name.removesuffix(".dist-info").partition("-")[2]
        if records
        else stated.group(1)
        if stated
        else "of unknown version"
    )
    if _numbers(version) and not is_supported(version):
        return version, f"TensorRT {version} is not supported. {advice(version, board(root))}"
    return version, _why_unseen(package, version, records, root / "usr")


def _not_installed(own: Board | None) -> str:
    if own is None:
        return ""
    if own.soc in _ENDED or (own.tensorrt and not is_supported(own.tensorrt)):
        return advice(own.tensorrt, own)
    return "JetPack's TensorRT is not installed. Run: sudo apt-get install python3-libnvinfer (in a container: take an image that has TensorRT)"


def _why_unseen(package: Path, version: str, records: list[Path], prefix: Path) -> str:
    """Why this Python does not see a package of the system's Python, which has that prefix, with the remedy; empty when it does."""
    seen = [
        Path(folder)
        for folder in sys.path
        if folder and os.path.realpath(Path(folder) / "tensorrt") == os.path.realpath(package)
    ]
    python = _python(package)
    what = f"TensorRT {version} is installed for the system's Python {python}"
    anew = f"/usr/bin/python{python} {_VENV}"
    if seen and (not records or sysfs.entries(seen[0], "tensorrt-*.dist-info")):
        return ""
    if seen:  # a link to the package alone is a common recipe
        return (
            f"TensorRT {version} is linked into {seen[0]}, and its version is not. Run: ln -s {records[-1]} {seen[0]}/"
        )
    if python != _HERE:
        return f"{what}, and this is Python {_HERE}, which cannot load it. Use that one: {anew}"
    if sys.prefix != sys.base_prefix and "include-system-site-packages=true" not in sysfs.text(
        Path(sys.prefix) / "pyvenv.cfg"
    ).lower().replace(" ", ""):
        own = os.path.realpath(sys.base_prefix) == os.path.realpath(prefix)  # packages of another Python would not help
        or_so = f" (or set include-system-site-packages = true in {sys.prefix}/pyvenv.cfg)" if own else ""
        return f"{what}, but this virtual environment does not see it. Make it anew with: {anew}{or_so}"
    return f"{what}, but this Python ({sys.executable}) is another installation and does not see it. Make an environment of the system's: {anew}"


def _python(package: Path) -> str:
    """Version of Python that a package lies with: ``3.10`` for ``python3.10/dist-packages/NAME``."""
    return package.parents[1].name.removeprefix("python")


def _numbers(text: str) -> tuple[int, ...]:
    """A version as numbers; empty for what is none."""
    try:
        return numbers(text)
    except (UsageError, ValueError):  # ValueError: more digits than Python reads
        return ()


def _soc(root: Path) -> str:
    for name in sysfs.text(root / "proc/device-tree/compatible").split("\0"):
        if found := re.fullmatch(r"nvidia,(tegra\d+)", name.strip()):
            return found.group(1)
    chip = sysfs.integer(root / "sys/devices/soc0/soc_id")
    if chip and sysfs.text(root / "sys/devices/soc0/family").lower().startswith("tegra"):
        return _CHIPS.get(chip, f"tegra (chip {chip})")
    return ""


def _release(root: Path) -> str:
    """Of Jetson Linux, from a line like ``# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic``."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", sysfs.text(root / "etc/nv_tegra_release"))
    return f"{found.group(1)}.{found.group(2)}" if found else ""


def _jetpack(l4t: str) -> tuple[str, str]:
    """JetPack and its TensorRT by the longest beginning of a release that the table has."""
    parts = l4t.split(".")
    return next(
        (_RELEASES[known] for n in range(len(parts), 0, -1) if (known := ".".join(parts[:n])) in _RELEASES), ("", "")
    )


def _power_mode(root: Path) -> str:
    """What ``nvpmodel`` keeps as its state, by the name that its configuration gives it; it is asked itself where there is no such file."""
    if number := re.search(r"pmode:\s*(\d{1,9})", sysfs.text(root / "var/lib/nvpmodel/status")):
        modes = re.findall(
            r"<\s*POWER_MODEL\s+ID\s*=\s*(\d{1,9})\s+NAME\s*=\s*([^\s>]+)", sysfs.text(root / "etc/nvpmodel.conf")
        )
        name = next((name for mode, name in modes if int(mode) == int(number.group(1))), "mode")
        return f"{name} ({int(number.group(1))})"
    said = _command(root, "nvpmodel", "-q")  # needs no root; without it, complaints follow the answer
    answer = re.search(r"NV Power Mode:\s*(\S+)\s+(\d+)\s*$", said, re.MULTILINE)
    return f"{answer.group(1)} ({answer.group(2)})" if answer else ""


def _gpu(root: Path) -> Clock | None:
    """``17000000.gpu`` (Orin; ``.ga10b`` with JetPack 5), ``17000000.gv11b`` (Xavier), ``gpu-gpc-0`` (Thor); in Hz."""
    devices = root / "sys/class/devfreq"
    folders = [
        f for pattern in ("*.gpu", "*.ga10b", "*.gv11b", "gpu-gpc-*", "*gpu*") for f in sysfs.entries(devices, pattern)
    ]
    return _clock(folders[:1], "cur_freq", "min_freq", "max_freq", "governor", 10**6)


def _cpu(root: Path) -> Clock | None:
    """All clusters; in kHz. Those whose CPUs are all off in this power mode do not answer."""
    folders = sysfs.entries(root / "sys/devices/system/cpu/cpufreq", "policy*")
    return _clock(folders, "scaling_cur_freq", "scaling_min_freq", "scaling_max_freq", "scaling_governor", 10**3)


def _clock(folders: list[Path], current: str, low: str, high: str, governor: str, unit: int) -> Clock | None:
    # jetson_clocks raises the lower limit to the upper one.
    states = [
        (
            sysfs.integer(f / current) or 0,
            sysfs.integer(f / low) or 0,
            sysfs.integer(f / high) or 0,
            sysfs.text(f / governor),
        )
        for f in folders
    ]
    states = [state for state in states if state[2] > 0]
    if not states:
        return None
    return Clock(
        max(s[0] for s in states) // unit,
        max(s[2] for s in states) // unit,
        ", ".join(dict.fromkeys(s[3] for s in states if s[3])),
        all(s[1] >= s[2] or s[3] == "performance" for s in states),
    )


def _command(root: Path, *command: str) -> str:
    """What a program says; empty where there is none, it fails to answer in time, or the files are not this machine's."""
    if root != Path("/"):
        return ""
    paths = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"))
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": paths, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()
