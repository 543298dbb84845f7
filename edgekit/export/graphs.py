"""Export of each graph of a model with ``torch.onnx.export``, simplification, and comparison with torch."""

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
from edgekit.quantize.graphs import discard, save
from edgekit.runtime import runner
from edgekit.source import Source, processors_of
from edgekit.source.modules import quiet
from edgekit.spec.errors import ExportError
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.head import Traced
from edgekit.spec.protocols import Arrays, Encoded, Input, Remembers, SavesSettings, Task
from edgekit.spec.rows import difference, spread
from edgekit.spec.tensor import Signature

__all__ = ["OPSET", "TOLERANCE", "check_graphs", "check_memory", "check_preprocessing", "export"]

_LOG = logging.getLogger(__name__)

OPSET = 20
"""First opset with Gelu as one operator; TensorRT 10.0 still reads it."""

TOLERANCE = 1e-4
"""Largest difference of an output value between torch and the graph, as a share of the outputs' range (at least 1)."""

_LONGEST_CHECKED = 1024  # Longest row compared with torch, whose eager attention needs gigabytes for 8,192 tokens.
_GENERATED = 400  # Number of generated inputs for the comparison of preprocessing.
_FOR_OUTPUTS = 64  # Number of those that are also used to check the outputs of a module from Python.
_ROUNDING = 1e-3  # Largest difference of preprocessed values, far below one step of a pixel.
_AT_ONCE = 8


def export(source: Source, out: Path, inputs: Sequence[Input]) -> GraphSet:
    """Export a model, and check on real samples that graphs and preprocessing agree with the original.

    Args:
        source: Model to export.
        out: Empty folder, which receives ``model.onnx`` (``SIGNATURE.onnx`` for each of several graphs), ``weights/``
            and ``assets/``.
        inputs: Real samples, on which the graphs are compared with torch.

    Returns:
        The graph set, method ``float32``.

    Raises:
        ExportError: If torch cannot export the module, or graphs or preprocessing disagree with the original.
    """
    assets = out / "assets"
    task = source.save_assets(assets)
    source.check_inputs(inputs)
    generated = task.modality.generate(_GENERATED, min(task.max_size, _LONGEST_CHECKED), 0)
    generated += task.modality.join(generated, min(task.max_size, _LONGEST_CHECKED))
    check_preprocessing(source, task, inputs, generated)
    if isinstance(task, SavesSettings) and check_memory(task, [*inputs, *generated]):
        task.save_settings(assets)
    source.check_outputs([*inputs, *generated[:_FOR_OUTPUTS]])
    models = _models(source)
    graphs = []
    for signature, model in models:
        clean(model, task.max_size)
        path = out / ("model.onnx" if len(models) == 1 else f"{signature.name}.onnx")
        save(model, path)
        # Else its constants stay in memory: the rules of onnxscript 0.7.2 refer to the last graph they were applied to.
        discard(model)
        graphs.append(Graph(signature, path, "float32"))
    provenance = {"model": source.model_id, "revision": source.revision}
    if source.onnx_file is not None:
        provenance["reference"] = "the ONNX file, run by ONNX Runtime in float32"
    if source.digest:
        provenance["model_digest"] = source.digest
    graph_set = GraphSet(source.task, tasks.get(source.task).LOOP, tuple(graphs), assets, provenance)
    # Errors at distant positions do not show in short samples, so one generated row has the longest length.
    longest = min(task.max_size, _LONGEST_CHECKED)
    long_rows = [task.modality.cut(row, longest) for row in source.encode(task.modality.join(inputs, longest)[:1])]
    error = check_graphs(source, graph_set, [*source.encode(inputs), *long_rows])
    _LOG.info(
        "exported %s: %d graph(s), largest difference from the reference %.2g of its range",
        source.model_id,
        len(graphs),
        error,
    )
    return graph_set


def _models(source: Source) -> list[tuple[Signature, Any]]:
    """Return signature and onnx_ir model of each graph: exported from torch, or read from the ONNX file."""
    if source.onnx_file is not None:
        signature = source.head.signature(source.settings)
        return [(signature, import_graph(source.onnx_file, signature))]
    try:
        parts = source.head.graphs(source.module, source.settings, source.processor)
    except ValueError as problem:  # An invalid signature.
        raise ExportError(str(problem), code="export-failed") from problem
    return [(part.signature, _trace(source, part)) for part in parts]


def _trace(source: Source, part: Traced) -> Any:
    """Run ``torch.onnx.export`` for one graph, and return the onnx_ir model."""
    import torch

    input_names = [spec.name for spec in part.signature.inputs]
    output_names = [spec.name for spec in part.signature.outputs]
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
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=(part.dynamic_shapes,),
                optimize=True,
                verbose=False,
            )
    except Exception as problem:  # The module's code may raise errors of every class.
        lines = str(problem).strip().splitlines()
        reason = lines[0] if lines else type(problem).__name__
        raise ExportError(
            f"torch cannot export {source.model_id}: {reason}. "
            "The forward method must not branch on values of tensors: change the module.",
            code="export-failed",
        ) from problem
    assert program is not None
    return program.model


