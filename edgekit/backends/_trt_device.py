"""A GPU with TensorRT or TensorRT-RTX: it makes engines, loads them, and keeps what their calls share."""

from __future__ import annotations

import contextlib
import logging
import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from edgekit.backends import EngineMismatchError, _jetson
from edgekit.backends._cuda import Cuda, probe
from edgekit.backends._trt import is_rtx, logger, remedy, version_of
from edgekit.backends._trt_buffer import Buffer
from edgekit.backends._trt_build import Built, build
from edgekit.backends._trt_engine import TensorRtEngine
from edgekit.spec.engine import EngineRecipe, version
from edgekit.spec.errors import BackendError
from edgekit.spec.progress import Progress
from edgekit.spec.tensor import Signature

_log = logging.getLogger("edgekit.tensorrt")
# A plan that is refused says so; where these are in its lines, a CUDA call failed, and the plan may be a good one.
_OF_THE_DEVICE = ("cuda runtime", "cuda driver", "out of memory", "could not be allocated", "target gpu sm")


def check_driver(who: str) -> None:
    """Refuses where CUDA does not work, before anything of TensorRT is imported: without a driver it can crash the process.

    Raises:
        BackendError: with why, and what to do.
    """
    problem = probe()
    if problem is not None:
        raise BackendError(f"{who} needs an NVIDIA GPU with its driver. {problem}")


