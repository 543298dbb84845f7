"""Tiny graphs whose rows are more than ids in and labels out: one answer a token, and inputs of a fixed shape."""

from __future__ import annotations

import numpy as np

from edgekit.spec.tensor import Signature, TensorSpec

WORDS, WIDTH = 16, 3
TABLE = np.random.default_rng(3).normal(size=(WORDS, WIDTH)).astype(np.float32)

TOKENS = Signature(
    "forward",
    (TensorSpec("ids", "int64", ("batch", "sequence"), 0), TensorSpec("mask", "int64", ("batch", "sequence"), 0)),
    (TensorSpec("tokens", "float32", ("batch", "sequence", WIDTH)), TensorSpec("whole", "float32", ("batch", WIDTH))),
)
"""Each token's vector plus the mean of the row's vectors; and that mean."""

IMAGE = Signature(
    "forward",
    (TensorSpec("image", "float32", ("batch", 2, 4)), TensorSpec("offset", "int64", ("batch", 1))),
    (TensorSpec("scores", "float32", ("batch", 4)),),
)
"""Sum of two channels plus the offset."""


def token_graph(file):
    """Writes the graph of ``TOKENS``."""
    import onnx

    model = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["" : 20]>
        graph (int64[batch, sequence] ids, int64[batch, sequence] mask) => (float[batch, sequence, {WIDTH}] tokens, float[batch, {WIDTH}] whole)
        <int64[1] last = {{2}}, int64[1] middle = {{1}}>
        {{
            vectors = Gather(table, ids)
            kept = Cast<to = 1>(mask)
            weights = Unsqueeze(kept, last)
            weighted = Mul(vectors, weights)
            total = ReduceSum<keepdims = 1>(weighted, middle)
            count = ReduceSum<keepdims = 1>(weights, middle)
            mean = Div(total, count)
            tokens = Add(vectors, mean)
            whole = Squeeze(mean, middle)
        }}
        """
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(TABLE, "table"))
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return file


def image_graph(file):
    """Writes the graph of ``IMAGE``."""
    import onnx

    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        graph (float[batch, 2, 4] image, int64[batch, 1] offset) => (float[batch, 4] scores)
        <int64[1] channels = {1}>
        {
            summed = ReduceSum<keepdims = 0>(image, channels)
            added = Cast<to = 1>(offset)
            scores = Add(summed, added)
        }
        """
    )
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return file


def token_rows(lengths, seed=0):
    """Rows of random ids."""
    draw = np.random.default_rng(seed)
    return [{"ids": draw.integers(0, WORDS, n), "mask": np.ones(n, np.int64)} for n in lengths]


def token_answers(row):
    """What the graph of ``TOKENS`` answers to a row."""
    vectors = TABLE[row["ids"]]
    return {"tokens": vectors + vectors.mean(axis=0), "whole": vectors.mean(axis=0)}


def image_rows(count, seed=0):
    """Random rows of a fixed shape."""
    draw = np.random.default_rng(seed)
    return [
        {"image": draw.normal(size=(2, 4)).astype(np.float32), "offset": draw.integers(0, 9, 1)} for _ in range(count)
    ]
