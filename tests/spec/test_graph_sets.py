"""Graph sets of several graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.tensor import Signature

pytestmark = pytest.mark.device


def test_the_recipe_of_several_graphs_names_each_layer_once():
    recipes = {
        "encode": {"ranges": "mse", "keep_float": "l0, l1"},
        "step": {"ranges": "min_max", "keep_float": "l0, l1, l2"},
    }
    graphs = tuple(Graph(Signature(name, (), ()), Path(name), "static", recipe) for name, recipe in recipes.items())
    assert GraphSet("toy", "toy", graphs, Path()).recipe == {"ranges": "mse, min_max", "keep_float": "l0, l1, l2"}
