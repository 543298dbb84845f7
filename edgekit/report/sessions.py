"""Comparison of two bundles that were timed in different sessions.

A session is a run that times one bundle alone. A baseline file has one or more sessions, and a check adds one. The
machine may be in another state in each session, so the interval includes the variation between sessions.

The model has one random effect, the session: the logarithm of a time is the value of the bundle plus the effect of the
session, which is normal. The variance between sessions is estimated from the sessions of the baseline with a scaled
inverse chi-square prior that is worth ``FREEDOM`` + 1 sessions. The prior is needed because one session shows no
variance, and a few similar sessions show little of a machine that stays in one state for hours.

The session of the check is a new draw. Its variance does not shrink with the number of baseline sessions. The interval
is Student's t: the posterior predictive distribution of a normal sample with this conjugate prior (Gelman A. et al.,
Bayesian Data Analysis, 3rd edition, 2013, section 3.3). If the sessions vary more than the prior expects, the prior is
dropped and the sessions count alone, with their own degrees of freedom. The prior is a lower bound, and must not make a
noisy machine look steady. In simulations, a bundle at the margin is called slower in at most 5.1 % of the checks with
three or more sessions, and in 6.7 % with two, however much sessions vary. With one session this holds as far as the
prior does.

Probe kernels run in both sessions (:mod:`edgekit.timing.probe`). A metric is compared in the form with the narrowest
interval: as measured, over the time of a kernel that follows the bundle through the states of the machine, or over both
kernels. The sessions of the baseline decide which form that is; a single session leaves it to the priors. If the two
kernels drift apart between the baseline and this session, the bundle may drift from them as much. Their distance is
therefore another lower bound of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

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
    "SessionComparison",
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
"""Prior standard deviation between sessions, of the logarithm of a metric as measured.

On a shared machine with two CPUs, two sessions of one bundle differed by 56 %. With a standard deviation of 0.3, every
sixth pair of sessions differs by that much.
"""

PROBED_PRIOR = {"p50": 0.12, "p90": 0.25, "p99": 0.30, "first_answer": 0.15}
"""Prior standard deviation between sessions, of the logarithm of a metric over a probe kernel.

