"""The metadata of exported graphs: with it alone, Google's interpreter answers as torch does, without EdgeKit."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import small

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed here")
pytest.importorskip("flatbuffers", reason="flatbuffers, with which graphs are written, is not installed here")

from ai_edge_litert.interpreter import Interpreter
from tokenizers import Tokenizer

from edgekit.bundle import exported
from edgekit.bundle.trust import open_bundle
from edgekit.quantize import litert as writer
from edgekit.spec.digests import files_below
from edgekit.spec.manifest import Manifest, Variant

BUNDLE = small.ROOT / "tests" / "data" / "bundles" / "onnxruntime"


@pytest.fixture
def folder(tmp_path):
    """Graph, assets and metadata, as a bundle has them, and nothing else."""
    manifest = open_bundle(BUNDLE).manifest
    place = small.copy(BUNDLE, tmp_path / "bundle")
    writer.write(place / "graphs/model.onnx", manifest.signatures[0], place / "graphs/model.tflite")
    for name in ("graphs/model.onnx", "golden.npz", "manifest.json", "race.json"):
        (place / name).unlink()
    files = {name: place / name for name in files_below(place)}
    variant = Variant("litert", "float32", {"forward": "graphs/model.tflite"}, "cpu", 1, "float32")
    data = {**vars(manifest), "variants": (variant, variant)}
    (entry,) = exported.metadata(Manifest(**data), files).items()
    assert entry[0] == "graphs/model.json"
    (place / entry[0]).write_bytes(entry[1])
    return place


def test_a_bundle_of_onnx_graphs_has_none():
    assert exported.metadata(open_bundle(BUNDLE).manifest, {}) == {}


def test_answers_without_edgekit(folder):
    """What the page on Android says, step by step."""
    about = json.loads((folder / "graphs/model.json").read_text("utf-8"))
    assert about["format"] == exported.FORMAT
    graph = folder / "graphs" / about["graph"]["file"]
    content = graph.read_bytes()
    assert (about["graph"]["sha256"], about["graph"]["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
    for name, digest in about["files"].items():
        assert hashlib.sha256((folder / "graphs" / name).read_bytes()).hexdigest() == digest
    assert "../assets/tokenizer.json" in about["files"]
    assert about["settings"]["labels"] == list(small.LABELS)
    tokenizer = Tokenizer.from_file(str(folder / "assets/tokenizer.json"))
    tokenizer.enable_truncation(about["settings"]["max_length"])
    interpreter = Interpreter(model_path=str(graph))
    run = interpreter.get_signature_runner(about["graph"]["signature"])
    expected = json.loads((small.ROOT / "tests/data/answers.json").read_text())
    (output,) = about["graph"]["outputs"]
    assert (output["dtype"], output["shape"]) == ("float32", [-1, 3])
    for text, logits in zip(expected["texts"], expected["logits"], strict=True):
        encoded = tokenizer.encode(text)
        values = {
            "input_ids": encoded.ids,
            "token_type_ids": encoded.type_ids,
            "attention_mask": encoded.attention_mask,
        }
        feeds = {}
        for spec in about["graph"]["inputs"]:
            assert (spec["shape"], spec["pad"]) == ([-1, -1], 0)
            feeds[spec["name"]] = np.array([values[spec["name"]]], spec["dtype"])
        np.testing.assert_allclose(run(**feeds)[output["name"]][0], logits, atol=2e-4)
