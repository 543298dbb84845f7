"""Inspection of this machine: what it can build for and run. It imports no heavy package."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import backends
from edgekit.backends import WrongResultsError
from edgekit.cache.store import Cache, size_mb
from edgekit.drivers import jetson
from edgekit.drivers.jetson import Board, Clock
from edgekit.drivers.sysfs import line, mebibytes
from edgekit.machine.control_groups import limits
from edgekit.machine.cpu import cpu_instructions, cpu_name, usable_cpus
from edgekit.machine.fingerprint import governor
from edgekit.spec import target
from edgekit.spec.distribution import install_hint
from edgekit.spec.parsing import Recorded
from edgekit.spec.registry import version_of

__all__ = ["Findings", "Gpu", "examine"]

_BUILD_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
_ONLY_BUILDERS = ("torch", "transformers")
_PATIENCE_S = 120.0
# Runs in a process of its own, since a TensorRT that does not fit its driver can end the process; without the current
# folder on the path.
_CHILD = """
import sys
sys.path[:] = [p for p in sys.path if p]
from edgekit import backends
try:
    backends.get(sys.argv[1]).open_device("gpu", 1).close()
except Exception as problem:
    sys.exit(str(problem))
"""


@dataclass(frozen=True)
class Gpu:
    """First GPU, as CUDA reports it.

    Attributes:
        name: Name of the GPU.
        compute_capability: Compute capability, e.g. ``8.7``.
        memory_mb: Memory of the GPU, or memory shared with the CPU, MiB.
        free_mb: Free part of it, MiB.
        integrated: Whether the memory is shared with the CPU.
        driver: Release of the driver; empty where the system does not report it.
        cuda: Newest CUDA version that the driver supports, e.g. ``12.6``.
    """

    name: str
    compute_capability: str
    memory_mb: float
    free_mb: float
    integrated: bool
    driver: str
    cuda: str

    def text(self) -> str:
        """Return one line."""
        shared = " shared with the CPU" if self.integrated else ""
        driver = f"driver {self.driver} (CUDA {self.cuda})" if self.driver else f"driver of CUDA {self.cuda}"
        return (
            f"{self.name}, compute capability {self.compute_capability}, {self.memory_mb:.0f} MB{shared}, "
            f"{self.free_mb:.0f} MB free, {driver}"
        )


@dataclass(frozen=True, repr=False)
class Findings(Recorded):
    """Findings of :func:`examine`.

    Attributes:
        system: Operating system and machine.
        python: Version of Python.
        cpu: Name of the processor.
        cpus: Number of CPUs that this process may use.
        instructions: Instruction sets that decide the speed of INT8.
        memory_mb: Memory of the machine, MiB; 0 where it is not known.
        governor: Frequency governor of the CPU; empty where it is not known.
        cpu_limit: CPU limit of the control groups of this process, in CPUs; 0 for none.
        memory_limit_mb: Memory limit of these groups, MiB; 0 for none.
        gpu: NVIDIA GPU; None where CUDA can use none.
        no_gpu: Reason why there is no GPU; empty where there is one.
        board: Jetson board; None on any other machine.
        tensorrt: State of JetPack's TensorRT and what to do about it; empty on other machines.
        backends: Name of each backend to its version, or to the reason why it cannot be used.
        devices: Name of each installed backend to the result of opening its device.
        build: Name of each build package to its version, or ``missing``.
        targets: Name of each target to what a build for it lacks here; empty if nothing.
        engine_on_device: Targets whose engines are compiled on the device.
        cache: Folder of the build cache.
        cache_mb: Size of the build cache, MiB.
        engines: Folder of the engines that were compiled here.
        engines_mb: Size of these engines, MiB.
    """

    system: str
    python: str
    cpu: str
    cpus: int
    instructions: tuple[str, ...]
    memory_mb: float
    governor: str
    cpu_limit: float
    memory_limit_mb: int
    gpu: Gpu | None
    no_gpu: str
    board: Board | None
    tensorrt: str
    backends: Mapping[str, str]
    devices: Mapping[str, str]
    build: Mapping[str, str]
    targets: Mapping[str, str]
    engine_on_device: tuple[str, ...]
    cache: str
    cache_mb: float
    engines: str
    engines_mb: float

    def text(self) -> str:
        """Return the findings as text for a terminal."""
        vnni = any(i in self.instructions for i in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"))
        no_vnni = "" if vnni else " (no INT8 dot product: INT8 gains little here)"
        lines = [
            f"system        {self.system}, Python {self.python}",
            f"cpu           {self.cpu}, {self.cpus} usable, {self.memory_mb / 1024:.1f} GB memory",
            f"instructions  {', '.join(self.instructions) or 'none known'}{no_vnni}",
            f"gpu           {self.gpu.text() if self.gpu else self.no_gpu}",
        ]
        if self.board:
            lines += _board_lines(self.board)
        elif self.governor:
            lines.append(f"governor      {self.governor}")
        bounds = [f"{self.cpu_limit:g} CPUs"] if self.cpu_limit else []
        bounds += [f"{self.memory_limit_mb} MB memory"] if self.memory_limit_mb else []
        lines += [f"limits        {' and '.join(bounds)} for this control group (container)"] if bounds else []
        lines += [f"tensorrt      {self.tensorrt}"] if self.tensorrt else []
        lines += [
            f"backend       {name} {version}: {self.devices.get(name, 'cannot be used')}"
            for name, version in self.backends.items()
        ]
        lines += self._build_lines()
        lines += [
            f"cache         {self.cache}, {self.cache_mb:.0f} MB",
            f"engines       {self.engines}, {self.engines_mb:.0f} MB",
        ]
        return "\n".join(lines)

    def _build_lines(self) -> list[str]:
        """Return what can be built here; a single line on a device that only runs bundles."""
        if all(self.build.get(package) == "missing" for package in _ONLY_BUILDERS):
            return [f"build         not installed: this machine runs bundles (to build here: {install_hint('build')})"]
        lines = [f"build         {', '.join(f'{k} {v}' for k, v in self.build.items())}"]
        for name, lack in self.targets.items():
            engine = "; engine made on the device" if name in self.engine_on_device else ""
            lines.append(f"target        {name}: {lack or f'can be built here{engine}'}")
        return lines


def _board_lines(board: Board) -> list[str]:
    jetpack = f"JetPack {board.jetpack}" if board.jetpack else "a JetPack that is not known"
    chip = ", ".join(filter(None, (board.family, board.soc))) or "an unknown chip"
    clocks = [f"{who} {_clock(clock)}" for who, clock in (("GPU", board.gpu), ("CPU", board.cpu)) if clock]
    return [
        f"jetson        {board.model or 'unknown board'} ({chip}), {jetpack}, L4T {board.l4t or 'unknown'}",
        f"power mode    {board.power_mode or 'unknown (see: sudo nvpmodel -q)'}",
        f"clocks        {'; '.join(clocks) or 'unknown'}",
        f"memory        {board.free_mb} of {board.memory_mb} MB free",
    ]


def _clock(clock: Clock) -> str:
    state = f"governor {clock.governor or 'unknown'}, not locked (to measure: sudo jetson_clocks)"
    if clock.locked:
        state = "locked at the maximum"
    return f"{clock.current_mhz} of {clock.maximum_mhz} MHz, {state}"


def examine(root: Path = Path("/")) -> Findings:
    """Inspect this machine.

    Args:
        root: Root of the files that describe a Jetson, the driver, clocks and limits.

    Raises:
        UsageError: If the settings of the cache cannot be read.
    """
    board = jetson.board(root)
    gpu, no_gpu = _gpu(root)  # before anything of TensorRT
    versions = {name: backends.installed_version(name) for name in backends.names()}
    tensorrt = _tensorrt(root, board, versions.get("tensorrt"))
    build = {package: version_of(package) or "missing" for package in _BUILD_PACKAGES}
    bounds = limits(root)
    cache = Cache()
    engines = cache.root / "engines"
    engines_mb = size_mb(engines)
    usable = {name: version or _not_installed(name, board, tensorrt) for name, version in versions.items()}
    devices = {name: _opens(name, gpu) for name, version in versions.items() if version}
    targets = {name: _lacks(name, versions, build) for name in target.names()}
    engine_on_device = tuple(name for name in target.names() if _engine_on_device(name, versions))
    return Findings(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cpu=cpu_name(root),
        cpus=len(usable_cpus()),
        instructions=cpu_instructions(),
        memory_mb=mebibytes(Path("/proc/meminfo"), "MemTotal"),
        governor=governor(root, board),
        cpu_limit=bounds.cpu,
        memory_limit_mb=bounds.memory_mb,
        gpu=gpu,
        no_gpu=no_gpu,
        board=board,
        tensorrt=tensorrt,
        backends=usable,
        devices=devices,
        build=build,
        targets=targets,
        engine_on_device=engine_on_device,
        cache=str(cache.root),
        cache_mb=size_mb(cache.root) - engines_mb,
        engines=str(engines),
        engines_mb=engines_mb,
    )


def _gpu(root: Path) -> tuple[Gpu | None, str]:
    """Return the first GPU, or the reason why there is none."""
    try:
        from edgekit.drivers.cuda import Cuda, probe

        if problem := probe():
            return None, problem
        with contextlib.closing(Cuda()) as cuda:
            release = re.search(r"\b\d{3,}(?:\.\d+)+\b", line(root / "proc/driver/nvidia/version"))
            return Gpu(
                cuda.name,
                ".".join(map(str, cuda.compute_capability)),
                cuda.memory / 2**20,
                cuda.free_memory() / 2**20,
                cuda.integrated,
                release.group() if release else "",
                f"{cuda.driver_version // 1000}.{cuda.driver_version % 1000 // 10}",
            ), ""
    except Exception as problem:  # the error of a broken driver is the finding
        return None, f"cannot be used: {problem}"


def _tensorrt(root: Path, board: Board | None, seen: str | None) -> str:
    """Return the state of JetPack's TensorRT; empty where there is neither TensorRT nor a Jetson."""
    system_version, remedy = jetson.system_tensorrt(root)
    if board is None and system_version is None:
        return ""
    if seen is None:
        return remedy or f"{system_version}, and this Python sees it"
    brings = f"; JetPack {board.jetpack} brings {board.tensorrt}" if board and board.tensorrt else ""
    if not jetson.is_supported(seen):
        return f"{seen} is not supported. {jetson.advice(seen, board)}"
    warning = jetson.missing_kernels(seen, board)
    return f"{seen}, and this Python sees it{brings}{'. ' + warning if warning else ''}"


