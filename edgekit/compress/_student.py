"""A student in the cache: what it learns from, its training, and its folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.place import disk_errors
from edgekit.cache.store import Cache, key
from edgekit.compress import _teacher
from edgekit.compress._examples import Examples
from edgekit.compress._layers import check_described, keep_layers, spread_evenly
from edgekit.compress.folders import save
from edgekit.compress.objective import Objective
from edgekit.compress.training import Epoch, Training, TrainingData, accelerator, train
from edgekit.machine.cpu import cpu_name
from edgekit.samples import Samples
from edgekit.samples.evaluation import Evaluation
from edgekit.source import Source, processors_of
from edgekit.source.stack import depth, has_stack
from edgekit.spec.digests import code_digest
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.head import Alters, ChoosesRows
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays, HasLabels, Input, Task
from edgekit.spec.rows import pack

CODE = ("compress", "source", "tasks", "modalities", "samples")  # whose changes make another student


@dataclass(frozen=True)
class Student:
    """Who learns.

    Attributes:
        module: trained in place.
        source: whose processor and settings it has: the teacher's, or its own.
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
        evaluation: rows that it is scored on.
        outputs: its own to these rows.
        reference: the teacher's.
        notes: what should be known, a sentence each.
        main: this is the process that writes, where there are several.
    """

    folder: Path
    epochs: tuple[Epoch, ...]
    evaluation: Evaluation
    outputs: Sequence[Arrays]
    reference: Sequence[Arrays]
    notes: tuple[str, ...]
    main: bool


def check_choice(layers: int | None, keep: Sequence[int] | None, given: object) -> None:
    """Refuses a student that is said in no way, or in several.

    Raises:
        UsageError: unless exactly one of the three is given.
    """
    if sum(said is not None for said in (layers, keep, given)) != 1:
        raise UsageError(
            "Say what the student is by exactly one of layers (how many), keep (which ones), or student (a model of your own).",
            code="student-choice",
        )


def student(teacher: Source, layers: int | None, keep: Sequence[int] | None, given: Source | None) -> Student:
    """A student that has not learnt yet.

    Raises:
        UsageError: unless exactly one of the three is given; for layers that the teacher has not, and for a student of another task or label set.
        ModelError: when the teacher's layers cannot be told, or not be left out.
    """
    check_choice(layers, keep, given)
    if given is not None:
        return _given(teacher, given)
    kept = tuple(keep) if keep is not None else spread_evenly(layers or 0, depth(teacher.module))
    module = keep_layers(teacher.module, kept)
    if type(module).__module__.startswith("transformers."):
        check_described(module, teacher.model_id)
    return Student(module, teacher, kept, True, ())


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
        teacher: the model that answers.
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
    task, own = task_of(teacher), learner.source
    parsed = task.parse_truth(evaluation.rows, evaluation.where)
    scored = Evaluation(task, evaluation.inputs, parsed.values, range(len(evaluation.rows)))
    metric = task.metrics[0]
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
        check_rows((teacher, own), samples if training else (), evaluation)
        taught = _Teaching(teacher, common, runner, cache, progress)
        reference = taught.answers(
            scored.inputs, {"samples": [evaluation.digest], "altered": [], "relations": False}
        ).outputs
        rows, objective = own.encode(scored.inputs), Objective.of(own)

        def score(module: Any) -> float:
            return scored.score(shared_outputs(module, rows, objective, runner), metric)

        history: list[Epoch] = []
        if training:
            lesson = taught.lesson(learner, samples, task, training, objective)
            learner.module.to(runner.device)
            lesson = replace(lesson, higher_is_better=metric.higher_is_better)
            history = train(learner.module, lesson, score, training, runner, cache.under_way(digest), progress)
        outputs = shared_outputs(learner.module, rows, objective, runner)
        if runner.is_main_process:
            with disk_errors(cache.root), cache.fill(digest, what) as folder:
                learner.module.requires_grad_(True)
                save(
                    learner.module,
                    own.processor,
                    folder / "student",
                    {"teacher": teacher.model_id, "revision": teacher.revision, **what},
                )
                np.savez(folder / "student.npz", **pack(outputs))  # type: ignore[arg-type]
                np.savez(folder / "teacher.npz", **pack(reference))  # type: ignore[arg-type]
                (folder / "history.json").write_text(to_json([plain(e) for e in history]), "utf-8")
            shutil.rmtree(cache.under_way(digest), ignore_errors=True)
        runner.wait_for_everyone()
    found = cache.find(digest)
    assert found is not None
    notes = learner.notes
    if training and all(row.label is None for s in samples for row in s.rows):
        notes += (
            "None of the rows that were trained on has a label: the student learnt from the teacher's answers alone.",
        )
    epochs = tuple(Epoch(**e) for e in json.loads((found / "history.json").read_text("utf-8")))
    student, theirs = (_teacher.read_outputs(found / name) for name in ("student.npz", "teacher.npz"))
    return Made(found / "student", epochs, scored, student, theirs, notes, bool(runner.is_main_process))


@dataclass(frozen=True)
class _Teaching:
    """A teacher's answers, kept in the cache.

    Attributes:
        teacher: the model that answers.
        common: what all of its answers depend on; plain data.
        runner: of the processes.
        cache: where answers are kept.
        progress: told after each batch.
    """

    teacher: Source
    common: Mapping[str, Any]
    runner: Any
    cache: Cache
    progress: Progress

    def answers(self, given: Sequence[Input], parts: Mapping[str, Any]) -> _teacher.Targets:
        """What the teacher answers to inputs.

        Args:
            given: the inputs.
            parts: what else the answers depend on, ``relations`` among it: whether those between tokens are asked for.
        """
        parts = {**self.common, "step": "teacher", **parts}
        digest, teacher = key(**parts), self.teacher
        if self.cache.find(digest) is None and self.runner.is_main_process:
            teacher.module.to(self.runner.device)
            with disk_errors(self.cache.root), self.cache.fill(digest, parts) as folder:
                _teacher.write_targets(
                    teacher.module,
                    teacher.encode(given),
                    Objective.of(teacher),
                    parts["relations"],
                    folder,
                    self.progress,
                )
            teacher.module.to("cpu")
        self.runner.wait_for_everyone()
        found = self.cache.find(digest)
        assert found is not None
        return _teacher.read_targets(found)

    def lesson(
        self, learner: Student, samples: Sequence[Samples], task: Task, training: Training, objective: Objective
    ) -> TrainingData:
        """What is trained on, and the teacher's answers to it."""
        own, processors = learner.source, processors_of(learner.source.task)
        truth = _truth(samples, task)
        versions = [[value for s in samples for value in s.inputs]]
        if isinstance(processors, Alters):
            for copy in range(training.copies):
                seed, shares = (
                    training.seed * 1009 + copy,
                    {"mask": training.mask, "swap": training.swap, "crop": training.crop},
                )
                versions.append(processors.altered(own.processor, versions[0], seed=seed, **shares))
        mask = getattr(own.processor, "mask_token", None)
        altered = (
            [training.copies, training.mask, training.swap, training.crop, training.seed, mask]
            if len(versions) > 1
            else []
        )
        same = processors.same(own.processor, self.teacher.processor)
        relations = (
            bool(training.loss.relation) and same and has_stack(learner.module) and has_stack(self.teacher.module)
        )
        parts = {"samples": [s.digest for s in samples], "altered": altered, "relations": relations}
        targets = self.answers([value for v in versions for value in v], parts)
        _check_variety(task, targets.outputs[: len(truth)], truth, samples)
        if training.freeze_embeddings and learner.inherits:
            _freeze(learner.module)
        return TrainingData(
            Examples([own.encode(version) for version in versions], objective.pads, truth), targets, objective
        )


