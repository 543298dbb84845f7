"""The teacher's answers, computed once and kept in a folder: no training step runs the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.compress._layers import tapped
from edgekit.compress._loss import gram
from edgekit.compress.objective import Objective
from edgekit.source.batches import run
from edgekit.spec.errors import ModelError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays
from edgekit.spec.rows import finite, pack, unpack

_BATCH = 32
_POOL = 50 * _BATCH  # rows that are sorted by length together and written in their own order


@dataclass(frozen=True)
class Targets:
    """What the teacher says of each row.

    Attributes:
        outputs: of each row.
        sizes: ``int64 [rows]``: tokens of each row after the last layer; None where relations were not asked for.
        cosines: float16, flat, mapped from the file: row after row ``[size, size]``, the cosines of all pairs of tokens; or None.
    """

    outputs: Sequence[Arrays]
    sizes: np.ndarray | None
    cosines: np.ndarray | None

    def relation(self, indices: Sequence[int]) -> tuple[Any, Any]:
        """Cosines of some rows, float32 ``[batch, sequence, sequence]``, and which tokens are real, bool ``[batch, sequence]``."""
        import torch

        assert self.sizes is not None
        assert self.cosines is not None
        sizes = self.sizes[indices]
        made = np.zeros((len(indices), sizes.max(), sizes.max()), np.float32)
        for place, index, size in zip(made, indices, sizes, strict=True):
            place[:size, :size] = self.cosines[self._starts[index] : self._starts[index] + size * size].reshape(size, size)
        return torch.from_numpy(made), torch.arange(int(sizes.max())) < torch.from_numpy(sizes)[:, None]

    def __post_init__(self) -> None:
        """Knows where each row begins."""
        sizes = np.zeros(0, np.int64) if self.sizes is None else self.sizes
        object.__setattr__(self, "_starts", np.concatenate([[0], np.cumsum(sizes * sizes)]))

    _starts: np.ndarray = None  # type: ignore[assignment]


def answer(teacher: Any, rows: Sequence[Arrays], objective: Objective, relations: bool, folder: Path, progress: Progress) -> None:
    """Runs the teacher over rows and writes ``outputs.npz``, and for relations ``sizes.npy`` and ``cosines.f16``.

    Args:
        teacher: in evaluation mode.
        rows: input name to array.
        objective: how it is run.
        relations: also write the cosines of all pairs of tokens after the last layer.
        folder: where.
        progress: told after each batch.

    Raises:
        ModelError: when an answer is not finite.
    """
    outputs: dict[int, Arrays] = {}
    sizes = np.zeros(len(rows), np.int64)
    with tapped(teacher) as seen, (folder / "cosines.f16").open("wb") as stream:
        for start in range(0, len(rows), _POOL):
            pool = range(start, min(start + _POOL, len(rows)))
            if not relations:
                outputs.update(answers_to(teacher, rows, objective, pool, partial(_told, progress, start, len(rows))))
                continue
            cosines: dict[int, np.ndarray] = {}
            for chosen, feeds, answers in _forward(teacher, rows, pool, objective):
                outputs.update(zip(chosen, answers, strict=True))
                products, mask = gram(seen[0]).cpu().numpy().astype(np.float16), feeds.get("attention_mask")
                if mask is not None and mask.shape[1] != products.shape[1]:
                    mask = None  # of audio samples, and there are fewer tokens than those
                for place, index in enumerate(chosen):
                    size = sizes[index] = int(mask[place].sum()) if mask is not None else products.shape[1]
                    cosines[index] = products[place, :size, :size]
                progress("teacher's answers", len(outputs), len(rows))
            stream.write(b"".join(cosines[i].tobytes() for i in pool))
    every = [outputs[i] for i in range(len(rows))]
    if broken := int((~finite(every)).sum()):
        raise ModelError(f"The teacher's answers to {broken} of {len(rows)} rows are not finite numbers. A model that gives NaN cannot teach: train it again.")
    np.savez(folder / "outputs.npz", **pack(every))  # type: ignore[arg-type]
    if relations:
        np.save(folder / "sizes.npy", sizes)


def read(folder: Path) -> Targets:
    """What :func:`answer` wrote."""
    with np.load(folder / "outputs.npz", allow_pickle=False) as stored:
        outputs = unpack(dict(stored))
    if not (folder / "sizes.npy").is_file():
        return Targets(outputs, None, None)
    return Targets(outputs, np.load(folder / "sizes.npy", allow_pickle=False), np.memmap(folder / "cosines.f16", np.float16, "r"))


def answers_to(module: Any, rows: Sequence[Arrays], objective: Objective, chosen: Sequence[int], progress: Progress = silent) -> dict[int, Arrays]:
    """What a module answers to some of the rows, through all of the loop: index to outputs."""
    if objective.reference is not None:
        return dict(zip(chosen, objective.reference(module, [rows[i] for i in chosen], progress), strict=True))
    return {i: row for indices, _, answers in _forward(module, rows, chosen, objective) for i, row in zip(indices, answers, strict=True)}


def _told(progress: Progress, before: int, count: int, step: str, done: int, total: int) -> None:
    progress("teacher's answers", before + done, count)


def _forward(module: Any, rows: Sequence[Arrays], chosen: Sequence[int], objective: Objective) -> Iterator[tuple[list[int], dict[str, Any], list[Arrays]]]:
    """Runs a module over some rows in batches of similar length: their indices, the padded tensors, and the outputs."""
    order = sorted(chosen, key=lambda i: len(next(iter(rows[i].values()))))
    for first in range(0, len(order), _BATCH):
        indices = order[first : first + _BATCH]
        yield indices, *run(objective.forward, module, [rows[i] for i in indices], objective.pads, objective.signature)
