"""The contract of all backends: what the runtime relies on, whatever computes.

A backend enters by its module alone. Those that need a GPU run on the stand-ins for driver and library of ``board.py``,
all others as they are installed here. The truth is ONNX's reference implementation on the committed graph. Feeds
whose sizes disagree are not part of the contract: loops make them agree, see ``test_contract_loops.py``.
"""

from __future__ import annotations

import concurrent.futures
import functools
import typing
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
import small

from edgekit import backends
from edgekit.bundle.trust import open_bundle
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.errors import BackendError, EdgekitError
from edgekit.spec.progress import silent
from edgekit.spec.target import load as load_target
from edgekit.spec.tensor import Signature, TensorSpec

BUNDLES = small.ROOT / "tests" / "data" / "bundles"
GRAPH = BUNDLES / "onnxruntime" / "graphs" / "model.onnx"
(SIGNATURE,) = open_bundle(BUNDLES / "onnxruntime").manifest.signatures
OUTPUT = SIGNATURE.outputs[0].name
PROFILE = {"batch": (1, 1, 8), "sequence": (1, 16, 64)}
SIZES = ((1, 1), (1, 2), (1, 17), (1, 64), (3, 9), (8, 40))
TOLERANCE = 2e-4

# A second graph, whose state goes from call to call: total = state + x.
STATE = Signature(
    "step",
    (TensorSpec("x", "float32", ("batch", 4)), TensorSpec("state", "float32", ("batch", 4))),
    (TensorSpec("total", "float32", ("batch", 4)),),
)


def state_graph(file: Path) -> Path:
    values = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4])
        for name in ("x", "state", "total")
    }
    node = onnx.helper.make_node("Add", ["state", "x"], ["total"])
    graph = onnx.helper.make_graph([node], "step", [values["x"], values["state"]], [values["total"]])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), file)
    return file


def graph_for(module, graph: Path, signature: Signature, folder: Path) -> Path:
    """The graph in the format that the backend reads: as it is, or written from it."""
    if graph.suffix == module.GRAPH:
        return graph
    from edgekit.quantize import litert

    file = folder / f"{graph.stem}{module.GRAPH}"
    litert.write(graph, signature, file)
    return file


