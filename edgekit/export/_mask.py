"""Replaces whatever a model makes of its attention mask by one small, finite, additive form.

Models turn ``attention_mask`` into a ``[batch, 1, sequence, sequence]`` tensor with the lowest float32 in it, in ways
that differ from release to release: index arithmetic, logical operators, ``masked_fill``. That tensor costs memory
traffic in every layer, its value becomes infinity in float16 (and 0 x infinity NaN), and no runtime recognises it. So
this pass does not look at how it is made. It finds the places where something made from the mask alone meets attention
scores, **computes** that something for probe masks, and where it turns out to say "position k is hidden for everybody"
(and, for sliding windows, "and so is everything further than w away"), puts the plain form there:

    (1 - float(attention_mask))[:, None, None, :] * -10000    (+ a window over positions)

Rows of padded queries are left out of the comparison, since nothing reads them. What is not recognised stays as it is,
with its constants pulled into float16's range. Either way the finished graph is compared with the model afterwards.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekit.quantize.graphs import number

HIDDEN = -10000.0
"""What is added to a hidden score: exp() of it is 0 in float32 and float16, and two of them still fit into float16."""

# A window shows only in a probe that is longer than it reaches: ModernBERT's reaches 64 positions to each side.
_PROBE_LENGTHS = (5, 33, 1025)


@dataclass(frozen=True)
class _Meeting:
    """A node where something made from the mask meets scores."""

    node: ir.Node
    made: ir.Value
    scores: ir.Value


@dataclass(frozen=True)
class _Meaning:
    """What a mask tensor says: keys hidden by padding, and a window of this many positions to each side (or none)."""

    window: int | None


def canonical_masks(model: ir.Model, max_length: int, mask_name: str = "attention_mask") -> int:
    """Replaces the masks of all attention layers in place; returns how many places were replaced.

    Args:
        model: the exported graph.
        max_length: tokens of the longest row that the model takes; no probe is longer.
        mask_name: the graph's input.
    """
    graph = model.graph
    mask = next((v for v in graph.inputs if v.name == mask_name), None)
    if mask is None:
        return 0
    made_from_mask = _made_from(graph, mask)
    meetings = [m for node in graph if (m := _meeting(node, made_from_mask)) is not None]
    meanings = _probe(graph, {m.made for m in meetings}, sorted({min(n, max_length) for n in _PROBE_LENGTHS}))
    built: dict[int | None, ir.Value] = {}
    count = 0
    for meeting in meetings:
        meaning = meanings.get(meeting.made)
        if meaning is None:
            continue
        if meaning.window not in built:
            built[meaning.window] = _additive(graph, mask, meaning, first=next(iter(graph)))
        added = ir.node("Add", [meeting.scores, built[meaning.window]])
        added.outputs[0].type, added.outputs[0].shape = meeting.node.outputs[0].type, meeting.node.outputs[0].shape
        added.metadata_props.update(meeting.node.metadata_props)
        graph.insert_before(meeting.node, added)
        ir.convenience.replace_all_uses_with(meeting.node.outputs[0], added.outputs[0])
        graph.remove(meeting.node, safe=True)
        count += 1
    return count


def _made_from(graph: ir.Graph, mask: ir.Value) -> set[ir.Value]:
    """Values computed from the mask and from shapes alone, never from what the model is fed otherwise."""
    shape_like: set[ir.Value | None] = {None, *graph.initializers.values()}
    made: set[ir.Value] = {mask}
    for node in graph:
        if node.op_type in ("Shape", "Size") or all(v in shape_like for v in node.inputs):
            shape_like.update(node.outputs)
        elif all(v in shape_like or v in made for v in node.inputs):
            made.update(node.outputs)
    return made


def _meeting(node: ir.Node, made: set[ir.Value]) -> _Meeting | None:
    """Recognises scores + mask, and Where(mask, scores, low) or Where(mask, low, scores), on the way to a Softmax."""
    if node.outputs[0] in made or not _reaches_softmax(node.outputs[0]):
        return None
    if node.op_type == "Add":
        a, b = node.inputs
        if a in made and b is not None:
            return _Meeting(node, a, b)
        return _Meeting(node, b, a) if b in made and a is not None else None
    if node.op_type == "Where" and node.inputs[0] in made:
        scores = [v for v in node.inputs[1:] if v is not None and not v.is_initializer() and v not in made]
        low = [number(v) for v in node.inputs[1:] if v not in scores]
        # What stands in for a hidden score must hide it: 0 does not.
        return (
            _Meeting(node, node.inputs[0], scores[0])
            if len(scores) == 1 and low[0] is not None and low[0] < HIDDEN / 2
            else None
        )
    return None


def _reaches_softmax(value: ir.Value, depth: int = 4) -> bool:
    for use in value.uses():
        if use.node.op_type == "Softmax":
            return True
        same_kind = use.node.op_type in ("Add", "Where", "Cast", "Reshape", "Identity")
        if depth and same_kind and any(_reaches_softmax(v, depth - 1) for v in use.node.outputs):
            return True
    return False


def _probe(graph: ir.Graph, wanted: set[ir.Value], lengths: list[int]) -> dict[ir.Value, _Meaning]:
    """Computes each wanted value for ragged masks of several lengths, and reads its meaning off the numbers."""
    values = sorted((v for v in wanted if v.shape is not None), key=lambda v: v.name or "")
    meanings: dict[ir.Value, _Meaning] = {}
    if not values:
        return meanings
    feeds = [_probe_mask(length) for length in lengths]
    results = _evaluate(graph, values, feeds)
    for index, value in enumerate(values):
        read = [_read(result[index], mask) for result, mask in zip(results, feeds, strict=True)]
        windows = {m.window for m in read if m is not None}
        reach = next((w for w in windows if w is not None), None)
        # One window throughout, hidden only where the probe is too short to show it.
        expected = [_Meaning(None if reach is None or reach >= length - 1 else reach) for length in lengths]
        if read == expected:
            meanings[value] = _Meaning(reach)
    return meanings


def _probe_mask(length: int) -> np.ndarray:
    """Three masks ``int64 [batch=3, sequence]``: nothing hidden, hidden at the end, hidden at both ends and inside."""
    mask = np.ones((3, length), np.int64)
    mask[1, length - length // 3 :] = 0
    mask[2, [0, length // 2, length - 1]] = 0
    return mask


def _evaluate(graph: ir.Graph, values: list[ir.Value], masks: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Runs the part of the graph behind ``values`` in ONNX Runtime, once per mask."""
    import onnxruntime

    part = graph.clone()
    names = [v.name for v in values]
    inside = {v.name: v for node in part for v in node.outputs} | {v.name: v for v in part.inputs}
    part.outputs[:] = [inside[name] for name in names]
    model = ir.Model(part, ir_version=10)
    passes.RemoveUnusedNodesPass()(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        ir.save(model, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        fed = {i.name for i in session.get_inputs()}
        return [
            session.run(names, {n: mask for n in fed}) for mask in masks
        ]  # every input is [batch, sequence] of int64


def _read(value: np.ndarray, mask: np.ndarray) -> _Meaning | None:
    """Reads the meaning of a mask tensor, boolean (either polarity) or additive, off its numbers."""
    batch, length = mask.shape
    if value.ndim != 4 or value.shape[0] not in (1, batch) or value.shape[-1] != length:
        return None
    options = (value != 0, value == 0) if value.dtype == bool else (value > HIDDEN / 2,)
    if value.dtype != bool and not np.isin(value[value > HIDDEN / 2], (0.0,)).all():
        return None
    query = mask.astype(bool)[:, None, :, None]
    keys = mask.astype(bool)[:, None, None, :]
    distance = np.abs(np.arange(length)[:, None] - np.arange(length)[None, :])[None, None]
    for visible in options:
        seen = np.broadcast_to(visible, (batch, visible.shape[1], length, length))
        # The first row hides nothing, so what is hidden there is the window.
        reach = [int(distance[0, 0][seen[0, h]].max(initial=0)) for h in range(seen.shape[1])]
        if len(set(reach)) == 1 and np.array_equal(
            seen & query, np.broadcast_to(keys & query & (distance <= reach[0]), seen.shape)
        ):
            return _Meaning(None if reach[0] >= length - 1 else reach[0])
    return None


def _additive(graph: ir.Graph, mask: ir.Value, meaning: _Meaning, first: ir.Node) -> ir.Value:
    """Builds the canonical mask at the top of the graph: float32 ``[batch, 1, 1 or sequence, sequence]``."""
    nodes: list[ir.Node] = []

    def constant(name: str, array: np.ndarray) -> ir.Value:
        if name not in graph.initializers:
            graph.register_initializer(ir.val(name, const_value=ir.tensor(array, name=name)))
        return graph.initializers[name]

    def add(
        op: str, inputs: list[ir.Value], name: str, dtype: ir.DataType, shape: tuple[object, ...], **attributes: int
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes=attributes)
        node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = name, dtype, ir.Shape(shape)  # type: ignore[arg-type]
        nodes.append(node)
        return node.outputs[0]

    suffix = "" if meaning.window is None else f"_{meaning.window}"
    batch, length = mask.shape if mask.shape is not None else ("batch", "sequence")
    one, low = constant("mask_one", np.array(1, np.float32)), constant("mask_hidden", np.array(HIDDEN, np.float32))
    axes = constant("mask_axes", np.array([1, 2], np.int64))
    kept = add("Cast", [mask], f"mask_float{suffix}", ir.DataType.FLOAT, (batch, length), to=ir.DataType.FLOAT)
    hidden = add("Sub", [one, kept], f"mask_hidden_keys{suffix}", ir.DataType.FLOAT, (batch, length))
    wide = add("Unsqueeze", [hidden, axes], f"mask_wide{suffix}", ir.DataType.FLOAT, (batch, 1, 1, length))
    result = add("Mul", [wide, low], f"mask_additive{suffix}", ir.DataType.FLOAT, (batch, 1, 1, length))
    if meaning.window is not None:
        window = _window(constant, add, mask, meaning.window, length)
        result = add(
            "Add", [result, window], f"mask_additive_window{suffix}", ir.DataType.FLOAT, (batch, 1, length, length)
        )
    graph.insert_before(first, nodes)
    return result


def _window(constant, add, mask: ir.Value, reach: int, length: object) -> ir.Value:  # type: ignore[no-untyped-def] # noqa: ANN001
    """0 where two positions are at most ``reach`` apart, else ``HIDDEN``: float32 ``[sequence, sequence]``."""
    integer, kind = ir.DataType.INT64, ir.DataType.FLOAT
    zero, step = constant("mask_zero", np.array(0)), constant("mask_step", np.array(1))
    size = add("Shape", [mask], "mask_length_1d", integer, (1,), start=1, end=2)
    scalar = add("Squeeze", [size], "mask_length", integer, ())
    position = add("Range", [zero, scalar, step], "mask_positions", integer, (length,))
    column = add(
        "Unsqueeze", [position, constant("mask_last", np.array([1], np.int64))], "mask_rows", integer, (length, 1)
    )
    apart = add(
        "Abs",
        [add("Sub", [column, position], "mask_offset", integer, (length, length))],
        "mask_apart",
        integer,
        (length, length),
    )
    near = add(
        "LessOrEqual",
        [apart, constant(f"mask_reach_{reach}", np.array(reach))],
        f"mask_near_{reach}",
        ir.DataType.BOOL,
        (length, length),
    )
    inside, outside = (
        constant("mask_inside", np.array(0, np.float32)),
        constant("mask_hidden", np.array(HIDDEN, np.float32)),
    )
    return add("Where", [near, inside, outside], f"mask_distance_{reach}", kind, (length, length))  # type: ignore[no-any-return]
