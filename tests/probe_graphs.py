"""How the graphs of the probe kernels were made: ``python tests/probe_graphs.py`` writes them anew into ``edgekit/timing/probes``.

An encoder of half a MiniLM's size on 32 tokens, with one head: as many products, and as many operators at which threads meet, as a bundle's graph has. All
weights are the first values of one file beside the graph, which whoever runs it writes; of a graph for LiteRT, of what is appended to it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

FOLDER = Path(__file__).resolve().parents[1] / "edgekit/timing/probes"
KINDS = ("float32", "dynamic", "static")
LITERT_KINDS = ("float32", "rows")
LAYERS, ROWS, WIDE, WIDER = 3, 32, 384, 1536


def weight(name: str, shape: tuple[int, int], dtype: int) -> TensorProto:
    """A matrix whose values are the first bytes of the file beside the graph."""
    made = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    size = shape[0] * shape[1] * (4 if dtype == TensorProto.FLOAT else 1)
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(size))):
        entry = made.external_data.add()
        entry.key, entry.value = key, value
    return made


class Encoder:
    """A graph as it grows. Names are numbered."""

    def __init__(self, kind: str, cleaned: bool = False) -> None:
        self.cleaned = cleaned  # GELU as one operator, as exported graphs have it
        self.kind, self.nodes, self.tensors, self.count = kind, [], [], 0
        self.constant("scale", 0.002)
        self.constant("root", 2**0.5)
        self.constant("one", 1.0)
        self.constant("half", 0.5)
        self.constant("low", WIDE**-0.5)
        if kind != "float32":
            self.tensors.append(helper.make_tensor("zero", TensorProto.INT8, [], [0]))
        if kind == "static":
            self.constant("step", 0.05)
        self.tensors.append(helper.make_tensor("ones", TensorProto.FLOAT, [WIDE], [1.0] * WIDE))

    def constant(self, name: str, value: float) -> None:
        self.tensors.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))

    def add(self, kind: str, *inputs: str, **settings: object) -> str:
        """A node; the name of its result."""
        self.count += 1
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{kind}{self.count}"], **settings))
        return f"{kind}{self.count}"

    def product(self, x: str, shape: tuple[int, int]) -> str:
        """With a weight, as ONNX Runtime (``dynamic``) and OpenVINO (``static``) make one INT8 kernel of it."""
        self.count += 1
        name = f"w{self.count}"
        self.tensors.append(weight(name, shape, TensorProto.FLOAT if self.kind == "float32" else TensorProto.INT8))
        if self.kind == "float32":
            return self.add("MatMul", x, name)
        if self.kind == "rows":
            # LiteRT takes a range for each row at run time where a weight has a scale for each column.
            scales = f"scales{shape[1]}"
            if all(tensor.name != scales for tensor in self.tensors):
                values = [0.002] * shape[1]
                self.tensors.append(helper.make_tensor(scales, TensorProto.FLOAT, [shape[1]], values))
            return self.add("MatMul", x, self.add("DequantizeLinear", name, scales, axis=1))
        if self.kind == "static":
            restored = self.add("DequantizeLinear", self.add("QuantizeLinear", x, "step", "zero"), "step", "zero")
            return self.add("MatMul", restored, self.add("DequantizeLinear", name, "scale", "zero"))
        self.count += 1
        parts = [f"{part}{self.count}" for part in ("quantized", "step", "point")]
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], parts))
        whole = self.add("Cast", self.add("MatMulInteger", parts[0], name, parts[2], "zero"), to=TensorProto.FLOAT)
        return self.add("Mul", whole, self.add("Mul", parts[1], "scale"))

    def layer(self, x: str) -> str:
        """Attention and a feed-forward block, each with its residual and LayerNorm."""
        query, key, value = (self.product(x, (WIDE, WIDE)) for _ in range(3))
        scores = self.add(
            "Mul",
            self.add("MatMul", query, self.add("Transpose", key, **({"perm": [1, 0]} if self.cleaned else {}))),
            "low",
        )
        mixed = self.product(self.add("MatMul", self.add("Softmax", scores), value), (WIDE, WIDE))
        x = self.add("LayerNormalization", self.add("Add", x, mixed), "ones")
        h = self.product(x, (WIDE, WIDER))
        if self.cleaned:
            gelu = self.add("Gelu", h)
            return self.add("LayerNormalization", self.add("Add", x, self.product(gelu, (WIDER, WIDE))), "ones")
        gelu = self.add(
            "Mul", self.add("Mul", h, self.add("Add", self.add("Erf", self.add("Div", h, "root")), "one")), "half"
        )
        return self.add("LayerNormalization", self.add("Add", x, self.product(gelu, (WIDER, WIDE))), "ones")


def model(kind: str, cleaned: bool = False) -> ModelProto:
    """The graph of a kernel."""
    made, x = Encoder(kind, cleaned), "x"
    for _ in range(LAYERS):
        x = made.layer(x)
    made.nodes[-1].output[0] = "y"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDE]) for name in ("x", "y")]
    used = {name for node in made.nodes for name in node.input}
    graph = helper.make_graph(made.nodes, kind, ends[:1], ends[1:], [t for t in made.tensors if t.name in used])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20 if cleaned else 17)], ir_version=8)


def litert_model(kind: str) -> bytes:
    """The graph of a kernel for LiteRT, without its weights: they lie behind it, where whoever runs it appends them."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    from edgekit.quantize import litert
    from edgekit.spec.tensor import Signature, TensorSpec

    x, y = (TensorSpec(name, "float32", (ROWS, WIDE)) for name in ("x", "y"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "weights.bin").write_bytes(bytes(4 * WIDE * WIDER))
        onnx.save(model(kind, cleaned=True), folder / "graph.onnx")
        litert.write(folder / "graph.onnx", Signature("probe", (x,), (y,)), folder / "graph.tflite")
        parts = schema.ModelT.InitFromPackedBuf((folder / "graph.tflite").read_bytes(), 0)
    start = 2  # Offsets of 0 and 1 mean that the data is inside.
    for _ in range(2):
        for buffer in parts.buffers:
            size = len(buffer.data) if buffer.data is not None else buffer.size
            if size >= WIDE * WIDE:
                buffer.data, buffer.offset, buffer.size = None, start, size
        builder = Builder(1024)
        builder.Finish(parts.Pack(builder), b"TFL3")
        content = bytes(builder.Output())
        start = -(-len(content) // 64) * 64
    return content.ljust(start, b"\0")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for kind in LITERT_KINDS:
        (FOLDER / f"{kind}.tflite").write_bytes(litert_model(kind))
    for kind in KINDS:
        (FOLDER / f"{kind}.onnx").write_bytes(model(kind).SerializeToString(deterministic=True))
