"""Static shapes in OpenVINO: which body answers what, and that the answers are those of the graph without them."""

from __future__ import annotations

import functools
import threading
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import small
import tiny
from refusals import refused

from edgekit import backends
from edgekit.backends._openvino_buckets import static_body, with_bodies
from edgekit.runtime.loops import single
from edgekit.spec.tensor import Signature, TensorSpec

SHAPES = (5, 8, 16, 33)
LENGTHS = (1, 2, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 32, 33, 34, 40, 63)
ARCHITECTURES = ("bert", "deberta-v2")  # absolute and relative positions
ANY = 1000


@pytest.fixture(scope="module")
def opened():
    """Name of an architecture -> its graph with and without static shapes, and rows of all lengths."""

    @functools.cache
    def make(name):
        (graph,) = tiny.exported(name).graphs
        device = backends.get("openvino").open_device("cpu", 2)
        plain, buckets = (device.load(graph.path, graph.signature, shapes) for shapes in ((), SHAPES))
        buckets.warm_up()
        rows = tiny.random_rows(tiny.source(name), LENGTHS)
        truth = [plain.run(single.collate(graph.signature, [row]))["logits"] for row in rows]
        spread = float(np.ptp(np.concatenate(truth)))
        return SimpleNamespace(
            signature=graph.signature,
            path=graph.path,
            plain=plain,
            buckets=buckets,
            rows=rows,
            truth=truth,
            spread=spread,
        )

    return make


@pytest.fixture(scope="module")
def model(opened):
    return opened("bert")


def same(model, found, truth):
    assert (found.dtype, found.shape) == (truth.dtype, truth.shape)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-5 * model.spread)


# ---- what it answers


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_padded_to_their_bucket(name, opened):
    """At, below and above each edge: as the graph without static shapes answers the bare row."""
    model = opened(name)
    for row, truth in zip(model.rows, model.truth, strict=True):
        same(model, small.run_graph(model.buckets, model.signature, [row], SHAPES), truth)


def test_rows_that_nobody_padded(model):
    for row, truth in zip(model.rows, model.truth, strict=True):
        same(model, small.run_graph(model.buckets, model.signature, [row]), truth)


