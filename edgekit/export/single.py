"""One forward pass as one graph: ``torch.onnx.export``, cleaned, and compared with torch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.export._clean import clean
from edgekit.modalities.text import Text, TextEncoder
from edgekit.quantize._graphs import save
from edgekit.runtime.loops import single
from edgekit.source import Source, call, fuzz_texts, quiet
from edgekit.spec.errors import ExportError
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.tensor import Signature, TensorSpec
from edgekit.tasks import text_classification

OPSET = 20
"""The first with Gelu as one operator, and still read by TensorRT 10.0."""

TOLERANCE = 1e-4
"""Largest difference of a logit between torch and the graph, as a share of the logits' spread (at least 1)."""

_LONGEST_CHECKED = 128  # times eight tokens: torch's eager attention of 8,192 would take gigabytes


def export(source: Source, out: Path, texts: Sequence[Text]) -> GraphSet:
    """Exports a model and proves on real samples that the graph and the tokenizer are the model's.

    Args:
        source: the model.
        out: an empty folder; gets ``model.onnx``, ``weights/`` and ``assets/``.
        texts: real samples; the graph is compared with torch on them.

    Returns:
        The graph set, method ``float32``.

    Raises:
        ExportError: when torch cannot export the module, or graph or tokenizer disagree with the original.
    """
    settings = source.settings
    assets = out / "assets"
    text_classification.save(settings, source.tokenizer_json(), assets)
    source.check_texts(texts)
    check_tokenizer(source, assets, texts)
    source.check_outputs([*texts, *(t for t in fuzz_texts(settings.max_length)[:64] if isinstance(t, str))])
    model = _traced(source)
    clean(model, settings.max_length)
    path = out / "model.onnx"
    save(model, path)
    graph = Graph(signature(source), path, "float32")
    # One generated row as long as the model takes: what goes wrong only far apart does not show in short samples.
    check_graph(source, graph, source.token_ids([*texts, "a b c d e f g h " * min(settings.max_length, _LONGEST_CHECKED)]))
    provenance = {"model": source.model_id, "revision": source.revision, **({"model_digest": source.digest} if source.digest else {})}
    return GraphSet(source.task, text_classification.LOOP, (graph,), assets, provenance)


def signature(source: Source) -> Signature:
    """What the graph takes and gives."""
    settings = source.settings
    inputs = tuple(TensorSpec(name, "int64", ("batch", "sequence"), settings.pads[name]) for name in settings.inputs)
    return Signature(single.SIGNATURES[0], inputs, (TensorSpec("logits", "float32", ("batch", len(settings.labels))),))


def _traced(source: Source) -> Any:
    """Runs ``torch.onnx.export`` with a batch and a length that can both vary; returns the onnx_ir model."""
    import torch

    names, module = source.settings.inputs, source.module

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *arrays: Any) -> Any:
            return call(self.model, dict(zip(names, arrays, strict=True))).float()

    length = min(12, source.settings.max_length)
    ids = torch.full((2, length), source.settings.pads["input_ids"])
    some = [i for i in range(min(len(source.tokenizer), 2000)) if i not in source.tokenizer.all_special_ids][: 2 * length]
    ids.view(-1)[: len(some)] = torch.tensor(some)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    axes = {0: torch.export.Dim("batch", min=1, max=2**20), 1: torch.export.Dim("sequence", min=1, max=source.settings.max_length)}
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            program = torch.onnx.export(
                Logits().eval(),
                tuple(feeds[n] for n in names),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(names),
                output_names=["logits"],
                dynamic_shapes=(tuple(axes for _ in names),),
                optimize=True,
                verbose=False,
            )
    except Exception as problem:  # the exporter wraps whatever the module's code raised
        reason = str(problem).strip().splitlines()
        words = reason[0] if reason else type(problem).__name__
        raise ExportError(f"torch could not export {source.model_id}: {words}. Its forward must be free of branches on values.") from problem
    assert program is not None
    return program.model


def check_graph(source: Source, graph: Graph, rows: Sequence[dict[str, list[int]]], tolerance: float = TOLERANCE) -> float:
    """Compares the graph with torch on rows in ragged batches of 8, and one by one for the first few.

    Returns:
        The largest difference, as a share of the spread of torch's logits (at least 1).

    Raises:
        ExportError: beyond ``tolerance``, with the output and the difference.
    """
    import onnxruntime

    expected = source.logits(rows)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])
    fed = {i.name for i in session.get_inputs()}
    arrays = [{n: np.array(v, np.int64) for n, v in row.items()} for row in rows]
    spread = max(1.0, float(np.ptp(expected)))
    groups = [slice(i, i + 1) for i in range(min(8, len(rows)))] + [slice(i, i + 8) for i in range(0, len(rows), 8)]
    worst = 0.0
    for group in groups:
        feeds = single.collate(graph.signature, arrays[group])
        (got,) = session.run(["logits"], {n: a for n, a in feeds.items() if n in fed})
        difference = np.abs(got - expected[group]).max()
        worst = max(worst, float(difference) if np.isfinite(difference) else np.inf)
    if worst > tolerance * spread:
        raise ExportError(
            f"The exported graph of {source.model_id} disagrees with torch: output 'logits' differs by {worst:.3g}, expected at most {tolerance * spread:.3g} "
            f"(torch's logits spread over {spread:.3g}). Nothing was written; please report the architecture and the versions that 'edgekit doctor' prints."
        )
    return worst / spread


def check_tokenizer(source: Source, assets: Path, texts: Sequence[Text]) -> None:
    """Compares the runtime's token ids with the Hugging Face tokenizer's, on ``texts`` and on a multilingual fuzz set.

    Raises:
        ExportError: for the first text whose ids differ; the text itself is not shown.
    """
    settings = source.settings
    encode = TextEncoder(assets / "tokenizer.json", settings.inputs, settings.max_length, settings.truncation_side)
    for name, group in (("samples", list(texts)), ("fuzz set", fuzz_texts(settings.max_length))):
        for index, (row, text) in enumerate(zip(source.token_ids(group), group, strict=True)):
            tokens = encode([text])[0]
            if any(tokens.arrays[n].tolist() != row[n] for n in settings.inputs):
                raise ExportError(
                    f"The runtime's tokenizer disagrees with the Hugging Face tokenizer of {source.model_id} on text {index + 1} of the {name}. "
                    "Nothing was written; save the tokenizer again with the current Transformers, and report it if that does not help."
                )
