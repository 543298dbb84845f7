"""Feeds of a caller's own: what does not fit the graphs is refused with the input and what was expected."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import refused

from edgekit.runtime._feeds import sizes_of
from edgekit.spec.tensor import Signature, TensorSpec

pytestmark = pytest.mark.device
SIGNATURE = Signature(
    "forward",
    (
        TensorSpec("ids", "int64", ("batch", "sequence"), pad=0),
        TensorSpec("boxes", "float32", ("batch", "sequence", 4), pad=0),
    ),
    (),
)


def feeds(**changed):
    good = {"ids": np.ones((2, 5), np.int64), "boxes": np.ones((2, 5, 4), np.float32)}
    return {name: array for name, array in {**good, **changed}.items() if array is not None}


def test_sizes():
    assert sizes_of(feeds(), SIGNATURE, limit=5) == {"batch": 2, "sequence": 5}


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"other": np.ones(1)}, "input-unknown", ("other", "ids, boxes")),
        ({"boxes": None}, "input-missing", ("boxes", "float32 [batch, sequence, 4]")),
        ({"ids": [[1]]}, "input-type", ("ids", "list")),
        ({"ids": np.ones((2, 5))}, "input-shape", ("ids", "float64 [2, 5]")),
        ({"ids": np.ones((2, 0), np.int64)}, "input-shape", ("ids", "[2, 0]")),
        ({"boxes": np.ones((2, 5, 3), np.float32)}, "input-sizes-differ", ("boxes", "size 3 along axis 2", "4]")),
        ({"boxes": np.ones((2, 6, 4), np.float32)}, "input-sizes-differ", ("boxes", "size 6 along 'sequence'", "5")),
        ({"boxes": np.ones((1, 5, 4), np.float32)}, "input-sizes-differ", ("boxes", "size 1 along 'batch'", "2")),
    ],
)
def test_what_does_not_fit_is_refused(changed, code, words):
    with refused(code, *words):
        sizes_of(feeds(**changed), SIGNATURE, limit=5)


def test_the_limit_of_the_model():
    with refused("input-too-long", "size 5 along 'sequence'", "4"):
        sizes_of(feeds(), SIGNATURE, limit=4)
