"""What training and pruning must know of a task: how a module is run, what its outputs are worth, and how rows are padded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekit.source.batches import pads_of

if TYPE_CHECKING:
    from edgekit.source import Source
    from edgekit.spec.head import Head
    from edgekit.spec.progress import Progress
    from edgekit.spec.protocols import Arrays
    from edgekit.spec.tensor import Signature

__all__ = ["Objective"]


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
