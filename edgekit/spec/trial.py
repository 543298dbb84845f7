"""Measurements of a build that its manifest records: the candidates, the test set, the check of the torch model."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.spec.agreement import Agreement

__all__ = ["HeldOut", "ReferenceCheck", "Trial"]


@dataclass(frozen=True)
class Trial:
    """Measurements of one candidate in a build, and the decision about it.

    Attributes:
        method: Quantization method.
        backend: Backend that ran the candidate.
        executed: Precision in which the linear layers ran, from the backend's execution record.
        score: Task score on the evaluation samples.
        drop: Loss of score against the torch model: its score minus ``score``, or the reverse for an error rate.
        changed: Number of evaluation rows with another answer than the torch model's.
        p50_ms: Median latency from input to answer in ms, batch 1, timed interleaved with the other candidates.
        p90_ms: 90th percentile of the same latencies, in ms.
        first_answer_ms: Time from process start to the first answer, in ms.
        memory_mb: Peak resident memory of the predicting process, in MiB.
        size_mb: Size of the whole bundle on disk, in MiB.
        verdict: ``chosen``, or the reason why it was not.
        shapes: Bucket edges of the compiled graphs, in tokens; empty for graphs that take any size.
        threads: Threads per call.
        streams: Number of concurrent calls.
        batch: Rows per call when a list is predicted.
        model: Name of the student; empty for the original model.
        in_float: Number of layers that stay in float because of the user or the accuracy budget.
        rows_per_s: Throughput over the evaluation texts as one list, in rows per second, in batches of similar length;
            0 if it was not measured.
        ratio: Latency relative to the fastest float32 candidate, paired by text (relative time per row for the use
            ``throughput``); 0 for float32 candidates.
        ratio_high: Upper end of the ratio's 95 % interval over the timing rounds.
        losses: Number of evaluation rows that only the torch model answers correctly; None if the score is not a mean
            of correct rows.
        gains: Number of evaluation rows that only the candidate answers correctly; None likewise.
        drop_low: Lower end of the drop's 90 % interval.
        drop_high: Upper end of the drop's 90 % interval, which is a one-sided 95 % bound.
        p_value: Two-sided p-value of the exact McNemar test.
        error_growth: Increase of the mean absolute error over the torch model's, in standard deviations of the labels;
            None for labels that are not numbers.
        error_high: One-sided 95 % upper bound of ``error_growth``.
        recall_lost: Label whose recall fell by significantly more than the budget allows, and by how much; empty if
            there is none, or the labels are balanced.
        rows: Mode of calls with a list, see ``Variant.rows``; empty in bundles that do not record it.
        lists: Difference between the answers in lists and those to single rows; None if it was not measured.
        memory_rows, memory_tokens: Number of rows, and tokens per row, of the largest call that a list is split into,
            at which ``memory_mb`` was measured; 0 for a measurement without such a call.
    """

    method: str
    backend: str
    executed: str
    score: float
    drop: float
    changed: int
    p50_ms: float
    p90_ms: float
    first_answer_ms: float
    memory_mb: float
    size_mb: float
    verdict: str = ""
    shapes: tuple[int, ...] = ()
    threads: int = 0
    streams: int = 1
    batch: int = 1
    in_float: int = 0
    model: str = ""
    rows_per_s: float = 0.0
    ratio: float = 0.0
    ratio_high: float = 0.0
    losses: int | None = None
    gains: int | None = None
    drop_low: float = 0.0
    drop_high: float = 0.0
    p_value: float | None = None
    error_growth: float | None = None
    error_high: float | None = None
    recall_lost: str = ""
    rows: str = ""
    lists: Agreement | None = None
    memory_rows: int = 0
    memory_tokens: int = 0


@dataclass(frozen=True)
class HeldOut:
    """Result on a test set, which is scored once, after the choice.

    Attributes:
        rows: Number of rows of the test set.
        score: Score of the chosen candidate.
        reference_score: Score of the torch model.
        drop: Loss of score against the torch model.
        drop_low, drop_high: Ends of the drop's 90 % interval.
        losses, gains: Number of rows that only the torch model, or only the candidate, answers correctly; None if the
            score is not a mean of correct rows.
        p_value: Two-sided p-value of the exact McNemar test.
        digest: Digest of the samples by ``spec/sealed.py``; sha256 in hex in bundles of earlier releases.
    """

    rows: int
    score: float
    reference_score: float
    drop: float
    drop_low: float
    drop_high: float
    losses: int | None
    gains: int | None
    p_value: float | None
    digest: str


@dataclass(frozen=True)
class ReferenceCheck:
    """Evidence that the torch model is better than chance.

    Attributes:
        score_name: ``MCC`` for one label per item, ``mean MCC`` for several, ``R2`` for numbers.
        value: Score on the evaluation samples, 0 for chance level; None if it is not defined.
        low, high: Ends of the 95 % interval; None if ``value`` is None.
        rows: Number of different inputs behind the value.
        outcome: ``clear`` if the interval lies above 0; ``doubtful`` if it does not, or another numbering of the labels
            fits better; ``too few`` if the rows cannot decide.
        accepted: True if it is doubtful and the user accepted it for the build.
        said: Sentence that explains the doubt; empty if there is none.
    """

    score_name: str
    value: float | None
    low: float | None
    high: float | None
    rows: int
    outcome: str
    accepted: bool = False
    said: str = ""
