"""The manifest of a bundle: its provenance, the check of the reference model, and the score on the test set."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.machine.cpu import cpu_name
from edgekit.report import reference as references
from edgekit.runtime.choice import machine
from edgekit.search import goldens, stand_in
from edgekit.search.measure import measure_candidate
from edgekit.search.step_cache import StepCache
from edgekit.spec.distribution import DISTRIBUTION
from edgekit.spec.manifest import HeldOut, Manifest, ReferenceCheck
from edgekit.spec.protocols import HasForms
from edgekit.spec.registry import version_of
from edgekit.spec.sealed import seal
from edgekit.spec.tensor import merge_signatures

if TYPE_CHECKING:
    from edgekit.samples import Samples
    from edgekit.search.choose import Choice
    from edgekit.search.context import BuildContext, EvaluationSet
    from edgekit.search.engines import Verified
    from edgekit.search.request import BuildRequest

__all__ = ["check_reference", "complete_manifest", "describe_provenance", "score_test_set", "seal_digest"]


def check_reference(evaluation: EvaluationSet, accept: bool) -> ReferenceCheck | None:
    """Check that the reference model is better than chance.

    Args:
        evaluation: Evaluation rows, and the outputs of the torch model for them.
        accept: Whether to build even if the reference is no better than chance.

    Returns:
        Result of the check, or None if the task has no chance level.

    Raises:
        ReferenceDoubtError: The reference is no better than chance, and ``accept`` is False. The message shows labels
            and predictions side by side.
    """
    question = references.check_reference(
        evaluation.rows, evaluation.reference, evaluation.samples.where, "the torch model"
    )
    return None if question is None else references.refuse_doubtful(question, accept)


def describe_provenance(
    cache: StepCache, model_digest: str | None, calibration: Samples, evaluation: Samples, seed: int
) -> dict[str, str]:
    """Return the provenance that a bundle records in addition to that of the model.

    Args:
        cache: Step cache, which knows the versions of the packages.
        model_digest: Digest of the model, or None for a Python module.
        calibration: Calibration rows.
        evaluation: Evaluation rows.
        seed: Random seed for the calibration subset.
    """
    return {
        "calibration_digest": seal_digest(calibration, model_digest),
        "calibration_rows": str(len(calibration)),
        "evaluation_digest": seal_digest(evaluation, model_digest),
        "evaluation_rows": str(len(evaluation)),
        "seed": str(seed),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "edgekit": version_of(DISTRIBUTION) or "source",
        **cache.tools,
    }


def seal_digest(samples: Samples, model_digest: str | None) -> str:
    """Return the sealed digest of samples that a bundle records. It is the same in all bundles of a model."""
    return seal(samples.digest, hashlib.sha256(f"samples of {model_digest}".encode()).digest()[:16])


def score_test_set(
    ctx: BuildContext, choice: Choice, test: EvaluationSet | None
) -> tuple[HeldOut | None, tuple[str, ...]]:
    """Score the winner on the test set, once, after the choice is final.

    Args:
        ctx: Build context.
        choice: Result of the search.
        test: Test rows, or None.

    Returns:
        The score, None without test rows; and notes on it, one sentence each.
    """
    if test is None:
        return None, ()
    result, problem = measure_candidate(replace(ctx, evaluation=test), choice.winner)
    comparison = test.compare(result.outputs)
    held_out = HeldOut(
        rows=comparison.rows,
        score=test.rows.score(result.outputs),
        reference_score=test.reference_score,
        drop=comparison.drop,
        drop_low=comparison.low,
        drop_high=comparison.high,
        losses=comparison.losses,
        gains=comparison.gains,
        p_value=comparison.p_value,
        digest=seal_digest(test.samples, ctx.model_digest),
    )
    notes = (f"On the test set: {problem}.",) if problem else ()
    return held_out, notes


def complete_manifest(
    ctx: BuildContext,
    request: BuildRequest,
    choice: Choice,
    engines: Verified,
    notes: Sequence[str],
    doubt: ReferenceCheck | None,
) -> Manifest:
    """Return the manifest of the bundle, without the file list and without the score on the test set.

    Args:
        ctx: Build context.
        request: Build request, with the name, version and expiry date of the bundle.
        choice: Result of the search.
        engines: Variants of the bundle, and what was verified of them.
        notes: Notes for users of the bundle, one sentence each.
        doubt: Result of :func:`check_reference`.
    """
    template = choice.winner.bundle.manifest
    max_size = ctx.evaluation.task.max_size
    name, version, expires = request.identity
    has_identity = name or version or expires
    longest = stand_in.longest(ctx.target, merge_signatures(template.signatures), max_size)
    return replace(
        template,
        name=name,
        version=version,
        expires=expires,
        built=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) if has_identity else "",
        variants=engines.variants,
        verified=tuple(engines.done),
        unverified=(*engines.open, *goldens.unverified(ctx.target, longest, max_size)),
        reason=choice.reason,
        machine=machine(),
        trials=choice.trials,
        sensitivity=choice.winner.sensitivity,
        notes=tuple(notes),
        reference_check=doubt,
        input_forms=list_forms(ctx),
    )


def list_forms(ctx: BuildContext) -> tuple[str, ...]:
    """Return the forms of the calibration and evaluation inputs in alphabetical order, e.g. ``("text",)``.

    The result is empty if the modality has only one form.
    """
    modality = ctx.evaluation.task.modality
    if not isinstance(modality, HasForms):
        return ()
    return tuple(sorted({modality.form(value) for value in [*ctx.calibration.inputs, *ctx.evaluation.inputs]}))
