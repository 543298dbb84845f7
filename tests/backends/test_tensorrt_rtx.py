"""NVIDIA's own parser and builder, in the form that needs no GPU: what they refuse, and what EdgeKit makes of their words.

It is TensorRT-RTX: what it builds is for RTX GPUs, and nothing here says how a Jetson's TensorRT runs.
"""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import small
from onnx import helper, numpy_helper
from refusals import refused

from edgekit.backends import _trt, _trt_build, tensorrt_rtx
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.errors import BackendError
from edgekit.spec.progress import silent
from edgekit.spec.tensor import Signature, TensorSpec

trt = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed (pip install 'edgekit-sdk[tensorrt-rtx]')"
)

node = helper.make_node
SIGNATURE = Signature(
    "forward",
    (TensorSpec("x", "float32", ("batch", "sequence", 32)),),
    (TensorSpec("y", "float32", ("batch", "sequence", 32)),),
)
PROFILE = {"batch": (1, 1, 2), "sequence": (1, 8, 16)}
RECIPE = EngineRecipe((PROFILE,))
RNG = np.random.default_rng(0)
WEIGHT = RNG.integers(-127, 128, (32, 32)).astype(np.int8)


def model(nodes, constants):
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", "sequence", 32]) for n in "xy")
    graph = helper.make_graph(
        nodes, "case", [x], [y], [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.acme", 1)], ir_version=10
    )


def quantized(scale=0.02, zero=0, weight=WEIGHT, scales=None, kind=np.float32):
    scales = np.full(32, 0.01, kind) if scales is None else scales
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        node("DequantizeLinear", ["q", "s", "z"], ["r"], name="restore"),
        node("DequantizeLinear", ["w", "ws"], ["v"], name="restore_weight", axis=1),
        node("MatMul", ["r", "v"], ["y"], name="product"),
    ]
    return nodes, {"s": np.array(scale, np.float32), "z": np.array(zero, np.int8), "w": weight, "ws": scales}


def build(tmp_path, nodes, constants, recipe=RECIPE, chips=("8.9",), progress=silent):
    path = tmp_path / "model.onnx"
    path.write_bytes(model(nodes, constants).SerializeToString())
    return _trt_build.build(
        trt, path, SIGNATURE, recipe, hardware=_trt_build.Hardware(0, chips), timing_cache=b"", progress=progress
    )


def test_a_good_graph_is_built_for_each_chip(tmp_path):
    sizes = [
        len(build(tmp_path, *quantized(), chips=chips).plan)
        for chips in (("8.6",), ("8.9",), ("12.0",), ("8.6", "8.9", "12.0"))
    ]
    assert all(size > WEIGHT.nbytes for size in sizes)


