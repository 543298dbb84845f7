"""Replacement of a model's attention masks by one small, finite, additive form.

Models turn ``attention_mask`` into a ``[batch, 1, sequence, sequence]`` tensor that contains the lowest float32, in
ways that differ from release to release: index arithmetic, logical operators, ``masked_fill``. That tensor costs memory
traffic in every layer, its value becomes infinity in float16 (and 0 x infinity NaN), and no runtime recognises it. So
this pass ignores how the tensor is computed. It finds the nodes that combine a value derived only from the mask with
attention scores, **evaluates** that value for probe masks, and if the result means "key k is hidden from all queries"
(and, for sliding windows, "so is every key more than w positions away"), replaces it by the simple form:

    (1 - float(attention_mask))[:, None, None, :] * -10000    (+ a window over positions)

Padded queries are left out of the comparison, since nothing reads their results. A mask that is not recognised stays,
with its constants limited to float16's range. In both cases the finished graph is compared with the model afterwards.
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
"""Number added to a hidden score: its exp() is 0 in float32 and float16, and the sum of two fits into float16."""

# A window is visible only in a probe longer than its reach. ModernBERT's reaches 64 positions to each side.
_PROBE_LENGTHS = (5, 33, 1025)


@dataclass(frozen=True)
class _Meeting:
    """A node that combines a mask with attention scores.

    Attributes:
        node: Node itself.
        mask: Value derived only from the attention mask.
        scores: Attention scores.
    """

    node: ir.Node
    mask: ir.Value
    scores: ir.Value


@dataclass(frozen=True)
class _Meaning:
    """The meaning of a mask tensor: padded keys are hidden, and keys outside a window.

    Attributes:
        window: Number of visible positions to each side; None without a window.
    """

    window: int | None


def canonical_masks(model: ir.Model, max_length: int, mask_name: str = "attention_mask") -> int:
    """Replace the masks of all attention layers in place, and return the number of replacements.

    Args:
        model: Exported model.
        max_length: Length of the longest row the model accepts, in tokens; no probe is longer.
        mask_name: Name of the graph's mask input.
    """
    graph = model.graph
    mask = next((v for v in graph.inputs if v.name == mask_name), None)
    if mask is None:
        return 0
    derived = _derived_from(graph, mask)
    meetings = [m for node in graph if (m := _find_meeting(node, derived)) is not None]
    lengths = sorted({min(n, max_length) for n in _PROBE_LENGTHS})
    meanings = _probe(graph, {m.mask for m in meetings}, lengths)
    built: dict[int | None, ir.Value] = {}
    count = 0
    for meeting in meetings:
        meaning = meanings.get(meeting.mask)
        if meaning is None:
            continue
        if meaning.window not in built:
            built[meaning.window] = _additive(graph, mask, meaning, first=next(iter(graph)))
        added = ir.node("Add", [meeting.scores, built[meaning.window]])
        added.outputs[0].type = meeting.node.outputs[0].type
        added.outputs[0].shape = meeting.node.outputs[0].shape
        added.metadata_props.update(meeting.node.metadata_props)
        graph.insert_before(meeting.node, added)
        ir.convenience.replace_all_uses_with(meeting.node.outputs[0], added.outputs[0])
        graph.remove(meeting.node, safe=True)
        count += 1
    return count


def _derived_from(graph: ir.Graph, mask: ir.Value) -> set[ir.Value]:
    """Return the values computed from the mask and from shapes only, not from other inputs."""
    shape_like: set[ir.Value | None] = {None, *graph.initializers.values()}
    derived: set[ir.Value] = {mask}
    for node in graph:
        if node.op_type in ("Shape", "Size") or all(v in shape_like for v in node.inputs):
            shape_like.update(node.outputs)
        elif all(v in shape_like or v in derived for v in node.inputs):
            derived.update(node.outputs)
    return derived


def _find_meeting(node: ir.Node, derived: set[ir.Value]) -> _Meeting | None:
    """Recognise scores + mask, Where(mask, scores, low) and Where(mask, low, scores) that lead to a Softmax."""
    if node.outputs[0] in derived or not _reaches_softmax(node.outputs[0]):
        return None
    if node.op_type == "Add":
        a, b = node.inputs
        if a in derived and b is not None:
            return _Meeting(node, a, b)
        return _Meeting(node, b, a) if b in derived and a is not None else None
    if node.op_type == "Where" and node.inputs[0] in derived:
        scores = [v for v in node.inputs[1:] if v is not None and not v.is_initializer() and v not in derived]
        low = [number(v) for v in node.inputs[1:] if v not in scores]
        # The replacement of a hidden score must hide it, as 0 does not.
        if len(scores) == 1 and low[0] is not None and low[0] < HIDDEN / 2:
            return _Meeting(node, node.inputs[0], scores[0])
    return None


def _reaches_softmax(value: ir.Value, depth: int = 4) -> bool:
    for use in value.uses():
        if use.node.op_type == "Softmax":
            return True
        same_kind = use.node.op_type in ("Add", "Where", "Cast", "Reshape", "Identity")
        if depth and same_kind and any(_reaches_softmax(v, depth - 1) for v in use.node.outputs):
            return True
    return False


def _probe(graph: ir.Graph, masks: set[ir.Value], lengths: list[int]) -> dict[ir.Value, _Meaning]:
    """Evaluate each mask tensor for ragged masks of several lengths, and return the meanings that were recognised."""
    values = sorted((v for v in masks if v.shape is not None), key=lambda v: v.name or "")
    meanings: dict[ir.Value, _Meaning] = {}
    if not values:
        return meanings
    feeds = [_probe_mask(length) for length in lengths]
    results = _evaluate(graph, values, feeds)
    for index, value in enumerate(values):
        observed = [_interpret(result[index], mask) for result, mask in zip(results, feeds, strict=True)]
        windows = {m.window for m in observed if m is not None}
        reach = next((w for w in windows if w is not None), None)
        # All probes must agree on one window, except those too short to show it.
        expected = [_expected_meaning(reach, length) for length in lengths]
        if observed == expected:
            meanings[value] = _Meaning(reach)
    return meanings


def _expected_meaning(reach: int | None, length: int) -> _Meaning:
    """Return the meaning of a mask with a window of this reach, as a probe of this length shows it."""
    if reach is None or reach >= length - 1:
        return _Meaning(None)
    return _Meaning(reach)


def _probe_mask(length: int) -> np.ndarray:
    """Return masks, int64 ``[3, sequence]``: nothing hidden, hidden at the end, hidden at both ends and inside."""
    mask = np.ones((3, length), np.int64)
    mask[1, length - length // 3 :] = 0
    mask[2, [0, length // 2, length - 1]] = 0
    return mask


def _evaluate(graph: ir.Graph, values: list[ir.Value], masks: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Run the part of the graph that computes ``values`` in ONNX Runtime, once per mask."""
    import onnxruntime

    part = graph.clone()
    names = [v.name for v in values]
    inside = {v.name: v for v in part.inputs}
    inside |= {v.name: v for node in part for v in node.outputs}
    part.outputs[:] = [inside[name] for name in names]
    model = ir.Model(part, ir_version=10)
    passes.RemoveUnusedNodesPass()(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        ir.save(model, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        input_names = [i.name for i in session.get_inputs()]
        # Every input is int64 [batch, sequence].
        return [session.run(names, dict.fromkeys(input_names, mask)) for mask in masks]


def _interpret(value: np.ndarray, mask: np.ndarray) -> _Meaning | None:
    """Return the meaning of a mask tensor, boolean (either polarity) or additive; None if it is not recognised."""
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
        # The first mask hides nothing, so the keys hidden there are outside the window.
        reach = [int(distance[0, 0][seen[0, h]].max(initial=0)) for h in range(seen.shape[1])]
        if len(set(reach)) == 1 and np.array_equal(
            seen & query, np.broadcast_to(keys & query & (distance <= reach[0]), seen.shape)
        ):
            return _Meaning(None if reach[0] >= length - 1 else reach[0])
    return None


def _additive(graph: ir.Graph, mask: ir.Value, meaning: _Meaning, first: ir.Node) -> ir.Value:
    """Insert the canonical mask at the top of the graph: float32 ``[batch, 1, 1 or sequence, sequence]``."""
    nodes: list[ir.Node] = []

    def constant(name: str, array: np.ndarray) -> ir.Value:
        if name not in graph.initializers:
            graph.register_initializer(ir.val(name, const_value=ir.tensor(array, name=name)))
        return graph.initializers[name]

    def add(
        op: str, inputs: list[ir.Value], name: str, dtype: ir.DataType, shape: tuple[object, ...], **attributes: int
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes=attributes)
        output = node.outputs[0]
        output.name = name
        output.dtype = dtype
        output.shape = ir.Shape(shape)  # type: ignore[arg-type]
        nodes.append(node)
        return output

    suffix = "" if meaning.window is None else f"_{meaning.window}"
    batch, length = mask.shape if mask.shape is not None else ("batch", "sequence")
    one = constant("mask_one", np.array(1, np.float32))
    low = constant("mask_hidden", np.array(HIDDEN, np.float32))
    axes = constant("mask_axes", np.array([1, 2], np.int64))
    visible = add("Cast", [mask], f"mask_float{suffix}", ir.DataType.FLOAT, (batch, length), to=ir.DataType.FLOAT)
    hidden = add("Sub", [one, visible], f"mask_hidden_keys{suffix}", ir.DataType.FLOAT, (batch, length))
    wide = add("Unsqueeze", [hidden, axes], f"mask_wide{suffix}", ir.DataType.FLOAT, (batch, 1, 1, length))
    result = add("Mul", [wide, low], f"mask_additive{suffix}", ir.DataType.FLOAT, (batch, 1, 1, length))
    if meaning.window is not None:
        window = _window(constant, add, mask, meaning.window, length)
        shape = (batch, 1, length, length)
        result = add("Add", [result, window], f"mask_additive_window{suffix}", ir.DataType.FLOAT, shape)
    graph.insert_before(first, nodes)
    return result


def _window(  # type: ignore[no-untyped-def]
    constant,  # noqa: ANN001
    add,  # noqa: ANN001
    mask: ir.Value,
    reach: int,
    length: object,
) -> ir.Value:
    """Return 0 for positions at most ``reach`` apart, else ``HIDDEN``: float32 ``[sequence, sequence]``."""
    integer = ir.DataType.INT64
    square = (length, length)
    zero = constant("mask_zero", np.array(0))
    step = constant("mask_step", np.array(1))
    size = add("Shape", [mask], "mask_length_1d", integer, (1,), start=1, end=2)
    scalar = add("Squeeze", [size], "mask_length", integer, ())
    position = add("Range", [zero, scalar, step], "mask_positions", integer, (length,))
    last = constant("mask_last", np.array([1], np.int64))
    column = add("Unsqueeze", [position, last], "mask_rows", integer, (length, 1))
    offset = add("Sub", [column, position], "mask_offset", integer, square)
    distance = add("Abs", [offset], "mask_apart", integer, square)
    limit = constant(f"mask_reach_{reach}", np.array(reach))
    near = add("LessOrEqual", [distance, limit], f"mask_near_{reach}", ir.DataType.BOOL, square)
    inside = constant("mask_inside", np.array(0, np.float32))
    outside = constant("mask_hidden", np.array(HIDDEN, np.float32))
    bias: ir.Value = add("Where", [near, inside, outside], f"mask_distance_{reach}", ir.DataType.FLOAT, square)
    return bias
