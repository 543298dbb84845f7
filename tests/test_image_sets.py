"""Sets of many images: few are decoded at a time, whatever is asked of all of them."""

from __future__ import annotations

import contextlib
import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from edgekit import samples
from edgekit.modalities.image import UNBOUND, ImageModality
from edgekit.modalities.pixels import Pixels
from edgekit.report import side
from edgekit.runtime.loops import single
from edgekit.search import checks, models, stand_in
from edgekit.search.context import EvaluationSet
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.tensor import Signature, TensorSpec
from edgekit.tasks.image_classification import Settings, bind

ROWS, FEW = 300, 64
TASK = bind(Settings("single_label_classification", ("cat", "dog"), Pixels(4, 4, resize=(4, 4))))


@pytest.fixture
def table(tmp_path):
    for place in range(ROWS):
        Image.new("RGB", (4, 4), (place % 256, place // 256, 0)).save(tmp_path / f"{place}.png")
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(
            json.dumps({"image": f"{place}.png", "label": ("cat", "dog")[place % 2]}) + "\n" for place in range(ROWS)
        )
    )
    return file


@pytest.fixture
def decoded(monkeypatch):
    """How many encoded images there were, and how many at the same time at most."""
    count = SimpleNamespace(all=0, alive=0, most=0)

    def gone():
        count.alive -= 1

    def encode(modality, values, real=ImageModality.encode):
        for value in values:
            (array,) = real(modality, [value])
            weakref.finalize(array, gone)
            count.all, count.alive = count.all + 1, count.alive + 1
            count.most = max(count.most, count.alive)
            yield array

    monkeypatch.setattr(ImageModality, "encode", lambda *given: list(encode(*given)))
    return count


def test_the_rows_of_a_report_are_measured_few_at_a_time(table, decoded):
    rows = side.load_eval_rows(TASK, table, None, ())
    assert (len(rows), set(rows.sizes), rows.truncated) == (ROWS, {1}, 0)
    assert decoded.all == ROWS and decoded.most <= FEW


def test_rows_that_are_cut_are_counted_few_at_a_time(table, decoded):
    assert checks.cut_notes(TASK, {"evaluation": samples.read(table, modality=UNBOUND)}) == ()
    assert decoded.all == ROWS and decoded.most <= FEW


SIGNATURE = Signature(
    "forward",
    (TensorSpec("pixel_values", "float32", ("batch", 3, 4, 4)),),
    (TensorSpec("logits", "float32", ("batch", 2)),),
)
GRAPHS = GraphSet("image-classification", "single", (Graph(SIGNATURE, Path("model.onnx"), "float32"),), Path("assets"))


@pytest.fixture
def building(table, monkeypatch):
    """A build as far as these steps look at it, whose graphs and torch model answer with the first two values of an image."""
    rows = samples.read(table, modality=UNBOUND)

    def answers(images, *_, **__):
        return [{"logits": image["pixel_values"][0, 0, :2].copy()} for image in images]

    @contextlib.contextmanager
    def opened(*_, **__):
        yield SimpleNamespace(run=answers, record=lambda images: {"forward": [single.collate(SIGNATURE, images)]})

    monkeypatch.setattr(stand_in, "open_graphs", opened)
    monkeypatch.setattr(stand_in, "accuracy_backend", lambda *_: ("onnxruntime", "cpu"))
    monkeypatch.setattr(models, "export_model", lambda *_: GRAPHS)
    monkeypatch.setattr(models, "_manifest_template", lambda *_: None)
    monkeypatch.setattr(models.tasks, "get", lambda name: SimpleNamespace(load=lambda assets: TASK))
    monkeypatch.setattr(models.quantize, "linear_macs", lambda graphs: 0)
    evaluation = EvaluationSet(rows, rows.evaluation(TASK), [])
    progress, told = lambda *step: told.append(step), []
    cache = SimpleNamespace(scratch=None, progress=progress, values=lambda name, parts, kind, make: make())
    target = SimpleNamespace(backends=(), threads=1, methods=("float16",), engine=None)
    context = SimpleNamespace(evaluation=evaluation, calibration=rows.take(4, 0), target=target, cache=cache)
    model = SimpleNamespace(
        digest="", release=lambda: None, encode=lambda images: [row.arrays for row in TASK.preprocess(images)]
    )
    model.outputs = lambda images, tell: tell("torch reference", len(images), len(images)) or answers(images)
    return SimpleNamespace(context=context, rows=rows, model=model, told=told)


def test_graphs_answer_few_images_at_a_time(building, decoded):
    found = stand_in.run_graph(building.context, GRAPHS)
    assert [row["logits"][0] for row in found.rows] == [place % 256 for place in range(ROWS)]
    assert building.told[-1][1:] == (ROWS, ROWS)
    assert decoded.all == ROWS and decoded.most <= FEW


def test_torch_answers_as_many_images_at_a_time_as_fit(building, decoded, monkeypatch):
    monkeypatch.setattr(stand_in, "_TOGETHER_MB", 40 * 192 / 2**20)
    found = stand_in.reference_outputs(building.context.cache, building.model, building.rows)
    assert [row["logits"][0] for row in found] == [place % 256 for place in range(ROWS)]
    assert [done for _, done, total in building.told] == [64, 128, 192, 256, ROWS]
    assert decoded.all == ROWS and decoded.most <= 2 * FEW


def test_rows_that_no_type_may_overflow_on_are_made_few_at_a_time(building, decoded, monkeypatch):
    monkeypatch.setattr(stand_in, "open_graphs", None)  # feeds of one graph are made of rows alone
    calibration = models.prepare_model(building.context, "", building.model).calibration
    assert decoded.most <= FEW
    for _ in range(2):
        values = [value for feed in calibration.guard() for value in feed["pixel_values"][:, 0, 0, 0].tolist()]
        assert values[:ROWS] == [place % 256 for place in range(ROWS)]
    digest, calibration.guard = calibration.guard_digest, None
    assert calibration.guard_digest == digest, "what was made of the rows is kept"
    assert not [*calibration.unguarded().guard()], "layers are ranked by the calibration rows alone"
    assert decoded.most <= FEW and np.isfinite(values).all()
