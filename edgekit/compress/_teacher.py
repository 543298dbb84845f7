"""The teacher's answers, computed once and kept in a folder: no training step runs the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.compress._examples import feeds
from edgekit.compress._layers import tapped
from edgekit.compress._loss import gram
from edgekit.source import call
from edgekit.spec.errors import ModelError
from edgekit.spec.progress import Progress

_BATCH = 32
_POOL = 50 * _BATCH  # rows that are sorted by length together and written in their own order


@dataclass(frozen=True)
class Targets:
    """What the teacher says of each row.

    Attributes:
        logits: float32 ``[rows, labels]``.
        sizes: ``int64 [rows]``: tokens of each row after the last layer; None where relations were not asked for.
        cosines: float16, flat, mapped from the file: row after row ``[size, size]``, the cosines of all pairs of tokens; or None.
    """

    logits: np.ndarray
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


def answer(teacher: Any, rows: Sequence[Mapping[str, np.ndarray]], pads: Mapping[str, float], relations: bool, folder: Path, progress: Progress) -> None:
    """Runs the teacher over rows and writes ``logits.npy``, and for relations ``sizes.npy`` and ``cosines.f16``.

    Args:
        teacher: in evaluation mode.
        rows: input name to array.
        pads: value that fills short rows, by input.
        relations: also write the cosines of all pairs of tokens after the last layer.
        folder: where.
        progress: told after each batch.

    Raises:
        ModelError: when an answer is not finite.
    """
    logits: dict[int, np.ndarray] = {}
    sizes = np.zeros(len(rows), np.int64)
    with tapped(teacher) as seen, (folder / "cosines.f16").open("wb") as stream:
        for start in range(0, len(rows), _POOL):
            pool = range(start, min(start + _POOL, len(rows)))
            cosines: dict[int, np.ndarray] = {}
            for chosen, tensors, given in _forward(teacher, rows, pool, pads):
                logits.update(zip(chosen, given, strict=True))
                if relations:
                    products, mask = gram(seen[0]).cpu().numpy().astype(np.float16), tensors.get("attention_mask")
                    if mask is not None and mask.shape[1] != products.shape[1]:
                        mask = None  # of audio samples, and there are fewer tokens than those
                    for place, index in enumerate(chosen):
                        size = sizes[index] = int(mask[place].sum()) if mask is not None else products.shape[1]
                        cosines[index] = products[place, :size, :size]
                progress("teacher's answers", len(logits), len(rows))
            if relations:
                stream.write(b"".join(cosines[i].tobytes() for i in pool))
    stacked = np.stack([logits[i] for i in range(len(rows))])
    if not np.isfinite(stacked).all():
        broken = int((~np.isfinite(stacked)).any(axis=1).sum())
        raise ModelError(f"The teacher's answers to {broken} of {len(rows)} rows are not finite numbers. A model that gives NaN cannot teach: train it again.")
    np.save(folder / "logits.npy", stacked)
    if relations:
        np.save(folder / "sizes.npy", sizes)


def read(folder: Path) -> Targets:
    """What :func:`answer` wrote."""
    logits = np.load(folder / "logits.npy", allow_pickle=False)
    if not (folder / "sizes.npy").is_file():
        return Targets(logits, None, None)
    return Targets(logits, np.load(folder / "sizes.npy", allow_pickle=False), np.memmap(folder / "cosines.f16", np.float16, "r"))


def logits(module: Any, rows: Sequence[Mapping[str, np.ndarray]], pads: Mapping[str, float], chosen: Sequence[int]) -> dict[int, np.ndarray]:
    """What a module answers to some of the rows: index to float32 ``[labels]``."""
    return {i: row for indices, _, given in _forward(module, rows, chosen, pads) for i, row in zip(indices, given, strict=True)}


def _forward(
    module: Any, rows: Sequence[Mapping[str, np.ndarray]], chosen: Sequence[int], pads: Mapping[str, float]
) -> Iterator[tuple[list[int], dict[str, Any], np.ndarray]]:
    """Runs a module over some rows in batches of similar length: their indices, the tensors, and float32 ``[batch, labels]``."""
    import torch

    order, device = sorted(chosen, key=lambda i: len(next(iter(rows[i].values())))), next(module.parameters()).device
    for first in range(0, len(order), _BATCH):
        indices = order[first : first + _BATCH]
        tensors = feeds([rows[i] for i in indices], pads)
        with torch.inference_mode():
            given = call(module, {n: t.to(device) for n, t in tensors.items()}).float().cpu().numpy()
        yield indices, tensors, given
