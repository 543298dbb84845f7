"""Source -> GraphSet: ``torch.onnx.export`` of each graph of the head, cleaned, and compared with torch."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import tasks
from edgekit.export._clean import clean
from edgekit.export._onnx_import import import_graph
from edgekit.quantize.graphs import save
from edgekit.runtime import runner
from edgekit.source import Source, processors_of
from edgekit.source.modules import quiet
from edgekit.spec.errors import ExportError
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.head import Traced
from edgekit.spec.protocols import Arrays, Input, Task
from edgekit.spec.rows import difference, spread
from edgekit.spec.tensor import Signature

__all__ = ["OPSET", "TOLERANCE", "check_graphs", "check_preprocessing", "export"]

_LOG = logging.getLogger(__name__)

OPSET = 20
"""The first with Gelu as one operator, and still read by TensorRT 10.0."""

TOLERANCE = 1e-4
"""Largest difference of an output value between torch and the graph, as a share of the outputs' spread (at least 1)."""

_LONGEST_CHECKED = 1024  # torch's eager attention of 8,192 tokens would take gigabytes
_GENERATED, _FOR_OUTPUTS = 400, 64
_ROUNDING = 1e-3
_AT_ONCE = 8


def export(source: Source, out: Path, inputs: Sequence[Input]) -> GraphSet:
    """Exports a model and proves on real samples that the graphs and the preprocessing are the model's.

    Args:
        source: the model.
        out: an empty folder; gets ``model.onnx`` (``SIGNATURE.onnx`` where there are several graphs), ``weights/`` and ``assets/``.
        inputs: real samples; graphs are compared with torch on them.

    Returns:
        The graph set, method ``float32``.

    Raises:
        ExportError: when torch cannot export the module, or graphs or preprocessing disagree with the original.
    """
    assets = out / "assets"
    task = source.save_assets(assets)
    source.check_inputs(inputs)
    generated = task.modality.generate(_GENERATED, min(task.max_size, _LONGEST_CHECKED), 0)
    generated += task.modality.join(generated, min(task.max_size, _LONGEST_CHECKED))
    check_preprocessing(source, task, inputs, generated)
    source.check_outputs([*inputs, *generated[:_FOR_OUTPUTS]])
    models = _models(source)
    graphs = []
    for signature, model in models:
        clean(model, task.max_size)
        path = out / ("model.onnx" if len(models) == 1 else f"{signature.name}.onnx")
        save(model, path)
        graphs.append(Graph(signature, path, "float32"))
    provenance = {
        "model": source.model_id,
        "revision": source.revision,
        **({"model_digest": source.digest} if source.digest else {}),
        **({} if source.onnx_file is None else {"reference": "the ONNX file, run by ONNX Runtime in float32"}),
    }
    made = GraphSet(source.task, tasks.get(source.task).LOOP, tuple(graphs), assets, provenance)
    # One generated row as long as the model takes: what goes wrong only far apart does not show in short samples.
    most = min(task.max_size, _LONGEST_CHECKED)
    long = [task.modality.cut(row, most) for row in source.encode(task.modality.join(inputs, most)[:1])]
    worst = check_graphs(source, made, [*source.encode(inputs), *long])
    _LOG.info(
        "exported %s: %d graph(s), largest difference from the reference %.2g of its spread",
        source.model_id,
        len(graphs),
        worst,
    )
    return made


def _models(source: Source) -> list[tuple[Signature, Any]]:
    """Return signature and onnx_ir model of each graph: exported from torch, or read from the ONNX file that was given."""
    if source.onnx_file is not None:
        signature = source.head.signature(source.settings)
        return [(signature, import_graph(source.onnx_file, signature))]
    try:
        parts = source.head.graphs(source.module, source.settings, source.processor)
    except ValueError as problem:  # of a signature that cannot be
        raise ExportError(str(problem), code="export-failed") from problem
    return [(part.signature, _traced(source, part)) for part in parts]


