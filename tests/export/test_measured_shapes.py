"""Axes of an imported graph, measured by running it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.parser import parse_model

from edgekit.export._shapes import name_axes
from edgekit.spec.tensor import Signature, TensorSpec

IDS = TensorSpec("ids", "int64", ("batch", "sequence"), 0)
PIXELS = TensorSpec("pixels", "float32", ("batch", 3, 8, 8), 0)
SCORES = TensorSpec("scores", "float32", ("batch", 2))


def model_of(text):
    proto = parse_model('<ir_version: 10, opset_import: ["" : 20]>' + text)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def shapes_of(model):
    return {value.name: [str(dim) for dim in value.shape] for node in model.graph for value in node.outputs}


def test_axes_get_the_names_of_the_inputs_axes():
    model = model_of("""
        g (int64[batch, sequence] ids) => (float[batch, m] scores)
        <int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] four = {4}, int64[1] minus = {-1}, int64 one = {1},
         int64[2] ends = {0, 1}>
        { x = Cast <to = 1> (ids)  sizes = Shape (x)  rows = Slice (sizes, i0, i1)  tokens = Slice (sizes, i1, i2)
          flat_shape = Concat <axis = 0> (minus)  flat = Reshape (x, flat_shape)
          back = Reshape (flat, sizes)  wide = Unsqueeze (back, i2)
          wide_shape = Concat <axis = 0> (rows, tokens, four)  heads = Expand (wide, wide_shape)
          turned = Transpose <perm = [0, 2, 1]> (heads)  merged_shape = Concat <axis = 0> (minus, tokens)
          merged = Reshape (turned, merged_shape)
          start = Gather (sizes, one)  next = Add (start, one)  longer = Range (one, next, one)
          scores = Slice (back, i0, i2, i1) }""")
    before = shapes_of(model)
    assert before["heads"][0] != "batch"
    assert name_axes(model, Signature("forward", (IDS,), (SCORES,))) > 0
    shapes = shapes_of(model)
    assert shapes["flat"] == ["batch*sequence"]
    assert shapes["back"] == ["batch", "sequence"]
    assert shapes["heads"] == ["batch", "sequence", "4"]
    assert shapes["turned"] == ["batch", "4", "sequence"]
    assert shapes["merged"] == ["4*batch", "sequence"]
    assert shapes["wide_shape"] == ["3"]
    assert shapes["longer"] == ["sequence"]
    assert shapes["scores"] == before["scores"]  # the signature's


def test_a_size_that_is_no_multiple_has_no_name():
    model = model_of("""
        g (int64[batch, sequence] ids) => (float[batch, m] scores)
        <int64[1] i1 = {1}, int64[1] end = {100}, float one = {1}>
        { x = Cast <to = 1> (ids)  tail = Slice (x, i1, end, i1)  longer = Concat <axis = 1> (x, tail)
          scores = Add (longer, one) }""")
    name_axes(model, Signature("forward", (IDS,), (SCORES,)))
    shapes = shapes_of(model)
    assert shapes["tail"] == shapes["longer"] == ["batch", "None"]


def test_rows_of_one_size_have_numbers():
    model = model_of("""
        g (float[batch, 3, 8, 8] pixels) => (float[batch, 2] scores)
        <int64[3] shape = {0, 12, 16}, int64[1] two = {2}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i0 = {0}>
        { tokens = Reshape (pixels, shape)  mean = ReduceMean <keepdims = 0> (tokens, i1)
          scores = Slice (mean, i0, i2, i1) }""")
    name_axes(model, Signature("forward", (PIXELS,), (SCORES,)))
    assert shapes_of(model)["tokens"] == ["batch", "12", "16"]


@pytest.mark.parametrize("size", [1, 5])
def test_names_hold_for_other_sizes(size):
    """A size that agrees with the probes by chance would be named wrongly; the least one is the most likely to."""
    model = model_of("""
        g (int64[batch, sequence] ids) => (float[batch, m] scores)
        <int64[1] i1 = {1}, int64[1] i2 = {2}, int64[2] repeats = {1, 3}>
        { x = Cast <to = 1> (ids)  scores = Tile (x, repeats)  seen = Neg (scores) }""")
    model.graph.outputs.append(next(v for n in model.graph for v in n.outputs if v.name == "seen"))
    seen = model.graph.outputs.pop()
    name_axes(model, Signature("forward", (IDS,), (SCORES,)))
    import onnxruntime

    model.graph.outputs.append(seen)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    array = session.run(["seen"], {"ids": np.zeros((2, size), np.int64)})[0]
    assert [str(dim) for dim in seen.shape] == ["batch", "3*sequence"]
    assert array.shape == (2, 3 * size)
