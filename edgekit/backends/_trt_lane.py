"""A lane: the memory, contexts and CUDA graphs that the calls on one stream use, one call at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.backends._trt_tensors import Shapes
from edgekit.drivers.cuda import Cuda, view


@dataclass
class Port:
    """Memory of one input or output.

    Attributes:
        host: Host address of the pinned memory.
        device: Device address of the tensor.
        memory: Pinned host memory as bytes.
    """

    host: int
    device: int
    memory: np.ndarray


@dataclass
class CapturedGraph:
    """A CUDA graph for one set of input shapes, with the context that it depends on.

    Attributes:
        graph: Handle of the executable CUDA graph.
        context: Execution context of TensorRT.
        inputs: Pinned arrays to fill before a launch, in the order of the inputs.
        outputs: Pinned arrays to read after a launch, by output name.
    """

    graph: int
    context: Any
    inputs: list[np.ndarray]
    outputs: dict[str, np.ndarray]


class Lane:
    """Resources of one stream of an engine.

    Attributes:
        stream: CUDA stream.
        scratch: Device address of the scratch memory that all contexts share.
        ports: Memory of each input and output, by name.
        contexts: Execution context by profile index.
        shapes: Current input shapes of each context, by profile index.
        graphs: CUDA graphs by input shapes, the least recently used first.
        seen: Number of enqueued calls by input shapes, the least recently used first.
    """

    def __init__(self, cuda: Cuda, stream: int, types: Mapping[str, np.dtype[Any]]) -> None:
        """Create an empty lane; :meth:`allocate` adds its memory.

        Args:
            cuda: CUDA driver.
            stream: CUDA stream.
            types: numpy type by tensor name.
        """
        self.stream = stream
        self.scratch = 0
        self.ports: dict[str, Port] = {}
        self.contexts: dict[int, Any] = {}
        self.shapes: dict[int, Shapes] = {}
        self.graphs: OrderedDict[Shapes, CapturedGraph] = OrderedDict()
        self.seen: OrderedDict[Shapes, int] = OrderedDict()
        self._cuda = cuda
        self._types = types

    def allocate(self, scratch_size: int, sizes: Mapping[str, int]) -> None:
        """Allocate scratch memory and the memory of all inputs and outputs.

        Args:
            scratch_size: Size of the scratch memory, bytes.
            sizes: Size of each tensor in bytes, by name.

        Raises:
            BackendError: Not enough memory. Nothing stays allocated.
        """
        try:
            self.scratch = self._cuda.allocate(scratch_size)
            for name, size in sizes.items():
                host, device = self._cuda.allocate_host(size, mapped=self._cuda.integrated)
                port = Port(host, device, view(host, np.uint8, (size,)))
                self.ports[name] = port
                if not self._cuda.integrated:
                    port.device = self._cuda.allocate(size)
        except BaseException:
            self.free()
            raise

    def free(self) -> None:
        """Free contexts, graphs and memory."""
        for captured in self.graphs.values():
            self._cuda.destroy_graph(captured.graph)
        self.graphs.clear()
        self.contexts.clear()  # Contexts compute in the memory that is freed next.
        for port in self.ports.values():
            if port.device and not self._cuda.integrated:
                self._cuda.free(port.device)
            self._cuda.free_host(port.host)
        if self.scratch:
            self._cuda.free(self.scratch)

    def view(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return the pinned memory of a tensor as an array."""
        return np.asarray(np.ndarray(shape, self._types[name], self.ports[name].memory))

    def send(self, name: str, size: int) -> None:
        """Queue the copy of an input from pinned memory to the device. On an integrated GPU they are the same memory.

        Args:
            name: Name of the input.
            size: Number of bytes.
        """
        port = self.ports[name]
        if not self._cuda.integrated:
            self._cuda.to_device(port.device, port.host, size, self.stream)

    def fetch(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Queue the copy of an output to pinned memory.

        Args:
            name: Name of the output.
            shape: Shape of the output.

        Returns:
            Array that contains the output once the stream is synchronized.
        """
        port = self.ports[name]
        array = self.view(name, shape)
        if not self._cuda.integrated:
            self._cuda.to_host(port.host, port.device, array.nbytes, self.stream)
        return array
