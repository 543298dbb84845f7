"""The TensorRT runtime layer on a driver and a library that stand in for a GPU's: answers, the order of CUDA calls, memory, threads, failures.

The driver does nothing before a stream is synchronized, so that a missing synchronize gives wrong numbers; and at the end of each
test nothing may be left in it, nor anything that a driver or TensorRT would not stand.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import queue
import threading
import time

import fake_tensorrt
import numpy as np
import onnxruntime
import pytest
from fake_cuda import FakeDriver
from fake_tensorrt_bench import BIAS, EMBEDDINGS, VERSIONS, WEIGHT, encoder, graph, truth
from onnx import TensorProto, helper
from refusals import refused

from edgekit import backends
from edgekit.backends import _trt, _trt_engine
from edgekit.backends._trt_device import TensorRtDevice
from edgekit.drivers.cuda import Cuda
from edgekit.drivers.cuda_api import FUNCTIONS
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.errors import BackendError
from edgekit.spec.progress import silent
from edgekit.spec.tensor import Signature, TensorSpec

node = helper.make_node
COPIES = {name for name in FUNCTIONS if "Memcpy" in name}
QUEUED = {*COPIES, "cuStreamSynchronize", "cuGraphLaunch", "cuStreamBeginCapture_v2", "cuStreamEndCapture"}
IN, OUT, BEGIN, END, LAUNCH, WAIT = (
    "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphLaunch", "cuStreamSynchronize",
)  # fmt: skip


def signature(ins, outs):
    return Signature(
        "forward", *(tuple(TensorSpec(name, kind, shape) for name, kind, shape in specs) for specs in (ins, outs))
    )


ENCODER = signature(
    [("ids", "int64", ("batch", "seq")), ("mask", "int64", ("batch", "seq"))], [("y", "float32", ("batch", "seq", 4))]
)
PROFILES = ({"batch": (1, 1, 4), "seq": (1, 8, 16)}, {"batch": (1, 1, 1), "seq": (17, 32, 96)})
# Of a model that reads what it gave before: y = relu(x) + state, and a copy of the state's sum as a second output.
STATE = signature(
    [("x", "float32", ("batch", 8)), ("state", "float32", ("batch", 8))],
    [("y", "float32", ("batch", 8)), ("twice", "float32", ("batch", 8))],
)


def of_type(kind, op="Cast", shape=("batch", "seq"), **attributes):
    """A graph of one node from an input x of a type to float32."""
    return graph(
        [node(op, ["x"], ["y"], name="only", **attributes)], [("x", kind, shape)], [("y", TensorProto.FLOAT, shape)], {}
    )


def state():
    nodes = [
        node("Relu", ["x"], ["r"], name="relu"),
        node("Add", ["r", "state"], ["y"], name="add"),
        node("Add", ["y", "y"], ["twice"], name="twice"),
    ]
    ins, outs = (
        [(name, TensorProto.FLOAT, ["batch", 8]) for name in names] for names in (("x", "state"), ("y", "twice"))
    )
    return graph(nodes, ins, outs, {})


class Machine:
    """A driver, a library and the devices that are opened on them; all is closed and looked through in the end."""

    def __init__(self, folder, version="10.16.1", integrated=False, **driver):
        made = FakeDriver.jetson if integrated else FakeDriver
        self.driver = made(**{"deferred": True, **driver})
        self.trt = fake_tensorrt.make(version, self.driver)
        self.fake = fake_tensorrt.fake(self.trt)
        self._folder, self._devices = folder, []

    def device(self, streams=1):
        self._devices.append(TensorRtDevice(self.trt, streams, Cuda(library=self.driver)))
        return self._devices[-1]

    def plan(self, model, own, profiles):
        path = self._folder / "graph.onnx"
        path.write_bytes(model.SerializeToString())
        return self.device().compile(path, own, EngineRecipe(profiles), b"", silent).plan

    def engine(self, model=None, own=ENCODER, profiles=PROFILES, streams=1, device=None):
        return (device or self.device(streams)).load(self.plan(model or encoder(), own, profiles), own)

    def calls(self, run, names=QUEUED):
        """CUDA calls of a run, by these names, and what it returned."""
        start = len(self.driver.log)
        found = run()
        return [name for name in self.driver.log[start:] if name in names], found

    def close(self):
        for device in self._devices:
            device.close()

    def check(self):
        self.close()
        assert self.driver.misuse == []
        assert self.driver.leaks() == []
        assert (self.fake.engines, self.fake.contexts) == (0, 0)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes machines, and checks them when the test is over."""
    machines = []

    def make(**settings):
        monkeypatch.setattr(_trt, "_loggers", {})  # the one of a process belongs to the library that it was made for
        machines.append(Machine(tmp_path, **settings))
        return machines[-1]

    yield make
    for machine in machines:
        machine.check()


