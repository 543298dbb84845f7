"""Floor 10: what this machine can build for and run. Nothing heavy is imported to find out."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import backends
from edgekit.engines.cache import Cache
from edgekit.engines.measure import cpu_instructions, cpu_name, cpus
from edgekit.spec import target
from edgekit.spec.parsing import plain

_BUILD_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        system: operating system and machine.
        python: its version.
        cpu: the processor's name.
        cpus: how many this process may use.
        instructions: instruction sets that decide how fast INT8 is.
        memory_mb: of the machine, MiB; 0 where it does not tell.
        backends: name to version, or to why it cannot be used.
        devices: name of a usable backend to what opening its CPU said.
        build: package to version, or ``missing``.
        gpu: name and driver, or why there is none.
        targets: target to what building for it lacks here; empty when nothing.
        cache: folder of the build cache.
        cache_mb: its size, MiB.
    """

    system: str
    python: str
    cpu: str
    cpus: int
    instructions: tuple[str, ...]
    memory_mb: float
    backends: Mapping[str, str]
    devices: Mapping[str, str]
    build: Mapping[str, str]
    gpu: str
    targets: Mapping[str, str]
    cache: str
    cache_mb: float

    def record(self) -> dict[str, object]:
        """Plain data for JSON."""
        return dict(plain(self))

    def text(self) -> str:
        """For a terminal."""
        vnni = any(i in self.instructions for i in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"))
        lines = [
            f"system        {self.system}, Python {self.python}",
            f"cpu           {self.cpu}, {self.cpus} usable, {self.memory_mb / 1024:.1f} GB memory",
            f"instructions  {', '.join(self.instructions) or 'none known'}" + ("" if vnni else " (no INT8 dot product: INT8 gains little here)"),
            f"gpu           {self.gpu}",
        ]
        lines += [f"backend       {name} {version}: {self.devices.get(name, 'cannot be used')}" for name, version in self.backends.items()]
        lines += [f"build         {', '.join(f'{k} {v}' for k, v in self.build.items())}"]
        lines += [f"target        {name}: {lack or 'can be built here'}" for name, lack in self.targets.items()]
        return "\n".join([*lines, f"cache         {self.cache}, {self.cache_mb:.0f} MB"])


def examine() -> Findings:
    """Looks at this machine."""
    versions = {name: backends.installed_version(name) for name in backends.names()}
    build = {package: _version(package) or "missing" for package in _BUILD_PACKAGES}
    lacking = [p for p, v in build.items() if v == "missing"]
    wanted = {}
    for name in target.names():
        if sys.version_info < (3, 11):
            wanted[name] = "needs Python 3.11 or newer"
            continue
        missing = [b for b in target.load(name).backends if versions.get(b) is None]
        parts = [f"pip install 'edgekit[{b}]'" for b in missing] + (["pip install 'edgekit[build]'"] if lacking else [])
        wanted[name] = f"needs {' and '.join(parts)}" if parts else ""
    cache = Cache()
    size = sum(f.stat().st_size for f in cache.root.rglob("*") if f.is_file()) / 2**20 if cache.root.is_dir() else 0.0
    return Findings(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cpu=cpu_name(),
        cpus=cpus(),
        instructions=cpu_instructions(),
        memory_mb=_memory_mb(),
        backends={name: version or f"not installed (pip install 'edgekit[{name}]')" for name, version in versions.items()},
        devices={name: _opens(name) for name, version in versions.items() if version},
        build=build,
        gpu=_gpu(),
        targets=wanted,
        cache=str(cache.root),
        cache_mb=size,
    )


def _opens(backend: str) -> str:
    """Really opens the backend's CPU: a package that is installed may still fail to load."""
    try:
        backends.get(backend).open_device("cpu", 1).close()
    except Exception as problem:  # whatever a broken installation raises is what is to be shown
        return f"does not load: {problem}"
    return "CPU opens"


def _gpu() -> str:
    tegra = Path("/etc/nv_tegra_release")
    if tegra.is_file():
        return f"NVIDIA Jetson, {tegra.read_text('utf-8', 'replace').splitlines()[0].lstrip('# ')}"
    command = shutil.which("nvidia-smi")
    if command is None:
        return "none found (no nvidia-smi, no Jetson release file)"
    asked = [command, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"nvidia-smi does not answer ({problem})"
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else f"nvidia-smi fails: {(done.stderr or done.stdout).strip()[:200]}"


def _memory_mb() -> float:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
