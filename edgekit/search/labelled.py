"""Labelled rows of a build: their truth, what the torch model answers to them, and whether that is better than chance."""

from __future__ import annotations

from edgekit.report import reference as references
from edgekit.samples import Samples
from edgekit.samples.evaluation import Evaluation
from edgekit.search import checks
from edgekit.search.context import EvaluationSet
from edgekit.search.kept import StepCache
from edgekit.search.outputs import reference_outputs
from edgekit.source import Source
from edgekit.spec.manifest import ReferenceCheck
from edgekit.spec.protocols import Task

__all__ = ["answer_with_torch", "check_reference", "read_labels"]


def read_labels(task: Task, samples: Samples) -> Evaluation:
    """The rows of a file with their truth.

    Raises:
        SamplesError: for a row without a label, one that the model does not know, or labels that are all the same.
    """
    rows = samples.evaluation(task)
    checks.check_labels(task, rows.truth, samples.where)
    return rows


def answer_with_torch(cache: StepCache, model: Source, samples: Samples, rows: Evaluation) -> EvaluationSet:
    """Labelled rows with what the torch model answers to them."""
    return EvaluationSet(samples, rows, reference_outputs(cache, model, samples))


def check_reference(evaluation: EvaluationSet, accept: bool) -> ReferenceCheck | None:
    """Stops a build whose reference is no better than chance, unless that is accepted; None where no chance is known.

    Raises:
        ReferenceDoubtError: with labels and answers side by side.
    """
    question = references.question(evaluation.rows, evaluation.reference, evaluation.samples.where, "the torch model")
    return None if question is None else references.hold(question, accept)
