"""The arithmetic limit of ``bench``: its numbers by hand, and a rate that both backends really reach.

``python tests/report/test_roofline.py`` writes the graphs of ``edgekit/report/gemm`` anew.
"""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from edgekit import backends
from edgekit.report import bench as bench_module
from edgekit.report import roofline
from edgekit.report.bench import Bench, Point, bench
from edgekit.report.roofline import FOLDER, ROWS, WIDTH, Rate, limit_ms, measure
from edgekit.spec.errors import BackendError
from edgekit.spec.options import BenchOptions
from edgekit.spec.tensor import Signature, TensorSpec
from edgekit.stats.percentiles import Latency

BACKENDS = ("onnxruntime", "openvino")
DTYPES = {"float32": "float32", "int8-static": "uint8", "int8-dynamic": "float32", "int8-pairs": "float32"}
KERNELS = [("onnxruntime", g) for g in DTYPES if g != "int8-pairs"] + [
    ("openvino", g) for g in ("float32", "int8-pairs")
]
SCALE, ZERO = 0.25, 128  # exact in float
MINILM_L6 = 6 * (4 * 384 * 384 + 2 * 384 * 1536)


def weight():
    """Whole numbers of 7 bits: even a CPU that adds two INT8 products in 16 bits does not saturate (2 x 255 x 63 < 32768)."""
    return (np.arange(WIDTH * WIDTH) % 127 - 63).reshape(WIDTH, WIDTH)


