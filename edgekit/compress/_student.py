"""Training of a student through the cache: resumed if it was interrupted, not repeated if it is complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.place import disk_errors
from edgekit.cache.store import Cache, key
from edgekit.compress import _teacher
from edgekit.compress._learner import Learner, task_of
from edgekit.compress._training_data import CachedTeacher
from edgekit.compress.folders import save
from edgekit.compress.objective import Objective
from edgekit.compress.training import Epoch, Training, accelerator, train
from edgekit.machine.cpu import cpu_name
from edgekit.samples import Samples
from edgekit.samples.evaluation import Evaluation
from edgekit.source import Source
from edgekit.spec.digests import code_digest
from edgekit.spec.head import ChoosesRows
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.rows import pack

CODE = ("compress", "source", "tasks", "modalities", "samples")
"""Packages whose code affects a student: a change of one invalidates the cache."""


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student in the cache.

    Attributes:
        folder: Hugging Face folder of the student.
        epochs: Epochs of its training, in order.
        evaluation: Rows that student and teacher are scored on.
        outputs: Student's outputs for these rows.
        reference: Teacher's outputs for these rows.
        notes: Notes on the student, one sentence each.
        main: Whether this is the main process, which writes the results.
    """

    folder: Path
    epochs: tuple[Epoch, ...]
    evaluation: Evaluation
    outputs: Sequence[Arrays]
    reference: Sequence[Arrays]
    notes: tuple[str, ...]
    main: bool


def train_student(
    teacher: Source,
    learner: Learner,
    samples: Sequence[Samples],
    evaluation: Samples,
    training: Training | None,
    progress: Progress,
    cache: Cache | None = None,
) -> TrainedStudent:
    """Train a student, resume its interrupted training, or find it in the cache.

    Args:
        teacher: Model whose answers are learned.
        learner: Untrained student.
        samples: Samples to train on.
        evaluation: Labelled samples for the choice of the best epoch.
        training: Settings; None for no training.
        progress: Function that is called after each step.
        cache: Cache for the student; None for the user's cache.

    Raises:
        SamplesError: If rows are missing, or all have one label.
        CompressError: If training fails.
    """
    task = task_of(teacher)
    labels = task.parse_truth(evaluation.rows, evaluation.where)
    scored = Evaluation(task, evaluation.inputs, labels.values, range(len(evaluation.rows)))
    runner = accelerator(training.precision if training else "float32")
    cache = cache or Cache()
    common = {"teacher": teacher.digest, "code": code_digest(*CODE), "cpu": cpu_name(), "device": runner.device.type}
    parts: dict[str, Any] = {
        **common,
        "step": "student",
        "student": learner.identity,
        "samples": [],
        "eval": evaluation.digest,
        "training": None,
        "processes": runner.num_processes,
        "precision": runner.mixed_precision,
    }
    if training:
        parts |= {"samples": [s.digest for s in samples], "training": plain(training)}
    digest = key(**parts)
    if cache.find(digest) is None:
        check_rows((teacher, learner.source), samples if training else (), evaluation)
        cached_teacher = CachedTeacher(teacher, common, runner, cache, progress)
        reference_parts = {"samples": [evaluation.digest], "altered": [], "relations": False}
        reference = cached_teacher.targets(scored.inputs, reference_parts).outputs
        rows = learner.source.encode(scored.inputs)
        objective = Objective.of(learner.source)

        def score(module: Any) -> float:
            return scored.score(shared_outputs(module, rows, objective, runner), task.metrics[0])

        history: list[Epoch] = []
        if training:
            data = cached_teacher.training_data(learner, samples, task, training, objective)
            learner.module.to(runner.device)
            data = replace(data, higher_is_better=task.metrics[0].higher_is_better)
            history = train(learner.module, data, score, training, runner, cache.under_way(digest), progress)
        outputs = shared_outputs(learner.module, rows, objective, runner)
        if runner.is_main_process:
            with disk_errors(cache.root), cache.fill(digest, parts) as folder:
                learner.module.requires_grad_(True)
                record = {"teacher": teacher.model_id, "revision": teacher.revision, **parts}
                save(learner.module, learner.source.processor, folder / "student", record)
                np.savez(folder / "student.npz", **pack(outputs))  # type: ignore[arg-type]
                np.savez(folder / "teacher.npz", **pack(reference))  # type: ignore[arg-type]
                (folder / "history.json").write_text(to_json([plain(epoch) for epoch in history]), "utf-8")
            shutil.rmtree(cache.under_way(digest), ignore_errors=True)
        runner.wait_for_everyone()
    entry = cache.find(digest)
    assert entry is not None
    notes = learner.notes
    if training and all(row.label is None for file in samples for row in file.rows):
        notes += ("No training row has a label, so the student learned from the teacher's answers alone.",)
    epochs = json.loads((entry / "history.json").read_text("utf-8"))
    return TrainedStudent(
        entry / "student",
        tuple(Epoch(**epoch) for epoch in epochs),
        scored,
        _teacher.read_outputs(entry / "student.npz"),
        _teacher.read_outputs(entry / "teacher.npz"),
        notes,
        bool(runner.is_main_process),
    )


def shared_outputs(module: Any, rows: Sequence[Arrays], objective: Objective, runner: Any) -> list[Arrays]:
    """Return a module's outputs for all rows; each process computes its share of them."""
    from accelerate.utils import gather_object

    share = range(runner.process_index, len(rows), runner.num_processes)
    outputs = _teacher.predict_rows(module, rows, objective, share)
    by_index = dict(gather_object(list(outputs.items())))
    return [by_index[i] for i in range(len(rows))]


def check_rows(sources: Sequence[Source], samples: Sequence[Samples], evaluation: Samples | None = None) -> None:
    """Refuse rows that a session would refuse, and rows that a module cannot be trained on.

    Args:
        sources: Teacher and student, which may be the same.
        samples: Samples to train on.
        evaluation: Samples to score; None for none.

    Raises:
        SamplesError: If there are any; with the number of the first such row.
    """
    files = [*samples]
    if evaluation is not None:
        files.append(evaluation)
    for source in dict.fromkeys(sources):
        modality = task_of(source).modality
        for file in files:
            modality.check(file.inputs, file.where)
        if isinstance(source.head, ChoosesRows):
            for file in samples:
                source.head.check_taught(source.encode(file.inputs), file.where)
