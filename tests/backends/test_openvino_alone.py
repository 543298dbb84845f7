"""Bodies that OpenVINO compiles one by one, each at its first use: what a load and a call compile, and that answers do not change when all are compiled."""

from __future__ import annotations

import concurrent.futures
import platform
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from refusals import refused

from edgekit import backends
from edgekit.backends import _openvino_engine
from edgekit.backends._openvino_alone import AloneBodies
from edgekit.backends._openvino_buckets import static_body
from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature, TensorSpec

WIDTH = 64
SHAPES = (5, 8, 12, 16, 24, 32)
CALLS = _openvino_engine._CALLS_BEFORE_SHAPES
BODIES = _openvino_engine._BODIES_BEFORE_SHAPES
SIGNATURE = Signature(
    "forward",
    tuple(TensorSpec(name, "int64", ("batch", "sequence"), 0) for name in ("ids", "kinds")),
    (TensorSpec("sum", "float32", ("batch", "sequence", WIDTH)),),
)
CONSTANTS = {
    "table": np.random.default_rng(1).integers(-127, 128, (50, WIDTH)).astype(np.int8),
    "scales": np.random.default_rng(2).uniform(0.001, 0.01, (50, 1)).astype(np.float32),
    "positions": np.random.default_rng(3).uniform(-1, 1, (64, WIDTH)).astype(np.float32),
    "types": np.random.default_rng(4).uniform(-1, 1, (2, WIDTH)).astype(np.float32),
    "zero": np.array([0]),
}


def write_embeddings(path):
    """The embeddings of an encoder, with an INT8 table: OpenVINO adds them in other kernels in a body of an ``If`` than by themselves."""
    make, value, kind = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto
    nodes = [
        make("Gather", ["table", "ids"], ["levels"]),
        make("Cast", ["levels"], ["floats"], to=kind.FLOAT),
        make("Gather", ["scales", "ids"], ["row_scales"]),
        make("Mul", ["floats", "row_scales"], ["words"]),
        make("Gather", ["types", "kinds"], ["segments"]),
        make("Shape", ["ids"], ["tokens"], start=1, end=2),
        make("Slice", ["positions", "zero", "tokens", "zero"], ["places"]),
        make("Add", ["words", "segments"], ["partial"]),
        make("Add", ["partial", "places"], ["sum"]),
    ]
    inputs = [value(name, kind.INT64, ["batch", "sequence"]) for name in ("ids", "kinds")]
    outputs = [value("sum", kind.FLOAT, ["batch", "sequence", WIDTH])]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()]
    graph = onnx.helper.make_graph(nodes, "embeddings", inputs, outputs, constants)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), path)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("embeddings") / "model.onnx"
    write_embeddings(file)
    return file


def feeds(batch, length, seed=0):
    choose = np.random.default_rng([batch, length, seed])
    return {"ids": choose.integers(0, 50, (batch, length)), "kinds": choose.integers(0, 2, (batch, length))}


def truth(batch, length):
    """What numpy computes, in double precision."""
    ids, kinds = feeds(batch, length).values()
    words = CONSTANTS["table"][ids].astype(float) * CONSTANTS["scales"][ids]
    return words + CONSTANTS["types"][kinds] + CONSTANTS["positions"][:length]


@pytest.fixture
def opened(path, monkeypatch):
    """An engine that has just been loaded, with its device; ``compiled`` is the number of its compilations."""
    device = backends.get("openvino").open_device("cpu", 1)
    compile_model = device.compile
    state = SimpleNamespace(device=device, compiled=0, before=lambda: None)

    def compile_counted(source, model):
        state.before()
        state.compiled += 1
        return compile_model(source, model)

    monkeypatch.setattr(device, "compile", compile_counted)
    state.engine = device.load(path, SIGNATURE, SHAPES, when="use")
    yield state
    state.before = lambda: None
    state.engine.close()


def answer(engine, batch=1, length=5):
    return engine.run(feeds(batch, length))["sum"]


def end_compilation():
    for thread in threading.enumerate():
        if thread.name == "edgekit-static-shapes":
            thread.join()


# ---- what is compiled


def test_a_call_compiles_its_own_shape_alone(opened):
    assert (opened.compiled, opened.engine.ready_shapes) == (0, ())
    for count, length in enumerate((8, 5), start=1):
        for _ in range(2):
            np.testing.assert_allclose(answer(opened.engine, 1, length), truth(1, length), atol=1e-6)
        assert opened.compiled == count
    assert opened.engine.ready_shapes == (5, 8)


def test_batches_and_other_lengths_share_a_body(opened):
    for batch, length in ((1, 1), (2, 5), (1, 7), (1, 40), (3, 1)):
        np.testing.assert_allclose(answer(opened.engine, batch, length), truth(batch, length), atol=1e-6)
    assert (opened.compiled, opened.engine.ready_shapes) == (1, ())


def test_the_first_run_of_dynamic_shapes_has_several_tokens(opened, monkeypatch):
    """Attention without a mask would be wrong in all later calls otherwise."""
    lengths, infer = [], _openvino_engine.Requests.infer

    def infer_noted(requests, arrays, outputs):
        lengths.append(arrays["ids"].shape[1])
        return infer(requests, arrays, outputs)

    monkeypatch.setattr(_openvino_engine.Requests, "infer", infer_noted)
    answer(opened.engine, 1, 1)
    assert lengths == [2, 1]


