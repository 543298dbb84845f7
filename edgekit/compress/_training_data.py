"""Training data of a student: rows, altered versions of them, labels, and the teacher's answers from the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.bundle.place import disk_errors
from edgekit.cache.store import Cache, key
from edgekit.compress import _teacher
from edgekit.compress._examples import Examples
from edgekit.compress.objective import Objective
from edgekit.compress.training import Training, TrainingData
from edgekit.samples import Samples
from edgekit.source import Source, processors_of
from edgekit.source.stack import has_stack
from edgekit.spec.errors import SamplesError
from edgekit.spec.head import Alters
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays, HasLabels, Input, Task

if TYPE_CHECKING:
    from edgekit.compress._learner import Learner


@dataclass(frozen=True)
class CachedTeacher:
    """A teacher whose answers are cached.

    Attributes:
        source: Teacher.
        common: Values that all of its answers depend on: plain data.
        runner: Accelerator of the processes.
        cache: Cache for the answers.
        progress: Function that is called after each batch.
    """

    source: Source
    common: Mapping[str, Any]
    runner: Any
    cache: Cache
    progress: Progress

    def targets(self, inputs: Sequence[Input], parts: Mapping[str, Any]) -> _teacher.Targets:
        """Return the teacher's answers to inputs.

        Args:
            inputs: Inputs.
            parts: Other values that the answers depend on. ``relations`` among them is whether the relations between
                tokens are included.
        """
        parts = {**self.common, "step": "teacher", **parts}
        digest = key(**parts)
        if self.cache.find(digest) is None and self.runner.is_main_process:
            module = self.source.module
            module.to(self.runner.device)
            with disk_errors(self.cache.root), self.cache.fill(digest, parts) as folder:
                rows = self.source.encode(inputs)
                objective = Objective.of(self.source)
                _teacher.write_targets(module, rows, objective, parts["relations"], folder, self.progress)
            module.to("cpu")
        self.runner.wait_for_everyone()
        entry = self.cache.find(digest)
        assert entry is not None
        return _teacher.read_targets(entry)

    def training_data(
        self, learner: Learner, samples: Sequence[Samples], task: Task, training: Training, objective: Objective
    ) -> TrainingData:
        """Return the rows to train on, with the teacher's answers.

        Args:
            learner: Student; its embedding tables are frozen if the settings say so.
            samples: Samples to train on.
            task: Task of the teacher.
            training: Settings.
            objective: Losses of the task.

        Raises:
            SamplesError: If all rows have the same label, or the same answer of the teacher.
        """
        processor = learner.source.processor
        processors = processors_of(learner.source.task)
        labels = _parse_labels(samples, task)
        versions = [[value for s in samples for value in s.inputs]]
        if isinstance(processors, Alters):
            for number in range(training.copies):
                seed = training.seed * 1009 + number
                altered = processors.altered(
                    processor, versions[0], mask=training.mask, swap=training.swap, crop=training.crop, seed=seed
                )
                versions.append(altered)
        alterations: list[object] = []
        if len(versions) > 1:
            mask_token = getattr(processor, "mask_token", None)
            alterations = [training.copies, training.mask, training.swap, training.crop, training.seed, mask_token]
        has_relations = (
            bool(training.loss.relation)
            and processors.same(processor, self.source.processor)
            and has_stack(learner.module)
            and has_stack(self.source.module)
        )
        parts = {"samples": [s.digest for s in samples], "altered": alterations, "relations": has_relations}
        targets = self.targets([value for version in versions for value in version], parts)
        _check_variety(task, targets.outputs[: len(labels)], labels, samples)
        if training.freeze_embeddings and learner.inherits:
            _freeze_embeddings(learner.module)
        encoded = [learner.source.encode(version) for version in versions]
        return TrainingData(Examples(encoded, objective.pads, labels), targets, objective)


def _parse_labels(samples: Sequence[Samples], task: Task) -> list[Any]:
    """Return the labels of all rows as the task parses them; None for a row without a label."""
    labels: list[Any] = []
    for file in samples:
        has_label = task.labelled(file.rows)
        labelled_rows = [row for row, labelled in zip(file.rows, has_label, strict=True) if labelled]
        values = iter(task.parse_truth(labelled_rows, file.where).values if labelled_rows else ())
        for labelled in has_label:
            labels.append(next(values) if labelled else None)
    return labels


def _check_variety(task: Task, answers: Sequence[Arrays], labels: Sequence[Any], samples: Sequence[Samples]) -> None:
    """Refuse rows of one label only, from which a student would learn no other.

    Args:
        task: Task of the teacher.
        answers: Teacher's answers, one per row.
        labels: Labels, one per row; None for a row without a label.
        samples: Samples, for the message.

    Raises:
        SamplesError: If all labels or all answers are equal.
    """
    if not (isinstance(task, HasLabels) and task.exclusive):
        return
    where = ", ".join(file.where for file in samples)
    count = len(labels)
    if all(value is not None for value in labels):
        names = set(task.describe_truth(labels))
        if len(names) == 1:
            raise SamplesError(
                f"All {count} rows of {where} have the label '{names.pop()}', so a student would learn no other. Give "
                "rows of all labels.",
                code="training-one-label",
            )
    if task.same_answer(answers, [answers[0]] * len(answers)).all():
        label = task.describe(answers[:1])[0]
        raise SamplesError(
            f"The teacher answers '{label}' for all {count} rows of {where}, so a student would learn no other. Give "
            "more varied rows.",
            code="training-one-label",
        )


def _freeze_embeddings(module: Any) -> None:
    import torch

    for child in module.modules():
        if isinstance(child, torch.nn.Embedding):
            child.requires_grad_(False)
