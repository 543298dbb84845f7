"""The ONNX reader against the onnx package, ambiguous encodings, and bundles whose graphs differ from the manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import small
from onnx import TensorProto, helper
from refusals import refused

import edgekit
from edgekit.bundle import onnx_reader
from edgekit.bundle.trust import open_bundle
from edgekit.spec.errors import IntegrityError

OLD = Path(__file__).parents[1] / "data" / "format-1"
MESSAGES = {
    "model": "ModelProto", "graph": "GraphProto", "training": "TrainingInfoProto", "function": "FunctionProto",
    "node": "NodeProto", "attribute": "AttributeProto", "sparse": "SparseTensorProto", "tensor": "TensorProto",
    "entry": "StringStringEntryProto", "value": "ValueInfoProto", "type": "TypeProto",
    "tensor_type": "TypeProto.Tensor", "shape": "TensorShapeProto", "axis": "TensorShapeProto.Dimension",
}  # fmt: skip


def outside(name, location, **keys):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in {"offset": "0", "location": location, **keys}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model():
    """External tensors wherever ONNX lets a tensor be."""
    constant = helper.make_node("Constant", [], ["c"], value=outside("v", "in_attribute"))
    body = helper.make_graph(
        [], "body", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])], [outside("b", "in_body")]
    )
    branch = helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)
    plain = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    x = [
        helper.make_tensor_value_info("x", TensorProto.BOOL, ["batch", 3]),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, [1]),
    ]
    y = [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)]
    graph = helper.make_graph([constant, branch], "g", x, y, [outside("w", "as_initializer"), plain])
    graph.sparse_initializer.add(
        values=outside("z", "in_sparse"), indices=helper.make_tensor("i", TensorProto.INT64, [1], [0]), dims=[4]
    )
    inside = helper.make_node("Constant", [], ["o"], value=outside("f", "in_function"))
    default = helper.make_attribute("a", outside("d", "in_default"))
    function = helper.make_function(
        "d", "f", [], ["o"], [inside], [helper.make_opsetid("", 20)], attribute_protos=[default]
    )
    model = helper.make_model(graph, functions=[function])
    model.training_info.add().algorithm.CopyFrom(body)
    return model


def test_every_place_of_a_tensor_is_found():
    facts = onnx_reader.read(model().SerializeToString())
    places = [
        "as_initializer",
        "in_attribute",
        "in_body",
        "in_body",
        "in_body",
        "in_default",
        "in_function",
        "in_sparse",
    ]
    assert sorted(tensor.location for tensor in facts.external) == places
    assert facts.stored == 1
    assert facts.inputs == [onnx_reader.Value("x", "bool", (None, 3))], "an initializer is no input"
    assert facts.outputs == [onnx_reader.Value("y", "float16", None)]


@pytest.mark.parametrize("message", MESSAGES)
def test_the_tables_are_those_of_onnx(message):
    descriptor, *inner = MESSAGES[message].split(".")
    message_type = onnx.onnx_ml_pb2.DESCRIPTOR.message_types_by_name[descriptor]
    for name in inner:
        message_type = message_type.nested_types_by_name[name]
    wire = {"int": (3, 4, 5, 13, 14), "float": (2,), "double": (1,)}  # FieldDescriptor.TYPE_*
    table = onnx_reader.FIELDS[message]
    assert table.keys() == {field.number for field in message_type.fields}
    for field in message_type.fields:
        kind = table[field.number]
        assert kind.endswith("*") == field.is_repeated, field.name
        assert field.type in wire.get(kind.rstrip("*"), (9, 11, 12)), field.name
        entered = kind.rstrip("*") in onnx_reader.FIELDS
        assert not entered or field.message_type.name == MESSAGES[kind.rstrip("*")].rpartition(".")[2]


def test_types_are_those_of_onnx_and_numpy():
    for number, name in onnx_reader.DTYPES.items():
        assert TensorProto.DataType.Name(number).lower().replace("double", "float64").replace("float16", "float16") in (
            name,
            name.replace("32", ""),
        )
        dtype = helper.tensor_dtype_to_np_dtype(number)
        assert dtype.name == name
        bits = 4 if name in ("int4", "uint4") else 8 * np.dtype(dtype).itemsize
        assert onnx_reader._BITS[number] == bits


@pytest.mark.parametrize("cut", [1, 7, 40, 99])
def test_what_is_cut_off_is_no_graph(cut):
    with refused("bundle-graph"):
        onnx_reader.read(model().SerializeToString()[:-cut])


def field(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


EXTERNAL = b"\x08\x01\x10\x01\x70\x01"  # A float32 tensor of shape [1] with external data.
LOCATION = field(1, b"location") + field(2, b"a")
ODD = {
    "a tag in two bytes": b"\xba\x00\x00",
    "a length in two bytes": b"\x3a\x80\x00",
    "a number in two bytes": b"\x08\x8a\x00",
    "a number of more than 64 bits": b"\x08" + b"\xff" * 9 + b"\x02",
    "a number of eleven bytes": b"\x08" + b"\xff" * 10 + b"\x01",
    "a tag of more than 32 bits": b"\xba\x80\x80\x80\x10\x00",
    "field zero": b"\x02\x00",
    "a group": b"\x3b\x3c",
    "wire type 6": b"\x3e\x00",
    "a graph as a number": b"\x38\x01",
    "a graph as four bytes": b"\x3d\x00\x00\x00\x00",
    "two graphs": b"\x3a\x00\x3a\x00",
    "a field that ONNX does not have": b"\x9a\x06\x00",
    "a tensor with two names": field(7, field(5, field(8, b"a") + field(8, b"b"))),
    "a key twice": field(7, field(5, EXTERNAL + field(13, LOCATION) * 2)),
    "two values of a key": field(7, field(5, EXTERNAL + field(13, LOCATION + field(2, b"b")))),
    "a name that is not UTF-8": field(7, field(5, field(8, b"\xff"))),
    "a field beyond its message": b"\x3a\x02\x0a\x05",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_encoding_that_readers_could_read_differently(name):
    with refused("bundle-graph"):
        onnx_reader.read(ODD[name])


def test_numbers_in_a_list_may_be_packed_or_not():
    for dims in (b"\x08\x02\x08\x03", b"\x0a\x02\x02\x03"):
        entry = b"\x70\x01" + field(13, field(1, b"location") + field(2, b"a"))
        facts = onnx_reader.read(field(7, field(5, dims + b"\x10\x01" + entry)))
        assert facts.external == [onnx_reader.External("a", 0, 24)]


@pytest.mark.parametrize(
    "tensor",
    [
        outside("w", "a", checksum="0"),
        outside("w", "a", length="5"),
        outside("w", "a", offset="-1"),
        outside("w", "a", offset="1e3"),
        TensorProto(name="w", data_type=1, dims=[1], data_location=1),
        TensorProto(name="w", data_type=8, dims=[1], data_location=1, external_data=outside("w", "a").external_data),
        TensorProto(name="w", data_type=1, dims=[-1], data_location=1, external_data=outside("w", "a").external_data),
        TensorProto(name="w", data_type=1, dims=[1], external_data=outside("w", "a").external_data),
        TensorProto(
            name="w",
            data_type=1,
            dims=[1],
            data_location=1,
            raw_data=b"abcd",
            external_data=outside("w", "a").external_data,
        ),
    ],
    ids=["key", "length", "negative", "float", "nowhere", "strings", "axis", "both", "raw"],
)
def test_a_tensor_elsewhere_that_edgekit_does_not_write(tensor):
    data = helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    with refused("bundle-graph"):
        onnx_reader.read(data)


def test_a_graph_nested_without_end():
    data = b""
    for _ in range(100):
        attribute = onnx.AttributeProto(name="g", type=5)
        data = b"".join((field_of(6, data), attribute.SerializeToString()))
        data = field_of(1, field_of(5, data))
    with refused("bundle-graph"):
        onnx_reader.read(field_of(7, data))


def field_of(number, content):
    size = bytearray()
    length = len(content)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


# ---- a bundle


@pytest.fixture
def bundle(tmp_path):
    return shutil.copytree(OLD, tmp_path / "bundle")


def graph_of(bundle):
    return bundle / json.loads((bundle / "manifest.json").read_text())["variants"][0]["graphs"]["forward"]


def change_graph(bundle, change):
    file = graph_of(bundle)
    graph = onnx.load(file, load_external_data=False)
    change(graph.graph)
    file.write_bytes(graph.SerializeToString())
    small.sign(bundle)


def change_manifest(bundle, change):
    file = bundle / "manifest.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def assert_refused(bundle, *values, open_too=True):
    for action in (open_bundle, edgekit.load) if open_too else (edgekit.load,):
        with pytest.raises(IntegrityError) as caught:
            action(bundle)
        for value in values:
            assert value in str(caught.value)


@pytest.mark.parametrize(
    "location",
    ["../../secret", "/etc/passwd", "weights/../../../x", "not_listed", "C:x", "", "model.onnx", "../golden.npz"],
)
def test_a_graph_that_reads_another_file_than_its_weights(bundle, location):
    change_graph(bundle, lambda graph: graph.initializer.append(outside("hostile", location)))
    assert_refused(bundle, "graphs/model.onnx")


def test_weights_are_named_by_their_digest_and_hold_what_is_read(bundle):
    weights = graph_of(bundle).parent / "weights"
    weights.mkdir(exist_ok=True)
    (weights / "named").write_bytes(b"abcd")
    change_graph(bundle, lambda graph: graph.initializer.append(outside("extra", "weights/named")))
    assert_refused(bundle, "weights/named", "sha256")
    digest = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"  # of the four bytes
    (weights / "named").rename(weights / digest)
    change_graph(bundle, lambda graph: graph.initializer[-1].CopyFrom(outside("extra", f"weights/{digest}")))
    open_bundle(bundle)
    change_graph(bundle, lambda graph: graph.initializer[-1].dims.__setitem__(0, 2))
    assert_refused(bundle, "8 bytes at offset 0", "4 bytes")


def test_weights_elsewhere_than_in_an_initializer(bundle):
    change_graph(
        bundle,
        lambda graph: graph.node.append(helper.make_node("Constant", [], ["unused"], value=outside("v", "weights/x"))),
    )
    assert_refused(bundle, onnx_reader.NO_INITIALIZER)


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (lambda g: setattr(g.input[0], "name", "ids"), ("input 'ids'", "'forward'")),
        (lambda g: setattr(g.input[0].type.tensor_type, "elem_type", 6), ("input 'input_ids'", "int32", "int64")),
        (
            lambda g: g.input[0].type.tensor_type.shape.dim.add(dim_value=1),
            ("[any, any, 1]", "[batch, sequence]"),
        ),
        (
            lambda g: g.input[0].type.tensor_type.shape.dim[1].CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=7)),
            ("[any, 7]",),
        ),
        (lambda g: setattr(g.output[0], "name", "scores"), ("output 'logits'",)),
        (
            lambda g: setattr(g.output[0].type.tensor_type, "elem_type", 10),
            ("output 'logits'", "float16", "float32"),
        ),
        (
            lambda g: g.output[0].type.tensor_type.shape.dim[1].CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=99)),
            ("[any, 99]",),
        ),
    ],
    ids=["input", "dtype", "rank", "fixed", "output", "half", "width"],
)
def test_a_graph_that_differs_from_the_manifest(bundle, change, values):
    change_graph(bundle, change)
    assert_refused(bundle, "graphs/model.onnx", *values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["one"]}, "has 1 label(s), the graph outputs"),
        ({"inputs": ["input_ids"]}, "lists the inputs ['input_ids'], the graph has"),
        ({"pads": {"input_ids": 77}}, "pads the input 'input_ids' with 77"),
        ({"pads": {"nothing": 0}}, "pads the input 'nothing'"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 2**40}, "max_length is 1099511627776"),
        ({"truncation_side": "middle"}, "truncation_side is 'middle'"),
        ({"labels": []}, "Labels are []"),
    ],
)
def test_settings_that_do_not_fit_the_graph(bundle, change, message):
    """Told when it is loaded, with files that are all as the manifest lists them."""
    file = bundle / "assets" / "task.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    small.sign(bundle)
    assert_refused(bundle, message, open_too=False)


def test_a_bucket_longer_than_the_longest_row(bundle):
    change_manifest(bundle, lambda data: data["variants"][0].update(shapes=[100_000]))
    assert_refused(bundle, "compiled for 100000 tokens", open_too=False)


def test_a_manifest_of_too_many_files(bundle):
    change_manifest(
        bundle,
        lambda data: data["files"].update({f"assets/{i}": {"sha256": "0" * 64, "size": 1} for i in range(10_001)}),
    )
    assert_refused(bundle, "expected at most 10000")


@pytest.mark.parametrize(
    "entry", [{"sha256": "x", "size": 1}, {"sha256": "A" * 64, "size": 1}, {"sha256": "0" * 64, "size": -1}]
)
def test_an_entry_that_is_none(bundle, entry):
    change_manifest(bundle, lambda data: data["files"].update({"assets/x": entry}))
    assert_refused(bundle, "malformed size or sha256")


# ---- what was checked is what is used


def test_what_is_altered_after_the_check_is_not_used(bundle):
    """Assets are used as they were checked; a graph, and what a backend reads by path, is refused."""
    from edgekit.runtime.load import load_checked

    with edgekit.load(bundle) as session:
        expected = session("a fine film")
    opened = open_bundle(bundle)
    for name in ("assets/tokenizer.json", "assets/task.json"):
        (bundle / name).write_bytes(b"{}")
    opened.stamps.clear()
    with load_checked(opened) as session:
        assert session("a fine film") == expected
    opened.release()
    with refused("bundle-file-size"):
        load_checked(opened)


def test_a_graph_that_is_altered_after_the_check(bundle):
    from edgekit.runtime.load import load_checked

    opened = open_bundle(bundle)
    file = graph_of(bundle)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with refused("bundle-file-altered"):
        load_checked(opened)


def test_another_bundle_takes_its_place_while_it_is_loaded(bundle, tmp_path, monkeypatch):
    """The other one answers then, whole."""
    from edgekit.backends.onnxruntime import OnnxRuntimeDevice

    other = shutil.copytree(OLD, tmp_path / "other")
    load = OnnxRuntimeDevice.load
    calls = []
    change_manifest(other, lambda data: data.update(target="the other"))

    def replaced(self, *arguments):
        if not calls:
            calls.append(1)
            shutil.rmtree(bundle)
            other.rename(bundle)
        return load(self, *arguments)

    monkeypatch.setattr(OnnxRuntimeDevice, "load", replaced)
    with edgekit.load(bundle) as session:
        assert session.info.target == "the other"


@pytest.mark.parametrize("back", [False, True])
def test_a_file_that_is_swapped_while_a_backend_loads(bundle, back, monkeypatch):
    """Also when it was put back in between: its times tell."""
    from edgekit.backends.onnxruntime import OnnxRuntimeDevice
    from edgekit.runtime.load import load_checked

    opened = open_bundle(bundle)
    load = OnnxRuntimeDevice.load
    file = bundle / "golden.npz"

    def swapped(self, *arguments):
        data = file.read_bytes()
        file.write_bytes(b"x" * len(data))
        engine = load(self, *arguments)
        if back:
            file.write_bytes(data)
        return engine

    monkeypatch.setattr(OnnxRuntimeDevice, "load", swapped)
    with refused("bundle-changed"):
        load_checked(opened)
