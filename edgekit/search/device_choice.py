"""The choice of variants for a device that is not this machine: the device races them at its first load."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import backends
from edgekit.machine.cpu import cpu_name
from edgekit.search import choose, rejections
from edgekit.search.choose import Choice
from edgekit.search.measure import note_if_unresolved, note_label_scores, settle
from edgekit.spec.digests import sha256
from edgekit.spec.errors import BudgetError

if TYPE_CHECKING:
    from edgekit.search.context import BuildContext
    from edgekit.search.record import Candidate
    from edgekit.spec.manifest import Trial, Variant

__all__ = ["choose_for_device"]

_LOG = logging.getLogger(__name__)


def choose_for_device(ctx: BuildContext, candidates: Sequence[Candidate], max_variants: int) -> Choice:
    """Choose the first candidates, in the target's order of preference, that meet the limits which can be judged here.

    These limits are accuracy and size. Latency, startup time and memory are known on the device only.

    Args:
        ctx: Build.
        candidates: Candidates in the target's order of preference.
        max_variants: Largest number of candidates with ONNX graphs to ship. If it is more than 1, one candidate with a
            graph of another format is shipped beside them.

    Raises:
        BudgetError: If no candidate meets the limits.
    """
    target = ctx.target
    settled = [settle(ctx, candidate) for candidate in candidates]
    judgeable_budget = replace(target.budget, p50_ms=None, memory_mb=None, first_answer_ms=None)
    higher_is_better = ctx.evaluation.task.metrics[0].higher_is_better
    trials: list[Trial] = []
    reasons: list[str] = []
    for candidate, result, trouble in settled:
        (trial,) = choose.trials(
            [candidate], [result], None, ctx.evaluation, target.budget.accuracy_drop, ctx.overhead_mb
        )
        trials.append(trial)
        reasons.append(trouble or rejections.excess(trial, judgeable_budget, ctx.strict, higher_is_better))
    able = [i for i, reason in enumerate(reasons) if not reason]
    # A bundle has one set of assets, so all variants must share preprocessing and settings.
    same = [i for i in able if _list_assets(candidates[i]) == _list_assets(candidates[able[0]])]
    chosen = _select_first(candidates, same, max_variants)
    limit_mb = target.budget.size_mb
    if limit_mb is not None and len(chosen) > 1:
        _, all_files = _merge_variants([candidates[i] for i in chosen])
        added_mb = choose.files_mb(all_files) - choose.files_mb(candidates[chosen[0]].files)
        if trials[chosen[0]].size_mb + added_mb > limit_mb:
            chosen = chosen[:1]
    if not chosen:
        lines = "\n".join(f"  {t.method} on {t.backend}: {reason}" for t, reason in zip(trials, reasons, strict=True))
        raise BudgetError(
            f"No candidate is inside the budget of target '{target.name}', so nothing was written:\n{lines}",
            code="budget-none-inside",
        )
    verdicts = [reason or "less preferred by the target" for reason in reasons]
    for index in chosen:
        verdicts[index] = "shipped: the device chooses" if len(chosen) > 1 else "chosen"
    judged = tuple(replace(trial, verdict=verdict) for trial, verdict in zip(trials, verdicts, strict=True))
    names = " and ".join(f"{judged[i].method} on {judged[i].backend}" for i in chosen)
    if len(chosen) > 1:
        reason = (
            f"{names}: preferred by target '{target.name}' in this order; not raced here ({cpu_name()}), "
            "the device races them at its first load."
        )
    else:
        rank = "the only candidate" if len(candidates) == 1 else "the preferred candidate"
        reason = f"{names}: {rank} of target '{target.name}' inside its limits; not timed here ({cpu_name()})."
    for trial in judged:
        _LOG.info("%s on %s: %s", trial.method, trial.backend, trial.verdict)
    _LOG.info("decision: %s", reason)
    ctx.note("Latency, startup time and memory were not measured: this machine does not stand for the device.")
    winner, winner_result, _ = settled[chosen[0]]
    note_if_unresolved(ctx, winner_result)
    note_label_scores(ctx, winner_result)
    shipped = []
    for index in chosen:
        candidate = settled[index][0]
        shipped.append(replace(candidate, variant=replace(candidate.variant, executed=judged[index].executed)))
    variants, files = _merge_variants(shipped)
    return Choice(winner, files, variants, reason, judged)


def _select_first(candidates: Sequence[Candidate], order: Sequence[int], max_variants: int) -> list[int]:
    """Return the candidates to ship, in the order of preference.

    Args:
        candidates: Candidates.
        order: Indices of those that may be shipped, the preferred one first.
        max_variants: Largest number with ONNX graphs; one in total if it is 1.
    """
    if max_variants == 1:
        return list(order[:1])
    left = {True: max_variants, False: 1}  # By whether the graph is an ONNX file.
    chosen = []
    for index in order:
        is_onnx = backends.get(candidates[index].variant.backend).GRAPH == ".onnx"
        if left[is_onnx]:
            left[is_onnx] -= 1
            chosen.append(index)
    return chosen


def _merge_variants(candidates: Sequence[Candidate]) -> tuple[tuple[Variant, ...], dict[str, Path]]:
    """Combine candidates into one bundle.

    Equal graphs are shared, and different graphs of the same name are renamed. Weight files are named by their content.

    Returns:
        The variants, and the files: path in the bundle to source file.
    """
    variants: list[Variant] = []
    files: dict[str, Path] = {}
    for candidate in candidates:
        variant = candidate.variant
        candidate_files = candidate.files
        new_names: dict[str, str] = {}
        for graph in variant.graphs.values():
            is_other = graph in files and sha256(files[graph]) != sha256(candidate_files[graph])
            new_names[graph] = f"graphs/{variant.method}-{Path(graph).name}" if is_other else graph
        files |= {new_names.get(name, name): file for name, file in candidate_files.items()}
        variants.append(replace(variant, graphs={name: new_names[graph] for name, graph in variant.graphs.items()}))
    return tuple(variants), files


def _list_assets(candidate: Candidate) -> list[tuple[str, str]]:
    """Return the name and SHA-256 of each asset."""
    files = candidate.bundle.manifest.files
    return sorted((name, file.sha256) for name, file in files.items() if name.startswith("assets/"))
