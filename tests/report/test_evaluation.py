"""A score that is not defined: because of the rows, or because a model gives NaN."""

from __future__ import annotations

import numpy as np
import pytest
from heads import MULTI, REGRESSION, SINGLE, evaluation, rows, task
from refusals import refused

TRUTH = {
    SINGLE: [0, 1, 1],
    MULTI: [[True, False], [False, True], [True, True]],
    REGRESSION: [[1.0, 2.0], [2.0, 1.0], [3.0, 5.0]],
}


@pytest.mark.parametrize("kind", TRUTH)
def test_a_score_of_nan_outputs_is_said_to_be_of_those(kind):
    given = evaluation(task(kind, ("a", "b")), np.array(TRUTH[kind]))
    outputs = np.array([[1.0, 2.0], [0.5, 0.25], [3.0, 1.0]])
    assert np.isfinite(given.score(rows(outputs)))
    outputs[1, 0] = np.nan
    with refused("outputs-not-finite", "1", "3"):
        given.score(rows(outputs))


def test_a_score_that_the_rows_do_not_define_is_said_to_be_that():
    given = evaluation(task(REGRESSION, ("a",)), np.array([[1.0], [1.0], [1.0]]))
    with refused("metric-undefined"):
        given.score(rows(np.array([[1.0], [2.0], [3.0]])))
