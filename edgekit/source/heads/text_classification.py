"""Text classification with torch: one label, several labels or numbers of a text or a pair."""

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

# fmt: off
__all__ = [
    "ALIGNED", "ARCHITECTURES", "AUTO_CLASS", "MODULE_OPTIONS", "OPTIONS", "PADS", "check_outputs", "encode", "forward", "graphs", "outputs",
    "prepare", "sampled_nll", "save", "settings", "signature", "survey", "teacher_loss", "truth_loss", "truth_tensor",
]
# fmt: on

AUTO_CLASS = "AutoModelForSequenceClassification"
ARCHITECTURES = "ForSequenceClassification"
OPTIONS = _classes.OPTIONS
MODULE_OPTIONS = ("outputs",)
ALIGNED = False
PADS: Mapping[str, float] = {}
encode, forward, truth_tensor = text.encode, _losses.forward, _losses.truth_tensor
teacher_loss, truth_loss, sampled_nll = _losses.teacher_loss, _losses.truth_loss, _losses.sampled_nll
check_outputs, prepare = _probabilities.check, _probabilities.prepare


def survey(
    model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, told: Told
) -> tuple[str, tuple[str, ...]]:
    """The problem type, and what should be known of how it was found."""
    kind, notes = _classes.survey(model_id, config, folder, shapes, told)
    _probabilities.check_kind(told.get("outputs"), kind)
    if folder is not None:
        _check_modules(model_id, folder)
    return kind, notes


def settings(model_id: str, module: Any, processor: Any, kind: str) -> Settings:
    """What the runtime must know of the model."""
    return Settings(
        kind, _classes.label_names(getattr(module, "config", None), model_id), **text.facts(model_id, module, processor)
    )


def save(settings: Settings, processor: Any, assets: Path) -> None:
    """Writes ``task.json`` and ``tokenizer.json``."""
    text_classification.save(settings, text.tokenizer_json(processor), assets)


def signature(settings: Settings) -> Signature:
    """Token ids in, ``logits: float32 [batch, labels]`` out."""
    return Signature(
        single.SIGNATURES[0],
        text.input_specs(settings),
        (TensorSpec("logits", "float32", ("batch", len(settings.labels))),),
    )


def graphs(module: Any, settings: Settings, processor: Any) -> Sequence[Traced]:
    """The one graph, with a batch and a length that can both vary."""
    return [
        Traced(
            signature(settings),
            _losses.exported(module, settings.inputs),
            text.example_feeds(settings, processor),
            text.dynamic_shapes(settings),
        )
    ]


def outputs(model_id: str, module: Any, settings: Settings, rows: Sequence[Arrays], progress: Progress) -> list[Arrays]:
    """Logits of each row, in padded batches of similar length."""

    def run(module: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return forward(module, feeds)
        except IndexError as problem:  # torch's word for an id without a row
            longest = next(iter(feeds.values())).shape[1]
            raise ModelError(
                f"{model_id} looks up what is beyond one of its tables, in rows of up to {longest} tokens ({problem}). "
                "Correct max_position_embeddings, type_vocab_size or model_max_length, or give rows that it was trained for, e.g. no pairs.",
                code="model-max-length",
            ) from problem

    return batches.reference(run, module, signature(settings), rows, progress)


def _check_modules(model_id: str, folder: Path) -> None:
    """Refuses a folder of sentence-transformers whose modules are more than the Transformer itself.

    Raises:
        ModelError: naming them.
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
    more = [kind for kind in kinds if kind != "Transformer"]
    if more:
        raise ModelError(
            f"{model_id} goes through more than the Transformer: modules.json lists {', '.join(more)}, which would "
            "not be used. "
            "Pass the whole model from Python: edgekit.build(module=..., processor=...).",
            code="model-modules",
        )
