"""Plain text tables: they read the same in a terminal, a log and a file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.samples.evaluation import RECALL_OF
from edgekit.spec.manifest import HeldOut, Manifest, Trial, Variant, reference_name
from edgekit.spec.text import width, wrap

__all__ = ["built_text", "shown_scores", "table"]

_GAP = "  "
_UNLIMITED = 1_000_000
_SENTENCE = 24  # columns down to which a last column of sentences is narrowed before others are
_RECALLS = 12  # labels whose recall is listed
_LEAST = 16  # columns that a cell of words keeps, however narrow the terminal


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,), columns: int | None = None
) -> str:
    """Return a table with aligned cells; where it is too wide, cells of words are wrapped.

    Args:
        header: Names of the columns.
        rows: Rows of cells, as text.
        left: Indices of the columns of words, which are aligned to the left; numbers are aligned to the right.
        columns: Widest line; None for :data:`edgekit.spec.text.width`.
    """
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[c]) for row in cells) for c in range(len(header))]
    _narrow(widths, cells, left, columns or width.get())
    lines = _lines(cells[0], widths, left)
    lines.append(_GAP.join("-" * w for w in widths))
    for row in cells[1:]:
        lines += _lines(row, widths, left)
    return "\n".join(lines)


def _narrow(widths: list[int], cells: Sequence[Sequence[str]], left: Sequence[int], columns: int) -> None:
    """Take columns from the widest cells of words until a line fits, as far as no word has to be broken."""
    words = [[word for row in cells for word in row[c].split()] for c in range(len(widths))]
    longest = [max(map(len, column), default=0) for column in words]
    # Cells stay readable first; where that is not enough, a column may become as narrow as its longest word.
    for least in (_LEAST, 0):
        while sum(widths) + len(_GAP) * (len(widths) - 1) > columns:
            able = [c for c in left if widths[c] > max(least, longest[c])]
            if not able:
                break
            last = max(able)
            # The last column holds sentences: it gives way first, as far as these stay readable.
            widths[last if widths[last] > _SENTENCE else max(able, key=lambda c: widths[c])] -= 1


def _lines(row: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> list[str]:
    """Return the lines of one row: several where a cell is wrapped."""
    parts = []
    for cell, columns in zip(row, widths, strict=True):
        wrapped = [cell]
        if len(cell) > columns:
            wrapped = textwrap.wrap(cell, columns, break_long_words=False, break_on_hyphens=False)
        parts.append(wrapped)
    lines = []
    for index in range(max(map(len, parts))):
        aligned = []
        for column, (lines_of_cell, columns) in enumerate(zip(parts, widths, strict=True)):
            text = lines_of_cell[index] if index < len(lines_of_cell) else ""
            aligned.append(text.ljust(columns) if column in left else text.rjust(columns))
        lines.append(_GAP.join(aligned).rstrip())
    return lines


def shown_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the scores that a table lists: all, but of many labels' recalls the lowest, in the order of the labels."""
    recalls = sorted((name for name in scores if name.startswith(RECALL_OF)), key=lambda name: scores[name])
    left_out = set(recalls[_RECALLS:])
    return {name: value for name, value in scores.items() if name not in left_out}


def built_text(manifest: Manifest, notes: Sequence[str] = (), *, wide: bool = False) -> list[str]:
    """Return what a build made: the candidates, the reason of the choice, the test set if there was one, and notes.

    Args:
        manifest: Manifest of the bundle.
        notes: Notes of the build beside those of the manifest, a sentence or more each.
        wide: Whether the table has all columns, and the text how lists are run; else what most readers look for.
    """
    paragraphs = [manifest.reason]
    name = reference_name(manifest.provenance)
    if manifest.held_out is not None:
        paragraphs.append(_held_out(manifest.held_out, manifest.score_name, name))
    if wide:
        paragraphs += [_lists(variant) for variant in manifest.variants]
    noted = [
        *(f"note: {note}" for note in (*manifest.notes, *notes)),
        *(f"verified here: {fact}" for fact in manifest.verified),  # of engines, where the bundle was built
        *(f"not verified: {fact}" for fact in manifest.unverified),
    ]
    paragraphs += dict.fromkeys(noted)
    return [
        _trials(manifest.trials, manifest.score_name, (name, manifest.reference_score), wide),
        *(line for paragraph in paragraphs for line in wrap(paragraph)),
    ]


@dataclass(frozen=True)
class _Column:
    """A column of the table of candidates.

    Attributes:
        name: Header.
        cell: Function from a candidate to its cell.
        words: Whether cells are words, which are aligned to the left and may be wrapped.
    """

    name: str
    cell: Callable[[Trial], str]
    words: bool = False


def _trials(trials: Sequence[Trial], score_name: str, reference: tuple[str, float], wide: bool) -> str:
    """Return the candidates of a build: what each is, what it costs and its verdict; then what the columns mean."""
    columns = _all_columns(trials, score_name) if wide else _main_columns(trials, score_name)
    order = sorted(trials, key=lambda t: (t.verdict != "chosen", -t.rows_per_s, t.p50_ms))
    rows = [tuple(column.cell(trial) for column in columns) for trial in order]
    left = [index for index, column in enumerate(columns) if column.words]
    name, score = reference
    legend = _legend(trials, name) if wide else _short_legend(trials)
    words = wrap(f"{name} float32: {score_name} {score:.4f}{legend}")
    names = [column.name for column in columns]
    return "\n".join([table(names, rows, left, _UNLIMITED if wide else None), *words])


