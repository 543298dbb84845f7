"""Plain text tables: they read the same in a terminal, a log and a file."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.spec.manifest import Trial


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Aligns cells in columns.

    Args:
        header: names of the columns.
        rows: cells as text.
        left: columns that are aligned to the left; numbers go to the right.
    """
    widths = [max(len(str(r[c])) for r in [header, *rows]) for c in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        parts = (f"{cell:<{w}}" if c in left else f"{cell:>{w}}" for c, (cell, w) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *(line(r) for r in rows)])


def trials_table(trials: Sequence[Trial], score_name: str, reference: float) -> str:
    """The candidates of a build: what each is, what it costs, and what became of it."""
    rows = [
        (
            t.method,
            t.backend,
            t.executed,
            f"{t.score:.4f}",
            str(t.changed),
            f"{t.p50_ms:.2f}",
            f"{t.p90_ms:.2f}",
            f"{t.first_answer_ms:.0f}",
            f"{t.memory_mb:.0f}",
            f"{t.size_mb:.1f}",
            t.verdict,
        )
        for t in sorted(trials, key=lambda t: t.p50_ms)
    ]
    header = ("method", "backend", "executed", score_name, "changed", "p50 ms", "p90 ms", "start ms", "memory MB", "size MB", "verdict")
    return table(header, rows, left=(0, 1, 2, 10)) + f"\ntorch float32: {score_name} {reference:.4f} (changed: evaluation rows answered differently from it)"
