"""Probe kernels: fixed workloads that are timed between the blocks of a bundle and show the state of the machine.

Two runs at different times differ by other load, clock speed and the distance between the CPU cores that were used. The
probe kernels are subject to the same effects. ``int8`` and ``float32`` are encoders of half the size of a MiniLM. They
have the same number of GEMMs as a bundle and of operators between them, at which threads synchronize. They run on the
bundle's backend with the bundle's threads, because most of the variation comes from thread synchronization: on a shared
machine with two CPUs, the latency of a bundle changed by half for minutes while its GEMMs on one thread did not change.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import backends
from edgekit.machine.cpu import cpus
from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature, TensorSpec
from edgekit.timing.worker import Worker

__all__ = ["BACKENDS", "PRODUCTS", "Kernels", "Prober", "main", "make_prober", "time_kernels"]

_INT8_GRAPHS = {"onnxruntime": "dynamic", "openvino": "static", "litert": "rows"}
BACKENDS = tuple(_INT8_GRAPHS)
"""Backends with probe kernels. Latency on a GPU hardly depends on the CPU cores, so GPU backends have none."""

PRODUCTS = ("int8", "float32")
"""Encoder kernels. One timed call repeats the kernel until it takes about as long as a call of the bundle."""

_GRAPHS = Path(__file__).with_name("probes")
_ROWS = 32
_HIDDEN = 384
_INTERMEDIATE = 1536
_COPY_VALUES = 8 * 2**20
"""float32 values that the memory kernel copies, 32 MiB: more than the second-level caches hold."""
_MAX_REPEATS = 64
_FIT_CALLS = 9
"""Calls of a kernel whose minimum the repeats are fitted to."""
_ROUND_TRIPS = 50
_MAX_SPINS = 20_000_000
"""Reads of the flag, at least a second, after which the other process counts as lost."""
_CALLS = {"int8": 3, "float32": 3, "memory": 1, "cores": 1}
"""Timed calls of each kernel per probe."""
_SHARED_BYTES = 4096
_UNCHECKED_S = 1e-6
"""Seconds reported for the integrity check, which kernels do not have: a part of a cold start must be positive."""

_PARTNER = f"""
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    flag = mmap.mmap(file.fileno(), {_SHARED_BYTES})
while sys.stdin.buffer.read(1):
    for turn in range({_ROUND_TRIPS}):
        value, spins = 1 + turn % 2, {_MAX_SPINS}
        while flag[0] != value and spins:
            spins -= 1
        if not spins:
            sys.exit()
        flag[2] = value
