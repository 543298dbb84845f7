"""What OpenVINO must be kept from: rounding float32, attention after a first call with one key, and a layer that is wrong on some machines."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import small
import tiny
from onnx import TensorProto, helper
from refusals import refused

from edgekit import BackendError, backends
from edgekit.backends import _openvino_selftest
from edgekit.backends import openvino as ours
from edgekit.doctor import examine
from edgekit.spec.tensor import Signature, TensorSpec

WIDTH = 32
NAMES = ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE")


@pytest.fixture(scope="module")
def device():
    return backends.get("openvino").open_device("cpu", 2)


# ---- float32 is float32


def difference(found, right):
    return float(np.abs(found - right).max() / np.ptp(right))


def compressed(op, library):
    """A linear layer whose weights are INT8, and its inputs and right answers in float64."""
    random = np.random.default_rng(1)
    weights = random.integers(-127, 128, (64, 256)).astype(np.int8)
    scales = random.uniform(0.001, 0.01, (64, 1)).astype(np.float32)
    rows = random.standard_normal((4, 256)).astype(np.float32)
    taken = op.parameter([-1, 256], np.float32, name="rows")
    restored = op.multiply(op.convert(op.constant(weights), "f32"), op.constant(scales))
    model = library.Model([op.result(op.matmul(taken, restored, False, True))], [taken], "linear")
    return model, [{"rows": rows}], rows.astype(np.float64) @ (weights * scales.astype(np.float64)).T


def cached(op, library, heads=2, steps=12, first=4):
    """Attention that keeps its keys and values from call to call, and what it answers step by step."""
    q, k, v = (op.parameter([-1, heads, -1, WIDTH], np.float32, name=name) for name in "qkv")
    beam = op.parameter([-1], np.int32, name="beam")
    batch = op.gather(op.shape_of(q, "i64"), op.constant(np.array([0], np.int64)), op.constant(np.int64(0)))
    empty = op.broadcast(
        op.constant(np.float32(0)), op.concat([batch, op.constant(np.array([heads, 0, WIDTH], np.int64))], 0)
    )
    sinks, held = [], []
    for name, new in (("keys", k), ("values", v)):
        past = op.read_value(empty, name, np.float32, library.PartialShape([-1, heads, -1, WIDTH]))
        held.append(op.concat([op.gather(past, beam, op.constant(np.int64(0))), new], 2))
        sinks.append(op.assign(held[-1], name))
    model = library.Model([op.result(op.scaled_dot_product_attention(q, *held))], sinks, [q, k, v, beam], "decoder")
    full = dict(
        zip(
            "qkv", np.random.default_rng(0).standard_normal((3, 1, heads, steps, WIDTH)).astype(np.float32), strict=True
        )
    )
    parts = [slice(0, first), *(slice(t, t + 1) for t in range(first, steps))]
    feeds = [{**{name: a[:, :, part] for name, a in full.items()}, "beam": np.zeros(1, np.int32)} for part in parts]
    scores = full["q"].astype(np.float64)[:, :, -1:] @ full["k"].transpose(0, 1, 3, 2) / WIDTH**0.5
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return model, feeds, shares / shares.sum(axis=-1, keepdims=True) @ full["v"]


@pytest.mark.parametrize("make", [compressed, cached])
def test_a_graph_is_computed_in_the_types_that_it_names(device, make):
    """By its answers. With the precision hint alone, as OpenVINO 2026.4 leaves the rest, they are off by thousandths or more."""
    model, feeds, right = make(device._library.opset13, device._library)
    request = device._core.compile_model(model, "CPU", device._settings).create_infer_request()
    answers = [request.infer(part)[0].copy() for part in feeds]
    assert difference(answers[-1], right) < 1e-5


def test_what_a_compiled_graph_says_of_itself(device, float32_openvino):
    file = float32_openvino / "graphs" / "model.onnx"
    compiled = device.compile(file, device.read(file))
    library = device._library
    assert [compiled.get_property(name) for name in NAMES] == [library.Type.f32, library.Type.f32, 0]


def test_a_setting_that_a_version_does_not_know_is_left_out():
    core = SimpleNamespace(get_property=lambda device, name: ["INFERENCE_PRECISION_HINT", "NUM_STREAMS"])
    assert ours.exact_settings(core, "CPU") == {"INFERENCE_PRECISION_HINT": "f32"}


# ---- attention after a first call with one key


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    """Token ids to one head of attention with nothing added to its scores, of any number of keys; and its signature."""
    random, floats = np.random.default_rng(0), TensorProto.FLOAT
    tables = {name: random.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5 for name in "qkv"} | {
        "table": random.standard_normal((50, WIDTH))
    }
    weights = [onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in tables.items()]
    weights.append(onnx.numpy_helper.from_array(np.float32(WIDTH**-0.5), "scale"))
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        *(helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in "qkv"),
        helper.make_node("Transpose", ["xk"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["xq", "keys"], ["products"]),
        helper.make_node("Mul", ["products", "scale"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "xv"], ["answers"]),
    ]
    taken = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    gives = helper.make_tensor_value_info("answers", floats, ["batch", "sequence", WIDTH])
    file = tmp_path_factory.mktemp("attention") / "model.onnx"
    graph = helper.make_graph(nodes, "attention", [taken], [gives], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    inputs, outputs = (
        (TensorSpec("input_ids", "int64", ("batch", "sequence")),),
        (TensorSpec("answers", "float32", ("batch", "sequence", WIDTH)),),
    )
    return file, Signature("forward", inputs, outputs)


@pytest.mark.parametrize("shapes", [(), (2, 3, 16)], ids=["any shape", "static shapes"])
def test_attention_after_a_call_with_one_token(attention, device, shapes):
    """On a fresh compile 1, 8, 16 and 40 tokens, against ONNX Runtime. Without a warm-up 16 and more are wrong by several units."""
    file, signature = attention
    fresh, right = (
        device.load(file, signature, shapes),
        backends.get("onnxruntime").open_device("cpu", 1).load(file, signature),
    )
    fresh.warm_up()
    for length in (1, 8, 16, 40, 1, 41):
        feeds = {"input_ids": (np.arange(length) * 7 % 50)[None]}
        np.testing.assert_allclose(
            fresh.run(feeds)["answers"], right.run(feeds)["answers"], atol=1e-5, err_msg=f"{length} tokens"
        )


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert"])
def test_our_own_graphs_after_a_call_with_one_token(device, name):
    (graph,) = tiny.exported(name).graphs
    engines = [
        opened.load(graph.path, graph.signature)
        for opened in (device, backends.get("onnxruntime").open_device("cpu", 1))
    ]
    for row in tiny.random_rows(tiny.source(name), (1, 8, 16, 40)):
        found, right = (small.run_graph(engine, graph.signature, [row]) for engine in engines)
        np.testing.assert_allclose(found, right, atol=1e-4)


# ---- the self-test


class FirstScale:
    """A core that multiplies every channel with the scale of the first, as the ARM kernel of OpenVINO 2026.3.0 to 2026.4.1 does."""

    def __init__(self, core, op, change):
        self.core, self.op, self.change, self.compiled = core, op, change, 0

    def compile_model(self, model, *arguments):
        self.compiled += 1
        for node in model.get_ordered_ops():
            if node.get_type_name() == "Constant" and list(node.get_output_shape(0)) == [8, 1]:
                changed = self.op.constant(self.change(np.array(node.get_data()))).output(0)
                for reader in node.output(0).get_target_inputs():
                    reader.replace_source_output(changed)
        return self.core.compile_model(model, *arguments)

    def get_property(self, *names):
        return self.core.get_property(*names)


@pytest.fixture
def asked_anew():
    ours._fault.cache_clear()
    yield
    ours._fault.cache_clear()


def test_what_computes_right_passes(device):
    assert _openvino_selftest.find_fault(device._library, device._core, "CPU", device._settings) == ""


@pytest.mark.parametrize(
    ("change", "channels"),
    [
        (lambda scales: np.full_like(scales, scales[0, 0]), "7 of 8"),
        (lambda scales: np.full_like(scales, scales[-1, 0]), "7 of 8"),
        (lambda scales: scales * np.where(np.arange(8) == 5, 1.01, 1).astype(np.float32)[:, None], "1 of 8"),
        (lambda scales: np.where(scales > 1e-3, np.float32(np.nan), scales), "5 of 8"),
    ],
    ids=["first scale for all", "last scale for all", "one channel by a hundredth", "not a number"],
)
def test_what_computes_wrongly_does_not(device, change, channels):
    broken = FirstScale(device._core, device._library.opset13, change)
    assert f"is wrong in {channels} channels, by up to " in _openvino_selftest.find_fault(
        device._library, broken, "CPU", device._settings
    )


def test_a_backend_that_does_not_pass_is_not_opened(monkeypatch, device, asked_anew, float32_openvino):
    """Asked once in a process, refused every time: at open, by a load and in what doctor prints."""
    import edgekit

    broken = FirstScale(device._core, device._library.opset13, lambda scales: np.full_like(scales, scales[0, 0]))
    broken.available_devices = ["CPU"]
    monkeypatch.setattr(ours, "_core", lambda: broken)
    for _ in range(2):
        with refused("backend-wrong-results", "onnxruntime") as caught:
            backends.get("openvino").open_device("cpu", 1)
    assert isinstance(caught.value, BackendError)
    with refused("backend-wrong-results"):
        edgekit.load(float32_openvino)
    devices = examine().devices
    assert devices["openvino"].startswith("refused, it computes wrong results here: OpenVINO ")
    assert devices["onnxruntime"] == "CPU opens"
    assert broken.compiled == 1


def test_a_layer_that_cannot_be_run_is_no_pass(monkeypatch, device, asked_anew):
    def refuse(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(
        ours,
        "_core",
        lambda: SimpleNamespace(
            compile_model=refuse, get_property=device._core.get_property, available_devices=["CPU"]
        ),
    )
    with refused("backend-wrong-results"):
        backends.get("openvino").open_device("cpu", 1)
