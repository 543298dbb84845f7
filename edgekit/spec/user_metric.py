"""A metric of the user: a function of predictions and truths, scored, compared and gated as a task's own metric is.

A function is called once for each score. Statistics need many scores: the interval repeats rows of a resample as often
as they were drawn, and the randomization test exchanges the rows of two models. A comparison makes about 4,000 calls.
A slow function therefore makes a slow build or check; a :class:`~edgekit.spec.metric.Metric`, whose ``score`` takes all
resamples at once, does not.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from edgekit.spec.errors import UsageError
from edgekit.spec.metric import Evidence, Metric
from edgekit.spec.protocols import Arrays, HasLabels, HasNumbers, Task

__all__ = ["FunctionMetric", "MetricSource", "resolve_metric", "with_metric"]

ScoreFunction = Callable[[list[Any], list[Any]], float]


@dataclass(frozen=True, kw_only=True)
class FunctionMetric:
    """A function as a metric.

    Predictions and truths are lists with one entry for each row: the name of the label; a tuple of names where a row
    may have several labels; a list of names where the parts of a row (words) have labels; a number, or a list of them;
    else the answer in words.

    Attributes:
        name: Name in tables, reports and the manifest.
        function: Function of predictions and truths to the score, a finite number, or NaN where the score is not
            defined on the rows. It must depend on its arguments alone.
        higher_is_better: False for an error.
    """

    name: str
    function: ScoreFunction
    higher_is_better: bool = True


MetricSource = FunctionMetric | Metric | ScoreFunction | str | None
"""A metric as callers give it.

It is an object, a function whose name and ``higher_is_better`` attribute (True by default) describe it, or the place of
one of these as ``package.module:name``.
"""


def resolve_metric(source: MetricSource) -> FunctionMetric | Metric | None:
    """Return the metric that a caller named; None for the task's own.

    Raises:
        UsageError: If the value is no metric, or the place holds none.
    """
    if isinstance(source, str):
        source = _imported(source)
        if isinstance(source, str):
            raise UsageError(
                f"The metric is the text '{source}', expected a function or a metric. Correct the place.",
                code="metric-type",
            )
    if source is None or isinstance(source, (FunctionMetric, Metric)):
        return source
    if isinstance(source, type) or not callable(source):
        kind = source.__name__ if isinstance(source, type) else f"a {type(source).__name__}"
        raise UsageError(
            f"metric is {kind}, expected a function of (predictions, truths), an edgekit.FunctionMetric, "
            "an edgekit.Metric, or a text package.module:name. Correct the call.",
            code="metric-type",
        )
    name = str(getattr(source, "__name__", type(source).__name__))
    return FunctionMetric(name=name, function=source, higher_is_better=bool(getattr(source, "higher_is_better", True)))


def with_metric(task: Task, metric: FunctionMetric | Metric | None) -> Task:
    """Return a task whose first metric is the given one; its own metrics come after it.

    Args:
        task: Task bound to a model.
        metric: Metric; None for the task as it is. The ``score`` of a :class:`Metric` takes the evidence of the task's
            own first metric, e.g. float64 ``[rows, 1]`` of right answers for a task with one label a row.

    Raises:
        UsageError: If one of the task's metrics has the same name.
    """
    if metric is None:
        return task
    task_metrics = task.metrics
    names = [one.name for one in task_metrics]
    if metric.name in names:
        raise UsageError(
            f"The metric is called '{metric.name}', as one of the task's own is ({', '.join(names)}). "
            "Give it another name.",
            code="metric-name",
        )
    pairs: list[tuple[Any, Any]] = []
    if isinstance(metric, FunctionMetric):
        score = partial(_score, metric, pairs)
        first = Metric(metric.name, score, higher_is_better=metric.higher_is_better)
    else:
        first = metric
    kind: Any = type(task)

    def evidence(self: Any, outputs: Sequence[Arrays], truth: Sequence[Any], requested: Metric) -> Evidence:
        """Return the evidence of each row; for a function, the index of the row's pair of answer and truth."""
        if requested is not first:
            return cast(Evidence, kind.evidence(self, outputs, truth, requested))
        if not isinstance(metric, FunctionMetric):
            return cast(Evidence, kind.evidence(self, outputs, truth, task_metrics[0]))
        start = len(pairs)
        pairs.extend(zip(*_answers(self, outputs, truth), strict=True))
        rows = np.arange(start, len(pairs), dtype=np.float64)[:, None]
        broken = [_is_broken(row) for row in outputs]
        rows[np.array(broken, bool)] = np.nan
        return rows

    scored: Any = copy.copy(task)
    members = {
        "metrics": (first, *task_metrics),
        "evidence": evidence,
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
    }
    object.__setattr__(scored, "__class__", type(kind.__name__, (kind,), members))
    return cast(Task, scored)