"""
"""Program of the second process of the ``cores`` kernel."""


@dataclass(frozen=True)
class Prober:
    """Probe kernels for a bundle, from which processes can be started.

    Attributes:
        folder: Folder with the graphs and their weights.
        backend: Backend of the encoder kernels, one of ``BACKENDS``.
        threads: Thread count of the encoder kernels.
    """

    folder: Path
    backend: str
    threads: int

    def worker(self) -> Worker:
        """Return a new process with the kernels. Its inputs are kernel names with repeats per call, e.g. ``int8 4``."""
        return _ProbeWorker(self.folder, self.threads, self.backend)

    def fit_kernels(self, worker: Worker, call_ms: float) -> tuple[str, ...]:
        """Return all kernels with repeats such that a call of an encoder takes about as long as a call of the bundle.

        An interruption of the one then also affects the other.

        Args:
            worker: Process with the kernels.
            call_ms: Latency of the bundle in milliseconds, the minimum of several calls.
        """
        kernels = []
        for name in PRODUCTS:
            # The minimum is compared on both sides, because other load only adds to the time.
            kernel_ms = min(worker.time([f"{name} 1"] * _FIT_CALLS))
            repeats = 2 ** max(0, round(np.log2(call_ms / kernel_ms)))
            kernels.append(f"{name} {min(_MAX_REPEATS, repeats)}")
        kernels.append("memory 1")
        if cpus() > 1:
            kernels.append("cores 1")
        return tuple(kernels)


@contextlib.contextmanager
def make_prober(backend: str, threads: int) -> Iterator[Prober | None]:
    """Make the probe kernels for a bundle in a temporary folder.

    Args:
        backend: Backend of the bundle.
        threads: Thread count of the bundle.

    Yields:
        The probe kernels, or None if the backend has none or is not installed.
    """
    if backend not in BACKENDS or backends.installed_version(backend) is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-probe-") as name:
        root = Path(name)
        values = np.random.default_rng(0).normal(0.0, 0.03, _HIDDEN * _INTERMEDIATE)
        int8_values = np.clip(np.rint(values * 1000), -127, 127).astype(np.int8)
        suffix = backends.get(backend).GRAPH
        _write_graph(root / "float32", f"float32{suffix}", values.astype(np.float32))
        _write_graph(root / "int8", f"{_INT8_GRAPHS[backend]}{suffix}", int8_values)
        yield Prober(root, backend, threads)


def _write_graph(folder: Path, graph: str, weights: np.ndarray) -> None:
    """Write a graph with its weights: beside an ONNX file, behind the graph in a ``.tflite`` file."""
    folder.mkdir()
    file = (folder / "graph").with_suffix(Path(graph).suffix)
    shutil.copyfile(_GRAPHS / graph, file)
    if file.suffix == ".onnx":
        (folder / "weights.bin").write_bytes(weights.tobytes())
    else:
        with file.open("ab") as stream:
            stream.write(weights.tobytes())


def time_kernels(worker: Worker, kernels: Sequence[str]) -> dict[str, list[float]]:
    """Time a few calls of each kernel, after one call that wakes the process up.

    Args:
        worker: Process with the kernels.
        kernels: Kernel names with repeats.

    Returns:
        Kernels to the milliseconds of their calls.
    """
    calls = []
    for kernel in kernels:
        calls += [kernel] * _CALLS[kernel.partition(" ")[0]]
    with worker.turn():
        times_ms = worker.time([kernels[0], *calls])[1:]
    results: dict[str, list[float]] = {kernel: [] for kernel in kernels}
    for kernel, time_ms in zip(calls, times_ms, strict=True):
        results[kernel].append(time_ms)
    return results


class _ProbeWorker(Worker):
    """A worker that runs the kernels in place of a bundle."""

    CHILD = (
        "import sys; sys.path[:] = [p for p in sys.path if p]; "
        "from edgekit.timing.probe import main; main(*sys.argv[1:])"
    )


class Kernels:
    """The kernels in the child process. It is called with a kernel and its repeats, as a session is with a text."""

    def __init__(self, folder: Path, backend: str, threads: int) -> None:
        """Load the graphs.

        Args:
            folder: Folder of the graphs.
            backend: Backend of the encoder kernels.
            threads: Thread count of the encoder kernels.

        Raises:
            BackendError: If the backend is not available or refuses the graphs.
        """
        module = backends.get(backend)
        device = module.open_device("cpu", threads)
        x, y = (TensorSpec(name, "float32", (_ROWS, _HIDDEN)) for name in ("x", "y"))
        signature = Signature("probe", (x,), (y,))
        feeds = {"x": np.random.default_rng(1).normal(size=(_ROWS, _HIDDEN)).astype(np.float32)}
        self._kernels: dict[str, Callable[[], Any]] = {}
        for name in PRODUCTS:
            self._kernels[name] = partial(device.load(folder / name / f"graph{module.GRAPH}", signature).run, feeds)
        source = np.ones(_COPY_VALUES, np.float32)
        self._kernels["memory"] = partial(np.copyto, np.empty(_COPY_VALUES, np.float32), source)
        self._cores = _Cores(folder) if cpus() > 1 else None
        if self._cores is not None:
            self._kernels["cores"] = self._cores

    def __call__(self, text: str) -> None:
        """Run a kernel.

        Args:
            text: Kernel name and repeats, separated by a space.
        """
        name, _, repeats = text.partition(" ")
        for _ in range(int(repeats)):
            self._kernels[name]()


class _Cores:
    """Two processes that exchange a byte of shared memory, which measures the latency between two cores."""

    def __init__(self, folder: Path) -> None:
        shared = folder / f"cores-{os.getpid()}"  # It is removed with the folder.
        shared.write_bytes(bytes(_SHARED_BYTES))
        with shared.open("r+b") as file:
            self._flag = mmap.mmap(file.fileno(), _SHARED_BYTES)
        command = [sys.executable, "-I", "-S", "-c", _PARTNER, str(shared)]
        self._partner = subprocess.Popen(command, stdin=subprocess.PIPE)

    def __call__(self) -> None:
        assert self._partner.stdin is not None
        flag = self._flag
        flag[0] = flag[2] = 0
        self._partner.stdin.write(b"x")
        self._partner.stdin.flush()
        for turn in range(_ROUND_TRIPS):
            value = 1 + turn % 2
            spins = _MAX_SPINS
            flag[0] = value
            while flag[2] != value and spins:
                spins -= 1
            if not spins:
                raise BackendError(
                    "Two processes of this machine did not synchronize within a second. "
                    "The machine is too busy to measure. Measure again when it is idle.",
                    code="machine-busy",
                )


def _open_kernels(folder: str, options: dict[str, Any]) -> tuple[Kernels, float, float]:
    began_s = time.perf_counter()
    kernels = Kernels(Path(folder), options["backend"], options["threads"])
    return kernels, _UNCHECKED_S, time.perf_counter() - began_s


def main(folder: str, options: str) -> None:
    """Run :func:`edgekit.timing.child.main` with the kernels in place of a bundle."""
    from edgekit.timing import child  # It imports the runtime, which the parent process does not need.

    child.main(folder, options, _open_kernels)