def _not_installed(backend: str, board: Board | None, tensorrt: str) -> str:
    """Return why a backend has no version; on a Jetson TensorRT comes with JetPack, and TensorRT-RTX does not exist."""
    if backend == "tensorrt" and tensorrt:
        return "not installed for this Python (see tensorrt)"
    if backend == "tensorrt_rtx" and board:
        return "not installed (it is not for Jetson)"
    if backend == "tensorrt" and platform.machine() == "aarch64":
        return "not installed (on 64-bit ARM JetPack brings it; pip has no library for it)"
    return f"not installed ({install_hint(backend)})"


def _opens(backend: str, gpu: Gpu | None) -> str:
    """Open the backend's device, since an installed package may still fail to load; return the result."""
    try:
        if not backends.get(backend).ENGINES:
            backends.get(backend).open_device("cpu", 1).close()
            return "CPU opens"
        return _gpu_opens(backend) if gpu else "needs a GPU that CUDA can use (see gpu)"
    except WrongResultsError as problem:
        return f"refused, it computes wrong results here: {problem}"
    except Exception as problem:  # the error of a broken installation is the finding
        return f"does not load: {problem}"


def _gpu_opens(backend: str) -> str:
    package = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-c", _CHILD, backend]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"does not open: no answer within {_PATIENCE_S:.0f} s"
    if done.returncode == 0:
        return "GPU opens"
    message = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode == 1 and message:
        return f"does not open: {message}"
    detail = f": {message[-500:]}" if message else ""
    return f"does not open: the process that opens it ended with {done.returncode}{detail}"


def _lacks(name: str, versions: Mapping[str, str | None], build: Mapping[str, str]) -> str:
    """Return what a build for a target lacks here: packages, and the backends that it needs here."""
    if sys.version_info < (3, 11):
        return "needs Python 3.11 or newer"
    chosen = target.load(name)
    needed = [backend for backend in chosen.backends if backends.is_needed_to_build(backend, chosen)]
    missing = [backend for backend in needed if versions.get(backend) is None]
    parts = [install_hint(b) for b in missing]
    if "missing" in build.values():
        parts.append(install_hint("build"))
    return f"needs {' and '.join(parts)}" if parts else ""


def _engine_on_device(name: str, versions: Mapping[str, str | None]) -> bool:
    """Return whether a build on this machine ends without an engine."""
    if sys.version_info < (3, 11):
        return False
    kinds = [(backends.get(b).ENGINES, versions.get(b)) for b in target.load(name).backends]
    return any(kind == "device" or (kind == "host" and version is None) for kind, version in kinds)
