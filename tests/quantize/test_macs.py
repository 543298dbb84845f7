"""Operations of one token, as the roofline counts them."""

from __future__ import annotations

import pytest
import raw
import tiny

from edgekit.quantize import linear_macs

LAYER = 4 * 32 * 32 + 2 * 32 * 64
KEYS_AND_VALUES = 2 * 32 * 32


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("bert", 0),
        ("electra", 16 * 32),  # a projection of the embeddings
        ("deberta-v2", 0),  # relative positions are as many for a row of any length
        ("modernbert", LAYER + 2 * 32 * 64),  # three layers, whose gated network is half as large again
    ],
)
def test_a_last_layer_of_one_token_costs_its_keys_and_values(name, outside):
    assert linear_macs(tiny.exported(name)) == LAYER + KEYS_AND_VALUES + outside


def test_rows_of_one_size():
    """A ViT's rows have 17 tokens, and its output has all of them."""
    assert linear_macs(raw.exported("vit")) == 2 * LAYER
