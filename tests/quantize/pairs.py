"""What the tests of static INT8 share: graphs made once a process, and hands to read Q/DQ pairs."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import tiny
import torch

from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import constant
from edgekit.quantize.methods import static
from edgekit.runtime.loops import single
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

COSINE = 0.99
# Weights of 7 bits, so that products do not saturate on a machine without VNNI; nothing searched where that is not the question.
AUTO = Quantization(weight_bits=7)
FIXED = Quantization(weight_bits=7, ranges="mse", smooth="off")


_WORK = tempfile.TemporaryDirectory(prefix="edgekit-static-")  # goes with the process


def batches_of(name, texts=tiny.TEXTS, size=4):
    (graph,) = tiny.exported(name).graphs
    rows = tiny.rows(tiny.source(name), texts)
    return [single.collate(graph.signature, rows[i : i + size]) for i in range(0, len(rows), size)]


def calibration_of(name):
    return Calibration(batches_of(name))


@functools.cache
def quantized(name, how=FIXED):
    """The static graph of an architecture, read back, and the file; made once a process."""
    folder = Path(_WORK.name) / str(len(os.listdir(_WORK.name)))
    folder.mkdir()
    (graph,) = static.quantize(tiny.exported(name), calibration_of(name), how, folder, silent).graphs
    return SimpleNamespace(file=graph, graph=ir.load(graph.path).graph)


def nodes(graph, op):
    return [node for node in graph if node.op_type == op]


def users(value):
    return [use.node for use in value.uses()]


def activations(graph):
    return nodes(graph, "QuantizeLinear")


def weights(graph):
    return [node for node in nodes(graph, "DequantizeLinear") if constant(node.inputs[0]) is not None]


def products(graph):
    """The products that are in INT8."""
    return [
        node
        for node in nodes(graph, "MatMul")
        if any(v.producer() is not None and v.producer().op_type == "DequantizeLinear" for v in node.inputs)
    ]


def torch_linears(name):
    """Every linear that torch runs on tokens: its module's name, input and the module. Pooler and classifier see one row a text."""
    source, seen = tiny.source(name), []
    names = {module: n for n, module in source.module.named_modules()}

    def note(module, inputs, _):
        if isinstance(module, torch.nn.Linear) and inputs[0].ndim == 3 and min(module.weight.shape) >= 16:
            seen.append((names[module], inputs[0], module))

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        tiny.torch_logits(source, batches_of(name)[0])
    finally:
        handle.remove()
    return seen


def expected_products(name):
    """Linears of one input are one product (Q, K and V), so what counts is how many different tensors torch's linears read.

    In the last layer Q reads the first token alone, and is a product of its own.
    """
    return len({(x.data_ptr(), tuple(x.shape)) for _, x, _ in torch_linears(name)}) + 1


def cosine(got, expected):
    """Of the logits about each label's mean: what all texts have in common says nothing of how well they are told apart."""
    a, b = (x.astype(np.float64) - expected.mean(axis=0) for x in (got, expected))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
