"""What describes two models, or one, without a gate: disturbed texts, and which words an answer rests on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import numpy as np

from edgekit.report import robustness
from edgekit.report.before import Known
from edgekit.report.faithfulness import faithfulness, mask_text
from edgekit.report.predictions import Answer
from edgekit.report.side import Rows, Side
from edgekit.spec.progress import Progress
from edgekit.spec.report import Faithfulness, Robustness
from edgekit.spec.subject import Perturbed

_DISTURBED = 200


@dataclass(frozen=True)
class Described:
    """What was found.

    Attributes:
        after: the bundle under disturbed texts.
        before: likewise; empty where it cannot be asked.
        between: both on the same disturbed texts.
        faithfulness: None where the other cannot be asked, or no text has enough words.
    """

    after: tuple[Perturbed, ...]
    before: tuple[Perturbed, ...] = ()
    between: tuple[Robustness, ...] = field(default=())
    faithfulness: Faithfulness | None = None


def described(
    side: Side, known: Known | None, given: Rows, logits: tuple[np.ndarray | None, np.ndarray], seed: int, words: bool, progress: Progress
) -> Described:
    """Asks a bundle, and what it is compared with where that answers, about disturbed and shortened texts.

    Args:
        side: the bundle.
        known: the other; None to describe the bundle by itself.
        given: the samples.
        logits: what the other and the bundle answer to them, float32 ``[rows, labels]``.
        seed: of what is drawn.
        words: show words of the texts.
        progress: told how far each part is.
    """
    task, disturbed = side.task, robustness.disturb(given.texts, _DISTURBED, seed)
    before, after = logits
    with contextlib.ExitStack() as stack:
        ask = stack.enter_context(side.worker()).logits
        other: Answer | None = None
        if known is not None and before is not None:
            other = stack.enter_context(known.side.worker()).logits if known.side is not None else known.answer
        answers = robustness.logits_of(ask, disturbed, progress)
        own = robustness.own(task, disturbed, after, answers, given.truth)
        if other is None or before is None:
            return Described(own)
        others = robustness.logits_of(other, disturbed, progress)
        mask = _mask(side, known)
        explained = faithfulness(task, other, ask, given.texts, given.ids, mask=mask, seed=seed, include_text=words, progress=progress)
    return Described(
        own,
        robustness.own(task, disturbed, before, others, given.truth),
        robustness.between(task, disturbed, others, answers, given.truth),
        explained,
    )


def _mask(side: Side, known: Known | None) -> str:
    """What stands for a word in the texts of both sides: empty, which leaves words out, where their tokenizers have different masks."""
    own = mask_text(side.bundle.path / "assets")
    other = mask_text(known.side.bundle.path / "assets") if known is not None and known.side is not None else own
    return own if own == other else ""
