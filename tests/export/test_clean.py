"""Each clean-up alone on a graph made by hand, and a module of one's own; whole models are in ``test_architectures.py``."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny
import torch
from onnx.parser import parse_model

from edgekit import backends, source
from edgekit.export import _clean, _mask
from edgekit.export._gelu import fuse_gelu
from edgekit.export.graphs import OPSET, TOLERANCE, export
from edgekit.quantize.graphs import constant
from edgekit.runtime.loops import single

LOWEST = float(np.finfo(np.float32).min)


def ops(graph):
    return Counter(node.op_type for node in graph)


# ---- a head of one's own


class _Custom(torch.nn.Module):
    """Attention by PyTorch's own function, with a boolean mask, and a mean over the tokens that count."""

    def __init__(self, size):
        super().__init__()
        self.config = SimpleNamespace(
            id2label={0: "no", 1: "maybe", 2: "yes"},
            problem_type="multi_label_classification",
            max_position_embeddings=48,
        )
        self.words = torch.nn.Embedding(size, 32)
        self.positions = torch.nn.Embedding(48, 32)
        self.mix = torch.nn.Linear(32, 96)
        self.out = torch.nn.Linear(32, 32)
        self.norm = torch.nn.LayerNorm(32)
        self.head = torch.nn.Linear(32, 3)

    def forward(self, input_ids, attention_mask):
        batch, length = input_ids.shape
        x = self.words(input_ids) + self.positions(torch.arange(length, device=input_ids.device))
        query, key, value = (part.view(batch, length, 4, 8).transpose(1, 2) for part in self.mix(x).chunk(3, dim=-1))
        seen = attention_mask.bool()[:, None, None, :]
        context = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = self.norm(x + self.out(context.transpose(1, 2).reshape(batch, length, 32)))
        x = torch.nn.functional.gelu(x)
        weight = attention_mask[:, :, None].to(x.dtype)
        return 4 * self.head((x * weight).sum(dim=1) / weight.sum(dim=1))


@pytest.mark.slow
def test_a_module_from_python_agrees_with_torch(tmp_path):
    tokens = tiny.tokenizer("distilbert")
    torch.manual_seed(0)
    model = source.from_module(_Custom(len(tokens)), tokens)
    assert model.digest is None
    (graph,) = export(model, tmp_path, tiny.TEXTS).graphs
    settings = model.settings
    assert (settings.problem_type, settings.labels, settings.max_length) == (
        "multi_label_classification",
        ("no", "maybe", "yes"),
        48,
    )
    rows = [*tiny.rows(model), *tiny.random_rows(model, [1, 12, 13, 47, 48])]
    expected = np.concatenate([tiny.torch_logits(model, {n: a[None] for n, a in row.items()}) for row in rows])
    spread = float(np.ptp(expected))
    assert spread >= 1.0
    feeds = single.collate(graph.signature, rows)
    wrong = tiny.torch_logits(model, {**feeds, "attention_mask": np.ones_like(feeds["attention_mask"])})
    assert np.abs(wrong - expected).max() > 10 * TOLERANCE * spread
    for backend in ("onnxruntime", "openvino"):
        engine = backends.get(backend).open_device("cpu", 1).load(graph.path, graph.signature)
        assert np.abs(engine.run(feeds)["logits"] - expected).max() <= TOLERANCE * spread
        for row, answer in zip(rows, expected, strict=True):
            assert (
                np.abs(engine.run(single.collate(graph.signature, [row]))["logits"] - answer).max()
                <= TOLERANCE * spread
            )
    found = ops(ir.load(graph.path).graph)
    assert not {"IsNaN", "Erf"} & set(found)
    assert found["Gelu"] == found["Softmax"] == found["LayerNormalization"] == 1


# ---- GELU

