"""Checks of an ONNX file that is to be built: what could turn it into another model is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.spec.errors import ModelError
from edgekit.spec.tensor import Signature, TensorSpec

__all__ = [
    "NEWEST_OPSET",
    "OLDEST_OPSET",
    "OnnxGraph",
    "check_scores",
    "check_signature",
    "embedding_rows",
    "external_files",
    "match_inputs",
    "open_graph",
    "output_name",
]

OLDEST_OPSET = 11
NEWEST_OPSET = 20
"""The opset of EdgeKit's own graphs; an older graph is converted to it, a newer one cannot be converted back."""

_LARGEST = 2**31  # bytes of a protobuf file
_QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
)
_DOMAINS = ("", "ai.onnx")


class OnnxGraph(NamedTuple):
    """A file that was opened.

    Attributes:
        path: ONNX file.
        model: Content; large tensors may lie in other files.
    """

    path: Path
    model: ir.Model


def open_graph(path: Path) -> OnnxGraph:
    """Open an ONNX file and check what does not depend on the task.

    Raises:
        ModelError: If the file is not an ONNX graph, its opset or operators are not supported, it is quantized, or
            external data is missing.
    """
    if path.stat().st_size >= _LARGEST:
        raise ModelError(
            f"{path.name} is larger than 2 GiB, which no ONNX file can be. Save it with external data.",
            code="onnx-invalid",
        )
    try:
        model = ir.load(path)
        nodes = list(_all_nodes(model))
    except Exception as problem:  # protobuf and onnx_ir raise of every kind
        raise ModelError(
            f"{path.name} is not a readable ONNX file ({type(problem).__name__}). Export the model again.",
            code="onnx-invalid",
        ) from problem
    if not nodes or not model.graph.outputs:
        raise ModelError(
            f"{path.name} is not an ONNX graph: it has {len(nodes)} nodes and {len(model.graph.outputs)} outputs. "
            "Export the model again.",
            code="onnx-invalid",
        )
    graph = OnnxGraph(path, model)
    _check_operators(graph, nodes)
    _check_opset(graph)
    external_files(graph)
    _check_weights(graph)
    return graph


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _check_operators(graph: OnnxGraph, nodes: Sequence[ir.Node]) -> None:
    quantized = sorted({node.op_type for node in nodes if node.op_type in _QUANTIZED})
    if quantized:
        raise ModelError(
            f"{graph.path.name} is quantized already ({', '.join(quantized)}), "
            "and EdgeKit quantizes with calibration itself. Give the float32 graph.",
            code="onnx-quantized",
        )
    functions = {(function.domain, function.name) for function in graph.model.functions.values()}
    custom = sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in nodes
            if node.domain not in _DOMAINS and (node.domain, node.op_type) not in functions
        }
    )
    if custom:
        raise ModelError(
            f"{graph.path.name} has operators outside the ONNX standard: {', '.join(custom)}. "
            "Give the graph as it was exported, before an optimizer fused it for one runtime.",
            code="onnx-custom-operator",
        )


def _check_opset(graph: OnnxGraph) -> None:
    opset = graph.model.opset_imports.get("", graph.model.opset_imports.get("ai.onnx", 0))
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"{graph.path.name} has opset {opset}, expected {OLDEST_OPSET} to {NEWEST_OPSET}. "
            "Export the model again with opset_version=18.",
            code="onnx-opset",
            opset=opset,
        )


def _tensors(model: ir.Model) -> Iterator[tuple[str, Any]]:
    """Yield name and tensor of everything that is stored, in attributes and in subgraphs too."""
    for part in model.graphs():
        for name, value in part.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
    for node in _all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR:
                yield node.name or node.op_type, attribute.value
            elif attribute.type == ir.AttributeType.TENSORS:
                yield from ((node.name or node.op_type, tensor) for tensor in attribute.value)