REFUSED = {
    "zero point": (
        quantized(zero=3),
        r"node 'quantize' \(QuantizeLinear\): .*Non-zero zero point is not supported.*quantize symmetrically",
    ),
    "scale 0": (
        quantized(scale=0),
        r"node 'quantize' \(QuantizeLinear\): .*must all be positive.*channels of zeros a small positive scale",
    ),
    "scale of a channel": (
        quantized(scales=np.eye(32, dtype=np.float32)[0]),
        r"node 'restore_weight' .*must all be positive",
    ),
    "count of scales": (
        quantized(scales=np.ones(16, np.float32)),
        r"node 'restore_weight' .*number of scales = 16.*one scale for each output channel",
    ),
    "types": (
        quantized(scales=np.full(32, 0.01, np.float16)),
        r"node 'product' \(MatMul\): .*same input types.*Float.*Half.*insert a Cast between them",
    ),
    "INT8 in use": (
        ([node("Cast", ["w"], ["v"], to=1, name="cast"), node("MatMul", ["x", "v"], ["y"])], {"w": WEIGHT}),
        r"could not build an engine from model.onnx\..*only allowed before DQ.*\nOnly DequantizeLinear may read INT8 constants",
    ),
    "unknown operator": (
        ([node("Frobnicate", ["x"], ["y"], name="frob", domain="com.acme")], {}),
        r"'frob' \(Frobnicate\): .*Plugin not found.*without it",
    ),
    "operator that it does not have": (
        ([node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"], name="n")], {}),
        r"'n' \(DynamicQ.* is not supported",
    ),
    "UINT8": (
        quantized(weight=WEIGHT.astype(np.uint8)),
        r"node 'restore_weight' .*unsupported input type of UINT8.*quantize to INT8",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_in_our_words(name, tmp_path):
    graph, words = REFUSED[name]
    with pytest.raises(BackendError) as caught:
        build(tmp_path, *graph)
    text = str(caught.value)
    assert text.startswith(f"TensorRT-RTX {trt.__version__} ")
    assert "cudaError" not in text, "that there is no GPU is nothing that is wrong with the graph"
    assert re.search(words, text, re.DOTALL), text


def test_a_file_that_is_no_graph(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing of the kind")
    with refused("engine-graph-refused", "model.onnx"):
        _trt_build.build(
            trt, path, SIGNATURE, RECIPE, hardware=_trt_build.Hardware(0, ("8.9",)), timing_cache=b"", progress=silent
        )


def test_profiles_that_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(_trt_build, "shapes", lambda signature, profile: {"x": ((1, 1, 32), (4, 64, 32), (2, 16, 32))})
    with refused("engine-build-failed", "MIN", "OPT", "MAX"):
        build(tmp_path, *quantized())
    monkeypatch.setattr(_trt_build, "shapes", lambda signature, profile: {"x": ((1, 1, 32), (1, 8, 32), (2, 16, 64))})
    with refused("engine-build-failed"):
        build(tmp_path, *quantized())
    monkeypatch.setattr(_trt_build, "shapes", lambda signature, profile: {})
    with refused("engine-build-failed"):
        build(tmp_path, *quantized())


def test_what_the_recipe_names_must_exist(tmp_path):
    with refused("tensorrt-name-unknown", "FP16", "SPARSE_WEIGHTS"):
        build(tmp_path, *quantized(), recipe=EngineRecipe((PROFILE,), flags=("FP16",)))
    with refused("tensorrt-name-unknown", "compute_capability", "SM87"):
        build(tmp_path, *quantized(), chips=("8.7",))
    build(
        tmp_path,
        *quantized(),
        recipe=EngineRecipe((PROFILE,), flags=("SPARSE_WEIGHTS",), workspace_mb=64, optimization_level=2),
    )


def test_progress_is_told_and_may_end_the_build(tmp_path):
    told = []
    build(tmp_path, *quantized(), progress=lambda *step: told.append(step))
    shown = [step for step in told if step[0]]
    assert shown and {step[0] for step in shown} == {"TensorRT builds the engine"}
    assert all(0 < done <= total for _, done, total in shown)

    def stop(*step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, *quantized(), progress=stop)
    assert build(tmp_path, *quantized()).plan, "and the next one is not hindered"


def test_there_is_one_logger_for_a_process():
    assert _trt.logger(trt)[0] is _trt.logger(trt)[0]
    assert _trt.is_rtx(trt)
    assert _trt.version_of(trt)[:2] >= (1, 7)


def test_without_a_driver_nothing_is_opened_and_nothing_crashes():
    """In a process of its own: what is asked here can end one."""
    code = """
from edgekit.backends import tensorrt_rtx
from edgekit.drivers import cuda
from edgekit.spec.errors import BackendError
import sys
if cuda.probe() is None:
    print("a GPU is there")
    sys.exit()
try:
    tensorrt_rtx.open_device("gpu", 1)
except BackendError as problem:
    print(problem)
assert "tensorrt_rtx_bindings" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=small.ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    if "a GPU is there" in done.stdout:
        pytest.skip("a GPU is there")
    assert "TensorRT-RTX needs an NVIDIA GPU with its driver." in done.stdout


def test_the_engine_for_a_named_chip_only(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model(*quantized()).SerializeToString())
    plan = tensorrt_rtx.compile_ahead(path, SIGNATURE, EngineRecipe((PROFILE,), compute_capability=("8.9",)), silent)
    assert isinstance(plan, bytes)
    assert (
        tensorrt_rtx.compile_ahead(path, SIGNATURE, EngineRecipe((PROFILE,), compute_capability=("8.9",)), silent)
        == plan
    ), "the same graph, the same engine"
