"""The self-test of a bundle: it passes where the bundle was built, and sees a graph that computes something else."""

from __future__ import annotations

import io
import shutil
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit import IntegrityError
from edgekit.bundle.trust import open_bundle
from edgekit.runtime import golden
from edgekit.runtime.golden import TOLERANCE, GoldenResult, check
from edgekit.runtime.session import Session
from edgekit.search import goldens
from edgekit.spec.target import load as load_target


def checked(bundle):
    """As ``edgekit verify`` asks, whatever a load would make of it."""
    opened = open_bundle(bundle)
    with Session(opened, opened.manifest.variants[0]) as session:
        return check(session)


@pytest.fixture
def bundle(float32_ort, tmp_path):
    return small.copy(float32_ort, tmp_path / "copy")


def change(bundle, **arrays):
    with np.load(bundle / "golden.npz") as stored:
        kept = {n: stored[n] for n in stored.files}
    kept.update({n: function(kept[n]) for n, function in arrays.items()})
    np.savez(bundle / "golden.npz", **{n: a for n, a in kept.items() if a is not None})
    small.sign(bundle)


def test_it_passes_where_the_bundle_was_built(tiny_bundle, float32_bundle):
    for folder in (tiny_bundle, float32_bundle):
        result = checked(folder)
        assert result.passed
        assert result.rows >= 8
        assert (result.flips, result.difference) == (0, pytest.approx(0, abs=1e-5))


def test_it_holds_what_torch_says(float32_ort, tiny_module):
    """The outputs are the model's, and the inputs are of several lengths and more than padding."""
    import torch

    with np.load(float32_ort / "golden.npz", allow_pickle=False) as stored:
        lengths, outputs = stored["lengths"], stored["outputs.0"]
        inputs = {n.removeprefix("input."): stored[n].astype(np.int64) for n in stored.files if n.startswith("input.")}
    assert len(set(lengths.tolist())) > 3
    with torch.inference_mode():
        for row, length in enumerate(lengths):
            feeds = {n: torch.tensor(a[row : row + 1, :length]) for n, a in inputs.items()}
            np.testing.assert_allclose(outputs[row], tiny_module(**feeds).logits[0].numpy(), atol=1e-3)


def test_the_inputs_are_as_long_as_their_texts(float32_ort):
    found = golden.read(open_bundle(float32_ort)).rows
    with np.load(float32_ort / "golden.npz", allow_pickle=False) as stored:
        lengths, padded = stored["lengths"], stored["input.input_ids"]
    assert [len(row["input_ids"]) for row in found] == lengths.tolist()
    assert all(set(row) == {"input_ids", "token_type_ids", "attention_mask"} for row in found)
    for row, ids, length in zip(found, padded, lengths, strict=True):
        assert np.array_equal(row["input_ids"], ids[:length])
        assert row["attention_mask"].all(), "nothing that is padding"
        assert not ids[length:].any()
    with edgekit.load(float32_ort) as session, np.load(float32_ort / "golden.npz", allow_pickle=False) as stored:
        np.testing.assert_allclose(small.column(session.run_rows(found)), stored["outputs.0"], atol=1e-5)


def test_rows_are_padded_to_their_bucket_where_there_are_any(float32_openvino, tiny_module):
    """As a session runs them: in buckets and without the outputs are torch's, and a row that is longer than all is not padded."""
    bundle = open_bundle(float32_openvino)
    inputs, made, sizes = golden.read(bundle).rows, [], []
    for shapes in ((), (8, 24)):
        with Session(bundle, replace(bundle.manifest.variants[0], shapes=shapes)) as session:
            real = session._engine.run
            session._engine.run = lambda feeds, real=real: sizes.append(feeds["input_ids"].shape[1]) or real(feeds)
            answers = session.run_rows(inputs)
            content = golden.pack(session._whole, inputs, [answers], answers)
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            made.append({n: stored[n] for n in stored.files})
    lengths = [len(row["input_ids"]) for row in inputs]
    assert max(lengths) > 24 > min(lengths)
    assert sizes == [*lengths, *(next((e for e in (8, 24) if e >= n), n) for n in lengths)]
    for name in ("outputs.0", "reference"):
        assert made[0].pop(name) == pytest.approx(made[1].pop(name), abs=1e-3)
    for name, array in made[0].items():
        assert np.array_equal(array, made[1][name]), "what is stored does not depend on the buckets"


