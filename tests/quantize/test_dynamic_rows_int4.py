"""INT4 weights in blocks, from a graph to LiteRT: each product against numpy, and what Google's own interpreter makes of the file."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import tiny
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from pairs import calibration_of
from refusals import refused

from edgekit import backends
from edgekit.bundle import tflite_reader
from edgekit.quantize import litert
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import check_layers, constant, linears, load
from edgekit.quantize.methods import dynamic_rows, dynamic_rows_int4
from edgekit.runtime.loops import single
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization
from edgekit.spec.tensor import Signature, TensorSpec

SETTINGS = Quantization(embeddings="int8")
EQUAL = 1e-6  # of the largest output: float32 sums in another order; measured 1e-7
_WORK = tempfile.TemporaryDirectory(prefix="edgekit-int4-")  # goes with the process


def chain(folder, *widths, shared=False):
    """Linear layers one behind the other; those of equal shape have one weight if it is shared."""
    random = np.random.default_rng(7)
    steps = []
    tensors = {}
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        name = f"w{inputs}" if shared else f"w{index}"
        tensors[name] = (random.standard_normal((inputs, outputs)) / inputs**0.5).astype(np.float32)
        tensors[f"b{index}"] = random.standard_normal(outputs).astype(np.float32)
        steps.append(f"p{index} = MatMul(y{index}, {name})")
        steps.append(f"y{index + 1} = Add(p{index}, b{index})")
    names = "\n".join(steps)
    text = (
        '<ir_version: 9, opset_import: ["" : 20]>\n'
        f"agraph (float[batch, sequence, {widths[0]}] y0)"
        f" => (float[batch, sequence, {widths[-1]}] y{len(widths) - 1}) {{ {names} }}"
    )
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0].replace("p", "layer") + "/MatMul" if node.op_type == "MatMul" else node.output[0]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tensors.items())
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "model.onnx")
    signature = Signature(
        "forward",
        (TensorSpec("y0", "float32", ("batch", "sequence", widths[0])),),
        (TensorSpec(f"y{len(widths) - 1}", "float32", ("batch", "sequence", widths[-1])),),
    )
    return GraphSet("t", "single", (Graph(signature, folder / "model.onnx", "float32"),), folder)


def written(graphs, folder, calibration, batch=None, method=dynamic_rows_int4, settings=SETTINGS):
    """The graph that a method writes, as ONNX and for LiteRT."""
    out = folder / method.__name__.rpartition(".")[2]
    out.mkdir()
    made = method.quantize(graphs, calibration, settings, out, silent)
    return made.graphs[0], litert.convert(made, out, batch).graphs[0]


def values_for(width, rows=64, seed=0):
    """Activations whose channels and rows differ in size."""
    random = np.random.default_rng(seed)
    sizes = np.exp(random.standard_normal(width))
    return (random.standard_normal((1, rows, width)) * sizes).astype(np.float32)


def run(graph, feeds):
    engine = backends.get("litert").open_device("cpu", 1).load(graph.path, graph.signature)
    return next(iter(engine.run(feeds).values())), engine.precisions()


def round_rows(rows):
    """Rows as XNNPACK holds them: asymmetric INT8, one range a row that includes 0."""
    low, high = np.minimum(rows.min(axis=-1), 0), np.maximum(rows.max(axis=-1), 0)
    scale = ((high - low) / 255).astype(np.float32)[..., None]
    zero = np.rint(-128 - low[..., None] / scale)
    return (np.clip(np.rint(rows / scale) + zero, -128, 127) - zero) * scale.astype(np.float64)


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layer")
    graphs = chain(folder, 96, 40)
    rows = values_for(96)
    return written(graphs, folder, Calibration([{"y0": rows}])), rows, graphs


def test_a_layer_computes_with_the_weights_of_the_graph(layer):
    """XNNPACK rounds scales to bfloat16. Those of the method are such numbers, so that nothing differs but the order of sums."""
    (source, graph), rows, _ = layer
    answer, precisions = run(graph, {"y0": rows})
    assert precisions == ["int4"]
    model = onnx.load(source.path)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    levels, scales = tensors["w0_int4"].astype(np.int8), tensors["w0_scale"]
    assert (levels.shape, scales.shape) == ((96, 40), (3, 40))
    weight = (levels.reshape(3, 32, 40) * scales[:, None].astype(np.float64)).reshape(96, 40)
    expected = round_rows(rows) @ weight + tensors["b0"]
    assert np.abs(answer - expected).max() < EQUAL * np.abs(expected).max()
    exact = rows.astype(np.float64) @ weight + tensors["b0"]
    assert np.abs(answer - exact).max() > 100 * EQUAL * np.abs(exact).max(), "rows are rounded"


def test_the_layer_is_near_to_that_in_float(layer):
    (_, graph), rows, graphs = layer
    model = onnx.load(graphs.graphs[0].path)
    weight, bias = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    expected = rows @ weight + bias
    answer, _ = run(graph, {"y0": rows})
    error = np.sqrt(np.mean((answer - expected) ** 2)) / np.std(expected)
    assert 0.01 < error < 0.09


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_alone_and_in_a_batch_is_the_same_to_the_bit(layer, threads):
    (_, graph), rows, _ = layer
    engine = backends.get("litert").open_device("cpu", threads).load(graph.path, graph.signature)
    batch = rows.reshape(8, 8, 96)
    together = engine.run({"y0": batch})["y1"]
    for index in range(8):
        np.testing.assert_array_equal(engine.run({"y0": batch[index : index + 1]})["y1"][0], together[index])
        for place in (0, 5):
            one = batch[index : index + 1, place : place + 1]
            np.testing.assert_array_equal(engine.run({"y0": one})["y1"][0, 0], together[index, place])


def test_googles_own_kernels_read_the_file_alike(layer):
    """Without XNNPACK, the operator means what the format says: low half of a byte first, scales by output and block."""
    (_, graph), rows, _ = layer
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(graph.path), experimental_op_resolver_type=kernels)
    (other,) = interpreter.get_signature_runner("forward")(y0=rows).values()
    answer, _ = run(graph, {"y0": rows})
    assert np.abs(answer - other).max() < EQUAL * np.abs(other).max()


def test_the_tables_of_the_file(layer):
    (_, graph), _, _ = layer
    content = graph.path.read_bytes()
    assert tflite_reader.read(content).operators == ((schema.BuiltinOperator.FULLY_CONNECTED, 13),)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (weights,) = (t for t in model.subgraphs[0].tensors if t.type == schema.TensorType.INT4)
    assert weights.shape.tolist() == [40, 96]
    assert len(model.buffers[weights.buffer].data) == 40 * 96 // 2
    details = weights.quantization.details
    assert (details.blockSize, details.zeroPoints) == (32, -1)
    scales = model.subgraphs[0].tensors[details.scales]
    assert (scales.type, scales.shape.tolist()) == (schema.TensorType.FLOAT16, [40, 3])
    assert len(model.buffers[scales.buffer].data) == 40 * 3 * 2


def test_what_does_not_fit_stays_int8(tmp_path):
    """48 inputs are no multiple of 32. Sizes: 4.5 bits a weight instead of 8 and a float32 scale a channel."""
    graphs = chain(tmp_path, 64, 48, 256)
    calibration = Calibration([{"y0": values_for(64)}])
    _, graph = written(graphs, tmp_path, calibration)
    _, precisions = run(graph, {"y0": values_for(64, seed=1)})
    assert precisions == ["int4", "int8"]
    assert backends.summary(precisions) == "int4 1/2 int8 1/2 linears"
    _, other = written(graphs, tmp_path, calibration, method=dynamic_rows)
    saved = other.path.stat().st_size - graph.path.stat().st_size
    assert abs(saved - (64 * 48 * (8 - 4.5) / 8 + 48 * 4)) < 400, "tables of a few hundred bytes"


def test_layers_that_share_a_weight_share_its_blocks(tmp_path):
    graphs = chain(tmp_path, 64, 64, 64, shared=True)
    source, graph = written(graphs, tmp_path, Calibration([{"y0": values_for(64)}]))
    assert [tensor.name for tensor in onnx.load(source.path).graph.initializer if "int4" in tensor.name] == ["w64_int4"]
    _, precisions = run(graph, {"y0": values_for(64)})
    assert precisions == ["int4", "int4"]
    model = schema.ModelT.InitFromPackedBuf(graph.path.read_bytes(), 0)
    assert len([t for t in model.subgraphs[0].tensors if t.type == schema.TensorType.INT4]) == 1


def test_layers_that_are_named_keep_their_precision(tmp_path):
    graphs = chain(tmp_path, 64, 64, 64, 64)
    settings = Quantization(keep_float=("layer0",), keep_int8=("layer[01]",))
    source, graph = written(graphs, tmp_path, Calibration([{"y0": values_for(64)}]), settings=settings)
    _, precisions = run(graph, {"y0": values_for(64)})
    assert precisions == ["float32", "int8", "int4"]
    assert (source.recipe["keep_float"], source.recipe["keep_int8"]) == ("layer0", "layer1")
    check_layers(graphs, settings)
    with refused("layer-unknown", "keep_int8"):
        check_layers(graphs, Quantization(keep_int8=("layer7",)))


def test_activations_that_are_not_finite_are_named(tmp_path):
    graphs = chain(tmp_path, 64, 64)
    with refused("activations-not-finite"):
        written(graphs, tmp_path, Calibration([{"y0": np.full((1, 4, 64), np.inf, np.float32)}]))


# ---- a whole encoder


@functools.cache
def encoder(batch):
    folder = Path(_WORK.name) / f"bert-{batch}"
    folder.mkdir()
    return written(tiny.exported("bert"), folder, calibration_of("bert"), batch)


def test_an_encoder_is_taken_by_xnnpack():
    source, graph = encoder(1)
    model = load(source.path)
    blocks = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    assert len(blocks) == 9
    assert not linears(model.graph)
    for node in blocks:
        scales = constant(node.inputs[1])
        # The factor on the attention scores is in the scales of the queries; they are numbers of bfloat16 all the same.
        np.testing.assert_array_equal(scales.astype(ml_dtypes.bfloat16).astype(np.float32), scales)
    interpreter = Interpreter(model_path=str(graph.path), experimental_disable_delegate_node_fusion=True)
    interpreter.allocate_tensors()
    steps = interpreter._get_ops_details()
    taken = {tuple(step["outputs"]) for step in steps if step["op_name"] == "DELEGATE"}
    layers = [step for step in steps if step["op_name"] == "FULLY_CONNECTED"]
    assert len(layers) == 11
    assert {tuple(step["outputs"]) for step in layers} <= taken
    assert not any(step["op_name"] == "MUL" and tuple(step["outputs"]) not in taken for step in steps)


def test_an_encoder_computes_what_onnx_defines():
    """Against ONNX Runtime with the same graph, whose activations stay in float; and against torch, from which 4 bits differ more."""
    source, graph = encoder(1)
    rows = tiny.rows(tiny.source("bert"))
    expected = tiny.logits(tiny.source("bert"), rows)
    answers = []
    as_written = []
    onnx_engine = backends.get("onnxruntime").open_device("cpu", 1).load(source.path, source.signature)
    litert_engine = backends.get("litert").open_device("cpu", 1).load(graph.path, graph.signature)
    for row in rows:
        feeds = single.collate(graph.signature, [row])
        answers.append(litert_engine.run(feeds)["logits"][0])
        as_written.append(onnx_engine.run(feeds)["logits"][0])
    spread = np.ptp(expected)
    assert np.sqrt(np.mean((np.array(answers) - as_written) ** 2)) < 0.03 * spread
    assert 0.01 < np.sqrt(np.mean((np.array(answers) - expected) ** 2)) / spread < 0.2


def test_rows_of_an_encoder_alone_and_in_a_batch():
    _, one = encoder(1)
    _, many = encoder(None)
    rows = tiny.random_rows(tiny.source("bert"), [12] * 5, seed=6)
    together, precisions = run(many, single.collate(many.signature, rows))
    assert precisions.count("int4") == 9
    for row, answer in zip(rows, together, strict=True):
        for graph in (one, many):
            np.testing.assert_array_equal(run(graph, single.collate(graph.signature, [row]))[0][0], answer)
