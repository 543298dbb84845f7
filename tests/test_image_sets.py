"""Sets of many images: few are decoded at a time, whatever is asked of all of them."""

from __future__ import annotations

import json
import weakref
from types import SimpleNamespace

import pytest

pytest.importorskip("PIL")
from PIL import Image

from edgekit import samples
from edgekit.modalities.image import UNBOUND, ImageModality
from edgekit.modalities.pixels import Pixels
from edgekit.report import side
from edgekit.search import checks
from edgekit.tasks.image_classification import Settings, bound

ROWS, FEW = 300, 64
TASK = bound(Settings("single_label_classification", ("cat", "dog"), Pixels(4, 4, resize=(4, 4))))


@pytest.fixture
def table(tmp_path):
    for place in range(ROWS):
        Image.new("RGB", (4, 4), (place % 256, place // 256, 0)).save(tmp_path / f"{place}.png")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"image": f"{place}.png", "label": ("cat", "dog")[place % 2]}) + "\n" for place in range(ROWS)))
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
    rows = side.rows(TASK, table, None, ())
    assert (len(rows), set(rows.sizes), rows.truncated) == (ROWS, {1}, 0)
    assert decoded.all == ROWS and decoded.most <= FEW


def test_rows_that_are_cut_are_counted_few_at_a_time(table, decoded):
    assert checks.cut_notes(TASK, {"evaluation": samples.read(table, modality=UNBOUND)}) == ()
    assert decoded.all == ROWS and decoded.most <= FEW