@pytest.fixture(params=["integrated", "discrete"])
def integrated(request):
    return request.param == "integrated"


@pytest.fixture
def machine(make, integrated):
    return make(integrated=integrated)


def feeds(batch=2, seq=8, seed=0):
    choose = np.random.default_rng([batch, seq, seed])
    return {"ids": choose.integers(0, 50, (batch, seq)), "mask": choose.integers(0, 2, (batch, seq))}


def right(found, given, tolerance=1e-5):
    np.testing.assert_allclose(found["y"], truth(given["ids"], given["mask"]), atol=tolerance)


def refused_capture(machine):
    machine.fake.refuse_capture = True


def invalid_capture(machine):
    machine.driver.invalidate_capture = True


# ---- answers, and the order of calls


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("quantized", [False, True])
def test_answers_are_those_of_onnxruntime(make, integrated, version, quantized):
    machine = make(version=version, integrated=integrated)
    model = encoder(quantized=quantized)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    engine = machine.engine(model)
    for turn in range(4):  # enqueued, captured, launched, launched; the shapes take turns
        for batch, seq in ((1, 1), (4, 16), (2, 8), (1, 17), (1, 96)):
            given = feeds(batch, seq, turn)
            found = engine.run(given)["y"]
            assert found.dtype == np.float32 and found.shape == (batch, seq, 4)
            np.testing.assert_array_equal(found, session.run(None, given)[0])
            np.testing.assert_allclose(found, truth(**given, quantized=quantized), atol=1e-5)


def test_first_enqueues_second_captures_third_launches(machine, integrated):
    engine = machine.engine()
    sent, fetched = ([], []) if integrated else ([IN, IN], [OUT])
    shown = []
    for turn in range(4):
        given = feeds(seed=turn)
        called, found = machine.calls(lambda given=given: engine.run(given))
        right(found, given)
        shown.append(called)
    assert shown[0] == [*sent, *fetched, WAIT]
    assert shown[1] == [*sent, *fetched, WAIT, BEGIN, *sent, *fetched, END]
    assert shown[2] == shown[3] == [LAUNCH, WAIT]
    assert machine.fake.executions == 4, "the call that captures runs once, and the capture runs nothing"
    called, _ = machine.calls(lambda: engine.run(feeds(1, 5)))
    assert called == shown[0], "another shape begins anew"


def test_a_jetson_copies_nothing(make):
    machine = make(integrated=True)
    engine = machine.engine()
    for turn in range(3):
        right(engine.run(feeds(seed=turn)), feeds(seed=turn))
    assert COPIES.isdisjoint(machine.driver.log)
    assert machine.driver.live()["mapped"] == 3 and machine.driver.live()["device"] == 1, (
        "inputs and outputs are mapped, scratch memory is the device's"
    )


def test_inputs_and_answers_are_the_callers_own(machine):
    engine = machine.engine()
    kept = []
    for turn in range(4):
        given = {name: np.repeat(array, 2, axis=1)[:, ::2] for name, array in feeds(seed=turn).items()}
        assert not given["ids"].flags.c_contiguous
        kept.append((engine.run(given), {name: array.copy() for name, array in given.items()}))
        given["ids"][...] = 0
    for found, given in kept:
        right(found, given)


def test_a_context_for_each_profile_and_each_graph(machine):
    engine = machine.engine()
    for _ in range(2):
        for seq in (8, 20):
            for _ in range(3):
                right(engine.run(feeds(1, seq)), feeds(1, seq))
    assert machine.fake.contexts == 4
    assert machine.driver.live()["executables"] == 2
    right(engine.run(feeds(1, 9)), feeds(1, 9))
    assert machine.fake.contexts == 4, "another shape is another state of the profile's context"
    right(engine.run(feeds(1, 8)), feeds(1, 8))
    right(engine.run(feeds(1, 20)), feeds(1, 20))