def _main_columns(trials: Sequence[Trial], score_name: str) -> list[_Column]:
    """Return the columns that most readers look for."""
    columns = [
        _Column("candidate", _candidate, words=True),
        _Column(score_name, lambda t: f"{t.score:.4f}"),
    ]
    if any(t.rows_per_s for t in trials):
        columns.append(_Column("rows/s", lambda t: f"{t.rows_per_s:.0f}"))
    if any(t.p50_ms for t in trials):
        columns += [
            _Column("p50 ms", lambda t: f"{t.p50_ms:.2f}"),
            _Column("start ms", lambda t: f"{t.first_answer_ms:.0f}"),
            _Column("memory MB", lambda t: f"{t.memory_mb:.0f}"),
        ]
    columns += [_Column("size MB", lambda t: f"{t.size_mb:.1f}"), _Column("verdict", lambda t: t.verdict, words=True)]
    return columns


def _candidate(trial: Trial) -> str:
    """Return method, backend and threads of a candidate, and what else tells it from others."""
    parts = [f"{trial.method} on {trial.backend}", f"{trial.threads}t"]
    if trial.streams > 1:
        parts.append(f"{trial.streams}s")
    if trial.shapes:
        parts.append("shapes " + "/".join(map(str, trial.shapes)))
    name = ", ".join(parts)
    return f"{trial.model}: {name}" if trial.model else name


def _all_columns(trials: Sequence[Trial], score_name: str) -> list[_Column]:
    """Return all columns that tell something of these candidates."""
    many, raced = any(t.rows_per_s for t in trials), any(t.p50_ms for t in trials)

    def run(trial: Trial) -> str:
        parts = [f"{trial.threads}t"]
        if trial.streams > 1:
            parts.append(f"{trial.streams}s")
        if trial.rows == "alone":
            parts.append("alone")
        elif many:
            parts.append(f"b{trial.batch}")
        return " ".join(parts)

    columns = [_Column("model", lambda t: t.model or "as given", words=True)] if any(t.model for t in trials) else []
    columns += [_Column("method", lambda t: t.method, words=True), _Column("backend", lambda t: t.backend, words=True)]
    if any(t.shapes for t in trials):
        columns.append(_Column("shapes", lambda t: "/".join(map(str, t.shapes)) or "any", words=True))
    columns += [
        _Column("run", run, words=True),
        _Column("executed", lambda t: t.executed, words=True),
        _Column(score_name, lambda t: f"{t.score:.4f}"),
        _Column("drop", lambda t: f"{t.drop:.4f}"),
        _Column("lost/won", lambda t: str(t.changed) if t.losses is None else f"{t.losses}/{t.gains}"),
    ]
    if raced:
        columns += [_Column("p50 ms", lambda t: f"{t.p50_ms:.2f}"), _Column("p90 ms", lambda t: f"{t.p90_ms:.2f}")]
    if many:
        columns.append(_Column("rows/s", lambda t: f"{t.rows_per_s:.0f}"))
    if raced:
        columns += [
            _Column("x float32", lambda t: f"{t.ratio:.2f}" if t.ratio else "-"),
            _Column("start ms", lambda t: f"{t.first_answer_ms:.0f}"),
            _Column("memory MB", lambda t: f"{t.memory_mb:.0f}{_largest_call(t)}"),
        ]
    columns += [_Column("size MB", lambda t: f"{t.size_mb:.1f}"), _Column("verdict", lambda t: t.verdict, words=True)]
    return columns


def _largest_call(trial: Trial) -> str:
    """Return rows and tokens a row of the largest call of a list; rows alone where they have no length."""
    if not trial.memory_rows:
        return ""
    return f" ({trial.memory_rows}x{trial.memory_tokens})" if trial.memory_tokens != 1 else f" ({trial.memory_rows})"


def _short_legend(trials: Sequence[Trial]) -> str:
    """Return what the main columns mean."""
    parts = ["t: threads"]
    if any(t.streams > 1 for t in trials):
        parts.append("s: streams")
    return f" ({', '.join(parts)}; all columns: --wide)"


def _legend(trials: Sequence[Trial], reference: str) -> str:
    """Return what all columns mean."""
    run = "run: t threads"
    if any(t.rows_per_s for t in trials):
        run += ", s streams, b rows of a batch"
    if any(t.rows == "alone" for t in trials):
        run += ", alone: rows of a list are run one by one"
    pairs = f"lost/won: evaluation rows that only {reference}, or only the candidate, answers correctly"
    if any(t.losses is None for t in trials):
        pairs = f"lost/won: evaluation rows that are answered differently from {reference}"
    parts = [run, pairs]
    if any(t.p50_ms for t in trials):
        parts += [
            "x float32: time over that of the fastest float32 candidate",
            "memory: peak of the process, in brackets rows x tokens of the largest call",
        ]
    return f" ({'; '.join(parts)})"


def _held_out(held_out: HeldOut, score_name: str, reference: str) -> str:
    """Return the scores on the test set as a sentence."""
    rows = "" if held_out.losses is None else f", {held_out.losses} rows lost, {held_out.gains} won"
    return (
        f"test set of {held_out.rows}, scored once: {score_name} {held_out.score:.4f}, "
        f"{reference} {held_out.reference_score:.4f}; drop {held_out.drop:.4f} "
        f"(90 % interval {held_out.drop_low:.4f} to {held_out.drop_high:.4f}{rows})"
    )


def _lists(variant: Variant) -> str:
    """Return how a variant runs a list, and the largest difference to the same rows alone."""
    how = "rows run one by one"
    if variant.rows != "alone":
        how = "rows share calls" + (f" of at most {variant.max_tokens} tokens" if variant.max_tokens else "")
    measured = f"; {variant.lists.text()}" if variant.lists is not None else ""
    return f"lists, {variant.method} on {variant.backend}: {how}{measured}"
