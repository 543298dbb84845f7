"""What describes two models, or one, without a gate: disturbed inputs, and which words an answer rests on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from edgekit.report import robustness
from edgekit.report.before import BundleBefore, Known, TeacherBefore
from edgekit.report.faithfulness import FaithfulnessOptions, faithfulness
from edgekit.report.predictions import Answer
from edgekit.report.side import BundleUnderTest, Rows
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.report import Faithfulness, Robustness
from edgekit.spec.subject import Perturbed

__all__ = ["Description", "describe"]

_DISTURBED = 200

Description = tuple[tuple[Perturbed, ...], tuple[Perturbed, ...], tuple[Robustness, ...], Faithfulness | None]
"""The bundle under disturbed inputs, the other likewise, both on the same disturbed inputs, and how both explain their answers: the last three are empty
where the other cannot be asked, the last one also where no input can be explained."""


def describe(
    side: BundleUnderTest,
    known: Known | None,
    given: Rows,
    outputs: tuple[Sequence[Arrays] | None, Sequence[Arrays]],
    seed: int,
    words: bool,
    progress: Progress,
) -> Description:
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
            return own, (), (), None
        others = robustness.outputs_of(other, disturbed, progress)
        filler = side.task.modality.filler()
        if isinstance(known, BundleBefore) and known.side.task.modality.filler() != filler:
            filler = ""  # of different ones neither stands for a word on both sides: words are left out
        how = FaithfulnessOptions(seed=seed, include_text=words)
        explained = faithfulness(rows, other, ask, given.ids, filler=filler, options=how, progress=progress)
    return (
        own,
        robustness.own(rows, disturbed, before, others),
        robustness.between(rows, disturbed, others, answers),
        explained,
    )