``benchmarks/baseline_drift.py`` measures 0.07 to 0.11 for p50, and 0.16 to 0.29 for p90.
"""

MOST = 30
"""Largest number of sessions that a file keeps and that a report asks for."""

BOTH = "both"
"""Form of a metric over the geometric mean of the INT8 and float32 kernels."""

START = "start"
"""Form of the cold start over the start of the process with the probe kernels."""


@dataclass(frozen=True)
class SessionComparison:
    """Comparison of one metric between the sessions of a baseline and a new session.

    Attributes:
        estimate: Logarithm of after over before; its ``pairs`` are the degrees of freedom plus 1.
        spread: Standard deviation of the logarithm between sessions, as used for the estimate.
        probe: Form in which both were compared; empty for times as measured.
    """

    estimate: Estimate
    spread: float
    probe: str


def list_sessions(subject: Subject) -> list[tuple[Process, ...]]:
    """Return the processes of each session of a baseline, in order of time."""
    return [*(session.processes for session in subject.sessions), subject.processes]


def compare(metric: str, before: Sequence[Mapping[str, Estimate]], after: Mapping[str, Estimate]) -> SessionComparison:
    """Compare one metric of a new session with a baseline, in the form with the narrowest interval.

    Args:
        metric: Name of the metric, e.g. ``p50``.
        before: Logarithm of the metric by form, for each session of the baseline.
        after: Logarithm of the metric by form, for the new session.

    Returns:
        The comparison; the first form if several are equally narrow.
    """
    kernel_drift = _kernel_drift(before, after)
    comparisons = []
    for form, estimate in after.items():
        prior = (PROBED_PRIOR if form else PRIOR)[metric]
        least = kernel_drift if form else 0.0
        difference, spread = predict([session[form] for session in before], estimate, prior, least)
        comparisons.append(SessionComparison(difference, spread, form))
    return min(comparisons, key=_half_width)


def _half_width(comparison: SessionComparison) -> float:
    return comparison.estimate.bounds(ALPHA)[1] - comparison.estimate.value


def _kernel_drift(before: Sequence[Mapping[str, Estimate]], after: Mapping[str, Estimate]) -> float:
    """Return the drift between the two kernels, as the standard deviation between sessions of one; 0 without both."""
    drifts = []
    for form, estimate in after.items():
        if form not in ("", BOTH, START):
            drifts.append(estimate.value - float(np.mean([session[form].value for session in before])))
    if len(drifts) != 2:
        return 0.0
    return abs(drifts[0] - drifts[1]) / math.sqrt(2 * (1 + 1 / len(before)))


def predict(before: Sequence[Estimate], after: Estimate, prior: float, least: float = 0.0) -> tuple[Estimate, float]:
    """Return the difference between a new session and a baseline, and the standard deviation between sessions.

    Args:
        before: Logarithms of the sessions of the baseline, each with its error within the session.
        after: Logarithm of the new session.
        prior: Prior standard deviation between sessions, worth ``FREEDOM`` degrees of freedom.
        least: Lower bound of the standard deviation between sessions.
    """
    count = len(before)
    values = np.array([estimate.value for estimate in before])
    squares = float(((values - values.mean()) ** 2).sum())
    freedom = FREEDOM + count - 1
    variance = (FREEDOM * prior**2 + squares) / freedom
    if count > 1 and squares / (count - 1) > prior**2:
        freedom = count - 1
        variance = squares / (count - 1)
    spread = max(math.sqrt(variance), least)
    # The variation between sessions already includes the error within each session. A session with a larger error of
    # its own counts with that error.
    mean_error = math.sqrt(sum(max(spread, estimate.error) ** 2 for estimate in before)) / count
    error = math.hypot(max(spread, after.error), mean_error)
    return Estimate(after.value - float(values.mean()), error, freedom + 1), spread


def more_sessions(change: Change, margin: float) -> int | None:
    """Return how many more baseline sessions would decide a change against a margin.

    The number assumes that further sessions vary as much as the present ones.

    Returns:
        Number of sessions; None if no number up to ``MOST`` would decide.
    """
    if change.ratio is None or not change.spread:
        return None
    distance = abs(math.log(change.ratio) - math.log1p(margin))
    for count in range(change.sessions + 1, MOST + 1):
        if Estimate(0.0, change.spread * math.sqrt(1 + 1 / count), count).bounds(ALPHA)[1] < distance:
            return count - change.sessions
    return None


def describe_form(form: str) -> str:
    """Return a form in words, e.g. ``over the probe int8``; empty for times as measured."""
    kernel = form.partition(" ")[0]
    names = {"": "", START: "over the start of a process with the probes", BOTH: "over the probes int8 and float32"}
    return names.get(kernel, f"over the probe {kernel}")


def describe_drift(before: Subject, after: Subject) -> str:
    """Return the speed of the machine relative to the baseline in a sentence; empty without probes on both sides."""
    kernels = before.processes[-1].probes_ms if before.processes else ()
    sessions = [*list_sessions(before), after.processes]
    ratios = []
    for kernel in kernels:
        times = [_probe_times(session, kernel) for session in sessions]
        if all(times):
            medians = [float(np.median(np.log(session))) for session in times]
            ratio = math.exp(medians[-1] - float(np.mean(medians[:-1])))
            ratios.append(f"{kernel.partition(' ')[0]} x {ratio:.2f}")
    if not ratios:
        return ""
    return f"This machine's probe kernels now over the baseline's (above 1 is slower): {', '.join(ratios)}."


def _probe_times(session: Sequence[Process], kernel: str) -> list[float]:
    return [time for process in session for calls in process.probes_ms.get(kernel, ()) for time in calls]


def forms(metric: str, sessions: Sequence[Sequence[Process]]) -> list[str]:
    """Return the forms in which a metric can be compared, the one with the narrowest expected interval first.

    Forms over a kernel need the kernel beside every process of all sessions.
    """
    processes = list(chain.from_iterable(sessions))
    if metric == "first_answer":
        has_probes = all(process.probe_start_ms for process in processes)
        return [START, ""] if has_probes else [""]
    if metric not in ("p50", "p90", "p99"):
        return [""]
    kernels = []
    for kernel in processes[0].probes_ms:
        is_complete = all(len(p.probes_ms.get(kernel, ())) == len(p.blocks_ms) + 1 for p in processes)
        if is_complete and kernel.partition(" ")[0] in PRODUCTS:
            kernels.append(kernel)
    return [BOTH, *kernels, ""] if len(kernels) == 2 else [*kernels, ""]


def in_form(process: Process, form: str) -> list[float]:
    """Return the times of all calls of a process, divided by the time of a kernel around their block.

    The time of a kernel is the median of its calls before and after the block. For ``both`` it is the geometric mean
    over the kernels.
    """
    kernels = [form]
    if form == BOTH:
        kernels = [kernel for kernel in process.probes_ms if kernel.partition(" ")[0] in PRODUCTS]
    logs = [_log_medians(process, kernel) for kernel in kernels]
    kernel_times = np.exp(np.mean(logs, axis=0)).tolist()
    blocks = zip(process.blocks_ms, kernel_times, strict=True)
    return [time / kernel_time for block, kernel_time in blocks for time in block]


def _log_medians(process: Process, kernel: str) -> list[float]:
    """Return the logarithm of the median time of a kernel around each block."""
    return [math.log(np.median([*before, *after])) for before, after in pairwise(process.probes_ms[kernel])]
