"""A student in the cache: what it learns from, its training, and its folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import assemble
from edgekit.cache.store import Cache, key
from edgekit.compress import _teacher
from edgekit.compress._examples import Examples, altered, inputs, token_rows
from edgekit.compress._folder import save
from edgekit.compress._layers import evenly, shortened
from edgekit.compress._train import Epoch, Training, accelerator, train
from edgekit.machine.cpu import cpu_name
from edgekit.modalities.text import Text
from edgekit.samples import Samples
from edgekit.source import Source
from edgekit.source.stack import depth
from edgekit.spec.digests import code_digest
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.progress import Progress
from edgekit.tasks import text_classification
from edgekit.tasks.text_classification import TextClassification

CODE = ("compress", "source", "tasks", "samples.py")  # whose changes make another student


@dataclass(frozen=True)
class Student:
    """Who learns.

    Attributes:
        module: trained in place.
        source: whose tokenizer and settings it has: the teacher's, or its own.
        identity: what it is before training; plain data.
        inherits: its embedding tables are the teacher's.
        notes: what should be known, a sentence each.
    """

    module: Any
    source: Source
    identity: object
    inherits: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """A student in the cache.

    Attributes:
        folder: a Hugging Face folder there.
        epochs: of its training.
        task: that scores it.
        answers: its own on the evaluation set, float32 ``[rows, labels]``.
        reference: the teacher's.
        truth: labels, as the task parses them.
        notes: what should be known, a sentence each.
        main: this is the process that writes, where there are several.
    """

    folder: Path
    epochs: tuple[Epoch, ...]
    task: TextClassification
    answers: np.ndarray
    reference: np.ndarray
    truth: np.ndarray
    notes: tuple[str, ...]
    main: bool


def check_choice(layers: int | None, keep: Sequence[int] | None, given: object) -> None:
    """Refuses a student that is said in no way, or in several.

    Raises:
        UsageError: unless exactly one of the three is given.
    """
    if sum(said is not None for said in (layers, keep, given)) != 1:
        raise UsageError("Say what the student is by exactly one of layers (how many), keep (which ones), or student (a model of your own).")


def student(teacher: Source, layers: int | None, keep: Sequence[int] | None, given: Source | None) -> Student:
    """A student that has not learnt yet.

    Raises:
        UsageError: unless exactly one of the three is given; for layers that the teacher has not, and for a student of another task or label set.
    """
    check_choice(layers, keep, given)
    if given is not None:
        return _given(teacher, given)
    total = depth(teacher.module)
    if layers is not None and not 1 <= layers <= total:
        raise UsageError(f"{layers} layers were asked for, and {teacher.model_id} has {total}. A student has 1 to {total}.")
    kept = tuple(keep) if keep is not None else evenly(layers or 0, total)
    return Student(shortened(teacher.module, kept), teacher, kept, True, ())


def make(
    teacher: Source,
    learner: Student,
    samples: Sequence[Samples],
    evaluation: Samples,
    training: Training | None,
    progress: Progress,
    cache: Cache | None = None,
) -> Made:
    """Trains a student, goes on where a killed run of the same was, or finds it whole.

    Args:
        teacher: a text classifier.
        learner: who learns.
        samples: what is trained on.
        evaluation: rows with labels.
        training: how; None to leave the student as it is.
        progress: told after each step.
        cache: where it is looked for; by default the user's.

    Raises:
        SamplesError: when rows are missing, or all have one label.
        CompressError: when training fails.
    """
    task, own = _task(teacher), learner.source
    truth = evaluation.truth(task.settings).values
    runner, cache = accelerator(training.precision if training else "float32"), cache or Cache()
    common = {"teacher": teacher.digest, "code": code_digest(*CODE), "cpu": cpu_name(), "device": runner.device.type}
    what = {
        **common,
        "step": "student",
        "student": learner.identity,
        "samples": [s.digest for s in samples] if training else [],
        "eval": evaluation.digest,
        "training": plain(training) if training else None,
        "processes": runner.num_processes,
        "precision": runner.mixed_precision,
    }
    digest = key(**what)
    if cache.find(digest) is None:
        seen = {**common, "step": "teacher", "samples": [evaluation.digest], "altered": [], "relations": False}
        reference = _answers(teacher, inputs(evaluation), False, seen, runner, cache, progress).logits
        rows = token_rows(own, inputs(evaluation))

        def score(module: Any) -> float:
            return task.score(shared_logits(module, rows, own.settings.pads, runner), truth)

        history: list[Epoch] = []
        if training:
            examples, targets = _lesson(teacher, learner, samples, task, training, common, runner, cache, progress)
            learner.module.to(runner.device)
            work = cache.under_way(digest)
            history = train(learner.module, examples, targets, task.settings.problem_type, score, training, runner, work, progress)
        answers = shared_logits(learner.module, rows, own.settings.pads, runner)
        if runner.is_main_process:
            with assemble.disk_errors(cache.root), cache.fill(digest, what) as folder:
                learner.module.requires_grad_(True)
                save(learner.module, own.tokenizer, folder / "student", {"teacher": teacher.model_id, "revision": teacher.revision, **what})
                np.savez(folder / "answers.npz", student=answers, teacher=reference)
                (folder / "history.json").write_text(to_json([plain(e) for e in history]), "utf-8")
            shutil.rmtree(cache.under_way(digest), ignore_errors=True)
        runner.wait_for_everyone()
    found = cache.find(digest)
    assert found is not None
    notes = learner.notes
    if training and all(row.label is None for s in samples for row in s.rows):
        notes += ("None of the rows that were trained on has a label: the student learnt from the teacher's answers alone.",)
    epochs = tuple(Epoch(**e) for e in json.loads((found / "history.json").read_text("utf-8")))
    with np.load(found / "answers.npz", allow_pickle=False) as stored:
        return Made(found / "student", epochs, task, stored["student"], stored["teacher"], truth, notes, bool(runner.is_main_process))


def _lesson(
    teacher: Source,
    learner: Student,
    samples: Sequence[Samples],
    task: TextClassification,
    training: Training,
    common: Mapping[str, Any],
    runner: Any,
    cache: Cache,
    progress: Progress,
) -> tuple[Examples, _teacher.Targets]:
    """What is trained on, and the teacher's answers to it."""
    own, mask = learner.source, learner.source.tokenizer.mask_token
    labels, labelled = _labels(samples, task)
    texts = [text for s in samples for text in inputs(s)]
    versions = [texts, *(altered(texts, training.mask, training.swap, training.crop, mask, training.seed * 1009 + i) for i in range(training.copies))]
    relations = bool(training.loss.relation) and own.tokenizer_json() == teacher.tokenizer_json()
    altering = [training.copies, training.mask, training.swap, training.crop, training.seed, mask] if training.copies else []
    asked = {**common, "step": "teacher", "samples": [s.digest for s in samples], "altered": altering, "relations": relations}
    targets = _answers(teacher, [t for v in versions for t in v], relations, asked, runner, cache, progress)
    _check_variety(task, targets.logits[: len(texts)], labels, labelled, samples)
    if training.freeze_embeddings and learner.inherits:
        _freeze(learner.module)
    return Examples([token_rows(own, version) for version in versions], own.settings.pads, labels, labelled), targets