def graphs():
    """The models, made with the onnx package."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def model(name):
        elem = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}[DTYPES[name]]
        constants = {
            "zero": np.int32(0),
            "one": np.int32(1),
            "count": np.int32(WIDTH * WIDTH),
            "levels": np.int32(127),
            "middle": np.int32(63),
            "shape": np.array([WIDTH, WIDTH], np.int64),
        }
        nodes = [
            helper.make_node("Range", ["zero", "count", "one"], ["index"]),
            helper.make_node("Mod", ["index", "levels"], ["level"]),
            helper.make_node("Sub", ["level", "middle"], ["value"]),
            helper.make_node("Reshape", ["value", "shape"], ["matrix"]),
            helper.make_node(
                "Cast", ["matrix"], ["weight"], to=TensorProto.FLOAT if name == "float32" else TensorProto.INT8
            ),
        ]
        opsets = [helper.make_opsetid("", 17)]
        if name == "float32":
            nodes.append(helper.make_node("MatMul", ["x", "weight"], ["y"]))
        elif name == "int8-dynamic":
            opsets.append(helper.make_opsetid("com.microsoft", 1))
            constants["scale"] = np.float32(SCALE)
            nodes.append(
                helper.make_node("DynamicQuantizeMatMul", ["x", "weight", "scale"], ["y"], domain="com.microsoft")
            )
        elif name == "int8-pairs":
            constants |= {"x_scale": np.float32(1), "scale": np.float32(SCALE), "zero_point": np.int8(0)}
            nodes += [
                helper.make_node("QuantizeLinear", ["x", "x_scale", "zero_point"], ["x_int8"]),
                helper.make_node("DequantizeLinear", ["x_int8", "x_scale", "zero_point"], ["x_float"]),
                helper.make_node("DequantizeLinear", ["weight", "scale", "zero_point"], ["weight_float"]),
                helper.make_node("MatMul", ["x_float", "weight_float"], ["y"]),
            ]
        else:
            constants |= {"scale": np.float32(SCALE), "x_zero": np.uint8(ZERO), "weight_zero": np.int8(0)}
            nodes += [
                helper.make_node("DequantizeLinear", ["x", "scale", "x_zero"], ["x_float"]),
                helper.make_node("DequantizeLinear", ["weight", "scale", "weight_zero"], ["weight_float"]),
                helper.make_node("MatMul", ["x_float", "weight_float"], ["y"]),
            ]
        inputs = [helper.make_tensor_value_info("x", elem, ["rows", WIDTH])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", WIDTH])]
        initializers = [numpy_helper.from_array(np.array(value), key) for key, value in constants.items()]
        made = helper.make_model(
            helper.make_graph(nodes, name, inputs, outputs, initializers), opset_imports=opsets, ir_version=8
        )
        onnx.checker.check_model(made)
        return made

    return {name: model(name) for name in DTYPES}


def signature(name):
    return Signature(
        "gemm", (TensorSpec("x", DTYPES[name], ("rows", WIDTH)),), (TensorSpec("y", "float32", ("rows", WIDTH)),)
    )


@pytest.fixture(params=BACKENDS)
def device(request):
    opened = backends.get(request.param).open_device("cpu", 1)
    yield opened
    opened.close()


# ---- the graphs


def test_the_files_are_what_the_onnx_package_makes():
    onnx = pytest.importorskip("onnx")

    def plain(model):
        nodes = [
            (
                n.op_type,
                n.domain,
                list(n.input),
                list(n.output),
                {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute},
            )
            for n in model.graph.node
        ]
        constants = {
            t.name: (t.data_type, list(t.dims), onnx.numpy_helper.to_array(t).tolist()) for t in model.graph.initializer
        }
        ports = [
            [onnx.helper.printable_value_info(v) for v in values] for values in (model.graph.input, model.graph.output)
        ]
        return nodes, constants, ports, model.ir_version, sorted((o.domain, o.version) for o in model.opset_import)

    made = graphs()
    assert sorted(f.name for f in FOLDER.iterdir()) == sorted(f"{name}.onnx" for name in made)
    for name, model in made.items():
        file = FOLDER / f"{name}.onnx"
        assert plain(onnx.load(file)) == plain(model), "write them with: python tests/report/test_roofline.py"
        assert file.stat().st_size < 1000


def test_all_files_are_measured():
    assert {g: dtype for of_precision in roofline._GRAPHS.values() for g, dtype in of_precision.items()} == DTYPES


@pytest.mark.parametrize(("backend", "name"), KERNELS)
def test_a_graph_multiplies_and_runs_in_its_precision(backend, name):
    """Against numpy in float64: a library that took a short cut, or saturated, would give something else."""
    opened = backends.get(backend).open_device("cpu", 1)
    engine = opened.load(FOLDER / f"{name}.onnx", signature(name))
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (48, WIDTH))
    try:
        if DTYPES[name] == "uint8":
            found, expected = engine.run({"x": x.astype(np.uint8)})["y"], (x - float(ZERO)) * SCALE @ (weight() * SCALE)
        else:
            # From 0 to 255 in whole numbers: the dynamic kernel's steps are 1, and nothing is rounded. Symmetric INT8 ends at 127.
            x[0, :2] = (0, 255)
            x = np.minimum(x, 127) if name == "int8-pairs" else x
            found, expected = (
                engine.run({"x": x.astype(np.float32)})["y"],
                x.astype(float) @ weight() * (1 if name == "float32" else SCALE),
            )
        executed = backends.summary(engine.precisions())
    finally:
        engine.close()
        opened.close()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert executed == name.partition("-")[0]


# ---- the rate


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_rate_is_measured(device, precision):
    rate = measure(device, precision, seconds=0.1)
    assert rate.precision == precision
    assert 0.1 < rate.gops < 1e6
    assert math.isfinite(rate.gops)
    assert rate.gemm in [(rows, WIDTH, WIDTH) for rows in ROWS]
    assert rate.graph.partition("-")[0] == precision


class Clock:
    """Time that only engines of ``Device`` let pass."""

    now = 0.0

    def perf_counter(self):
        return self.now


class Device:
    """Graphs that take a given time a call, in seconds by rows, each call longer by its turn in ``busy``."""

    def __init__(self, clock, times, executed=None, busy=(1.0,)):
        self.clock, self.times, self.executed, self.busy, self.closed, self.calls = (
            clock,
            times,
            executed or {},
            busy,
            [],
            0,
        )

    def load(self, path, signature):
        if path.stem not in self.times:
            raise BackendError(f"no {path.stem}")

        def run(feeds):
            assert feeds["x"].dtype == signature.inputs[0].dtype
            self.clock.now += self.times[path.stem][len(feeds["x"])] * self.busy[self.calls % len(self.busy)]
            self.calls += 1
            return {"y": None}

        executed = self.executed.get(path.stem, path.stem.partition("-")[0])
        return SimpleNamespace(run=run, precisions=lambda: [executed], close=lambda: self.closed.append(path.stem))


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(roofline, "time", made)
    return made


def test_the_fastest_size_of_the_fastest_graph_counts(clock):
    slow, fast = {64: 2.0, 256: 8.0, 1024: 33.0}, {64: 1.0, 256: 2.0, 1024: 16.0}
    for times in ({"int8-static": slow, "int8-dynamic": fast}, {"int8-static": fast, "int8-dynamic": slow}):
        rate = measure(Device(clock, times), "int8", seconds=1.0)
        (graph,) = (name for name, value in times.items() if value is fast)
        assert (rate.graph, rate.gemm) == (graph, (256, 1024, 1024))
        assert rate.gops == pytest.approx(2 * 256 * 1024 * 1024 / 2.0 / 1e9)  # 0.268


def test_calls_that_something_interrupted_do_not_count(clock):
    busy = (9.0, 3.0, 1.0, 50.0, 7.0, 4.0, 2.0)
    rate = measure(Device(clock, {"float32": {64: 0.001, 256: 0.008, 1024: 0.032}}, busy=busy), "float32", seconds=5.0)
    assert rate.gops == pytest.approx(2 * 64 * 1024 * 1024 / 0.001 / 1e9)  # 134.2


def test_a_graph_that_runs_in_another_precision_does_not_count(clock):
    even = dict.fromkeys(ROWS, 1.0)
    slower = dict.fromkeys(ROWS, 2.0)
    device = Device(clock, {"int8-static": even, "int8-dynamic": slower}, {"int8-static": "float32"})
    assert measure(device, "int8", seconds=1.0).graph == "int8-dynamic"
    assert device.closed == ["int8-static", "int8-dynamic"]
    assert measure(Device(clock, {"int8-static": even}, {"int8-static": "unknown"}), "int8", seconds=1.0) is None
    assert measure(Device(clock, {"int8-static": even}), "float32", seconds=1.0) is None
    assert measure(Device(clock, {"int8-static": even, "float32": even}), "bfloat16", seconds=1.0) is None


# ---- the limit, and what bench says of it


def test_the_limit_by_hand():
    assert MINILM_L6 == 10_616_832
    assert limit_ms(MINILM_L6, 32, 400.0) == pytest.approx(
        1.69869312
    )  # 679.48 million operations, 400 million in a millisecond
    assert limit_ms(500_000, 8 * 4, 16.0) == pytest.approx(2.0)


def points(limit=None, share=None):
    return (Point(2, 16, Latency(20, 4.5, 4.0, None, None), 444.4, limit, share),)


def test_bench_prints_limit_and_share():
    rate = Rate("int8", 352.4, (256, 1024, 1024), "int8-static")
    result = Bench("out", "onnxruntime", "static", 2, "a CPU", points(1.0, 0.25), 500_000, rate)
    first, second, header, _, row, *notes = result.text().splitlines()
    assert " ".join([first, *second.split()]) == (
        "out: static on onnxruntime, 2 thread(s), a CPU, INT8 GEMM 352 GOP/s ([256, 1024] x [1024, 1024]); "
        "encoded rows in, outputs out"
    )
    assert header.split("  ")[-2:] == ["limit ms", "share"]
    assert row.split() == ["2", "16", "4.00", "-", "-", "20", "444", "1.00", "25%"]
    assert "1000000 operations per token" in notes[-1]
    assert "float32 GEMM 90 GOP/s ([64, 1024] x" in Rate("float32", 90.2, (64, 1024, 1024), "float32").text()


@pytest.mark.parametrize(
    ("macs", "said"), [(0, "does not state"), (500_000, "onnxruntime ran no GEMM in the bundle's precision")]
)
def test_bench_says_why_there_is_no_limit(macs, said):
    text = Bench("out", "onnxruntime", "static", 2, "a CPU", points(), macs).text()
    assert "limit ms" not in text
    assert "GOP/s" not in text
    assert said in text


def stating(bundle, macs):
    """The bundle, stating its multiply-accumulates; a manifest has no digest of itself."""
    file = bundle / "manifest.json"
    data = json.loads(file.read_text("utf-8"))
    for variant in data["variants"]:
        variant["linear_macs"] = macs
    file.write_text(json.dumps(data), "utf-8")
    return bundle


@pytest.mark.slow
def test_bench_of_a_bundle(float32_bundle, tmp_path):
    import small

    macs = 2 * (4 * 64 * 64 + 2 * 64 * 128)
    bundle = stating(small.copy(float32_bundle, tmp_path / "bundle"), macs)
    result = bench(bundle, options=BenchOptions(batches=[1, 4], lengths=[8, 64], seconds=0.05, threads=1))
    record = json.loads(json.dumps(result.record()))
    rate = record["rate"]
    assert (rate["precision"], rate["graph"], rate["gemm"][1:]) == ("float32", "float32", [WIDTH, WIDTH])
    assert record["linear_macs"] == macs
    for point in record["points"]:
        tokens = point["batch"] * point["length"]
        assert point["limit_ms"] == pytest.approx(2 * macs * tokens / (rate["gops"] * 1e9) * 1e3)
        assert point["share"] == pytest.approx(point["limit_ms"] / point["latency"]["p50_ms"])
        assert point["share"] > 0
    assert re.search(r"float32 GEMM \d+ GOP/s \(\[\d+, 1024\] x \[1024, 1024\]\)", " ".join(result.text().split()))


@pytest.mark.parametrize(
    ("executed", "precision"),
    [
        ("int8", "int8"),
        ("int8 24/26 linears", "int8"),
        ("int8 3/26 linears", "float32"),
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
    ],
)
def test_the_rate_is_that_of_what_the_bundle_runs_in(monkeypatch, executed, precision):
    asked = []
    monkeypatch.setattr(bench_module, "measure", lambda device, wanted: asked.append(wanted))
    session = SimpleNamespace(executed_precision=lambda: executed, info=SimpleNamespace(threads=1))
    assert bench_module._measure_rate(session, SimpleNamespace(backend="onnxruntime", device="cpu")) is None
    assert asked == [precision]


def test_bench_of_a_bundle_that_does_not_state_them(float32_ort, tmp_path, monkeypatch):
    import small

    monkeypatch.setattr(bench_module, "measure", lambda *_: pytest.fail("nothing to measure for"))
    result = bench(
        stating(small.copy(float32_ort, tmp_path / "bundle"), 0),
        options=BenchOptions(batches=[1], lengths=[8], seconds=0.05),
    )
    record = result.record()
    assert (record["linear_macs"], record["rate"]) == (0, None)
    assert [(p["limit_ms"], p["share"]) for p in record["points"]] == [(None, None)]
    assert "the bundle does not state" in result.text()


if __name__ == "__main__":
    for stem, proto in graphs().items():
        (FOLDER / f"{stem}.onnx").write_bytes(proto.SerializeToString(deterministic=True))
