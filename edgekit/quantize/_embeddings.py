"""Embedding tables in 8 or 4 bits: only the rows that are looked up are restored.

    Gather(table, ids)        ->  (Cast(Gather(table_uint8, ids)) - 128) * Gather(scales, ids)
    Slice(table, 0, n)        ->  (Cast(Slice(table_uint8, 0, n)) - 128) * Slice(scales, 0, n)

The values are symmetric INT8, -127..127 times one scale per row; they are stored with 128 added, as UINT8 integers.
That is what all three runtimes take (looked at with ONNX Runtime 1.32, OpenVINO 2026.4, TensorRT-RTX 1.7):

- INT8 as it is, with ``Cast`` or ``DequantizeLinear`` behind the lookup: TensorRT's builder refuses it ("Quantized constant
  is only allowed before DQ").
- ``DequantizeLinear`` on the table, ``Gather`` behind it: TensorRT keeps the table in INT8, but ONNX Runtime restores all
  of it at every call (measured, 30,522 x 384: 12 ms, where the lookup of 24 rows takes 0.03 ms).
- UINT8 and arithmetic (this): ONNX Runtime and OpenVINO keep one byte a value and restore 24 rows (measured, the same
  table: 0.02 ms, no slower than looking up floats). TensorRT takes it for INT32 and widens the table to four bytes, so
  there it saves size on disk and no memory.

Measured on MiniLM-L6 with static INT8: 59.2 MB of files become 23.6 MB; peak memory falls by 37 MB in OpenVINO. In ONNX
Runtime it does not fall (it rose by 1 to 7 MB): a float table beside the graph is mapped, and rows that are never read
never become resident.

One scale per row is what "8-bit ... row-wise" embedding tables have elsewhere (Guan et al., "Post-Training 4-bit
Quantization on Embedding Tables", arXiv 1911.02079): rows differ in size by their token's frequency.

In 4 bits a byte holds column j in its lower half and column j + width / 2 in its upper one, each as -7..7 with 8 added, and each
group of 32 columns has a float16 scale, of several the one with the least squared error (that paper's search for where to clip).
The halves are taken apart by ``Floor`` and ``Sub`` of the looked-up rows: operators that every runtime has, where none of the three takes an INT4
table behind a ``Gather``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import constant, initializer, per_channel, replace

WORTH_BYTES = 2**18
"""A smaller float table (token types) is left as it is: it would cost four kernel calls to save nothing that counts."""

OFFSET = 128


_MANY_ROWS = 2048
"""4 bits are for tables of at least so many rows: those of positions and token types are small, and every token reads them."""

_GROUP = 32
_CLIPS = np.linspace(0.6, 1.0, 9)


def quantize_embeddings(graph: ir.Graph, stored: str = "int8") -> int:
    """Stores the float32 tables that lookups read in 8 or 4 bits, in place; returns how many tables.

    A table is a constant ``float32 [rows, width]`` of at least ``WORTH_BYTES`` that nothing but lookups reads: a
    ``Gather`` on axis 0, or the ``Slice`` on axis 0 that export makes of positions 0..n. One that something else reads too
    (an output layer tied to it) has to be there in float anyway and is left alone.

    Error of a restored value: at most half of its scale, which is the largest absolute value of its row / 127; in 4 bits that of its group / 7
    or somewhat less, and more where a value was clipped.

    Args:
        graph: changed in place.
        stored: ``int8``; ``int4``, which falls to 8 bits for a table of few rows or of a width that is no multiple of 64; ``float32`` changes nothing.
    """
    count = 0
    for table in list(graph.initializers.values()) if stored != "float32" else ():
        lookups = [use.node for use in table.uses()]
        if table.is_graph_output() or not lookups or not all(_reads_rows(node, table) for node in lookups):
            continue
        array = constant(table)
        if (
            array is None
            or array.dtype != np.float32
            or array.ndim != 2
            or array.shape[1] < 2
            or array.nbytes < WORTH_BYTES
        ):
            continue
        if not np.isfinite(array).all():  # calibration says what is wrong with such a model
            continue
        if (
            stored == "int4"
            and array.shape[0] >= _MANY_ROWS
            and array.shape[1] % (2 * _GROUP) == 0
            and all(n.op_type == "Gather" for n in lookups)
        ):
            packed, scales = pack(array)
            values = initializer(graph, f"{table.name}_uint4", packed)
            scale = initializer(graph, f"{table.name}_scale", scales)
            for node in lookups:
                _unpack(graph, node, values, scale, array.shape[1])
        else:
            rows, scales = per_channel(np.ascontiguousarray(array.T))
            values = initializer(graph, f"{table.name}_uint8", (rows.T.astype(np.int16) + OFFSET).astype(np.uint8))
            scale = initializer(graph, f"{table.name}_scale", scales[:, None])
            for node in lookups:
                _restore(graph, node, values, scale, _number(graph, "embedding_offset", OFFSET))
        del graph.initializers[table.name or ""]
        count += 1
    return count


def pack(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table in 4 bits.

    Args:
        table: float32 ``[rows, width]``, the width a multiple of 64.

    Returns:
        uint8 ``[rows, width / 2]``, column j in the lower half of a byte and column j + width / 2 in the upper one; float16 scales ``[rows, width / 32]``.
    """
    groups = table.reshape(len(table), -1, _GROUP)
    best, scales = np.full(groups.shape[:2], np.inf, np.float32), np.zeros(groups.shape[:2], np.float16)
    largest = np.abs(groups).max(axis=2)
    for clip in _CLIPS:
        tried = np.maximum(clip * largest / 7, np.finfo(np.float16).tiny).astype(np.float16)
        error = ((_nearest(groups, tried) * tried[..., None].astype(np.float32) - groups) ** 2).sum(axis=2)
        scales, best = np.where(error < best, tried, scales), np.minimum(error, best)
    whole = (_nearest(groups, scales) + 8).astype(np.uint8).reshape(table.shape)
    half = table.shape[1] // 2
    return whole[:, :half] | (whole[:, half:] << 4), scales


