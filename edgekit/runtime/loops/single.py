"""One forward pass: rows of several lengths are padded to one array, run, and come back row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.backends import Engine
from edgekit.spec.tensor import Signature

SIGNATURE = "forward"


def collate(signature: Signature, rows: Sequence[Mapping[str, np.ndarray]], shapes: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Stacks rows, short ones filled up with each input's pad value.

    Args:
        signature: what the graph takes; an input's ``pad`` fills its rows.
        rows: input name to ``[sequence]``, of any lengths.
        shapes: bucket edges in tokens, ascending. One row is filled up to the smallest that holds it; a longer one, and
            several rows, are left to shapes of any size.

    Returns:
        Input name to ``[batch, sequence]`` in the dtype of the signature; ``sequence`` is the longest row, or its bucket.
    """
    longest = max(len(rows[0][signature.inputs[0].name]), 1) if len(rows) == 1 else max(len(r[signature.inputs[0].name]) for r in rows)
    if len(rows) == 1:
        longest = next((edge for edge in shapes if edge >= longest), longest)
    feeds = {}
    for spec in signature.inputs:
        if len(rows) == 1 and len(rows[0][spec.name]) == longest:
            feeds[spec.name] = rows[0][spec.name][None]
            continue
        filled = np.full((len(rows), longest), 0 if spec.pad is None else spec.pad, spec.dtype)
        for target, row in zip(filled, rows, strict=True):
            target[: len(row[spec.name])] = row[spec.name]
        feeds[spec.name] = filled
    return feeds


def cut(lengths: Sequence[int], rows: int, tokens: int) -> list[list[int]]:
    """Cuts a list into calls of rows of similar length, the shortest first.

    Args:
        lengths: tokens of each row.
        rows: of one call at most, at least 1.
        tokens: rows times padded length of one call at most, a single row excepted; 0 is no limit.

    Returns:
        The rows of each call, by their place in ``lengths``.
    """
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # In ascending order the newest row is the longest of its call: that is what the others are padded to.
        if parts and len(parts[-1]) < rows and (not tokens or (len(parts[-1]) + 1) * lengths[index] <= tokens):
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def run(engine: Engine, signature: Signature, rows: Sequence[Mapping[str, np.ndarray]], shapes: tuple[int, ...] = ()) -> np.ndarray:
    """Runs rows as one batch, a single one in its bucket; returns the first output, ``float32 [batch, ...]``."""
    return np.asarray(engine.run(collate(signature, rows, shapes))[signature.outputs[0].name])