def check_graphs(source: Source, graphs: GraphSet, rows: Sequence[Arrays], tolerance: float = TOLERANCE) -> float:
    """Compare the graphs with torch on rows, in ragged batches and the first few also one by one.

    Args:
        source: Model that was exported.
        graphs: Exported graphs.
        rows: Preprocessed rows.
        tolerance: Largest permitted difference, as a share of the range of torch's outputs (at least 1).

    Returns:
        The largest difference, in the unit of ``tolerance``.

    Raises:
        ExportError: If the difference of an output exceeds the tolerance.
    """
    expected = source.outputs(rows)
    files = {graph.signature.name: graph.path for graph in graphs.graphs}
    signatures = {graph.signature.name: graph.signature for graph in graphs.graphs}
    with runner.open_runner(files, signatures, "onnxruntime", loop=graphs.loop, batch=_AT_ONCE) as opened:
        alone = opened.run(rows[:_AT_ONCE], alone=True, finite=False)
        batched = opened.run(rows, finite=False)
    size = spread(expected)
    worst = 0.0
    for name in expected[0]:
        differences = []
        for results in (alone, batched):
            differences.append(difference(_select(name, results), _select(name, expected[: len(results)])))
        error = max(differences)
        if error > tolerance * size:
            reference = "torch" if source.onnx_file is None else "the file in ONNX Runtime"
            raise ExportError(
                f"The exported graph of {source.model_id} disagrees with {reference}: output '{name}' differs by "
                f"{error:.3g}, expected at most {tolerance * size:.3g} (torch's outputs have a range of {size:.3g}). "
                "No bundle was written. Report the architecture and the versions that 'edgekit doctor' prints.",
                code="export-differs",
            )
        worst = max(worst, error)
    return worst / size


def check_preprocessing(source: Source, task: Task, inputs: Sequence[Input], generated: Sequence[Input]) -> None:
    """Compare the runtime's preprocessing with the processor of Transformers, on samples and on generated inputs.

    Raises:
        ExportError: If the arrays of an input differ. The message has the number of the first such input, not its
            content.
    """
    noun = processors_of(source.task).NOUN
    for where, group in (("samples", list(inputs)), ("generated inputs", list(generated))):
        encoded = task.preprocess(group)
        expected = source.encode(group)
        for number, (row, reference) in enumerate(zip(encoded, expected, strict=True), 1):
            if not all(_is_same(array, np.asarray(reference[name])) for name, array in row.arrays.items()):
                raise ExportError(
                    f"The runtime's {noun} disagrees with the Hugging Face {noun} of {source.model_id} on input "
                    f"{number} of the {where}. No bundle was written. "
                    f"Save the {noun} again with the current Transformers, and report it if that does not help.",
                    code="tokenizer-differs",
                )


def check_memory(task: Task, inputs: Sequence[Input]) -> bool:
    """Compare the encodings of inputs that remember parts (words of texts) with those that do not.

    All inputs are encoded twice: in one list, where most parts are new, and one by one, where all are known.

    Args:
        task: Task of the model. It remembers parts afterwards if the result is true.
        inputs: Samples and generated inputs.

    Returns:
        Whether all encodings are equal. False for a task that cannot remember parts.
    """
    modality = task.modality
    if not isinstance(modality, Remembers):
        return False
    modality.remember(False)
    expected = task.preprocess(inputs)
    if not modality.remember(True):
        _LOG.info("words are not remembered: the tokenizer does not work word by word")
        return False
    for results in (task.preprocess(inputs), [task.preprocess([value])[0] for value in inputs]):
        if not all(map(_is_same_row, results, expected)):
            modality.remember(False)
            _LOG.warning("words are not remembered: the ids of a text differ from those of its words")
            return False
    return True


def _is_same_row(row: Encoded, expected: Encoded) -> bool:
    """Return whether two encodings of an input are equal."""
    if row.arrays.keys() != expected.arrays.keys() or row.truncated != expected.truncated:
        return False
    return all(np.array_equal(array, expected.arrays[name]) for name, array in row.arrays.items())


def _is_same(array: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether two arrays are equal; other numbers than integers may differ by rounding."""
    if array.shape != expected.shape:
        return False
    if expected.dtype.kind in "iub":
        return bool((array == expected).all())
    return bool((np.abs(array - expected) <= _ROUNDING).all())


def _select(name: str, rows: Sequence[Arrays]) -> list[Arrays]:
    return [{name: row[name]} for row in rows]