@pytest.mark.parametrize("batch", [2, 3, 9])
def test_batches(model, batch):
    """Also where the longest row is as long as an edge, or all of them are."""
    for longest in (5, 8, 12, 33, 63):
        rows = tiny.random_rows(
            tiny.source("bert"), [1 + (longest - 1) * i // (batch - 1) for i in range(batch)], seed=longest
        )
        for part in (rows, [rows[-1]] * batch):
            feeds = single.collate(model.signature, part, SHAPES)
            assert feeds["input_ids"].shape == (batch, longest)
            same(model, model.buckets.run(feeds)["logits"], model.plain.run(feeds)["logits"])


def test_one_shape_alone(model):
    engine = backends.get("openvino").open_device("cpu", 1).load(model.path, model.signature, (8,))
    engine.warm_up()
    for row, truth in zip(model.rows, model.truth, strict=True):
        same(model, small.run_graph(engine, model.signature, [row], (8,)), truth)


def test_what_run_gives_stays(model):
    """A later call in the same body must not write into the arrays of an earlier one."""
    first, other = tiny.random_rows(tiny.source("bert"), [8, 8], seed=3)
    one = small.run_graph(model.buckets, model.signature, [first])
    kept = one.copy()
    assert not np.array_equal(small.run_graph(model.buckets, model.signature, [other]), kept)
    assert np.array_equal(one, kept)


@pytest.mark.parametrize("streams", [1, 2])
def test_many_threads_give_what_one_gives(model, streams):
    device = backends.get("openvino").open_device("cpu", 2, streams)
    engine = device.load(model.path, model.signature, SHAPES)
    wrong, start = [], threading.Barrier(6)

    def work(offset):
        start.wait()
        for i in [*range(offset, len(LENGTHS)), *range(offset)] * 3:
            found = small.run_graph(engine, model.signature, [model.rows[i]], SHAPES)
            if not np.allclose(found, model.truth[i], rtol=0, atol=1e-5 * model.spread):
                wrong.append(LENGTHS[i])

    threads = [threading.Thread(target=work, args=(3 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- which body answers


def static_bodies(node):
    """The leaves of the tree below the ``then`` side of an ``If``, by their number of tokens."""
    inner = [op for op in node.get_ops() if op.get_type_name() == "If"]
    if inner:
        return static_bodies(inner[0].get_then_body()) | static_bodies(inner[0].get_else_body())
    pinned = next(iter(node.get_parameters()[0].output(0).get_target_inputs())).get_node()
    return {int(pinned.input_value(1).get_node().data[1]): node}


def marked(model, shapes):
    """A compiled model whose bodies each add a number of their own to the answer: their tokens, ``ANY`` for the one of any shape."""
    import openvino

    whole = with_bodies(openvino, openvino.Core().read_model(str(model.path)), model.signature, shapes)
    (root,) = [op for op in whole.get_ops() if op.get_type_name() == "If"]
    bodies = static_bodies(root.get_then_body())
    assert tuple(sorted(bodies)) == shapes
    for mark, body in {**bodies, ANY: root.get_else_body()}.items():
        (result,) = body.get_results()
        answer = result.input_value(0)
        result.input(0).replace_source_output(
            openvino.opset13.add(answer, openvino.opset13.constant(np.float32(mark))).output(0)
        )
    return openvino.Core().compile_model(whole, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}), bodies


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [(8,), (7, 8), (5, 8, 16), SHAPES, (1, 2, 3, 5, 8, 13, 21, 34, 55)], ids=len)
def test_the_body_that_answers(model, shapes):
    compiled, _ = marked(model, shapes)
    for batch in (1, 2, 8):
        for length in sorted({n + d for n in shapes for d in (-1, 0, 1) if n + d > 0} | {63}):
            feeds = {s.name: np.ones((batch, length), np.int64) for s in model.signature.inputs}
            added = compiled(feeds)["logits"] - model.plain.run(feeds)["logits"]
            expected = length if batch == 1 and length in shapes else ANY
            np.testing.assert_allclose(added, expected, atol=1e-3, err_msg=f"{batch} row(s) of {length}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_shapes_of_a_static_body_are_known(name, opened):
    """Else it would be no faster than the body of any shape."""
    import openvino

    model = opened(name)
    _, bodies = marked(model, SHAPES)
    alone = static_body(openvino, openvino.Core().read_model(str(model.path)), model.signature, SHAPES[0])
    for body in (*bodies.values(), alone):
        unknown = [
            op.get_friendly_name() for op in body.get_ops() for o in op.outputs() if o.get_partial_shape().is_dynamic
        ]
        assert unknown and set(unknown) == {p.get_friendly_name() for p in body.get_parameters()}


# ---- what it ran in


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two linear layers, the first one in INT8 by its Q/DQ pairs, over the mean of token vectors."""
    choose, levels = np.random.default_rng(0), np.float32(1 / 127)
    constants = {
        "table": choose.uniform(-1, 1, (50, 32)).astype(np.float32),
        "low": choose.integers(-127, 128, (32, 32)).astype(np.int8),
        "high": choose.uniform(-1, 1, (32, 3)).astype(np.float32),
        "scale": np.array(levels),
        "zero": np.array(0, np.int8),
        "axis": np.array([1], np.int64),
    }
    make = onnx.helper.make_node
    nodes = [
        make("Gather", ["table", "ids"], ["vectors"]),
        make("QuantizeLinear", ["vectors", "scale", "zero"], ["q"]),
        make("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        make("DequantizeLinear", ["low", "scale", "zero"], ["w"]),
        make("MatMul", ["x", "w"], ["y"]),
        make("Relu", ["y"], ["z"]),
        make("ReduceMean", ["z", "axis"], ["mean"], keepdims=0),
        make("MatMul", ["mean", "high"], ["logits"]),
    ]
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto
    inputs, outputs = [value("ids", kind.INT64, ["batch", "sequence"])], [value("logits", kind.FLOAT, ["batch", 3])]
    graph = onnx.helper.make_graph(
        nodes, "mixed", inputs, outputs, [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    path = tmp_path_factory.mktemp("mixed") / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), path)
    spec = TensorSpec("ids", "int64", ("batch", "sequence"), 0)
    return SimpleNamespace(
        path=path, signature=Signature("forward", (spec,), (TensorSpec("logits", "float32", ("batch", 3)),))
    )


def test_precisions(model, mixed):
    assert set(model.buckets.precisions()) == set(model.plain.precisions()) == {"float32"}
    device = backends.get("openvino").open_device("cpu", 1)
    plain, buckets = (device.load(mixed.path, mixed.signature, shapes) for shapes in ((), (8, 16)))
    buckets.warm_up()
    assert sorted(buckets.precisions()) == sorted(plain.precisions()) == ["float32", "int8"]
    feeds = {"ids": np.arange(16)[None]}
    np.testing.assert_allclose(buckets.run(feeds)["logits"], plain.run(feeds)["logits"], rtol=1e-5)


# ---- what it refuses


@pytest.mark.parametrize("shapes", [(0, 8), (-1,), (8, 8), (16, 8)], ids=str)
def test_shapes_that_do_not_ascend(model, shapes):
    with refused("shapes-invalid"):
        backends.get("openvino").open_device("cpu", 1).load(model.path, model.signature, shapes)


@pytest.mark.parametrize(
    "axes", [("batch", "frames"), ("batch", "sequence", "bands"), ("batch", 8), (1, "sequence")], ids=str
)
def test_inputs_that_vary_otherwise(model, axes):
    signature = Signature("forward", (TensorSpec("x", "int64", axes),), model.signature.outputs)
    with refused("shapes-unsupported", "x"):
        backends.get("openvino").open_device("cpu", 1).load(model.path, signature, (8,))


def test_a_backend_without_static_shapes(model):
    device = backends.get("onnxruntime").open_device("cpu", 1)
    with refused("shapes-unsupported", "5", "8"):
        device.load(model.path, model.signature, (5, 8))
    assert {n: backends.get(n).STATIC_SHAPES for n in ("onnxruntime", "openvino")} == {
        "onnxruntime": False,
        "openvino": True,
    }


# ---- streams


@pytest.mark.parametrize(("threads", "streams", "each"), [(1, 1, 1), (2, 1, 2), (2, 2, 1), (5, 2, 2)])
def test_streams(model, threads, streams, each):
    ort = backends.get("onnxruntime").open_device("cpu", threads, streams).load(model.path, model.signature)
    assert ort._session.get_session_options().intra_op_num_threads == each
    openvino = backends.get("openvino").open_device("cpu", threads, streams).load(model.path, model.signature)
    assert openvino._requests.compiled.get_property("NUM_STREAMS") == streams
    feeds = single.collate(model.signature, model.rows[:3])
    truth = model.plain.run(feeds)["logits"]
    for engine in (ort, openvino):
        same(model, engine.run(feeds)["logits"], truth)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("threads", "streams"), [(2, 3), (1, 0), (2, -1)])
def test_more_streams_than_threads(backend, threads, streams):
    with refused("streams-out-of-range", f"{streams}", f"{threads}", f"{threads}", "1"):
        backends.get(backend).open_device("cpu", threads, streams)


# ---- padding


def test_padding_takes_each_inputs_pad_value():
    signature = Signature(
        "forward",
        (TensorSpec("ids", "int64", ("batch", "sequence"), 7), TensorSpec("mask", "int64", ("batch", "sequence"), 0)),
        (),
    )
    row = {"ids": np.array([1, 2, 3]), "mask": np.array([1, 1, 1])}
    for shapes, ids in (((), [1, 2, 3]), ((2, 3, 5), [1, 2, 3]), ((2, 5, 6), [1, 2, 3, 7, 7]), ((1, 2), [1, 2, 3])):
        feeds = single.collate(signature, [row], shapes)
        assert feeds["ids"].tolist() == [ids]
        assert feeds["mask"].tolist() == [[1, 1, 1] + [0] * (len(ids) - 3)]
    assert single.collate(signature, [row, row], (5,))["ids"].shape == (2, 3), (
        "a batch is not padded: no static body would take it"
    )
