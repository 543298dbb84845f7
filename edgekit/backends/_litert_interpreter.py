"""One interpreter of LiteRT on one graph: names, types and shapes of its inputs, and calls.

A call with other shapes than the previous one resizes the inputs. The packed weights stay as they are. What a change of
shape costs is XNNPACK's reshape of every operator and, where the row is longer than the previous one, a new plan of its
memory (LiteRT 2.3.0: a BATCH_MATMUL needs a workspace, whose growth discards the plan).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature

__all__ = ["LINEAR", "Interpreted", "executed_precisions", "open_interpreter"]

LINEAR = ("FULLY_CONNECTED", "CONV_2D")
"""Operators that multiply by a weight, as LiteRT names them."""

_DELEGATE = "DELEGATE"
_NOT_DELEGATED = "interpreted"
_RECORDED_NAMES = ("int8", "float32", "float16")


@dataclass(frozen=True)
class _Input:
    """An input of the graph.

    Attributes:
        index: Index of the tensor in the interpreter.
        dtype: Element type in the file.
        is_single: True if the graph takes one row a call where the signature has an axis of any size.
    """

    index: int
    dtype: np.dtype[Any]
    is_single: bool


def open_interpreter(library: Any, model: Path | bytes, threads: int, **options: bool) -> Any:
    """Return an interpreter with allocated tensors.

    Args:
        library: Module ``ai_edge_litert.interpreter``.
        model: Path of the graph, whose file is mapped, or its content, which stays in memory.
        threads: Number of threads of a call.
        options: Further options of the interpreter.

    Raises:
        ValueError, RuntimeError: LiteRT refuses the graph.
    """
    place: dict[str, object] = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
    interpreter = library.Interpreter(**place, num_threads=threads, **options)
    interpreter.allocate_tensors()
    return interpreter


class Interpreted:
    """An interpreter with the inputs and outputs of a signature. One thread at a time may call it."""

    def __init__(self, interpreter: Any, signature: Signature, graph_name: str) -> None:
        """Find the tensors of the signature.

        Args:
            interpreter: Interpreter with allocated tensors.
            signature: Inputs and outputs of the graph.
            graph_name: File name of the graph, for messages.

        Raises:
            BackendError: The graph lacks the signature or one of its outputs, or has an input that the signature lacks.
        """
        self._interpreter = interpreter
        self._graph_name = graph_name
        if signature.name not in interpreter.get_signature_list():
            raise _refusal(graph_name, f"it has no signature '{signature.name}'")
        runner = interpreter.get_signature_runner(signature.name)
        inputs = runner.get_input_details()
        outputs = runner.get_output_details()
        specs = {spec.name: spec for spec in signature.inputs}
        if unknown := sorted(inputs.keys() - specs.keys()):
            raise _refusal(graph_name, f"its input '{unknown[0]}' is not in the signature '{signature.name}'")
        if missing := [spec.name for spec in signature.outputs if spec.name not in outputs]:
            raise _refusal(graph_name, f"it has no output '{missing[0]}'")
        self._inputs: dict[str, _Input] = {}
        for name, details in inputs.items():
            sizes = details["shape_signature"]
            is_single = bool(len(sizes)) and isinstance(specs[name].shape[0], str) and int(sizes[0]) == 1
            dtype = np.dtype(details["dtype"])
            self._inputs[name] = _Input(details["index"], dtype, is_single)
        self._outputs = {spec.name: outputs[spec.name]["index"] for spec in signature.outputs}
        self._is_single = any(value.is_single for value in self._inputs.values())
        self._shapes: dict[str, tuple[int, ...]] = {}

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run the graph once; once for each row if the graph takes one row a call.

        Args:
            feeds: Arrays by input name. Names that the graph does not have are ignored.

        Returns:
            Arrays by output name, which the caller owns.

        Raises:
            BackendError: An input is missing, has a value that its type in the file cannot hold, or has a shape that
                the graph does not take; or LiteRT failed.
        """
        arrays: dict[str, np.ndarray] = {}
        for name, value in self._inputs.items():
            if name not in feeds:
                raise BackendError(
                    f"{self._graph_name} needs the input '{name}', but only {', '.join(sorted(feeds))} were passed. "
                    "Pass all inputs of the signature.",
                    code="graph-input",
                )
            array = np.asarray(feeds[name])
            arrays[name] = array if array.dtype == value.dtype else self._cast(name, array)
        try:
            if self._is_single:
                return self._run_rows(arrays)
            return self._call(arrays)
        except (ValueError, RuntimeError) as problem:
            self._shapes = {}  # A failed change of shape may have changed some inputs.
            raise BackendError(f"LiteRT could not run {self._graph_name}: {problem}", code="graph-run-failed") from None

    def _run_rows(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the rows of a batch one after the other."""
        count = max(arrays[name].shape[0] for name, value in self._inputs.items() if value.is_single)
        rows: list[dict[str, np.ndarray]] = []
        for row in range(count):
            part = {}
            for name, array in arrays.items():
                part[name] = array[row : row + 1] if self._inputs[name].is_single else array
            rows.append(self._call(part))
        outputs: dict[str, np.ndarray] = {}
        for name in self._outputs:
            outputs[name] = np.concatenate([row[name] for row in rows])
        return outputs

    def _call(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        interpreter = self._interpreter
        is_resized = False
        for name, array in arrays.items():
            if self._shapes.get(name) != array.shape:
                interpreter.resize_tensor_input(self._inputs[name].index, array.shape, strict=True)
                self._shapes[name] = array.shape
                is_resized = True
        if is_resized:
            interpreter.allocate_tensors()
        for name, array in arrays.items():
            interpreter.set_tensor(self._inputs[name].index, array)
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in self._outputs.items()}

    def _cast(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return an array in the type of the file; ids are int64 for the caller and int32 in the file."""
        dtype = self._inputs[name].dtype
        if array.dtype.kind not in "iu" or dtype.kind not in "iu":
            raise BackendError(
                f"The input '{name}' of {self._graph_name} is {array.dtype}, expected {dtype}. Pass that type.",
                code="graph-input",
            )
        cast = array.astype(dtype)
        if cast.astype(array.dtype).tobytes() != array.tobytes():  # A fifth of the time of array_equal for a row.
            raise BackendError(
                f"The input '{name}' of {self._graph_name} has a value outside {dtype}. Pass smaller values.",
                code="graph-input",
            )
        return cast


def executed_precisions(interpreter: Any) -> list[str]:
    """Return the precision of each linear layer of an interpreter that delegates every operator on its own.

    A layer that XNNPACK did not take is ``interpreted``: it runs in LiteRT's own kernel, many times slower.

    Args:
        interpreter: Interpreter with the option ``experimental_disable_delegate_node_fusion``.
    """
    operators: Sequence[Mapping[str, Any]] = interpreter._get_ops_details()
    delegated: set[int] = set()
    for operator in operators:
        if operator["op_name"] == _DELEGATE:
            delegated.update(int(index) for index in operator["outputs"])
    precisions = []
    for operator in operators:
        if operator["op_name"] in LINEAR:
            is_delegated = int(operator["outputs"][0]) in delegated
            precisions.append(_weight_type(interpreter, operator) if is_delegated else _NOT_DELEGATED)
    return precisions


def _weight_type(interpreter: Any, operator: Mapping[str, Any]) -> str:
    """Return the type of an operator's weights. The interpreter names INT4 weights INT8; those in blocks have a size.

    Args:
        interpreter: Interpreter.
        operator: Linear layer among its operators.
    """
    name = np.dtype(operator["operand_types"][1]).name
    details = interpreter._get_tensor_details(int(operator["inputs"][1]), 0)
    if name == "int8" and details["quantization_parameters"]["block_size"]:
        return "int4"
    return name if name in _RECORDED_NAMES else "other"


def _refusal(graph_name: str, reason: str) -> BackendError:
    return BackendError(
        f"LiteRT cannot use {graph_name}: {reason}. Build the bundle again with this version.", code="graph-refused"
    )
