"""The candidates of a build, from graphs to a choice: what is tried, in which order, and what is left out for want of time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit.machine.cpu import cpu_name
from edgekit.search import choose, vary
from edgekit.search.checks import runs_here
from edgekit.search.contender import Contender
from edgekit.search.race import Answers, Candidate, Race, turns
from edgekit.spec.digests import sha256
from edgekit.spec.errors import BudgetError, OutputError
from edgekit.spec.manifest import Trial, Variant

_FIRST_ROUNDS, _LAST_ROUNDS = 6, 12
_TEXTS_A_ROUND = 20
_IN_REACH = 1.5  # times the fastest: what is slower in the first race is not timed again
_STATIC_GAIN = 2.0  # the most that static shapes have been seen to gain


@dataclass(frozen=True)
class Choice:
    """What a build ships.

    Attributes:
        winner: the candidate that is preferred.
        files: place in the bundle to the file that goes there, of all variants.
        variants: the winner's first; several where the device is to choose.
        reason: why.
        trials: everything that was measured, with verdicts.
        sensitivity: layers by the damage that quantizing each alone does, if that was asked.
        notes: what should be known, a sentence each.
    """

    winner: Candidate
    files: Mapping[str, Path]
    variants: tuple[Variant, ...]
    reason: str
    trials: tuple[Trial, ...]
    sensitivity: Mapping[str, float]
    notes: tuple[str, ...]


@dataclass
class Field:
    """All that compete in one build.

    Attributes:
        contenders: the model itself, then its students.
    """

    contenders: Sequence[Contender]

    def __post_init__(self) -> None:
        """Takes from the first what is the same for all."""
        first = self.contenders[0]
        self.steps, self.aim, self.strict, self.until = first.steps, first.aim, first.strict, first.until
        self.rows, self.reference = first.rows, first.blank.reference_score
        self._said: list[str] = []

    def run(self) -> Choice:
        """Makes the candidates, measures them, and chooses.

        Raises:
            BudgetError: when none is inside the budget.
        """
        first = [c for contender in self.contenders for method in self.aim.methods for c in contender.candidates(method)]
        return self._for_the_device(first) if self.aim.choose_on == "device" else self._by_race(first)

    # ---- chosen here

    def _by_race(self, first: list[Candidate]) -> Choice:
        first, given = self._answered(first)
        race = self._race(first, _FIRST_ROUNDS)
        early = self._trials(first, given, race)
        finalists, last = self._finalists(first, given, early)
        if len(finalists) > 1 and finalists != first:
            race = self._race(finalists, _LAST_ROUNDS)
            late = self._trials(finalists, last, race)
        else:
            finalists, last, late = first, given, early
        winner, reason, judged = choose.choose(late, self.aim, self.rows.task.score_name, self.reference, strict=self.strict)
        gone = [self._lost_early(t) for c, t in zip(first, early, strict=True) if c not in finalists]
        best = finalists[winner]
        variant = replace(best.variant, executed=judged[winner].executed)
        self._say_if_unresolved(last[winner])
        self._say_if_disturbed(race, judged, winner)
        sensitivity = self._of(best).sensitivity.get(variant.method, {}) if "keep_float" in variant.recipe else {}
        return Choice(best, _files(best), (variant,), reason, (*judged, *gone), sensitivity, self._notes())

    def _finalists(self, first: list[Candidate], given: list[Answers], early: list[Trial]) -> tuple[list[Candidate], list[Answers]]:
        """Those that can still win, float32 to compare with, and variations of the fastest."""
        able = [i for i, t in enumerate(early) if not choose.excess(t, replace(self.aim.budget, p50_ms=None), self.strict) and not choose.not_as_asked(t)]
        if not able:
            return first, given
        cost = [1.0 / t.rows_per_s if t.rows_per_s else t.p50_ms for t in early]
        best = min(able, key=lambda i: cost[i])
        kept = [i for i in able if cost[i] <= _IN_REACH * cost[best]]
        for contender in self.contenders:
            floats = [i for i, t in enumerate(early) if t.method == choose.FLOAT and t.model == contender.name]
            kept += [min(floats, key=lambda i: cost[i])] if floats else []
        kept = sorted(set(kept))
        more: list[Candidate] = []
        if not self._late("other shapes, threads and batch sizes were not tried"):
            if self.aim.use == "throughput":
                more += self._best_of([c for c in vary.for_throughput(first[best], self.aim) if c not in first])
            else:
                for backend in self.aim.backends if self.aim.shapes is None else ():
                    ours = min((i for i in able if first[i].variant.backend == backend), key=lambda i: cost[i], default=None)
                    if ours is not None and cost[ours] <= _STATIC_GAIN * cost[best]:
                        more += self._with_buckets(first[ours], given[ours])
                fastest = sorted(able, key=lambda i: cost[i])[:2] if not self.aim.threads else []
                more += [c for i in fastest for c in vary.with_other_threads(first[i])]
        more, theirs = self._answered(more, or_none=True)
        return [first[i] for i in kept] + more, [given[i] for i in kept] + theirs

    def _with_buckets(self, candidate: Candidate, given: Answers) -> list[Candidate]:
        """The candidate with the best buckets, and with those that they were found by."""
        contender = self._of(candidate)
        guess = vary.with_buckets(candidate, contender.lengths)
        if guess is None:
            return []
        settled, answers = self._answered([guess], or_none=True)
        if not settled:
            return []
        guess, costs = settled[0], answers[0]
        race = self._race([candidate, guess], _FIRST_ROUNDS)
        tokens = contender.rows.task.preprocess(contender.rows.texts)
        timed = [[len(tokens[i]) for i in turn] for turn in turns(len(tokens), _FIRST_ROUNDS, _TEXTS_A_ROUND)]
        limit = self.aim.budget.memory_mb
        better = vary.better_buckets(candidate, guess, race, timed, contender.lengths, (given.memory_mb, costs.memory_mb), limit)
        return [c for c in (guess, better) if c is not None]

    def _answered(self, candidates: Sequence[Candidate], or_none: bool = False) -> tuple[list[Candidate], list[Answers]]:
        """What candidates answer, each run so that an answer depends on its input alone; those whose answers are not finite are left out.

        Args:
            candidates: with their rows together or alone, as their graphs need it.
            or_none: that none is left is no error.

        Returns:
            The candidates as they are to be raced, and what each answers.

        Raises:
            OutputError: when none is left.
        """
        able: list[tuple[Candidate, Answers]] = []
        problem: OutputError | None = None
        for candidate in candidates:
            try:
                settled = self._settled(candidate)
            except OutputError as found:
                problem = found
                self._say(f"{candidate} was left out: {found}")
                continue
            if settled[0] not in [c for c, _ in able]:
                able.append(settled)
        if problem is not None and not able and not or_none:
            raise problem
        return [c for c, _ in able], [a for _, a in able]

    def _settled(self, candidate: Candidate) -> tuple[Candidate, Answers]:
        """The candidate with its rows alone where lists change its answers, and with lists cut to fit into the memory."""
        given = self.steps.answers(candidate, self.rows.samples, self.aim.budget.memory_mb)
        if (alone := self._alone(candidate, given)) is not None:
            return self._settled(alone)
        return _measured(candidate, given), given

    def _settled_for_the_device(self, candidate: Candidate) -> tuple[Candidate, Answers, str]:
        """The same of a candidate for a device elsewhere, as far as its backend runs here; and why it cannot be used, empty where it can."""
        given, trouble = self.steps.for_the_device(candidate, self.rows, self.aim)
        if not runs_here(candidate.variant.backend):
            return candidate, given, trouble
        if (alone := self._alone(candidate, given)) is not None:
            return self._settled_for_the_device(alone)
        return _measured(candidate, given), given, trouble

    def _alone(self, candidate: Candidate, given: Answers) -> Candidate | None:
        """The candidate with its rows alone where lists change its answers too much, which is noted."""
        if given.lists is None or given.lists.kept or candidate.variant.rows == "alone":
            return None
        v = candidate.variant
        self._say(f"{v.method} on {v.backend}: {given.lists.text()}. So its rows are run one by one, and it was raced like that.")
        return replace(candidate, variant=replace(v, rows="alone"))

    def _say(self, note: str) -> None:
        if note not in self._said:
            self._said.append(note)

    def _best_of(self, options: list[Candidate]) -> list[Candidate]:
        """The two that answer a list fastest in a short race."""
        race = self._race(options, 2)
        rates = [float(np.median(r)) for r in race.rows_per_s]
        return [options[i] for i in sorted(sorted(range(len(options)), key=lambda i: -rates[i])[:2])]

    def _race(self, candidates: list[Candidate], rounds: int) -> Race:
        return self.steps.race(candidates, self.rows.samples, rounds, _TEXTS_A_ROUND, self.aim.use == "throughput", self.until)

    def _trials(self, candidates: list[Candidate], given: list[Answers], race: Race | None) -> list[Trial]:
        return choose.trials(candidates, given, race, self.rows.task, self.rows.reference, self.rows.truth, self.rows.texts, self.aim.budget.accuracy_drop)

    def _lost_early(self, trial: Trial) -> Trial:
        reason = choose.excess(trial, self.aim.budget, self.strict) or choose.not_as_asked(trial)
        return replace(trial, verdict=reason or "out of reach in the first race")

    def _late(self, what: str) -> bool:
        late = self.until is not None and time.monotonic() > self.until
        if late:
            self._said.append(f"The time allowed was used up: {what}.")
        return late

    def _say_if_unresolved(self, given: Answers) -> None:
        limit = self.aim.budget.accuracy_drop
        compared = self.rows.compare(given.logits)
        same = np.array_equal(given.logits, self.rows.reference)  # to the last bit: nothing was lost
        if limit is not None and not same and not compared.resolved(limit):
            self._said.append(f"Accuracy of the chosen candidate: {compared.text(limit)}.")

    def _say_if_disturbed(self, race: Race, judged: Sequence[Trial], winner: int) -> None:
        """What the choice rests on where the machine was busy, or where two halves of the race differ by more than candidates may to be level."""
        noise, busy = race.noise(), race.busy
        cost = [1.0 / t.rows_per_s if t.rows_per_s else t.p50_ms for t in judged]
        others = [c for i, c in enumerate(cost) if i != winner]
        if not others or (noise <= choose.LEVEL and (busy is None or not busy.loud)):
            return
        lead = min(others) / cost[winner]
        meanwhile = f"{busy.text()}; " if busy is not None and busy.loud else "the machine was not steady: "
        rests = f" The next candidate takes {lead:.2f} x the time of the chosen one, {'within' if lead <= noise else 'beyond'} that noise."
        rests += " The choice may be another on a quiet machine: build there with --rerace." if lead <= noise else ""
        self._said.append(f"While the candidates raced, {meanwhile}two halves of the race differ by up to {noise:.2f} x.{rests}")

    # ---- chosen by the device

    def _for_the_device(self, first: list[Candidate]) -> Choice:
        """The two that the target prefers among those inside what can be judged here: accuracy and size."""
        trials = []
        for candidate in first:
            candidate, given, trouble = self._settled_for_the_device(candidate)
            (trial,) = self._trials([candidate], [given], None)
            trials.append((candidate, given, replace(trial, verdict=trouble)))
        judgeable = replace(self.aim.budget, p50_ms=None, memory_mb=None, first_answer_ms=None)
        reasons = [t.verdict or choose.excess(t, judgeable, self.strict) for _, _, t in trials]
        able = [i for i, reason in enumerate(reasons) if not reason]
        # A bundle has one set of assets: both finalists must be of models with the same tokenizer and labels.
        chosen = [i for i in able if _assets(first[i]) == _assets(first[able[0]])][:2]
        if not chosen:
            lines = "\n".join(f"  {t.method} on {t.backend}: {reason}" for (_, _, t), reason in zip(trials, reasons, strict=True))
            raise BudgetError(f"No candidate is inside the budget of target '{self.aim.name}', so nothing was written:\n{lines}")
        verdicts = {i: "shipped: the device chooses" for i in chosen}
        judged = tuple(replace(t, verdict=verdicts.get(i) or reasons[i] or "less preferred by the target") for i, (_, _, t) in enumerate(trials))
        named = " and ".join(f"{judged[i].method} on {judged[i].backend}" for i in chosen)
        reason = f"{named}: preferred by target '{self.aim.name}' in this order; not raced here ({cpu_name()}), the device races them at its first load."
        self._said.append("Latency, start and memory were not measured: this machine does not stand for the device.")
        self._say_if_unresolved(trials[chosen[0]][1])
        variants, files = [], dict[str, Path]()
        for index in chosen:
            candidate, own = trials[index][0], _files(trials[index][0])
            # Weights are named by their content; a graph is shared where it is the same, and needs a name of its own where not.
            renamed = {
                g: g if g not in files or sha256(files[g]) == sha256(own[g]) else f"graphs/{candidate.variant.method}-{Path(g).name}"
                for g in candidate.variant.graphs.values()
            }
            files |= {renamed.get(name, name): file for name, file in own.items()}
            graphs = {name: renamed[g] for name, g in candidate.variant.graphs.items()}
            variants.append(replace(candidate.variant, executed=judged[index].executed, graphs=graphs))
        best = trials[chosen[0]][0]
        return Choice(best, files, tuple(variants), reason, judged, self._of(best).sensitivity.get(variants[0].method, {}), self._notes())

    def _of(self, candidate: Candidate) -> Contender:
        return next(c for c in self.contenders if c.name == candidate.model)

    def _notes(self) -> tuple[str, ...]:
        return (*(note for contender in self.contenders for note in contender.notes), *self._said)


def _measured(candidate: Candidate, given: Answers) -> Candidate:
    """The candidate with what was measured of its lists, where that was."""
    if given.lists is None:
        return candidate
    return replace(candidate, variant=replace(candidate.variant, lists=given.lists, max_tokens=given.max_tokens))


def _files(candidate: Candidate) -> dict[str, Path]:
    return {name: candidate.bundle.path / name for name in candidate.bundle.manifest.files}


def _assets(candidate: Candidate) -> list[tuple[str, str]]:
    return sorted((name, file.sha256) for name, file in candidate.bundle.manifest.files.items() if name.startswith("assets/"))
