"""Images on LiteRT: each architecture computes what ONNX Runtime computes, XNNPACK takes it whole, and each operator has a test of its own."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
import tiny
from litert_files import COSTLY, EQUAL, check_own, engine_of, operators, own, run_without_xnnpack
from refusals import refused

from edgekit.quantize import litert
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.methods import dynamic_rows
from edgekit.runtime.loops import single
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization
from edgekit.spec.tensor import Signature, TensorSpec

tiny_images = pytest.importorskip("tiny_images")

forms = pytest.mark.parametrize("batch", [1, None], ids=["one row", "any batch"])
NAMES = (*tiny_images.ARCHITECTURES, *tiny_images.FROM_PYTHON)
CONVOLUTIONS = ("mobilenet_v1", "mobilenet_v2", "mobilevitv2", "poolformer", "regnet", "resnet")
# Changes of the order of axes: one brings the image into the form with the channels last; attention has three a layer
# and for windows more.
MOST_TRANSPOSES = {"levit": 21, "mobilevit": 37, "mobilevitv2": 22, "pvt_v2": 13, "swin": 17, "swinv2": 21}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The graphs of an architecture, its encoded pictures and what torch answers to them."""
    from edgekit.export.graphs import export
    from edgekit.source import from_module

    @functools.cache
    def make(name):
        source = from_module(tiny_images.module(name), tiny_images.processor(name))
        pictures = tiny_images.images(5, seed=1)
        graphs = export(source, tmp_path_factory.mktemp(name), pictures)
        rows = list(source.encode(pictures))
        return graphs, rows, np.stack([row["logits"] for row in source.outputs(rows)])

    return make


def run(graph, rows):
    return engine_of(graph.path, graph.signature, "litert").run(single.collate(graph.signature, rows))["logits"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["float32", "dynamic_rows"])
@forms
def test_architecture(name, method, batch, exported, tmp_path):
    graphs, rows, expected = exported(name)
    spread = np.ptp(expected)
    assert np.ptp(expected, axis=0).max() > 0.5, "answers depend on the picture"
    if method == "dynamic_rows":
        graphs = dynamic_rows.quantize(graphs, Calibration([]), Quantization(), tmp_path, silent)
    (graph,) = litert.convert(graphs, tmp_path, batch).graphs
    together = run(graph, rows)
    for row, answer in zip(rows, together, strict=True):
        np.testing.assert_array_equal(run(graph, [row])[0], answer)
    if method == "float32" or name in CONVOLUTIONS:
        assert np.abs(together - expected).max() <= EQUAL * spread
        plain = run_without_xnnpack(graph.path, single.collate(graph.signature, rows[:1]))["logits"]
        assert np.abs(plain - expected[:1]).max() <= EQUAL * spread
    else:
        assert 1e-4 < np.sqrt(np.mean((together - expected) ** 2)) / spread < 0.02  # measured 0.0008 to 0.006
    taken, left, parts = operators(graph.path)
    assert taken["TRANSPOSE"] <= MOST_TRANSPOSES.get(name, 9)
    if batch == 1:
        assert not left
        assert parts == 1
    assert not set(left) & COSTLY - {"STRIDED_SLICE"}


@forms
def test_image_encoder(batch, tmp_path):
    pixels = TensorSpec("pixel_values", "float32", ("batch", 3, 32, 32))
    signature = Signature("forward", (pixels,), (TensorSpec("hidden", "float32", ("batch", 17, 32)),))
    source = tiny.EXPORTS / "vit" / "model.onnx"
    path = tmp_path / "vit.tflite"
    litert.write(source, signature, path, batch)
    feeds = {"pixel_values": np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)}
    expected = engine_of(source, signature, "onnxruntime").run(feeds)["hidden"]
    answer = engine_of(path, signature, "litert").run(feeds)["hidden"]
    np.testing.assert_allclose(answer, expected, atol=EQUAL * np.ptp(expected))
    taken, left, _ = operators(path)
    assert taken["CONV_2D"] == 1
    assert not set(left) & COSTLY - {"STRIDED_SLICE"}


# ---- operators


PICTURE = {"x": ("batch", 4, 12, 12)}
DRAW = np.random.default_rng(2)