def with_weights(graph, function):
    """Changes the float weights of a graph: ``function(name, array) -> array``."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.ascontiguousarray(function(tensor.name, array.copy())), tensor.name)
            )
    onnx.save(model, graph)


def test_the_same_weights_written_again_pass(bundle):
    with_weights(bundle / "graphs/model.onnx", lambda name, array: array)
    small.sign(bundle)
    assert checked(bundle).passed


def test_another_graph_under_right_digests(bundle):
    """The same architecture with the rows of every matrix turned around."""
    with_weights(bundle / "graphs/model.onnx", lambda name, array: array[::-1] if array.ndim == 2 else array)
    with refused("bundle-file-size"):
        edgekit.load(bundle)
    small.sign(bundle)
    result = checked(bundle)
    assert not result.passed
    assert result.difference > 10 * TOLERANCE
    assert result.flips > 0


def test_a_single_weight_that_changed(bundle):
    changed = []

    def turn(name, array):
        if "classifier" in name and array.ndim == 2:
            array.reshape(-1)[np.abs(array).argmax()] *= -1
            changed.append(name)
        return array

    with_weights(bundle / "graphs/model.onnx", turn)
    assert len(changed) == 1
    small.sign(bundle)
    assert not checked(bundle).passed


@pytest.mark.parametrize(("factor", "passed"), [(0.5, True), (2.0, False)])
def test_the_tolerance_is_a_share_of_the_spread(bundle, factor, passed):
    with np.load(bundle / "golden.npz") as stored:
        spread = np.ptp(stored["outputs.0"])
    assert spread > 1
    row = np.zeros(1)

    def shifted(outputs):
        nonlocal row
        row = outputs.copy()
        row[0, 0] += factor * TOLERANCE * spread
        return row

    change(bundle, **{"outputs.0": shifted})
    result = checked(bundle)
    assert result.passed is passed
    assert result.difference == pytest.approx(factor * TOLERANCE, rel=0.1)


def test_nan_does_not_pass(bundle):
    change(bundle, **{"outputs.0": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 3, np.nan, a)})
    result = checked(bundle)
    assert (result.passed, result.difference) == (False, float("inf"))
    assert not GoldenResult(1, float("nan"), 0).passed


def test_labels_that_changed_are_counted(bundle):
    change(bundle, **{"outputs.0": lambda a: np.concatenate([a[:2, ::-1], a[2:]])})
    with np.load(bundle / "golden.npz") as stored:
        lopsided = stored["outputs.0"][:2].argmax(axis=1) != 1
    assert checked(bundle).flips == lopsided.sum()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"not a zip", b"\x93NUMPY", b"PK\x03\x04" + b"\0" * 100],
    ids=["empty", "pk", "text", "npy", "zip"],
)
def test_a_file_that_cannot_be_read(bundle, content):
    (bundle / "golden.npz").write_bytes(content)
    small.sign(bundle)
    with refused("bundle-assets", "golden.npz"):
        checked(bundle)


@pytest.mark.parametrize("name", ["lengths", "outputs.0"])
def test_an_array_that_is_missing(bundle, name):
    change(bundle, **{name: lambda a: None})
    with pytest.raises(IntegrityError, match=name):
        checked(bundle)


def test_a_pickle_is_not_opened(bundle, tmp_path):
    """An object array would be one; reading it must neither run it nor crash."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    change(bundle, **{"outputs.0": lambda a: np.array([Bomb()], dtype=object)})
    with refused("bundle-assets"):
        checked(bundle)
    assert not (tmp_path / "ran").exists()


def test_a_bundle_without_its_golden_file(bundle):
    (bundle / "golden.npz").unlink()
    small.sign(bundle)
    with refused("bundle-file-missing", "golden.npz"):
        checked(bundle)


def test_the_same_rows_give_the_same_bytes(float32_ort):
    with edgekit.load(float32_ort) as session:
        rows = [t.arrays for t in session._task.preprocess(["a film", "the song was very loud and long"])]
        one, two = (golden.pack(session._whole, rows, [answers := session.run_rows(rows)], answers) for _ in range(2))
    assert one == two
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


# ---- what a build puts into it


def test_one_input_is_as_long_as_the_model_takes(float32_ort):
    stored = golden.read(open_bundle(float32_ort))
    lengths = [len(row["input_ids"]) for row in stored.rows]
    assert lengths.count(small.MAX_LENGTH) >= 1
    assert lengths[-1] == small.MAX_LENGTH
    assert len(set(stored.rows[-1]["input_ids"].tolist())) > 8, "text, not padding"
    assert 10 <= len(lengths) <= 17
    assert all(a.dtype == np.int64 for row in stored.rows for a in row.values())
    with np.load(float32_ort / "golden.npz") as arrays:
        assert {str(arrays[f"input.{name}"].dtype) for name in stored.rows[0]} <= {"uint8", "uint16"}, (
            "as few bytes as they need"
        )


