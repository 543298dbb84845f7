"""What training and pruning must know of a task: how a module is run, what its outputs are worth, and how rows are padded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgekit.source import Source
from edgekit.source.batches import pads_of
from edgekit.spec.head import Head
from edgekit.spec.tensor import Signature


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
    """

    forward: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]
    teacher_loss: Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], float], Any]
    truth_loss: Callable[[Mapping[str, Any], Mapping[str, Any], Any], Any]
    truth_tensor: Callable[[Sequence[Any]], Any]
    sampled_nll: Callable[[Mapping[str, Any], Mapping[str, Any], Any], Any]
    pads: Mapping[str, float] = field(default_factory=dict)
    signature: Signature | None = None

    @classmethod
    def of_head(cls, head: Head, kind: Any, pads: Mapping[str, float], signature: Signature | None = None) -> Objective:
        """The objective of a head and a kind of outputs."""
        return cls(
            head.forward,
            partial(head.teacher_loss, kind),
            partial(head.truth_loss, kind),
            partial(head.truth_tensor, kind),
            partial(head.sampled_nll, kind),
            pads,
            signature,
        )

    @classmethod
    def of(cls, source: Source) -> Objective:
        """The objective of a model."""
        signature = source.head.signature(source.settings)
        return cls.of_head(source.head, source.kind, pads_of(signature), signature)


__all__ = ["Objective"]
