"""Fewer layers: a student, made of some of the teacher's layers or given by the user, learns the teacher's answers.

The teacher's layers are the best initialization of a student (Sanh et al., "DistilBERT", arXiv 1910.01108, section 3).
:class:`Loss` describes what is learned, :class:`Training` how.

On several GPUs or hosts: ``accelerate launch -m edgekit.compress.distill TEACHER ...``, with the options of ``edgekit
distill``. On a machine without a GPU that starts one process; to start two there, run
``ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 -m edgekit.compress.distill ...``.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import samples as samples_module
from edgekit import source
from edgekit.compress import _student, _teacher
from edgekit.compress._examples import Examples
from edgekit.compress._layers import keep_layers, spread_evenly
from edgekit.compress._learner import check_choice, make_student
from edgekit.compress.folders import check_output, place
from edgekit.compress.objective import Objective
from edgekit.compress.training import Epoch, TrainingData, accelerator, train
from edgekit.samples import Samples
from edgekit.source import check_options, heads
from edgekit.source.batches import stack_outputs, tensors
from edgekit.source.modules import entries
from edgekit.source.stack import depth, has_stack
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.options import DistillOptions, ModuleDistillOptions
from edgekit.spec.parsing import plain
from edgekit.spec.paths import check_path, takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Modality
from edgekit.spec.sources import FilePath, SampleSource
from edgekit.spec.training import Loss, Training
from edgekit.stats.paired import Paired

__all__ = [
    "ArrayRows",
    "Distilled",
    "Loss",
    "Objective",
    "Training",
    "distill",
    "distill_module",
    "read_training_samples",
]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Distilled:
    """A trained student.

    Attributes:
        path: Hugging Face folder of the student.
        epochs: Epochs of the training, in order.
        score_name: Name of the score, e.g. ``accuracy``.
        teacher_score: Score of the teacher on the evaluation set.
        score: Score of the student on the evaluation set.
        compared: Paired comparison of student and teacher.
        seconds: Duration of the training, also if it took place in an earlier call and the student is from the cache.
        reused: Whether the student is from the cache.
        notes: Notes on the student, one sentence each.
        higher_is_better: Whether a higher score is better.
    """

    path: Path
    epochs: tuple[Epoch, ...]
    score_name: str
    teacher_score: float
    score: float
    compared: Paired
    seconds: float
    reused: bool
    notes: tuple[str, ...]
    higher_is_better: bool = True

    @classmethod
    def of(cls, path: Path, student: _student.TrainedStudent, seconds: float) -> Distilled:
        """Return the result for a student in the cache.

        Args:
            path: Folder that the student was written to.
            student: Student in the cache.
            seconds: Duration of this call.
        """
        training_seconds = sum(epoch.seconds for epoch in student.epochs)
        evaluation = student.evaluation
        metric = evaluation.task.metrics[0]
        return cls(
            path=path,
            epochs=student.epochs,
            score_name=metric.name,
            teacher_score=evaluation.score(student.reference),
            score=evaluation.score(student.outputs),
            compared=evaluation.compare(student.outputs, student.reference),
            seconds=max(training_seconds, seconds),
            reused=seconds < training_seconds,
            notes=student.notes,
            higher_is_better=metric.higher_is_better,
        )

    def text(self) -> str:
        """Return a table of the epochs, then the scores of student and teacher."""
        sign = 1 if self.higher_is_better else -1
        best = max(range(len(self.epochs)), key=lambda i: sign * self.epochs[i].score, default=0)
        lines = [f"epoch  loss    {self.score_name:<9}  seconds"] if self.epochs else []
        for i, epoch in enumerate(self.epochs):
            mark = "  best" if i == best else ""
            lines.append(f"{i + 1:>5}  {epoch.loss:<6.3f}  {epoch.score:<9.4f}  {epoch.seconds:>7.0f}{mark}")
        scores = f"{self.score_name} {self.score:.4f}, teacher {self.teacher_score:.4f}"
        lines.append(f"Student: {scores}; {self.compared.text(None)}.")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {**plain(self), "path": str(self.path)}


def read_training_samples(
    sources: Sequence[SampleSource], columns: Mapping[str, str] | None, modality: Modality
) -> list[Samples]:
    """Read samples to train on. The rows of a file without the label column have no labels.

    Args:
        sources: Files, or tables from ``samples.collect``: each may be read twice.
        columns: Column names by role.
        modality: Modality of the model.

    Raises:
        UsageError: If there are no sources.
        SamplesError: If a source cannot be read.
    """
    if not sources:
        raise UsageError(
            "No samples were given, expected at least one file. Labels are not needed, because the teacher "
            "supplies the answers.",
            code="samples-missing",
        )
    files = []
    for one in sources:
        try:
            files.append(samples_module.read(one, columns, modality=modality))
        except SamplesError:
            if columns is None or "label" not in columns:
                raise
            input_columns = {role: name for role, name in columns.items() if role != "label"}
            files.append(samples_module.read(one, input_columns, modality=modality))
    return files


@takes_paths("teacher", "out")
def distill(
    teacher: FilePath,
    *,
    samples: SampleSource | Sequence[SampleSource],
    eval: SampleSource,
    out: FilePath,
    options: DistillOptions | None = None,
    progress: Progress = silent,
) -> Distilled:
    """Train a student and write it as an ordinary Hugging Face folder, which ``build`` takes like any other.

    Args:
        teacher: Local Hugging Face folder or a hub id.
        samples: Samples to train on, one source or several: files (JSONL, CSV, TSV, calibration TOML) or rows in
            memory. Labels are not needed, since the teacher supplies the answers.
        eval: Labelled samples for the choice of the best epoch.
        out: Folder of the student; it appears complete or not at all.
        options: Options, of which exactly one of ``layers``, ``keep`` and ``student`` is required.
        progress: Function that is called after each step.

    Raises:
        EdgekitError: If model, samples, training or disk are at fault; the subclass says which. Nothing is left at
            ``out``. Completed epochs stay in the cache, and the same call resumes after them.
    """
    chosen = options or DistillOptions()
    if chosen.student is not None:
        check_path(chosen.student, "student")
    start = time.perf_counter()
    sources = samples_module.collect_all(samples)
    labelled = samples_module.collect(eval, "eval")
    destination = Path(os.path.abspath(out))
    check_output(destination, chosen.force)
    origin = source.read(os.fspath(teacher), chosen.revision)
    rows = read_training_samples(sources, chosen.columns, origin.modality)
    evaluation = samples_module.read(labelled, chosen.columns, modality=origin.modality)
    user_student = None if chosen.student is None else source.read(os.fspath(chosen.student))
    learner = make_student(origin, chosen.layers, chosen.keep, user_student)
    student = _student.train_student(origin, learner, rows, evaluation, chosen.training, progress)
    if student.main:
        place(student.folder, destination, chosen.force)
    result = Distilled.of(destination, student, time.perf_counter() - start)
    reused = ", from the cache" if result.reused else ""
    _LOG.info("student %s: score %.4f, teacher %.4f%s", destination, result.score, result.teacher_score, reused)
    return result


@dataclass(frozen=True)
class ArrayRows:
    """Rows of arrays with their labels.

    Attributes:
        rows: Rows: input name to array without the batch axis, e.g. ``pixel_values: float32 [channels, height,
            width]``.
        labels: Label of each row in the form that the task uses, e.g. an index; None to learn only from the teacher.
    """

    rows: Sequence[Arrays]
    labels: Sequence[Any] | None = None


def distill_module(
    teacher: Any,
    samples: ArrayRows,
    evaluation: ArrayRows,
    *,
    options: ModuleDistillOptions,
    progress: Progress = silent,
) -> tuple[Any, tuple[Epoch, ...]]:
    """Train a student of a module on arrays: images, audio, or a head of the caller.

    Args:
        teacher: Torch module with a Hugging Face config, called with arrays by keyword.
        samples: Rows to train on.
        evaluation: Rows for the choice of the best epoch; labels are required.
        options: Options, of which exactly one of ``layers``, ``keep`` and ``student`` is required.
        progress: Function that is called after each step.

    Returns:
        The student in evaluation mode, and the epochs in order.

    Raises:
        UsageError: If arguments do not fit each other.
        CompressError: If training fails.
    """
    check_choice(options.layers, options.keep, options.student)
    eval_labels = _check_array_rows(samples, evaluation)
    training = options.training
    model_options = {option: value for option, value in options.model_options.items() if value is not None}
    objective = _objective(teacher, options.task, options.pads, model_options)
    learner = options.student
    if learner is None:
        layers = options.keep
        if layers is None:
            layers = spread_evenly(options.layers or 0, depth(teacher))
        learner = keep_layers(teacher, tuple(layers))
    runner = accelerator(training.precision)
    teacher.eval()

    def score(module: Any) -> float:
        outputs = _student.shared_outputs(module, evaluation.rows, objective, runner)
        if options.score is None:
            return _minus_loss(objective, evaluation.rows, outputs, eval_labels)
        return float(options.score(outputs, eval_labels))

    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        has_relations = bool(training.loss.relation) and has_stack(teacher) and has_stack(learner)
        _teacher.write_targets(teacher, samples.rows, objective, has_relations, Path(scratch), progress)
        targets = _teacher.read_targets(Path(scratch))
        labels = [None] * len(samples.rows) if samples.labels is None else list(samples.labels)
        data = TrainingData(Examples([samples.rows], objective.pads, labels), targets, objective)
        learner.to(runner.device)
        state = Path(scratch if options.work is None else options.work)
        state.mkdir(parents=True, exist_ok=True)
        history = train(learner, data, score, training, runner, state, progress)
    return learner, tuple(history)


def _check_array_rows(samples: ArrayRows, evaluation: ArrayRows) -> Sequence[Any]:
    """Refuse sets without rows, or with other numbers of labels than of rows.

    Returns:
        The labels of the evaluation set.

    Raises:
        UsageError: If there are such sets, or the evaluation set has no labels.
    """
    labels = evaluation.labels
    if (
        not samples.rows
        or not evaluation.rows
        or labels is None
        or len(evaluation.rows) != len(labels)
        or (samples.labels is not None and len(samples.labels) != len(samples.rows))
    ):
        raise UsageError(
            "There are no rows, or the numbers of rows and labels differ. Give at least one row for training and one "
            "for evaluation, with one label per row. Only the labels for training may be omitted.",
            code="training-rows",
        )
    return labels


def _objective(
    module: Any, task: str | Objective | None, pads: Mapping[str, float], model_options: Mapping[str, Any]
) -> Objective:
    """Return the objective for a module without known settings; a custom objective is returned unchanged.

    Args:
        module: Torch module.
        task: Name of the task, custom objective, or None for the task that the class of the module is named after.
        pads: Padding value of short rows, by input.
        model_options: Options of the task's head.

    Raises:
        UsageError: If an option is unknown, or is combined with a custom objective.
    """
    if isinstance(task, Objective):
        if model_options:
            raise UsageError(
                f"The options {' and '.join(model_options)} belong to the head of a task, but a custom objective was "
                "given. Leave them out.",
                code="training-objective",
            )
        return task
    class_name = type(module).__name__
    task = task or heads.for_architectures([class_name]) or heads.DEFAULT
    head = heads.get(task)
    check_options(model_options, tuple(head.OPTIONS), task)
    kind, _ = head.survey(class_name, entries(getattr(module, "config", None)), None, {}, model_options)
    return Objective.of_head(head, kind, pads)


def _minus_loss(
    objective: Objective, rows: Sequence[Arrays], outputs: Sequence[Arrays], labels: Sequence[Any]
) -> float:
    """Return minus the mean loss of the task, as a score where higher is better."""
    truth = objective.truth_tensor(labels)
    losses = objective.truth_loss(tensors(rows, objective.pads), stack_outputs(outputs), truth)
    return -float(losses.mean())


if __name__ == "__main__":
    import runpy
    import sys

    sys.argv[:1] = ["edgekit", "distill"]
    runpy.run_module("edgekit", run_name="__main__")
