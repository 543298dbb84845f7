"""Plain-text tables, which look the same in a terminal, a log and a file."""

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
_SENTENCE = 24
"""Minimum width of a last column of sentences, in characters, before other columns are narrowed."""

_RECALLS = 12
"""Maximum number of labels whose recall is listed."""

_LEAST = 16
"""Minimum width of a column of words, in characters, unless the terminal is too narrow for it."""


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,), columns: int | None = None
) -> str:
    """Return a table with aligned cells. If it is too wide, cells of words are wrapped.

    Args:
        header: Names of the columns.
        rows: Rows of cells, as text.
        left: Indices of the columns of words, which are aligned to the left. Numbers are aligned to the right.
        columns: Maximum line width, in characters. Default: :data:`edgekit.spec.text.width`.
    """
    cells = [list(map(str, row)) for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    _narrow(widths, cells, left, columns or width.get())
    lines = _format_row(cells[0], widths, left)
    lines.append(_GAP.join("-" * w for w in widths))
    for row in cells[1:]:
        lines += _format_row(row, widths, left)
    return "\n".join(lines)


def _narrow(widths: list[int], cells: Sequence[Sequence[str]], left: Sequence[int], columns: int) -> None:
    """Reduce the widths of the columns of words, the widest first, until a line fits; no word is broken.

    Args:
        widths: Widths of all columns, in characters; changed in place.
        cells: Rows of cells, the header first.
        left: Indices of the columns of words.
        columns: Maximum line width, in characters.
    """
    longest_words = []
    for index in range(len(widths)):
        words = [word for row in cells for word in row[index].split()]
        longest_words.append(max(map(len, words), default=0))
    # Cells stay readable at first. If that is not enough, a column may become as narrow as its longest word.
    for least in (_LEAST, 0):
        while sum(widths) + len(_GAP) * (len(widths) - 1) > columns:
            reducible = [index for index in left if widths[index] > max(least, longest_words[index])]
            if not reducible:
                break
            # The last column holds sentences. It is narrowed first, as far as these stay readable.
            index = max(reducible)
            if widths[index] <= _SENTENCE:
                index = max(reducible, key=widths.__getitem__)
            widths[index] -= 1


def _format_row(row: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> list[str]:
    """Return the lines of one row: several if a cell is wrapped."""
    wrapped_cells = []
    for cell, columns in zip(row, widths, strict=True):
        wrapped = [cell]
        if len(cell) > columns:
            wrapped = textwrap.wrap(cell, columns, break_long_words=False, break_on_hyphens=False)
        wrapped_cells.append(wrapped)
    lines = []
    for index in range(max(map(len, wrapped_cells))):
        aligned = []
        for column, (lines_of_cell, columns) in enumerate(zip(wrapped_cells, widths, strict=True)):
            text = lines_of_cell[index] if index < len(lines_of_cell) else ""
            aligned.append(text.ljust(columns) if column in left else text.rjust(columns))
        lines.append(_GAP.join(aligned).rstrip())
    return lines


def shown_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the scores that a table lists: all but the highest recalls, if there are many labels.

    Args:
        scores: Score by name.

    Returns:
        Score by name, in the same order, with the lowest :data:`_RECALLS` recalls.
    """
    recalls = sorted((name for name in scores if name.startswith(RECALL_OF)), key=lambda name: scores[name])
    omitted = set(recalls[_RECALLS:])
    return {name: value for name, value in scores.items() if name not in omitted}


def built_text(manifest: Manifest, notes: Sequence[str] = (), *, wide: bool = False) -> list[str]:
    """Return the result of a build as text: candidates, reason of the choice, test set if there is one, and notes.

    Args:
        manifest: Manifest of the bundle.
        notes: Notes of the build that are not in the manifest, each of one or more sentences.
        wide: Whether the table has all columns and the text describes lists; otherwise only the main columns.

    Returns:
        The table as one string, then the lines of the text.
    """
    paragraphs = [manifest.reason]
    name = reference_name(manifest.provenance)
    if manifest.held_out is not None:
        paragraphs.append(_describe_test_set(manifest.held_out, manifest.score_name, name))
    if wide:
        paragraphs += [_describe_lists(variant) for variant in manifest.variants]
    remarks = [f"note: {note}" for note in (*manifest.notes, *notes)]
    # Facts about engines, on the machine that built the bundle.
    remarks += [f"verified here: {fact}" for fact in manifest.verified]
    remarks += [f"not verified: {fact}" for fact in manifest.unverified]
    paragraphs += dict.fromkeys(remarks)
    lines = [_format_trials(manifest.trials, manifest.score_name, (name, manifest.reference_score), wide)]
    for paragraph in paragraphs:
        lines += wrap(paragraph)
    return lines


@dataclass(frozen=True)
class _Column:
    """A column of the table of candidates.

    Attributes:
        name: Header of the column.
        cell: Function from a candidate to its cell.
        words: Whether the cells are words, which are aligned to the left and may be wrapped.
    """

    name: str
    cell: Callable[[Trial], str]
    words: bool = False


def _format_trials(trials: Sequence[Trial], score_name: str, reference: tuple[str, float], wide: bool) -> str:
    """Return the table of candidates with their costs and verdicts, and a legend of the columns.

    Args:
        trials: Candidates of the build.
        score_name: Name of the score, e.g. ``accuracy``.
        reference: Name of the reference model, and its score.
        wide: Whether the table has all columns.
    """
    columns = _select_all_columns(trials, score_name) if wide else _select_main_columns(trials, score_name)
    rows = []
    for trial in sorted(trials, key=lambda t: (t.verdict != "chosen", -t.rows_per_s, t.p50_ms)):
        rows.append([column.cell(trial) for column in columns])
    left = [index for index, column in enumerate(columns) if column.words]
    name, score = reference
    legend = _format_legend(trials, name) if wide else _format_short_legend(trials)
    legend_lines = wrap(f"{name} float32: {score_name} {score:.4f}{legend}")
    names = [column.name for column in columns]
    return "\n".join([table(names, rows, left, _UNLIMITED if wide else None), *legend_lines])


def _select_main_columns(trials: Sequence[Trial], score_name: str) -> list[_Column]:
    """Return the columns that most readers need."""
    columns = [
        _Column("candidate", _name_candidate, words=True),
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


def _name_candidate(trial: Trial) -> str:
    """Return the method, backend and threads of a candidate, and its streams, shapes and model if they vary."""
    parts = [f"{trial.method} on {trial.backend}", f"{trial.threads}t"]
    if trial.streams > 1:
        parts.append(f"{trial.streams}s")
    if trial.shapes:
        parts.append("shapes " + "/".join(map(str, trial.shapes)))
    name = ", ".join(parts)
    return f"{trial.model}: {name}" if trial.model else name


def _select_all_columns(trials: Sequence[Trial], score_name: str) -> list[_Column]:
    """Return all columns that have values for these candidates."""
    has_throughput = any(t.rows_per_s for t in trials)
    has_latency = any(t.p50_ms for t in trials)

    def describe_run(trial: Trial) -> str:
        parts = [f"{trial.threads}t"]
        if trial.streams > 1:
            parts.append(f"{trial.streams}s")
        if trial.rows == "alone":
            parts.append("alone")
        elif has_throughput:
            parts.append(f"b{trial.batch}")
        return " ".join(parts)

    columns = []
    if any(t.model for t in trials):
        columns.append(_Column("model", lambda t: t.model or "as given", words=True))
    columns += [_Column("method", lambda t: t.method, words=True), _Column("backend", lambda t: t.backend, words=True)]
    if any(t.shapes for t in trials):
        columns.append(_Column("shapes", lambda t: "/".join(map(str, t.shapes)) or "any", words=True))
    columns += [
        _Column("run", describe_run, words=True),
        _Column("executed", lambda t: t.executed, words=True),
        _Column(score_name, lambda t: f"{t.score:.4f}"),
        _Column("drop", lambda t: f"{t.drop:.4f}"),
        _Column("lost/won", lambda t: str(t.changed) if t.losses is None else f"{t.losses}/{t.gains}"),
    ]
    if has_latency:
        columns += [_Column("p50 ms", lambda t: f"{t.p50_ms:.2f}"), _Column("p90 ms", lambda t: f"{t.p90_ms:.2f}")]
    if has_throughput:
        columns.append(_Column("rows/s", lambda t: f"{t.rows_per_s:.0f}"))
    if has_latency:
        columns += [
            _Column("x float32", lambda t: f"{t.ratio:.2f}" if t.ratio else "-"),
            _Column("start ms", lambda t: f"{t.first_answer_ms:.0f}"),
            _Column("memory MB", lambda t: f"{t.memory_mb:.0f}{_format_largest_call(t)}"),
        ]
    columns += [_Column("size MB", lambda t: f"{t.size_mb:.1f}"), _Column("verdict", lambda t: t.verdict, words=True)]
    return columns


def _format_largest_call(trial: Trial) -> str:
    """Return the rows, and the tokens per row, of a list's largest call; only the rows if rows have no length."""
    if not trial.memory_rows:
        return ""
    if trial.memory_tokens == 1:
        return f" ({trial.memory_rows})"
    return f" ({trial.memory_rows}x{trial.memory_tokens})"


def _format_short_legend(trials: Sequence[Trial]) -> str:
    """Return the legend of the main columns."""
    parts = ["t: threads"]
    if any(t.streams > 1 for t in trials):
        parts.append("s: streams")
    return f" ({', '.join(parts)}; all columns: --wide)"


def _format_legend(trials: Sequence[Trial], reference: str) -> str:
    """Return the legend of all columns."""
    run = "run: t threads"
    if any(t.rows_per_s for t in trials):
        run += ", s streams, b rows per batch"
    if any(t.rows == "alone" for t in trials):
        run += ", alone: rows of a list are run one by one"
    pairs = f"lost/won: evaluation rows that only {reference}, or only the candidate, answers correctly"
    if any(t.losses is None for t in trials):
        pairs = f"lost/won: evaluation rows whose answers differ from those of {reference}"
    parts = [run, pairs]
    if any(t.p50_ms for t in trials):
        parts += [
            "x float32: latency relative to the fastest float32 candidate",
            "memory: peak of the process, with rows x tokens of the largest call in parentheses",
        ]
    return f" ({'; '.join(parts)})"


def _describe_test_set(held_out: HeldOut, score_name: str, reference: str) -> str:
    """Return the scores on the test set as a sentence."""
    rows = "" if held_out.losses is None else f", {held_out.losses} rows lost, {held_out.gains} won"
    return (
        f"test set of {held_out.rows}, scored once: {score_name} {held_out.score:.4f}, "
        f"{reference} {held_out.reference_score:.4f}; drop {held_out.drop:.4f} "
        f"(90 % interval {held_out.drop_low:.4f} to {held_out.drop_high:.4f}{rows})"
    )


def _describe_lists(variant: Variant) -> str:
    """Return how a variant runs a list of rows, and the largest difference from the same rows alone."""
    mode = "rows run one by one"
    if variant.rows != "alone":
        mode = "rows share calls" + (f" of at most {variant.max_tokens} tokens" if variant.max_tokens else "")
    agreement = f"; {variant.lists.text()}" if variant.lists is not None else ""
    return f"lists, {variant.method} on {variant.backend}: {mode}{agreement}"
