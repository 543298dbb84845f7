"""Candidates as they are to be raced: each is run so that an answer depends on its input alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.search.checks import runs_here
from edgekit.search.measure import measure_candidate, measure_for_device
from edgekit.spec.errors import OutputError
from edgekit.spec.rows import difference

if TYPE_CHECKING:
    from edgekit.search.context import BuildContext
    from edgekit.search.results import Candidate, CandidateResult

__all__ = ["Notes", "note_if_unresolved", "settle", "settle_all", "settle_for_device"]


class Notes:
    """What should be known of a search, a sentence each, each once."""

    def __init__(self) -> None:
        """Begins without any."""
        self._sentences: dict[str, None] = {}

    def add(self, *sentences: str) -> None:
        """Adds sentences at the end."""
        self._sentences.update(dict.fromkeys(sentences))

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of them, in the order in which they were added."""
        return tuple(self._sentences)


def settle_all(
    ctx: BuildContext, candidates: Sequence[Candidate], notes: Notes, *, allow_none: bool = False
) -> tuple[list[Candidate], list[CandidateResult]]:
    """The candidates as they are to be raced, and what each answers; those whose answers are not finite are left out.

    Args:
        ctx: the build.
        candidates: with their rows together or alone, as their graphs need it.
        notes: gets a sentence for each that is left out or changed.
        allow_none: that none is left is no error.

    Raises:
        OutputError: when none is left.
    """
    able: list[Candidate] = []
    results: list[CandidateResult] = []
    problem: OutputError | None = None
    for candidate in candidates:
        try:
            settled, result = settle(ctx, candidate, notes)
        except OutputError as error:
            problem = error
            notes.add(f"{candidate} was left out: {error}")
            continue
        if settled not in able:
            able.append(settled)
            results.append(result)
    if problem is not None and not able and not allow_none:
        raise problem
    return able, results


def settle(ctx: BuildContext, candidate: Candidate, notes: Notes) -> tuple[Candidate, CandidateResult]:
    """A candidate with its rows alone where lists change its answers, and with lists cut to fit into the memory."""
    result = measure_candidate(ctx, candidate)
    if _depends_on_lists(candidate, result):
        return settle(ctx, _run_alone(candidate, result, notes), notes)
    return _with_measured_lists(candidate, result), result


def settle_for_device(ctx: BuildContext, candidate: Candidate, notes: Notes) -> tuple[Candidate, CandidateResult, str]:
    """The same of a candidate for a device elsewhere, as far as its backend runs here; and why it cannot be used, empty where it can."""
    result, trouble = measure_for_device(ctx, candidate)
    if not runs_here(candidate.variant.backend):
        return candidate, result, trouble
    if _depends_on_lists(candidate, result):
        return settle_for_device(ctx, _run_alone(candidate, result, notes), notes)
    return _with_measured_lists(candidate, result), result, trouble


def note_if_unresolved(ctx: BuildContext, result: CandidateResult, notes: Notes) -> None:
    """Says that the rows do not settle whether the chosen candidate is inside the accuracy budget, where they do not."""
    limit, evaluation = ctx.target.budget.accuracy_drop, ctx.evaluation
    if limit is None or difference(result.outputs, evaluation.reference) == 0:  # to the last bit: nothing was lost
        return
    compared = evaluation.compare(result.outputs)
    if not compared.resolved(limit):
        notes.add(f"Accuracy of the chosen candidate: {compared.text(limit)}.")


def _depends_on_lists(candidate: Candidate, result: CandidateResult) -> bool:
    return result.lists is not None and not result.lists.kept and candidate.variant.rows != "alone"


def _run_alone(candidate: Candidate, result: CandidateResult, notes: Notes) -> Candidate:
    variant = candidate.variant
    assert result.lists is not None
    notes.add(f"{variant.method} on {variant.backend}: {result.lists.text()}. So its rows are run one by one, and it was raced like that.")
    return replace(candidate, variant=replace(variant, rows="alone"))


def _with_measured_lists(candidate: Candidate, result: CandidateResult) -> Candidate:
    """The candidate with what was measured of its lists, where that was."""
    if result.lists is None:
        return candidate
    return replace(candidate, variant=replace(candidate.variant, lists=result.lists, max_tokens=result.max_tokens))