def test_many_calls_of_one_shape_compile_the_others(opened):
    for _ in range(CALLS - 1):
        answer(opened.engine)
    end_compilation()
    assert (opened.compiled, opened.engine.ready_shapes) == (1, (5,))
    answer(opened.engine)
    end_compilation()
    assert (opened.compiled, opened.engine.ready_shapes) == (2, SHAPES)


def test_many_shapes_compile_the_others(opened):
    for length in SHAPES[: BODIES - 1]:
        answer(opened.engine, 1, length)
    end_compilation()
    assert opened.engine.ready_shapes == SHAPES[: BODIES - 1]
    answer(opened.engine, 2, 5)
    end_compilation()
    assert (opened.compiled, opened.engine.ready_shapes) == (BODIES + 1, SHAPES)


def test_warm_up_compiles_nothing_alone(opened):
    opened.engine.warm_up()
    assert (opened.compiled, opened.engine.ready_shapes) == (1, SHAPES)
    for batch, length in ((1, 1), (1, 5), (1, 8), (1, 40), (3, 5)):
        np.testing.assert_allclose(answer(opened.engine, batch, length), truth(batch, length), atol=1e-6)
    assert opened.compiled == 1


# ---- answers


@pytest.mark.parametrize(("batch", "length"), [(1, 5), (1, 16), (1, 32), (1, 9), (4, 16)])
def test_an_answer_has_the_same_bits_before_and_after(opened, batch, length):
    before = answer(opened.engine, batch, length)
    opened.engine.warm_up()
    assert np.array_equal(answer(opened.engine, batch, length), before)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels that differ are those of x86-64")
def test_a_body_by_itself_would_answer_otherwise(opened, path):
    """Why a body is compiled in an ``If``. If OpenVINO computes both alike some day, this is no longer needed."""
    import openvino

    body = static_body(openvino, opened.device.read(path), SIGNATURE, 16)
    request = opened.device.compile(path, body).create_infer_request()
    assert not np.array_equal(request.infer(feeds(1, 16))["sum"], answer(opened.engine, 1, 16))


# ---- several threads


def test_a_call_waits_for_its_own_shape_only(opened):
    reached, opening = threading.Event(), threading.Event()

    def wait():
        reached.set()
        assert opening.wait(60)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        opened.before = wait
        slow = [pool.submit(answer, opened.engine, 1, 8) for _ in range(2)]
        assert reached.wait(60)
        opened.before = lambda: None
        np.testing.assert_allclose(answer(opened.engine, 1, 5), truth(1, 5), atol=1e-6)
        assert not any(future.done() for future in slow)
        opening.set()
        for future in slow:
            np.testing.assert_allclose(future.result(60), truth(1, 8), atol=1e-6)
    assert opened.compiled == 2


def test_threads_get_the_same_bits_while_models_change(opened):
    expected = {length: answer(opened.engine, 1, length) for length in SHAPES[: BODIES - 1]}
    wrong, done = [], threading.Event()

    def work(length):
        while not done.is_set():
            if not np.array_equal(answer(opened.engine, 1, length), expected[length]):
                wrong.append(length)

    workers = [threading.Thread(target=work, args=(length,)) for length in expected]
    for worker in workers:
        worker.start()
    opened.engine.warm_up()
    done.set()
    for worker in workers:
        worker.join()
    assert (wrong, opened.engine.ready_shapes) == ([], SHAPES)


# ---- failures


def test_a_shape_that_is_refused_is_tried_again(opened, monkeypatch):
    compile_model = opened.device.compile

    def refuse(source, model):
        raise BackendError("refused", code="graph-refused")

    monkeypatch.setattr(opened.device, "compile", refuse)
    for _ in range(2):
        with refused("graph-refused"):
            answer(opened.engine)
    monkeypatch.setattr(opened.device, "compile", compile_model)
    np.testing.assert_allclose(answer(opened.engine), truth(1, 5), atol=1e-6)


def test_without_the_whole_every_shape_stays(opened):
    """A call warns once, and no shape is compiled twice."""

    def fail():
        raise RuntimeError("no memory")

    opened.before = fail
    with refused("static-shapes-failed", "no memory"):
        opened.engine.warm_up()
    opened.before = lambda: None
    with pytest.warns(UserWarning, match="no memory"):
        answer(opened.engine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            for length in SHAPES:
                np.testing.assert_allclose(answer(opened.engine, 1, length), truth(1, length), atol=1e-6)
    assert (opened.compiled, opened.engine.ready_shapes) == (len(SHAPES), SHAPES)


def test_nothing_is_compiled_after_close(opened):
    answer(opened.engine)
    opened.engine.close()
    opened.engine._late.start()
    end_compilation()
    assert (opened.compiled, opened.engine.ready_shapes) == (1, ())


# ---- which bodies stay


def test_the_least_recently_used_body_goes():
    compiled = []

    def compile_body(length):
        compiled.append(length)
        return SimpleNamespace(length=length)

    bodies = AloneBodies(compile_body, 2)
    for length in (5, 8, 5, 16):
        assert bodies.requests(length).length == length
    assert (bodies.lengths, compiled) == ((5, 16), [5, 8, 16])
    bodies.requests(8)
    assert (bodies.lengths, compiled) == ((8, 16), [5, 8, 16, 8])
    bodies.keep_all()
    bodies.requests(5)
    assert bodies.lengths == (5, 8, 16)
