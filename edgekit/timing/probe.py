"""What a machine is worth at the moment: kernels that are the same in every run, timed between the blocks of a bundle.

Two runs at different times differ by what the machine did meanwhile: other work, its clock, how far its cores are from each other. The kernels meet
the same. ``int8`` and ``float32`` are an encoder of half a MiniLM's size: GEMMs and as many operators between them, at each of which threads meet, as a
bundle has. They are run by the bundle's backend with the bundle's threads, since how threads meet is most of what varies
(two CPUs of a shared machine were seen to change the time of a bundle by half for minutes, and that of its products on one thread not at all).
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

_INT8 = {"onnxruntime": "dynamic", "openvino": "static"}
BACKENDS = tuple(_INT8)
"""Backends that run the products. A GPU's times do not depend on what the CPUs do, so the others have no probe."""

PRODUCTS = ("int8", "float32")
"""Kernels whose work is like a bundle's; a call of them is repeated until it takes about as long as the bundle's."""

_GRAPHS = Path(__file__).with_name("probes")
_ROWS, _WIDE, _WIDER = 32, 384, 1536
_COPIED = 8 * 2**20  # float32 values, 32 MiB: more than the second-level caches hold
_MOST_REPEATS = 64
_FITTED = 9  # calls of a kernel that its repeats are fitted by
_ROUND_TRIPS = 50
_SPINS = 20_000_000  # looks at the flag, a second at least, until the other process counts as lost
_TIMES = {"int8": 3, "float32": 3, "memory": 1, "cores": 1}  # calls of each kernel at a time

_PARTNER = f"""
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    flag = mmap.mmap(file.fileno(), 4096)
while sys.stdin.buffer.read(1):
    for turn in range({_ROUND_TRIPS}):
        wanted, left = 1 + turn % 2, {_SPINS}
        while flag[0] != wanted and left:
            left -= 1
        if not left:
            sys.exit()
        flag[2] = wanted
"""


@dataclass(frozen=True)
class Prober:
    """Probe kernels for a bundle, ready to be started again and again. A context manager over the folder that holds their graphs.

    Attributes:
        folder: with the graphs and their weights.
        backend: that runs the products, one of ``BACKENDS``.
        threads: of it.
    """

    folder: Path
    backend: str
    threads: int

    def worker(self) -> Worker:
        """A new process with the kernels. What it takes as a text is the name of a kernel, and how often a call repeats it: ``int8 4``."""
        return _Probe(self.folder, self.threads, self.backend)

    def kernels(self, one: Worker, call_ms: float) -> tuple[str, ...]:
        """Kernels with repeats, such that a call of a product takes about as long as one of the bundle: what interrupts the one then meets the other.

        Args:
            one: a process with the kernels.
            call_ms: of the bundle, the least of several.
        """
        found = []
        for name in PRODUCTS:
            took = min(
                one.time([f"{name} 1"] * _FITTED)
            )  # the least that was seen on both sides: other work on the machine only adds to it
            found.append(f"{name} {min(_MOST_REPEATS, 2 ** max(0, round(np.log2(call_ms / took))))}")
        return (*found, "memory 1", *(["cores 1"] if cpus() > 1 else []))


@contextlib.contextmanager
def make_prober(backend: str, threads: int) -> Iterator[Prober | None]:
    """Probe kernels for a bundle that runs on a backend with so many threads; None where there are none for it, or it is not installed."""
    if backend not in BACKENDS or backends.installed_version(backend) is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-probe-") as name:
        folder = Path(name)
        values = np.random.default_rng(0).normal(0.0, 0.03, _WIDE * _WIDER)
        for kind in ("float32", _INT8[backend]):
            place = folder / ("float32" if kind == "float32" else "int8")
            place.mkdir()
            shutil.copyfile(_GRAPHS / f"{kind}.onnx", place / "graph.onnx")
            weights = (
                values.astype(np.float32)
                if kind == "float32"
                else np.clip(np.rint(values * 1000), -127, 127).astype(np.int8)
            )
            (place / "weights.bin").write_bytes(weights.tobytes())
        yield Prober(folder, backend, threads)


def time_kernels(one: Worker, kernels: Sequence[str]) -> dict[str, list[float]]:
    """Milliseconds of a few calls of each kernel now, behind one that wakes the process up."""
    asked = [k for k in kernels for _ in range(_TIMES[k.partition(" ")[0]])]
    with one.turn():
        times = one.time([kernels[0], *asked])[1:]
    return {k: [t for name, t in zip(asked, times, strict=True) if name == k] for k in kernels}


class _Probe(Worker):
    """The kernels in a process, as a bundle is."""

    CHILD = "import sys; sys.path[:] = [p for p in sys.path if p]; from edgekit.timing.probe import main; main(*sys.argv[1:])"


class Kernels:
    """The child's end: called with the name of a kernel and its repeats, as a session is with a text."""

    def __init__(self, folder: Path, backend: str, threads: int) -> None:
        """Loads the graphs.

        Raises:
            BackendError: when the backend is not there or refuses them.
        """
        spec = [TensorSpec(name, "float32", (_ROWS, _WIDE)) for name in ("x", "y")]
        device = backends.get(backend).open_device("cpu", threads)
        feeds = {"x": np.random.default_rng(1).normal(size=(_ROWS, _WIDE)).astype(np.float32)}
        signature = Signature("probe", (spec[0],), (spec[1],))
        self._run: dict[str, Callable[[], Any]] = {
            name: partial(device.load(folder / name / "graph.onnx", signature).run, feeds) for name in PRODUCTS
        }
        source, copy = np.ones(_COPIED, np.float32), np.empty(_COPIED, np.float32)
        self._run["memory"] = partial(np.copyto, copy, source)
        self._cores = _Cores(folder) if cpus() > 1 else None
        if self._cores is not None:
            self._run["cores"] = self._cores

    def __call__(self, text: str) -> None:
        """Runs a kernel so many times."""
        name, _, repeats = text.partition(" ")
        for _ in range(int(repeats)):
            self._run[name]()


class _Cores:
    """Two processes that answer each other through a byte of shared memory: what it takes two cores to meet."""

    def __init__(self, folder: Path) -> None:
        shared = folder / f"cores-{os.getpid()}"  # it goes with the folder
        shared.write_bytes(bytes(4096))
        with shared.open("r+b") as file:
            self._flag = mmap.mmap(file.fileno(), 4096)
        self._other = subprocess.Popen([sys.executable, "-I", "-S", "-c", _PARTNER, str(shared)], stdin=subprocess.PIPE)

    def __call__(self) -> None:
        assert self._other.stdin is not None
        flag = self._flag
        flag[0] = flag[2] = 0
        self._other.stdin.write(b"x")
        self._other.stdin.flush()
        for turn in range(_ROUND_TRIPS):
            sent, left = 1 + turn % 2, _SPINS
            flag[0] = sent
            while flag[2] != sent and left:
                left -= 1
            if not left:
                raise BackendError(
                    "Two processes of this machine did not meet in a second: it is too busy to be measured. Measure again when it is not.",
                    code="machine-busy",
                )


def _opened(folder: str, options: dict[str, Any]) -> tuple[Kernels, float, float]:
    began = time.perf_counter()
    return Kernels(Path(folder), options["backend"], options["threads"]), 1e-6, time.perf_counter() - began


def main(folder: str, options: str) -> None:
    """The child: as :func:`edgekit.timing.child.main`, with kernels in place of a bundle."""
    from edgekit.timing import child  # brings the runtime, which the parent does not need

    child.main(folder, options, _opened)
