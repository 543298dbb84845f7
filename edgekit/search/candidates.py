"""The search for the winner: which candidates are tried, in which order, what is left out for want of time, and all that goes into the winner's bundle.

The size of a bundle is known when it is whole, and counts in the choice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.machine.cpu import cpu_name
from edgekit.runtime import golden
from edgekit.search import choose, goldens, record, vary
from edgekit.search.choose import Choice
from edgekit.search.engines import Verified, verify_engines
from edgekit.search.measure import note_if_unresolved, note_label_scores, race_candidates, settle, settle_all
from edgekit.search.models import ModelEntry, make_candidates
from edgekit.search.race import turns
from edgekit.spec.digests import sha256
from edgekit.spec.errors import BudgetError
from edgekit.spec.manifest import FileEntry, Manifest, dumps, reference_name
from edgekit.spec.rows import encode_each

if TYPE_CHECKING:
    from edgekit.search.context import BuildContext
    from edgekit.search.record import Candidate, CandidateResult, Race
    from edgekit.spec.manifest import Trial, Variant

__all__ = ["Whole", "choose_whole", "describe_disturbance"]

_LOG = logging.getLogger(__name__)

_FIRST_ROUNDS, _SHORT_ROUNDS, _LAST_ROUNDS = 6, 2, 12
_INPUTS_A_ROUND = 20
_IN_REACH = 1.5  # times the fastest: what is slower in the first race is not timed again
_SHIPPED = 2  # variants that a device chooses from
_STATIC_GAIN = 2.0  # the most that static shapes have been seen to gain


@dataclass(frozen=True)
class Whole:
    """What a build ships.

    Attributes:
        choice: the winner, and all trials with sizes of whole bundles.
        manifest: of the bundle, but for its files and what a test set adds.
        files: place in the bundle to content.
    """

    choice: Choice
    manifest: Manifest
    files: Mapping[str, Path | bytes]


def choose_whole(
    ctx: BuildContext, models: Sequence[ModelEntry], describe: Callable[[BuildContext, Choice, Verified], Manifest]
) -> Whole:
    """Searches for the winner, and adds what devices need beyond graphs: engines, and golden inputs with answers to compare with.

    Candidates are judged by their graphs and assets first. Where the winner is too large once its bundle is whole, all are judged anew with what every
    bundle has beside these (what was measured is kept), and then with one variant for a device in place of two.

    Args:
        ctx: the build.
        models: the model itself, then its students.
        describe: makes the manifest of a choice, but for its files, with the notes of the context.

    Raises:
        BudgetError: when none is inside the budget.
    """
    limit_mb = ctx.target.budget.size_mb
    shipped, noted = _SHIPPED, dict(ctx.notes)
    while True:
        choice = _search(ctx, models, shipped)
        engines, winner = verify_engines(ctx, choice), choice.winner
        graphs = next(model.float_graphs for model in models if model.name == winner.model)
        inputs = goldens.make(choice.variants, choice.files, winner.bundle, graphs, ctx.target, ctx.cache.scratch)
        files = {**choice.files, **engines.files, golden.FILE: inputs, record.FILE: ctx.recorded.text().encode()}
        manifest = describe(ctx, choice, engines)
        size_mb = _size_mb(manifest, files)
        # Engines, and other variants that are shipped with the winner, are no part of what every bundle has beside its graphs and assets.
        beside_mb = (
            size_mb
            - winner.bundle.size / 2**20
            - choose.files_mb(choice.files)
            + choose.files_mb(winner.files)
            - choose.files_mb(engines.files)
        )
        if limit_mb is None or size_mb <= limit_mb + 1e-9:
            judged = tuple(replace(trial, size_mb=trial.size_mb - ctx.beside_mb + beside_mb) for trial in choice.trials)
            return Whole(replace(choice, trials=judged), replace(manifest, trials=judged), files)
        if beside_mb <= ctx.beside_mb + 1e-9:
            if len(choice.variants) == 1:
                engine = f", {choose.files_mb(engines.files):.3g} MB of it its engine" if engines.files else ""
                raise BudgetError(
                    f"{choice.reason} Its whole bundle has {size_mb:.4g} MB{engine}, and size_mb allows {limit_mb:g}. Raise it.",
                    code="budget-size",
                )
            shipped = 1
        # What was searched in time is searched again, from the cache; what was said of the first choice is not true of the next.
        ctx = replace(ctx, beside_mb=max(ctx.beside_mb, beside_mb), notes=dict(noted), repeated=not ctx.late)


def _size_mb(manifest: Manifest, files: Mapping[str, Path | bytes]) -> float:
    listed = {
        name: FileEntry("0" * 64, len(content) if isinstance(content, bytes) else content.stat().st_size)
        for name, content in files.items()
    }
    return choose.files_mb({**files, "": dumps(replace(manifest, files=listed)).encode()})


def _search(ctx: BuildContext, models: Sequence[ModelEntry], shipped: int) -> Choice:
    """Makes the candidates of all models, measures them, and chooses; ``shipped`` variants at most for a device."""
    candidates = [
        candidate
        for model in models
        for method in ctx.target.methods
        for candidate in make_candidates(ctx, model, method)
    ]
    _LOG.info("%d candidates: %s", len(candidates), ", ".join(map(str, candidates)))
    for candidate in candidates:
        _LOG.debug("candidate %s: %s", candidate, candidate.variant)
    return (
        _choose_for_device(ctx, candidates, shipped)
        if ctx.target.choose_on == "device"
        else _HostSearch(ctx, models).run(candidates)
    )


@dataclass(frozen=True)
class _Raced:
    """Candidates with what each answered and, after a race, its trial."""

    candidates: list[Candidate]
    results: list[CandidateResult]
    trials: list[Trial]


class _HostSearch:
    """Races candidates on this machine: all of them briefly, then the fastest and their variations at length."""

    def __init__(self, ctx: BuildContext, models: Sequence[ModelEntry]) -> None:
        """Binds what all of its steps need."""
        self._ctx = ctx
        self._models = {model.name: model for model in models}
        self._metric = ctx.evaluation.task.metrics[0]

    def run(self, candidates: Sequence[Candidate]) -> Choice:
        """Measures candidates and chooses."""
        first, results = settle_all(self._ctx, candidates)
        race = self._race(first, _FIRST_ROUNDS)
        early = _Raced(first, results, self._trials(first, results, race))
        finalists, results = self._finalists(early)
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
        out_early = [
            self._lost_early(t) for c, t in zip(early.candidates, early.trials, strict=True) if c not in last.candidates
        ]
        best = last.candidates[winner]
        for trial in judged:
            _LOG.info("%s on %s, p50 %.3f ms: %s", trial.method, trial.backend, trial.p50_ms, trial.verdict)
        _LOG.info("decision: %s", reason)
        note_if_unresolved(self._ctx, last.results[winner])
        note_label_scores(self._ctx, last.results[winner])
        self._ctx.note(*filter(None, [describe_disturbance(race, judged, winner)]))
        variant = replace(best.variant, executed=judged[winner].executed)
        return Choice(best, best.files, (variant,), reason, (*judged, *out_early))

    def _finalists(self, early: _Raced) -> tuple[list[Candidate], list[CandidateResult]]:
        """Those that can still win, float32 to compare with, and variations of the fastest."""
        able = [i for i, trial in enumerate(early.trials) if self._can_win(trial)]
        if not able:
            return early.candidates, early.results
        cost = [_cost(trial) for trial in early.trials]
        best = min(able, key=lambda i: cost[i])
        kept = {i for i in able if cost[i] <= _IN_REACH * cost[best]}
        for model in self._models:
            floats = [i for i, t in enumerate(early.trials) if t.method == choose.FLOAT and t.model == model]
            kept.update([min(floats, key=lambda i: cost[i])] if floats else [])
        candidates, results = settle_all(self._ctx, self._variations(early, able, cost), allow_none=True)
        order = sorted(kept)
        return [early.candidates[i] for i in order] + candidates, [early.results[i] for i in order] + results

    def _variations(self, early: _Raced, able: Sequence[int], cost: Sequence[float]) -> list[Candidate]:
        """Other shapes, threads and batch sizes of the fastest candidates."""
        target = self._ctx.target
        best = min(able, key=lambda i: cost[i])
        if self._ctx.late:
            self._ctx.note("The time allowed was used up: other shapes, threads and batch sizes were not tried.")
            return []
        if target.use == "throughput":
            return self._best_of(
                [c for c in vary.for_throughput(early.candidates[best], target) if c not in early.candidates]
            )
        varied: list[Candidate] = []
        for backend in target.backends if target.shapes is None else ():
            of_backend = [i for i in able if early.candidates[i].variant.backend == backend]
            fastest = min(of_backend, key=lambda i: cost[i], default=None)
            if fastest is not None and cost[fastest] <= _STATIC_GAIN * cost[best]:
                varied += self._with_buckets(early.candidates[fastest], early.results[fastest])
        for i in sorted(able, key=lambda i: cost[i])[:2] if not target.threads else []:
            varied += vary.with_other_threads(early.candidates[i])
        return varied

    def _with_buckets(self, candidate: Candidate, result: CandidateResult) -> list[Candidate]:
        """The candidate with the best buckets, and with those that they were found by."""
        model = self._models[candidate.model]
        graphs = (
            model.float_graphs.graphs
        )  # of several, one may take what another gives, or a state: those have no static shapes
        varies = len(graphs) == 1 and bool(graphs[0].signature.varying)
        guess = vary.with_buckets(candidate, model.sizes) if varies else None
        if guess is None:
            return []
        settled, measured = settle_all(self._ctx, [guess], allow_none=True)
        if not settled:
            return []
        race = self._race([candidate, settled[0]], _FIRST_ROUNDS)
        task = model.evaluation.task
        sizes = [task.modality.size(encoded.arrays) for encoded in encode_each(task, model.evaluation.inputs)]
        timed = [[sizes[i] for i in turn] for turn in turns(len(sizes), _FIRST_ROUNDS, _INPUTS_A_ROUND)]
        memory_mb, limit_mb = (result.costs.memory_mb, measured[0].costs.memory_mb), self._ctx.target.budget.memory_mb
        better = vary.better_buckets(candidate, settled[0], race, timed, model.sizes, memory_mb, limit_mb)
        return [settled[0]] if better is None else [settled[0], better]

    def _best_of(self, options: list[Candidate]) -> list[Candidate]:
        """The two that answer a list fastest in a short race."""
        race = self._race(options, _SHORT_ROUNDS)
        rates = [float(np.median(r)) for r in race.rows_per_s]
        fastest = sorted(range(len(options)), key=lambda i: -rates[i])[:2]
        return [options[i] for i in sorted(fastest)]

    def _race(self, candidates: Sequence[Candidate], rounds: int) -> Race:
        return race_candidates(self._ctx, candidates, rounds, _INPUTS_A_ROUND)

    def _trials(self, candidates: Sequence[Candidate], results: Sequence[CandidateResult], race: Race) -> list[Trial]:
        return choose.trials(
            candidates, results, race, self._ctx.evaluation, self._ctx.target.budget.accuracy_drop, self._ctx.beside_mb
        )

    def _can_win(self, trial: Trial) -> bool:
        """Whether a trial of the first race may win the last one; a variation may still be fast enough for the budget."""
        any_speed = replace(self._ctx.target.budget, p50_ms=None)
        return not choose.excess(
            trial, any_speed, self._ctx.strict, self._metric.higher_is_better
        ) and not choose.not_as_asked(trial)

    def _lost_early(self, trial: Trial) -> Trial:
        reason = choose.excess(trial, self._ctx.target.budget, self._ctx.strict, self._metric.higher_is_better)
        return replace(trial, verdict=reason or choose.not_as_asked(trial) or "out of reach in the first race")


def describe_disturbance(race: Race, judged: Sequence[Trial], winner: int) -> str:
    """What a choice rests on where the machine was busy, or where two halves of the race differ by more than candidates may to be level; else empty."""
    noise, busy = race.noise(), race.busy
    cost = [_cost(trial) for trial in judged]
    others = [c for i, c in enumerate(cost) if i != winner]
    loud = busy is not None and busy.loud
    if not others or (noise <= choose.LEVEL and not loud):
        return ""
    lead = min(others) / cost[winner]
    meanwhile = f"{busy.text()}; " if busy is not None and loud else "the machine was not steady: "
    rests = f" The next candidate takes {lead:.2f} x the time of the chosen one, {'within' if lead <= noise else 'beyond'} that noise."
    rests += " The choice may be another on a quiet machine: build there with --rerace." if lead <= noise else ""
    return f"While the candidates raced, {meanwhile}two halves of the race differ by up to {noise:.2f} x.{rests}"


def _cost(trial: Trial) -> float:
    """Time that a trial takes: of a row of a list where throughput counts, else the median of single inputs."""
    return 1.0 / trial.rows_per_s if trial.rows_per_s else trial.p50_ms


def _choose_for_device(ctx: BuildContext, candidates: Sequence[Candidate], shipped: int) -> Choice:
    """For a device that is not here: the ``shipped`` ones that the target prefers of those inside what can be judged here, accuracy and size; it races them.

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
    chosen = [i for i in able if _assets(candidates[i]) == _assets(candidates[able[0]])][:shipped]
    limit_mb = target.budget.size_mb
    if limit_mb is not None and len(chosen) > 1:
        both = choose.files_mb(_together([candidates[i] for i in chosen])[1]) - choose.files_mb(
            candidates[chosen[0]].files
        )
        chosen = chosen if trials[chosen[0]].size_mb + both <= limit_mb else chosen[:1]
    if not chosen:
        lines = "\n".join(f"  {t.method} on {t.backend}: {reason}" for t, reason in zip(trials, reasons, strict=True))
        raise BudgetError(
            f"No candidate is inside the budget of target '{target.name}', so nothing was written:\n{lines}",
            code="budget-none-inside",
        )
    verdicts = [reason or "less preferred by the target" for reason in reasons]
    for index in chosen:
        verdicts[index] = "shipped: the device chooses"
    judged = tuple(replace(trial, verdict=verdict) for trial, verdict in zip(trials, verdicts, strict=True))
    named = " and ".join(f"{judged[i].method} on {judged[i].backend}" for i in chosen)
    reason = f"{named}: preferred by target '{target.name}' in this order; not raced here ({cpu_name()}), the device races them at its first load."
    for trial in judged:
        _LOG.info("%s on %s: %s", trial.method, trial.backend, trial.verdict)
    _LOG.info("decision: %s", reason)
    ctx.note("Latency, start and memory were not measured: this machine does not stand for the device.")
    note_if_unresolved(ctx, settled[chosen[0]][1])
    note_label_scores(ctx, settled[chosen[0]][1])
    taken = [
        replace(settled[i][0], variant=replace(settled[i][0].variant, executed=judged[i].executed)) for i in chosen
    ]
    variants, files = _together(taken)
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
    return sorted(
        (name, file.sha256) for name, file in candidate.bundle.manifest.files.items() if name.startswith("assets/")
    )
