"""Engines of the stand-in for TensorRT compute, refuse, and notice what is undefined on a device.

Without a GPU nothing can be compared with TensorRT here. Texts are those that its issue tracker quotes, rules those of its headers.
"""

from __future__ import annotations

import gc
import json
import threading
import time

import fake_tensorrt
import numpy as np
import onnx
import pytest
import tensorrt_bindings as bindings
from fake_cuda import FakeDriver
from fake_tensorrt import fake
from fake_tensorrt_bench import SHAPES, VERSIONS, Bench, Memory, bound, encoder, graph, inputs, truth
from onnx import TensorProto, helper

from edgekit.drivers.cuda import Cuda


@pytest.fixture(params=VERSIONS)
def bench(request):
    """Of a fake."""
    return Bench(fake_tensorrt.make(request.param))


@pytest.fixture
def ten():
    """Of a fake 10.3.0, for what no version can differ in."""
    return Bench(fake_tensorrt.make("10.3.0"))


# ---- engines


def test_an_engine_tells_its_tensors(bench):
    trt, engine = bench.trt, bench.engine(encoder(), SHAPES, {name: ((1, 1), (1, 32), (1, 64)) for name in SHAPES})
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    assert sorted(names) == ["ids", "mask", "y"] and engine.get_tensor_name(3) is None
    assert [engine.get_tensor_mode(n) for n in ("ids", "y", "other")] == [
        trt.TensorIOMode.INPUT,
        trt.TensorIOMode.OUTPUT,
        trt.TensorIOMode.NONE,
    ]
    assert (engine.get_tensor_dtype("ids"), engine.get_tensor_dtype("y")) == (trt.DataType.INT64, trt.DataType.FLOAT)
    assert tuple(engine.get_tensor_shape("ids")) == (-1, -1) and tuple(engine.get_tensor_shape("y")) == (-1, -1, 4)
    assert engine.num_optimization_profiles == 2
    assert [tuple(s) for s in engine.get_tensor_profile_shape("ids", 1)] == [(1, 1), (1, 32), (1, 64)]
    with pytest.raises(ValueError, match="__len__"):  # -1 dimensions: an output has no profile
        tuple(engine.get_tensor_profile_shape("y", 0)[0])
    sizes = [engine.get_device_memory_size_for_profile_v2(i) for i in range(2)]
    assert sizes[0] == sizes[1] == engine.device_memory_size_v2 > 0 and sizes[0] % 256 == 0
    assert hasattr(engine, "device_memory_size") == (bench.trt.__version__ < "11")


@pytest.mark.parametrize("quantized", [False, True])
def test_an_engine_computes(bench, quantized):
    """The answers are numpy's, for two shapes of one context."""
    engine = bench.engine(encoder(quantized=quantized))
    context = None
    for batch, seq in ((2, 8), (4, 3)):
        ids, mask = inputs(batch, seq)
        context, memory = bound(engine, ids, mask, context=context)
        assert context.infer_shapes() == [] and tuple(context.get_tensor_shape("y")) == (batch, seq, 4)
        assert context.execute_async_v3(7) is True
        np.testing.assert_allclose(memory["y"].array, truth(ids, mask, quantized), atol=1e-5)
    assert fake(bench.trt).executions == 2
    if quantized:
        assert np.abs(truth(ids, mask, True) - truth(ids, mask)).max() > 1e-3, "quantization is seen"


def test_a_half_engine_computes(bench):
    ids, mask = inputs()
    engine = bench.engine(encoder(np.float16))
    assert engine.get_tensor_dtype("y") == bench.trt.DataType.HALF
    context, memory = bound(engine, ids, mask, np.float16)
    assert context.execute_async_v3(7)
    np.testing.assert_allclose(memory["y"].array, truth(ids, mask), atol=0.03)


def test_external_weights_are_in_the_plan(bench, tmp_path):
    onnx.save(encoder(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    network = bench.builder.create_network()
    assert bench.trt.OnnxParser(network, bench.log).parse_from_file(str(tmp_path / "m.onnx"))
    (tmp_path / "w.bin").unlink()
    bench.profile(SHAPES)
    ids, mask = inputs()
    context, memory = bound(
        bench.trt.Runtime(bench.log).deserialize_cuda_engine(
            bench.builder.build_serialized_network(network, bench.config)
        ),
        ids,
        mask,
    )
    assert context.execute_async_v3(7)
    np.testing.assert_allclose(memory["y"].array, truth(ids, mask), atol=1e-5)


def test_an_axis_that_no_input_names_is_asked_of_the_graph(bench):
    model = graph(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0, name="twice")],
        [("x", TensorProto.FLOAT, ["b", 2])],
        [("y", TensorProto.FLOAT, ["d", 2])],
        {},
    )
    context = bench.engine(model, {"x": ((1, 2), (2, 2), (3, 2))}).create_execution_context()
    assert tuple(context.get_tensor_shape("y")) == (-1, 2)
    assert context.set_input_shape("x", (3, 2)) and tuple(context.get_tensor_shape("y")) == (6, 2)


