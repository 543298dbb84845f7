"""Two bundles that were timed at different times: what a machine does between two sessions is part of the interval.

A session is a run in which a bundle is timed by itself; a baseline's file has one or more of them, a check adds its own. The model has one random
effect, the session: the logarithm of a time in a session is the bundle's, plus that of the session, which is normal. How much sessions vary is
estimated from the baseline's, with a prior that stands for ``FREEDOM`` + 1 sessions (a scaled inverse chi-square): a single session says nothing
of it, and a few that lay close together say little of a machine that stays in one state for hours. The session of the check is a new draw, so its
variance does not shrink with the number of the baseline's, and the interval is Student's: Gelman A. et al., Bayesian Data Analysis, 3rd edition
(2013), section 3.3, the posterior predictive distribution of a normal sample with this conjugate prior. Where the sessions vary more than the prior
expects it is dropped, and they alone count, with their own degrees of freedom: the prior is a lower bound, and must not make a noisy machine look
steady. Simulated, a bundle at the margin is then called slower in at most 5.1 % of checks however much sessions vary, of three sessions and more
(6.7 % of two; of one as far as the prior holds).

Probe kernels ran in both sessions (``probe``). A metric is compared in the form that makes the interval the narrowest: as it is, or over the time of
a kernel that follows the bundle through the machine's states, or of both kernels. Which form that is the baseline's sessions decide, and before there
are any the priors. Where the two kernels drift apart from each other between the baseline and now, a bundle may drift from them as much: their distance
is a lower bound of the variance too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgekit.spec.report import Change
from edgekit.spec.subject import Process, Subject
from edgekit.stats.interval import ALPHA, Estimate
from edgekit.timing.probe import PRODUCTS

__all__ = [
    "BOTH",
    "FREEDOM",
    "MOST",
    "PRIOR",
    "PROBED_PRIOR",
    "START",
    "Found",
    "compare",
    "describe_drift",
    "describe_form",
    "forms",
    "in_form",
    "list_sessions",
    "more_sessions",
    "predict",
]

FREEDOM = 3
"""Degrees of freedom of the prior of the variance between sessions."""

PRIOR = {"p50": 0.30, "p90": 0.40, "p99": 0.50, "first_answer": 0.30, "memory": 0.02, "energy": 0.30}
"""Prior standard deviation between sessions of the logarithm of a metric as it is: +56 % between two sessions of one bundle was seen on a shared
machine of two CPUs, which is what a standard deviation of 0.3 makes of every sixth pair of sessions."""

PROBED_PRIOR = {"p50": 0.12, "p90": 0.25, "p99": 0.30, "first_answer": 0.15}
"""The same over a probe kernel. ``benchmarks/baseline_drift.py`` measures what is left then: 0.07 to 0.11 for p50, 0.16 to 0.29 for p90."""

MOST = 30
"""Sessions that a file keeps, and more than which none is asked for."""

BOTH = "both"
"""Form of a metric over the geometric mean of both products."""

START = "start"
"""Stands for the start of the process with the probe kernels, which is what a bundle's start is divided by."""


@dataclass(frozen=True)
class Found:
    """What two sides at different times come to.

    Attributes:
        estimate: logarithm of after over before; its ``pairs`` are degrees of freedom and one.
        spread: standard deviation of the logarithm between two sessions that it was made with.
        probe: form in which both were compared; empty where they were taken as they are.
    """

    estimate: Estimate
    spread: float
    probe: str


def list_sessions(subject: Subject) -> list[tuple[Process, ...]]:
    """Processes of each session of a baseline, the last one last."""
    return [*(session.processes for session in subject.sessions), subject.processes]


def _apart(before: Sequence[Mapping[str, Estimate]], after: Mapping[str, Estimate]) -> float:
    """How far the two products drifted from each other, as the standard deviation between sessions of one of them; 0 where there are no two."""
    drifts = [
        after[f].value - float(np.mean([session[f].value for session in before]))
        for f in after
        if f not in ("", BOTH, START)
    ]
    return abs(drifts[0] - drifts[1]) / math.sqrt(2 * (1 + 1 / len(before))) if len(drifts) == 2 else 0.0


def compare(metric: str, before: Sequence[Mapping[str, Estimate]], after: Mapping[str, Estimate]) -> Found:
    """One metric of a bundle now over that of a baseline, in the form that makes it the surest; of equals the first.

    Args:
        metric: e.g. ``p50``.
        before: what each session of the baseline says, by form.
        after: those of the session now.
    """
    found, apart = [], _apart(before, after)
    for form in after:
        prior = (PROBED_PRIOR if form else PRIOR)[metric]
        found.append(
            Found(*predict([session[form] for session in before], after[form], prior, apart if form else 0.0), form)
        )
    return min(found, key=lambda one: one.estimate.bounds(ALPHA)[1] - one.estimate.value)


