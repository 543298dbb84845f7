"""The head of text classification: one label, several labels or numbers for a text or a pair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.runtime.loops import single
from edgekit.source import batches
from edgekit.source.heads import _classes, _losses, _probabilities
from edgekit.source.processors import text
from edgekit.spec.errors import ModelError
from edgekit.spec.head import Shapes, Told, Traced
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.tensor import Signature, TensorSpec
from edgekit.tasks import text_classification
from edgekit.tasks.text_classification import Settings

__all__ = [
    "ALIGNED",
    "ARCHITECTURES",
    "AUTO_CLASS",
    "MODULE_OPTIONS",
    "OPTIONS",
    "PADS",
    "check_outputs",
    "encode",
    "forward",
    "graphs",
    "outputs",
    "prepare",
    "sampled_nll",
    "save",
    "settings",
    "signature",
    "survey",
    "teacher_loss",
    "truth_loss",
    "truth_tensor",
]

AUTO_CLASS = "AutoModelForSequenceClassification"
ARCHITECTURES = "ForSequenceClassification"
OPTIONS = _classes.OPTIONS
MODULE_OPTIONS = ("outputs",)
ALIGNED = False
PADS: Mapping[str, float] = {}
encode = text.encode
forward = _losses.forward
truth_tensor = _losses.truth_tensor
teacher_loss = _losses.teacher_loss
truth_loss = _losses.truth_loss
sampled_nll = _losses.sampled_nll
check_outputs = _probabilities.check
prepare = _probabilities.prepare


def survey(
    model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, options: Told
) -> tuple[str, tuple[str, ...]]:
    """Return the problem type, and notes about how it was determined."""
    kind, notes = _classes.survey(model_id, config, folder, shapes, options)
    _probabilities.check_kind(options.get("outputs"), kind)
    if folder is not None:
        _check_modules(model_id, folder)
    return kind, notes


def settings(model_id: str, module: Any, processor: Any, kind: str) -> Settings:
    """Return the settings of the task for a model."""
    labels = _classes.label_names(getattr(module, "config", None), model_id)
    return Settings(kind, labels, **text.facts(model_id, module, processor))


def save(settings: Settings, processor: Any, assets: Path) -> None:
    """Write ``task.json`` and ``tokenizer.json``."""
    text_classification.save(settings, text.tokenizer_json(processor), assets)


def signature(settings: Settings) -> Signature:
    """Return the signature: token ids to ``logits: float32 [batch, labels]``."""
    output_spec = TensorSpec("logits", "float32", ("batch", len(settings.labels)))
    return Signature(single.SIGNATURES[0], text.input_specs(settings), (output_spec,))


def graphs(module: Any, settings: Settings, processor: Any) -> Sequence[Traced]:
    """Return the single graph, with dynamic batch and sequence axes."""
    return [
        Traced(
            signature(settings),
            _losses.logits_module(module, settings.inputs),
            text.example_feeds(settings, processor),
            text.dynamic_shapes(settings),
        )
    ]


def outputs(model_id: str, module: Any, settings: Settings, rows: Sequence[Arrays], progress: Progress) -> list[Arrays]:
    """Return the logits of each row, computed in padded batches of similar length."""

    def run(module: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return forward(module, feeds)
        except IndexError as problem:  # torch raises it for an id without a row.
            longest = next(iter(feeds.values())).shape[1]
            raise ModelError(
                f"{model_id} uses an index beyond one of its tables, in rows of up to {longest} tokens ({problem}). "
                "Correct max_position_embeddings, type_vocab_size or model_max_length, or give rows that it was "
                "trained for, e.g. no pairs.",
                code="model-max-length",
            ) from problem

    return batches.reference(run, module, signature(settings), rows, progress)


def _check_modules(model_id: str, folder: Path) -> None:
    """Check that a folder of sentence-transformers has no modules except the Transformer itself.

    Raises:
        ModelError: If it has others; the message has their names.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return
    try:
        entries = json.loads(file.read_text("utf-8"))
        kinds = [str(entry["type"]).rpartition(".")[2] for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise ModelError(
            f"{file} is not the list of modules that sentence-transformers writes. Save the model again.",
            code="model-modules",
        ) from problem
    others = [kind for kind in kinds if kind != "Transformer"]
    if others:
        raise ModelError(
            f"{model_id} has modules behind the Transformer: modules.json lists {', '.join(others)}, which would not "
            "be used. Pass the whole model from Python: "
            "edgekit.build(edgekit.TorchModule(module=..., processor=...), ...).",
            code="model-modules",
        )