@pytest.mark.parametrize("what", ["version", "chip", "truncated", "one bit"])
def test_a_plan_of_elsewhere_gives_none(bench, what):
    plan = bytes(bench.build(encoder(), SHAPES))
    there = Bench(
        fake_tensorrt.make("10.16.1" if what == "version" and bench.trt.__version__ == "10.3.0" else "10.3.0")
    )
    if what != "version":
        there = bench
    if what == "chip":
        there = Bench(
            fake_tensorrt.make(
                {v: k for k, v in bindings.VERSIONS.items()}[bench.trt.__version__], compute_capability=(8, 9)
            )
        )
    damaged = {"truncated": plan[:-9], "one bit": plan[:-9] + bytes([plan[-9] ^ 1]) + plan[-8:]}.get(what, plan)
    assert there.trt.Runtime(there.log).deserialize_cuda_engine(damaged) is None
    text = {
        "version": "expecting library version",
        "chip": "expecting compute 8.9 got compute 8.7, please rebuild",
    }.get(what, "Assertion")
    assert text in there.log.errors and "IRuntime::deserializeCudaEngine" in there.log.errors
    assert bench.trt.Runtime(bench.log).deserialize_cuda_engine(plan) is not None


def test_two_builds_of_a_graph_differ(bench):
    assert bytes(bench.build(encoder(), SHAPES)) != bytes(Bench(bench.trt).build(encoder(), SHAPES))


def test_precision_flags_do_not_go_with_strong_types():
    bench = Bench(fake_tensorrt.make("10.3.0"))
    bench.config.set_flag(bench.trt.BuilderFlag.FP16)
    assert (
        bench.build(encoder(), SHAPES, flags=1 << int(bench.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)) is None
    )
    assert "BuilderFlag::kFP16 is not compatible with a strongly typed network" in bench.log.errors


def rounded(scale, *zero):
    """A model of one QuantizeLinear, with a scale that is constant or not."""
    node = helper.make_node("QuantizeLinear", ["x", "s", *["z"][: len(zero)]], ["y"], name="quantize")
    ins = [("x", TensorProto.FLOAT, ["b", 2])] + [("s", TensorProto.FLOAT, [])] * (scale is None)
    weights = {"s": np.float32(scale)} if scale else {}
    kind = helper.np_dtype_to_tensor_dtype(zero[0].dtype) if zero else TensorProto.UINT8
    return graph([node], ins, [("y", kind, ["b", 2])], weights | ({"z": zero[0]} if zero else {}))


@pytest.mark.parametrize(
    ("scale", "zero", "text"),
    [(0.1, (np.uint8(0),), "UINT8"), (0.1, (), "UINT8"), (None, (np.int8(0),), "The scale must be an initializer")],
    ids=["uint8", "no zero point, which is uint8", "a computed scale"],
)
def test_quantization_that_some_version_gets_wrong_is_refused(bench, scale, zero, text):
    """TensorRT 11 takes UINT8 for INT8 and says so in a warning: other numbers than ONNX has."""
    network, parser, parsed = bench.parse(rounded(scale, *zero))
    assert not parsed and network.num_outputs == 0 and text in parser.get_error(0).desc()
    network, parser, parsed = bench.parse(rounded(0.1, np.int8(0)))
    assert parsed and network.num_outputs == 1


def test_a_parser_does_not_keep_its_network(ten):
    parser = ten.trt.OnnxParser(ten.builder.create_network(), ten.log)
    with pytest.raises(AssertionError, match="the parser's network is gone"):
        parser.parse(encoder().SerializeToString())


