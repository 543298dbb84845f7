"""Graphs of LiteRT in a bundle: what is read of them is what LiteRT reads, and nothing damaged reaches it."""

from __future__ import annotations

import contextlib
import json
import random

import numpy as np
import pytest
import small
from refusals import refused

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed here")
pytest.importorskip("flatbuffers", reason="flatbuffers, with which graphs are written, is not installed here")

import tflite
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import edgekit
from edgekit.bundle import tflite_reader
from edgekit.bundle.trust import open_bundle
from edgekit.machine import control_groups
from edgekit.quantize import litert as writer
from edgekit.spec.errors import IntegrityError

BUNDLE = small.ROOT / "tests" / "data" / "bundles" / "onnxruntime"
GRAPH = BUNDLE / "graphs" / "model.onnx"
(SIGNATURE,) = open_bundle(BUNDLE).manifest.signatures


@pytest.fixture(scope="module", params=[None, 1], ids=["any batch", "one row"])
def content(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("graph") / "model.tflite"
    writer.write(GRAPH, SIGNATURE, file, batch=request.param)
    return file.read_bytes()


@pytest.fixture
def bundle(tmp_path):
    """The committed bundle on LiteRT."""
    folder = small.copy(BUNDLE, tmp_path / "bundle")
    writer.write(folder / "graphs/model.onnx", SIGNATURE, folder / "graphs/model.tflite")
    (folder / "graphs/model.onnx").unlink()
    data = json.loads((folder / "manifest.json").read_text())
    changes = {"backend": "litert", "graphs": {"forward": "graphs/model.tflite"}, "versions": {}}
    small.sign(folder, variants=[{**data["variants"][0], **changes}])
    return folder


def test_facts_are_those_of_litert(content):
    facts = tflite_reader.read(content)
    runner = Interpreter(model_content=content).get_signature_runner(facts.signature)
    for values, details in ((facts.inputs, runner.get_input_details()), (facts.outputs, runner.get_output_details())):
        assert {value.name for value in values} == set(details)
        for value in values:
            actual = details[value.name]
            assert np.dtype(value.dtype) == actual["dtype"]
            assert [-1 if size is None else size for size in value.shape] == actual["shape_signature"].tolist()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    assert list(facts.operators) == [(code.builtinCode, code.version) for code in model.operatorCodes]


def test_types_are_those_of_the_schema():
    names = {number: name.lower() for name, number in vars(schema.TensorType).items() if name.isupper()}
    assert {names[number] for number in tflite_reader._DTYPES} == set(tflite_reader._DTYPES.values())
    for number, dtype in tflite_reader._DTYPES.items():
        assert names[number] == dtype
        if dtype not in ("bfloat16", "int4"):
            assert tflite_reader._BITS[number] == 8 * np.dtype(dtype).itemsize
    assert schema.BuiltinOperator.CUSTOM == tflite_reader._CUSTOM


def test_what_is_cut_off_is_refused(content):
    for size in [*range(64), *range(64, len(content), 4099), len(content) - 1]:
        with refused("bundle-graph"):
            tflite_reader.read(content[:size])


@pytest.mark.parametrize("form", [tflite.layer, tflite.blocks], ids=["int8", "blocks"])
def test_damage_is_refused_or_harmless(form):
    """Whatever the reader lets pass, LiteRT reads too or refuses in words; neither raises anything else."""
    draw = random.Random(3)
    whole = form()
    passed = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            tflite_reader.read(bytes(damaged))
        except IntegrityError as problem:
            assert problem.code == "bundle-graph"
            continue
        passed += 1
        with contextlib.suppress(ValueError, RuntimeError):
            Interpreter(model_content=bytes(damaged)).allocate_tensors()
    assert 0 < passed < 400


def model_with(change, whole=None):
    model = schema.ModelT.InitFromPackedBuf(whole or tflite.layer(), 0)
    change(model)
    builder = tflite.flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def external(model):
    group = schema.ExternalBufferGroupT()
    group.name = b"other.bin"
    model.externalBufferGroups = [group]


def external_tensor(model):
    model.subgraphs[0].tensors[0].externalBuffer = 1


def behind(model):
    model.buffers[1].offset = 4096
    model.buffers[1].size = 512


def wrong_size(model):
    model.buffers[1].data = model.buffers[1].data[:-1]


def no_tensor(model):
    model.subgraphs[0].operators[0].inputs = [99, 2, -1]


def no_buffer(model):
    model.subgraphs[0].tensors[0].buffer = 99


def no_code(model):
    model.subgraphs[0].operators[0].opcodeIndex = 9


def custom(model):
    model.operatorCodes[0].customCode = b"Mine"


def two_signatures(model):
    model.signatureDefs = model.signatureDefs * 2


def other_inputs(model):
    model.subgraphs[0].inputs = [2]


CHANGES = [
    external,
    external_tensor,
    behind,
    wrong_size,
    no_tensor,
    no_buffer,
    no_code,
    custom,
    two_signatures,
    other_inputs,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_edgekit_does_not_write(change):
    tflite_reader.read(model_with(lambda model: None))
    with refused("bundle-graph"):
        tflite_reader.read(model_with(change))


def blocks_of(model):
    return next(tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"weights")


def details(**fields):
    def change(model):
        for name, value in fields.items():
            setattr(blocks_of(model).quantization.details, name, value)

    return change


def no_blocks(model):
    blocks_of(model).quantization = None


def one_scale_a_row(model):
    """The form of INT4 per channel, which EdgeKit does not write."""
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.ones(8, np.float32)
    quantization.zeroPoint = np.zeros(8, np.int64)
    blocks_of(model).quantization = quantization


def blocks_of_int8(model):
    blocks_of(model).type = schema.TensorType.INT8


def own_details(model):
    custom = schema.CustomQuantizationT()
    custom.custom = [1, 2, 3]
    blocks_of(model).quantization.detailsType = schema.QuantizationDetails.CustomQuantization
    blocks_of(model).quantization.details = custom


def scales_of_another_type(model):
    model.subgraphs[0].tensors[blocks_of(model).quantization.details.scales].type = schema.TensorType.BFLOAT16


def scales_that_are_computed(model):
    model.subgraphs[0].tensors[blocks_of(model).quantization.details.scales].buffer = 0


def scales_of_another_shape(model):
    model.subgraphs[0].tensors[blocks_of(model).quantization.details.scales].shape = [2, 8]


def values_that_are_computed(model):
    blocks_of(model).buffer = 0


@pytest.mark.parametrize(
    "change",
    [
        no_blocks,
        one_scale_a_row,
        blocks_of_int8,
        own_details,
        scales_of_another_type,
        scales_that_are_computed,
        scales_of_another_shape,
        values_that_are_computed,
        *(details(blockSize=size) for size in (-32, 0, 8, 16, 48, 64, 2**31 - 32)),
        *(details(scales=index) for index in (-1, 0, 1, 99)),
        details(zeroPoints=0),
        details(blockShape=[1, 32]),
    ],
)
def test_blocks_that_edgekit_does_not_write(change):
    facts = tflite_reader.read(tflite.blocks())
    assert [value.name for value in facts.inputs] == ["rows"]
    assert tflite_reader.read(model_with(lambda model: None, tflite.blocks())).operators == facts.operators
    with refused("bundle-graph"):
        tflite_reader.read(model_with(change, tflite.blocks()))


@pytest.mark.parametrize(
    "options", [{"version": 2}, {"version": 4}, {"identifier": b"TFL2"}, {"subgraphs": 2}, {"key": ""}]
)
def test_another_version_or_form(options):
    with refused("bundle-graph"):
        tflite_reader.read(tflite.layer(**{"key": "forward", **options}))


# ---- a bundle


def test_a_bundle_on_litert_answers_as_torch(bundle):
    expected = json.loads((small.ROOT / "tests/data/answers.json").read_text())
    with edgekit.load(bundle) as session:
        answers = session(expected["texts"])
    logits = np.array(expected["logits"])
    assert [answer.label for answer in answers] == [small.LABELS[row.argmax()] for row in logits]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose([list(answer.scores.values()) for answer in answers], shares, atol=1e-4)


def test_there_is_no_stand_in_for_litert(bundle):
    with refused("backend-not-in-bundle"):
        edgekit.load(bundle, backend="onnxruntime")


def change_manifest(bundle, change):
    data = json.loads((bundle / "manifest.json").read_text())
    change(data)
    (bundle / "manifest.json").write_text(json.dumps(data))


def rename_signature(data):
    data["signatures"][0]["name"] = "other"
    data["variants"][0]["graphs"] = {"other": "graphs/model.tflite"}


def rename_input(data):
    data["signatures"][0]["inputs"][0]["name"] = "other"


def float_ids(data):
    data["signatures"][0]["inputs"][0]["dtype"] = "float32"


def fixed_length(data):
    data["signatures"][0]["outputs"][0]["shape"][1] = 5


def other_backend(data):
    data["variants"][0]["backend"] = "onnxruntime"


@pytest.mark.parametrize("change", [rename_signature, rename_input, float_ids, fixed_length, other_backend])
def test_a_manifest_that_differs_from_the_graph(bundle, change):
    open_bundle(bundle)
    change_manifest(bundle, change)
    with refused("bundle-graph"):
        open_bundle(bundle)


def test_litert_with_an_onnx_graph(tmp_path):
    folder = small.copy(BUNDLE, tmp_path / "bundle")
    change_manifest(folder, lambda data: data["variants"][0].update(backend="litert"))
    with refused("bundle-graph"):
        open_bundle(folder)


def test_a_damaged_graph_with_a_right_digest(bundle):
    file = bundle / "graphs/model.tflite"
    file.write_bytes(file.read_bytes()[:-4096])
    small.sign(bundle)
    with refused("bundle-graph"):
        edgekit.load(bundle)


def test_a_graph_larger_than_the_memory_is_refused_before_it_is_read(bundle, monkeypatch):
    from edgekit.bundle import trust

    monkeypatch.setattr(trust, "_ALWAYS_FITS", 0)
    assert open_bundle(bundle)
    size = (bundle / "graphs/model.tflite").stat().st_size
    monkeypatch.setattr(trust, "memory_limit", lambda: size - 1)
    with refused("bundle-exceeds-memory"):
        open_bundle(bundle)


def test_the_memory_of_a_machine_and_of_a_control_group(tmp_path):
    assert control_groups.memory_limit() > 2**26
    assert control_groups.memory_limit(tmp_path) == 2**60, "nothing is known"
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:        4194304 kB\n")
    assert control_groups.memory_limit(tmp_path) == 4 * 2**30
    group = tmp_path / "sys/fs/cgroup/box"
    group.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    (tmp_path / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (group / "memory.max").write_text(f"{2**30}\n")
    assert control_groups.memory_limit(tmp_path) == 2**30