def test_the_least_recently_used_graph_goes(machine, monkeypatch):
    monkeypatch.setattr(_trt_engine, "_GRAPHS", 2)
    monkeypatch.setattr(_trt_engine, "_OFTEN", 4)
    engine = machine.engine()

    def run(seq):
        called, found = machine.calls(lambda: engine.run(feeds(1, seq)))
        right(found, feeds(1, seq))
        return "captures" if BEGIN in called else "launches" if LAUNCH in called else "enqueues"

    assert [run(seq) for seq in (1, 1, 1, 2, 2, 2, 1)] == [
        "enqueues",
        "captures",
        "launches",
        "enqueues",
        "captures",
        "launches",
        "launches",
    ]
    assert [run(3) for _ in range(6)] == [*["enqueues"] * 4, "captures", "launches"], "a third shape has to be worth it"
    assert machine.driver.live()["executables"] == 2 and machine.fake.contexts == 3
    assert [run(1), run(3)] == ["launches", "launches"]
    assert [run(2) for _ in range(5)] == [*["enqueues"] * 4, "captures"], (
        "2 was the least recently used, and is counted anew"
    )
    assert [run(3), run(1)] == ["launches", "enqueues"]
    assert machine.driver.live()["executables"] == 2 and machine.fake.contexts == 3


def test_many_shapes_take_turns_without_a_capture_each(machine, monkeypatch):
    """As texts of natural lengths do: more shapes than graphs, again and again."""
    monkeypatch.setattr(_trt_engine, "_GRAPHS", 4)
    engine = machine.engine()
    start = len(machine.driver.log)
    for turn in range(20):
        for seq in range(1, 13):
            right(engine.run(feeds(1, seq, turn)), feeds(1, seq, turn))
    assert machine.driver.log[start:].count(BEGIN) == 4


def test_the_counts_of_shapes_are_bounded(make, monkeypatch):
    monkeypatch.setattr(_trt_engine, "_SEEN", 3)
    engine = make().engine()
    for batch, seq in itertools.product((1, 2), range(1, 5)):
        engine.run(feeds(batch, seq))
    (lane,) = engine._lanes.values()
    assert list(lane.seen) == [((2, seq), (2, seq)) for seq in (2, 3, 4)]


@pytest.mark.parametrize("trouble", [refused_capture, invalid_capture])
def test_what_cannot_be_captured_is_enqueued(machine, integrated, trouble, caplog):
    caplog.set_level(logging.INFO, "edgekit.tensorrt")
    trouble(machine)
    engine = machine.engine()
    for turn in range(5):
        called, found = machine.calls(lambda turn=turn: engine.run(feeds(seed=turn)))
        right(found, feeds(seed=turn))
        assert (BEGIN in called) == (turn == 1), "it is tried once"
    assert machine.fake.contexts == 1 and machine.driver.live()["executables"] == machine.driver.live()["graphs"] == 0
    assert "((2, 8), (2, 8)) are enqueued and not captured" in caplog.text


def test_tensorrt_rtx_captures_by_itself(make, monkeypatch):
    """Its contexts are made with settings that say so, and nothing is captured around them."""
    machine = make()
    made, create = [], machine.trt.ICudaEngine.create_execution_context
    machine.trt.__name__ = "tensorrt_rtx_bindings"
    machine.trt.CudaGraphStrategy = type("CudaGraphStrategy", (), {"DISABLED": 0, "WHOLE_GRAPH_CAPTURE": 1})

    class Settings:
        cuda_graph_strategy = 0

        def set_execution_context_allocation_strategy(self, strategy):
            self.strategy = strategy

    def create_context(engine, settings):
        made.append((settings.cuda_graph_strategy, settings.strategy.name))
        return create(engine, settings.strategy)

    machine.trt.ICudaEngine.create_runtime_config = lambda engine: Settings()
    plan = fake_tensorrt_plan(machine)
    machine.trt.ICudaEngine.create_execution_context = create_context
    engine = machine.device().load(plan, ENCODER)
    for turn in range(4):
        called, found = machine.calls(lambda turn=turn: engine.run(feeds(seed=turn)))
        assert called == [IN, IN, OUT, WAIT]
        right(found, feeds(seed=turn))
    assert made == [(1, "USER_MANAGED")]


def fake_tensorrt_plan(machine):
    """A plan without the builder of TensorRT-RTX, which the stand-in is none."""
    machine.trt.__name__ = "tensorrt"
    plan = machine.plan(encoder(), ENCODER, PROFILES)
    machine.trt.__name__ = "tensorrt_rtx_bindings"
    return plan


def test_other_code_may_take_the_context_off_the_thread(machine):
    engine = machine.engine()
    for turn in range(4):
        machine.driver.cuCtxSetCurrent(None)
        right(engine.run(feeds(seed=turn)), feeds(seed=turn))
    buffer = engine.run(feeds(), keep=["y"])["y"]
    machine.driver.cuCtxSetCurrent(None)
    right({"y": buffer.numpy()}, feeds())
    machine.driver.cuCtxSetCurrent(None)
    engine.close()
    machine.driver.cuCtxSetCurrent(None)
    engine._device.close()