def shared_outputs(module: Any, rows: Sequence[Arrays], objective: Objective, runner: Any) -> list[Arrays]:
    """What a module answers to all rows; each process asks it for its share of them."""
    from accelerate.utils import gather_object

    mine = _teacher.predict_rows(module, rows, objective, range(runner.process_index, len(rows), runner.num_processes))
    found = dict(gather_object(list(mine.items())))
    return [found[i] for i in range(len(rows))]


def check_rows(sources: Sequence[Source], samples: Sequence[Samples], evaluation: Samples | None = None) -> None:
    """Refuses rows that a session would refuse, and rows that no module is trained on.

    Args:
        sources: teacher and student, which may be one.
        samples: what is trained on.
        evaluation: what is scored.

    Raises:
        SamplesError: with the number of the first such row.
    """
    for source in dict.fromkeys(sources):
        modality, head = task_of(source).modality, source.head
        for rows in (*samples, *([] if evaluation is None else [evaluation])):
            modality.check(rows.inputs, rows.where)
        if isinstance(head, ChoosesRows):
            for rows in samples:
                head.check_taught(source.encode(rows.inputs), rows.where)


def task_of(source: Source) -> Task:
    """The task of a model, as a bundle of it would load it."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        return source.save_assets(Path(scratch))


def _given(teacher: Source, given: Source) -> Student:
    if given.task != teacher.task:
        raise UsageError(
            f"The student {given.model_id} is for {given.task}, the teacher for {teacher.task}. Give one for the same task.",
            code="student-task",
        )
    ours, theirs = task_of(given).identity, task_of(teacher).identity
    for name in theirs:
        if (own := ours.get(name)) != theirs[name]:
            words, several = name.replace("_", " "), isinstance(own, (list, tuple))
            raise UsageError(
                f"The student {given.model_id} has the {words} {_shown(own)}; the teacher's {'are' if several else 'is'} {_shown(theirs[name])}. "
                f"Give one with the same {words}{' in the same order' if several else ''}.",
                code="student-differs",
            )
    processors = processors_of(given.task)
    same = processors.same(given.processor, teacher.processor)
    if given.head.ALIGNED and not same:
        raise UsageError(
            f"The student {given.model_id} has another {processors.NOUN} than the teacher {teacher.model_id}, and in {given.task} each answer is of a part "
            f"that the {processors.NOUN} makes of an input: the teacher's would be learnt of other parts. Give a student with the teacher's {processors.NOUN}.",
            code="student-tokenizer",
        )
    differs = None if same else f"The student has another {processors.NOUN}"
    if same and not (has_stack(given.module) and has_stack(teacher.module)):
        differs = "Teacher or student has no stack of equal layers"
    notes = (
        ()
        if differs is None
        else (f"{differs}, so the student learns from the teacher's answers, not from relations between tokens.",)
    )
    return Student(given.module, given, given.digest, False, notes)


def _shown(value: object) -> str:
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    return ", ".join(map(str, parts[:20])) + (" ..." if len(parts) > 20 else "")


def _truth(samples: Sequence[Samples], task: Task) -> list[Any]:
    """The truth of all rows; None for a row without a label."""
    found: list[Any] = []
    for s in samples:
        labelled = task.labelled(s.rows)
        known = [row for row, has in zip(s.rows, labelled, strict=True) if has]
        values = iter(task.parse_truth(known, s.where).values if known else ())
        found += [next(values) if has else None for has in labelled]
    return found


def _check_variety(task: Task, answers: Sequence[Arrays], truth: Sequence[Any], samples: Sequence[Samples]) -> None:
    """Refuses rows that show one label only: a student of them would know no other."""
    if not (isinstance(task, HasLabels) and task.exclusive):
        return
    where, count = ", ".join(s.where for s in samples), len(truth)
    if all(value is not None for value in truth) and len(found := set(task.describe_truth(truth))) == 1:
        raise SamplesError(
            f"All {count} rows of {where} have the label '{found.pop()}': a student would know no other. Give all labels.",
            code="training-one-label",
        )
    if task.same_answer(answers, [answers[0]] * len(answers)).all():
        label = task.describe(answers[:1])[0]
        raise SamplesError(
            f"The teacher answers '{label}' to all {count} rows of {where}: a student would know no other. Give more varied rows.",
            code="training-one-label",
        )


def _freeze(module: Any) -> None:
    import torch

    for child in module.modules():
        if isinstance(child, torch.nn.Embedding):
            child.requires_grad_(False)
