"""Report: frozen data with a schema version.

``edgekit.report.files`` reads and writes a report, ``edgekit.report.render`` shows it. Its parts are in
``spec/subject.py`` (one bundle) and ``spec/comparison.py`` (two). Texts of samples are only included if
``Report.include_text`` is set.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.spec.comparison import (
    Accuracy,
    Change,
    Drift,
    Faithfulness,
    Flip,
    Recall,
    Robustness,
    Slice,
    Speed,
)
from edgekit.spec.short import ShortRepr
from edgekit.spec.subject import Fingerprint, Subject

# fmt: off
__all__ = [
    "INCOMPARABLE", "INCONCLUSIVE", "KINDS", "MACHINES", "OVER_BUDGET", "PASS", "REGRESSION", "SCHEMA", "VERDICTS",
    "Accuracy", "Change", "Drift", "Faithfulness", "Flip", "Gate", "Recall", "Report", "Robustness", "Slice", "Speed",
]
# fmt: on

SCHEMA = 2
"""Version of the report schema that this version writes, and the only one that it reads."""

KINDS = ("report", "baseline", "compare", "check", "self-check")

PASS = "pass"
REGRESSION = "regression"
OVER_BUDGET = "over budget"
INCONCLUSIVE = "inconclusive"
INCOMPARABLE = "incomparable"
VERDICTS = (PASS, REGRESSION, OVER_BUDGET, INCONCLUSIVE, INCOMPARABLE)

MACHINES = ("latency.", "footprint.")
"""Name prefixes of the gates that are incomparable between different machines."""


@dataclass(frozen=True)
class Gate:
    """One limit and its verdict.

    Attributes:
        name: Name of the gate, e.g. ``latency.p50``, ``accuracy.drop``, ``budget.memory_mb``, ``slice.length=33-64``.
        verdict: One of ``VERDICTS``.
        limit: Largest allowed value: growth as a share, drop in the score's unit, or the budget's unit.
        value: Point estimate in the same unit; None if there is none.
        low, high: Ends of its interval; None if there is none.
        said: One sentence for the reader.
    """

    name: str
    verdict: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    said: str


@dataclass(frozen=True, repr=False)
class Report(ShortRepr):
    """Results of one run.

    Attributes:
        schema: Version of the report schema.
        kind: One of ``KINDS``.
        created: Time of the run in UTC, ISO 8601.
        seed: Random seed for sampling and bootstrap.
        samples: Digest of the samples by ``spec/sealed.py``; ``sha256:HEX`` in reports of earlier releases.
        rows: Number of samples.
        fingerprint: Fingerprint of the machine at the end of the run.
        subjects: The candidate alone, or the baseline and then the candidate.
        accuracy: Accuracy of a comparison.
        speed: Latency and footprint of a comparison.
        faithfulness: Agreement of attributions, if both sides of a comparison can be run.
        robustness: Scores on perturbed texts of such a comparison.
        gates: Gates of a check; the gates of the budget in a report of one bundle.
        notes: Notes for the reader, one sentence each.
        include_text: True if the report contains texts of samples.
        digest: sha256 of all other fields in hex, which detects a damaged file; empty before it is written.
    """

    schema: int
    kind: str
    created: str
    seed: int
    samples: str
    rows: int
    fingerprint: Fingerprint
    subjects: tuple[Subject, ...]
    accuracy: Accuracy | None = None
    speed: Speed | None = None
    faithfulness: Faithfulness | None = None
    robustness: tuple[Robustness, ...] = ()
    gates: tuple[Gate, ...] = ()
    notes: tuple[str, ...] = ()
    include_text: bool = False
    digest: str = ""

    @property
    def verdict(self) -> str:
        """Worst verdict of the gates: regression, over budget, incomparable, inconclusive, pass."""
        verdicts = {gate.verdict for gate in self.gates}
        for verdict in (REGRESSION, OVER_BUDGET, INCOMPARABLE, INCONCLUSIVE):
            if verdict in verdicts:
                return verdict
        return PASS

    def exit_code(self, strict: bool = False, allow_incomparable: bool = False) -> int:
        """Return the exit status of the command line.

        Args:
            strict: True to fail if a gate is inconclusive.
            allow_incomparable: True to pass if latency and footprint come from another machine. Accuracy must be
                comparable, since its samples are available.

        Returns:
            Exit status: 0 for pass, 3 for regression or over budget, 4 for an incomparable gate or, with ``strict``, an
            inconclusive one.
        """
        verdicts = {gate.verdict for gate in self.gates}
        if verdicts & {REGRESSION, OVER_BUDGET}:
            return 3
        if strict and INCONCLUSIVE in verdicts:
            return 4
        for gate in self.gates:
            is_allowed = allow_incomparable and gate.name.startswith(MACHINES)
            if gate.verdict == INCOMPARABLE and not is_allowed:
                return 4
        return 0