def shared_logits(module: Any, rows: Sequence[Mapping[str, np.ndarray]], pads: Mapping[str, float], runner: Any) -> np.ndarray:
    """What a module answers to all rows, float32 ``[rows, labels]``; each process asks it for its share of them."""
    from accelerate.utils import gather_object

    mine = _teacher.logits(module, rows, pads, range(runner.process_index, len(rows), runner.num_processes))
    found = dict(gather_object(list(mine.items())))
    return np.stack([found[i] for i in range(len(rows))])


def _task(teacher: Source) -> TextClassification:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        text_classification.save(teacher.settings, teacher.tokenizer_json(), Path(scratch))
        return text_classification.load(Path(scratch))


def _given(teacher: Source, given: Source) -> Student:
    ours, theirs = given.settings, teacher.settings
    if ours.problem_type != theirs.problem_type:
        raise UsageError(f"The student {given.model_id} is for {ours.problem_type}, the teacher for {theirs.problem_type}. Give one for the same task.")
    if ours.labels != theirs.labels:
        shown = [", ".join(labels[:20]) + (" ..." if len(labels) > 20 else "") for labels in (ours.labels, theirs.labels)]
        raise UsageError(
            f"The student {given.model_id} has the labels {shown[0]}; the teacher's are {shown[1]}. Give one with the same labels in the same order."
        )
    same = given.tokenizer_json() == teacher.tokenizer_json()
    notes = () if same else ("The student has another tokenizer, so it learns from the teacher's answers, not from its relations between tokens.",)
    return Student(given.module, given, given.digest, False, notes)


def _labels(samples: Sequence[Samples], task: TextClassification) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all rows as the loss takes them, and which rows have one."""
    single = task.settings.problem_type == "single_label_classification"
    by_column = [s.by_column(task.settings) for s in samples]
    labelled = np.array([of_columns or row.label is not None for s, of_columns in zip(samples, by_column, strict=True) for row in s.rows])
    labels = np.zeros(len(labelled) if single else (len(labelled), len(task.settings.labels)), np.int64 if single else np.float32)
    parsed = [
        s.truth(task.settings).values if of_columns else task.parse_labels(known, s.where)
        for s, of_columns in zip(samples, by_column, strict=True)
        if of_columns or (known := [row.label for row in s.rows if row.label is not None])
    ]
    if parsed:
        labels[labelled] = np.concatenate(parsed)
    return labels, labelled


def _check_variety(task: TextClassification, answers: np.ndarray, labels: np.ndarray, labelled: np.ndarray, samples: Sequence[Samples]) -> None:
    """Refuses rows that show one class only: a student of them would know no other."""
    if task.settings.problem_type != "single_label_classification":
        return
    where = ", ".join(s.where for s in samples)
    if labelled.all() and len(set(labels.tolist())) == 1:
        raise SamplesError(
            f"All {len(labels)} rows of {where} have the label '{task.settings.labels[labels[0]]}': a student would know no other. Give all labels."
        )
    if len(set(answers.argmax(axis=1).tolist())) == 1:
        label = task.settings.labels[int(answers[0].argmax())]
        raise SamplesError(f"The teacher answers '{label}' to all {len(labels)} rows of {where}: a student would know no other. Give more varied rows.")


def _answers(teacher: Source, texts: Sequence[Text], relations: bool, parts: dict[str, Any], runner: Any, cache: Cache, progress: Progress) -> _teacher.Targets:
    digest = key(**parts)
    if cache.find(digest) is None and runner.is_main_process:
        teacher.module.to(runner.device)
        with assemble.disk_errors(cache.root), cache.fill(digest, parts) as folder:
            _teacher.answer(teacher.module, token_rows(teacher, texts), teacher.settings.pads, relations, folder, progress)
        teacher.module.to("cpu")
    runner.wait_for_everyone()
    found = cache.find(digest)
    assert found is not None
    return _teacher.read(found)


def _freeze(module: Any) -> None:
    import torch

    for child in module.modules():
        if isinstance(child, torch.nn.Embedding):
            child.requires_grad_(False)
