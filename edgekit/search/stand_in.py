"""Outputs of the torch model and of graphs for the evaluation rows, computed on this machine.

If the target is another device, graphs run on a stand-in backend here. It computes in the types that the graph
declares, and also runs rows as long as the device accepts.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import backends
from edgekit.machine.cpu import cpu_name, cpus
from edgekit.quantize import litert
from edgekit.quantize.arithmetic import emulate
from edgekit.runtime import runner
from edgekit.search.checks import AS_WRITTEN, accuracy_backend
from edgekit.search.outputs import Outputs
from edgekit.spec.digests import files_below, sha256
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays, Input, Task
from edgekit.spec.rows import encode_each
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature

if TYPE_CHECKING:
    from edgekit.samples import Samples
    from edgekit.search.context import BuildContext
    from edgekit.search.step_cache import StepCache
    from edgekit.source import Source
    from edgekit.spec.graph import GraphSet

__all__ = ["graph_outputs", "long_rows", "longest", "open_graphs", "reference_outputs", "run_graph"]

_LONGEST = 1024
"""Size of generated rows if no profile sets a limit. The memory of attention grows with the square of the size."""
_ENCODED_AT_ONCE = 32
"""Number of inputs that are encoded in one call."""
_TOGETHER_MB = 256
"""Size of encoded rows in MiB above which they are passed to torch, which sorts them into batches."""


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
    """Open graphs on a backend.

    On the stand-in, :func:`edgekit.quantize.arithmetic.emulate` rewrites them first. ONNX graphs for a backend that
    reads TensorFlow Lite files are converted, for one row a call.

    Args:
        graphs: Graph files by signature name.
        signatures: Signatures of the graphs.
        backend: Name of the backend.
        device: Device of the backend.
        scratch: Temporary folder that is removed when the build ends.
        threads: Number of threads per call.
        **settings: Further arguments of :func:`edgekit.runtime.runner.open_runner`: ``loop``, ``streams``, ``shapes``.

    Yields:
        Runner of the graphs.

    Raises:
        BackendError: The backend rejects a graph.
        QuantizeError: A graph cannot be converted.
    """
    named = {signature.name: signature for signature in signatures}
    with contextlib.ExitStack() as stack:
        if device == AS_WRITTEN:
            emulated = {}
            for name, path in graphs.items():
                folder = stack.enter_context(tempfile.TemporaryDirectory(dir=scratch))
                emulated[name] = emulate(path, Path(folder))
            graphs = emulated
        elif backends.get(backend).GRAPH == litert.SUFFIX:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=scratch))
            graphs = {name: _as_tflite(path, named[name], Path(folder)) for name, path in graphs.items()}
        yield stack.enter_context(runner.open_runner(graphs, named, backend, device, threads=threads, **settings))


def _as_tflite(path: Path, signature: Signature, folder: Path) -> Path:
    """Return a graph as a TensorFlow Lite file; write it to a folder unless it is one."""
    if path.suffix == litert.SUFFIX:
        return path
    converted = folder / path.with_suffix(litert.SUFFIX).name
    litert.write(path, signature, converted, batch=1)
    return converted


def longest(target: Target, signature: Signature, most: int) -> int:
    """Return the size of the longest row that a device of the target accepts.

    It is at most 1,024 if the target has no profiles.

    Args:
        target: Device class.
        signature: Signature of the model. The profiles limit its first variable axis.
        most: Largest size that the model accepts.
    """
    axes = signature.varying[:1]
    limits = []
    if target.engine is not None:
        for profile in target.engine.profiles:
            limits += [profile[axis][2] for axis in axes if axis in profile]
    return min(most, max(limits, default=_LONGEST))


def long_rows(task: Task, inputs: Sequence[Input], length: int) -> list[Arrays]:
    """Return generated rows on which scores and ranges must hold, in addition to the samples.

    There are up to 16 rows from the generator of golden inputs, and rows of exactly ``length``, which are joined from
    generated inputs and from samples. A truncated row keeps its last entry, as a tokenizer does.

    Args:
        task: Task, which preprocesses the rows.
        inputs: Samples. They stay in memory.
        length: Size along the first variable axis, at most what the model accepts.

    Returns:
        Preprocessed rows. There are none of exact length if rows do not vary in size.
    """
    modality = task.modality
    generated = modality.generate(16, length, 0)[:16]
    full = [*modality.join(modality.generate(200, length, 0), length), *modality.join(inputs, length)]
    return [modality.cut(encoded.arrays, length) for encoded in task.preprocess([*generated, *full])]


def reference_outputs(cache: StepCache, model: Source, samples: Samples) -> Sequence[Arrays]:
    """Return the outputs of the torch model for samples, from the cache or computed now.

    Args:
        cache: Step cache.
        model: Torch model.
        samples: Samples to run.
    """
    parts = {"step": "reference", "model": model.digest, "samples": samples.digest}

    def make() -> Outputs:
        return Outputs(_run_torch(model, samples.inputs, cache.progress))

    return cache.values("torch reference", parts, Outputs, make).rows


def _run_torch(model: Source, inputs: Sequence[Input], progress: Progress) -> list[Arrays]:
    """Return the outputs of the torch model.

    Encoded texts fit into memory together and are batched by length. Images are encoded and run in parts that fit.
    """
    outputs: list[Arrays] = []
    rows: list[Arrays] = []
    size = 0
    for start in range(0, len(inputs), _ENCODED_AT_ONCE):
        encoded = model.encode(inputs[start : start + _ENCODED_AT_ONCE])
        rows = rows + encoded
        size += sum(array.nbytes for row in encoded for array in row.values())
        if size > _TOGETHER_MB * 2**20 or start + _ENCODED_AT_ONCE >= len(inputs):
            outputs += model.outputs(rows, functools.partial(_report_part, progress, len(outputs), len(inputs)))
            rows = []
            size = 0
    return outputs


def _report_part(progress: Progress, before: int, total: int, step: str, done: int, _: int) -> None:
    """Report the progress of a part as progress of the whole.

    Args:
        progress: Function that is called.
        before: Number of rows in earlier parts.
        total: Number of rows in all parts.
        step: Name of the step.
        done: Number of rows of this part that are done.
    """
    progress(step, before + done, total)


def graph_outputs(ctx: BuildContext, graphs: GraphSet) -> Outputs:
    """Return the outputs of graphs for the evaluation rows, from the cache or computed now.

    The graphs run on the first target backend that is available here, otherwise on the stand-in. The stand-in also runs
    the rows of :func:`long_rows`.

    Args:
        ctx: Build context.
        graphs: Graphs to run.
    """
    method = graphs.graphs[0].method
    backend = accuracy_backend(method, ctx.target)
    digests = [sha256(graph.path) for graph in graphs.graphs]
    weight_files = [files_below(graph.path.parent / "weights") for graph in graphs.graphs]
    parts: dict[str, Any] = {
        "step": "outputs",
        "graphs": digests,
        "weights": weight_files,
        "backend": list(backend),
        "samples": ctx.evaluation.samples.digest,
        "model": ctx.model_digest,
        "cpu": cpu_name(),
        "longest": longest(ctx.target, graphs.signature, ctx.evaluation.task.max_size),
    }
    return ctx.cache.values(f"{method} on the evaluation rows", parts, Outputs, lambda: run_graph(ctx, graphs))


def run_graph(ctx: BuildContext, graphs: GraphSet) -> Outputs:
    """Compute the outputs of :func:`graph_outputs` without the cache, for graphs that are one trial of many.

    Args:
        ctx: Build context.
        graphs: Graphs to run.
    """
    task = ctx.evaluation.task
    target = ctx.target
    method = graphs.graphs[0].method
    backend, device = accuracy_backend(method, target)
    signatures = [graph.signature for graph in graphs.graphs]
    paths = {graph.signature.name: graph.path for graph in graphs.graphs}
    inputs = ctx.evaluation.inputs
    count = len(ctx.evaluation)
    long: list[Arrays] = []
    if device == AS_WRITTEN:
        long = long_rows(task, inputs, longest(target, graphs.signature, task.max_size))
    rows = itertools.chain((encoded.arrays for encoded in encode_each(task, inputs)), long)
    threads = target.threads if backend in target.backends and target.threads else cpus()
    scratch = ctx.cache.scratch
    with open_graphs(paths, signatures, backend, device, scratch, threads=threads, loop=graphs.loop) as graph_runner:
        outputs: list[Arrays] = []
        for index, row in enumerate(rows):
            outputs += graph_runner.run([row], finite=False)
            ctx.cache.progress(f"score {method}", index + 1, count + len(long))
    return Outputs(outputs[:count], outputs[count:])
