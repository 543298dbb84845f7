"""Training targets from the teacher, computed once and stored in a folder: no training step runs the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.compress._layers import capture_last_layer
from edgekit.compress.objective import Objective, gram
from edgekit.source.batches import group_by_length, run
from edgekit.spec.errors import ModelError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays
from edgekit.spec.rows import finite, pack, unpack

_POOL = 1600  # Rows that are sorted by length together; their cosines are written in the order of the rows.


@dataclass(frozen=True)
class Targets:
    """Answers of the teacher, by row.

    Attributes:
        outputs: Outputs for each row.
        sizes: Tokens of each row after the last layer: int64 ``[rows]``; None without relations.
        cosines: Cosine similarities of all pairs of tokens: float16, flat, memory-mapped, a ``[size, size]`` matrix per
            row; None without relations.
    """

    outputs: Sequence[Arrays]
    sizes: np.ndarray | None
    cosines: np.ndarray | None

    def relation(self, indices: Sequence[int]) -> tuple[Any, Any]:
        """Return the cosine similarities of some rows, padded, and the mask of their real tokens.

        Returns:
            Cosines, float32 ``[batch, sequence, sequence]``, and mask, bool ``[batch, sequence]``.
        """
        import torch

        assert self.sizes is not None
        assert self.cosines is not None
        sizes = self.sizes[indices]
        longest = int(sizes.max())
        padded = np.zeros((len(indices), longest, longest), np.float32)
        for matrix, index, size in zip(padded, indices, sizes, strict=True):
            start = self._starts[index]
            matrix[:size, :size] = self.cosines[start : start + size * size].reshape(size, size)
        mask = torch.arange(longest) < torch.from_numpy(sizes)[:, None]
        return torch.from_numpy(padded), mask

    @cached_property
    def _starts(self) -> np.ndarray:
        """Return the offset of each row in ``cosines``."""
        assert self.sizes is not None
        return np.concatenate([[0], np.cumsum(self.sizes**2)])


def write_targets(
    teacher: Any, rows: Sequence[Arrays], objective: Objective, relations: bool, folder: Path, progress: Progress
) -> None:
    """Run the teacher on rows and write ``outputs.npz``, and for relations ``sizes.npy`` and ``cosines.f16``.

    Args:
        teacher: Torch module in evaluation mode.
        rows: Rows, input name to array.
        objective: Objective that runs the module.
        relations: Whether the cosine similarities of all pairs of tokens after the last layer are written too.
        folder: Folder to write to.
        progress: Function that is called after each batch.

    Raises:
        ModelError: If an output is not finite.
    """
    if relations:
        outputs, sizes = _write_cosines(teacher, rows, objective, folder, progress)
        np.save(folder / "sizes.npy", sizes)
    else:
        outputs = predict_rows(
            teacher,
            rows,
            objective,
            range(len(rows)),
            lambda _, done, total: progress("teacher's answers", done, total),
        )
    ordered = [outputs[i] for i in range(len(rows))]
    if broken := int((~finite(ordered)).sum()):
        raise ModelError(
            f"The teacher's answers to {broken} of {len(rows)} rows are not finite numbers (NaN or infinity). Such a "
            "model cannot be a teacher: train it again.",
            code="teacher-not-finite",
        )
    np.savez(folder / "outputs.npz", **pack(ordered))  # type: ignore[arg-type]


def _write_cosines(
    teacher: Any, rows: Sequence[Arrays], objective: Objective, folder: Path, progress: Progress
) -> tuple[dict[int, Arrays], np.ndarray]:
    """Run the teacher on rows and write the cosines of their tokens after the last layer.

    Returns:
        Outputs by row, and the tokens of each row after the last layer: int64 ``[rows]``.
    """
    outputs: dict[int, Arrays] = {}
    sizes = np.zeros(len(rows), np.int64)
    with capture_last_layer(teacher) as captured, (folder / "cosines.f16").open("wb") as stream:
        for start in range(0, len(rows), _POOL):
            pool = range(start, min(start + _POOL, len(rows)))
            cosines: dict[int, np.ndarray] = {}
            for indices, feeds, answers in _forward(teacher, rows, pool, objective):
                outputs.update(zip(indices, answers, strict=True))
                matrices = gram(captured[0]).cpu().numpy().astype(np.float16)
                mask = feeds.get("attention_mask")
                if mask is not None and mask.shape[1] != matrices.shape[1]:
                    mask = None  # The mask of an audio model is over samples of the waveform, not over tokens.
                for place, index in enumerate(indices):
                    size = matrices.shape[1] if mask is None else int(mask[place].sum())
                    sizes[index] = size
                    cosines[index] = matrices[place, :size, :size]
                progress("teacher's answers", len(outputs), len(rows))
            stream.write(b"".join(cosines[i].tobytes() for i in pool))
    return outputs, sizes


def read_targets(folder: Path) -> Targets:
    """Read the files of :func:`write_targets`."""
    outputs = read_outputs(folder / "outputs.npz")
    if not (folder / "sizes.npy").is_file():
        return Targets(outputs, None, None)
    sizes = np.load(folder / "sizes.npy", allow_pickle=False)
    return Targets(outputs, sizes, np.memmap(folder / "cosines.f16", np.float16, "r"))


def predict_rows(
    module: Any, rows: Sequence[Arrays], objective: Objective, indices: Sequence[int], progress: Progress = silent
) -> dict[int, Arrays]:
    """Return the outputs of a module for some of the rows, in the whole loop of the task, by row index.

    Args:
        module: Torch module in evaluation mode.
        rows: Rows, input name to array.
        objective: Objective that runs the module.
        indices: Indices of the rows to run.
        progress: Function that is called after each batch.
    """
    if objective.reference is not None:
        outputs = objective.reference(module, [rows[i] for i in indices], progress)
        return dict(zip(indices, outputs, strict=True))
    by_index: dict[int, Arrays] = {}
    for batch, _, answers in _forward(module, rows, indices, objective):
        by_index.update(zip(batch, answers, strict=True))
    return by_index


def read_outputs(file: Path) -> list[Arrays]:
    """Read the outputs of a file, one entry per row."""
    with np.load(file, allow_pickle=False) as arrays:
        return list(unpack(dict(arrays)))


def _forward(
    module: Any, rows: Sequence[Arrays], indices: Sequence[int], objective: Objective
) -> Iterator[tuple[list[int], dict[str, Any], list[Arrays]]]:
    """Run a module on some rows in batches of similar length.

    Yields:
        Indices of the rows of a batch, their padded tensors, and their outputs.
    """
    chosen = [rows[i] for i in indices]
    for places in group_by_length(chosen):
        batch = [chosen[i] for i in places]
        feeds, outputs = run(objective.forward, module, batch, objective.pads, objective.signature)
        yield [indices[i] for i in places], feeds, outputs