def test_the_float32_answers_are_torch_s(tiny_bundle, float32_ort, tiny_module):
    """Whatever the variants' own method is; some are so clear that what INT8 costs cannot change their label."""
    import torch

    for folder in (tiny_bundle, float32_ort):
        stored = golden.read(open_bundle(folder))
        with torch.inference_mode():
            right = [
                tiny_module(**{n: torch.tensor(a[None]) for n, a in row.items()}).logits[0].numpy()
                for row in stored.rows
            ]
        np.testing.assert_allclose(small.column(stored.reference), right, atol=1e-3)
    with edgekit.load(tiny_bundle) as session:
        stored = golden.read(open_bundle(tiny_bundle))
        result = golden.compare(stored, 0, stored.outputs[0], session._task, True)
        built, exact = small.column(stored.outputs[0]), small.column(stored.reference)
        distance = np.abs(built - exact).max()
        assert result.distance == pytest.approx(distance / max(1, np.ptp(built)))
        top = np.sort(exact, axis=1)
        clear = (top[:, -1] - top[:, -2]) / 2 > distance
        assert clear.sum() == result.decisive > 0
        assert golden.compare(stored, 0, stored.outputs[0], session._task, False).distance is None


def test_answers_that_are_not_finite_are_not_stored(bundle):
    """A bundle that could never be verified is not written."""
    opened, exact = open_bundle(bundle), bundle.parent / "float32.onnx"
    (name,) = opened.manifest.variants[0].graphs.values()
    shutil.copyfile(bundle / name, exact)
    aim = load_target(str(small.target(bundle.parent / "aim.toml")))
    floats = SimpleNamespace(
        graphs=[SimpleNamespace(method="float32", path=exact, signature=opened.manifest.signatures[0])]
    )
    stored = goldens.make(opened.manifest.variants, {name: exact}, opened, floats, aim, bundle.parent)
    assert stored == (bundle / "golden.npz").read_bytes()
    with_weights(bundle / name, lambda tensor, array: np.full_like(array, np.nan) if "classifier" in tensor else array)
    with refused("graph-not-finite", "float32", "64"):
        goldens.make(opened.manifest.variants, {name: bundle / name}, opened, floats, aim, bundle.parent)


# ---- what does not go with the manifest


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("lengths", lambda a: a[:-1], "expected integers"),
        ("lengths", lambda a: a * 0, "each at least 1"),
        ("lengths", lambda a: a + 10**12, "expected integers"),
        ("lengths", lambda a: a.astype(np.int32), "its lengths are int32"),
        ("input.input_ids", lambda a: a[:, :-1], "expected integers"),
        ("input.input_ids", lambda a: a.astype(np.float32), "expected integers"),
        ("input.input_ids", lambda a: a[0], "expected integers"),
        ("outputs.0", lambda a: a[:-1], "expected float32"),
        ("outputs.0", lambda a: a.astype(np.float64), "expected float32"),
        ("outputs.0", lambda a: a[:, :0], "expected float32"),
        ("reference", lambda a: a[:, :-1], "expected float32"),
        ("input.attention_mask", lambda a: None, "input.attention_mask"),
        ("lengths", lambda a: None, "lengths"),
    ],
)
def test_arrays_that_do_not_fit(bundle, name, function, said):
    change(bundle, **{name: function})
    with refused("bundle-assets", f"{said}", "golden.npz"):
        checked(bundle)


def test_an_array_that_nobody_knows(bundle):
    with np.load(bundle / "golden.npz") as stored:
        np.savez(bundle / "golden.npz", **stored, more=np.zeros(3))
    small.sign(bundle)
    with refused("bundle-assets"):
        checked(bundle)


def test_a_compressed_file(bundle):
    with np.load(bundle / "golden.npz") as stored:
        np.savez_compressed(bundle / "golden.npz", **stored)
    small.sign(bundle)
    with refused("bundle-assets"):
        checked(bundle)


def test_a_file_that_changed_after_the_bundle_was_opened(bundle):
    opened = open_bundle(bundle)
    change(bundle, **{"outputs.0": lambda a: a + 1})
    with refused("bundle-file-altered", "golden.npz"):
        golden.read(opened)


# ---- words


def test_a_cpu_with_sme_is_named(monkeypatch):
    apart, far = GoldenResult(17, 0.2, 5, 0.12, 0.13, 9, 0), GoldenResult(17, 0.8, 9, 0.12, 0.9, 9, 6)
    assert (apart.passed, far.passed) == (True, False)
    assert "SME" not in apart.text() + far.problem()
    monkeypatch.setattr(golden, "cpu_instructions", lambda: ("asimd", "sme"))
    assert "This CPU has SME: dynamic INT8 uses one activation range per row here" in apart.text()
    assert "This CPU has SME" in far.problem()
    assert "SME" not in GoldenResult(17, 0.01, 0, 0.12, 0.13, 9, 0).text(), "nothing to explain"
