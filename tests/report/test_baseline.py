"""What a teacher's outputs lack beside those of a bundle."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from edgekit.report.baseline import add_row_arrays
from edgekit.spec.protocols import Encoded
from edgekit.spec.tensor import Signature, TensorSpec


def side(*taken):
    """A bundle whose rows are an array of letters and where each begins, and whose graph takes some of these."""

    def preprocess(inputs):
        return [
            Encoded({"letters": np.frombuffer(value.encode(), np.uint8), "starts": np.arange(len(value))})
            for value in inputs
        ]

    signature = Signature("forward", tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in taken), ())
    return SimpleNamespace(
        task=SimpleNamespace(preprocess=preprocess),
        bundle=SimpleNamespace(manifest=SimpleNamespace(signatures=[signature])),
    )


def test_what_no_graph_takes_comes_back_with_the_outputs():
    outputs = [{"logits": np.ones(2)}, {"logits": np.zeros(3)}]
    found = add_row_arrays(side("letters"), ["ab", "cde"], outputs)
    assert [{name: array.tolist() for name, array in row.items()} for row in found] == [
        {"starts": [0, 1], "logits": [1.0, 1.0]},
        {"starts": [0, 1, 2], "logits": [0.0, 0.0, 0.0]},
    ]
    told = [{"starts": np.array([7]), **row} for row in outputs]
    assert [row["starts"].tolist() for row in add_row_arrays(side("letters"), ["ab", "cde"], told)] == [[7], [7]], (
        "what the teacher says counts"
    )


def test_where_graphs_take_everything_outputs_stay_as_they_are():
    outputs = [{"logits": np.ones(2)}]
    assert add_row_arrays(side("letters", "starts"), ["ab"], outputs) == outputs
    assert add_row_arrays(side("letters"), [], []) == []
