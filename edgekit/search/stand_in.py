"""What the torch model and graphs answer to the evaluation rows on this machine.

For a device that is not here graphs run on a stand-in: in the arithmetic of their own types, over rows as long as the device takes too.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import quantize
from edgekit.machine.cpu import cpu_name, cpus
from edgekit.quantize.arithmetic import emulate
from edgekit.runtime import runner
from edgekit.search.checks import AS_WRITTEN, LOW_FLOATS, accuracy_backend
from edgekit.spec.digests import files_below, sha256
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays, Input, Task
from edgekit.spec.rows import encode_each, finite
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature

if TYPE_CHECKING:
    from edgekit.samples import Samples
    from edgekit.search.context import BuildContext
    from edgekit.search.step_cache import StepCache
    from edgekit.source import Source
    from edgekit.spec.graph import GraphSet

__all__ = ["Outputs", "graph_outputs", "long_rows", "longest", "open_graphs", "reference_outputs", "run_graph"]

_LONGEST = 1024  # size of a generated row where no profile ends before: the memory of attention grows with the square
_ENCODED_AT_ONCE, _TOGETHER_MB = 32, 256  # rows, and how much of them torch sorts into batches


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
    backend: str,
    device: str,
    scratch: Path,
    *,
    threads: int,
    **settings: Any,
) -> Iterator[runner.GraphRunner]:
    """Opens graphs; on the stand-in they compute as :func:`edgekit.quantize.arithmetic.emulate` says.

    Args:
        graphs: signature name to the file.
        signatures: entry points of the graphs.
        backend: name of the backend that runs them.
        device: device of the backend.
        scratch: a folder that goes when the build ends.
        threads: threads of one call.
        **settings: Further arguments of :func:`edgekit.runtime.runner.opened`: ``loop``, ``streams``, ``shapes``.

    Raises:
        BackendError: when the backend refuses one.
    """
    with contextlib.ExitStack() as stack:
        if device == AS_WRITTEN:
            folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch))) for _ in graphs]
            graphs = {name: emulate(path, folder) for (name, path), folder in zip(graphs.items(), folders, strict=True)}
        named = {signature.name: signature for signature in signatures}
        yield stack.enter_context(runner.opened(graphs, named, backend, device, threads=threads, **settings))


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


def reference_outputs(cache: StepCache, model: Source, samples: Samples) -> Sequence[Arrays]:
    """What the torch model computes for the rows of a file."""
    parts = {"step": "reference", "model": model.digest, "samples": samples.digest}
    return cache.values(
        "torch reference", parts, Outputs, lambda: Outputs(_reference(model, samples.inputs, cache.progress))
    ).rows


def _reference(model: Source, inputs: Sequence[Input], progress: Progress) -> list[Arrays]:
    """Outputs of the torch model: encoded texts fit into the memory, and are batched by length; of images no more are encoded than fit."""
    outputs, rows, size = list[Arrays](), list[Arrays](), 0
    for start in range(0, len(inputs), _ENCODED_AT_ONCE):
        encoded = model.encode(inputs[start : start + _ENCODED_AT_ONCE])
        rows, size = rows + encoded, size + sum(array.nbytes for row in encoded for array in row.values())
        if size > _TOGETHER_MB * 2**20 or start + _ENCODED_AT_ONCE >= len(inputs):
            outputs += model.outputs(rows, functools.partial(_further, progress, len(outputs), len(inputs)))
            rows, size = [], 0
    return outputs


def _further(progress: Progress, before: int, total: int, step: str, done: int, _: int) -> None:
    """Tells how far a part is as the whole is."""
    progress(step, before + done, total)


def graph_outputs(ctx: BuildContext, graphs: GraphSet) -> Outputs:
    """What graphs answer to the evaluation rows on the first of the target's backends that runs here, or the stand-in; there to long rows too."""
    backend = accuracy_backend(graphs.graphs[0].method, ctx.target)
    parts: dict[str, Any] = {
        "step": "outputs",
        "graphs": [sha256(graph.path) for graph in graphs.graphs],
        "weights": [files_below(graph.path.parent / "weights") for graph in graphs.graphs],
        "backend": list(backend),
        "samples": ctx.evaluation.samples.digest,
        "model": ctx.model_digest,
        "cpu": cpu_name(),
        "longest": longest(ctx.target, graphs.signature, ctx.evaluation.task.max_size),
    }
    return ctx.cache.values(
        f"{graphs.graphs[0].method} on the evaluation rows", parts, Outputs, lambda: run_graph(ctx, graphs)
    )


def run_graph(ctx: BuildContext, graphs: GraphSet) -> Outputs:
    """The same, computed now: for graphs that are one try of many."""
    task, method, target = ctx.evaluation.task, graphs.graphs[0].method, ctx.target
    backend, device = accuracy_backend(method, target)
    signatures = [graph.signature for graph in graphs.graphs]
    paths = {graph.signature.name: graph.path for graph in graphs.graphs}
    inputs, count = ctx.evaluation.inputs, len(ctx.evaluation)
    long = long_rows(task, inputs, longest(target, graphs.signature, task.max_size)) if device == AS_WRITTEN else []
    rows = itertools.chain((encoded.arrays for encoded in encode_each(task, inputs)), long)
    threads = target.threads if backend in target.backends and target.threads else cpus()
    scratch = ctx.cache.scratch
    with open_graphs(paths, signatures, backend, device, scratch, threads=threads, loop=graphs.loop) as runner:
        outputs: list[Arrays] = []
        for index, row in enumerate(rows):
            outputs += runner.run([row], finite=False)
            ctx.cache.progress(f"score {method}", index + 1, count + len(long))
    return Outputs(outputs[:count], outputs[count:])
