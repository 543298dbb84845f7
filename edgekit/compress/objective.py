"""Interface between a task and the training and pruning code: how a module is run, its losses, how rows are padded.

Also the loss of a student: the teacher's answers, the labels, and the teacher's relations between tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekit.source.batches import pads_of
from edgekit.spec.errors import UsageError
from edgekit.spec.training import Loss

if TYPE_CHECKING:
    from edgekit.source import Source
    from edgekit.spec.head import Head
    from edgekit.spec.progress import Progress
    from edgekit.spec.protocols import Arrays
    from edgekit.spec.tensor import Signature

__all__ = ["Loss", "Objective", "gram", "rows_loss"]


@dataclass(frozen=True)
class Objective:
    """Functions of a head, bound to the kind of one model (see :class:`edgekit.spec.head.Head`), or custom functions.

    Attributes:
        forward: Function that runs a module on feeds (tensors by name) and returns its outputs, tensors by name.
        teacher_loss: Function of feeds, student's outputs, teacher's outputs and temperature that returns the
            divergence of the two outputs: ``[batch]``.
        truth_loss: Function of feeds, outputs and the tensor from ``truth_tensor`` that returns the task's loss:
            ``[batch]``.
        truth_tensor: Function that turns the labels of rows into the tensor that ``truth_loss`` needs.
        sampled_nll: Function of feeds, outputs and a generator that samples answers from the outputs and returns their
            negative log-likelihood, summed over the batch.
        pads: Padding value of short rows, by input.
        signature: Signature with the variable axes of the outputs; None for outputs of fixed shape.
        reference: Function of module, rows and progress that returns the outputs of each row in the whole loop of the
            task; None for a loop of one forward pass.
    """

    forward: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]
    teacher_loss: Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], float], Any]
    truth_loss: Callable[[Mapping[str, Any], Mapping[str, Any], Any], Any]
    truth_tensor: Callable[[Sequence[Any]], Any]
    sampled_nll: Callable[[Mapping[str, Any], Mapping[str, Any], Any], Any]
    pads: Mapping[str, float] = field(default_factory=dict)
    signature: Signature | None = None
    reference: Callable[[Any, Sequence[Arrays], Progress], list[Arrays]] | None = None

    @classmethod
    def of_head(cls, head: Head, kind: Any, pads: Mapping[str, float]) -> Objective:
        """Return the objective of a module without known settings.

        Args:
            head: Head of the task.
            kind: Kind of the module's outputs, from the head's ``survey``.
            pads: Padding value of short rows, by input.
        """
        return cls(
            head.forward,
            partial(head.teacher_loss, kind),
            partial(head.truth_loss, kind),
            partial(head.truth_tensor, kind),
            partial(head.sampled_nll, kind),
            {**head.PADS, **pads},
        )

    @classmethod
    def of(cls, source: Source) -> Objective:
        """Return the objective of a model."""
        head = source.head
        name = source.model_id
        settings = source.settings
        signature = head.signature(settings)

        def reference(module: Any, rows: Sequence[Arrays], progress: Progress) -> list[Arrays]:
            return head.outputs(name, module, settings, rows, progress)

        return replace(cls.of_head(head, source.kind, pads_of(signature)), signature=signature, reference=reference)


def gram(hidden: Any) -> Any:
    """Return the cosine similarities of all pairs of tokens.

    Args:
        hidden: Hidden states: ``[batch, sequence, hidden]``.

    Returns:
        Cosine similarities: float32 ``[batch, sequence, sequence]``.
    """
    import torch

    unit = torch.nn.functional.normalize(hidden.float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def rows_loss(
    loss: Loss,
    objective: Objective,
    feeds: Mapping[str, Any],
    student: Mapping[str, Any],
    teacher: Mapping[str, Any],
    truth: Sequence[Any],
    relation: tuple[Any, Any, Any] | None,
) -> Any:
    """Return the loss of each row: ``[batch]``.

    Args:
        loss: Weights of the parts of the loss.
        objective: Losses of the task.
        feeds: Tensors of the batch.
        student: Outputs of the student, by name.
        teacher: Outputs of the teacher for the same rows, by name.
        truth: Labels, one per row; None for a row without a label.
        relation: Cosine similarities of the student and of the teacher, each ``[batch, sequence, sequence]``, and the
            mask of real tokens, bool ``[batch, sequence]``; None without relations.

    Raises:
        UsageError: If the numbers of positions differ, e.g. because a stage that merges positions was left out.
    """
    import torch

    device = next(iter(student.values())).device
    total = torch.zeros(len(truth), device=device)
    if loss.teacher:
        total = total + loss.teacher * objective.teacher_loss(feeds, student, teacher, loss.temperature)
    has_label = torch.tensor([value is not None for value in truth], device=device)
    if loss.labels and bool(has_label.any()):
        label_loss = objective.truth_loss(feeds, student, objective.truth_tensor(truth).to(device))
        total = total + loss.labels * torch.where(has_label, label_loss, torch.zeros_like(label_loss))
    if loss.relation and relation is not None:
        student_cosines, teacher_cosines, mask = relation
        if student_cosines.shape != teacher_cosines.shape:
            raise UsageError(
                f"The last layer of the student has {student_cosines.shape[1]} positions, that of the teacher "
                f"{teacher_cosines.shape[1]}, so their relations between tokens cannot be compared. Set the weight of "
                "the relations to 0 (Loss(relation=0)), or give another student.",
                code="student-positions",
            )
        pairs = mask.unsqueeze(1) & mask.unsqueeze(2)
        squares = ((student_cosines - teacher_cosines) ** 2).masked_fill(~pairs, 0.0).sum(dim=(1, 2))
        total = total + loss.relation * squares / pairs.sum(dim=(1, 2))
    return total