def external_files(graph: OnnxGraph) -> list[Path]:
    """Return the files of the external data, each once, in alphabetical order.

    Raises:
        ModelError: If a file is outside the folder of the graph, does not exist, or is shorter than a tensor in it.
    """
    root = graph.path.resolve().parent
    files: set[Path] = set()
    for name, tensor in _tensors(graph.model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = Path(tensor.location)
        file = (root / location).resolve()
        if location.is_absolute() or ".." in location.parts or not file.is_relative_to(root):
            raise ModelError(
                f"{graph.path.name} keeps the tensor '{name}' at {str(location)!r}, outside its folder, "
                "where nothing is read. Save the model again with its data beside it.",
                code="onnx-external-outside",
                tensor=name,
            )
        end = (tensor.offset or 0) + max(tensor.length or 0, tensor.nbytes)
        if not file.is_file() or file.stat().st_size < end:
            what = "is missing" if not file.is_file() else f"has {file.stat().st_size} bytes, expected at least {end}"
            raise ModelError(
                f"The external data of {graph.path.name}, {str(location)!r}, {what}. Copy the file beside the graph.",
                code="onnx-external-missing",
                tensor=name,
            )
        files.add(file)
    return sorted(files)


def _check_weights(graph: OnnxGraph) -> None:
    for name, tensor in _tensors(graph.model):
        if tensor.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) and tensor.shape.numpy():
            raise ModelError(
                f"{graph.path.name} has weights in {tensor.dtype.name.lower()} ('{name}'), expected float32. "
                "Export the model in float32.",
                code="onnx-precision",
                tensor=name,
            )
        if tensor.dtype == ir.DataType.FLOAT and np.isnan(tensor.numpy()).any():
            raise ModelError(
                f"The weight '{name}' of {graph.path.name} holds NaN. Take an earlier checkpoint, and export it again.",
                code="weights-not-finite",
                tensor=name,
            )


# ---- against the task


def match_inputs(graph: OnnxGraph, processor: Any) -> None:
    """Have a tokenizer make only the arrays that the graph takes, e.g. no token types for DistilBERT."""
    names = getattr(processor, "model_input_names", None)
    if names and hasattr(processor, "backend_tokenizer"):
        inputs = {value.name for value in graph.model.graph.inputs}
        processor.model_input_names = [name for name in names if name in inputs or name == "attention_mask"]


def embedding_rows(graph: OnnxGraph) -> dict[str, int]:
    """Return input name to the rows of the table that its ids are looked up in, where the graph shows it."""
    rows = {}
    for value in graph.model.graph.inputs:
        for use in value.uses():
            node = use.node
            table = node.inputs[0] if node.op_type == "Gather" and use.idx == 1 else None
            is_table = table is not None and table.const_value is not None and len(table.const_value.shape) == 2
            if (
                is_table
                and table is not None
                and table.const_value is not None
                and node.attributes.get_int("axis", 0) == 0
            ):
                rows[str(value.name)] = int(table.const_value.shape.numpy()[0])
    return rows


def check_signature(graph: OnnxGraph, signature: Signature) -> str:
    """Compare the graph with what the task expects.

    Args:
        graph: Graph of the file.
        signature: Inputs and outputs that the task expects.

    Returns:
        The name of the output with the scores of the labels.

    Raises:
        ModelError: If names, dtypes, ranks or sizes differ, or an axis that varies is fixed.
    """
    stored = set(graph.model.graph.initializers)
    inputs = {str(value.name): value for value in graph.model.graph.inputs if value.name not in stored}
    expected = [spec.name for spec in signature.inputs]
    if sorted(inputs) != sorted(expected):
        raise ModelError(
            f"{graph.path.name} takes the inputs {', '.join(sorted(inputs))}, "
            f"and the processor makes {', '.join(sorted(expected))}. "
            "Export the graph with the names of the processor's arrays, or give the processor that belongs to it.",
            code="onnx-inputs",
        )
    for spec in signature.inputs:
        _check_value(graph, inputs[spec.name], spec, "input")
    name = output_name(graph, signature)
    output = next(value for value in graph.model.graph.outputs if value.name == name)
    scores = signature.outputs[0]
    shape = _shape(output)
    if shape is not None and isinstance(shape[-1], int) and len(shape) == len(scores.shape):
        _check_labels(graph.path, scores, shape[-1])
    _check_value(graph, output, scores, "output")
    return name


