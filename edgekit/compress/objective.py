"""What training and pruning must know of a task: how a module is run, what its outputs are worth, and how rows are padded.

And what a student is asked for: the teacher's answers, the labels, and the teacher's relations between tokens.
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
    """Functions of a head, bound to the kind of one model; see :class:`edgekit.spec.head.Head`. Or functions of one's own.

    Attributes:
        forward: module and feeds to outputs, tensors by name.
        teacher_loss: feeds, the student's and the teacher's outputs, and the temperature, to ``[batch]``.
        truth_loss: feeds, outputs and the tensor of the truth, to ``[batch]``.
        truth_tensor: truth of rows to that tensor.
        sampled_nll: feeds, outputs and a generator to the surprise at answers that are drawn from the outputs.
        pads: value that pads short rows, by input.
        signature: names the axes along which outputs vary; None where they do not.
        reference: module, rows and progress to the outputs of each row through all of the loop; None where that is one forward pass.
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
        """The objective of a head and a kind of outputs, whose module's settings are not known."""
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
        """The objective of a model."""
        head, settings, name = source.head, source.settings, source.model_id
        signature = head.signature(settings)

        def reference(module: Any, rows: Sequence[Arrays], progress: Progress) -> list[Arrays]:
            return head.outputs(name, module, settings, rows, progress)

        return replace(cls.of_head(head, source.kind, pads_of(signature)), signature=signature, reference=reference)


def gram(hidden: Any) -> Any:
    """Cosines of all pairs of tokens: ``[batch, sequence, hidden]`` to ``[batch, sequence, sequence]``."""
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
    """The loss of each row: ``[batch]``.

    Args:
        loss: weights.
        objective: losses of the task.
        feeds: tensors of the batch.
        student: outputs of the student, by name.
        teacher: outputs of the teacher to the same rows.
        truth: one a row; None for a row without one.
        relation: the student's and the teacher's cosines ``[batch, sequence, sequence]`` and which tokens are real, bool ``[batch, sequence]``; or None.

    Raises:
        UsageError: when the two have other positions, e.g. after a stage that merges them was left out.
    """
    import torch

    device = next(iter(student.values())).device
    total = torch.zeros(len(truth), device=device)
    if loss.teacher:
        total = total + loss.teacher * objective.teacher_loss(feeds, student, teacher, loss.temperature)
    known = torch.tensor([value is not None for value in truth], device=device)
    if loss.labels and bool(known.any()):
        own = objective.truth_loss(feeds, student, objective.truth_tensor(truth).to(device))
        total = total + loss.labels * torch.where(known, own, torch.zeros_like(own))
    if loss.relation and relation is not None:
        ours, theirs, real = relation
        if ours.shape != theirs.shape:
            raise UsageError(
                f"The last layer of the student has {ours.shape[1]} positions, the teacher's {theirs.shape[1]}, so the relations between them cannot be "
                "compared. Set the weight of relations to 0 (Loss(relation=0)), or give another student.",
                code="student-positions",
            )
        pairs = real.unsqueeze(1) & real.unsqueeze(2)
        apart = ((ours - theirs) ** 2).masked_fill(~pairs, 0.0).sum(dim=(1, 2))
        total = total + loss.relation * apart / pairs.sum(dim=(1, 2))
    return total