def predict(before: Sequence[Estimate], after: Estimate, prior: float, least: float = 0.0) -> tuple[Estimate, float]:
    """The difference of a new session to those of a baseline, and the standard deviation between sessions that its error is made with.

    Args:
        before: logarithms of the baseline's sessions, each with its error within the session.
        after: of the new session.
        prior: standard deviation between sessions, worth ``FREEDOM`` degrees of freedom.
        least: standard deviation between sessions that there is at least.
    """
    values, count = np.array([one.value for one in before]), len(before)
    squares = float(((values - values.mean()) ** 2).sum())
    freedom, variance = FREEDOM + count - 1, (FREEDOM * prior**2 + squares) / (FREEDOM + count - 1)
    if count > 1 and squares / (count - 1) > prior**2:
        freedom, variance = count - 1, squares / (count - 1)
    spread = max(math.sqrt(variance), least)
    # What sessions differ by holds what each is uncertain by; a session that was itself measured worse than that is no better than it says.
    mean_error = math.sqrt(sum(max(spread, one.error) ** 2 for one in before)) / count
    error = math.hypot(max(spread, after.error), mean_error)
    return Estimate(after.value - float(values.mean()), error, freedom + 1), spread


def more_sessions(change: Change, margin: float) -> int | None:
    """How many more sessions of the baseline would settle a change against a margin, if they vary as they did; None where no number would."""
    if change.ratio is None or not change.spread:
        return None
    distance = abs(math.log(change.ratio) - math.log1p(margin))
    for count in range(change.sessions + 1, MOST + 1):
        if Estimate(0.0, change.spread * math.sqrt(1 + 1 / count), count).bounds(ALPHA)[1] < distance:
            return count - change.sessions
    return None


def describe_form(form: str) -> str:
    """A form as people read it, e.g. ``over the probe int8``; empty for times as they are."""
    known = {"": "", START: "over the start of a process with the probes", BOTH: "over the probes int8 and float32"}
    kernel = form.partition(" ")[0]
    return known.get(kernel, f"over the probe {kernel}")


def describe_drift(before: Subject, after: Subject) -> str:
    """What the machine is worth now, over the baseline's sessions, in a sentence; empty where no probe ran in both."""
    found = []
    for kernel in before.processes[-1].probes_ms if before.processes else ():
        times = [
            [t for p in session for asked in p.probes_ms.get(kernel, ()) for t in asked]
            for session in (*list_sessions(before), after.processes)
        ]
        if all(times):
            logs = [float(np.median(np.log(session))) for session in times]
            found.append(f"{kernel.partition(' ')[0]} x {math.exp(logs[-1] - float(np.mean(logs[:-1]))):.2f}")
    return (
        f"This machine's probe kernels now over the baseline's (above 1 is slower): {', '.join(found)}."
        if found
        else ""
    )


def forms(metric: str, sessions: Sequence[Sequence[Process]]) -> list[str]:
    """Forms that a metric can be compared in, the one that is expected to be the surest first: with kernels that ran beside every process of all sessions."""
    every = [process for session in sessions for process in session]
    if metric == "first_answer":
        return [*([START] if all(p.probe_start_ms for p in every) else []), ""]
    if metric not in ("p50", "p90", "p99"):
        return [""]
    ran = [k for k in every[0].probes_ms if all(len(p.probes_ms.get(k, ())) == len(p.blocks_ms) + 1 for p in every)]
    over = [k for k in ran if k.partition(" ")[0] in PRODUCTS]
    return [*([BOTH] if len(over) == 2 else []), *over, ""]


def in_form(process: Process, kernel: str) -> list[float]:
    """Times of all calls of a process, over the median of a kernel's calls before and behind their block, or the geometric mean of both products' medians."""
    kernels = [k for k in process.probes_ms if k.partition(" ")[0] in PRODUCTS] if kernel == BOTH else [kernel]
    logs = [
        [math.log(np.median([*before, *behind])) for before, behind in pairwise(process.probes_ms[k])] for k in kernels
    ]
    worth = np.exp(np.mean(logs, axis=0)).tolist()
    return [t / own for block, own in zip(process.blocks_ms, worth, strict=True) for t in block]
