"""One forward pass for each window of a row: what is longer than the model is read in windows that overlap, and comes back as one row.

A row of this loop is the windows of an input, one after the other: each graph input is the concatenation along its first axis, and ``windows`` holds their
sizes. Outputs are concatenated in the same way. Arrays that no graph takes (``windows`` itself, and what a task keeps there of its input) come back beside
the outputs, so that these explain themselves. A row without ``windows`` is a single one.
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
    """Runs rows, see :class:`edgekit.spec.protocols.Loop`. A call has no more windows than there are rows: a single row is run window by window."""
    outputs: list[Arrays] = []
    for call in calls(signatures, rows):
        outputs += single.run(engines, signatures, call, shapes)
    return merge_windows(signatures[SIGNATURES[0]], rows, outputs)


def record(
    engines: Mapping[str, Runs], signatures: Mapping[str, Signature], rows: Sequence[Arrays]
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Feeds of the one graph for the calls that :meth:`run` makes of these rows."""
    (name,) = SIGNATURES
    return {name: [single.collate(signatures[name], call) for call in calls(signatures, rows)]}


def calls(signatures: Mapping[str, Signature], rows: Sequence[Arrays]) -> list[Sequence[Arrays]]:
    """Windows of each call that :meth:`run` makes of these rows."""
    parts = split_windows(signatures[SIGNATURES[0]], rows)
    return [parts[start : start + len(rows)] for start in range(0, len(parts), len(rows))]


def split_windows(signature: Signature, rows: Sequence[Arrays]) -> list[Arrays]:
    """The windows of all rows, row by row: graph inputs by name."""
    names = [spec.name for spec in signature.inputs]
    parts: list[Arrays] = []
    for row in rows:
        if len(row.get(WINDOWS, ())) < 2:
            parts.append({name: row[name] for name in names})
            continue
        ends = np.cumsum(row[WINDOWS])
        pieces = {name: np.split(row[name], ends[:-1]) for name in names}
        parts += [{name: pieces[name][i] for name in names} for i in range(len(ends))]
    return parts


def merge_windows(signature: Signature, rows: Sequence[Arrays], outputs: Sequence[Arrays]) -> list[Arrays]:
    """Outputs of windows as outputs of rows, with the arrays of each row that no graph takes.

    Args:
        signature: of the graph.
        rows: whose windows :func:`split_windows` gave.
        outputs: of each of these windows, in their order.
    """
    taken = {spec.name for spec in signature.inputs}
    place, found = 0, list[Arrays]()
    for row in rows:
        count = max(1, len(row.get(WINDOWS, ())))
        parts = outputs[place : place + count]
        place += count
        joined = (
            dict(parts[0])
            if count == 1
            else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )
        found.append({**joined, **{name: array for name, array in row.items() if name not in taken}})
    return found