ROOT_HALF, ROOT_2_OVER_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)
GATES = {
    "erf(x / sqrt 2)": ("Add", ("Erf", ("Div", "x", math.sqrt(2))), 1.0),
    "erf(x * sqrt 0.5)": ("Add", ("Erf", ("Mul", "x", ROOT_HALF)), 1.0),
    "tanh(c (x + d x^3))": (
        "Add",
        ("Tanh", ("Mul", ("Add", "x", ("Mul", ("Pow", "x", 3.0), 0.044715)), ROOT_2_OVER_PI)),
        1.0,
    ),
    "tanh(c x (1 + d x x))": (
        "Add",
        ("Tanh", ("Mul", ("Mul", "x", ROOT_2_OVER_PI), ("Add", ("Mul", ("Mul", "x", 0.044715), "x"), 1.0))),
        1.0,
    ),
}
FORMS = {
    f"{half}, {name}": tree
    for name, gate in GATES.items()
    for half, tree in {
        "(x / 2) gate": ("Mul", ("Mul", "x", 0.5), gate),
        "(x gate) / 2": ("Mul", ("Mul", "x", gate), 0.5),
    }.items()
}


def swaps(tree):
    """The tree with the operands of its sums and products in every order."""
    if not isinstance(tree, tuple):
        return [tree]
    op, *parts = tree
    orders = [parts, parts[::-1]] if op in ("Mul", "Add") else [parts]
    return [(op, *chosen) for order in orders for chosen in itertools.product(*(swaps(p) for p in order))]


def expression_model(trees, inputs=("x",)):
    """A graph with one output for each tree of ("Op", operand ...), "input name" or number."""
    nodes, constants = [], {}
    given = {n: ir.val(n, dtype=ir.DataType.FLOAT, shape=["n"]) for n in inputs}

    def value(tree):
        if isinstance(tree, str):
            return given[tree]
        if isinstance(tree, float):
            # Each use has a constant of its own, as the exporter leaves them.
            made = ir.val(f"c{len(constants)}", const_value=ir.tensor(np.float32(tree), name=f"c{len(constants)}"))
            constants[made.name] = made
            return made
        node = ir.node(tree[0], [value(t) for t in tree[1:]])
        node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(["n"])
        nodes.append(node)
        return node.outputs[0]

    outputs = [value(tree) for tree in trees]
    for i, output in enumerate(outputs):
        output.name = f"y{i}"
    graph = ir.Graph(
        list(given.values()),
        outputs,
        nodes=nodes,
        initializers=list(constants.values()),
        opset_imports={"": OPSET},
        name="g",
    )
    return ir.Model(graph, ir_version=10)


def run(model, **feeds):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


