"""The search for the winner: which candidates are tried, in which order, and the complete content of its bundle.

The size of a bundle is known once it is complete, and counts in the choice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.bundle import exported
from edgekit.runtime import golden
from edgekit.search import choose, goldens, record, rejections, vary
from edgekit.search.choose import Choice
from edgekit.search.device_choice import choose_for_device
from edgekit.search.engines import Verified, verify_engines
from edgekit.search.measure import note_if_unresolved, note_label_scores, race_candidates, settle_all
from edgekit.search.models import ModelEntry, make_candidates
from edgekit.search.race import turns
from edgekit.spec.errors import BudgetError
from edgekit.spec.manifest import FileEntry, Manifest, dumps, reference_name
from edgekit.spec.rows import encode_each

if TYPE_CHECKING:
    from edgekit.search.context import BuildContext
    from edgekit.search.record import Candidate, CandidateResult, Race
    from edgekit.spec.manifest import Trial

__all__ = ["SearchResult", "describe_disturbance", "search_bundle"]

_LOG = logging.getLogger(__name__)

_FIRST_ROUNDS = 6
_SHORT_ROUNDS = 2
_LAST_ROUNDS = 12
_INPUTS_PER_ROUND = 20
_FINALIST_RATIO = 1.5  # Candidates that take longer than this multiple of the fastest are not timed again.
_MAX_DEVICE_VARIANTS = 2
_STATIC_GAIN = 2.0  # Largest gain from static shapes that was ever measured.


@dataclass(frozen=True)
class SearchResult:
    """Complete content of a bundle.

    Attributes:
        choice: Choice of the search; the trials have the sizes of whole bundles.
        manifest: Manifest without file entries and without the results on a test set.
        files: Files of the bundle: path in the bundle to content.
    """

    choice: Choice
    manifest: Manifest
    files: Mapping[str, Path | bytes]


def search_bundle(
    ctx: BuildContext, models: Sequence[ModelEntry], describe: Callable[[BuildContext, Choice, Verified], Manifest]
) -> SearchResult:
    """Search for the winner, and add what devices need beyond graphs: engines and golden inputs with their answers.

    Candidates are first judged by the size of their graphs and assets. If the winner's complete bundle is too large,
    the search is repeated with the size of all other parts added to each candidate; measurements are reused. If it is
    still too large, a device bundle gets one variant alone.

    Args:
        ctx: Build.
        models: Entries of the model itself, then of its students.
        describe: Function that returns the manifest of a choice, without file entries, with the notes of the context.

    Raises:
        BudgetError: If no candidate is inside the budget.
    """
    limit_mb = ctx.target.budget.size_mb
    max_variants = _MAX_DEVICE_VARIANTS
    initial_notes = dict(ctx.notes)
    while True:
        choice = _search(ctx, models, max_variants)
        engines = verify_engines(ctx, choice)
        winner = choice.winner
        graphs = next(model.float_graphs for model in models if model.name == winner.model)
        inputs = goldens.make(choice.variants, choice.files, winner.bundle, graphs, ctx.target, ctx.cache.scratch)
        files = {**choice.files, **engines.files, golden.FILE: inputs, record.FILE: ctx.recorded.text().encode()}
        manifest = describe(ctx, choice, engines)
        files |= exported.metadata(manifest, files)
        size_mb = _bundle_mb(manifest, files)
        # Engines and further variants do not count: they are not part of every bundle.
        overhead_mb = size_mb - winner.bundle.size / 2**20 - choose.files_mb(choice.files)
        overhead_mb += choose.files_mb(winner.files)
        overhead_mb -= choose.files_mb(engines.files)
        if limit_mb is None or size_mb <= limit_mb + 1e-9:
            judged = tuple(
                replace(trial, size_mb=trial.size_mb - ctx.overhead_mb + overhead_mb) for trial in choice.trials
            )
            return SearchResult(replace(choice, trials=judged), replace(manifest, trials=judged), files)
        if overhead_mb <= ctx.overhead_mb + 1e-9:
            if len(choice.variants) == 1:
                engine = f", of which its engine takes {choose.files_mb(engines.files):.3g} MB" if engines.files else ""
                raise BudgetError(
                    f"{choice.reason} Its whole bundle has {size_mb:.4g} MB{engine}, above the limit "
                    f"size_mb = {limit_mb:g}. Raise the limit.",
                    code="budget-size",
                )
            max_variants = 1
        # A search that finished in time is repeated from the cache. Notes on the first choice do not hold for the next.
        ctx = replace(
            ctx, overhead_mb=max(ctx.overhead_mb, overhead_mb), notes=dict(initial_notes), repeated=not ctx.late
        )


def _bundle_mb(manifest: Manifest, files: Mapping[str, Path | bytes]) -> float:
    """Return the size of a bundle with its manifest, in MiB."""
    entries: dict[str, FileEntry] = {}
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        entries[name] = FileEntry("0" * 64, size)
    return choose.files_mb({**files, "": dumps(replace(manifest, files=entries)).encode()})


def _search(ctx: BuildContext, models: Sequence[ModelEntry], max_variants: int) -> Choice:
    """Make the candidates of all models, measure them and choose.

    Args:
        ctx: Build.
        models: Entries of the competing models.
        max_variants: Largest number of variants for a device.
    """
    candidates: list[Candidate] = []
    for model in models:
        for method in ctx.target.methods:
            candidates += make_candidates(ctx, model, method)
    _LOG.info("%d candidates: %s", len(candidates), ", ".join(map(str, candidates)))
    for candidate in candidates:
        _LOG.debug("candidate %s: %s", candidate, candidate.variant)
    if ctx.target.choose_on == "device":
        return choose_for_device(ctx, candidates, max_variants)
    return _HostSearch(ctx, models).run(candidates)


@dataclass(frozen=True)
class _Raced:
    """Candidates with their results and trials after a race."""

    candidates: list[Candidate]
    results: list[CandidateResult]
    trials: list[Trial]


class _HostSearch:
    """Race of candidates on this machine: a short race of all, then a long race of the fastest and their variations."""

    def __init__(self, ctx: BuildContext, models: Sequence[ModelEntry]) -> None:
        """Create the search.

        Args:
            ctx: Build.
            models: Entries of the model itself, then of its students.
        """
        self._ctx = ctx
        self._models = {model.name: model for model in models}
        self._metric = ctx.evaluation.task.metrics[0]

    def run(self, candidates: Sequence[Candidate]) -> Choice:
        """Measure candidates and choose the winner."""
        first, results = settle_all(self._ctx, candidates)
        race = self._race(first, _FIRST_ROUNDS)
        early = _Raced(first, results, self._trials(first, results, race))
        finalists, results = self._select_finalists(early)
        last = early
        if len(finalists) > 1 and finalists != first:
            race = self._race(finalists, _LAST_ROUNDS)
            last = _Raced(finalists, results, self._trials(finalists, results, race))
        winner, reason, judged = choose.choose(
            last.trials,
            self._ctx.target,
            self._metric.name,
            self._ctx.evaluation.reference_score,
            strict=self._ctx.strict,
            higher_is_better=self._metric.higher_is_better,
            reference_name=reference_name(next(iter(self._models.values())).float_graphs.provenance),
        )
        dropped = []
        for candidate, trial in zip(early.candidates, early.trials, strict=True):
            if candidate not in last.candidates:
                dropped.append(self._judge_dropped(trial))
        best = last.candidates[winner]
        for trial in judged:
            _LOG.info("%s on %s, p50 %.3f ms: %s", trial.method, trial.backend, trial.p50_ms, trial.verdict)
        _LOG.info("decision: %s", reason)
        note_if_unresolved(self._ctx, last.results[winner])
        note_label_scores(self._ctx, last.results[winner])
        self._ctx.note(*filter(None, [describe_disturbance(race, judged, winner)]))
        variant = replace(best.variant, executed=judged[winner].executed)
        return Choice(best, best.files, (variant,), reason, (*judged, *dropped))

    def _select_finalists(self, early: _Raced) -> tuple[list[Candidate], list[CandidateResult]]:
        """Return the candidates that can still win, each model's fastest float32, and variations of the fastest."""
        able = [i for i, trial in enumerate(early.trials) if self._can_win(trial)]
        if not able:
            return early.candidates, early.results
        cost = [_cost(trial) for trial in early.trials]
        best = min(able, key=lambda i: cost[i])
        finalists = {i for i in able if cost[i] <= _FINALIST_RATIO * cost[best]}
        for model in self._models:
            floats = [i for i, t in enumerate(early.trials) if t.method == rejections.FLOAT and t.model == model]
            if floats:
                finalists.add(min(floats, key=lambda i: cost[i]))
        candidates, results = settle_all(self._ctx, self._make_variations(early, able, cost), allow_none=True)
        order = sorted(finalists)
        candidates = [early.candidates[i] for i in order] + candidates
        results = [early.results[i] for i in order] + results
        return candidates, results

    def _make_variations(self, early: _Raced, able: Sequence[int], cost: Sequence[float]) -> list[Candidate]:
        """Return the fastest candidates with other shapes, threads and batch sizes.

        Args:
            early: Results of the first race.
            able: Indices of the candidates that can still win.
            cost: Time of each candidate.
        """
        target = self._ctx.target
        best = min(able, key=lambda i: cost[i])
        if self._ctx.late:
            self._ctx.note("The time allowed was used up: other shapes, threads and batch sizes were not tried.")
            return []
        if target.use == "throughput":
            batched = [c for c in vary.throughput_variants(early.candidates[best], target) if c not in early.candidates]
            return self._select_best_rates(batched)
        variations: list[Candidate] = []
        if target.shapes is None:
            for backend in target.backends:
                of_backend = [i for i in able if early.candidates[i].variant.backend == backend]
                fastest = min(of_backend, key=lambda i: cost[i], default=None)
                if fastest is not None and cost[fastest] <= _STATIC_GAIN * cost[best]:
                    variations += self._with_buckets(early.candidates[fastest], early.results[fastest])
        if not target.threads:
            for i in sorted(able, key=lambda i: cost[i])[:2]:
                variations += vary.with_other_threads(early.candidates[i])
        return variations

    def _with_buckets(self, candidate: Candidate, result: CandidateResult) -> list[Candidate]:
        """Return the candidate with the buckets of a first guess, and with better buckets computed from its times."""
        model = self._models[candidate.model]
        graphs = model.float_graphs.graphs
        # Models of several graphs have no static shapes: a graph may read a state, or the outputs of another.
        can_vary = len(graphs) == 1 and bool(graphs[0].signature.varying)
        guess = vary.with_buckets(candidate, model.sizes) if can_vary else None
        if guess is None:
            return []
        settled, measured = settle_all(self._ctx, [guess], allow_none=True)
        if not settled:
            return []
        race = self._race([candidate, settled[0]], _FIRST_ROUNDS)
        task = model.evaluation.task
        sizes = [task.modality.size(encoded.arrays) for encoded in encode_each(task, model.evaluation.inputs)]
        timed_sizes = []
        for turn in turns(len(sizes), _FIRST_ROUNDS, _INPUTS_PER_ROUND):
            timed_sizes.append([sizes[i] for i in turn])
        memory_mb = (result.costs.memory_mb, measured[0].costs.memory_mb)
        limit_mb = self._ctx.target.budget.memory_mb
        better = vary.better_buckets(candidate, settled[0], race, timed_sizes, model.sizes, memory_mb, limit_mb)
        return [settled[0]] if better is None else [settled[0], better]

    def _select_best_rates(self, options: list[Candidate]) -> list[Candidate]:
        """Return the two candidates that predict a list fastest in a short race."""
        race = self._race(options, _SHORT_ROUNDS)
        rates = [float(np.median(r)) for r in race.rows_per_s]
        fastest = sorted(range(len(options)), key=lambda i: -rates[i])[:2]
        return [options[i] for i in sorted(fastest)]

    def _race(self, candidates: Sequence[Candidate], rounds: int) -> Race:
        return race_candidates(self._ctx, candidates, rounds, _INPUTS_PER_ROUND)

    def _trials(self, candidates: Sequence[Candidate], results: Sequence[CandidateResult], race: Race) -> list[Trial]:
        limit = self._ctx.target.budget.accuracy_drop
        return choose.trials(candidates, results, race, self._ctx.evaluation, limit, self._ctx.overhead_mb)

    def _can_win(self, trial: Trial) -> bool:
        """Return whether a trial of the first race may win the last one.

        Its latency is not judged, since a variation may still meet the budget.
        """
        any_speed = replace(self._ctx.target.budget, p50_ms=None)
        over = rejections.excess(trial, any_speed, self._ctx.strict, self._metric.higher_is_better)
        return not over and not rejections.precision_mismatch(trial)

    def _judge_dropped(self, trial: Trial) -> Trial:
        """Return a trial that is not in the last race with the reason as its verdict."""
        budget = self._ctx.target.budget
        over = rejections.excess(trial, budget, self._ctx.strict, self._metric.higher_is_better)
        verdict = over or rejections.precision_mismatch(trial) or "too slow in the first race"
        return replace(trial, verdict=verdict)


