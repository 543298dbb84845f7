"""What graphs answer to the evaluation rows where this machine scores them, and what the torch model answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.machine.cpu import cpu_name, cpus
from edgekit.search import stand_in
from edgekit.search.checks import AS_WRITTEN, accuracy_backend
from edgekit.search.kept import StepCache
from edgekit.search.stand_in import Outputs
from edgekit.spec.digests import files_below, sha256

if TYPE_CHECKING:
    from edgekit.samples import Samples
    from edgekit.search.context import BuildContext
    from edgekit.source import Source
    from edgekit.spec.graph import GraphSet
    from edgekit.spec.protocols import Arrays

__all__ = ["graph_outputs", "reference_outputs", "run_graph"]


def reference_outputs(cache: StepCache, model: Source, samples: Samples) -> Sequence[Arrays]:
    """What the torch model computes for the rows of a file."""
    parts = {"step": "reference", "model": model.digest, "samples": samples.digest}
    return cache.values("torch reference", parts, Outputs, lambda: Outputs(model.outputs(model.encode(samples.inputs), cache.progress))).rows


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
        "longest": stand_in.longest(ctx.target, graphs.graphs[0].signature, ctx.evaluation.task.max_size),
    }
    return ctx.cache.values(f"{graphs.graphs[0].method} on the evaluation rows", parts, Outputs, lambda: run_graph(ctx, graphs))


def run_graph(ctx: BuildContext, graphs: GraphSet) -> Outputs:
    """The same, computed now: for graphs that are one try of many."""
    task, method, target = ctx.evaluation.task, graphs.graphs[0].method, ctx.target
    backend, device = accuracy_backend(method, target)
    signatures = [graph.signature for graph in graphs.graphs]
    paths = {graph.signature.name: graph.path for graph in graphs.graphs}
    rows = [encoded.arrays for encoded in task.preprocess(list(ctx.evaluation.inputs))]
    count = len(rows)
    if device == AS_WRITTEN:
        longest = stand_in.longest(target, signatures[0], task.max_size)
        rows += stand_in.long_rows(task, ctx.evaluation.inputs, longest)
    threads = target.threads if backend in target.backends and target.threads else cpus()
    with stand_in.open_graphs(paths, signatures, graphs.loop, backend, device, ctx.cache.scratch, threads=threads) as runner:
        outputs: list[Arrays] = []
        for index, row in enumerate(rows):
            outputs += runner.run([row], finite=False)
            ctx.cache.progress(f"score {method}", index + 1, len(rows))
    return Outputs(outputs[:count], outputs[count:])
