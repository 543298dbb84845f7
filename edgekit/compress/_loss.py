"""What a student is asked for: the teacher's answers, the labels, and the teacher's relations between tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.spec.errors import UsageError

if TYPE_CHECKING:
    from edgekit.compress.objective import Objective


@dataclass(frozen=True)
class Loss:
    """Weights of the parts of the loss; a part of weight 0 is left out.

    Attributes:
        teacher: of the divergence from the teacher's softened answers (Hinton et al., arXiv 1503.02531), times the temperature squared.
        labels: of the task's own loss, on the rows that have a label.
        relation: of the mean squared difference between the cosines of all pairs of tokens, after the last layer: the relation idea of
            MiniLM (Wang et al., arXiv 2002.10957) on hidden states, so that it needs no attention maps and works across widths.
        temperature: that both answers are divided by.
    """

    teacher: float = 0.7
    labels: float = 0.3
    relation: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            UsageError: for a negative weight, none above 0, or a temperature that is not above 0.
        """
        weights = (self.teacher, self.labels, self.relation)
        if not all(0 <= w < float("inf") for w in weights) or not any(weights[:2]) or not 0 < self.temperature < float("inf"):
            raise UsageError(
                f"The loss has the weights teacher {self.teacher:g}, labels {self.labels:g}, relation {self.relation:g} and the temperature "
                f"{self.temperature:g}, expected weights of at least 0, teacher or labels above 0, and a temperature above 0."
            )


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
                "compared. Set the weight of relations to 0 (Loss(relation=0)), or give another student."
            )
        pairs = real.unsqueeze(1) & real.unsqueeze(2)
        apart = ((ours - theirs) ** 2).masked_fill(~pairs, 0.0).sum(dim=(1, 2))
        total = total + loss.relation * apart / pairs.sum(dim=(1, 2))
    return total
