"""Memory of the methods, as multiples of the weights of a wide graph: what they hold at the peak, and leave behind.

Python's collector is off, because nodes and values of onnx_ir refer to each other, and nobody knows when it runs.
"""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.quantize import _embeddings, litert
from edgekit.quantize.calibration import Calibration, squared_error
from edgekit.quantize.graphs import EXTERNAL_FROM, load, per_channel, save
from edgekit.quantize.methods import dynamic, float16, static
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization
from edgekit.spec.tensor import Signature, TensorSpec

WIDTH, INNER, LAYERS = 512, 1024, 4
WEIGHTS = 2 * LAYERS * WIDTH * INNER * 4  # bytes
SEARCH = Quantization(weight_bits=7)


def value(name, shape):
    return ir.val(name, ir.DataType.FLOAT, shape)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A float graph with eight large weights, as the export writes it, and calibration feeds."""
    folder = tmp_path_factory.mktemp("wide")
    choose = np.random.default_rng(0)
    x = value("x", ["batch", "sequence", WIDTH])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="wide")
    last = x
    for index in range(2 * LAYERS):
        rows, columns = (WIDTH, INNER) if index % 2 == 0 else (INNER, WIDTH)
        weight = choose.standard_normal((rows, columns)).astype(np.float32) / np.float32(rows**0.5)
        stored = ir.val(f"weight_{index}", const_value=ir.tensor(weight, name=f"weight_{index}"))
        graph.register_initializer(stored)
        for node in (ir.node("MatMul", [last, stored], name=f"layer.{index}/MatMul"), None):
            step = node or ir.node("Gelu", [last], name=f"layer.{index}/Gelu")
            graph.append(step)
            last = step.outputs[0]
            last.name, last.dtype = f"{step.op_type}_{index}", ir.DataType.FLOAT
            last.shape = ir.Shape(["batch", "sequence", columns])
    graph.outputs.append(last)
    save(ir.Model(graph, ir_version=10), folder / "model.onnx")
    signature = Signature(
        "forward",
        (TensorSpec("x", "float32", ("batch", "sequence", WIDTH), 0.0),),
        (TensorSpec(str(last.name), "float32", ("batch", "sequence", WIDTH)),),
    )
    set_of_one = GraphSet("task", "loop", (Graph(signature, folder / "model.onnx", "float32"),), folder, {})
    feeds = [{"x": choose.standard_normal((2, 3, WIDTH)).astype(np.float32)} for _ in range(3)]
    return SimpleNamespace(graphs=set_of_one, feeds=feeds)


@contextlib.contextmanager
def traced():
    """What is allocated inside: ``peak`` and ``left``, in bytes. Memory that maps a file is not counted."""
    numbers = SimpleNamespace()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield numbers
        numbers.left, numbers.peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()


def large_tensors():
    """Number of tensors of onnx_ir that hold or map a large weight."""
    tensors = [one for one in gc.get_objects() if type(one) in (ir.Tensor, ir.ExternalTensor)]
    return sum(tensor.nbytes >= EXTERNAL_FROM for tensor in tensors)


@pytest.mark.parametrize("method", [static, dynamic, float16])
def test_no_weights_stay_behind(wide, tmp_path, method):
    """Not of the trials of a search either, of which there are nine."""
    method.quantize(wide.graphs, Calibration(wide.feeds[:1], squared_error), SEARCH, tmp_path, silent)  # imports
    gc.collect()
    before = large_tensors()
    with traced() as memory:
        method.quantize(wide.graphs, Calibration(wide.feeds, squared_error), SEARCH, tmp_path, silent)
        assert large_tensors() == before
    # Histograms stay: 2,048 bins and at most three numbers a channel, of eight activations of seven models.
    assert memory.left < 7 * 8 * (2048 * 8 + INNER * 20) + WEIGHTS / 20
    # One smoothed copy, its INT8 form, and temporary arrays of one weight.
    assert memory.peak < 2.0 * WEIGHTS


def test_a_tflite_file_is_packed_from_views(wide, tmp_path):
    """The file itself, and one weight that is being copied into it."""
    litert.convert(wide.graphs, tmp_path)
    gc.collect()
    before = large_tensors()
    with traced() as memory:
        litert.convert(wide.graphs, tmp_path)
        assert large_tensors() == before
    assert (tmp_path / "model.tflite").stat().st_size > WEIGHTS
    assert memory.peak < 1.5 * WEIGHTS
    assert memory.left < WEIGHTS / 20


def table_graph(table):
    ids = ir.val("ids", ir.DataType.INT64, ["batch", "sequence"])
    stored = ir.val("table", const_value=ir.tensor(table, name="table"))
    node = ir.node("Gather", [stored, ids], attributes={"axis": 0}, name="lookup/Gather")
    node.outputs[0].name, node.outputs[0].dtype = "rows", ir.DataType.FLOAT
    node.outputs[0].shape = ir.Shape(["batch", "sequence", table.shape[1]])
    graph = ir.Graph([ids], node.outputs, nodes=[node], opset_imports={"": 20}, name="lookup")
    graph.register_initializer(stored)
    return graph


def test_a_table_is_quantized_in_parts():
    """The parts have the values of the whole, also a last one that is shorter."""
    table = np.random.default_rng(1).standard_normal((9 * 4096 + 5, 128)).astype(np.float32)
    table[7] = 0.0
    values, scales = per_channel(np.ascontiguousarray(table.T))
    graph = table_graph(table)
    with traced() as memory:
        assert _embeddings.quantize_embeddings(graph) == 1
    stored = {name: one.const_value.numpy() for name, one in graph.initializers.items()}
    np.testing.assert_array_equal(stored["table_uint8"], values.T.astype(np.int16) + 128)
    np.testing.assert_array_equal(stored["table_scale"][:, 0], scales)
    assert memory.peak < 0.8 * table.nbytes  # A quarter is the result, a quarter tells which values are finite.


def test_a_table_in_4_bits_is_packed_in_parts():
    table = np.random.default_rng(2).standard_normal((3 * 4096 + 77, 64)).astype(np.float32)
    packed, scales = _embeddings.pack(table)
    ends = [(0, 4096), (4096, 4100), (3 * 4096, len(table))]
    for start, stop in ends:
        part, part_scales = _embeddings.pack(table[start:stop])
        np.testing.assert_array_equal(packed[start:stop], part)
        np.testing.assert_array_equal(scales[start:stop], part_scales)


def test_weights_of_files_are_copied_without_being_mapped(wide, tmp_path):
    """The copy has the same names and bytes. No tensor is loaded for it."""
    model = load(wide.graphs.graphs[0].path)
    save(model, tmp_path / "model.onnx")
    loaded = [one.const_value.raw for one in model.graph.initializers.values() if one.const_value.nbytes > 1000]
    assert len(loaded) == 2 * LAYERS
    assert set(loaded) == {None}
    first, second = (wide.graphs.graphs[0].path.parent, tmp_path)
    names = sorted(file.name for file in (second / "weights").iterdir())
    assert names == sorted(file.name for file in (first / "weights").iterdir())
    for name in names:
        assert (first / "weights" / name).read_bytes() == (second / "weights" / name).read_bytes()
    assert (first / "model.onnx").read_bytes() == (second / "model.onnx").read_bytes()


def test_histograms_of_the_last_models_are_stored(wide):
    """Eight of them. One that is asked for again is not forgotten, nor measured again."""
    model = load(wide.graphs.graphs[0].path)
    calibration = Calibration(wide.feeds[:1], squared_error)
    runs = []

    def measure(key):
        return calibration.measure(model, lambda *step: runs.append(key), key=key)

    first = measure("first")
    for index in range(20):
        measure(f"other {index}")
        assert measure("first") is first
    assert runs == ["first", *(f"other {index}" for index in range(20))]
    measure("other 14")
    measure("other 12")
    assert runs[21:] == ["other 12"]
