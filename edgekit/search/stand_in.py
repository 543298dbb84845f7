"""Graphs run on this machine for a device that is not here: in the arithmetic of their own types, over rows as long as the device takes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import quantize
from edgekit.quantize.arithmetic import emulate
from edgekit.runtime import runner
from edgekit.search.checks import AS_WRITTEN, LOW_FLOATS
from edgekit.spec.protocols import Arrays, Input, Task
from edgekit.spec.rows import finite
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature

__all__ = ["Outputs", "long_rows", "longest", "open_graphs"]

_LONGEST = 1024  # size of a generated row where no profile ends before: the memory of attention grows with the square


@dataclass(frozen=True)
class Outputs:
    """What graphs answer where they are scored.

    Attributes:
        rows: outputs of the evaluation rows.
        long: outputs of the rows of :func:`long_rows`; none where a backend itself, or torch, was asked.
    """

    rows: Sequence[Arrays]
    long: Sequence[Arrays] = ()

    @property
    def finite(self) -> bool:
        """Whether every answer is a number."""
        return bool(finite(self.rows).all() and finite(self.long).all())

    def trouble(self, method: str) -> str:
        """Why the graphs cannot be used, for a table; empty where all is finite."""
        if self.finite:
            return ""
        rows, long = (f"{int((~finite(part)).sum())} of {len(part)}" for part in (self.rows, self.long))
        types = " and ".join(p for p in LOW_FLOATS if p in quantize.get(method).PRECISIONS) or "its own"
        return f"refused: in {types} arithmetic {rows} evaluation rows and {long} generated rows of up to full length are NaN or infinite"


@contextlib.contextmanager
def open_graphs(
    graphs: Mapping[str, Path],
    signatures: Sequence[Signature],
    loop: str,
    backend: str,
    device: str,
    scratch: Path,
    *,
    threads: int,
    streams: int = 1,
    shapes: tuple[int, ...] = (),
) -> Iterator[runner.GraphRunner]:
    """Opens graphs; on the stand-in they compute as :func:`edgekit.quantize.arithmetic.emulate` says.

    Args:
        graphs: signature name to the file.
        signatures: entry points of the graphs.
        loop: name of the loop that drives them.
        backend: name of the backend that runs them.
        device: device of the backend.
        scratch: a folder that goes when the build ends.
        threads: threads of one call.
        streams: calls at the same time.
        shapes: bucket edges.

    Raises:
        BackendError: when the backend refuses one.
    """
    with contextlib.ExitStack() as stack:
        if device == AS_WRITTEN:
            folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch))) for _ in graphs]
            graphs = {name: emulate(path, folder) for (name, path), folder in zip(graphs.items(), folders, strict=True)}
        named = {signature.name: signature for signature in signatures}
        yield stack.enter_context(runner.opened(graphs, named, backend, device, loop=loop, threads=threads, streams=streams, shapes=shapes))


def longest(target: Target, signature: Signature, most: int) -> int:
    """Size of the longest row that a device of the target takes, at most 1,024 where its profiles do not say.

    Args:
        target: device class.
        signature: entry point of the model, whose first axis that varies is the one of profiles.
        most: size that the model takes.
    """
    axes = signature.varying[:1]
    profiles = target.engine.profiles if target.engine is not None else ()
    ends = [profile[axis][2] for profile in profiles for axis in axes if axis in profile]
    return min(most, max(ends, default=_LONGEST))


def long_rows(task: Task, inputs: Sequence[Input], length: int) -> list[Arrays]:
    """Generated rows that scores and ranges are to hold for beside samples.

    Sixteen of those that golden inputs are made of, and rows of exactly ``length`` made of generated inputs and of the samples. A row that is cut
    keeps its last entry, as a tokenizer cuts. None where rows do not vary in size.

    Args:
        task: preprocesses.
        inputs: samples; they stay in memory.
        length: size along the first axis that varies, at most what the model takes.
    """
    modality = task.modality
    generated = modality.generate(16, length, 0)[:16]
    full = [*modality.join(modality.generate(200, length, 0), length), *modality.join(inputs, length)]
    return [modality.cut(encoded.arrays, length) for encoded in task.preprocess([*generated, *full])]
