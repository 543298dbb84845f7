"""Loop of one forward pass per window: a row longer than the model is read in overlapping windows and returned whole.

A row of this loop holds the windows of an input one after the other: each graph input is their concatenation along the
first axis, and ``windows`` holds their sizes. Outputs are concatenated in the same way. A row without ``windows`` is a
single window.

Arrays that no graph takes (``windows``, and data that a task stores with its input) are returned beside the outputs, so
that the outputs can be interpreted without the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.runtime.loops import single
from edgekit.spec.protocols import Arrays, Runs
from edgekit.spec.tensor import Signature

__all__ = ["SIGNATURES", "WINDOWS", "calls", "merge_windows", "record", "run", "split_windows"]

SIGNATURES = single.SIGNATURES
WINDOWS = "windows"
"""Name of the array of a row that holds the sizes of its windows, int64 ``[windows]``."""


def run(
    engines: Mapping[str, Runs],
    signatures: Mapping[str, Signature],
    rows: Sequence[Arrays],
    shapes: Sequence[int] = (),
    options: Mapping[str, Any] | None = None,
) -> list[Arrays]:
    """Run rows. See :class:`edgekit.spec.protocols.Loop`.

    A call has at most as many windows as there are rows, so a single row is run window by window.
    """
    outputs: list[Arrays] = []
    for call in calls(signatures, rows):
        outputs += single.run(engines, signatures, call, shapes)
    return merge_windows(signatures[SIGNATURES[0]], rows, outputs)


def record(
    engines: Mapping[str, Runs], signatures: Mapping[str, Signature], rows: Sequence[Arrays]
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Return the feeds of the graph for each call of a :meth:`run` of these rows."""
    (name,) = SIGNATURES
    return {name: [single.collate(signatures[name], call) for call in calls(signatures, rows)]}


def calls(signatures: Mapping[str, Signature], rows: Sequence[Arrays]) -> list[Sequence[Arrays]]:
    """Return the windows of each call of a :meth:`run` of these rows."""
    windows = split_windows(signatures[SIGNATURES[0]], rows)
    return [windows[start : start + len(rows)] for start in range(0, len(windows), len(rows))]


def split_windows(signature: Signature, rows: Sequence[Arrays]) -> list[Arrays]:
    """Return the windows of all rows, row by row: arrays by name, the inputs of the graph only."""
    names = [spec.name for spec in signature.inputs]
    windows: list[Arrays] = []
    for row in rows:
        if len(row.get(WINDOWS, ())) < 2:
            windows.append({name: row[name] for name in names})
            continue
        ends = np.cumsum(row[WINDOWS])
        pieces = {name: np.split(row[name], ends[:-1]) for name in names}
        for index in range(len(ends)):
            windows.append({name: pieces[name][index] for name in names})
    return windows


def merge_windows(signature: Signature, rows: Sequence[Arrays], outputs: Sequence[Arrays]) -> list[Arrays]:
    """Merge the outputs of windows into outputs of rows, and add the arrays of each row that no graph takes.

    Args:
        signature: Signature of the graph.
        rows: Rows whose windows were run.
        outputs: Outputs of each window, in the order of :func:`split_windows`.

    Returns:
        Arrays by name for each row.
    """
    input_names = {spec.name for spec in signature.inputs}
    start = 0
    merged: list[Arrays] = []
    for row in rows:
        count = max(1, len(row.get(WINDOWS, ())))
        parts = outputs[start : start + count]
        start += count
        joined = dict(parts[0])
        if count > 1:
            for name in joined:
                joined[name] = np.concatenate([part[name] for part in parts])
        joined.update({name: array for name, array in row.items() if name not in input_names})
        merged.append(joined)
    return merged