def _nearest(groups: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(groups / scales[..., None].astype(np.float32)), -7, 7)


def _number(graph: ir.Graph, name: str, value: float) -> ir.Value:
    return graph.initializers.get(name) or initializer(graph, name, np.array(value, np.float32))


def _reads_rows(node: ir.Node, table: ir.Value) -> bool:
    """Whether a node picks rows of a table, by index or from a slice."""
    if not node.inputs or node.inputs[0] is not table or table in node.inputs[1:]:
        return False
    if node.op_type == "Gather":
        return node.attributes.get_int("axis", 0) == 0
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return False
    axes = constant(node.inputs[3])
    return axes is not None and axes.tolist() == [0]


class _Nodes:
    """The nodes that take the place of a lookup; what they give is float32 unless it is said otherwise."""

    def __init__(self, lookup: ir.Node, stored: ir.Value) -> None:
        """Takes the name of the lookup."""
        self.made: list[ir.Node] = []
        self.name = (lookup.name or stored.name or "lookup").removesuffix(f"/{lookup.op_type}")

    def add(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        suffix: str = "",
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: Any,
    ) -> ir.Value:
        """Adds a node; returns its output."""
        node = ir.node(kind, inputs, attributes=attributes, name=f"{self.name}/{kind}{suffix}")
        node.outputs[0].dtype = dtype
        self.made.append(node)
        return node.outputs[0]


def _restore(graph: ir.Graph, lookup: ir.Node, stored: ir.Value, scale: ir.Value, offset: ir.Value) -> None:
    """Looks the same rows up in the stored table and in the scales, and multiplies."""
    nodes = _Nodes(lookup, stored)
    how: dict[str, Any] = dict(lookup.attributes)
    rows = nodes.add(lookup.op_type, [stored, *lookup.inputs[1:]], dtype=ir.DataType.UINT8, **how)
    scales = nodes.add(lookup.op_type, [scale, *lookup.inputs[1:]], "_scale", **how)
    centred = nodes.add("Sub", [nodes.add("Cast", [rows], to=ir.DataType.FLOAT), offset])
    restored = nodes.add("Mul", [centred, scales])
    replace(graph, lookup, nodes.made, restored)


def _unpack(graph: ir.Graph, lookup: ir.Node, stored: ir.Value, scale: ir.Value, width: int) -> None:
    """Looks the same rows up in the packed table and in the scales, takes the halves of each byte apart, and multiplies group by group."""
    ids, result, nodes = lookup.inputs[1], lookup.outputs[0], _Nodes(lookup, stored)
    assert ids is not None
    add, name = nodes.add, nodes.name
    rank = len(result.shape) if result.shape is not None else len(ids.shape or ()) + 1
    split = initializer(graph, f"{name}/groups", np.array([*[0] * (rank - 1), width // _GROUP, _GROUP], np.int64))
    joined = initializer(graph, f"{name}/width", np.array([*[0] * (rank - 1), width], np.int64))
    rows = add("Gather", [stored, ids], dtype=ir.DataType.UINT8, axis=0)
    scales = add("Gather", [scale, ids], "_scale", dtype=ir.DataType.FLOAT16, axis=0)
    wide = add("Cast", [rows], to=ir.DataType.FLOAT)
    upper = add("Floor", [add("Mul", [wide, _number(graph, "embedding_sixteenth", 1 / 16)], "_sixteenth")])
    lower = add("Sub", [wide, add("Mul", [upper, _number(graph, "embedding_sixteen", 16)], "_sixteen")], "_lower")
    both = add("Sub", [add("Concat", [lower, upper], axis=-1), _number(graph, "embedding_eight", 8)])
    last = initializer(graph, f"{name}/last", np.array([-1], np.int64))
    factors = add("Cast", [add("Unsqueeze", [scales, last], dtype=ir.DataType.FLOAT16)], "_scale", to=ir.DataType.FLOAT)
    restored = add("Reshape", [add("Mul", [add("Reshape", [both, split], "_groups"), factors]), joined])
    replace(graph, lookup, nodes.made, restored)