POINTS = np.concatenate([np.linspace(-9, 9, 1001), [0.0, -0.0, 1e-6, 30, -30]]).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_spell_gelu_is_fused(form):
    trees = swaps(FORMS[form])
    assert len(set(trees)) == len(trees) >= 8
    trees = trees[:: max(1, len(trees) // 16)] + trees[-1:]
    model = expression_model(trees)
    truth = torch.nn.functional.gelu(
        torch.from_numpy(POINTS).double(), approximate="tanh" if "tanh" in form else "none"
    ).numpy()
    for output in run(model, x=POINTS):  # the graph made here is GELU to begin with
        np.testing.assert_allclose(output, truth, atol=2e-6)
    assert fuse_gelu(model) == len(trees)
    assert ops(model.graph) == {"Gelu": len(trees)}
    for output in run(model, x=POINTS):
        np.testing.assert_allclose(output, truth, atol=2e-6)


def changed(tree, old, new):
    if isinstance(tree, tuple):
        return tuple(changed(t, old, new) for t in tree)
    return new if tree == old else tree


@pytest.mark.parametrize("form", FORMS)
def test_what_is_almost_gelu_is_left_alone(form):
    tree = FORMS[form]
    wrong = {
        0.5: 0.6,
        1.0: 1.1,
        3.0: 2.0,
        0.044715: 0.05,
        ROOT_2_OVER_PI: 0.79,
        ROOT_HALF: 0.7,
        math.sqrt(2): 1.4,
        "Add": "Sub",
        "Erf": "Tanh",
        "Tanh": "Erf",
    }
    used = [(old, new) for old, new in wrong.items() if changed(tree, old, new) != tree]
    assert len(used) >= 4
    model = expression_model([changed(tree, old, new) for old, new in used])
    before = run(model, x=POINTS)
    assert fuse_gelu(model) == 0
    assert "Gelu" not in ops(model.graph)
    for a, b in zip(before, run(model, x=POINTS), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_gate_over_another_input_is_not_gelu(form):
    """x / 2 * (1 + erf(z / sqrt 2)) is a gated linear unit."""
    op, *parts = FORMS[form]
    parts = [changed(p, "x", "z") if isinstance(p, tuple) and p[0] == "Add" else p for p in parts]
    parts = [
        (p[0], p[1], changed(p[2], "x", "z"))
        if isinstance(p, tuple) and p[0] == "Mul" and isinstance(p[2], tuple)
        else p
        for p in parts
    ]
    model = expression_model([(op, *parts)], inputs=("x", "z"))
    assert fuse_gelu(model) == 0
    got = run(model, x=POINTS, z=POINTS[::-1].copy())[0]
    assert not np.allclose(got, torch.nn.functional.gelu(torch.from_numpy(POINTS)).numpy(), atol=1e-2)


# ---- NaN guards


def guard_model(before, test, kept):
    return parsed(f"""
        g (float[n, m] x) => (float[n, m] y)
        <float zero = {{0}}>
        {{ p = {before} (x)
           q = Relu (x)
           bad = IsNaN ({test})
           y = Where (bad, zero, {kept}) }}""")


def parsed(text):
    model = parse_model('<ir_version: 10, opset_import: ["" : 20]>' + text)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))


def test_a_nan_guard_behind_softmax_goes():
    model = guard_model("Softmax", "p", "p")
    assert _clean.drop_nan_guards(model.graph) == 1
    assert "Where" not in ops(model.graph)
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_allclose(run(model, x=x)[0], torch.softmax(torch.from_numpy(x), -1).numpy(), rtol=1e-6)


@pytest.mark.parametrize(("before", "test", "kept"), [("Log", "p", "p"), ("Softmax", "q", "p"), ("Softmax", "p", "q")])
def test_another_nan_guard_stays(before, test, kept):
    model = guard_model(before, test, kept)
    assert _clean.drop_nan_guards(model.graph) == 0
    assert ops(model.graph)["Where"] == 1


def open_mask_model(visible="1, 1, 1", added="0", heads=1):
    return parsed(f"""
        g (float[n, 1, 3, 3] scores) => (float[n, m, 3, 3] y)
        <bool[1, 1, 1, 3] visible = {{{visible}}}, int64[4] wide = {{1, {heads}, 3, 3}}, float zero = {{{added}}}, float hidden = {{-10000}}>
        {{ spread = Expand (visible, wide)
           mask = Where (spread, zero, hidden)
           sum = Add (scores, mask)
           y = Softmax (sum) }}""")


def test_a_mask_that_hides_nothing_goes():
    model = open_mask_model()
    assert _clean.drop_open_masks(model.graph) == 1
    assert ops(model.graph)["Add"] == 0
    x = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(run(model, scores=x)[0], torch.softmax(torch.from_numpy(x), -1).numpy(), rtol=1e-6)


@pytest.mark.parametrize("other", [{"visible": "1, 0, 1"}, {"added": "1"}, {"heads": 2}])
def test_a_mask_that_hides_or_adds_or_widens_stays(other):
    model = open_mask_model(**other)
    assert _clean.drop_open_masks(model.graph) == 0
    assert ops(model.graph)["Add"] == 1


# ---- masks

HEAD = """
    g (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask) => (float[batch, 1, sequence, sequence] y)
    <float one = {1}, float zero = {0}, float low = {0}, float tenth = {0.1}, int64[2] axes = {1, 2}, int64[2] rows = {1, 3},
     int64[1] first = {0}, int64[1] last = {1}, int64 start = {0}, int64 step = {1}, int64 place = {1}, int64 reach = {REACH}>
    { ids = Cast <to = 1> (input_ids)
      key = Unsqueeze (ids, axes)
      query = Unsqueeze (ids, rows)
      product = Mul (query, key)
      scores = Mul (product, tenth)
      kept = Cast <to = 1> (attention_mask)
      hidden = Sub (one, kept)
      wide = Unsqueeze (hidden, axes)
      lowered = Mul (wide, low)
      seen = Cast <to = 9> (attention_mask)
      keys = Unsqueeze (seen, axes)
      sizes = Shape (attention_mask)
      size = Gather (sizes, place)
      positions = Range (start, size, step)
      column = Unsqueeze (positions, last)
      row = Unsqueeze (positions, first)
      before = LessOrEqual (row, column)
      offset = Sub (column, row)
      distance = Abs (offset)
      near = LessOrEqual (distance, reach)
      BODY
      y = Softmax <axis = -1> (masked) }"""
BODIES = {
    "plain, added": "masked = Add (scores, lowered)",
    "plain, added, swapped": "masked = Add (lowered, scores)",
    "plain, where": "masked = Where (keys, scores, low)",
    "plain, where hidden": "gone = Not (keys)  masked = Where (gone, low, scores)",
    "window, where": "both = And (keys, near)  masked = Where (both, scores, low)",
    "window, added": "both = And (keys, near)  made = Where (both, zero, low)  masked = Add (scores, made)",
    "causal, where": "both = And (keys, before)  masked = Where (both, scores, low)",
    "causal, added": "both = And (keys, before)  made = Where (both, zero, low)  masked = Add (scores, made)",
    "causal window, added": "half = And (keys, before)  both = And (half, near)  made = Where (both, zero, low)  masked = Add (scores, made)",
    "soft, added": "made = Mul (wide, tenth)  masked = Add (scores, made)",
    "soft, where": "masked = Where (keys, scores, zero)",
}


def mask_model(body, reach=3, low=LOWEST):
    model = parsed(HEAD.replace("BODY", "\n".join(BODIES[body].split("  "))).replace("REACH", str(reach)))
    model.graph.initializers["low"].const_value = ir.tensor(np.float32(low), name="low")  # the parser knows no infinity
    return model


def mask_truth(body, ids, mask, reach):
    """Softmax over the keys that a query may see, by numpy."""
    length = ids.shape[1]
    scores = ids[:, None, :, None] * ids[:, None, None, :] * 0.1
    apart = np.arange(length)[:, None] - np.arange(length)[None, :]
    seen = np.broadcast_to(mask[:, None, None, :] > 0, scores.shape).copy()
    if "window" in body:
        seen &= np.abs(apart) <= reach
    if "causal" in body:
        seen &= apart >= 0
    with np.errstate(invalid="ignore"):
        weights = np.where(seen, np.exp(scores - np.where(seen, scores, -np.inf).max(axis=-1, keepdims=True)), 0)
        return weights / weights.sum(axis=-1, keepdims=True), seen


def assert_mask(model, body, reach, lengths=(1, 2, 6, 20), atol=1e-5):
    """The graph's softmax is numpy's wherever a query that counts sees a key."""
    choose = np.random.default_rng(0)
    for length in lengths:
        ids, mask = choose.integers(-4, 5, (3, length)), np.ones((3, length), np.int64)
        mask[1, (length + 1) // 2 :] = 0
        mask[2, length // 3 + 1 : length // 3 + 2] = 0
        truth, seen = mask_truth(body, ids, mask, reach)
        asked = (mask[:, None, :, None] > 0) & seen.any(axis=-1, keepdims=True)
        got = run(model, input_ids=ids, attention_mask=mask)[0]
        np.testing.assert_allclose(np.where(asked, got, 0), np.where(asked, truth, 0), atol=atol)


PADDING = [
    (b, low)
    for b in BODIES
    if b.startswith("plain")
    for low in (LOWEST, -1e9, -math.inf)
    if "added" not in b or low > -math.inf
]


@pytest.mark.parametrize(("body", "low"), PADDING)
def test_a_padding_mask_is_replaced(body, low):
    model = mask_model(body, low=low)
    assert_mask(model, body, None)
    assert _mask.canonical_masks(model, 64) == 1
    _clean.sweep(model)
    assert {v.name for node in model.graph for v in node.outputs} >= {"mask_additive"}
    assert "And" not in ops(model.graph)
    assert smallest(model) == -10000
    assert_mask(model, body, None)


def smallest(model):
    return min(float(a.min()) for v in model.graph.initializers.values() if (a := constant(v)) is not None and a.size)


@pytest.mark.parametrize("body", [b for b in BODIES if b.startswith("window")])
@pytest.mark.parametrize("reach", [1, 3, 4, 5, 31, 32, 33, 64, 300])
def test_a_sliding_window_is_recognised(body, reach):
    """ModernBERT's reaches 64 to each side, farther than a short probe shows."""
    model = mask_model(body, reach)
    assert _mask.canonical_masks(model, 8192) == 1
    _clean.sweep(model)
    names = {v.name for node in model.graph for v in node.outputs}
    assert f"mask_additive_window_{reach}" in names
    assert smallest(model) == -10000
    assert_mask(model, body, reach, lengths=(1, 2, reach, reach + 1, reach + 2, 3 * reach))


def test_a_window_wider_than_the_model_is_no_window():
    model = mask_model("window, where", reach=64)
    assert _mask.canonical_masks(model, 32) == 1
    assert not any("window" in v.name for node in model.graph for v in node.outputs if v.name.startswith("mask_"))
    assert_mask(model, "window, where", 64, lengths=(1, 5, 32))


@pytest.mark.parametrize("body", [b for b in BODIES if b.startswith(("causal", "soft"))])
def test_another_mask_is_left_alone(body):
    model = mask_model(body)
    before = ops(model.graph)
    assert _mask.canonical_masks(model, 64) == 0
    assert ops(model.graph) == before


@pytest.mark.parametrize("body", [b for b in BODIES if b.startswith("causal")])
@pytest.mark.parametrize("low", [LOWEST, -math.inf])
def test_a_mask_that_is_not_recognised_becomes_finite(body, low):
    model = mask_model(body, low=low)
    _clean.clean(model, 64)
    assert smallest(model) == -10000
    assert_mask(model, body, 3)


def test_a_graph_without_a_mask_is_left_alone():
    model = expression_model([("Add", "x", 1.0)])
    assert _mask.canonical_masks(model, 64) == 0


# ---- shapes and positions


def reshape_model(result):
    """Its input's first two axes vary; the shape is put together at run time."""
    return parsed(f"""
        g (float[batch, sequence, 32] x) => (float[{result}] y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] four = {{4}}, int64[1] eight = {{8}}>
        {{ sizes = Shape (x)
           b = Slice (sizes, zero, one)
           s = Slice (sizes, one, two)
           both = Mul (b, s)
           thirtytwo = Mul (four, eight)
           shape = Concat <axis = 0> ({"b, s, four, eight" if result.count(",") == 3 else "s, b, thirtytwo" if result.startswith("s") else "both, thirtytwo"})
           y = Reshape (x, shape) }}""")


@pytest.mark.parametrize(("result", "expected"), [("batch, sequence, 4, 8", [0, 0, 4, 8]), ("rows, 32", [-1, 32])])
def test_a_shape_that_can_be_a_constant_becomes_one(result, expected):
    model = reshape_model(result)
    x = np.random.default_rng(0).normal(size=(3, 7, 32)).astype(np.float32)
    before = run(model, x=x)[0]
    assert _clean.static_reshapes(model.graph) == 1
    (node,) = [n for n in model.graph if n.op_type == "Reshape"]
    assert constant(node.inputs[1]).tolist() == expected
    _clean.sweep(model)
    assert set(ops(model.graph)) == {"Reshape"}
    np.testing.assert_array_equal(run(model, x=x)[0], before)


def test_a_shape_with_two_unknowns_stays():
    model = reshape_model("sequence, batch, 32")
    assert _clean.static_reshapes(model.graph) == 0


@pytest.mark.parametrize(("first", "count"), [(0, 1), (2, 1), (None, 0)])
def test_positions_are_a_slice_of_the_table(first, count):
    """Gather by 0..n (or by 2..n+2, as RoBERTa counts) is a slice; by anything else it stays."""
    table = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    ids = np.array([[3, 1, 4, 1, 5, 9, 2, 6]] if first is None else [range(first, first + 8)], np.int64)
    model = parsed(
        """
        g (int64[1] size) => (float[1, n, 4] y)
        <float[10, 4] table = {0}, int64[1, 8] ids = {0}, int64[1] zero = {0}, int64[1] one = {1}>
        { cut = Slice (ids, zero, size, one, one)
          y = Gather <axis = 0> (table, cut) }""".replace(
            "table = {0}", "table = {" + ", ".join(["0"] * 40) + "}"
        ).replace("ids = {0}", "ids = {" + ", ".join(["0"] * 8) + "}")
    )
    model.graph.initializers["table"].const_value = ir.tensor(table, name="table")
    model.graph.initializers["ids"].const_value = ir.tensor(ids, name="ids")
    assert _clean.slice_positions(model.graph) == count
    _clean.sweep(model)
    assert ("Gather" in ops(model.graph)) == (count == 0)
    for size in (1, 5, 8):
        np.testing.assert_array_equal(run(model, size=np.array([size]))[0], table[ids[:, :size]])
