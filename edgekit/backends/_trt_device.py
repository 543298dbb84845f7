"""A GPU with TensorRT or TensorRT-RTX: compile and load engines."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from edgekit.backends import EngineMismatchError
from edgekit.backends._trt import is_rtx, remedy, version_of
from edgekit.backends._trt_build import Built, Hardware, build
from edgekit.backends._trt_engine import TensorRtEngine
from edgekit.backends._trt_gpu import Gpu
from edgekit.drivers import jetson
from edgekit.drivers.cuda import Cuda, probe
from edgekit.spec.engine import EngineRecipe, version
from edgekit.spec.errors import BackendError
from edgekit.spec.progress import Progress
from edgekit.spec.tensor import Signature

# Parts of messages about a failed CUDA call. If loading an engine fails with one of these, the engine may be valid.
_DEVICE_FAILURES = ("cuda runtime", "cuda driver", "out of memory", "could not be allocated", "target gpu sm")


def check_driver(backend_title: str) -> None:
    """Raise if CUDA does not work. Call it before importing TensorRT, which can crash the process without a driver.

    Args:
        backend_title: Name of the backend for the message, e.g. ``TensorRT``.

    Raises:
        BackendError: CUDA does not work; the message has the reason and a remedy.
    """
    problem = probe()
    if problem is not None:
        raise BackendError(f"{backend_title} needs an NVIDIA GPU with its driver. {problem}", code="gpu-missing")


class TensorRtDevice(Gpu):
    """The first GPU and the engines that are loaded on it."""

    def __init__(self, trt: Any, streams: int, cuda: Cuda | None = None) -> None:
        """Open the GPU; see :class:`Gpu` for the arguments."""
        super().__init__(trt, streams, cuda)
        self._engines: list[TensorRtEngine] = []

    def identity(self) -> dict[str, object]:
        """Return everything that an engine depends on: TensorRT, driver, chip, memory, and the L4T of a Jetson."""
        board = jetson.board()
        cuda = self.cuda
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
        """Raise if a recipe is not for this device.

        Raises:
            BackendError: The device differs from the recipe; the message says how.
        """
        chip = ".".join(map(str, self.cuda.compute_capability))
        if recipe.compute_capability and chip not in recipe.compute_capability:
            supported_chips = ", ".join(recipe.compute_capability)
            raise BackendError(
                f"The bundle is for compute capability {supported_chips}, but this device ({self.cuda.name}) "
                f"has {chip}. "
                "Build the bundle for a target of this device, e.g. gpu.",
                code="engine-compute-capability",
            )
        if not is_rtx(self.trt) and version_of(self.trt) < version(recipe.minimum):
            board = jetson.board()
            raise BackendError(
                f"The bundle needs TensorRT {recipe.minimum} or newer; {self.trt.__version__} is installed. "
                f"{jetson.advice(self.trt.__version__, board)}",
                code="tensorrt-too-old",
            )

    def compile(
        self, graph: Path, signature: Signature, recipe: EngineRecipe, timing_cache: bytes, progress: Progress
    ) -> Built:
        """Compile a graph to an engine for this device, which takes seconds to minutes.

        Args:
            graph: Path of an ONNX file with its external data beside it.
            signature: Inputs of the graph.
            recipe: Profiles and settings.
            timing_cache: Timing cache of an earlier build on this device, or empty.
            progress: Progress callback.

        Raises:
            BackendError: The recipe is not for this device, or TensorRT refuses the graph.
        """
        self.check(recipe)
        self.cuda.enter()
        return build(
            self.trt,
            graph,
            signature,
            recipe,
            hardware=Hardware(self.cuda.memory),
            timing_cache=timing_cache,
            progress=progress,
        )

    def load(
        self, source: Path | bytes | bytearray | memoryview, signature: Signature, shapes: tuple[int, ...] = ()
    ) -> TensorRtEngine:
        """Load an engine.

        Args:
            source: Serialized engine. It is native code; the caller must have verified its origin.
            signature: Inputs and outputs of the graph.
            shapes: Unsupported (engines have optimization profiles); must be empty.

        Raises:
            EngineMismatchError: The engine was built by another version or for another chip, or it is damaged.
            BackendError: ``shapes`` is not empty, there is not enough memory, or CUDA failed.
        """
        if shapes:
            raise BackendError(
                f"TensorRT uses optimization profiles instead of static shapes, but {list(shapes)} were passed. "
                "Pass none.",
                code="shapes-unsupported",
            )
        self.cuda.enter()
        mark = self.messages.mark()
        engine = self._runtime.deserialize_cuda_engine(source.read_bytes() if isinstance(source, Path) else source)
        if engine is None:
            lines = "; ".join(self.messages.errors(mark)) or "no reason reported"
            if any(words in lines.lower() for words in _DEVICE_FAILURES):
                raise BackendError(
                    f"TensorRT {self.trt.__version__} could not load the engine: {lines}. {remedy(lines)}",
                    code="engine-load-failed",
                )
            raise EngineMismatchError(
                f"TensorRT {self.trt.__version__} cannot load the engine: {lines}. "
                "Rebuild it on this device: edgekit compile BUNDLE",
                code="engine-mismatch",
            )
        loaded = TensorRtEngine(self, engine, signature)
        with self._lock:
            self._engines = [other for other in self._engines if not other.closed]
            self._engines.append(loaded)
        return loaded

    def close(self) -> None:
        """Free everything on the device, including buffers that are still referenced; a second call does nothing."""
        for engine in list(self._engines):
            engine.close()
        with self.alone():
            if not self.closed:
                self._release()