def rows(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Token ids with the last row's second half padded."""
    draw = np.random.default_rng([seed, batch, length])
    mask = np.ones((batch, length), np.int64)
    mask[-1, length - length // 2 :] = 0
    feeds = {
        "input_ids": draw.integers(5, 200, (batch, length)),
        "token_type_ids": np.zeros((batch, length), np.int64),
        "attention_mask": mask,
    }
    return {spec.name: feeds[spec.name] for spec in SIGNATURE.inputs}


@functools.cache
def _truth():
    return onnx.reference.ReferenceEvaluator(onnx.load(GRAPH))


@functools.cache
def truth(batch: int, length: int) -> np.ndarray:
    """Reference output of :func:`rows`: ``[batch, labels]``."""
    return _truth().run([OUTPUT], rows(batch, length))[0]


@pytest.fixture(params=backends.names())
def name(request):
    return request.param


@pytest.fixture
def opened(name, monkeypatch, tmp_path):
    """Opens devices of the backend, and engines on them; all is closed and looked through in the end."""
    board = None
    module = backends.get(name)
    if module.ENGINES:
        from board import Board
        from fake_cuda import FakeDriver

        board = Board(monkeypatch, "10.16.1", FakeDriver(), rtx=module.ENGINES == "host")
    elif backends.installed_version(name) is None:
        pytest.skip(f"{name} is not installed here")

    class Opened:
        def __init__(self):
            self.closing = []

        def device(self, streams=1):
            device = module.open_device("gpu" if module.ENGINES else "cpu", streams, streams)
            self.closing.insert(0, device)
            return device

        def engine(self, graph=GRAPH, signature=SIGNATURE, device=None, profile=PROFILE):
            device = device or self.device()
            source = graph_for(module, graph, signature, tmp_path)
            recipe = EngineRecipe((profile,))
            if module.ENGINES == "host":
                source = module.compile_ahead(graph, signature, recipe, silent)
            elif module.ENGINES == "device":
                source = device.compile(graph, signature, recipe, b"", silent).plan
            engine = device.load(source, signature)
            self.closing.insert(0, engine)
            return engine

    everything = Opened()
    yield everything
    for part in everything.closing:
        part.close()
    assert board is None or not board.leaks()


def test_module(name):
    module = backends.get(name)
    assert module.PACKAGES
    assert all(isinstance(package, str) for package in module.PACKAGES)
    assert isinstance(module.STATIC_SHAPES, bool)
    assert module.ENGINES in ("", "device", "host")
    assert module.GRAPH in (".onnx", ".tflite")
    for function in (module.check_target, module.check_here, module.open_device):
        assert callable(function)


def test_each_target_that_names_a_backend_is_served_or_refused_in_words(name):
    for file in sorted((small.ROOT / "targets").glob("*.toml")):
        target = load_target(file.stem)
        if name in target.backends:
            backends.get(name).check_target(target)
        else:
            try:
                backends.get(name).check_target(target)
            except EdgekitError as problem:
                assert problem.code
                assert target.device in str(problem) or target.name in str(problem)


@pytest.mark.parametrize(("batch", "length"), SIZES)
def test_outputs_are_those_of_the_reference(opened, batch, length):
    engine = opened.engine()
    outputs = engine.run(rows(batch, length))
    assert list(outputs) == [OUTPUT]
    assert (outputs[OUTPUT].dtype, outputs[OUTPUT].shape) == (np.float32, truth(batch, length).shape)
    np.testing.assert_allclose(outputs[OUTPUT], truth(batch, length), atol=TOLERANCE)


def test_shapes_in_any_order_and_again(opened):
    engine = opened.engine()
    for size in (*SIZES, *reversed(SIZES)):
        np.testing.assert_allclose(engine.run(rows(*size))[OUTPUT], truth(*size), atol=TOLERANCE)


@pytest.mark.parametrize("when", typing.get_args(backends.When))
@pytest.mark.parametrize("name", [n for n in backends.names() if backends.get(n).STATIC_SHAPES], indirect=True)
def test_static_shapes_change_no_output(opened, name, when):
    with_shapes = backends.load_graph(name, opened.device(), GRAPH, SIGNATURE, (8, 17), when=when)
    opened.closing.insert(0, with_shapes)
    for _ in range(2):
        for size in ((1, 8), (1, 17), (1, 9), (3, 9)):
            np.testing.assert_allclose(with_shapes.run(rows(*size))[OUTPUT], truth(*size), atol=TOLERANCE)
        backends.warm_up([with_shapes])
        assert backends.ready_shapes([with_shapes]) == (8, 17)


def test_an_engine_without_static_shapes_has_nothing_to_warm_up(opened):
    engine = opened.engine()
    backends.warm_up([engine])
    assert backends.ready_shapes([engine]) == ()
    np.testing.assert_allclose(engine.run(rows(1, 17))[OUTPUT], truth(1, 17), atol=TOLERANCE)


def test_inputs_are_not_changed_and_outputs_stay(opened):
    engine = opened.engine()
    feeds = rows(3, 9)
    copies = {key: array.copy() for key, array in feeds.items()}
    first = engine.run(feeds)[OUTPUT]
    kept = first.copy()
    engine.run(rows(3, 9, seed=1))
    np.testing.assert_array_equal(first, kept)
    for key, array in copies.items():
        np.testing.assert_array_equal(feeds[key], array)


def test_feeds_that_the_graph_does_not_have_are_passed_over(opened):
    feeds = {**rows(1, 17), "not_an_input": np.zeros((1, 17), np.int64)}
    np.testing.assert_allclose(opened.engine().run(feeds)[OUTPUT], truth(1, 17), atol=TOLERANCE)


def test_threads_get_their_own_outputs(opened):
    engine = opened.engine(device=opened.device(streams=2))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            outputs = list(pool.map(lambda size: engine.run(rows(*size))[OUTPUT], SIZES))
            for size, output in zip(SIZES, outputs, strict=True):
                np.testing.assert_allclose(output, truth(*size), atol=TOLERANCE)


def test_kept_outputs_are_feeds_of_the_next_call(opened, tmp_path):
    engine = opened.engine(state_graph(tmp_path / "step.onnx"), STATE, profile={"batch": (1, 1, 8)})
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    state = np.zeros((2, 4), np.float32)
    for _ in range(3):
        state = engine.run({"x": x, "state": state}, keep=["total"])["total"]
    total = engine.run({"x": x, "state": state})["total"]
    np.testing.assert_array_equal(np.asarray(total), 4 * x)


def test_precisions(opened):
    engine = opened.engine()
    engine.run(rows(1, 17))
    assert backends.summary(engine.precisions()) == "float32"


def test_closed_twice(opened):
    device = opened.device()
    engine = opened.engine(device=device)
    engine.run(rows(1, 2))
    for part in (engine, engine, device, device):
        part.close()


@pytest.mark.parametrize("content", [b"", b"no graph", "cut"])
def test_a_graph_that_is_damaged_is_refused_by_name(name, opened, tmp_path, content):
    module = backends.get(name)
    file = tmp_path / f"damaged{module.GRAPH}"
    if content == "cut":
        content = graph_for(module, GRAPH, SIGNATURE, tmp_path).read_bytes()[:5000]
    file.write_bytes(content)
    with pytest.raises(BackendError, match=rf"damaged\{module.GRAPH}") as refusal:
        opened.engine(file)
    assert refusal.value.code