@pytest.mark.parametrize(("quantized", "told"), [(False, "float32"), (True, "int8")])
def test_precision_is_read_off_the_engine(machine, quantized, told):
    engine = machine.engine(encoder(quantized=quantized))
    assert backends.summary(engine.precisions()) == told
    right(engine.run(feeds()), feeds(), 0.1)
    assert backends.summary(engine.precisions()) == told
    assert machine.fake.contexts == 1, "the context that was asked is gone"


# ---- inputs


def test_shapes_outside_the_profiles_name_the_axis(machine):
    engine = machine.engine()
    accepted = "It accepts: batch 1 to 4, seq 1 to 16; batch 1 to 1, seq 17 to 96."
    for batch, seq, words in (
        (1, 97, "Axis 'seq' is 97"),
        (5, 8, "Axis 'batch' is 5"),
        (2, 17, "Axis 'batch x seq' is 2 x 17"),
        (0, 8, "Axis 'batch' is 0"),
    ):
        with refused("input-outside-profiles", f"{words}", f"{accepted}"):
            engine.run(feeds(batch, seq))
    assert machine.fake.executions == 0
    right(engine.run(feeds()), feeds())


def test_inputs_that_do_not_go_together(machine):
    engine = machine.engine()
    for wrong, words in (
        ({"mask": np.ones((2, 9), int)}, ("input-shape", "mask", "2", "9", "8")),
        ({"mask": np.ones((2, 8, 1), int)}, ("input-shape", "mask", "2", "8", "1")),
        ({"ids": np.ones(8, int)}, ("input-shape", "ids", "8")),
    ):
        with refused(words):
            engine.run({**feeds(), **wrong})
    with refused("input-missing", "mask"):
        engine.run({"ids": feeds()["ids"]})
    with refused("output-unknown", "z"):
        engine.run(feeds(), keep=["z"])
    fixed = machine.engine(state(), STATE, ({"batch": (1, 1, 4)},))
    with refused("input-shape", "x", "2", "9", "8"):
        fixed.run({"x": np.zeros((2, 9), np.float32), "state": np.zeros((2, 8), np.float32)})


NUMBERS = np.array([[0, 1, 7, 100]])


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (TensorProto.INT32, NUMBERS),
        (TensorProto.INT32, NUMBERS.astype(np.uint64)),
        (TensorProto.INT32, NUMBERS.astype(np.int8)),
        (TensorProto.INT64, NUMBERS.astype(np.int32)),
        (TensorProto.UINT8, NUMBERS),
        (TensorProto.INT8, NUMBERS.astype(np.uint8)),
        (TensorProto.INT32, NUMBERS > 1),
        (TensorProto.BOOL, NUMBERS > 1),
        (TensorProto.FLOAT16, NUMBERS / np.float32(2)),
        (TensorProto.FLOAT, NUMBERS / 2.0),
        (TensorProto.FLOAT, NUMBERS),
        (TensorProto.INT32, NUMBERS.tolist()),
    ],
)
def test_types_are_made_the_engines_own(make, integrated, kind, given):
    name = helper.tensor_dtype_to_np_dtype(kind).name
    own = signature([("x", name, ("batch", "seq"))], [("y", "float32", ("batch", "seq"))])
    model = of_type(kind, to=TensorProto.FLOAT) if kind != TensorProto.FLOAT else of_type(kind, "Relu")
    engine = make(integrated=integrated).engine(model, own, ({"batch": (1, 1, 1), "seq": (1, 4, 8)},))
    for _ in range(3):
        np.testing.assert_array_equal(engine.run({"x": given})["y"], np.asarray(given, np.float32))


@pytest.mark.parametrize(
    ("kind", "array", "refusal"),
    [
        (
            TensorProto.INT32,
            np.array([[2**31]]),
            ("input-out-of-range", "2147483648 to 2147483648", "int32", "-2147483648 to 2147483647"),
        ),
        (TensorProto.UINT8, np.array([[-1, 5]]), ("input-out-of-range", "-1 to 5", "uint8", "0 to 255")),
        (TensorProto.INT64, np.array([[2**64 - 1]], np.uint64), ("input-out-of-range", "18446744073709551615")),
        (TensorProto.INT32, np.array([[1.0]]), ("input-dtype", "float64", "int32")),
        (TensorProto.BOOL, np.array([[1]]), ("input-dtype", "int64", "bool")),
        (TensorProto.INT32, np.array([["a"]]), ("input-dtype", "<U1", "int32")),
    ],
)
def test_types_that_do_not_fit_are_refused(make, kind, array, refusal):
    own = signature(
        [("x", helper.tensor_dtype_to_np_dtype(kind).name, ("batch", "seq"))], [("y", "float32", ("batch", "seq"))]
    )
    engine = make().engine(of_type(kind, to=TensorProto.FLOAT), own, ({"batch": (1, 1, 1), "seq": (1, 4, 8)},))
    with refused(refusal) as caught:
        engine.run({"x": array})
    assert str(caught.value).startswith("Input 'x' ")


