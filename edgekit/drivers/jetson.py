"""Description of a Jetson: the board, its JetPack, clocks and power mode, and the location of JetPack's TensorRT.

The functions read files, and run a program only for what no file contains, because they run at every load on a Jetson.
JetPack 7 shares its packages with Arm servers (SBSA), so a Jetson is recognized by its Tegra chip, not by ``aarch64``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgekit.drivers import sysfs
from edgekit.drivers._jetson_clocks import Clock, cpu_clock, gpu_clock
from edgekit.spec.engine import OLDEST, is_supported_version
from edgekit.spec.engine import version as numbers
from edgekit.spec.errors import UsageError

__all__ = ["Board", "Clock", "advice", "board", "is_supported", "missing_kernels", "system_tensorrt"]

# Release of Jetson Linux (L4T), or its beginning, to its JetPack and the TensorRT of that JetPack. Sources: NVIDIA's
# JetPack archive, the table of dusty-nv/jetson-containers, and for 7.2 what boards report (roboflow/inference 2531).
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
# Chip numbers of the kernel (Linux, include/soc/tegra/fuse.h), for containers, which do not see the device tree.
_CHIPS = {0x21: "tegra210", 0x18: "tegra186", 0x19: "tegra194", 0x23: "tegra234", 0x26: "tegra264"}
# Last JetPack of chips that no JetPack with a supported TensorRT supports.
_ENDED = {"tegra210": "JetPack 4", "tegra186": "JetPack 4", "tegra194": "JetPack 5 (TensorRT 8.5)"}
_TIMEOUT_S = 0.9  # Time limit of each of the two programs that may run.
_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_VENV = "-m venv --system-site-packages DIR"


@dataclass(frozen=True)
class Board:
    """A Jetson. Unknown properties are an empty text, 0 or None.

    Attributes:
        model: Model from the device tree, e.g. ``NVIDIA Jetson Orin Nano Developer Kit``.
        soc: Chip: ``tegra194`` (Xavier), ``tegra234`` (Orin), ``tegra264`` (Thor).
        l4t: Release of Jetson Linux, e.g. ``36.4.3``.
        jetpack: JetPack of that release, e.g. ``6.2``; ``6.x`` if it is newer than the table.
        tensorrt: TensorRT version of that JetPack, e.g. ``10.3.0``.
        power_mode: Name and number of the power mode, e.g. ``MAXN_SUPER (2)``.
        gpu: Clock of the GPU.
        cpu: Clock of the CPU: the fastest cluster; locked only if all clusters are.
        memory_mb: Memory of CPU and GPU together, MiB.
        free_mb: Memory that is available to programs, MiB.
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
        """Name of the boards with this chip, e.g. ``Orin``; empty for an unknown chip."""
        return _FAMILIES.get(self.soc, "")


def board(root: Path = Path("/")) -> Board | None:
    """Return the Jetson that this machine is, or None. Never raises, and takes at most two seconds.

    Args:
        root: Root of the machine's files. Programs run only for ``/``.
    """
    soc = _soc(root)
    release = _release(root)
    if not soc and not release:
        return None
    l4t = release or _run(root, "dpkg-query", "-W", "-f=${Version}", "nvidia-l4t-core").partition("-")[0]
    jetpack, tensorrt = _jetpack(l4t)
    return Board(
        model=sysfs.text(root / "proc/device-tree/model") or sysfs.text(root / "sys/devices/soc0/machine"),
        soc=soc,
        l4t=l4t,
        jetpack=jetpack,
        tensorrt=tensorrt,
        power_mode=_power_mode(root),
        gpu=gpu_clock(root),
        cpu=cpu_clock(root),
        memory_mb=int(sysfs.mebibytes(root / "proc/meminfo", "MemTotal")),
        free_mb=int(sysfs.mebibytes(root / "proc/meminfo", "MemAvailable")),
    )


def is_supported(version: str) -> bool:
    """Return whether EdgeKit supports a TensorRT version; False for a text that is not a version."""
    return is_supported_version(_numbers(version))