class TensorRtDevice:
    """The first GPU, with a stream for each call that may run at the same time."""

    def __init__(self, trt: Any, streams: int, cuda: Cuda | None = None) -> None:
        """Opens it.

        Args:
            trt: the module ``tensorrt``, or that of TensorRT-RTX.
            streams: calls at the same time.
            cuda: the device; by default the first.

        Raises:
            BackendError: when CUDA or TensorRT refuses.
        """
        self.trt, self.streams = trt, streams
        self.cuda = cuda or Cuda()
        log, self.heard = logger(trt)
        self._own: list[int] = []
        self.free: SimpleQueue[int] = SimpleQueue()
        self._engines: list[TensorRtEngine] = []
        self._buffers: set[int] = set()
        self._spare: dict[int, list[int]] = {}
        self._lock = threading.RLock()  # a buffer may be collected while it is held
        self._closing = threading.Lock()
        self.closed = False
        mark = self.heard.mark()
        try:
            self.cuda.enter()
            self._runtime = trt.Runtime(log)
            for _ in range(streams):
                self._own.append(self.cuda.stream())
                self.free.put(self._own[-1])
        except TypeError as problem:  # how pybind says that the factory gave a null pointer
            self._release()
            lines = "; ".join(self.heard.errors(mark)) or str(problem)
            raise BackendError(f"TensorRT {trt.__version__} does not start: {lines}. It may need a newer NVIDIA driver than this one.") from problem
        except BaseException:
            self._release()
            raise

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for the calls that run, and holds off others. One thread at a time collects the streams: two would wait for each other's."""
        with self._closing:
            held: list[int] = []
            try:
                for _ in self._own:
                    held.append(self.free.get())
                yield
            finally:
                for stream in held:
                    self.free.put(stream)

    def identity(self) -> dict[str, object]:
        """All that an engine is bound to: TensorRT of all its parts, driver, chip, memory, and on a Jetson the release of L4T."""
        board, cuda = _jetson.board(), self.cuda
        return {
            "library": self.trt.__name__,
            "version": str(self.trt.__version__),
            "driver": cuda.driver_version,
            "l4t": board.l4t if board is not None else "none",
            "machine": f"{platform.system()} {platform.machine()}",
            "compute_capability": ".".join(map(str, cuda.compute_capability)),
            "device": cuda.name,
            "multiprocessors": cuda.multiprocessors,
            "memory": cuda.memory,
        }

    def check(self, recipe: EngineRecipe) -> None:
        """Refuses a recipe that is not for this device.

        Raises:
            BackendError: with what differs.
        """
        chip = ".".join(map(str, self.cuda.compute_capability))
        if recipe.compute_capability and chip not in recipe.compute_capability:
            wanted = ", ".join(recipe.compute_capability)
            raise BackendError(
                f"The bundle is for compute capability {wanted}, this device ({self.cuda.name}) has {chip}. Build it for a target of this device, e.g. gpu."
            )
        if not is_rtx(self.trt) and version_of(self.trt) < version(recipe.minimum):
            board = _jetson.board()
            raise BackendError(
                f"The bundle needs TensorRT {recipe.minimum} or newer, here is {self.trt.__version__}. {_jetson.advice(self.trt.__version__, board)}"
            )

    def compile(self, graph: Path, signature: Signature, recipe: EngineRecipe, timing_cache: bytes, progress: Progress) -> Built:
        """Makes an engine of a graph for this device; takes from seconds to minutes.

        Raises:
            BackendError: when the recipe is not for this device, or TensorRT refuses the graph, with its own lines.
        """
        self.check(recipe)
        self.cuda.enter()
        return build(self.trt, graph, signature, recipe, memory=self.cuda.memory, timing_cache=timing_cache, chips=(), progress=progress)

    def load(self, source: Path | bytes | bytearray | memoryview, signature: Signature, shapes: tuple[int, ...] = ()) -> TensorRtEngine:
        """Loads an engine.

        Args:
            source: the serialized engine. It is native code: the caller answers for where it came from.
            signature: its inputs and outputs.
            shapes: not offered; optimization profiles take their place.

        Raises:
            EngineMismatchError: when it was made by another version or for another chip, or is damaged.
            BackendError: for shapes, or when memory does not suffice or CUDA fails.
        """
        if shapes:
            raise BackendError(f"TensorRT has optimization profiles and no static shapes, {list(shapes)} were asked for. Give none.")
        self.cuda.enter()
        mark = self.heard.mark()
        engine = self._runtime.deserialize_cuda_engine(source.read_bytes() if isinstance(source, Path) else source)
        if engine is None:
            lines = "; ".join(self.heard.errors(mark)) or "it gave no reason"
            if any(words in lines.lower() for words in _OF_THE_DEVICE):
                raise BackendError(f"TensorRT {self.trt.__version__} could not load the engine: {lines}. {remedy(lines)}")
            raise EngineMismatchError(f"TensorRT {self.trt.__version__} does not load the engine: {lines}. Make it again here: edgekit compile BUNDLE")
        made = TensorRtEngine(self, engine, signature)
        with self._lock:
            self._engines.append(made)
        return made

    def forget(self, engine: TensorRtEngine) -> None:
        """Called by an engine that is closed."""
        with self._lock:
            if engine in self._engines:
                self._engines.remove(engine)

    def buffer(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Buffer:
        """Memory on the device for one tensor; used again when the last reference to it goes.

        Sizes are powers of two, so that tensors that grow call by call (a state) need no memory for each of their sizes.
        """
        size = 1 << max(8, (int(np.prod(shape, dtype=np.int64)) * dtype.itemsize - 1).bit_length())
        with self._lock:
            spare = self._spare.get(size)
            address = spare.pop() if spare else self.cuda.allocate(size)
            self._buffers.add(address)
        return Buffer(self, address, size, dtype, shape)

    def take_back(self, address: int, size: int) -> None:
        """Keeps the memory of a buffer that nobody refers to any more, for the next of its size: allocating waits for the device."""
        with self._lock:
            if not self.closed:
                self._spare.setdefault(size, []).append(address)

    def close(self) -> None:
        """Frees everything on the device, buffers that are still referred to as well; a second call does nothing."""
        for engine in list(self._engines):
            engine.close()
        with self.alone():
            if not self.closed:
                self._release()

    def _release(self) -> None:
        with self._lock:
            self.closed = True
        try:
            try:
                self.cuda.enter()
                for address in self._buffers:
                    self.cuda.free(address)
                for stream in self._own:
                    self.cuda.destroy_stream(stream)
            finally:
                self._runtime = None
                self.cuda.close()
        except BackendError as problem:  # the GPU failed, which a call has told; nothing can be freed any more
            _log.warning("What is on the GPU goes with the process: %s", str(problem))
