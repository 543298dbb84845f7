"""Writer of TensorFlow Lite files for the runtime LiteRT, from cleaned ONNX graphs.

A graph in float32, or of a method of the family ``dynamic_rows``, is lowered operator by operator. One graph serves
rows of all lengths: the caller resizes its inputs. No tensor becomes dynamic, so that XNNPACK takes the operators that
cost time.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir

from edgekit.quantize.graphs import discard, load
from edgekit.quantize.litert import _arithmetic, _images, _layers, _normalization, _parts, _shapes
from edgekit.quantize.litert._file import File
from edgekit.quantize.litert._fuse import fold_scales, fuse
from edgekit.quantize.litert._lowering import Lowering, narrow_type, table
from edgekit.quantize.litert._sizes import observe
from edgekit.spec.errors import QuantizeError
from edgekit.spec.graph import GraphSet
from edgekit.spec.tensor import Signature

__all__ = ["SUFFIX", "convert", "fold_scales", "write"]

SUFFIX = ".tflite"
"""End of the file names of TensorFlow Lite files."""

# They enter their functions into the table.
_LOWERINGS = (_arithmetic, _images, _layers, _normalization, _parts, _shapes)


def convert(graphs: GraphSet, out: Path, batch: int | None = None) -> GraphSet:
    """Write all graphs of a set as TensorFlow Lite files.

    Args:
        graphs: Graphs as ONNX files.
        out: Folder for the new files, which have the names of the graphs.
        batch: Number of rows of a call, see :func:`write`.

    Returns:
        The set with the paths of the new files.
    """
    converted = []
    for graph in graphs.graphs:
        path = out / graph.path.with_suffix(SUFFIX).name
        write(graph.path, graph.signature, path, batch)
        converted.append(dataclasses.replace(graph, path=path))
    return dataclasses.replace(graphs, graphs=tuple(converted))


def write(path: Path, signature: Signature, out: Path, batch: int | None = None) -> None:
    """Write a graph as a TensorFlow Lite file.

    Inputs and outputs have the names of the signature, which is also in the file, under its own name. Integers have 32
    bits. An input that the graph does not read is left out.

    Args:
        path: ONNX file: float32, with INT8 weights or tables as the methods store them.
        signature: Inputs and outputs of the graph.
        out: Path of the new file.
        batch: Number of rows of a call; None for any number. One row at a time makes every shape depend on one size
            at most, so that XNNPACK takes the whole graph behind the look-ups; else changes of shape run outside of it.

    Raises:
        QuantizeError: An operator, a form of it or a type is unknown, the graph does not run with few tokens, or the
            file would exceed 2 GiB.
        BackendError: ``ai-edge-litert`` is not installed.
    """
    model = load(path)
    observed = observe(model, signature, batch)
    fuse(model, observed)
    needed = _needed(model.graph)
    file = File()
    inputs = {}
    for value in model.graph.inputs:
        if value in needed:
            sizes = [size.number for size in observed.shape(value)]
            inputs[value] = file.tensor(sizes, narrow_type(observed.dtype(value)), value.name or "")
    graph = Lowering(file, observed, inputs)
    for node in model.graph:
        if not any(value in needed for value in node.outputs) or graph.is_known(node):
            continue
        lower = table.functions.get(node.op_type)
        if lower is None:
            raise QuantizeError(
                f"The graph has the operator {node.op_type} (node '{node.name}'), which the writer of LiteRT graphs "
                "does not know. Use another backend for this model.",
                code="litert-operator",
                operator=node.op_type,
                node=node.name,
            )
        lower(graph, node)
    outputs = {value.name or "": graph.tensor(value) for value in model.graph.outputs}
    file.write(out, signature.name, {value.name or "": tensor for value, tensor in inputs.items()}, outputs)
    discard(model)


def _needed(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that some operator reads as tensors. Those of which only the size counts are not among them."""
    needed = set(graph.outputs)
    for node in reversed(list(graph)):
        if any(value in needed for value in node.outputs):
            needed.update(table.tensors_of(node))
    return needed
