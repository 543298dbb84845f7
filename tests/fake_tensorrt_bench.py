"""Helpers for tests of the fake TensorRT: a graph and its outputs, a library with a logger, memory, a bound context."""

from __future__ import annotations

import numpy as np
import tensorrt_bindings as bindings
from onnx import TensorProto, helper, numpy_helper

VERSIONS = tuple(bindings.VERSIONS)
RNG = np.random.default_rng(5)
EMBEDDINGS, WEIGHT = RNG.normal(size=(50, 8)).astype(np.float32), RNG.normal(size=(8, 4)).astype(np.float32)
BIAS = RNG.normal(size=4).astype(np.float32)
SCALE, WEIGHT_SCALE = np.float32(0.03), np.float32(0.02)
SHAPES = {"ids": ((1, 1), (2, 8), (4, 16)), "mask": ((1, 1), (2, 8), (4, 16))}


def graph(nodes, ins, outs, weights, opset=19):
    """Return a model of these parts; inputs and outputs are (name, type, shape)."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    values = [[helper.make_tensor_value_info(*value) for value in group] for group in (ins, outs)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *values, tensors), opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = 9
    return model


def encoder(kind=np.float32, quantized=False):
    """Return a model with embeddings, mask, product, bias and Relu: two inputs [batch, seq], output [batch, seq, 4]."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    node = helper.make_node
    weights = {"E": EMBEDDINGS.astype(kind), "W": WEIGHT.astype(kind), "B": BIAS.astype(kind), "last": np.array([-1])}
    nodes = [
        node("Gather", ["E", "ids"], ["e"], name="embed"),
        node("Cast", ["mask"], ["m"], to=dtype, name="cast"),
        node("Unsqueeze", ["m", "last"], ["m3"], name="unsqueeze"),
        node("Mul", ["e", "m3"], ["h"], name="masked"),
    ]
    product = ["h", "W"]
    if quantized:
        weights |= {"s": np.asarray(SCALE, kind), "ws": np.asarray(WEIGHT_SCALE, kind), "z": np.int8(0)}
        for name, scale in (("h", "s"), ("W", "ws")):
            nodes += [
                node("QuantizeLinear", [name, scale, "z"], [f"{name}_q"], name=f"q_{name}"),
                node("DequantizeLinear", [f"{name}_q", scale, "z"], [f"{name}_d"], name=f"dq_{name}"),
            ]
        product = ["h_d", "W_d"]
    nodes += [
        node("MatMul", product, ["p"], name="layer.0/MatMul"),
        node("Add", ["p", "B"], ["b"], name="layer.0/Add"),
        node("Relu", ["b"], ["y"], name="layer.0/Relu"),
    ]
    ins = [(name, TensorProto.INT64, ["batch", "seq"]) for name in ("ids", "mask")]
    return graph(nodes, ins, [("y", dtype, ["batch", "seq", 4])], weights)


def truth(ids, mask, quantized=False):
    """Compute :func:`encoder` in numpy."""
    hidden, weight = EMBEDDINGS[ids] * mask[..., None].astype(np.float32), WEIGHT
    if quantized:
        hidden, weight = (np.clip(np.rint(a / s), -128, 127) * s for a, s in ((hidden, SCALE), (weight, WEIGHT_SCALE)))
    return np.maximum(hidden @ weight + BIAS, 0).astype(np.float32)


def one(op, inputs, weights=None, **attributes):
    """Return a model of one node with input x and output y."""
    node = helper.make_node(op, inputs, ["y"], name="only", **attributes)
    return graph([node], [("x", TensorProto.FLOAT, ["b", 8])], [("y", TensorProto.FLOAT, ["b", "c"])], weights or {})


def make_log(trt):
    class Log(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, msg):
            self.lines.append((severity.name, msg))

        @property
        def errors(self):
            return "\n".join(msg for severity, msg in self.lines if severity in ("ERROR", "INTERNAL_ERROR"))

    return Log()


class Bench:
    """A library with a logger, and the calls that most tests need."""

    def __init__(self, trt):
        self.trt, self.log = trt, make_log(trt)
        self.builder = trt.Builder(self.log)
        self.config = self.builder.create_builder_config()

    def parse(self, model, path=None, flags=0):
        network = self.builder.create_network(flags)
        parser = self.trt.OnnxParser(network, self.log)
        data = model if isinstance(model, bytes) else model.SerializeToString()
        return network, parser, parser.parse(data) if path is None else parser.parse(data, str(path))

    def profile(self, shapes):
        profile = self.builder.create_optimization_profile()
        for name, sizes in shapes.items():
            profile.set_shape(name, *sizes)
        return self.config.add_optimization_profile(profile)

    def build(self, model, *profiles, flags=0):
        network, _, parsed = self.parse(model, flags=flags)
        assert parsed
        for shapes in profiles:
            assert self.profile(shapes) >= 0
        return self.builder.build_serialized_network(network, self.config)

    def engine(self, model, *profiles):
        plan = self.build(model, *profiles or (SHAPES,))
        assert plan is not None, self.log.errors
        return self.trt.Runtime(self.log).deserialize_cuda_engine(plan)


class Memory:
    """Host memory used as device memory, with the alignment of device memory."""

    def __init__(self, array, offset=0):
        self._bytes = np.zeros(array.nbytes + 512, np.uint8)
        start = -self._bytes.ctypes.data % 256 + offset
        self.array = np.frombuffer(self._bytes.data, array.dtype, array.size, start).reshape(array.shape)
        self.array[...] = array
        self.address = self.array.ctypes.data


def inputs(batch=2, seq=8):
    ids = RNG.integers(0, 50, (batch, seq))
    mask = np.ones((batch, seq), np.int64)
    mask[:, seq // 2 :] = 0
    return ids, mask


def bound(engine, ids, mask, dtype=np.float32, context=None):
    """Return a context with shapes and addresses, and the memory of its tensors."""
    context = context or engine.create_execution_context()
    memory = {"ids": Memory(ids), "mask": Memory(mask), "y": Memory(np.zeros((*ids.shape, 4), dtype))}
    for name, place in memory.items():
        assert name == "y" or context.set_input_shape(name, place.array.shape)
        assert context.set_tensor_address(name, place.address)
    return context, memory
