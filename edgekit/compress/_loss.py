"""What a student is asked for: the teacher's answers, the labels, and the teacher's relations between tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.spec.errors import UsageError


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


def rows_loss(loss: Loss, kind: str, logits: Any, teacher: Any, labels: Any, labelled: Any, relation: tuple[Any, Any, Any] | None) -> Any:
    """The loss of each row: ``[batch]``.

    Args:
        loss: weights.
        kind: the head's ``problem_type``.
        logits: the student's, ``[batch, labels]``.
        teacher: the teacher's, of the same rows.
        labels: ``int64 [batch]``, or ``float32 [batch, labels]``.
        labelled: bool ``[batch]``.
        relation: the student's and the teacher's cosines ``[batch, sequence, sequence]`` and which tokens are real, bool ``[batch, sequence]``; or None.
    """
    import torch
    from torch.nn import functional

    logits, total = logits.float(), torch.zeros(len(logits), device=logits.device)
    if loss.teacher:
        total = total + loss.teacher * _from_teacher(kind, logits, teacher, loss.temperature)
    if loss.labels and bool(labelled.any()):
        if kind == "single_label_classification":
            own = functional.cross_entropy(logits, labels.clamp(min=0), reduction="none")
        elif kind == "multi_label_classification":
            own = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)
        else:
            own = ((logits - labels) ** 2).mean(dim=1)
        total = total + loss.labels * torch.where(labelled, own, torch.zeros_like(own))
    if loss.relation and relation is not None:
        ours, theirs, real = relation
        pairs = real.unsqueeze(1) & real.unsqueeze(2)
        apart = ((ours - theirs) ** 2).masked_fill(~pairs, 0.0).sum(dim=(1, 2))
        total = total + loss.relation * apart / pairs.sum(dim=(1, 2))
    return total


def _from_teacher(kind: str, logits: Any, teacher: Any, temperature: float) -> Any:
    from torch.nn import functional

    if kind == "regression":
        return ((logits - teacher) ** 2).mean(dim=1)
    x, y = logits / temperature, teacher / temperature
    if kind == "multi_label_classification":
        apart = functional.binary_cross_entropy_with_logits(x, y.sigmoid(), reduction="none").mean(dim=1)
    else:
        apart = functional.kl_div(x.log_softmax(dim=1), y.log_softmax(dim=1), reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * apart
