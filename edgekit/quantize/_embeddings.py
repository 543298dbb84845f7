"""Embedding tables in 8 or 4 bits, of which only the looked-up rows are dequantized.

    Gather(table, ids)        ->  (Cast(Gather(table_uint8, ids)) - 128) * Gather(scales, ids)
    Slice(table, 0, n)        ->  (Cast(Slice(table_uint8, 0, n)) - 128) * Slice(scales, 0, n)

The values are symmetric INT8, -127 to 127, with one scale per row. They are stored as UINT8 with 128 added. All three
runtimes accept this form (tested with ONNX Runtime 1.32, OpenVINO 2026.4 and TensorRT-RTX 1.7). Compared forms:

- INT8 table, then ``Gather``, then ``Cast`` or ``DequantizeLinear``: TensorRT's builder refuses it ("Quantized constant
  is only allowed before DQ").
- INT8 table, then ``DequantizeLinear``, then ``Gather``: TensorRT keeps the table in INT8, but ONNX Runtime dequantizes
  the whole table on every call (measured, 30,522 x 384: 12 ms, where looking up 24 rows takes 0.03 ms).
- UINT8 and arithmetic (this module): ONNX Runtime and OpenVINO keep one byte per value and dequantize 24 rows
  (measured, the same table: 0.02 ms, no slower than looking up floats). TensorRT treats the table as INT32 and widens
  it to four bytes, so there the form saves disk space and no memory.

Measured on MiniLM-L6 with static INT8: 59.2 MB of files become 23.6 MB, and the peak memory of OpenVINO falls by 37 MB.
The memory of ONNX Runtime does not fall (it rose by 1 to 7 MB): it maps a float table from its file, and rows that are
never read never become resident.

One scale per row is the usual form of row-wise 8-bit embedding tables (Guan et al., "Post-Training 4-bit Quantization
on Embedding Tables", arXiv 1911.02079), because the size of a row depends on the frequency of its token.

In 4 bits, a byte holds column j in its lower half and column j + width / 2 in its upper half, each as -7 to 7 with 8
added. Each group of 32 columns has a float16 scale: of several candidates, the one with the least squared error (the
clipping search of that paper). ``Floor`` and ``Sub`` separate the halves of the looked-up rows. Every runtime has these
operators, while none of the three accepts an INT4 table behind a ``Gather``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import constant, initializer, per_channel, replace

WORTH_BYTES = 2**18
"""Minimum size of a float table in bytes. A smaller one (token types) would cost four kernel calls and save little."""

OFFSET = 128
"""Number added to an INT8 value to store it as UINT8."""

_MANY_ROWS = 2048
"""Minimum number of rows for 4 bits. Tables of positions and token types are small, and every token reads them."""

_BLOCK = 4096
"""Number of rows that are quantized at once. Temporary arrays are several times as large as the rows."""

_GROUP = 32
_CLIPS = np.linspace(0.6, 1.0, 9)


def quantize_embeddings(graph: ir.Graph, stored: str = "int8") -> int:
    """Store the float32 tables that lookups read in 8 or 4 bits, in place.

    A table is a constant ``float32 [rows, width]`` of at least ``WORTH_BYTES`` that only lookups read: a ``Gather`` on
    axis 0, or the ``Slice`` on axis 0 that the export generates for positions 0 to n. A table with another reader (a
    tied output layer) is needed in float anyway and is not changed.

    The error of a dequantized value is at most half its scale. The scale is the largest absolute value of the row /
    127; in 4 bits, that of the group / 7 or somewhat less, and the error is larger where a value was clipped.

    Args:
        graph: Graph to change in place.
        stored: ``int8``, ``int4`` or ``float32``. With ``int4``, tables with few rows or a width that is not a multiple
            of 64 are stored in 8 bits. ``float32`` changes nothing.

    Returns:
        Number of quantized tables.
    """
    if stored == "float32":
        return 0
    count = 0
    for table in list(graph.initializers.values()):
        lookups = [use.node for use in table.uses()]
        if table.is_graph_output() or not lookups or not all(_reads_rows(node, table) for node in lookups):
            continue
        array = constant(table)
        if array is None or not _is_quantizable(array):
            continue
        if stored == "int4" and _fits_int4(array) and all(node.op_type == "Gather" for node in lookups):
            _store_int4(graph, table, array, lookups)
        else:
            _store_int8(graph, table, array, lookups)
        del graph.initializers[table.name or ""]
        count += 1
    return count


def _is_quantizable(array: np.ndarray) -> bool:
    """Return whether an array is a finite float table worth quantizing. Calibration reports tables with NaN."""
    if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] < 2 or array.nbytes < WORTH_BYTES:
        return False
    return bool(np.isfinite(array).all())


def _fits_int4(array: np.ndarray) -> bool:
    return bool(array.shape[0] >= _MANY_ROWS and array.shape[1] % (2 * _GROUP) == 0)


def _store_int8(graph: ir.Graph, table: ir.Value, array: np.ndarray, lookups: list[ir.Node]) -> None:
    """Add the 8-bit form of a table and rewrite its lookups."""
    stored = np.empty(array.shape, np.uint8)
    scales: np.ndarray = np.empty((len(array), 1), np.float32)
    for start in range(0, len(array), _BLOCK):
        block = slice(start, start + _BLOCK)
        columns, column_scales = per_channel(array[block].T)
        scales[block, 0] = column_scales
        stored[block] = (columns.T.astype(np.int16) + OFFSET).astype(np.uint8)
    values = initializer(graph, f"{table.name}_uint8", stored)
    scale = initializer(graph, f"{table.name}_scale", scales)
    for node in lookups:
        _rewrite_int8_lookup(graph, node, values, scale, _number(graph, "embedding_offset", OFFSET))


def _store_int4(graph: ir.Graph, table: ir.Value, array: np.ndarray, lookups: list[ir.Node]) -> None:
    """Add the 4-bit form of a table and rewrite its lookups."""
    packed, scales = pack(array)
    values = initializer(graph, f"{table.name}_uint4", packed)
    scale = initializer(graph, f"{table.name}_scale", scales)
    for node in lookups:
        _rewrite_int4_lookup(graph, node, values, scale, array.shape[1])


def pack(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pack a table into 4 bits per value.

    Args:
        table: Table, float32 ``[rows, width]``; the width is a multiple of 64.

    Returns:
        The values, uint8 ``[rows, width / 2]``, with column j in the lower half of a byte and column j + width / 2 in
        the upper half; and the scales, float16 ``[rows, width / 32]``.
    """
    packed = np.empty((len(table), table.shape[1] // 2), np.uint8)
    scales: np.ndarray = np.empty((len(table), table.shape[1] // _GROUP), np.float16)
    for start in range(0, len(table), _BLOCK):
        block = slice(start, start + _BLOCK)
        packed[block], scales[block] = _pack_rows(table[block])
    return packed, scales


def _pack_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pack rows of a table into 4 bits per value, as :func:`pack` does."""
    groups = table.reshape(len(table), -1, _GROUP)
    least_error = np.full(groups.shape[:2], np.inf, np.float32)
    scales = np.zeros(groups.shape[:2], np.float16)
    largest = np.abs(groups).max(axis=2)
    for clip in _CLIPS:
        candidate = np.maximum(clip * largest / 7, np.finfo(np.float16).tiny).astype(np.float16)
        restored = _round_to_levels(groups, candidate) * candidate[..., None].astype(np.float32)
        error = ((restored - groups) ** 2).sum(axis=2)
        scales = np.where(error < least_error, candidate, scales)
        least_error = np.minimum(error, least_error)
    nibbles = (_round_to_levels(groups, scales) + 8).astype(np.uint8).reshape(table.shape)
    half = table.shape[1] // 2
    return nibbles[:, :half] | (nibbles[:, half:] << 4), scales


def _round_to_levels(groups: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(groups / scales[..., None].astype(np.float32)), -7, 7)


def _number(graph: ir.Graph, name: str, value: float) -> ir.Value:
    """Return a float32 scalar constant that all lookups share."""
    return graph.initializers.get(name) or initializer(graph, name, np.array(value, np.float32))


def _reads_rows(node: ir.Node, table: ir.Value) -> bool:
    """Return whether a node reads rows of a table, by index or as a slice."""
    if not node.inputs or node.inputs[0] is not table or table in node.inputs[1:]:
        return False
    if node.op_type == "Gather":
        return node.attributes.get_int("axis", 0) == 0
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return False
    axes = constant(node.inputs[3])
    return axes is not None and axes.tolist() == [0]


class _NodeBuilder:
    """Builder of the nodes that replace a lookup. Outputs are float32 by default.

    Attributes:
        nodes: Nodes in the order in which they were added.
        name: Prefix of the node names.
    """

    def __init__(self, lookup: ir.Node, stored: ir.Value) -> None:
        """Derive the name prefix from the lookup."""
        self.nodes: list[ir.Node] = []
        self.name = (lookup.name or stored.name or "lookup").removesuffix(f"/{lookup.op_type}")

    def add(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        suffix: str = "",
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: Any,
    ) -> ir.Value:
        """Add a node and return its output."""
        node = ir.node(kind, inputs, attributes=attributes, name=f"{self.name}/{kind}{suffix}")
        node.outputs[0].dtype = dtype
        self.nodes.append(node)
        return node.outputs[0]


def _rewrite_int8_lookup(graph: ir.Graph, lookup: ir.Node, stored: ir.Value, scale: ir.Value, offset: ir.Value) -> None:
    """Replace a lookup: read the same rows of the stored table and of the scales, and multiply them."""
    builder = _NodeBuilder(lookup, stored)
    attributes: dict[str, Any] = dict(lookup.attributes)
    rows = builder.add(lookup.op_type, [stored, *lookup.inputs[1:]], dtype=ir.DataType.UINT8, **attributes)
    scales = builder.add(lookup.op_type, [scale, *lookup.inputs[1:]], "_scale", **attributes)
    wide = builder.add("Cast", [rows], to=ir.DataType.FLOAT)
    centred = builder.add("Sub", [wide, offset])
    result = builder.add("Mul", [centred, scales])
    replace(graph, lookup, builder.nodes, result)


def _rewrite_int4_lookup(graph: ir.Graph, lookup: ir.Node, stored: ir.Value, scale: ir.Value, width: int) -> None:
    """Replace a lookup: read the same rows, separate the halves of each byte, and multiply group by group."""
    ids = lookup.inputs[1]
    assert ids is not None
    output_shape = lookup.outputs[0].shape
    rank = len(output_shape) if output_shape is not None else len(ids.shape or ()) + 1
    leading = [0] * (rank - 1)  # 0 keeps an axis in Reshape.
    builder = _NodeBuilder(lookup, stored)
    name = builder.name
    group_shape = initializer(graph, f"{name}/groups", np.array([*leading, width // _GROUP, _GROUP], np.int64))
    row_shape = initializer(graph, f"{name}/width", np.array([*leading, width], np.int64))
    rows = builder.add("Gather", [stored, ids], dtype=ir.DataType.UINT8, axis=0)
    scales = builder.add("Gather", [scale, ids], "_scale", dtype=ir.DataType.FLOAT16, axis=0)
    wide = builder.add("Cast", [rows], to=ir.DataType.FLOAT)
    sixteenths = builder.add("Mul", [wide, _number(graph, "embedding_sixteenth", 1 / 16)], "_sixteenth")
    upper = builder.add("Floor", [sixteenths])
    upper_bits = builder.add("Mul", [upper, _number(graph, "embedding_sixteen", 16)], "_sixteen")
    lower = builder.add("Sub", [wide, upper_bits], "_lower")
    columns = builder.add("Concat", [lower, upper], axis=-1)
    centred = builder.add("Sub", [columns, _number(graph, "embedding_eight", 8)])
    last_axis = initializer(graph, f"{name}/last", np.array([-1], np.int64))
    expanded_scales = builder.add("Unsqueeze", [scales, last_axis], dtype=ir.DataType.FLOAT16)
    factors = builder.add("Cast", [expanded_scales], "_scale", to=ir.DataType.FLOAT)
    grouped = builder.add("Reshape", [centred, group_shape], "_groups")
    scaled = builder.add("Mul", [grouped, factors])
    result = builder.add("Reshape", [scaled, row_shape])
    replace(graph, lookup, builder.nodes, result)