def test_an_input_that_the_graph_does_not_use_is_not_in_the_engine(machine):
    plan = machine.plan(encoder(), ENCODER, PROFILES)
    more = Signature(
        "forward", (*ENCODER.inputs, TensorSpec("token_type_ids", "int64", ("batch", "seq"))), ENCODER.outputs
    )
    engine = machine.device().load(plan, more)
    right(engine.run({**feeds(), "token_type_ids": np.zeros((2, 8), int)}), feeds())
    right(engine.run(feeds()), feeds())


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (
            signature([("ids", "int64", ("batch", "seq"))], [("y", "float32", ("batch", "seq", 4))]),
            "mask",
        ),
        (
            signature(
                [("ids", "int64", ("batch",)), ("mask", "int64", ("batch", "seq"))],
                [("y", "float32", ("batch", "seq", 4))],
            ),
            "'ids' is [-1, -1]",
        ),
        (
            Signature("forward", ENCODER.inputs, (TensorSpec("y", "float32", ("batch", "seq", 2)),)),
            "[batch, seq, 2]",
        ),
        (
            Signature("forward", ENCODER.inputs, (TensorSpec("z", "float32", ("batch", "seq", 4)),)),
            "'z' is missing",
        ),
    ],
)
def test_an_engine_of_another_graph_is_refused(make, own, words):
    machine = make()
    plan, device = machine.plan(encoder(), ENCODER, PROFILES), machine.device()
    with refused("engine-other-graph", f"{words}", "--force"):
        device.load(plan, own)


def test_outputs_whose_size_depends_on_the_data(make, monkeypatch):
    machine = make()
    model = graph(
        [node("NonZero", ["x"], ["y"], name="only")],
        [("x", TensorProto.FLOAT, ["batch", 8])],
        [("y", TensorProto.INT64, [2, "found"])],
        {},
    )
    profiles, ins = ({"batch": (1, 1, 4)},), [("x", "float32", ("batch", 8))]
    plan = machine.plan(model, signature(ins, [("y", "int64", (2, "found"))]), profiles)
    device = machine.device()
    with refused("output-size-unknown", "y", "found"):
        device.load(plan, signature(ins, [("y", "int64", (2, "found"))]))
    engine = device.load(plan, signature(ins, [("y", "int64", (2, "batch"))]))
    for size, words in (
        (-1, ("output-size-unknown", "y", "2", "1")),
        (5, ("output-too-large", "y", "2", "5", "64")),
    ):
        monkeypatch.setattr(
            machine.trt.IExecutionContext,
            "get_tensor_shape",
            lambda context, name, size=size: machine.trt.Dims((2, size)),
        )
        with refused(words):
            engine.run({"x": np.zeros((1, 8), np.float32)})
    assert machine.fake.executions == 0


# ---- buffers


def test_kept_outputs_go_from_engine_to_engine_on_the_device(machine, integrated):
    device = machine.device()
    first = machine.engine(device=device)
    model = graph(
        [node("Softmax", ["y"], ["z"], name="only", axis=-1)],
        *([(n, TensorProto.FLOAT, ["batch", "seq", 4])] for n in "yz"),
        {},
    )
    second = machine.engine(
        model, signature(*([(n, "float32", ("batch", "seq", 4))] for n in "yz")), PROFILES, device=device
    )
    for turn in range(4):
        given = feeds(seed=turn)
        called, found = machine.calls(lambda given=given: first.run(given, keep=["y"]))
        assert called == ([WAIT] if integrated else [IN, IN, WAIT]), "what is kept is not copied to the host"
        buffer = found["y"]
        assert (buffer.dtype, buffer.shape) == (np.float32, (2, 8, 4))
        called, answer = machine.calls(lambda buffer=buffer: second.run({"y": buffer}))
        assert called == ([WAIT] if integrated else [OUT, WAIT]), "and not from it"
        expected = np.exp(truth(**given))
        np.testing.assert_allclose(answer["z"], expected / expected.sum(-1, keepdims=True), atol=1e-5)
        np.testing.assert_allclose(buffer.numpy(), truth(**given), atol=1e-5)
    host = second.run({"y": truth(**feeds())})["z"]
    (
        np.testing.assert_array_equal(host, second.run({"y": first.run(feeds(), keep=["y"])["y"]})["z"]),
        "a host array works as before",
    )


