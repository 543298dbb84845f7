"""Text classification without a tokenizer, and rows of outputs made of one array: what tests of the statistics are about."""

from __future__ import annotations

from edgekit.samples.evaluation import Evaluation
from edgekit.tasks.text_classification import Settings, bind

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
KINDS = [SINGLE, MULTI, REGRESSION]
NAMES = ("bad", "so-so", "good")


def task(kind, names=NAMES):
    """A head with these labels, or with so many."""
    names = tuple(f"L{i}" for i in range(names)) if isinstance(names, int) else tuple(names)
    return bind(Settings(kind, names, 8, ("input_ids",)), None)


def rows(array):
    """An array ``[rows, labels]`` as rows of named arrays."""
    return [{"logits": row} for row in array]


def evaluation(head, truth, keys=None, inputs=None):
    """Labelled rows, every one an input of its own unless ``keys`` say otherwise."""
    keys = list(range(len(truth))) if keys is None else list(keys)
    return Evaluation(head, [f"input {key}" for key in keys] if inputs is None else inputs, truth, keys)


def score(head, outputs, truth):
    """The head's score of an array of outputs."""
    return evaluation(head, truth).score(rows(outputs))
