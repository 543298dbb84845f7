"""What describes two models, or one, without a gate: disturbed inputs, and which words an answer rests on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgekit.report import robustness
from edgekit.report.before import BundleBefore, Known, TeacherBefore
from edgekit.report.faithfulness import faithfulness
from edgekit.report.predictions import Answer
from edgekit.report.side import Rows, Side
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.report import Faithfulness, Robustness
from edgekit.spec.subject import Perturbed

__all__ = ["Described", "described"]

_DISTURBED = 200


@dataclass(frozen=True)
class Described:
    """What was found.

    Attributes:
        after: the bundle under disturbed inputs.
        before: likewise; empty where it cannot be asked.
        between: both on the same disturbed inputs.
        faithfulness: None where the other cannot be asked, or no input can be explained.
    """

    after: tuple[Perturbed, ...]
    before: tuple[Perturbed, ...] = ()
    between: tuple[Robustness, ...] = field(default=())
    faithfulness: Faithfulness | None = None


def described(
    side: Side, known: Known | None, given: Rows, outputs: tuple[Sequence[Arrays] | None, Sequence[Arrays]], seed: int, words: bool, progress: Progress
) -> Described:
    """Asks a bundle, and what it is compared with where that answers, about disturbed and shortened inputs.

    Args:
        side: the bundle.
        known: the other; None to describe the bundle by itself.
        given: the samples.
        outputs: of the other and the bundle to these.
        seed: of what is drawn.
        words: show words of the inputs.
        progress: told how far each part is.
    """
    rows, disturbed = given.evaluation, robustness.disturb(given.inputs, side.task.modality, _DISTURBED, seed)
    before, after = outputs
    with contextlib.ExitStack() as stack:
        ask: Answer = stack.enter_context(side.worker()).predict
        other: Answer | None = known.answer if isinstance(known, TeacherBefore) else None
        if isinstance(known, BundleBefore):
            other = stack.enter_context(known.side.worker()).predict
        answers = robustness.outputs_of(ask, disturbed, progress)
        own = robustness.own(rows, disturbed, after, answers)
        if other is None or before is None:
            return Described(own)
        others = robustness.outputs_of(other, disturbed, progress)
        filler = _filler(side, known)
        explained = faithfulness(rows, other, ask, given.ids, filler=filler, seed=seed, include_text=words, progress=progress)
    return Described(own, robustness.own(rows, disturbed, before, others), robustness.between(rows, disturbed, others, answers), explained)


def _filler(side: Side, known: Known | None) -> str:
    """What stands for a word in the inputs of both sides: empty, which leaves words out, where they have different ones."""
    own = side.task.modality.filler()
    other = known.side.task.modality.filler() if isinstance(known, BundleBefore) else own
    return own if own == other else ""