def test_kept_outputs_are_the_state_of_the_next_call(machine):
    engine = machine.engine(state(), STATE, ({"batch": (1, 1, 4)},))
    x, total = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32), np.zeros((2, 8), np.float32)
    held = total
    start = len(machine.driver.log)
    for turn in range(6):
        found = engine.run({"x": x * turn, "state": held}, keep=["y"])
        total = total + np.maximum(x * turn, 0)
        held = found["y"]
        np.testing.assert_allclose(found["twice"], 2 * total, rtol=1e-5)
    np.testing.assert_allclose(held.numpy(), total, rtol=1e-5)
    if not machine.driver.integrated:
        assert machine.driver.log[start:].count(IN) == 1 + 6, "the state was sent once"
    # Calls without buffers find the lane's own addresses again, and are captured as ever.
    for _ in range(3):
        np.testing.assert_allclose(engine.run({"x": x, "state": x})["y"], np.maximum(x, 0) + x, rtol=1e-5)
    assert machine.driver.live()["executables"] == 1


def test_calls_that_keep_and_calls_that_do_not_share_a_context(machine, monkeypatch):
    """What one kept is not written to by the next, also where the one before failed."""
    machine.fake.refuse_capture = True
    engine = machine.engine()
    context = machine.trt.IExecutionContext
    real = context.execute_async_v3
    for turn in range(4):
        given, kept = feeds(seed=turn), engine.run(feeds(seed=10 + turn), keep=["y"])["y"]
        right(engine.run(given), given)
        monkeypatch.setattr(context, "execute_async_v3", lambda own, stream: False)
        with refused("engine-run-failed"):
            engine.run(given, keep=["y"])
        monkeypatch.setattr(context, "execute_async_v3", real)
        given = feeds(seed=20 + turn)
        right(engine.run(given), given)
        right({"y": kept.numpy()}, feeds(seed=10 + turn))


def test_memory_of_buffers_is_used_again(machine):
    engine = machine.engine()
    engine.run(feeds(), keep=["y"])
    before = machine.driver.live()["device"]
    for turn in range(10):
        held = engine.run(feeds(seed=turn), keep=["y"])["y"]  # two at a time
    assert machine.driver.live()["device"] == before + 1
    for seq in range(1, 17):
        held = engine.run(feeds(1, seq), keep=["y"])["y"]
    assert machine.driver.live()["device"] <= before + 2, "a size near another has the same memory"
    np.testing.assert_allclose(held.numpy(), truth(**feeds(1, 16)), atol=1e-5)


def test_buffers_of_elsewhere_are_refused(machine):
    engine, other = machine.engine(), machine.engine(state(), STATE, ({"batch": (1, 1, 4)},))
    zeros = np.zeros((2, 8), np.float32)
    buffer = other.run({"x": zeros, "state": zeros}, keep=["y"])["y"]
    with refused("buffer-as-input", "ids"):
        engine.run({**feeds(), "ids": buffer})
    same = machine.engine(device=other._device)
    with refused("buffer-as-input", "ids"):
        same.run({**feeds(), "ids": buffer})
    twin = machine.engine(state(), STATE, ({"batch": (1, 1, 4)},))
    with refused("buffer-as-input", "state"):
        twin.run({"x": zeros, "state": buffer})
    wrong = other.run({"x": zeros[:1], "state": zeros[:1]}, keep=["y"])["y"]
    with refused("input-shape", "state", "1", "8", "2"):
        other.run({"x": zeros, "state": wrong})
    other._device.close()
    with refused("buffer-closed"):
        buffer.numpy()
    with refused("engine-closed"):
        other.run({"x": zeros, "state": buffer})
    right(engine.run(feeds()), feeds())


# ---- threads


def in_threads(count, work):
    """Runs ``work(index)`` in threads at a time; raises what one of them raised."""
    problems, threads = [], []

    def run(index):
        try:
            work(index)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a thread waits for ever"
    if problems:
        raise problems[0]


@pytest.mark.parametrize("streams", [1, 3])
def test_many_threads(machine, streams):
    engine = machine.engine(streams=streams)

    def work(index):
        for turn in range(15):
            given = feeds(1 + index % 3, 1 + turn % 4, turn)
            if turn % 5 == 4:
                right({"y": engine.run(given, keep=["y"])["y"].numpy()}, given)
            else:
                right(engine.run(given), given)

    in_threads(8, work)
    live = machine.driver.live()
    assert live["pinned"] + live["mapped"] <= 3 * streams, "memory is that of the streams, not of the threads"
    assert len(engine._lanes) <= streams