def drawn(*shape, scale=1.0):
    return (DRAW.normal(size=shape) * scale).astype(np.float32)


KERNELS = {
    "w": drawn(8, 4, 3, 3, scale=1 / 6),
    "grouped": drawn(8, 2, 3, 3, scale=1 / 4),
    "deep": drawn(8, 1, 3, 3, scale=1 / 3),
    "b": drawn(8),
    "b4": drawn(4),
    "scale": drawn(8, 1, 1),
    "plane": drawn(10, 10),
    "mean": drawn(4),
    "variance": np.abs(drawn(4)) + np.float32(0.5),
    "zero": np.array(0, np.float32),
    "six": np.array(6, np.float32),
    "one": np.array(1, np.float32),
    "low": np.array(-0.25, np.float32),
    "places": np.array([2, 3]),
    "channels": np.array([1]),
    "rows": np.array([2]),
    "border": np.array([0, 0, 1, 2, 0, 0, 0, 3]),
    "none": np.zeros(8, np.int64),
    "flat": np.array([0, 4, 144]),
    "pair": np.array([0, 2, -1]),
    "whole": np.array([0, 4, 12, 12]),
    "ones": np.ones(2, np.float32),
    "zeros": np.zeros(2, np.float32),
    "w4": drawn(4, 1, 1),
    "o4": drawn(4, 1, 1),
    "sizes": np.array([18, 7]),
    "both": np.array([1, 3]),
    "i0": np.array([0]),
    "i1": np.array([1]),
    "i2": np.array([2]),
    "i3": np.array([3]),
    "i5": np.array([5]),
    "i8": np.array([8]),
    "i3rows": np.array([3, 7]),
    "last1": np.array([-1]),
    "minus": np.array([-1]),
    "end": np.array([2**62]),
    "end2": np.array([-(2**62)]),
    "evens": np.arange(12).reshape(6, 2).T,
    "last": np.array(-1),
    "two": np.array([2, 2]),
    "eight": np.array([8, 8]),
    "columns": np.array([0, 16, 16]),
    "cut": np.array([1, 2, 1]),
    "heads": np.array([0, 12, 12, 4]),
}
CONV = "c = Conv(x, w, b)"
FLOOR = 'coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
INSTANCE = "f = Reshape(x, pair) n = InstanceNormalization(f, ones, zeros) r = Reshape(n, whole)"