def advice(version: str, board: Board | None) -> str:
    """Return one or two sentences with the remedy for a TensorRT that is too old, or too new.

    Args:
        version: Version of the installed TensorRT.
        board: Jetson on which it is installed; None for another machine.
    """
    oldest = ".".join(map(str, OLDEST))
    if _numbers(version) >= (12,):
        return "Install TensorRT 10 or 11, or a newer EdgeKit."
    if board is None:
        return f"Install TensorRT {oldest} or newer. Run: pip install -U 'tensorrt<12'"
    if board.soc in _ENDED:
        return (
            f"The last version for Jetson {board.family} is {_ENDED[board.soc]}, which EdgeKit does not support. "
            "Build the bundle for the CPU of this board: --target onnxruntime"
        )
    jetpack_version = _numbers(board.tensorrt)
    has_jetpack = f"JetPack {board.jetpack} has TensorRT {board.tensorrt}"
    if is_supported(board.tensorrt) and _numbers(version)[:2] < jetpack_version[:2]:
        return f"{has_jetpack}: use that one, in an environment without another. Run: /usr/bin/python3 {_VENV}"
    if jetpack_version and jetpack_version >= OLDEST:
        return (
            f"{has_jetpack}. Upgrade this board to a newer JetPack (7.2 has 10.16), "
            "or build the bundle for a target with a lower minimum."
        )
    first_jetpack = "7.0" if board.soc == "tegra264" else "6.1"
    upgrade = f"Upgrade this board to JetPack {first_jetpack} or newer, which has TensorRT {oldest} or newer."
    return f"{has_jetpack}. {upgrade}" if jetpack_version else upgrade


def missing_kernels(version: str, board: Board | None) -> str:
    """Return a warning for a TensorRT that may have no kernels for Orin; empty for any other.

    Packages for Arm servers (SBSA) before 10.16 lack compute capability 8.7 (NVIDIA-ISAAC-ROS/isaac-ros-cli issue 22:
    10.13.3), but can be installed on an Orin. JetPack has no version between 10.3 and 10.16 for it. The installed
    package itself does not tell which kind it is.

    Args:
        version: Version of the installed TensorRT.
        board: Jetson on which it is installed; None for another machine.
    """
    if board is None or board.soc != "tegra234" or not (10, 8) <= _numbers(version)[:2] < (10, 16):
        return ""
    replacement = "that of JetPack 6.1 or newer"
    if is_supported(board.tensorrt):
        replacement = f"that of JetPack {board.jetpack} ({board.tensorrt})"
    return (
        f"TensorRT {version} for Arm servers has no kernels for Orin (a build fails with 'Target GPU SM 87 is not "
        f"supported'). If this is that package, replace it by {replacement}."
    )


def system_tensorrt(root: Path = Path("/")) -> tuple[str | None, str]:
    """Find the TensorRT of the system's Python, where JetPack installs it. It is not imported.

    Args:
        root: Root of the machine's files.

    Returns:
        The version, or None if there is none; and a sentence with the reason and the remedy if this Python cannot
        import it. The sentence is empty if it can, and on a machine without TensorRT that is not a Jetson.
    """
    packages = []
    for folder in ("usr/lib", "usr/local/lib"):
        packages += sysfs.entries(root / folder, "python3.*/dist-packages/tensorrt")
    if not packages:
        return None, _advise_install(board(root))
    # The package for this Python, or the first one.
    package = max(packages, key=lambda package: _python(package) == _HERE)
    records = sysfs.entries(package.parent, "tensorrt-*.dist-info")
    version = _package_version(package, records)
    if _numbers(version) and not is_supported(version):
        return version, f"TensorRT {version} is not supported. {advice(version, board(root))}"
    return version, _explain_invisible(package, version, records, root / "usr")


def _package_version(package: Path, records: list[Path]) -> str:
    """Return the version of a package from its metadata folders, or from its source."""
    if records:
        return records[-1].name.removesuffix(".dist-info").partition("-")[2]
    match = re.search(r"__version__\s*=\s*[\"']([^\"']+)", sysfs.text(package / "__init__.py"))
    return match.group(1) if match else "of unknown version"


def _advise_install(board: Board | None) -> str:
    """Return how to install TensorRT on a Jetson; empty for another machine."""
    if board is None:
        return ""
    if board.soc in _ENDED or (board.tensorrt and not is_supported(board.tensorrt)):
        return advice(board.tensorrt, board)
    return (
        "JetPack's TensorRT is not installed. Run: sudo apt-get install python3-libnvinfer "
        "(in a container: use an image with TensorRT)"
    )


