"""The choice for a device that is not here: by what can be judged on this machine, accuracy and size; the device races the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.machine.cpu import cpu_name
from edgekit.search import choose
from edgekit.search.choose import Choice
from edgekit.search.measure import note_if_unresolved, settle
from edgekit.spec.digests import sha256
from edgekit.spec.errors import BudgetError

if TYPE_CHECKING:
    from edgekit.search.context import BuildContext
    from edgekit.search.results import Candidate
    from edgekit.spec.manifest import Trial, Variant

__all__ = ["choose_for_device"]

_SHIPPED = 2  # variants that the device chooses from


def choose_for_device(ctx: BuildContext, candidates: Sequence[Candidate]) -> Choice:
    """The two that the target prefers among those inside what can be judged here.

    Raises:
        BudgetError: when none is inside.
    """
    target, evaluation = ctx.target, ctx.evaluation
    settled = [settle(ctx, candidate) for candidate in candidates]
    judgeable = replace(target.budget, p50_ms=None, memory_mb=None, first_answer_ms=None)
    higher = evaluation.task.metrics[0].higher_is_better
    trials: list[Trial] = []
    reasons: list[str] = []
    for candidate, result, trouble in settled:
        (trial,) = choose.trials([candidate], [result], None, evaluation, target.budget.accuracy_drop, ctx.beside_mb)
        trials.append(trial)
        reasons.append(trouble or choose.excess(trial, judgeable, ctx.strict, higher))
    able = [i for i, reason in enumerate(reasons) if not reason]
    # A bundle has one set of assets: both must be of models with the same preprocessing and settings.
    chosen = [i for i in able if _assets(candidates[i]) == _assets(candidates[able[0]])][:_SHIPPED]
    limit_mb = target.budget.size_mb
    if limit_mb is not None and len(chosen) > 1:
        both = choose.files_mb(_together([candidates[i] for i in chosen])[1]) - choose.files_mb(candidates[chosen[0]].files)
        chosen = chosen if trials[chosen[0]].size_mb + both <= limit_mb else chosen[:1]
    if not chosen:
        lines = "\n".join(f"  {t.method} on {t.backend}: {reason}" for t, reason in zip(trials, reasons, strict=True))
        raise BudgetError(f"No candidate is inside the budget of target '{target.name}', so nothing was written:\n{lines}")
    verdicts = [reason or "less preferred by the target" for reason in reasons]
    for index in chosen:
        verdicts[index] = "shipped: the device chooses"
    judged = tuple(replace(trial, verdict=verdict) for trial, verdict in zip(trials, verdicts, strict=True))
    named = " and ".join(f"{judged[i].method} on {judged[i].backend}" for i in chosen)
    reason = f"{named}: preferred by target '{target.name}' in this order; not raced here ({cpu_name()}), the device races them at its first load."
    ctx.note("Latency, start and memory were not measured: this machine does not stand for the device.")
    note_if_unresolved(ctx, settled[chosen[0]][1])
    shipped = [replace(settled[i][0], variant=replace(settled[i][0].variant, executed=judged[i].executed)) for i in chosen]
    variants, files = _together(shipped)
    return Choice(settled[chosen[0]][0], files, variants, reason, judged)


def _together(candidates: Sequence[Candidate]) -> tuple[tuple[Variant, ...], dict[str, Path]]:
    """Variants of one bundle, and place in it to file. Weights are named by their content; graphs are shared where they are the same."""
    variants: list[Variant] = []
    files: dict[str, Path] = {}
    for candidate in candidates:
        variant, own = candidate.variant, candidate.files
        renamed = {}
        for graph in variant.graphs.values():
            taken = graph in files and sha256(files[graph]) != sha256(own[graph])
            renamed[graph] = f"graphs/{variant.method}-{Path(graph).name}" if taken else graph
        files |= {renamed.get(name, name): file for name, file in own.items()}
        variants.append(replace(variant, graphs={name: renamed[graph] for name, graph in variant.graphs.items()}))
    return tuple(variants), files


def _assets(candidate: Candidate) -> list[tuple[str, str]]:
    return sorted((name, file.sha256) for name, file in candidate.bundle.manifest.files.items() if name.startswith("assets/"))
