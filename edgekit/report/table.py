"""Plain text tables: they read the same in a terminal, a log and a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.spec.manifest import HeldOut, Manifest, Trial, Variant

__all__ = ["built_text", "table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Aligns cells in columns.

    Args:
        header: names of the columns.
        rows: cells as text.
        left: columns that are aligned to the left; numbers go to the right.
    """
    widths = [max(len(str(r[c])) for r in [header, *rows]) for c in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        parts = (
            f"{cell:<{w}}" if c in left else f"{cell:>{w}}"
            for c, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *(line(r) for r in rows)])


def _largest_call(trial: Trial) -> str:
    """Rows of the largest call of a list and tokens of each; rows alone where they have no length."""
    if not trial.memory_rows:
        return ""
    return f" ({trial.memory_rows}x{trial.memory_tokens})" if trial.memory_tokens != 1 else f" ({trial.memory_rows})"


def built_text(manifest: Manifest, notes: Sequence[str] = ()) -> list[str]:
    """What a build made, a line or a table each: the candidates, why the winner won, the test set if there was one, and what should be known.

    Args:
        manifest: of the bundle.
        notes: of the build, beside those that the bundle holds.
    """
    m = manifest
    return [
        _trials(m.trials, m.score_name, m.reference_score),
        m.reason,
        *([] if m.held_out is None else [_held_out(m.held_out, m.score_name)]),
        *(_lists(variant) for variant in m.variants),
        *(f"note: {note}" for note in (*m.notes, *notes)),
        *(f"verified here: {said}" for said in m.verified),  # of engines, where the bundle was built
        *(f"not verified:  {said}" for said in m.unverified),
    ]


def _trials(trials: Sequence[Trial], score_name: str, reference: float) -> str:
    """The candidates of a build: what each is, what it costs, and what became of it."""
    many, raced = any(t.rows_per_s for t in trials), any(t.p50_ms for t in trials)
    columns: list[tuple[str, Callable[[Trial], str], bool]] = [  # the last: whether it says anything
        ("model", lambda t: t.model or "as given", any(t.model for t in trials)),
        ("method", lambda t: t.method, True),
        ("backend", lambda t: t.backend, True),
        ("shapes", lambda t: "/".join(map(str, t.shapes)) or "any", any(t.shapes for t in trials)),
        (
            "run",
            lambda t: (
                f"{t.threads}t"
                + (f" {t.streams}s" if t.streams > 1 else "")
                + (" alone" if t.rows == "alone" else f" b{t.batch}" if many else "")
            ),
            True,
        ),
        ("executed", lambda t: t.executed, True),
        (score_name, lambda t: f"{t.score:.4f}", True),
        ("lost/won", lambda t: str(t.changed) if t.losses is None else f"{t.losses}/{t.gains}", True),
        ("p50 ms", lambda t: f"{t.p50_ms:.2f}", raced),
        ("p90 ms", lambda t: f"{t.p90_ms:.2f}", raced),
        ("rows/s", lambda t: f"{t.rows_per_s:.0f}", many),
        ("x float32", lambda t: f"{t.ratio:.2f}" if t.ratio else "-", raced),
        ("start ms", lambda t: f"{t.first_answer_ms:.0f}", raced),
        ("memory MB", lambda t: f"{t.memory_mb:.0f}{_largest_call(t)}", raced),
        ("size MB", lambda t: f"{t.size_mb:.1f}", True),
        ("verdict", lambda t: t.verdict, True),
    ]
    shown = [(name, cell) for name, cell, told in columns if told]
    order = sorted(trials, key=lambda t: (t.verdict != "chosen", -t.rows_per_s, t.p50_ms))
    rows = [tuple(cell(t) for _, cell in shown) for t in order]
    names = [name for name, _ in shown]
    left = [
        i
        for i, name in enumerate(names)
        if name in ("model", "method", "backend", "shapes", "run", "executed", "verdict")
    ]
    pairs = (
        "that only torch, or only the candidate, has right"
        if all(t.losses is not None for t in trials)
        else "answered differently from it"
    )
    words = f"torch float32: {score_name} {reference:.4f} (lost/won: evaluation rows {pairs}"
    run = "; run: threads" + (", s streams, b rows of a batch" if many else "")
    run += ", alone: rows of a list are run one by one" if any(t.rows == "alone" for t in trials) else ""
    run += ", x float32: time over that of float32" if raced else ""
    run += (
        "; memory MB: peak of the process, at a list of so many rows x tokens, the largest call that a list is cut into)"
        if raced
        else ")"
    )
    return f"{table(names, rows, left)}\n{words}{run}"


def _held_out(found: HeldOut, score_name: str) -> str:
    """The test set in a sentence."""
    rows = "" if found.losses is None else f", {found.losses} rows lost, {found.gains} won"
    return (
        f"test set of {found.rows}, scored once: {score_name} {found.score:.4f}, torch {found.reference_score:.4f}; "
        f"drop {found.drop:.4f} (90 % interval {found.drop_low:.4f} to {found.drop_high:.4f}{rows})"
    )


def _lists(v: Variant) -> str:
    """How a list is answered by a variant, and how far that is from its rows alone."""
    how = (
        "rows run one by one"
        if v.rows == "alone"
        else "rows share calls" + (f" of at most {v.max_tokens} tokens" if v.max_tokens else "")
    )
    return f"lists, {v.method} on {v.backend}: {how}" + (f"; {v.lists.text()}" if v.lists is not None else "")
