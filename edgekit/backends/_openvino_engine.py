"""An OpenVINO engine: it answers at once, and from one model with all static shapes once that is compiled.

Which kernels answer a call until then depends on the graph (``when`` of :func:`edgekit.backends.load_graph`): dynamic
shapes where they answer as static ones do (``later``), else the body of the call's own shape, which is compiled at its
first use and gives the same bits as in the whole model (``use``). A body takes as long to compile as dynamic shapes, so
a process answers its first call equally soon in both ways.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import Feeds, GraphBytes, When
from edgekit.backends._openvino_alone import AloneBodies
from edgekit.backends._openvino_buckets import ANY_SHAPE, check_shapes
from edgekit.backends._openvino_late import LateCompile
from edgekit.backends._openvino_requests import Requests
from edgekit.drivers.fork import ForkAware, fork_error
from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature

if TYPE_CHECKING:
    from edgekit.backends.openvino import OpenVinoDevice

__all__ = ["OpenVinoEngine"]

# Number of calls that static shapes would serve before their compilation starts. It is small, because such a call is up
# to a third slower, and larger than the number of calls of a process that answers one question and ends.
_CALLS_BEFORE_SHAPES = 16
# Number of bodies that are compiled alone before the whole is, and the largest number of them in memory. A process that
# needs this many is likely to need the others: it has spent half of what the whole costs with eight shapes.
_BODIES_BEFORE_SHAPES = 4
_PRECISIONS = {"i8": "int8", "u8": "int8", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class OpenVinoEngine(ForkAware):
    """A compiled model. Until its static shapes are compiled as a whole, models of one body each serve the calls."""

    def __init__(
        self,
        device: OpenVinoDevice,
        source: Path | GraphBytes,
        signature: Signature,
        shapes: tuple[int, ...],
        when: When,
    ) -> None:
        """Read the graph, and compile what ``when`` says; without static shapes, the graph as it is."""
        if shapes:
            check_shapes(signature, shapes)
        self._device = device
        self._source = source
        self._signature = signature
        self._shapes = shapes
        # The model is read now: a caller verifies the files after the load, and may remove them then.
        model = device.read(source)
        self._requests: Requests | None = None
        self._alone: AloneBodies | None = None
        self._late: LateCompile | None = None
        self._input_names = {name for port in model.inputs for name in port.get_names()}
        self._output_names = [spec.name for spec in signature.outputs]
        self._has_own_bodies = when == "use"
        self._static_calls = 0
        self._is_whole = False
        self._has_warned = False
        super().__init__()
        if not shapes:
            self._requests = Requests(device.compile(source, model))
            self._run_example(self._requests, self._dynamic_length())
            return
        if when == "load":
            self._compile_whole(model)
            return
        self._alone = AloneBodies(lambda length: self._compile_alone(model, length), _BODIES_BEFORE_SHAPES)
        self._late = LateCompile(lambda: self._compile_whole(model), shapes)
        if when == "later":
            self._alone.requests(ANY_SHAPE)

    @property
    def ready_shapes(self) -> tuple[int, ...]:
        """Sequence lengths whose static shapes are compiled, ascending."""
        alone = self._alone
        if self._is_whole:
            return self._shapes
        lengths = () if alone is None else alone.lengths
        return tuple(length for length in lengths if length != ANY_SHAPE)

    def warm_up(self) -> None:
        """Compile the static shapes if they are not compiled, and wait for the end. All later calls are equally fast.

        Raises:
            BackendError: The compilation failed, or this process is a forked child.
        """
        self._check_process()
        if self._late is not None:
            self._late.wait()

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Run the graph once, on a request that no other thread uses.

        Device memory is host memory: outputs in ``keep`` are arrays like all others. The compilation of all static
        shapes starts in the background, with the 16th call that they would serve or with the fourth body that is
        compiled alone, so that a process of a few calls does not pay for it.

        Args:
            feeds: Arrays by input name.
            keep: Names of outputs that stay on the device.

        Raises:
            BackendError: OpenVINO failed, or this process is a forked child.

        Warns:
            UserWarning: Once, if the static shapes could not be compiled as a whole. The calls go on as before.
        """
        self._check_process()
        inputs = {name: array for name, array in feeds.items() if name in self._input_names}
        # The whole model takes the place of the bodies in this order, so one of both is there.
        alone = self._alone
        requests = self._requests
        if requests is None:
            assert alone is not None, "the engine is closed"
            requests = self._find_body(alone, inputs)
        try:
            return requests.infer(inputs, self._output_names)
        except RuntimeError as problem:
            raise BackendError(f"OpenVINO could not run the graph: {problem}", code="graph-run-failed") from problem

    def precisions(self) -> list[str]:
        """Return the precision of each linear layer from the execution graph of the CPU plugin.

        The execution graph of a model with static bodies shows only an ``If``. The first body is therefore compiled
        once more on its own with the same settings, which takes the time and memory of one small model.

        Raises:
            BackendError: This process is a forked child.
        """
        self._check_process()
        if self._shapes:
            body = self._device.first_body(self._device.read(self._source), self._signature, self._shapes)
            compiled = self._device.compile(self._source, body)
        else:
            assert self._requests is not None, "the engine is closed"
            compiled = self._requests.compiled
        precisions = []
        for node in compiled.get_runtime_model().get_ops():
            info = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
            if info.get("layerType") == "FullyConnected":
                # The kernel name ends in the precision of the product. "runtimePrecision" is i8 also where only the
                # stored weights are INT8.
                kernel = info.get("primitiveType", "").rpartition("_")[2].lower()
                precisions.append(_PRECISIONS.get(kernel) or _PRECISIONS.get(info["runtimePrecision"], "other"))
        return precisions

    def close(self) -> None:
        """Free the requests and the compiled model. It waits for a compilation that is running.

        A forked child does nothing: freeing would wait for threads of the parent.
        """
        if self.inherited:
            return
        if self._late is not None:
            self._late.cancel()
        self._alone = None
        self._requests = None

    def _find_body(self, alone: AloneBodies, inputs: Feeds) -> Requests:
        """Return the body that serves a call before the whole model does. Count the call, and start the compilation."""
        assert self._late is not None
        # All inputs vary along batch and sequence, and agree in size.
        sizes: dict[str | int, int] = {}
        for spec in self._signature.inputs:
            if spec.name in inputs:
                sizes.update(zip(spec.shape, inputs[spec.name].shape, strict=False))
        length = ANY_SHAPE
        if sizes.get("batch") == 1 and sizes.get("sequence") in self._shapes:
            length = sizes["sequence"]
            self._static_calls += 1
        requests = alone.requests(length if self._has_own_bodies else ANY_SHAPE)
        if self._static_calls >= _CALLS_BEFORE_SHAPES or len(alone.lengths) >= _BODIES_BEFORE_SHAPES:
            self._late.start()
        error = self._late.error
        if error is not None and not self._has_warned:
            self._has_warned = True
            alone.keep_all()
            warnings.warn(str(error), UserWarning, stacklevel=3)
        return requests

    def _compile_alone(self, model: Any, length: int) -> Requests:
        """Compile one body by itself.

        Args:
            model: Graph as it was read at load.
            length: Length of a static body, or :data:`ANY_SHAPE`.
        """
        body = self._device.alone_body(self._source, model, self._signature, length)
        requests = Requests(self._device.compile(self._source, body))
        if length == ANY_SHAPE:
            self._run_example(requests, self._dynamic_length())
        return requests

    def _compile_whole(self, model: Any) -> None:
        """Compile all bodies as one model, run each once, and let it serve all calls from now on.

        Args:
            model: Graph as it was read at load.
        """
        whole = self._device.add_bodies(model, self._signature, self._shapes)
        requests = Requests(self._device.compile(self._source, whole))
        # The first call of a body allocates its memory: no call of a user should pay for it.
        for length in (self._dynamic_length(), *self._shapes):
            self._run_example(requests, length)
        # A call that runs meanwhile keeps the earlier model until it ends.
        self._requests = requests
        self._is_whole = True
        self._alone = None

    def _dynamic_length(self) -> int:
        """Return the shortest length of 2 and more that no static body has, so that the dynamic body runs it."""
        return next(number for number in itertools.count(2) if number not in self._shapes)

    def _run_example(self, requests: Requests, length: int) -> None:
        """Run a row of zeros, which are valid tokens. The output is discarded.

        The first call of a compiled model must not have exactly one key: unmasked attention would be wrong in all later
        calls with 16 or more keys (OpenVINO 2026.4, CPU, any precision, also in new requests). The dynamic body has
        this fault.
        """
        feeds = {}
        for spec in self._signature.inputs:
            if spec.name in self._input_names:
                shape = [_example_size(axis, length) for axis in spec.shape]
                feeds[spec.name] = np.zeros(shape, spec.dtype)
        requests.infer(feeds, self._output_names)

    def _check_process(self) -> None:
        """Raise in a forked child."""
        if self.inherited:
            raise fork_error("This bundle was loaded on OpenVINO", self.process)


def _example_size(axis: str | int, length: int) -> int:
    """Return the size of an axis of an example: 1 for the batch, ``length`` for every other dynamic axis."""
    if isinstance(axis, int):
        return axis
    return 1 if axis == "batch" else length
