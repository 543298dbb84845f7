"""A GPU with TensorRT or TensorRT-RTX: it makes engines and loads them."""

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

# A plan that is refused says so; where these are in its lines, a CUDA call failed, and the plan may be a good one.
_OF_THE_DEVICE = ("cuda runtime", "cuda driver", "out of memory", "could not be allocated", "target gpu sm")


def check_driver(who: str) -> None:
    """Refuses where CUDA does not work, before anything of TensorRT is imported: without a driver it can crash the process.

    Raises:
        BackendError: with why, and what to do.
    """
    problem = probe()
    if problem is not None:
        raise BackendError(f"{who} needs an NVIDIA GPU with its driver. {problem}", code="gpu-missing")


class TensorRtDevice(Gpu):
    """The first GPU, with the engines that are loaded on it."""

    def __init__(self, trt: Any, streams: int, cuda: Cuda | None = None) -> None:
        """Opens it, see :class:`Gpu`."""
        super().__init__(trt, streams, cuda)
        self._engines: list[TensorRtEngine] = []

    def identity(self) -> dict[str, object]:
        """All that an engine is bound to: TensorRT of all its parts, driver, chip, memory, and on a Jetson the release of L4T."""
        board, cuda = jetson.board(), self.cuda
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
                f"The bundle is for compute capability {wanted}, this device ({self.cuda.name}) has {chip}. Build it for a target of this device, e.g. gpu.",
                code="engine-compute-capability",
            )
        if not is_rtx(self.trt) and version_of(self.trt) < version(recipe.minimum):
            board = jetson.board()
            raise BackendError(
                f"The bundle needs TensorRT {recipe.minimum} or newer, here is {self.trt.__version__}. {jetson.advice(self.trt.__version__, board)}",
                code="tensorrt-too-old",
            )

    def compile(
        self, graph: Path, signature: Signature, recipe: EngineRecipe, timing_cache: bytes, progress: Progress
    ) -> Built:
        """Makes an engine of a graph for this device; takes from seconds to minutes.

        Raises:
            BackendError: when the recipe is not for this device, or TensorRT refuses the graph, with its own lines.
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
            raise BackendError(
                f"TensorRT has optimization profiles and no static shapes, {list(shapes)} were asked for. Give none.",
                code="shapes-unsupported",
            )
        self.cuda.enter()
        mark = self.heard.mark()
        engine = self._runtime.deserialize_cuda_engine(source.read_bytes() if isinstance(source, Path) else source)
        if engine is None:
            lines = "; ".join(self.heard.errors(mark)) or "it gave no reason"
            if any(words in lines.lower() for words in _OF_THE_DEVICE):
                raise BackendError(
                    f"TensorRT {self.trt.__version__} could not load the engine: {lines}. {remedy(lines)}",
                    code="engine-load-failed",
                )
            raise EngineMismatchError(
                f"TensorRT {self.trt.__version__} does not load the engine: {lines}. Make it again here: edgekit compile BUNDLE",
                code="engine-mismatch",
            )
        made = TensorRtEngine(self, engine, signature)
        with self._lock:
            self._engines = [*(other for other in self._engines if not other.closed), made]
        return made

    def close(self) -> None:
        """Frees everything on the device, buffers that are still referred to as well; a second call does nothing."""
        for engine in list(self._engines):
            engine.close()
        with self.alone():
            if not self.closed:
                self._release()