def output_name(graph: OnnxGraph, signature: Signature) -> str:
    """Return the name of the output with the scores of the labels.

    It is the only output, or the one with the name that the task expects.

    Raises:
        ModelError: If there are several outputs and none has that name.
    """
    names = [str(value.name) for value in graph.model.graph.outputs]
    expected = signature.outputs[0].name
    if len(names) > 1 and expected not in names:
        raise ModelError(
            f"{graph.path.name} has the outputs {', '.join(names)}, "
            f"expected one, or one that is called '{expected}'. Export that output alone.",
            code="onnx-outputs",
        )
    return expected if expected in names else names[0]


def _shape(value: ir.Value) -> tuple[int | str | None, ...] | None:
    if value.shape is None:
        return None
    axes: list[int | str | None] = []
    for axis in value.shape:
        axes.append(axis if isinstance(axis, int) else axis.value)
    return tuple(axes)


def _check_value(graph: OnnxGraph, value: ir.Value, spec: TensorSpec, role: str) -> None:
    dtype = "unknown" if value.dtype is None else value.dtype.numpy().name
    if dtype != spec.dtype:
        raise ModelError(
            f"The {role} '{value.name}' of {graph.path.name} is {dtype}, expected {spec.dtype}. "
            "Export the graph with that type.",
            code="onnx-dtype",
            role=role,
            name=str(value.name),
        )
    shape = _shape(value)
    if shape is None:
        if role == "output":
            return  # check_scores() checks the shape of the computed output
        shape = ()
    expected = f"[{', '.join(map(str, spec.shape))}]"
    if len(shape) != len(spec.shape):
        raise ModelError(
            f"The {role} '{value.name}' of {graph.path.name} has {len(shape)} axes, expected {expected}. "
            "Export the graph with that shape.",
            code="onnx-shape",
            role=role,
            name=str(value.name),
        )
    for axis, size in zip(shape, spec.shape, strict=True):
        if isinstance(axis, int) and isinstance(size, str):
            raise ModelError(
                f"The axis '{size}' of the {role} '{value.name}' of {graph.path.name} is fixed at {axis}, "
                "and rows vary in it. Export the graph with dynamic axes for batch and sequence.",
                code="onnx-fixed-axis",
                name=str(value.name),
                axis=size,
            )
        if isinstance(axis, int) and isinstance(size, int) and axis != size:
            raise ModelError(
                f"The {role} '{value.name}' of {graph.path.name} has the shape {list(shape)}, "
                f"expected {expected}. Correct the config, or export again.",
                code="onnx-shape",
                role=role,
                name=str(value.name),
            )


def check_scores(file: Path, signature: Signature, shape: Sequence[int], dtype: str) -> None:
    """Compare computed outputs with what the task expects, where the graph does not state their shape.

    Raises:
        ModelError: If dtype, rank or number of labels differ.
    """
    scores = signature.outputs[0]
    if dtype != scores.dtype or len(shape) != len(scores.shape):
        expected = f"{scores.dtype} [{', '.join(map(str, scores.shape))}]"
        raise ModelError(
            f"The output of {file.name} is {dtype} {list(shape)}, expected {expected}. Export that output alone.",
            code="onnx-output-shape",
        )
    _check_labels(file, scores, shape[-1])


def _check_labels(file: Path, scores: TensorSpec, count: int) -> None:
    if count != scores.shape[-1]:
        raise ModelError(
            f"{file.name} has {count} outputs, and config.json names {scores.shape[-1]} labels. "
            "Give the folder that belongs to the graph.",
            code="onnx-labels",
            outputs=count,
            labels=int(scores.shape[-1]),
        )