def _traced(source: Source, part: Traced) -> Any:
    """Runs ``torch.onnx.export`` on one graph; returns the onnx_ir model."""
    import torch

    try:
        with (
            quiet(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            torch.no_grad(),
        ):
            program = torch.onnx.export(
                part.module,
                part.feeds,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in part.signature.inputs],
                output_names=[spec.name for spec in part.signature.outputs],
                dynamic_shapes=(part.dynamic_shapes,),
                optimize=True,
                verbose=False,
            )
    except Exception as problem:  # the exporter wraps whatever the module's code raised
        reason = str(problem).strip().splitlines()
        words = reason[0] if reason else type(problem).__name__
        raise ExportError(
            f"torch could not export {source.model_id}: {words}. Its forward must be free of branches on values.",
            code="export-failed",
        ) from problem
    assert program is not None
    return program.model


def check_graphs(source: Source, graphs: GraphSet, rows: Sequence[Arrays], tolerance: float = TOLERANCE) -> float:
    """Compares the graphs with torch on rows in ragged batches, and one by one for the first few.

    Returns:
        The largest difference, as a share of the spread of torch's outputs (at least 1).

    Raises:
        ExportError: beyond ``tolerance``, with the output and the difference.
    """
    expected = source.outputs(rows)
    files = {graph.signature.name: graph.path for graph in graphs.graphs}
    signatures = {graph.signature.name: graph.signature for graph in graphs.graphs}
    with runner.opened(files, signatures, "onnxruntime", loop=graphs.loop, batch=_AT_ONCE) as opened:
        alone = opened.run(rows[:_AT_ONCE], alone=True, finite=False)
        batched = opened.run(rows, finite=False)
    size, worst = spread(expected), 0.0
    for name in expected[0]:
        apart = max(difference(_only(name, got), _only(name, expected[: len(got)])) for got in (alone, batched))
        if apart > tolerance * size:
            reference = "torch" if source.onnx_file is None else "the file in ONNX Runtime"
            raise ExportError(
                f"The exported graph of {source.model_id} disagrees with {reference}: output '{name}' differs by {apart:.3g}, expected at most "
                f"{tolerance * size:.3g} (the reference's outputs spread over {size:.3g}). Nothing was written; please report the architecture and "
                "the versions that 'edgekit doctor' prints.",
                code="export-differs",
            )
        worst = max(worst, apart)
    return worst / size


def check_preprocessing(source: Source, task: Task, inputs: Sequence[Input], generated: Sequence[Input]) -> None:
    """Compares what the runtime makes of inputs with what the processor of Transformers makes, on samples and on generated inputs.

    Raises:
        ExportError: for the first input whose arrays differ; the input itself is not shown.
    """
    noun = processors_of(source.task).NOUN
    for where, group in (("samples", list(inputs)), ("generated inputs", list(generated))):
        encoded, expected = task.preprocess(group), source.encode(group)
        for index, (row, own) in enumerate(zip(encoded, expected, strict=True)):
            if not all(_same(array, np.asarray(own[name])) for name, array in row.arrays.items()):
                raise ExportError(
                    f"The runtime's {noun} disagrees with the Hugging Face {noun} of {source.model_id} on input {index + 1} of the {where}. "
                    f"Nothing was written; save the {noun} again with the current Transformers, and report it if that does not help.",
                    code="tokenizer-differs",
                )


def _same(array: np.ndarray, expected: np.ndarray) -> bool:
    """Equal whole numbers; other numbers within what rounding makes of them, far below one step of a pixel."""
    if array.shape != expected.shape:
        return False
    return (
        bool((array == expected).all())
        if expected.dtype.kind in "iub"
        else bool((np.abs(array - expected) <= _ROUNDING).all())
    )


def _only(name: str, rows: Sequence[Arrays]) -> list[Arrays]:
    return [{name: row[name]} for row in rows]