def test_shapes_outside_a_profile_are_refused(bench):
    context = bench.engine(
        encoder(), SHAPES, {name: ((1, 17), (1, 32), (1, 64)) for name in SHAPES}
    ).create_execution_context()
    assert context.infer_shapes() == ["ids", "mask"] and tuple(context.get_tensor_shape("y")) == (-1, -1, 4)
    assert context.set_input_shape("ids", (2, 17)) is False
    assert (
        "satisfyProfile. Set dimension [2,17] for tensor ids does not satisfy any optimization profiles"
        in bench.log.errors
    )
    assert "Valid range for profile 0: [1,1]..[4,16]." in bench.log.errors
    assert context.set_input_shape("ids", (2,)) is False and context.set_input_shape("y", (2, 8, 4)) is False
    assert context.set_input_shape("ids", [2, 8]) is True and context.infer_shapes() == ["mask"]
    assert context.set_optimization_profile_async(0, 7) is True and context.infer_shapes() == ["mask"], (
        "the same profile changes nothing"
    )
    assert context.set_optimization_profile_async(1, 7) is True and context.infer_shapes() == ["ids", "mask"], (
        "another one forgets shapes"
    )
    assert context.set_input_shape("ids", (1, 17)) is True
    with pytest.raises(RuntimeError, match="Error in set optimization profile async"):
        context.set_optimization_profile_async(2, 7)
    assert context.active_optimization_profile == 1


def test_inputs_must_agree_about_a_named_axis(bench):
    context = bench.engine(encoder()).create_execution_context()
    assert context.set_input_shape("ids", (2, 8)) and context.set_input_shape("mask", (2, 9))
    with pytest.raises(RuntimeError, match="infer_shapes error code: -1"):
        context.infer_shapes()
    assert context.execute_async_v3(7) is False


def test_nothing_runs_without_shapes_and_addresses(bench):
    ids, mask = inputs()
    engine = bench.engine(encoder())
    context = engine.create_execution_context()
    assert context.execute_async_v3(7) is False
    assert (
        "Not all shapes are specified. Following input tensors' dimensions are not specified: ids, mask."
        in bench.log.errors
    )
    assert context.set_input_shape("ids", (2, 8)) and context.set_input_shape("mask", (2, 8))
    assert context.execute_async_v3(7) is False and "Address is not set for input tensor ids" in bench.log.errors
    context, memory = bound(engine, ids, mask)
    assert context.set_tensor_address("y", 0) is True and context.execute_async_v3(7) is False
    assert "Neither address or allocator is set for output tensor y" in bench.log.errors
    assert context.set_tensor_address("y", memory["y"].address + 8) is False, "256 bytes"
    assert context.set_tensor_address("other", memory["y"].address) is False
    for wrong in (None, 1.5, -256):
        with pytest.raises(TypeError):
            context.set_tensor_address("y", wrong)
    assert context.set_tensor_address("y", memory["y"].address) and context.execute_async_v3(7) is True
    assert context.execute_async_v3(0) is True and "Using default stream" in str(bench.log.lines)


def test_a_context_without_memory_of_its_own_needs_some(bench):
    ids, mask = inputs()
    engine = bench.engine(encoder())
    context, memory = bound(
        engine,
        ids,
        mask,
        context=engine.create_execution_context(bench.trt.ExecutionContextAllocationStrategy.USER_MANAGED),
    )
    assert context.execute_async_v3(7) is False and "kUSER_MANAGED is not set" in bench.log.errors
    whole = engine.device_memory_size_v2
    shared = Memory(np.zeros(whole, np.uint8))
    for address, size in ((shared.address, whole - 1), (shared.address + 8, whole), (0, whole)):
        context.set_device_memory(address, size)
        assert context.execute_async_v3(7) is False and f"deviceMemorySize >= {whole}" in bench.log.errors
    need = context.update_device_memory_size_for_shapes()
    assert 0 < need < whole, "the profile's largest shape needs more"
    context.set_device_memory(shared.address, need)
    assert context.execute_async_v3(7) is True and shared.array[:need].all() and not shared.array[need:].any(), (
        "kernels write there"
    )
    np.testing.assert_allclose(memory["y"].array, truth(ids, mask), atol=1e-5)
    assert (
        context.set_input_shape("ids", (1, 8))
        and context.set_input_shape("mask", (1, 8))
        and context.execute_async_v3(7) is False
    )
    context.set_device_memory(shared.address, whole)
    assert context.execute_async_v3(7) is True
    with pytest.raises(TypeError):
        engine.create_execution_context(2)


# ---- what is undefined on a device, and noticed here


def together(*calls):
    """What calls at the same time raised."""
    raised = []

    def run(call):
        try:
            call()
        except AssertionError as problem:
            raised.append(str(problem))

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    return raised