def image_graph(folder, steps, shape):
    dims = ", ".join(map(str, shape))
    text = f"agraph (float[batch, 4, 12, 12] x) => (float[batch, {dims}] y) {{ {steps} }}"
    names = {name: array for name, array in KERNELS.items() if re.search(rf"\b{name}\b", steps)}
    return own(folder, text, PICTURE, {"y": ("batch", *shape)}, **names)


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        ("y = Conv(x, w, b)", (8, 10, 10)),
        ("y = Conv<pads=[1, 1, 1, 1]>(x, w)", (8, 12, 12)),
        ("y = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(x, w, b)", (8, 6, 6)),
        ("y = Conv<pads=[0, 0, 1, 1], strides=[2, 2]>(x, w, b)", (8, 6, 6)),
        ("y = Conv<pads=[0, 2, 1, 0], strides=[1, 2]>(x, w, b)", (8, 11, 6)),
        ("y = Conv<pads=[2, 2, 2, 2], dilations=[2, 2]>(x, w, b)", (8, 12, 12)),
        ("y = Conv<pads=[1, 1, 1, 1], group=4>(x, deep, b)", (8, 12, 12)),
        ("y = Conv<pads=[1, 1, 1, 1], group=2>(x, grouped, b)", (8, 12, 12)),
        (f"{CONV} y = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(c)", (8, 5, 5)),
        (f"{CONV} y = MaxPool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>(c)", (8, 5, 5)),
        (f"{CONV} r = Relu(c) y = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]>(r)", (8, 5, 5)),
        (f"{CONV} r = Clip(c, zero, six) y = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(r)", (8, 10, 10)),
        ("y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x)", (4, 12, 12)),
        ("y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(x)", (4, 12, 12)),
        ("y = AveragePool<kernel_shape=[5, 5], strides=[4, 4], ceil_mode=1>(x)", (4, 3, 3)),
        ("y = AveragePool<kernel_shape=[12, 12]>(x)", (4, 1, 1)),
        ("y = AveragePool<kernel_shape=[50, 50], strides=[50, 50], ceil_mode=1, count_include_pad=1>(x)", (4, 1, 1)),
        ("y = GlobalAveragePool(x)", (4, 1, 1)),
        ('y = Resize<axes=[2, 3], mode="linear", coordinate_transformation_mode="half_pixel">(x, , , sizes)', (4, 18, 7)),
        ('y = Resize<axes=[2, 3], mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, , , sizes)', (4, 18, 7)),
        ('y = Resize<axes=[2, 3], mode="linear", coordinate_transformation_mode="align_corners">(x, , , sizes)', (4, 18, 7)),
        (f"{CONV} y = Clip(c, zero, six)", (8, 10, 10)),
        (f"{CONV} y = Clip(c, zero, one)", (8, 10, 10)),
        (f"{CONV} y = Clip(c, low)", (8, 10, 10)),
        (f"{CONV} y = Clip(c, , one)", (8, 10, 10)),
        (f"{CONV} r = Relu(c) m = Mul(r, scale) y = Add(m, c)", (8, 10, 10)),
        (f"{CONV} y = Mul(plane, c)", (8, 10, 10)),
        (f"{CONV} m = ReduceMean<keepdims=1>(c, places) s = Sigmoid(m) y = Mul(c, s)", (8, 10, 10)),
        (f"{CONV} y = Gelu(c)", (8, 10, 10)),
        (f"{CONV} y = HardSwish(c)", (8, 10, 10)),
        (f"{CONV} y = HardSigmoid<alpha=0.16666667, beta=0.5>(c)", (8, 10, 10)),
        (f"{CONV} y = LeakyRelu<alpha=0.2>(c)", (8, 10, 10)),
        (f"{CONV} y = Softmax<axis=1>(c)", (8, 10, 10)),
        (f"{CONV} l = Transpose<perm=[0, 2, 3, 1]>(c) y = Transpose<perm=[0, 3, 1, 2]>(l)", (8, 10, 10)),
        (f"{CONV} y = ReduceMean<keepdims=0>(c, places)", (8,)),
        (f"{CONV} y = ReduceMax<keepdims=0>(c, channels)", (10, 10)),
        (f"{CONV} y = ReduceSum<keepdims=0>(c, rows)", (8, 10)),
        (f"{CONV} y = ReduceL2<keepdims=1>(c, places)", (8, 1, 1)),
        ("y = Pad(x, border)", (4, 13, 17)),
        (f"{CONV} y = Pad(c, border)", (8, 11, 15)),
        (f"{CONV} y = Pad(c, none)", (8, 10, 10)),
        (f"{CONV} d = Relu(c) y = Concat<axis=1>(c, d)", (16, 10, 10)),
        (f"{CONV} y = Concat<axis=2>(c, c, c, c, c, c, c)", (8, 70, 10)),
        (f"{CONV} d, e = Split<axis=1, num_outputs=2>(c) y = Sub(d, e)", (4, 10, 10)),
        ("d, e, f = Split<axis=1>(x, cut) y = Concat<axis=1>(f, d, e)", (4, 12, 12)),
        ("y = BatchNormalization<epsilon=0.01>(x, b4, b4, mean, variance)", (4, 12, 12)),
        ("y = InstanceNormalization<epsilon=0.01>(x, b4, mean)", (4, 12, 12)),
        (f"{INSTANCE} m = Mul(r, w4) y = Add(m, o4)", (4, 12, 12)),
        (f"{INSTANCE} y = Mul(r, w4)", (4, 12, 12)),
        ("f = Reshape(x, flat) y = Transpose<perm=[0, 2, 1]>(f)", (144, 4)),
        ("f = Reshape(x, flat) t = Transpose<perm=[0, 2, 1]>(f) s = Transpose<perm=[0, 2, 1]>(t) y = Reshape(s, whole)", (4, 12, 12)),
        ("y = Slice(x, i1, end, i2, i2)", (4, 6, 12)),
        ("y = Slice(x, i0, end, i3, i5)", (4, 12, 3)),
        (f"{CONV} y = Slice(c, i1, end, i1, i2)", (4, 10, 10)),
        (f"{CONV} y = Slice(c, i2, end, i1)", (6, 10, 10)),
        ("y = Gather<axis=2>(x, evens)", (4, 2, 6, 12)),
        ("y = Gather<axis=2>(x, last)", (4, 12)),
        ("f = Reshape(x, columns) y = Col2Im<strides=[2, 2], pads=[0, 0, 0, 0], dilations=[1, 1]>(f, eight, two)", (4, 8, 8)),
    ],
)  # fmt: skip
def test_operators(tmp_path, steps, shape):
    if "columns" in steps:  # It needs as many windows as it says.
        steps = f"p = Slice(x, i0, i8, i2) q = Slice(p, i0, i8, i3) {steps.replace('x,', 'q,')}"
    path = check_own(image_graph(tmp_path, steps, shape), (3, 4, 12, 12), (1, 4, 12, 12))
    taken, left, parts = operators(path)
    assert not left
    assert parts == 1
    # One into the form with the channels last, and one back.
    assert taken["TRANSPOSE"] <= 2


