"""Golden inputs of large rows stay a small part of a bundle; a row that is not finite keeps what says where its values belong."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.search import goldens, measure


@pytest.mark.parametrize(("pixels", "rows"), [(64, 85), (224, 6), (384, 2), (1024, 2)])
def test_golden_rows_of_images_take_some_4_mb(pixels, rows):
    image = {"pixel_values": np.zeros((3, pixels, pixels), np.float32)}
    assert goldens._most_rows([image] * 100) == rows


def test_golden_rows_of_texts_are_all_kept():
    longest = {name: np.zeros(512, np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert goldens._most_rows([longest] * 17) > 17


def test_a_row_that_is_not_finite_is_answered_by_zeros_where_it_was():
    row = {
        "logits": np.array([[np.nan, 1.0], [2.0, np.inf]], np.float32),
        "words": np.array([0, 1]),
        "windows": np.array([2]),
    }
    answered = measure._zero_floats(row)
    assert not answered["logits"].any() and answered["logits"].shape == (2, 2)
    assert [answered[name].tolist() for name in ("words", "windows")] == [[0, 1], [2]]
