"""The last layer for the positions that the head reads: graphs made by hand, before and after, in ONNX Runtime."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny
import torch
import transformers
from onnx.parser import parse_model

from edgekit import source
from edgekit.export import _clean
from edgekit.export._axes import MixedAxis, input_axes
from edgekit.export._flat import unflatten_products
from edgekit.export._positions import restrict_positions
from edgekit.export.graphs import export
from edgekit.quantize import tensorrt_rules
from edgekit.quantize.graphs import linears

SIZES = ((1, 1), (1, 6), (3, 5), (2, 33))  # rows and tokens

HEADS = {  # what torch.onnx.export makes of a classifier's pooling, and the number of positions
    "x[:, 0]": ("y = Gather <axis = 1> (s, i0)", "float[batch, 16]", 1),
    "x[:, -1]": ("y = Gather <axis = 1> (s, im1)", "float[batch, 16]", 1),
    "x[:, [0]]": ("y = Gather <axis = 1> (s, i0v)", "float[batch, 1, 16]", 1),
    "x[:, :1]": ("y = Slice (s, i0v, i1v, i1v, i1v)", "float[batch, 1, 16]", 1),
    "x[:, -1:]": ("y = Slice (s, im1v, end, i1v)", "float[batch, 1, 16]", 1),
    "first and last": (
        "a = Gather <axis = 1> (s, i0)  z = Gather <axis = 1> (s, im1)  y = Concat <axis = 1> (a, z)",
        "float[batch, 32]",
        2,
    ),
    "x[arange, last]": (
        """rows = Range (i0, count, i1)  row = Unsqueeze (rows, i1v)  at = Unsqueeze (last, i1v)
        both = Concat <axis = -1> (row, at)  y = GatherND (s, both)""",
        "float[batch, 16]",
        1,
    ),
    "x.gather(1, last)": (
        """one = Unsqueeze (last, axes12)  sizes = Concat <axis = 0> (count1, i1v, width)
        wide = Expand (one, sizes)  y = GatherElements <axis = 1> (s, wide)""",
        "float[batch, 1, 16]",
        1,
    ),
    "score, then x[arange, last]": (
        """t = MatMul (s, w_score)  rows = Range (i0, count, i1)
        row = Unsqueeze (rows, i1v)  at = Unsqueeze (last, i1v)  both = Concat <axis = -1> (row, at)
        y = GatherND (t, both)""",
        "float[batch, 3]",
        1,
    ),
}
WHOLE_HEADS = {  # heads that read every position
    "every token": ("y = Tanh (s)", "float[batch, sequence, 16]"),
    "mean": ("y = ReduceMean <keepdims = 0> (s, i1v)", "float[batch, 16]"),
    "first and every token": ("a = Gather <axis = 1> (s, i0v)  y = Add (a, s)", "float[batch, sequence, 16]"),
    "two tokens of a slice": ("y = Slice (s, i0v, width, i1v)", "float[batch, m, 16]"),
    "the second token, if there is one": ("y = Slice (s, i1v, i2v, i1v)", "float[batch, m, 16]"),
    "none": ("y = Slice (s, im1v, i0v, i1v)", "float[batch, m, 16]"),
    "a feature of every token": ("y = Gather <axis = 2> (s, i0)", "float[batch, sequence]"),
}
QKV = {
    "separate": """qm = MatMul (x, w_q)  q = Add (qm, b_q)  km = MatMul (x, w_k)  k = Add (km, b_k)
        vm = MatMul (x, w_v)  v = Add (vm, b_v)""",
    "packed, split": "qkvm = MatMul (x, w_qkv)  qkv = Add (b_qkv, qkvm)  q, k, v = Split <axis = 2, num_outputs = 3> (qkv)",
    "packed, sliced": """qkv = MatMul (x, w_qkv)  five = Reshape (qkv, shape5)
        q5 = Slice (five, i0v, i1v, i2v)  q = Squeeze (q5, i2v)  k5 = Slice (five, i1v, i2v, i2v)  k = Squeeze (k5, i2v)
        v5 = Slice (five, i2v, end, i2v)  v = Squeeze (v5, i2v)""",
    "packed, gathered": """qkv = MatMul (x, w_qkv)  five = Reshape (qkv, shape5)
        q = Gather <axis = 2> (five, i0)  k = Gather <axis = 2> (five, i1)  v = Gather <axis = 2> (five, i2)""",
}
MASKS = {
    "padding": "masked = Add (scaled, padding)",
    "none": "masked = Identity (scaled)",
    "causal, four axes": """keys = Unsqueeze (positions, i0v)  queries = Unsqueeze (positions, i1v)
        seen = LessOrEqual (keys, queries)  causal = Where (seen, zero, low)  causal4 = Unsqueeze (causal, axes01)
        masked = Add (scaled, causal4)""",
    "causal": """keys = Unsqueeze (positions, i0v)  queries = Unsqueeze (positions, i1v)  seen = LessOrEqual (keys, queries)
        causal = Where (seen, zero, low)  masked = Add (scaled, causal)""",
    "causal and padding": """keys = Unsqueeze (positions, i0v)  queries = Unsqueeze (positions, i1v)
        seen = LessOrEqual (keys, queries)  causal = Where (seen, zero, low)  both4 = Add (padding, causal)
        masked = Add (scaled, both4)""",
}
NORMS = {
    "layer norm": "n = LayerNormalization (r, w_n, b_n)",
    "rms norm": """square = Pow (r, two)  mean = ReduceMean <keepdims = 1> (square, im1v)  shifted = Add (mean, tiny)
        root = Sqrt (shifted)  inverse = Reciprocal (root)  scaled_r = Mul (r, inverse)  n = Mul (w_n, scaled_r)""",
}
BODY = """
    g (float[batch, sequence, 16] x, float[batch, 1, 1, sequence] padding, int64[batch] last,
       int64[sequence] positions) => (OUTPUT y)
    <int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64 im1 = {-1}, int64[1] i0v = {0}, int64[1] i1v = {1},
     int64[1] i2v = {2}, int64[1] im1v = {-1}, int64[1] end = {9223372036854775807}, int64[1] width = {16},
     int64[2] axes01 = {0, 1}, int64[2] axes12 = {1, 2}, int64[4] shape4 = {0, 0, 2, 8}, int64[3] shape3 = {0, 0, 16},
     int64[4] shape5 = {0, 0, 3, 16}, float scale = {0.35}, float zero = {0}, float low = {-10000}, float two = {2},
     float tiny = {0.00001}, float[16, 16] w_q = {}, float[16, 16] w_k = {}, float[16, 16] w_v = {},
     float[16] b_q = {}, float[16] b_k = {}, float[16] b_v = {}, float[16, 48] w_qkv = {}, float[48] b_qkv = {},
     float[16, 16] w_o = {}, float[16] b_o = {}, float[16] w_n = {}, float[16] b_n = {}, float[16, 64] w_f = {},
     float[32, 16] w_g = {}, float[16, 16] w_score = {}, float[1, 2, sequence, 8] unused = {}>
    { sizes_x = Shape (x)  count = Gather (sizes_x, i0)  count1 = Slice (sizes_x, i0v, i1v)
      QKV
      q4 = Reshape (q, shape4)  qt = Transpose <perm = [0, 2, 1, 3]> (q4)
      k4 = Reshape (k, shape4)  kt = Transpose <perm = [0, 2, 3, 1]> (k4)
      v4 = Reshape (v, shape4)  vt = Transpose <perm = [0, 2, 1, 3]> (v4)
      scores = MatMul (qt, kt)  scaled = Mul (scores, scale)
      MASK
      p = Softmax <axis = -1> (masked)
      c = MatMul (p, vt)  ct = Transpose <perm = [0, 2, 1, 3]> (c)  joined = Reshape (ct, shape3)
      om = MatMul (joined, w_o)  o = Add (om, b_o)  r = Add (o, x)
      NORM
      f = MatMul (n, w_f)  gate, up = Split <axis = -1, num_outputs = 2> (f)  act = Gelu (gate)  mixed = Mul (act, up)
      h = MatMul (mixed, w_g)  s = Add (h, n)
      HEAD }"""


def encoder(head, output, qkv="separate", mask="padding", norm="layer norm"):
    """One layer of an encoder with random weights."""
    text = BODY.replace("float[1, 2, sequence, 8] unused = {}", "int64 unused = {0}").replace("OUTPUT", output)
    text = text.replace("QKV", QKV[qkv]).replace("MASK", MASKS[mask]).replace("NORM", NORMS[norm]).replace("HEAD", head)
    proto = parse_model('<ir_version: 10, opset_import: ["" : 20]>' + text.replace("= {}", "= {0}"))
    choose = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        if tensor.name[:2] in ("w_", "b_"):
            shape = (16, 3) if tensor.name == "w_score" else tuple(tensor.dims)
            array = choose.standard_normal(shape).astype(np.float32) / 4
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    _clean.sweep(model)
    return model


def feeds_of(batch, length, seed=0):
    choose = np.random.default_rng(seed)
    counts = choose.integers(1, length + 1, batch)
    padding = np.where(np.arange(length) < counts[:, None], 0, -10000).astype(np.float32)
    return {
        "x": choose.standard_normal((batch, length, 16)).astype(np.float32),
        "padding": padding[:, None, None, :],
        "last": counts - 1,
        "positions": np.arange(length),
    }


def run(model, feeds):
    """The output, and the shape of every product of an activation with a weight when it runs."""
    copy = model.clone()
    weights = set(copy.graph.initializers)
    products = [node for node in copy.graph if node.op_type in ("MatMul", "Gemm") and node.inputs[1].name in weights]
    copy.graph.outputs.extend(node.outputs[0] for node in products)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(ir.to_proto(copy).SerializeToString(), options)
    read = {value.name for value in session.get_inputs()}
    output, *values = session.run(None, {name: array for name, array in feeds.items() if name in read})
    return output, {node.inputs[1].name: value.shape for node, value in zip(products, values, strict=True)}


def macs(model, length):
    """Multiply-accumulates of the products with weights for one row of a length, as they run."""
    _, shapes = run(model, feeds_of(1, length))
    inputs = {name: value.shape[0] for name, value in model.graph.initializers.items() if name in shapes}
    return sum(int(np.prod(shape)) * inputs[name] for name, shape in shapes.items())


def assert_restricted(model, size):
    """Before and after are equal for all sizes, and only keys and values are computed for all positions."""
    before = [run(model, feeds_of(*sizes))[0] for sizes in SIZES]
    assert restrict_positions(model) > 0
    _clean.sweep(model)
    _clean.name_nodes(model.graph)
    _clean.pack_projections(model.graph)
    _clean.sweep(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for sizes, expected in zip(SIZES, before, strict=True):
        output, _ = run(model, feeds_of(*sizes))
        np.testing.assert_allclose(output, expected, atol=2e-5)
    length = 50
    keys_and_values = length * 16 * 32
    others = size * (16 * 16 + 16 * 16 + 16 * 64 + 32 * 16)
    score = 16 * 3 * size if any(value.shape == (16, 3) for value in model.graph.initializers.values()) else 0
    assert macs(model, length) == keys_and_values + others + score
    assert all(value.dtype is not None for node in model.graph for value in node.outputs)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("qkv", ["separate", "packed, split"])
def test_only_the_positions_of_the_head_are_computed(head, qkv):
    text, output, size = HEADS[head]
    assert_restricted(encoder(text, output, qkv), size)


@pytest.mark.parametrize("head", ["x[:, 0]", "x[arange, last]", "x.gather(1, last)"])
@pytest.mark.parametrize("qkv", ["packed, sliced", "packed, gathered"])
@pytest.mark.parametrize("norm", NORMS)
def test_forms_of_packed_projections_and_norms(head, qkv, norm):
    text, output, size = HEADS[head]
    assert_restricted(encoder(text, output, qkv, norm=norm), size)


@pytest.mark.parametrize("head", ["x[:, 0]", "x[:, -1]", "first and last", "x[arange, last]", "x.gather(1, last)"])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_lose_the_other_queries(head, mask):
    text, output, size = HEADS[head]
    model = encoder(text, output, mask=mask)
    assert_restricted(model, size)
    (softmax,) = [node for node in model.graph if node.op_type == "Softmax"]
    assert list(softmax.outputs[0].shape)[2] == size


@pytest.mark.parametrize("head", WHOLE_HEADS)
@pytest.mark.parametrize("qkv", QKV)
def test_a_head_that_reads_every_position_changes_nothing(head, qkv):
    model = encoder(*WHOLE_HEADS[head], qkv)
    before = ir.to_proto(model).SerializeToString()
    assert restrict_positions(model) == 0
    assert ir.to_proto(model).SerializeToString() == before


def test_a_hidden_state_that_is_an_output_too_is_computed_as_a_whole():
    model = encoder(*HEADS["x[:, 0]"][:2])
    hidden = next(value for node in model.graph for value in node.outputs if value.name == "s")
    model.graph.outputs.append(hidden)
    assert restrict_positions(model) == 0


def test_positions_that_depend_on_the_hidden_state_are_computed_from_all_of_it():
    """The token with the largest feature is known only after the last layer has seen every token."""
    head = """largest = ReduceMax <keepdims = 0> (s, i2v)  chosen = ArgMax <axis = 1, keepdims = 0> (largest)
        rows = Range (i0, count, i1)  row = Unsqueeze (rows, i1v)  at = Unsqueeze (chosen, i1v)
        both = Concat <axis = -1> (row, at)  y = GatherND (s, both)"""
    assert restrict_positions(encoder(head, "float[batch, 16]")) == 0


def test_rows_in_another_order_are_not_selected():
    """Row i of the output is the last row but i of the hidden state."""
    head = """negative = Neg (count)  limit = Add (negative, im1)  rows = Range (im1, limit, im1)
        row = Unsqueeze (rows, i1v)  at = Unsqueeze (last, i1v)  both = Concat <axis = -1> (row, at)
        y = GatherND (s, both)"""
    model = encoder(head, "float[m, 16]")
    assert run(model, feeds_of(3, 5))[0].shape == (3, 16)
    assert restrict_positions(model) == 0


def test_a_value_that_is_read_along_two_axes_is_computed_as_a_whole():
    """The first row of a + a^T needs the first row and the first column of a."""
    head = """xt = Transpose <perm = [0, 2, 1]> (x)  low_x = MatMul (x, w_q)  inner = MatMul (low_x, xt)  a = Tanh (inner)
        at = Transpose <perm = [0, 2, 1]> (a)  both = Add (a, at)  sums = MatMul (both, x)
        last_layer = MatMul (sums, w_k)  y = Gather <axis = 1> (last_layer, i0)"""
    model = encoder(head, "float[batch, 16]")
    feeds = [feeds_of(*sizes) for sizes in SIZES]
    expected = [run(model, rows)[0] for rows in feeds]
    assert restrict_positions(model) == 1
    for rows, array in zip(feeds, expected, strict=True):
        output, shapes = run(model, rows)
        np.testing.assert_allclose(output, array, rtol=1e-4, atol=1e-4)
        assert (shapes["w_q"][1], shapes["w_k"][1]) == (rows["x"].shape[1], 1)


@pytest.mark.parametrize("head", ["x[:, 0]", "first and last", "x[arange, last]", "x.gather(1, last)"])
def test_openvino_computes_the_same(head, tmp_path):
    text, output, _ = HEADS[head]
    model = encoder(text, output, mask="causal and padding")
    feeds = [feeds_of(*sizes) for sizes in SIZES]
    expected = [run(model, rows)[0] for rows in feeds]
    assert restrict_positions(model) > 0
    _clean.sweep(model)
    ir.save(model, tmp_path / "model.onnx")
    library = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = library.Core().compile_model(str(tmp_path / "model.onnx"), "CPU", settings)
    names = {port.get_any_name() for port in compiled.inputs}
    for rows, array in zip(feeds, expected, strict=True):
        result = compiled({name: value for name, value in rows.items() if name in names})
        np.testing.assert_allclose(result[0], array, atol=2e-5)


@pytest.mark.parametrize("head", HEADS)
def test_tensorrt_takes_it(head):
    """By the rules for every release, and by the parser and builder of TensorRT-RTX, which need no GPU."""
    text, output, _ = HEADS[head]
    model = encoder(text, output, mask="causal and padding")
    assert restrict_positions(model) > 0
    _clean.sweep(model)
    tensorrt_rules.lint(model.graph, "model.onnx")
    tensorrt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    taken = parser.parse(ir.to_proto(model).SerializeToString())
    assert taken, [parser.get_error(index).desc() for index in range(parser.num_errors)]


def decoder(name):
    """A tiny classifier of Transformers that reads the last token: rotary positions, or Q, K and V packed by Conv1D."""
    common = {"vocab_size": 200, "pad_token_id": 0, "num_labels": 3, "use_cache": False}
    if name == "llama":
        size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = transformers.LlamaConfig(**size, **common, num_key_value_heads=2, max_position_embeddings=64)
        kind = transformers.LlamaForSequenceClassification
    else:
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **common)
        kind = transformers.GPT2ForSequenceClassification
    model = kind._from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_classifiers_that_read_the_last_token(name, tmp_path):
    """The export itself compares with torch, in ragged batches too; here the layers of the last token are counted."""
    tokens = tiny.tokenizer("distilbert")
    (graph,) = export(source.from_module(decoder(name), tokens), tmp_path, tiny.TEXTS).graphs
    layers = linears(ir.load(graph.path).graph)
    selected = [layer for layer in layers if list(layer.x.shape)[-2] == 1]
    # Q, the attention's output and two of the feed-forward network; all four of the first layer, and K and V in one.
    assert (len(selected), len(layers) - len(selected)) == (4, 5)


def test_a_product_of_flattened_rows_gets_its_axes_back():
    text = """
        g (float[batch, sequence, 4, 8] x) => (float[batch, sequence, 48] y)
        <float[32, 48] w = {0}, float[48] b = {0}, int64[2] flat = {-1, 32}, int64[1] i0 = {0}, int64[1] i1 = {1},
         int64[1] i2 = {2}, int64[1] n = {48}>
        { f = Reshape (x, flat)  p = Gemm (f, w, b)  sizes = Shape (x)  rows = Slice (sizes, i0, i2)
          shape = Concat <axis = 0> (rows, n)  y = Reshape (p, shape) }"""
    proto = parse_model('<ir_version: 10, opset_import: ["" : 20]>' + text)
    choose = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        if tensor.name in ("w", "b"):
            array = choose.standard_normal(tuple(tensor.dims)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    feeds = {"x": choose.standard_normal((3, 5, 4, 8)).astype(np.float32)}
    before, _ = run(model, feeds)
    assert linears(model.graph) == []
    assert unflatten_products(model.graph) == 1
    _clean.sweep(model)
    assert [layer.bias is not None for layer in linears(model.graph)] == [True]
    assert [node.op_type for node in model.graph] == ["Reshape", "MatMul", "Add"]
    np.testing.assert_allclose(run(model, feeds)[0], before, atol=1e-5)


def test_layers_without_a_bias_are_packed_as_well():
    """Those with one and those without stay apart."""
    text = """
        g (float[batch, sequence, 16] x) => (float[batch, sequence, 16] a, float[batch, sequence, 16] b,
            float[batch, sequence, 16] c, float[batch, sequence, 16] d)
        <float[16, 16] w_a = {0}, float[16, 16] w_b = {0}, float[16, 16] w_c = {0}, float[16, 16] w_d = {0}, float[16] b_d = {0}>
        { a = MatMul (x, w_a)  b = MatMul (x, w_b)  c = MatMul (x, w_c)  m = MatMul (x, w_d)  d = Add (m, b_d) }"""
    proto = parse_model('<ir_version: 10, opset_import: ["" : 20]>' + text)
    choose = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        array = choose.standard_normal(tuple(tensor.dims)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    feeds = {"x": choose.standard_normal((2, 3, 16)).astype(np.float32)}

    def outputs():
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
        return session.run(None, feeds)

    before = outputs()
    assert _clean.pack_projections(model.graph) == 1
    _clean.sweep(model)
    assert sorted(int(layer.weight.shape[1]) for layer in linears(model.graph)) == [16, 48]
    for array, expected in zip(outputs(), before, strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-6)


# ---- one operator: selected inputs give the selected output

NODES = [
    "Add(f[b,s,4], f[4]) f[b,s,4]",
    "Add(f[b,2,s,s], f[b,1,1,s]) f[b,2,s,s]",
    "Where(b[b,1,s,s], f[b,2,s,s], f[]) f[b,2,s,s]",
    "MatMul(f[b,2,s,4], f[b,2,4,t]) f[b,2,s,t]",
    "MatMul(f[b,s,4], f[4,3]) f[b,s,3]",
    "LayerNormalization<axis=-1>(f[b,s,4], f[4], f[4]) f[b,s,4]",
    "Softmax<axis=-1>(f[b,2,s,t]) f[b,2,s,t]",
    "ReduceSum<keepdims=1>(f[b,s,4], i{-1}) f[b,s,1]",
    "ReduceSum<keepdims=0>(f[b,2,s,4], i{1}) f[b,s,4]",
    "Concat<axis=-1>(f[b,s,4], f[b,s,3]) f[b,s,7]",
    "Slice(f[b,s,4], i{1}, i{3}, i{2}) f[b,s,2]",
    "Gather<axis=1>(f[b,2,s,4], i{1}) f[b,1,s,4]",
    "Gather<axis=0>(f[9,4], i[b,s]) f[b,s,4]",
    "GatherElements<axis=-1>(f[b,s,4], i[b,s,3]) f[b,s,3]",
    "Transpose<perm=[0,2,1,3]>(f[b,s,2,4]) f[b,2,s,4]",
    "Squeeze(f[b,1,s,4], i{1}) f[b,s,4]",
    "Unsqueeze(f[b,s,4], i{1}) f[b,1,s,4]",
    "Reshape(f[b,s,8], i{0,0,2,4}) f[b,s,2,4]",
    "Reshape(f[b,s,2,4], i{0,0,8}) f[b,s,8]",
]
NAMED = {"b": 3, "s": 5, "t": 6, "u": 10}


def parse_node(text):
    """The node with its shapes, and arrays for its inputs."""
    call, result = text.rsplit(" ", 1)
    op, attributes, inputs = re.fullmatch(r"(\w+)(?:<(.*)>)?\((.*)\)", call).groups()
    choose = np.random.default_rng(0)
    values, arrays = [], []
    for index, item in enumerate(re.findall(r"[fbi](?:\[[^\]]*\]|\{[^}]*\})", inputs)):
        kind, body = item[0], item[2:-1].split(",") if item[2:-1] else []
        if item[1] == "{":
            array = np.array([int(n) for n in body], np.int64)
            value = ir.val(f"i{index}", const_value=ir.tensor(array, name=f"i{index}"))
        else:
            dims = [NAMED.get(n) or int(n) for n in body]
            drawn = {
                "f": choose.standard_normal(dims),
                "b": choose.random(dims) > 0.5,
                "i": choose.integers(0, 4, dims),
            }
            array = np.asarray(drawn[kind], {"f": np.float32, "b": np.bool_, "i": np.int64}[kind])
            value = ir.val(f"i{index}", dtype=ir.DataType.from_numpy(array.dtype), shape=symbolic(body))
        values.append(value)
        arrays.append(array)
    settings = {}
    for pair in re.findall(r"(\w+)=(\[[^\]]*\]|-?\d+)", attributes or ""):
        settings[pair[0]] = [int(n) for n in pair[1][1:-1].split(",")] if pair[1][0] == "[" else int(pair[1])
    node = ir.node(op, values, attributes=settings)
    node.outputs[0].name = "y"
    node.outputs[0].shape = symbolic(result[2:-1].split(","))
    return node, arrays


def symbolic(names):
    return ir.Shape([int(n) if n.isdigit() else n for n in names])


def run_node(node, arrays):
    inputs = [ir.val(f"x{i}", ir.DataType.from_numpy(a.dtype), a.shape) for i, a in enumerate(arrays)]
    copy = ir.node(node.op_type, inputs, attributes=dict(node.attributes))
    copy.outputs[0].name = "y"
    graph = ir.Graph(inputs, copy.outputs, nodes=[copy], opset_imports={"": 20}, name="g")
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    kind = onnx.TensorProto.INT64 if arrays[0].dtype == np.int64 else onnx.TensorProto.FLOAT
    proto.graph.output[0].type.tensor_type.elem_type = kind
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return session.run(None, {f"x{i}": a for i, a in enumerate(arrays)})[0]


@pytest.mark.parametrize("text", NODES)
def test_an_operator_computes_the_selected_positions_from_the_selected_inputs(text):
    """Every axis that a rule follows, at two positions; the tokens are one of them."""
    node, arrays = parse_node(text)
    whole = run_node(node, arrays)
    followed = []
    for axis in range(whole.ndim):
        try:
            axes = input_axes(node, axis)
        except MixedAxis:
            continue
        followed.append(str(list(node.outputs[0].shape)[axis]))
        if node.op_type == "Reshape" and followed[-1] != "s":
            continue  # its shape input has the other axes in it
        for position in (0, whole.shape[axis] - 1):
            parts = []
            for array, own in zip(arrays, axes, strict=True):
                parts.append(array if own is None else np.take(array, [position], axis=own))
            expected = np.take(whole, [position], axis=axis)
            np.testing.assert_allclose(run_node(node, parts), expected, atol=1e-6)
    assert "s" in followed


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("Softmax<axis=-1>(f[b,2,t,s]) f[b,2,t,s]", 3),
        ("LayerNormalization<axis=1>(f[b,s,4], f[s,4]) f[b,s,4]", 1),
        ("CumSum(f[b,s], i{1}) f[b,s]", 1),
        ("MatMul(f[b,2,t,4], f[b,2,4,s]) f[b,2,t,s]", 3),
        ("MatMul(f[b,s,4], f[4,4]) f[b,s,4]", 2),
        ("Concat<axis=1>(f[b,s,4], f[b,s,4]) f[b,u,4]", 1),
        # The axis behind the tokens has their name too: no constant says its size once there is one token.
        ("Reshape(f[b,2,s,s], i{6,5,5}) f[2*b,s,s]", 1),
        ("Slice(f[b,s,4], i{1}, i{3}, i{1}) f[b,u,4]", 1),
        ("Reshape(f[b,s,4], i{-1,4}) f[b*s,4]", 0),
        ("Reshape(f[s,b,4], i{0,0,4}) f[b,s,4]", 1),
        ("Add(f[b,u,4], f[b,s,4]) f[b,s,4]", 1),
        ("Conv(f[b,4,s], f[4,4,3]) f[b,4,s]", 2),
    ],
)
def test_an_operator_that_mixes_positions_stops_the_selection(text, axis):
    node, _ = parse_node(text)
    with pytest.raises(MixedAxis):
        input_axes(node, axis)