@pytest.mark.parametrize(
    ("steps", "shape", "names"),
    [
        (f"{CONV} y = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]>(c)", (8, 5, 5), {"PADV2"}),
        (f"y = Resize<axes=[2, 3], mode=\"nearest\", {FLOOR}>(x, , , sizes)", (4, 18, 7), {"RESIZE_NEAREST_NEIGHBOR"}),
        ("y = Slice(x, i3, end, i2, i2)", (4, 5, 12), {"STRIDED_SLICE"}),
        ("y = Gather<axis=2>(x, i3rows)", (4, 2, 12), {"GATHER"}),
    ],
)  # fmt: skip
def test_forms_that_xnnpack_leaves_out(tmp_path, steps, shape, names):
    """They are right all the same, in the interpreter's own kernels."""
    path = check_own(image_graph(tmp_path, steps, shape), (3, 4, 12, 12), (1, 4, 12, 12))
    assert set(operators(path)[1]) == names


@pytest.mark.parametrize(
    ("step", "operator"),
    [
        ('Conv<auto_pad="SAME_UPPER">(x, w)', "Conv"),
        ("MaxPool<kernel_shape=[3, 3], dilations=[2, 2]>(x)", "MaxPool"),
        ("AveragePool<kernel_shape=[3, 3], pads=[0, 0, 2, 2]>(x)", "AveragePool"),
        ("AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], ceil_mode=1, count_include_pad=1>(x)", "AveragePool"),
        ('Resize<axes=[2, 3], mode="cubic">(x, , , sizes)', "Resize"),
        ('Resize<axes=[2, 3], mode="linear", antialias=1>(x, , , sizes)', "Resize"),
        ("Softmax<axis=2>(x)", "Softmax"),
        ('Pad<mode="reflect">(x, border)', "Pad"),
        ("Slice(x, last1, end2, i2, minus)", "Slice"),
    ],
)  # fmt: skip
def test_forms_that_are_unknown(tmp_path, step, operator):
    graph = image_graph(tmp_path, f"y = {step}", (8, "h", "w1"))
    with refused("litert-operator", operator=operator):
        litert.write(graph.path, graph.signature, tmp_path / "own.tflite")


def test_a_repetition_is_left_to_its_reader(tmp_path):
    """XNNPACK repeats along axes in arithmetic, but has no operator for it."""
    steps = "m = ReduceL2<keepdims=1>(x, places) s = Shape(x) e = Expand(m, s) y = Div(x, e)"
    path = check_own(image_graph(tmp_path, steps, (4, 12, 12)), (3, 4, 12, 12))
    taken, left, _ = operators(path)
    assert "BROADCAST_TO" not in taken | left
    # A reader that has no other operand of that shape still gets it.
    path = check_own(image_graph(tmp_path, steps.replace("Div(x, e)", "Sub(e, m)"), (4, 12, 12)), (3, 4, 12, 12))
    assert operators(path)[1]["BROADCAST_TO"] == 1
