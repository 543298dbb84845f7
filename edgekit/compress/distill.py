"""Fewer layers: a student made of some of the teacher's layers, or one that is given, learns to answer as the teacher does.

Layers of the teacher are the best start a student can have (Sanh et al., "DistilBERT", arXiv 1910.01108, section 3); what is asked
of it is said in :class:`Loss`, how it is trained in :class:`Training`.

On several GPUs or hosts: ``accelerate launch -m edgekit.compress.distill TEACHER ...``, with the options of ``edgekit distill``. It starts one
process on a machine without a GPU; there, ``ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 -m edgekit.compress.distill ...`` starts two.
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
    """A student.

    Attributes:
        path: a Hugging Face folder.
        epochs: what each epoch came to.
        score_name: of the scores.
        teacher_score: on the evaluation set.
        score: of the student there.
        compared: the two, row by row.
        seconds: of training, whether it was now or in an earlier call that this one found in the cache.
        reused: it was found there.
        notes: what should be known, a sentence each.
        higher_is_better: False where a low score is a good one.
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
    def of(cls, path: Path, made: _student.Made, took: float) -> Distilled:
        """What a student in the cache came to.

        Args:
            path: where it was written to.
            made: the student.
            took: seconds, now.
        """
        trained = sum(e.seconds for e in made.epochs)
        scored, metric = made.evaluation, made.evaluation.task.metrics[0]
        score, theirs = scored.score(made.outputs), scored.score(made.reference)
        compared = scored.compare(made.outputs, made.reference)
        return cls(
            path,
            made.epochs,
            metric.name,
            theirs,
            score,
            compared,
            max(trained, took),
            took < trained,
            made.notes,
            metric.higher_is_better,
        )

    def text(self) -> str:
        """The epochs as a plain table, then student and teacher."""
        sign = 1 if self.higher_is_better else -1
        best = max(range(len(self.epochs)), key=lambda i: sign * self.epochs[i].score, default=0)
        lines = [f"epoch  loss    {self.score_name:<9}  seconds"] if self.epochs else []
        lines += [
            f"{i + 1:>5}  {e.loss:<6.3f}  {e.score:<9.4f}  {e.seconds:>7.0f}{'  best' if i == best else ''}"
            for i, e in enumerate(self.epochs)
        ]
        lines.append(
            f"Student: {self.score_name} {self.score:.4f}, teacher {self.teacher_score:.4f}; {self.compared.text(None)}."
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {**plain(self), "path": str(self.path)}


def read_training_samples(
    sources: Sequence[SampleSource], columns: Mapping[str, str] | None, modality: Modality
) -> list[Samples]:
    """Reads rows to train on; a file that has no label column is of rows without a label.

    Args:
        sources: Files, or tables that ``samples.collect`` made: each may be read twice.
        columns: Role to column name.
        modality: Modality of the model.

    Raises:
        SamplesError: when one cannot be read.
    """
    if not sources:
        raise UsageError(
            "No samples were given, expected at least one file. Labels are not needed: the teacher says what rows mean.",
            code="samples-missing",
        )
    found = []
    for one in sources:
        try:
            found.append(samples_module.read(one, columns, modality=modality))
        except SamplesError:
            if "label" not in (columns or {}):
                raise
            found.append(
                samples_module.read(
                    one, {role: name for role, name in (columns or {}).items() if role != "label"}, modality=modality
                )
            )
    return found


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
        samples: Samples to train on, one source or several: files (JSONL, CSV, TSV, calibration TOML) or rows in memory. Labels are not needed, since the
            teacher says what a row means.
        eval: Labelled samples, by which the best epoch is chosen.
        out: Folder of the student; it appears whole or not at all.
        options: Options, of which one of ``layers``, ``keep`` and ``student`` is needed.
        progress: Function that is called after each step.

    Raises:
        EdgekitError: a subclass says which of model, samples, training or disk is at fault; nothing is left at ``out``. Epochs that were
            done are kept in the cache, and the same call goes on from there.
    """
    chosen = options or DistillOptions()
    if chosen.student is not None:
        check_path(chosen.student, "student")
    start = time.perf_counter()
    sources, labelled = samples_module.collect_all(samples), samples_module.collect(eval, "eval")
    destination = Path(os.path.abspath(out))
    check_output(destination, chosen.force)
    origin = source.read(os.fspath(teacher), chosen.revision)
    rows = read_training_samples(sources, chosen.columns, origin.modality)
    evaluation = samples_module.read(labelled, chosen.columns, modality=origin.modality)
    student = None if chosen.student is None else source.read(os.fspath(chosen.student))
    learner = _student.student(origin, chosen.layers, chosen.keep, student)
    made = _student.make(origin, learner, rows, evaluation, chosen.training, progress)
    if made.main:
        place(made.folder, destination, chosen.force)
    result = Distilled.of(destination, made, time.perf_counter() - start)
    reused = ", from the cache" if result.reused else ""
    _LOG.info("student %s: score %.4f, teacher %.4f%s", destination, result.score, result.teacher_score, reused)
    return result


@dataclass(frozen=True)
class ArrayRows:
    """Rows of arrays with their labels.

    Attributes:
        rows: Input name to array without the batch axis, e.g. ``pixel_values: float32 [channels, height, width]``, one entry a row.
        labels: Label of each row, as the task takes it, e.g. an index; None to learn from the teacher alone.
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
        evaluation: Rows by which the best epoch is chosen; their labels are needed.
        options: Options, of which one of ``layers``, ``keep`` and ``student`` is needed.
        progress: Function that is called after each step.

    Returns:
        The student in evaluation mode, and each epoch.

    Raises:
        UsageError: when the arguments do not fit each other.
        CompressError: when training fails.
    """
    _student.check_choice(options.layers, options.keep, options.student)
    rows, labels, labelled = samples.rows, samples.labels, evaluation.labels
    if (
        not rows
        or not evaluation.rows
        or labelled is None
        or len(evaluation.rows) != len(labelled)
        or (labels is not None and len(labels) != len(rows))
    ):
        raise UsageError(
            "There are no rows, or not as many labels as rows. Give at least one row of each set, and a label for each.",
            code="training-rows",
        )
    how, score = options.training, options.score
    told = {option: value for option, value in options.model_options.items() if value is not None}
    objective = _objective(teacher, options.task, options.pads, told)
    learner = options.student
    if learner is None:
        layers = spread_evenly(options.layers or 0, depth(teacher)) if options.keep is None else tuple(options.keep)
        learner = keep_layers(teacher, layers)
    runner = accelerator(how.precision)
    teacher.eval()

    def scored(module: Any) -> float:
        outputs = _student.shared_outputs(module, evaluation.rows, objective, runner)
        if score is None:
            return _minus_loss(objective, evaluation.rows, outputs, labelled)
        return float(score(outputs, labelled))

    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        relations = bool(how.loss.relation) and has_stack(teacher) and has_stack(learner)
        _teacher.write_targets(teacher, rows, objective, relations, Path(scratch), progress)
        targets = _teacher.read_targets(Path(scratch))
        examples = Examples([rows], objective.pads, [None] * len(rows) if labels is None else list(labels))
        learner.to(runner.device)
        state = Path(scratch if options.work is None else options.work)
        state.mkdir(parents=True, exist_ok=True)
        history = train(learner, TrainingData(examples, targets, objective), scored, how, runner, state, progress)
    return learner, tuple(history)


def _objective(
    module: Any, task: str | Objective | None, pads: Mapping[str, float], told: Mapping[str, Any]
) -> Objective:
    """The objective of a task for a module whose settings are not known; one of one's own as it is."""
    if isinstance(task, Objective):
        if told:
            raise UsageError(
                f"{' and '.join(told)}: options are of a task's head, and an objective of one's own was given. Leave them out.",
                code="training-objective",
            )
        return task
    name = type(module).__name__
    task = task or heads.for_architectures([name]) or heads.DEFAULT
    head = heads.get(task)
    check_options(told, tuple(head.OPTIONS), task)
    kind, _ = head.survey(name, entries(getattr(module, "config", None)), None, {}, told)
    return Objective.of_head(head, kind, pads)


def _minus_loss(objective: Objective, rows: Sequence[Arrays], outputs: Sequence[Arrays], truth: Sequence[Any]) -> float:
    losses = objective.truth_loss(tensors(rows, objective.pads), stack_outputs(outputs), objective.truth_tensor(truth))
    return -float(losses.mean())


if __name__ == "__main__":
    import runpy
    import sys

    sys.argv[:1] = ["edgekit", "distill"]
    runpy.run_module("edgekit", run_name="__main__")