def test_close_waits_for_calls_that_run(machine):
    engine = machine.engine(streams=2)
    begun, outcomes = threading.Barrier(5), collections.Counter()

    def work(index):
        begun.wait(10)
        if index == 4:
            engine.close()
            return
        for turn in range(40):
            try:
                right(engine.run(feeds(seed=turn)), feeds(seed=turn))
                outcomes["answered"] += 1
            except BackendError as problem:
                assert "This engine is closed, so it cannot run" in str(problem)
                outcomes["closed"] += 1

    in_threads(5, work)
    assert outcomes.total() == 160 and outcomes["closed"]
    engine.close()


class Slow(queue.SimpleQueue):
    """Streams, each of which takes a moment to get, so that threads that want several get some each."""

    def get(self):
        stream = super().get()
        time.sleep(0.002)
        return stream


def test_engines_and_devices_are_closed_by_several_threads_at_a_time(machine):
    """Each waits for all streams: if two of them collected at a time, both could wait for ever."""
    device = machine.device(4)
    streams = [device.free.get() for _ in range(4)]
    device.free = Slow()
    for stream in streams:
        device.free.put(stream)
    plan = machine.plan(encoder(), ENCODER, PROFILES)
    engines = [device.load(plan, ENCODER) for _ in range(4)]
    for engine in engines:
        right(engine.run(feeds()), feeds())
    in_threads(8, lambda index, engines=engines: engines[index % 4].close())
    device.load(plan, ENCODER).run(feeds())
    in_threads(4, lambda index: device.close())


# ---- failures


def test_a_closed_engine_runs_no_more(machine):
    engine = machine.engine()
    engine.run(feeds())
    engine.close()
    for call in (lambda: engine.run(feeds()), engine.precisions):
        with refused("engine-closed"):
            call()
    assert machine.driver.live()["device"] == machine.driver.live()["mapped"] == machine.driver.live()["pinned"] == 0, (
        "before its device is closed"
    )
    engine.close()
    engine._device.close()
    engine._device.close()


def scenario(machine):
    """All that a session does, in short: answers are right, or a BackendError is raised."""
    device = TensorRtDevice(machine.trt, 2, Cuda(library=machine.driver))
    try:
        engine = device.load(machine.ready, ENCODER)
        for turn in range(6):  # three on each stream
            right(engine.run(feeds(seed=turn)), feeds(seed=turn))
        kept = engine.run(feeds(), keep=["y"])["y"]
        right({"y": kept.numpy()}, feeds())
        assert set(engine.precisions()) == {"float32"}
    finally:
        device.close()


FAILING = [
    "cuMemAlloc_v2", "cuMemHostAlloc", "cuMemHostGetDevicePointer_v2", "cuStreamCreate", "cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags",
    "cuGraphLaunch", "cuDevicePrimaryCtxRetain", IN, OUT,
]  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
def test_out_of_memory_anywhere_leaves_nothing_behind(machine, name):
    machine.ready = machine.plan(encoder(), ENCODER, PROFILES)
    machine.close()
    outcomes = []
    for after in range(100):
        machine.driver.fail(name, 2, after=after)
        try:
            scenario(machine)
            outcomes.append("answered")
        except BackendError as problem:
            assert "CUDA_ERROR_OUT_OF_MEMORY" in str(problem)
            outcomes.append("refused")
        machine.check()
        if machine.driver._failures[name]:  # there was no such call any more
            machine.driver._failures[name].clear()
            break
    assert outcomes[-1] == "answered"
    used = {"cuMemHostGetDevicePointer_v2": machine.driver.integrated, IN: not machine.driver.integrated}.get(
        name, True
    )
    assert (len(outcomes) > 1) == used
    if name in ("cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags"):
        assert set(outcomes) == {"answered"}, "a shape that finds no memory for its graph is enqueued"
    else:
        assert "refused" in outcomes or not used


@pytest.mark.parametrize("code", [700, 719])
@pytest.mark.parametrize("after", range(5))
def test_after_a_sticky_error_every_call_fails_and_close_does_not(machine, code, after, caplog):
    engine = machine.engine()
    machine.driver.fail(WAIT, code, after=after)
    errors = []
    for turn in range(8):
        try:
            right(engine.run(feeds(seed=turn)), feeds(seed=turn))
        except BackendError as problem:
            errors.append(str(problem))
    assert len(errors) == 8 - after and all(f"({code})" in text for text in errors)
    engine._device.close()
    assert "could not be freed" in caplog.text
    machine.driver._streams.clear()  # what is queued there, and in graphs, is never done, and holds the stand-in's engine
    machine.driver._executables.clear()