def _is_broken(row: Arrays) -> bool:
    """Return whether a floating-point output of a row holds NaN or infinity."""
    return any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in row.values())


def _score(
    metric: FunctionMetric, pairs: Sequence[tuple[Any, Any]], evidence: Evidence, weights: np.ndarray
) -> np.ndarray:
    """Return the function's score of each resample: float64 ``[resamples]``. A row of weight 2 counts twice."""
    places = evidence[:, 0].astype(np.int64)
    scores = np.empty(len(weights))
    for resample, counts in enumerate(weights):
        rows = [pairs[place] for place in np.repeat(places, counts).tolist()]
        answers = [answer for answer, _ in rows]
        truths = [right for _, right in rows]
        try:
            scores[resample] = metric.function(answers, truths)
        except Exception as problem:  # of the caller's code
            raise UsageError(
                f"The metric '{metric.name}' failed with {type(problem).__name__} on {len(rows)} rows, "
                "expected a number, or NaN where it is not defined. Correct the function; "
                "rows are drawn with replacement, so a label may be missing among them.",
                code="metric-failed",
            ) from problem
    if np.isinf(scores).any():
        raise UsageError(
            f"The metric '{metric.name}' gave infinity, expected a finite number or NaN. Correct the function.",
            code="metric-failed",
        )
    return scores


def _answers(task: Task, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return predictions and truths as a function of the user takes them, see :class:`FunctionMetric`."""
    if isinstance(task, HasNumbers):
        right, answered = task.number_matrix(outputs, truth)
        if right.shape[1] == 1:
            return answered[:, 0].tolist(), right[:, 0].tolist()
        return answered.tolist(), right.tolist()
    if isinstance(task, HasLabels):
        right, answered = task.label_matrix(outputs, truth)
        answers = [_names(task, flags) for flags in answered]
        truths = [_names(task, flags) for flags in right]
        if len(right) == len(truth):
            return answers, truths
        sizes = [len(task.label_matrix([row], [one])[0]) for row, one in zip(outputs, truth, strict=True)]
        return _split(answers, sizes), _split(truths, sizes)
    return task.describe(outputs), task.describe_truth(truth)


def _split(items: list[Any], sizes: Sequence[int]) -> list[Any]:
    """Return the items in consecutive lists of the given sizes, one list for each row."""
    ends = np.cumsum(sizes).tolist()
    return [items[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _names(task: HasLabels, flags: np.ndarray) -> str | tuple[str, ...]:
    """Return the label of an item, or its labels."""
    names = tuple(task.labels[index] for index in np.flatnonzero(flags))
    return names[0] if task.exclusive and names else names


def _imported(place: str) -> Any:
    """Return the object at ``package.module:name``; the current folder is searched too."""
    module, colon, name = place.partition(":")
    if not module or not colon or not name:
        raise UsageError(
            f"The metric is '{place}', expected package.module:name. Write e.g. scores:f2.", code="metric-place"
        )
    try:
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as problem:
            if problem.name != module.partition(".")[0]:
                raise
            sys.path.insert(0, os.getcwd())
            try:
                loaded = importlib.import_module(module)
            finally:
                sys.path.remove(os.getcwd())
        return getattr(loaded, name)
    except (ImportError, AttributeError) as problem:
        raise UsageError(
            f"The metric {place} cannot be imported: {problem}. "
            "Correct the place; modules of the current folder are found.",
            code="metric-place",
        ) from problem