def _explain_invisible(package: Path, version: str, records: list[Path], prefix: Path) -> str:
    """Return why this Python cannot import a package of the system's Python, and the remedy; empty if it can.

    Args:
        package: Path of the package.
        version: Version of the package.
        records: Metadata folders of the package.
        prefix: Prefix of the system's Python.
    """
    real_package = os.path.realpath(package)
    links = [Path(folder) for folder in sys.path if folder and _resolves_to(folder, real_package)]
    if links and (not records or sysfs.entries(links[0], "tensorrt-*.dist-info")):
        return ""
    if links:
        # A link to the package without its metadata is a common recipe.
        return (
            f"TensorRT {version} is linked into {links[0]}, but its version metadata is not. "
            f"Run: ln -s {records[-1]} {links[0]}/"
        )
    python = _python(package)
    installed = f"TensorRT {version} is installed for the system's Python {python}"
    create_venv = f"/usr/bin/python{python} {_VENV}"
    if python != _HERE:
        return f"{installed}, but this is Python {_HERE}, which cannot load it. Use the system's Python: {create_venv}"
    if sys.prefix != sys.base_prefix and not _venv_sees_system_packages():
        remedy = f"Create it again with: {create_venv}"
        # The setting does not help in an environment of another Python.
        if os.path.realpath(sys.base_prefix) == os.path.realpath(prefix):
            remedy += f" (or set include-system-site-packages = true in {sys.prefix}/pyvenv.cfg)"
        return f"{installed}, but this virtual environment does not see it. {remedy}"
    return (
        f"{installed}, but this Python ({sys.executable}) is another installation and does not see it. "
        f"Create an environment of the system's Python: {create_venv}"
    )


def _resolves_to(folder: str, real_package: str) -> bool:
    """Return whether the ``tensorrt`` in a folder is the package with this real path."""
    return os.path.realpath(Path(folder) / "tensorrt") == real_package


def _venv_sees_system_packages() -> bool:
    settings = sysfs.text(Path(sys.prefix) / "pyvenv.cfg").lower().replace(" ", "")
    return "include-system-site-packages=true" in settings


def _python(package: Path) -> str:
    """Return the Python version of a package's path: ``3.10`` for ``python3.10/dist-packages/NAME``."""
    return package.parents[1].name.removeprefix("python")


def _numbers(text: str) -> tuple[int, ...]:
    """Return a version as numbers; empty if the text is not a version."""
    try:
        return numbers(text)
    except (UsageError, ValueError):  # ValueError: more digits than Python converts.
        return ()


def _soc(root: Path) -> str:
    """Return the Tegra chip from the device tree or the kernel; empty if there is none."""
    for name in sysfs.text(root / "proc/device-tree/compatible").split("\0"):
        match = re.fullmatch(r"nvidia,(tegra\d+)", name.strip())
        if match:
            return match.group(1)
    chip = sysfs.integer(root / "sys/devices/soc0/soc_id")
    if chip and sysfs.text(root / "sys/devices/soc0/family").lower().startswith("tegra"):
        return _CHIPS.get(chip, f"tegra (chip {chip})")
    return ""


def _release(root: Path) -> str:
    """Return the Jetson Linux release from a line like ``# R36 (release), REVISION: 4.3, GCID: 38968081, ...``."""
    pattern = r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)"
    match = re.search(pattern, sysfs.text(root / "etc/nv_tegra_release"))
    return f"{match.group(1)}.{match.group(2)}" if match else ""


def _jetpack(l4t: str) -> tuple[str, str]:
    """Return the JetPack of a release and its TensorRT, by the longest beginning that the table has."""
    parts = l4t.split(".")
    for count in range(len(parts), 0, -1):
        beginning = ".".join(parts[:count])
        if beginning in _RELEASES:
            return _RELEASES[beginning]
    return "", ""


def _power_mode(root: Path) -> str:
    """Return name and number of the power mode from the files of ``nvpmodel``, or from the program."""
    status = re.search(r"pmode:\s*(\d{1,9})", sysfs.text(root / "var/lib/nvpmodel/status"))
    if status:
        mode = int(status.group(1))
        pattern = r"<\s*POWER_MODEL\s+ID\s*=\s*(\d{1,9})\s+NAME\s*=\s*([^\s>]+)"
        for number, name in re.findall(pattern, sysfs.text(root / "etc/nvpmodel.conf")):
            if int(number) == mode:
                return f"{name} ({mode})"
        return f"mode ({mode})"
    # The query works without root rights; then warnings follow the output.
    output = _run(root, "nvpmodel", "-q")
    answer = re.search(r"NV Power Mode:\s*(\S+)\s+(\d+)\s*$", output, re.MULTILINE)
    return f"{answer.group(1)} ({answer.group(2)})" if answer else ""


def _run(root: Path, *command: str) -> str:
    """Return the output of a program; empty if it is missing or times out, or if ``root`` is not ``/``."""
    if root != Path("/"):
        return ""
    paths = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"))
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": paths, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.decode("utf-8", "replace").strip()
