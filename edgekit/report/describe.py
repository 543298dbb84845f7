"""Diagnostics without gates: scores on perturbed inputs, and agreement of the occlusion attributions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from edgekit.report import robustness
from edgekit.report.baseline import Baseline, BundleBefore, TeacherBefore
from edgekit.report.faithfulness import FaithfulnessOptions, faithfulness
from edgekit.report.predictions import Answer
from edgekit.report.side import BundleUnderTest, Rows
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.report import Faithfulness, Robustness
from edgekit.spec.subject import Perturbed

__all__ = ["Description", "describe"]

_PERTURBED_ROWS = 200

Description = tuple[tuple[Perturbed, ...], tuple[Perturbed, ...], tuple[Robustness, ...], Faithfulness | None]
"""Robustness of the bundle, robustness of the baseline, comparison of both, and agreement of the attributions.

The last three are empty or None if the baseline cannot be run. The last one is also None if no input can be explained.
"""


def describe(
    side: BundleUnderTest,
    baseline: Baseline | None,
    rows: Rows,
    outputs: tuple[Sequence[Arrays] | None, Sequence[Arrays]],
    seed: int,
    include_text: bool,
    progress: Progress,
) -> Description:
    """Run the diagnostics of a bundle, and of its baseline if that can be run.

    Args:
        side: Bundle.
        baseline: Baseline; None for the bundle alone.
        rows: Samples.
        outputs: Outputs of the baseline and of the bundle to the samples, one mapping per row; None if the baseline's
            are not known.
        seed: Random seed for the choice of rows and for the perturbations.
        include_text: True to include words of the inputs.
        progress: Progress callback, called by each step.
    """
    evaluation = rows.evaluation
    before, after = outputs
    perturbed = robustness.disturb(rows.inputs, side.task.modality, _PERTURBED_ROWS, seed)
    with contextlib.ExitStack() as stack:
        answer: Answer = stack.enter_context(side.worker()).predict
        answer_before: Answer | None = baseline.answer if isinstance(baseline, TeacherBefore) else None
        if isinstance(baseline, BundleBefore):
            answer_before = stack.enter_context(baseline.side.worker()).predict
        perturbed_after = robustness.predict_disturbed(answer, perturbed, progress)
        robustness_after = robustness.score_disturbed(evaluation, perturbed, after, perturbed_after)
        if answer_before is None or before is None:
            return robustness_after, (), (), None
        perturbed_before = robustness.predict_disturbed(answer_before, perturbed, progress)
        filler = side.task.modality.filler()
        # Different fillers are not neutral on both sides, so words are removed instead.
        if isinstance(baseline, BundleBefore) and baseline.side.task.modality.filler() != filler:
            filler = ""
        options = FaithfulnessOptions(seed=seed, include_text=include_text)
        explained = faithfulness(
            evaluation, answer_before, answer, rows.ids, filler=filler, options=options, progress=progress
        )
    return (
        robustness_after,
        robustness.score_disturbed(evaluation, perturbed, before, perturbed_before),
        robustness.compare_disturbed(evaluation, perturbed, perturbed_before, perturbed_after),
        explained,
    )
