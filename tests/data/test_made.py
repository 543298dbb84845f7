"""The committed bundles and samples are what ``make.py`` writes today."""

from __future__ import annotations

import json
from pathlib import Path

import make
import numpy as np
import pytest

import edgekit

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def anew(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anew")
    make.make(folder / "parts", tmp_path_factory.mktemp("model") / "tiny-bert")
    return folder / "parts"


def manifest(bundle):
    return json.loads((bundle / "manifest.json").read_text("utf-8"))


def test_samples(anew):
    for name in ("train.jsonl", "dev.jsonl"):
        assert (HERE / "samples" / name).read_bytes() == (anew / "samples" / name).read_bytes()


def test_answers(anew):
    committed, made = (json.loads((folder / "answers.json").read_text("utf-8")) for folder in (HERE, anew))
    assert committed["texts"] == made["texts"]
    np.testing.assert_allclose(committed["logits"], made["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "int8", "jetson", "litert"])
def test_manifest(anew, name):
    committed, made = manifest(HERE / "bundles" / name), manifest(anew / "bundles" / name)
    for part in ("format", "loop", "task", "max_batch"):
        assert committed[part] == made[part]
    # What is measured, and so what is chosen, differs from run to run; the fields do not.
    assert sorted(committed) == sorted(made)
    assert sorted(committed["provenance"]) == sorted(made["provenance"])
    for part in ("trials", "variants"):
        assert sorted(committed[part][0]) == sorted(made[part][0]), part


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_answers_of_a_bundle(anew, name):
    texts = json.loads((HERE / "answers.json").read_text("utf-8"))["texts"]
    scores = []
    for folder in (HERE, anew):
        with edgekit.load(folder / "bundles" / name, threads=1) as session:
            scores.append([list(answer.scores.values()) for answer in session(texts)])
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)


def test_assets(anew):
    for name in ("task.json", "tokenizer.json"):
        assert (HERE / "bundles/int8/assets" / name).read_bytes() == (anew / "bundles/int8/assets" / name).read_bytes()