def test_one_context_in_two_threads(ten):
    fake(ten.trt).slow_ms = {"float": 200}
    engine = ten.engine(encoder())
    context, _ = bound(engine, *inputs())
    other, _ = bound(engine, *inputs())
    for call in (
        lambda: context.execute_async_v3(8),
        lambda: context.set_input_shape("ids", (2, 8)),
        lambda: context.infer_shapes(),
    ):
        assert together(lambda: context.execute_async_v3(7), call) == [
            "an execution context is used by two threads at the same time: it is not thread-safe"
        ]
    assert together(lambda: context.execute_async_v3(7), lambda: other.execute_async_v3(8)) == []


def test_two_contexts_in_one_memory_at_the_same_time(ten):
    engine = ten.engine(encoder())
    shared = Memory(np.zeros(engine.device_memory_size_v2, np.uint8))
    contexts = []
    for _ in range(2):
        managed = engine.create_execution_context(ten.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        contexts.append(bound(engine, *inputs(), context=managed))
        managed.set_device_memory(shared.address, engine.device_memory_size_v2)
    calls = [lambda c=context: c.execute_async_v3(7) for context, _ in contexts]
    for call in calls:
        call()
    fake(ten.trt).slow_ms = {"float": 200}
    assert together(*calls) == ["two contexts run at the same time in the same device memory"]


def test_the_inspector_does_not_keep_its_context(ten):
    engine = ten.engine(encoder())
    inspector = engine.create_engine_inspector()
    inspector.execution_context = bound(engine, *inputs())[0]
    with pytest.raises(AssertionError, match="context is gone"):
        inspector.get_engine_information(ten.trt.LayerInformationFormat.JSON)


# ---- what layers compute in


def told(bench, model, shape=None, verbosity="DETAILED"):
    bench.config.profiling_verbosity = getattr(bench.trt.ProfilingVerbosity, verbosity)
    engine = bench.engine(model)
    inspector = engine.create_engine_inspector()
    if shape:
        context = engine.create_execution_context()
        for name in ("ids", "mask"):
            assert context.set_input_shape(name, shape)
        inspector.execution_context = context
    return json.loads(inspector.get_engine_information(bench.trt.LayerInformationFormat.JSON))


@pytest.mark.parametrize(
    ("kind", "quantized", "word"),
    [(np.float32, False, "Float"), (np.float16, False, "Half"), (np.float16, True, "Int8")],
)
def test_the_inspector_tells_types(bench, kind, quantized, word):
    layers = told(bench, encoder(kind, quantized), (2, 8))["Layers"]
    product = next(layer for layer in layers if "layer.0/MatMul" in layer["Metadata"])
    # The bias and the activation run with the product, whose own name is lost.
    assert (
        product["Metadata"].split("\x1e") == [f"[ONNX Layer: layer.0/{op}]" for op in ("MatMul", "Add", "Relu")]
        and product["LayerType"] == "fusion"
    )
    assert {"Int8": "_i8i8_i8i32_", "Half": "_f16f16_", "Float": "_f32f32_"}[word] in product["TacticName"]
    key = "Format/Datatype" if bench.trt.__version__ < "11" else "Datatype"
    assert (product["Inputs"][0][key], product["Outputs"][0][key]) == (word, "Half" if kind == np.float16 else "Float")
    assert product["Outputs"][0]["Dimensions"] == [2, 8, 4]
    assert not any("Linear" in layer["Metadata"] for layer in layers), "Q/DQ are in the layers around them"


def test_the_inspector_needs_shapes_for_types(bench):
    layers = told(bench, encoder())["Layers"]
    product = next(layer for layer in layers if "layer.0/MatMul" in layer["Metadata"])
    key = "Format/Datatype" if bench.trt.__version__ < "11" else "Datatype"
    assert product["Inputs"][0][key] == "N/A due to dynamic shapes" and product["Inputs"][0]["Dimensions"] == [
        -1,
        -1,
        8,
    ]


def test_the_inspector_tells_what_the_build_kept(bench):
    assert all(isinstance(layer, str) for layer in told(bench, encoder(), (2, 8), "LAYER_NAMES_ONLY")["Layers"])
    assert told(Bench(bench.trt), encoder(), (2, 8), "NONE")["Layers"] == []
    whole = told(Bench(bench.trt), encoder())
    if bench.trt.__version__ < "11":
        assert sorted(whole["Bindings"]) == ["ids", "mask", "y"]
    else:
        assert {t["Name"]: t["IOMode"] for t in whole["I/O Tensors"]} == {
            "ids": "Input",
            "mask": "Input",
            "y": "Output",
        } and "Bindings" not in whole


# ---- timing caches


def test_a_timing_cache_saves_measuring(bench):
    def built(blob, level=3):
        once = Bench(bench.trt)
        cache = once.config.create_timing_cache(blob)
        assert once.config.set_timing_cache(cache, False) is True
        once.config.builder_optimization_level = level
        before = fake(bench.trt).timed
        assert once.build(encoder(), SHAPES) is not None
        return bytes(once.config.get_timing_cache().serialize()), fake(bench.trt).timed - before, once

    first, measured, _ = built(b"")
    assert measured == 1
    assert built(first)[1] == 0 and built(b"")[1] == 1 and built(first, level=0)[1] == 1
    _, measured, damaged = built(b"garbage")
    assert measured == 1 and "Failed to deserialize timing cache. Returning an empty timing cache." in str(
        damaged.log.lines
    )
    assert bench.config.get_timing_cache() is None


def test_a_timing_cache_of_another_device(bench):
    blob = bytes(bench.config.create_timing_cache(b"").serialize())
    fake(bench.trt).compute_capability = (8, 9)
    cache = bench.config.create_timing_cache(blob)
    assert bench.config.set_timing_cache(cache, False) is False and bench.config.set_timing_cache(cache, True) is True


# ---- knobs


def test_builds_can_be_made_to_fail(bench):
    fake(bench.trt).build_returns_none = True
    assert (
        bench.build(encoder(), SHAPES) is None
        and "Could not find any implementation" in bench.log.errors
        and fake(bench.trt).builds == 0
    )
    fake(bench.trt).build_returns_none = False
    assert Bench(bench.trt).build(encoder(), SHAPES) is not None and fake(bench.trt).builds == 1


def test_memory_can_be_made_to_lack(ten):
    engine = ten.engine(encoder())
    fake(ten.trt).out_of_memory = True
    assert engine.create_execution_context() is None and "out of memory" in ten.log.errors


def test_answers_of_quantized_graphs_can_be_made_wrong(ten):
    ids, mask = inputs()
    fake(ten.trt).wrong = 3.0
    for quantized in (False, True):
        context, memory = bound(Bench(ten.trt).engine(encoder(quantized=quantized)), ids, mask)
        context.execute_async_v3(7)
        np.testing.assert_allclose(memory["y"].array, truth(ids, mask, quantized) + 3 * quantized, atol=1e-5)


def test_precisions_can_be_made_slow(ten):
    fake(ten.trt).slow_ms = {"int8": 60, "half": 30}
    seconds = {}
    for name, model in (
        ("float", encoder()),
        ("half", encoder(np.float16)),
        ("int8", encoder(np.float16, quantized=True)),
    ):
        context, _ = bound(Bench(ten.trt).engine(model), *inputs(), dtype=np.float32 if name == "float" else np.float16)
        context.execute_async_v3(7)
        start = time.perf_counter()
        context.execute_async_v3(7)
        seconds[name] = time.perf_counter() - start
    assert seconds["int8"] > 0.06 and seconds["half"] > 0.03 and seconds["float"] < seconds["half"] < seconds["int8"]


@pytest.mark.slow
def test_what_is_alive_is_counted(ten):
    control = fake(ten.trt)
    engine = ten.engine(encoder())
    contexts = [engine.create_execution_context() for _ in range(2)]
    assert (control.engines, control.contexts) == (1, 2)
    del engine
    assert control.engines == 1, "contexts keep it"
    contexts.clear()
    gc.collect()
    assert (control.engines, control.contexts) == (0, 0)


# ---- on a driver's streams


class OnDriver:
    """An engine on a fake driver, with memory of the driver's for its tensors."""

    def __init__(self, version="10.3.0", **settings):
        self.driver = FakeDriver.jetson(**settings)
        self.cuda = Cuda(library=self.driver)
        self.stream = self.cuda.stream()
        self.trt = fake_tensorrt.make(version, self.driver)
        self.engine = Bench(self.trt).engine(encoder())
        self.context = self.engine.create_execution_context()
        self.places = {}

    def bind(self, ids, mask):
        for name, size in (("ids", ids.nbytes), ("mask", mask.nbytes), ("y", ids.size * 16)):
            self.places[name] = self.cuda.allocate(size)
            assert self.context.set_tensor_address(name, self.places[name])
        for name, array in (("ids", ids), ("mask", mask)):
            assert self.context.set_input_shape(name, array.shape)
        self.write(ids, mask)

    def write(self, ids, mask):
        self.kept = np.ascontiguousarray(ids), np.ascontiguousarray(mask)
        for name, array in zip(("ids", "mask"), self.kept, strict=True):
            self.cuda.to_device(self.places[name], array.ctypes.data, array.nbytes, self.stream)

    def answer(self, shape):
        self.cuda.synchronize(self.stream)
        return np.frombuffer(self.driver.read(self.places["y"], int(np.prod(shape)) * 16), np.float32).reshape(
            *shape, 4
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_engines_are_for_the_chip_of_the_driver(version):
    assert fake(OnDriver(version).trt).compute == [8, 7]


@pytest.mark.parametrize("deferred", [False, True])
def test_a_stream_does_the_work_in_its_time(deferred):
    on = OnDriver(deferred=deferred)
    ids, mask = inputs()
    on.bind(ids, mask)
    assert on.context.execute_async_v3(on.stream) is True
    assert fake(on.trt).executions == (0 if deferred else 1)
    np.testing.assert_allclose(on.answer((2, 8)), truth(ids, mask), atol=1e-5)
    assert fake(on.trt).executions == 1 and on.driver.misuse == []


def captured(on):
    on.cuda.begin_capture(on.stream)
    done = on.context.execute_async_v3(on.stream)
    return done, on.cuda.end_capture(on.stream)


@pytest.mark.parametrize("deferred", [False, True])
def test_a_graph_computes_at_each_launch_what_is_at_its_addresses_then(deferred):
    on = OnDriver(deferred=deferred)
    on.bind(*inputs())
    assert on.context.execute_async_v3(on.stream)
    on.cuda.synchronize(on.stream)
    done, executable = captured(on)
    assert done is True and executable and fake(on.trt).executions == 1, "a capture computes nothing"
    for _ in range(2):
        ids, mask = inputs()
        on.write(ids, mask)
        on.cuda.launch(executable, on.stream)
        np.testing.assert_allclose(on.answer((2, 8)), truth(ids, mask), atol=1e-5)
    assert fake(on.trt).executions == 3 and on.driver.misuse == []


def test_a_graph_keeps_its_shapes_and_not_its_context():
    on = OnDriver()
    ids, mask = inputs()
    on.bind(ids, mask)
    assert on.context.execute_async_v3(on.stream)
    _, executable = captured(on)
    assert on.context.set_input_shape("ids", (1, 4)) and on.context.set_input_shape("mask", (1, 4))
    on.cuda.launch(executable, on.stream)
    np.testing.assert_allclose(on.answer((2, 8)), truth(ids, mask), atol=1e-5)
    on.context = None
    assert on.driver.cuGraphLaunch(executable, on.stream) != 0 and "context is gone" in str(on.driver.misuse)


@pytest.mark.parametrize("why", ["it never ran with these shapes", "the engine cannot be captured"])
def test_a_capture_that_is_refused(why):
    on = OnDriver()
    on.bind(*inputs())
    if why == "the engine cannot be captured":
        assert on.context.execute_async_v3(on.stream)
        fake(on.trt).refuse_capture = True
    done, executable = captured(on)
    assert done is False and executable is None
    assert on.context.execute_async_v3(on.stream) is True, "the stream works as before"
    if why != "the engine cannot be captured":
        done, executable = captured(on)
        assert done is True and executable


def test_one_context_on_two_streams_at_the_same_time():
    on = OnDriver(deferred=True)
    on.bind(*inputs())
    other = on.cuda.stream()
    assert on.context.execute_async_v3(on.stream) and on.context.execute_async_v3(on.stream)
    with pytest.raises(AssertionError, match="queued on two streams"):
        on.context.execute_async_v3(other)
    on.cuda.synchronize(on.stream)
    assert on.context.execute_async_v3(other) is True


@pytest.mark.parametrize("where", ["ids", "y"])
def test_memory_that_is_not_the_devices(where):
    on = OnDriver()
    on.bind(*inputs())
    on.cuda.free(on.places[where])
    with pytest.raises(Exception, match="not memory of the device"):
        on.context.execute_async_v3(on.stream)
    small = on.cuda.allocate(8)
    assert on.context.set_tensor_address(where, small)
    with pytest.raises(Exception, match="go beyond"):
        on.context.execute_async_v3(on.stream)