def test_an_execution_that_tensorrt_refuses(machine, monkeypatch):
    engine = machine.engine()
    context = machine.trt.IExecutionContext
    real, refusals = context.execute_async_v3, []

    def execute(own, stream):
        if not refusals:
            refusals.append(own)
            return own._error("mContext.something != nullptr.")
        return real(own, stream)

    monkeypatch.setattr(context, "execute_async_v3", execute)
    for turn in range(5):  # at each of the three ways to run
        refusals[:] = [] if turn in (0, 2) else [None]
        if turn in (0, 2):
            with refused("engine-run-failed", "execute_async_v3", "mContext.something"):
                engine.run(feeds(seed=turn))
        else:
            right(engine.run(feeds(seed=turn)), feeds(seed=turn))
    refusals.clear()


def test_what_the_bindings_raise_is_an_error_of_ours(machine, monkeypatch):
    engine = machine.engine()

    def fail(own, index, stream):
        raise RuntimeError("Error in set optimization profile async.")

    monkeypatch.setattr(machine.trt.IExecutionContext, "set_optimization_profile_async", fail)
    with refused("engine-run-failed"):
        engine.run(feeds())
    monkeypatch.undo()
    right(engine.run(feeds()), feeds())


@pytest.mark.parametrize(
    "at", ["execute_async_v3", "set_input_shape", "set_tensor_address", "infer_shapes", "get_tensor_shape"]
)
def test_an_interrupt_leaves_an_engine_that_works(machine, monkeypatch, at):
    engine = machine.engine()
    context = machine.trt.IExecutionContext
    real, left = getattr(context, at), [0]

    def interrupted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(context, at, interrupted)
    for after in range(1, 8):
        left[0] = after
        for turn in range(3):
            with contextlib.suppress(KeyboardInterrupt):
                right(engine.run(feeds(1 + after % 4, 4, turn)), feeds(1 + after % 4, 4, turn))
            with contextlib.suppress(KeyboardInterrupt):
                right({"y": engine.run(feeds(2, 5, turn), keep=["y"])["y"].numpy()}, feeds(2, 5, turn))
        left[0] = 0
        for turn in range(4):
            right(engine.run(feeds(1 + after % 4, 4, turn)), feeds(1 + after % 4, 4, turn))
    assert machine.driver.live()["graphs"] == 0


def test_a_failed_call_has_done_all_that_it_queued(make, monkeypatch):
    """Its memory may have another owner at once, which what is still queued would write to."""
    machine = make()
    engine = machine.engine()
    right(engine.run(feeds()), feeds())
    machine.driver.fail(WAIT, 1)
    with refused("cuda-call", "CUDA_ERROR_INVALID_VALUE"):
        engine.run(feeds(seed=1), keep=["y"])
    assert all(not stream.queue for stream in machine.driver._streams.values())


def test_contexts_that_cannot_be_made(machine, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "edgekit.tensorrt")
    engine = machine.engine()
    create, allowed = machine.trt.ICudaEngine.create_execution_context, [0]

    def limited(own, strategy):
        allowed[0] -= 1
        return create(own, strategy) if allowed[0] >= 0 else None

    monkeypatch.setattr(machine.trt.ICudaEngine, "create_execution_context", limited)
    with refused("engine-context"):
        engine.run(feeds())
    allowed[0] = 1
    for turn in range(4):
        right(engine.run(feeds(seed=turn)), feeds(seed=turn))
    assert BEGIN not in machine.driver.log, "without memory for the context of a graph the shape is enqueued"
    assert "not captured into a CUDA graph: TensorRT could not create an execution context" in caplog.text


def test_an_engine_without_scratch_memory(make, monkeypatch):
    machine = make()
    plan = machine.plan(encoder(), ENCODER, PROFILES)
    monkeypatch.setattr(machine.trt.ICudaEngine, "_memory", lambda *arguments: 0)
    engine = machine.device().load(plan, ENCODER)
    for turn in range(3):
        right(engine.run(feeds(seed=turn)), feeds(seed=turn))


def test_constants_of_the_bench_are_what_the_truth_says():
    """So that a truth that forgot the bias would be noticed."""
    one = truth(np.array([[3]]), np.array([[1]]))
    np.testing.assert_allclose(one[0, 0], np.maximum(EMBEDDINGS[3] @ WEIGHT + BIAS, 0), rtol=1e-6)
