"""An ONNX file as the model of a build: what torch exports in several ways is taken, and everything else is refused by name."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import onnx_ir as ir
import pytest
import small

import edgekit
from edgekit.export import onnx_file
from edgekit.export._onnx_import import import_graph
from edgekit.export.graphs import export
from edgekit.quantize.graphs import linears
from edgekit.spec.errors import ExportError, ModelError, UsageError

NAMES = ("input_ids", "attention_mask", "token_type_ids")
TEXTS = small.texts(12, seed=3)
pytestmark = pytest.mark.slow  # the fixture graphs exports three times
EXPORTS = ["torchscript-14", "torchscript-18", "dynamo"]


@pytest.fixture(scope="module")
def module():
    return small.module()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, module):
    """Config and tokenizer without weights."""
    place = tmp_path_factory.mktemp("processor")
    module.config.architectures = ["BertForSequenceClassification"]
    module.config.save_pretrained(place)
    small.tokenizer().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def graphs(tmp_path_factory, module):
    """Name of the exporter to the file: TorchScript with the axes and names of optimum, and torch.export."""
    import torch

    place = tmp_path_factory.mktemp("graphs")
    ids = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    feeds = dict(zip(NAMES, (ids, torch.ones_like(ids), torch.zeros_like(ids)), strict=True))
    axes = {**{name: {0: "batch_size", 1: "sequence_length"} for name in NAMES}, "logits": {0: "batch_size"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for opset, attention in ((14, "sdpa"), (18, "eager")):
            module.set_attn_implementation(attention)
            how = {"input_names": list(NAMES), "output_names": ["logits"], "dynamic_axes": axes, "opset_version": opset}
            torch.onnx.export(module, feeds, place / f"torchscript-{opset}.onnx", dynamo=False, **how)
        shapes = {name: {0: torch.export.Dim("b", max=64), 1: torch.export.Dim("s", max=64)} for name in NAMES}
        torch.onnx.export(
            module, (), place / "dynamo.onnx", kwargs=feeds, dynamo=True, output_names=["logits"], dynamic_shapes=shapes,
            external_data=True, verbose=False,
        )  # fmt: skip
    return {name: place / f"{name}.onnx" for name in EXPORTS}


def changed(graphs, tmp_path, change, name="torchscript-18"):
    """A copy of an export with a change of its onnx_ir model."""
    model = ir.load(graphs[name])
    change(model)
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def refusal(file, folder, kind=ModelError, **options):
    """The code of the error that reading a model raises, its module included."""
    with pytest.raises(kind) as raised:
        onnx_file.read(file, folder, **options).module  # noqa: B018
    return raised.value.code


# ---- taken


@pytest.mark.parametrize("name", EXPORTS)
def test_the_export_equals_torch_and_is_as_clean(graphs, folder, module, tmp_path, name):
    source = onnx_file.read(graphs[name], folder)
    assert (source.task, source.revision, source.onnx_file) == ("text-classification", "local", graphs[name])
    made = export(source, tmp_path, TEXTS)
    expected = small.torch_logits(module, TEXTS)
    reference = small.column(source.outputs(source.encode(TEXTS)))
    np.testing.assert_allclose(reference, expected, atol=1e-5)
    from edgekit.runtime import runner

    signatures = {"forward": made.graphs[0].signature}
    with runner.open_runner({"forward": made.graphs[0].path}, signatures, "onnxruntime", batch=8) as opened:
        computed = small.column(opened.run(source.encode(TEXTS)))
    np.testing.assert_allclose(computed, expected, atol=2e-5)
    assert made.provenance["reference"] == "the ONNX file, run by ONNX Runtime in float32"
    # The graph is as clean as an export of torch.
    model = ir.load(made.graphs[0].path)
    assert model.opset_imports == {"": 20}
    operators = [node.op_type for node in model.graph]
    assert operators.count("Gelu") == 2
    assert operators.count("LayerNormalization") == 5, "spelled out in nine nodes below opset 17"
    assert not {"Where", "IsNaN", "Erf", "ReduceMean", "Identity", "Constant"} & set(operators)
    names = [layer.name for layer in linears(model.graph)]
    assert names[:2] == [
        "bert.encoder.layer.0.attention.self.query_key_value",
        "bert.encoder.layer.0.attention.output.dense",
    ]
    # The last layer is computed for the first token, but for its keys and values.
    one_token = [layer.name for layer in linears(model.graph) if list(layer.x.shape)[-2] == 1]
    assert one_token == [
        "bert.encoder.layer.1.attention.self.query",
        "bert.encoder.layer.1.attention.output.dense",
        "bert.encoder.layer.1.intermediate.dense",
        "bert.encoder.layer.1.output.dense",
    ]
    assert [[str(d) for d in v.shape] for v in [*model.graph.inputs, *model.graph.outputs]] == [
        *[["batch", "sequence"]] * 3,
        ["batch", "3"],
    ]


def test_a_build(graphs, folder, module, tiny_samples, tmp_path):
    target = small.target(tmp_path / "exact.toml", methods=("float32", "dynamic"))
    result = small.build(
        edgekit.OnnxModel(file=graphs["torchscript-14"], processor=folder, task="text-classification"),
        samples=tiny_samples.train,
        eval=tiny_samples.dev,
        out=tmp_path / "out",
        target=target,
    )
    manifest = result.bundle.manifest
    assert manifest.reference_score == pytest.approx(tiny_samples.accuracy)
    assert manifest.provenance["model"] == "torchscript-14.onnx"
    assert "ONNX Runtime" in manifest.provenance["reference"]
    assert any("in place of a torch model" in note for note in manifest.notes)
    assert manifest.reason.endswith(f", the ONNX file {tiny_samples.accuracy:.4f}.")
    assert f"the ONNX file float32: accuracy {tiny_samples.accuracy:.4f}" in result.table()
    with edgekit.load(tmp_path / "out") as session:
        expected = small.torch_logits(module, TEXTS).argmax(axis=1)
        assert [session.info.labels.index(answer.label) for answer in session(TEXTS)] == expected.tolist()


def test_tables_of_embeddings_are_read_off_the_graph(graphs, folder):
    source = onnx_file.read(graphs["torchscript-18"], folder)
    assert source.settings.tables == {"input_ids": len(small.vocabulary()), "token_type_ids": 2}


def test_a_graph_without_token_types(graphs, folder, tmp_path):
    def drop(model):
        types = next(v for v in model.graph.inputs if v.name == "token_type_ids")
        ids = next(v for v in model.graph.inputs if v.name == "input_ids")
        zeros = ir.node("Sub", [ids, ids])
        model.graph.insert_before(model.graph[0], zeros)
        ir.convenience.replace_all_uses_with(types, zeros.outputs[0])
        model.graph.inputs.remove(types)

    source = onnx_file.read(changed(graphs, tmp_path, drop), folder)
    assert source.settings.inputs == ("input_ids", "attention_mask")
    assert small.column(source.outputs(source.encode(TEXTS))).shape == (len(TEXTS), 3)


def test_the_digest_is_of_all_files(graphs, folder, tmp_path):
    first = onnx_file.read(graphs["dynamo"], folder).digest
    assert onnx_file.read(graphs["dynamo"], folder).digest == first
    other = shutil.copytree(folder, tmp_path / "folder")
    (other / "note.txt").write_text("x")
    assert onnx_file.read(graphs["dynamo"], other).digest != first
    assert onnx_file.read(graphs["dynamo"], folder, problem_type="multi_label_classification").digest != first
    place = shutil.copytree(graphs["dynamo"].parent, tmp_path / "graphs")
    data = place / "dynamo.onnx.data"
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    assert onnx_file.read(place / "dynamo.onnx", folder).digest != first


# ---- refused: the call


def test_arguments(graphs, folder, tmp_path):
    file = graphs["torchscript-18"]
    assert refusal(tmp_path / "none.onnx", folder) == "model-not-found"
    assert refusal(file, None, UsageError) == "processor-missing"
    assert refusal(file, tmp_path / "none", UsageError) == "processor-not-folder"
    assert refusal(file, object(), UsageError) == "processor-not-folder"
    assert refusal(file, tmp_path) == "model-no-config"
    assert refusal(file, folder, UsageError, outputs="probabilities") == "onnx-outputs-option"
    assert refusal(file, folder, UsageError, aggregation="simple") == "task-option-unknown"


def test_a_task_that_nothing_names(graphs, folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "folder")
    text = (place / "config.json").read_text().replace("BertForSequenceClassification", "BertModel")
    (place / "config.json").write_text(text)
    assert refusal(graphs["torchscript-18"], place, UsageError) == "task-missing"
    assert onnx_file.read(graphs["torchscript-18"], place, "text-classification").task == "text-classification"


def test_a_folder_that_brings_code(graphs, folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "folder")
    (place / "config.json").write_text(
        (place / "config.json").read_text().replace("{", '{"auto_map": {"AutoConfig": "x.Y"},', 1)
    )
    assert refusal(graphs["torchscript-18"], place) == "model-own-code"


@pytest.mark.parametrize("options", [{"distill": [{"layers": 1}]}, {"vocabulary": "samples"}])
def test_students_and_vocabularies_need_a_folder(graphs, folder, tiny_samples, tmp_path, options):
    with pytest.raises(UsageError) as raised:
        small.build(
            graphs["dynamo"], processor=folder, samples=tiny_samples.train, eval=tiny_samples.dev, out=tmp_path / "out", **options
        )  # fmt: skip
    assert raised.value.code == "onnx-needs-folder"


def test_other_verbs_need_a_folder(graphs):
    from edgekit import source

    with pytest.raises(ModelError) as raised:
        source.read(graphs["dynamo"])
    assert raised.value.code == "onnx-needs-folder"


# ---- refused: the file


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x0a", b"\xff" * 100])
def test_what_is_no_onnx(folder, tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    assert refusal(tmp_path / "model.onnx", folder) == "onnx-invalid"


@pytest.mark.parametrize("opset", [10, 21])
def test_opset(graphs, folder, tmp_path, opset):
    file = changed(graphs, tmp_path, lambda model: model.opset_imports.update({"": opset}))
    with pytest.raises(ModelError) as raised:
        onnx_file.read(file, folder)
    assert (raised.value.code, raised.value.fields) == ("onnx-opset", {"opset": opset})


def _after_logits(op, domain=""):
    def change(model):
        logits = model.graph.outputs[0]
        node = ir.node(op, [logits], domain=domain)
        node.outputs[0].type, node.outputs[0].shape = logits.type, logits.shape
        model.graph.append(node)
        model.graph.outputs[0] = node.outputs[0]
        logits.name, node.outputs[0].name = "before", "logits"
        if domain:
            model.opset_imports[domain] = 1

    return change


def test_custom_operators(graphs, folder, tmp_path):
    file = changed(graphs, tmp_path, _after_logits("FastGelu", "com.microsoft"))
    assert refusal(file, folder) == "onnx-custom-operator"


@pytest.mark.parametrize("op", ["DynamicQuantizeLinear", "MatMulNBits"])
def test_quantized_graphs(graphs, folder, tmp_path, op):
    file = changed(graphs, tmp_path, _after_logits(op, "com.microsoft" if op == "MatMulNBits" else ""))
    assert refusal(file, folder) == "onnx-quantized"


def test_probabilities(graphs, folder, tmp_path):
    file = changed(graphs, tmp_path, _after_logits("Softmax"))
    with pytest.raises(ModelError) as raised:
        onnx_file.read(file, folder).check_outputs(TEXTS)
    assert raised.value.code == "model-probabilities"
    onnx_file.read(file, folder, outputs="logits").check_outputs(TEXTS)


def _first_weight(model):
    return next(
        v
        for v in model.graph.initializers.values()
        if v.const_value.dtype == ir.DataType.FLOAT and v.const_value.size > 100
    )


def _set_weight(array_of):
    def change(model):
        value = _first_weight(model)
        value.const_value = ir.tensor(array_of(value.const_value.numpy()), name=value.name)

    return change


def test_weights(graphs, folder, tmp_path):
    assert refusal(changed(graphs, tmp_path, _set_weight(lambda a: a.astype(np.float16))), folder) == "onnx-precision"
    assert refusal(changed(graphs, tmp_path, _set_weight(lambda a: a * np.nan)), folder) == "weights-not-finite"


def _input(name, /, **changes):
    def change(model):
        value = next(v for v in model.graph.inputs if v.name == name)
        for attribute, new in changes.items():
            setattr(value, attribute, new)

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_input("token_type_ids", name="segments"), "onnx-inputs"),
        (_input("attention_mask", name="mask"), "onnx-inputs"),
        (_input("input_ids", dtype=ir.DataType.INT32), "onnx-dtype"),
        (_input("input_ids", shape=ir.Shape(["b", "s", "d"])), "onnx-shape"),
        (_input("input_ids", shape=None), "onnx-shape"),
        (_input("input_ids", shape=ir.Shape([1, "s"])), "onnx-fixed-axis"),
        (_input("input_ids", shape=ir.Shape(["b", 128])), "onnx-fixed-axis"),
    ],
)
def test_inputs(graphs, folder, tmp_path, change, code):
    assert refusal(changed(graphs, tmp_path, change), folder) == code


def _outputs(count, name):
    def change(model):
        logits = model.graph.outputs[0]
        for index in range(1, count):
            node = ir.node("Neg", [logits])
            node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = (
                f"other {index}",
                logits.type,
                logits.shape,
            )
            model.graph.append(node)
            model.graph.outputs.insert(0, node.outputs[0])
        logits.name = name

    return change


def test_outputs(graphs, folder, tmp_path):
    assert refusal(changed(graphs, tmp_path, _outputs(2, "scores")), folder) == "onnx-outputs"
    one = onnx_file.read(changed(graphs, tmp_path, _outputs(1, "scores")), folder)
    rows = one.encode(TEXTS)
    expected = small.column(onnx_file.read(graphs["torchscript-18"], folder).outputs(rows))
    np.testing.assert_array_equal(small.column(one.outputs(rows)), expected)
    two = onnx_file.read(changed(graphs, tmp_path, _outputs(2, "logits")), folder)
    np.testing.assert_array_equal(small.column(two.outputs(rows)), expected)
    model = import_graph(two.onnx_file, two.head.signature(two.settings))
    assert [value.name for value in model.graph.outputs] == ["logits"]


def _output_shape(*axes):
    return lambda model: setattr(model.graph.outputs[0], "shape", ir.Shape(axes) if axes else None)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda model: setattr(model.graph.outputs[0], "dtype", ir.DataType.DOUBLE), "onnx-dtype"),
        (_output_shape("b", "s", 3), "onnx-shape"),
        (_output_shape("b", 5), "onnx-labels"),
        (_output_shape(1, 3), "onnx-fixed-axis"),
    ],
)
def test_shapes_of_outputs(graphs, folder, tmp_path, change, code):
    assert refusal(changed(graphs, tmp_path, change), folder) == code


def test_labels_that_the_graph_does_not_state(graphs, folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "folder")
    import json

    config = json.loads((place / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "a", "1": "b"}, {"a": 0, "b": 1}
    (place / "config.json").write_text(json.dumps(config))
    assert refusal(graphs["torchscript-18"], place) == "onnx-labels"
    source = onnx_file.read(changed(graphs, tmp_path, _output_shape()), place)
    with pytest.raises(ModelError) as raised:
        source.outputs(source.encode(TEXTS))
    assert (raised.value.code, raised.value.fields) == ("onnx-labels", {"outputs": 3, "labels": 2})


# ---- external data


def test_external_data_lies_in_the_folder(graphs, folder, tmp_path):
    place = shutil.copytree(graphs["dynamo"].parent, tmp_path / "graphs")
    data = place / "dynamo.onnx.data"
    assert data.is_file()
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    assert refusal(place / "dynamo.onnx", folder) == "onnx-external-missing"
    data.unlink()
    assert refusal(place / "dynamo.onnx", folder) == "onnx-external-missing"
    (tmp_path / "elsewhere").write_bytes(content)
    data.symlink_to(tmp_path / "elsewhere")
    assert refusal(place / "dynamo.onnx", folder) == "onnx-external-outside"


@pytest.mark.parametrize("location", ["../elsewhere", "/etc/passwd"])
def test_external_data_elsewhere(graphs, folder, tmp_path, location):
    import onnx

    place = tmp_path / "graphs"
    place.mkdir()
    model = onnx.load(graphs["dynamo"], load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (place / "dynamo.onnx").write_bytes(model.SerializeToString())
    shutil.copy(graphs["dynamo"].parent / "dynamo.onnx.data", tmp_path / "elsewhere")
    assert refusal(place / "dynamo.onnx", folder) == "onnx-external-outside"


def test_what_cannot_be_converted(graphs, folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no adapter")

    monkeypatch.setattr("onnxscript.version_converter.convert_version", fail)
    source = onnx_file.read(graphs["torchscript-14"], folder)
    with pytest.raises(ExportError) as raised:
        import_graph(source.onnx_file, source.head.signature(source.settings))
    assert raised.value.code == "onnx-conversion"
