"""Floor 8: candidates (method x backend) are measured on this machine; the fastest inside the budget wins.

Every candidate is a real bundle in a process of its own, so memory and start are its own too. Latencies are taken in
turns, a few texts of each candidate at a time, so that a change of the machine's speed meets all of them alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgekit.backends import mostly_int8
from edgekit.engines.measure import latency
from edgekit.engines.trust import Bundle
from edgekit.runtime.worker import Worker
from edgekit.samples import Samples
from edgekit.spec.errors import BudgetError
from edgekit.spec.manifest import Trial
from edgekit.spec.progress import Progress
from edgekit.spec.target import Budget, Target
from edgekit.tasks.text_classification import TextClassification

_ROUNDS = 8
_TEXTS_A_ROUND = 25
_WARM_UP = 5
_TEXTS_A_REQUEST = 100
_LEVEL = 1.05
_UNITS = {"accuracy_drop": "", "p50_ms": " ms", "memory_mb": " MB", "first_answer_ms": " ms", "size_mb": " MB"}


@dataclass(frozen=True)
class Candidate:
    """A bundle that may win."""

    method: str
    backend: str
    bundle: Bundle


def race(candidates: Sequence[Candidate], task: TextClassification, samples: Samples, reference: np.ndarray, progress: Progress) -> list[Trial]:
    """Measures all candidates.

    Args:
        candidates: each a complete bundle.
        task: scores their outputs.
        samples: evaluation rows with labels.
        reference: what the torch model answers on them: float32 ``[rows, labels]``.
        progress: told after each part.

    Returns:
        One trial a candidate, in their order, without verdicts.

    Raises:
        BackendError: when a candidate cannot run.
    """
    texts = [row.inputs for row in samples.rows]
    truth = task.parse_labels(samples.labels(), samples.where)
    with contextlib.ExitStack() as stack:
        workers, first, answers = [], [], []
        for index, candidate in enumerate(candidates):
            worker = stack.enter_context(Worker(candidate.bundle.path))
            workers.append(worker)
            first.append(worker.first_answer_ms(texts[0]))
            parts = []
            for start in range(0, len(texts), _TEXTS_A_REQUEST):
                parts.append(worker.logits(texts[start : start + _TEXTS_A_REQUEST]))
                progress("evaluate candidates", index * len(texts) + start, len(candidates) * len(texts))
            answers.append(np.concatenate(parts))
        times: list[list[float]] = [[] for _ in workers]
        chosen = [texts[i] for i in np.linspace(0, len(texts) - 1, _ROUNDS * _TEXTS_A_ROUND).astype(int)]
        for turn in range(_ROUNDS):
            part = chosen[turn * _TEXTS_A_ROUND : (turn + 1) * _TEXTS_A_ROUND]
            for worker, own in zip(workers, times, strict=True):
                own += worker.time([*part[:_WARM_UP], *part])[_WARM_UP:]
            progress("race candidates", turn + 1, _ROUNDS)
        memory = [worker.memory_mb() for worker in workers]
        executed = [worker.executed_precision() for worker in workers]
    trials = []
    for index, candidate in enumerate(candidates):
        summary = latency(times[index])
        assert summary.p50_ms is not None
        assert summary.p90_ms is not None
        trials.append(
            Trial(
                method=candidate.method,
                backend=candidate.backend,
                executed=executed[index],
                score=task.score(answers[index], truth),
                drop=task.score(reference, truth) - task.score(answers[index], truth),
                changed=task.changed(answers[index], reference),
                p50_ms=summary.p50_ms,
                p90_ms=summary.p90_ms,
                first_answer_ms=first[index],
                memory_mb=memory[index],
                size_mb=candidate.bundle.size / 2**20,
            )
        )
    return trials


def choose(trials: Sequence[Trial], target: Target, score_name: str, reference: float) -> tuple[int, str, list[Trial]]:
    """Picks the fastest trial inside the budget; among those level with it (within 5 %, about this protocol's noise) the one with the least memory.

    Returns:
        Its index, the reason in words, and all trials with their verdicts.

    Raises:
        BudgetError: when none is inside, with how far each is.
    """
    reasons = [excess(trial, target.budget) or _not_as_asked(trial) for trial in trials]
    inside = [i for i, reason in enumerate(reasons) if not reason]
    if not inside:
        lines = "\n".join(f"  {t.method} on {t.backend}: {reason}" for t, reason in zip(trials, reasons, strict=True))
        raise BudgetError(
            f"No candidate is inside the budget of target '{target.name}', so nothing was written:\n{lines}\n"
            f"(torch float32: {score_name} {reference:.4f}). Loosen it with --budget KEY=VALUE, or give a model with more margin."
        )
    fastest = min(trials[i].p50_ms for i in inside)
    level = [i for i in inside if trials[i].p50_ms <= fastest * _LEVEL]
    winner = min(level, key=lambda i: (trials[i].memory_mb, trials[i].p50_ms))
    won = trials[winner]
    judged = [
        replace(t, verdict="chosen" if i == winner else reasons[i] or f"{t.p50_ms / won.p50_ms:.2f} x the time of the chosen one")
        for i, t in enumerate(trials)
    ]
    rivals = [t for i, t in enumerate(trials) if i != winner and t.method == "float32"]
    against = min(rivals, key=lambda t: t.p50_ms, default=None)
    limits = ", ".join(f"{k} {v:g}" for k, v in vars(target.budget).items() if v is not None) or "none"
    how = "the fastest" if won.p50_ms == fastest else "level with the fastest, and has the least memory,"
    reason = f"{won.method} on {won.backend} is {how} of the {len(inside)} candidate(s) inside the budget ({limits}): p50 {won.p50_ms:.2f} ms"
    if against is not None:
        reason += f", {against.p50_ms / won.p50_ms:.2f} x as fast as float32 on {against.backend}"
    return winner, f"{reason}; {score_name} {won.score:.4f}, torch {reference:.4f}.", judged


def excess(trial: Trial, budget: Budget) -> str:
    """What of the budget a trial breaks, in words; empty when nothing."""
    over = []
    for key, limit in vars(budget).items():
        measured = trial.drop if key == "accuracy_drop" else getattr(trial, key)
        # Scores are ratios of counts: without slack a drop of exactly the limit fails in its last bit.
        if limit is not None and not measured <= limit + 1e-9:  # so that NaN is over
            over.append(f"{key} {measured:.4g}{_UNITS[key]} over {limit:g}{_UNITS[key]}")
    return "over budget: " + ", ".join(over) if over else ""


def _not_as_asked(trial: Trial) -> str:
    """A candidate that is called INT8 but multiplied in float is refused, however fast it is."""
    low = trial.method == "float32" or mostly_int8(trial.executed)
    return "" if low else f"refused: its linears were to run in int8, they ran in {trial.executed}"

