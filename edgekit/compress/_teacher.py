"""The teacher's answers, computed once and kept in a folder: no training step runs the teacher."""

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

_POOL = 1600  # rows that are sorted by length together and written in their own order


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
            place[:size, :size] = self.cosines[self._starts[index] : self._starts[index] + size * size].reshape(
                size, size
            )
        return torch.from_numpy(made), torch.arange(int(sizes.max())) < torch.from_numpy(sizes)[:, None]

    @cached_property
    def _starts(self) -> np.ndarray:
        """Where each row begins in ``cosines``."""
        assert self.sizes is not None
        return np.concatenate([[0], np.cumsum(self.sizes**2)])


def write_targets(
    teacher: Any, rows: Sequence[Arrays], objective: Objective, relations: bool, folder: Path, progress: Progress
) -> None:
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
    if relations:
        np.save(folder / "sizes.npy", _answer_with_relations(teacher, rows, objective, folder, outputs, progress))
    else:
        outputs = answers_to(
            teacher,
            rows,
            objective,
            range(len(rows)),
            lambda _, done, total: progress("teacher's answers", done, total),
        )
    every = [outputs[i] for i in range(len(rows))]
    if broken := int((~finite(every)).sum()):
        raise ModelError(
            f"The teacher's answers to {broken} of {len(rows)} rows are not finite numbers. A model that gives NaN cannot teach: train it again.",
            code="teacher-not-finite",
        )
    np.savez(folder / "outputs.npz", **pack(every))  # type: ignore[arg-type]


def _answer_with_relations(
    teacher: Any,
    rows: Sequence[Arrays],
    objective: Objective,
    folder: Path,
    outputs: dict[int, Arrays],
    progress: Progress,
) -> np.ndarray:
    """Puts outputs into ``outputs``, writes the cosines, and gives the tokens of each row: ``int64 [rows]``."""
    sizes = np.zeros(len(rows), np.int64)
    with capture_last_layer(teacher) as seen, (folder / "cosines.f16").open("wb") as stream:
        for start in range(0, len(rows), _POOL):
            pool = range(start, min(start + _POOL, len(rows)))
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
    return sizes


def read_targets(folder: Path) -> Targets:
    """What :func:`write_targets` wrote."""
    outputs = stored(folder / "outputs.npz")
    if not (folder / "sizes.npy").is_file():
        return Targets(outputs, None, None)
    return Targets(
        outputs, np.load(folder / "sizes.npy", allow_pickle=False), np.memmap(folder / "cosines.f16", np.float16, "r")
    )


def answers_to(
    module: Any, rows: Sequence[Arrays], objective: Objective, chosen: Sequence[int], progress: Progress = silent
) -> dict[int, Arrays]:
    """What a module answers to some of the rows, through all of the loop: index to outputs."""
    if objective.reference is not None:
        return dict(zip(chosen, objective.reference(module, [rows[i] for i in chosen], progress), strict=True))
    return {
        i: row
        for indices, _, answers in _forward(module, rows, chosen, objective)
        for i, row in zip(indices, answers, strict=True)
    }


def stored(file: Path) -> list[Arrays]:
    """The outputs of a file."""
    with np.load(file, allow_pickle=False) as arrays:
        return list(unpack(dict(arrays)))


def _forward(
    module: Any, rows: Sequence[Arrays], chosen: Sequence[int], objective: Objective
) -> Iterator[tuple[list[int], dict[str, Any], list[Arrays]]]:
    """Runs a module over some rows in batches of similar length: their indices, the padded tensors, and the outputs."""
    some = [rows[i] for i in chosen]
    for places in group_by_length(some):
        yield (
            [chosen[i] for i in places],
            *run(objective.forward, module, [some[i] for i in places], objective.pads, objective.signature),
        )
