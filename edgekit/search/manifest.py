"""What a build says of its bundle: the score on the test set, where things come from, and the manifest."""

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
    """Stops a build whose reference is no better than chance, unless that is accepted; None where no chance is known.

    Raises:
        ReferenceDoubtError: with labels and answers side by side.
    """
    question = references.question(evaluation.rows, evaluation.reference, evaluation.samples.where, "the torch model")
    return None if question is None else references.hold(question, accept)


def describe_provenance(
    cache: StepCache, model_digest: str | None, calibration: Samples, evaluation: Samples, seed: int
) -> dict[str, str]:
    """What a bundle says of its making, beside the model."""
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
    """The digest of samples as a bundle shows it; the same for the same model."""
    return seal(samples.digest, hashlib.sha256(f"samples of {model_digest}".encode()).digest()[:16])


def score_test_set(
    ctx: BuildContext, choice: Choice, test: EvaluationSet | None
) -> tuple[HeldOut | None, tuple[str, ...]]:
    """Scores the frozen choice on the test set, once; and what should be known of that."""
    if test is None:
        return None, ()
    result, trouble = measure_candidate(replace(ctx, evaluation=test), choice.winner)
    compared = test.compare(result.outputs)
    held_out = HeldOut(
        rows=compared.rows,
        score=test.rows.score(result.outputs),
        reference_score=test.reference_score,
        drop=compared.drop,
        drop_low=compared.low,
        drop_high=compared.high,
        losses=compared.losses,
        gains=compared.gains,
        p_value=compared.p_value,
        digest=seal_digest(test.samples, ctx.model_digest),
    )
    return held_out, (f"On the test set: {trouble}.",) if trouble else ()


def complete_manifest(
    ctx: BuildContext,
    request: BuildRequest,
    choice: Choice,
    engines: Verified,
    notes: Sequence[str],
    doubt: ReferenceCheck | None,
) -> Manifest:
    """The manifest of the bundle, but for its files and what a test set adds.

    Args:
        ctx: the build.
        request: with the bundle's name.
        choice: what it ships.
        engines: its variants, and what was verified of them.
        notes: what should be known, a sentence each.
        doubt: whether the torch model answers better than chance; None where no chance is known.
    """
    template, target, task = choice.winner.bundle.manifest, ctx.target, ctx.evaluation.task
    name, version, expires = request.identity
    named = name or version or expires
    longest = stand_in.longest(target, merge_signatures(template.signatures), task.max_size)
    return replace(
        template,
        name=name,
        version=version,
        expires=expires,
        built=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) if named else "",
        variants=engines.variants,
        verified=tuple(engines.done),
        unverified=(*engines.open, *goldens.unverified(target, longest, task.max_size)),
        reason=choice.reason,
        machine=machine(),
        trials=choice.trials,
        sensitivity=choice.winner.sensitivity,
        notes=tuple(notes),
        reference_check=doubt,
        input_forms=list_forms(ctx),
    )


def list_forms(ctx: BuildContext) -> tuple[str, ...]:
    """Return the forms of the calibration and evaluation inputs in alphabetical order, e.g. ``("text",)``; empty where the modality has one form."""
    modality = ctx.evaluation.task.modality
    if not isinstance(modality, HasForms):
        return ()
    return tuple(sorted({modality.form(value) for value in [*ctx.calibration.inputs, *ctx.evaluation.inputs]}))