def describe_disturbance(race: Race, judged: Sequence[Trial], winner: int) -> str:
    """Return a note if the choice rests on a race that was disturbed; empty otherwise.

    A race is disturbed if the machine was busy, or if its two halves differ by more than equally fast candidates may.

    Args:
        race: Times of the candidates.
        judged: Trials of the race.
        winner: Index of the chosen one.
    """
    noise = race.noise()
    busy = race.busy
    cost = [_cost(trial) for trial in judged]
    others = [c for i, c in enumerate(cost) if i != winner]
    is_busy = busy is not None and busy.loud
    if not others or (noise <= choose.LEVEL and not is_busy):
        return ""
    lead = min(others) / cost[winner]
    cause = f"{busy.text()}; " if busy is not None and is_busy else "the machine was not steady: "
    note = (
        f"While the candidates raced, {cause}two halves of the race differ by up to {noise:.2f} x. "
        f"The next candidate takes {lead:.2f} x the time of the chosen one, "
    )
    if lead > noise:
        return note + "beyond that noise."
    return note + "within that noise. The choice may differ on a quiet machine: build there with --rerace."


def _cost(trial: Trial) -> float:
    """Return the time of a trial: per row of a list if lists were timed, else the median of single inputs."""
    return 1.0 / trial.rows_per_s if trial.rows_per_s else trial.p50_ms
