"""A bundle on LiteRT, from its file to its answers: what holds of bundles holds of it."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit import backends
from edgekit.backends import litert
from edgekit.bundle import exported, trust
from edgekit.bundle.trust import open_bundle

pytestmark = pytest.mark.device

ANSWERS = json.loads((small.ROOT / "tests" / "data" / "answers.json").read_text("utf-8"))


@pytest.fixture
def bundle(litert_bundle, tmp_path):
    return small.copy(litert_bundle, tmp_path / "bundle")


def scores(answers):
    return np.array([list(answer.scores.values()) for answer in answers])


def test_answers_are_those_of_torch_but_for_rounding(litert_bundle):
    logits = np.array(ANSWERS["logits"])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with edgekit.load(litert_bundle) as session:
        answers = session(ANSWERS["texts"])
        info = session.info
    assert (info.backend, info.method, info.executed) == ("litert", "dynamic_rows", "int8 9/11 linears")
    assert np.abs(scores(answers) - expected).max() < 0.1
    best = np.sort(expected, axis=1)
    for answer, row, margin in zip(answers, logits, best[:, -1] - best[:, -2], strict=True):
        assert answer.label == small.LABELS[row.argmax()] or margin < 0.1


def test_what_ran_is_what_the_build_recorded(litert_bundle):
    opened = open_bundle(litert_bundle)
    (variant,) = opened.manifest.variants
    engine = litert.open_device("cpu", 1).load(opened.graph(variant.graphs["forward"]), opened.manifest.signatures[0])
    assert backends.summary(engine.precisions()) == variant.executed
    assert "interpreted" not in engine.precisions(), "XNNPACK took every linear layer"


def test_the_bundle_has_the_metadata_of_its_graph(litert_bundle):
    manifest = open_bundle(litert_bundle).manifest
    files = {name: litert_bundle / name for name in manifest.files}
    ((name, content),) = exported.metadata(manifest, files).items()
    assert (litert_bundle / name).read_bytes() == content
    about = json.loads(content)
    assert about["graph"]["sha256"] == manifest.files["graphs/model.tflite"].sha256
    assert [spec["shape"] for spec in about["graph"]["inputs"]] == [[1, -1]] * 3, "one row a call, of any length"


def test_a_text_is_answered_alike_in_lists_and_by_any_number_of_threads(litert_bundle):
    texts = ANSWERS["texts"][:12]
    with edgekit.load(litert_bundle, threads=1) as session:
        expected = scores([session(text) for text in texts])
        np.testing.assert_array_equal(scores(session(texts)), expected)
        np.testing.assert_array_equal(scores(session(texts[::-1]))[::-1], expected)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            np.testing.assert_array_equal(scores(pool.map(session, texts)), expected)
    with edgekit.load(litert_bundle, threads=3) as session:
        np.testing.assert_array_equal(scores(session(texts)), expected)


def test_the_interpreter_brings_numpy_alone(litert_bundle):
    code = "import sys, edgekit\nwith edgekit.load(sys.argv[1]) as s: s('a fine film')\n"
    code += "print([n for n in ('torch', 'onnx', 'flatbuffers', 'google', 'tqdm', 'ml_dtypes') if n in sys.modules])"
    done = small.python(code, litert_bundle, timeout=240)
    assert (done.returncode, done.stdout.strip()) == (0, b"[]"), done.stderr.decode()


def test_a_graph_that_changes_while_it_is_loaded(bundle, monkeypatch):
    """The backend maps the file: what it mapped must be what was hashed."""
    file = bundle / "graphs" / "model.tflite"
    other = bundle.parent / "other.tflite"
    shutil.copyfile(file, other)
    taken = litert.LiteRtDevice.open

    def swap(self, model, name, **options):
        assert model == file, "mapped, not read"
        os.replace(other, file)
        return taken(self, model, name, **options)

    monkeypatch.setattr(litert.LiteRtDevice, "open", swap)
    with refused("bundle-changed"):
        edgekit.load(bundle)


@pytest.mark.parametrize("change", [lambda data: data[:-100], lambda data: data[:9000] + b"\xff" + data[9001:]])
def test_an_altered_graph_never_reaches_the_backend(bundle, monkeypatch, change):
    monkeypatch.setattr(litert, "open_device", None)
    file = bundle / "graphs" / "model.tflite"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(edgekit.IntegrityError):
        edgekit.load(bundle)


def test_a_graph_that_the_memory_does_not_hold(bundle, monkeypatch):
    monkeypatch.setattr(trust, "_ALWAYS_FITS", 0)
    monkeypatch.setattr(trust, "memory_limit", lambda: 1000)
    with refused("bundle-exceeds-memory"):
        edgekit.load(bundle)


def test_packed_and_unpacked(bundle, litert_bundle, tmp_path):
    edgekit.pack(bundle, tmp_path / "one.edge")
    edgekit.unpack(tmp_path / "one.edge", tmp_path / "again")
    assert open_bundle(tmp_path / "again").manifest == open_bundle(litert_bundle).manifest


def test_where_litert_is_not_installed(bundle, monkeypatch):
    monkeypatch.setattr(litert, "_library", lambda: (_ for _ in ()).throw(backends.not_installed_error("litert")))
    with refused("backend-not-installed", "edgekit-sdk[litert]"):
        edgekit.load(bundle)
    with refused("backend-not-in-bundle"):
        edgekit.load(bundle, backend="onnxruntime")


def test_the_command_line_prints_the_answer_and_nothing_else(litert_bundle):
    pytest.importorskip("click", reason="the command line is not installed here")
    with edgekit.load(litert_bundle) as session:
        label = session("a fine film").label
    done = small.edgekit("run", "-q", litert_bundle, "a fine film", timeout=240)
    assert json.loads(done.stdout)["label"] == label
    assert done.stderr == b""
