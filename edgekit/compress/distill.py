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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import samples as samples_module
from edgekit import source
from edgekit.compress import _student, _teacher
from edgekit.compress._examples import Examples
from edgekit.compress._layers import evenly, shortened
from edgekit.compress.folders import check_output, place
from edgekit.compress.objective import Loss, Objective
from edgekit.compress.training import Epoch, Lesson, Training, accelerator, train
from edgekit.samples import Samples
from edgekit.source import check_options, heads
from edgekit.source.batches import stack_outputs, tensors
from edgekit.source.modules import entries
from edgekit.source.stack import depth, has_stack
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Modality
from edgekit.stats.paired import Paired

__all__ = ["Distilled", "Loss", "Objective", "Training", "distill", "distill_module"]

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


def lesson(
    paths: Sequence[str | os.PathLike[str]], columns: Mapping[str, str] | None, modality: Modality
) -> list[Samples]:
    """Reads rows to train on; a file that has no label column is of rows without a label.

    Raises:
        SamplesError: when one cannot be read.
    """
    if not paths:
        raise UsageError(
            "No samples were given, expected at least one file. Labels are not needed: the teacher says what rows mean.",
            code="samples-missing",
        )
    found = []
    for path in map(Path, paths):
        try:
            found.append(samples_module.read(path, columns, modality=modality))
        except SamplesError:
            if "label" not in (columns or {}):
                raise
            found.append(
                samples_module.read(
                    path, {role: name for role, name in (columns or {}).items() if role != "label"}, modality=modality
                )
            )
    return found


@takes_paths("teacher", "samples", "eval", "out", "student")
def distill(
    teacher: str | os.PathLike[str],
    *,
    samples: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    eval: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layers: int | None = None,
    keep: Sequence[int] | None = None,
    student: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    training: Training | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Distilled:
    """Trains a student and writes it as an ordinary Hugging Face folder, which ``build`` takes like any other.

    Args:
        teacher: a local Hugging Face folder or a hub id.
        samples: what is trained on: JSONL, CSV, TSV or calibration TOML; one or several. Rows without a label are welcome: the teacher
            says what they mean.
        eval: rows with labels, by which the best epoch is chosen.
        out: folder of the student; appears whole or not at all.
        layers: how many of the teacher's layers the student has, evenly spread, the first and the last among them.
        keep: which of them, from 0, in place of ``layers``.
        student: a folder or hub id of a student of one's own, in place of both: any architecture and tokenizer, with the teacher's labels.
        revision: branch, tag or commit of the teacher's hub id.
        columns: role (``label``, and those of the model's inputs, e.g. ``text``) to column name, for all sample files.
        training: how; by default ``Training()``.
        force: replace a student that is at ``out``.
        progress: told after each step.

    Raises:
        EdgekitError: a subclass says which of model, samples, training or disk is at fault; nothing is left at ``out``. Epochs that were
            done are kept in the cache, and the same call goes on from there.
    """
    start = time.perf_counter()
    destination = Path(os.path.abspath(out))
    check_output(destination, force)
    origin = source.read(os.fspath(teacher), revision)
    rows = lesson([samples] if isinstance(samples, (str, os.PathLike)) else list(samples), columns, origin.modality)
    evaluation = samples_module.read(Path(eval), columns, modality=origin.modality)
    learner = _student.student(origin, layers, keep, None if student is None else source.read(os.fspath(student)))
    made = _student.make(origin, learner, rows, evaluation, training or Training(), progress)
    if made.main:
        place(made.folder, destination, force)
    result = Distilled.of(destination, made, time.perf_counter() - start)
    reused = ", from the cache" if result.reused else ""
    _LOG.info("student %s: score %.4f, teacher %.4f%s", destination, result.score, result.teacher_score, reused)
    return result


def distill_module(
    teacher: Any,
    rows: Sequence[Arrays],
    labels: Sequence[Any] | None,
    eval_rows: Sequence[Arrays],
    eval_labels: Sequence[Any],
    *,
    layers: int | None = None,
    keep: Sequence[int] | None = None,
    student: Any = None,
    pads: Mapping[str, float] | None = None,
    task: str | Objective | None = None,
    score: Callable[[Sequence[Arrays], Sequence[Any]], float] | None = None,
    training: Training | None = None,
    work: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
    **told: Any,
) -> tuple[Any, tuple[Epoch, ...]]:
    """The same for a module and arrays: images, audio, or a head of one's own.

    Args:
        teacher: a torch module with a Hugging Face config, called with arrays by keyword.
        rows: what is trained on: input name to array without the batch axis, e.g. ``pixel_values: float32 [channels, height, width]``.
        labels: one a row, as the task takes them, e.g. an index; None to learn from the teacher alone.
        eval_rows: rows by which the best epoch is chosen.
        eval_labels: their labels.
        layers: how many of the teacher's layers the student has.
        keep: which of them, in place of ``layers``.
        student: a module of one's own in place of both; it is trained in place.
        pads: value that fills rows that are shorter than others along their first axis, by input.
        task: name of the task whose outputs and losses the module has, by default the one that its class's name ends in; or an objective of one's own.
        score: outputs of rows and their labels to a score, higher is better; by default minus the mean of the task's own loss.
        training: how; altered versions are of inputs, so ``copies`` plays no part.
        work: folder for the state after each epoch; a call that was killed goes on from there. By default none is kept.
        progress: told after each step.
        **told: what the module's outputs mean, in place of its config: options of the task's head.

    Returns:
        The student in evaluation mode, and what each epoch came to.

    Raises:
        UsageError: when the arguments do not fit each other.
        CompressError: when training fails.
    """
    _student.check_choice(layers, keep, student)
    if (
        not rows
        or not eval_rows
        or len(eval_rows) != len(eval_labels)
        or (labels is not None and len(labels) != len(rows))
    ):
        raise UsageError(
            "There are no rows, or not as many labels as rows. Give at least one row of each set, and a label for each.",
            code="training-rows",
        )
    how = training or Training()
    objective = _objective(
        teacher, task, pads or {}, {option: value for option, value in told.items() if value is not None}
    )
    kept = None if student is not None else tuple(keep) if keep is not None else evenly(layers or 0, depth(teacher))
    learner = student if kept is None else shortened(teacher, kept)
    runner = accelerator(how.precision)
    teacher.eval()

    def scored(module: Any) -> float:
        outputs = _student.shared_outputs(module, eval_rows, objective, runner)
        return (
            score(outputs, eval_labels)
            if score is not None
            else _minus_loss(objective, eval_rows, outputs, eval_labels)
        )

    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        relations = bool(how.loss.relation) and has_stack(teacher) and has_stack(learner)
        _teacher.answer(teacher, rows, objective, relations, Path(scratch), progress)
        targets = _teacher.read(Path(scratch))
        examples = Examples([rows], objective.pads, [None] * len(rows) if labels is None else list(labels))
        learner.to(runner.device)
        state = Path(scratch if work is None else work)
        state.mkdir(parents=True, exist_ok=True)
        history = train(learner, Lesson(examples, targets, objective), scored, how, runner, state, progress)
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
