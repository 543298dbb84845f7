"""Token classification with torch: one label for each word of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities.words import STARTS, WINDOWS
from edgekit.runtime.loops import windows
from edgekit.source import batches
from edgekit.source.heads import _classes, _losses, _probabilities
from edgekit.source.processors import text, words
from edgekit.spec.errors import ModelError, SamplesError, UsageError, near
from edgekit.spec.head import Shapes, Told, Traced
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.tensor import Signature, TensorSpec
from edgekit.tasks import token_classification
from edgekit.tasks.token_classification import OUTPUT, STRATEGIES, Settings

__all__ = [
    "ALIGNED",
    "ARCHITECTURES",
    "AUTO_CLASS",
    "MODULE_OPTIONS",
    "OPTIONS",
    "PADS",
    "check_outputs",
    "check_taught",
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

AUTO_CLASS = "AutoModelForTokenClassification"
ARCHITECTURES = "ForTokenClassification"
OPTIONS = {
    "aggregation": f"How a token classifier groups tokens: {', '.join(STRATEGIES)}. The files never say it; it is simple then."
}
MODULE_OPTIONS = ("outputs", "aggregation")
ALIGNED = True
PADS: Mapping[str, float] = {STARTS: -1, WINDOWS: 0}
encode = words.encode
_UNLABELLED = -100  # what torch's cross-entropy leaves out


def survey(
    model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, told: Told
) -> tuple[str, tuple[str, ...]]:
    """How tokens become entities, which is ``simple`` if it is not said; and what should be known of the labels."""
    strategy = str(told.get("aggregation", "simple"))
    if strategy not in STRATEGIES:
        raise UsageError(
            f"Unknown aggregation '{strategy}'.{near(strategy, STRATEGIES)} Expected one of: {', '.join(STRATEGIES)}.",
            code="aggregation-unknown",
        )
    _probabilities.check_kind(told.get("outputs"), _classes.SINGLE)
    weights = shapes.get("classifier.weight", ())
    if weights and weights[0] != (count := _classes.outputs(config)):
        raise ModelError(
            f"{model_id}: the head in the weights (classifier.weight) has {weights[0]} outputs, and config.json names {count} labels. Correct id2label and "
            "label2id, or save the model again with the config that it was trained with.",
            code="model-head-size",
        )
    return strategy, () if folder is None else _classes.check_labels(model_id, config)


def prepare(module: Any, kind: str, told: Told) -> Any:
    """The module as it is; with logits in place of probabilities."""
    return _probabilities.undone(module, _classes.SINGLE) if told.get("outputs") == "probabilities" else module


def settings(model_id: str, module: Any, processor: Any, kind: str) -> Settings:
    """What the runtime must know of the model. A window shares a quarter of its tokens with the next."""
    facts = text.facts(model_id, module, processor)
    del facts["truncation_side"]  # nothing is cut off
    longest = int(facts["max_length"])
    stride = max(0, min(longest // 4, longest - processor.num_special_tokens_to_add(pair=False) - 1))
    labels = _classes.label_names(getattr(module, "config", None), model_id)
    return Settings(labels, stride=stride, aggregation=kind, unknown=processor.unk_token_id, **facts)


def save(settings: Settings, processor: Any, assets: Path) -> None:
    """Writes ``task.json`` and ``tokenizer.json``."""
    token_classification.save(settings, text.tokenizer_json(processor), assets)


def signature(settings: Settings) -> Signature:
    """Token ids of a window in, ``logits: float32 [batch, sequence, labels]`` out."""
    gives = TensorSpec(OUTPUT, "float32", ("batch", "sequence", len(settings.labels)))
    return Signature(windows.SIGNATURES[0], text.input_specs(settings), (gives,))


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


def forward(module: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a module on one window of each row.

    Raises:
        UsageError: for rows of several windows, of which :func:`outputs` alone knows.
    """
    if WINDOWS in feeds and feeds[WINDOWS].shape[1] > 1:
        raise UsageError(
            "A row is longer than the model takes, and no model is trained on windows of one. Split the row, or leave it out.",
            code="training-row-too-long",
        )
    return _losses.forward(module, {name: tensor for name, tensor in feeds.items() if name not in PADS})


def check_taught(rows: Sequence[Arrays], where: str) -> None:
    """Refuses rows of several windows.

    Raises:
        SamplesError: with the number of the first such row.
    """
    for number, row in enumerate(rows, 1):
        if len(row[WINDOWS]) > 1:
            raise SamplesError(
                f"{where}, row {number} is longer than the model takes, and no model is trained on windows of a row. Split or remove the row.",
                code="samples-text-too-long",
            )


def outputs(model_id: str, module: Any, settings: Settings, rows: Sequence[Arrays], progress: Progress) -> list[Arrays]:
    """Logits of each token of a row, window by window."""
    gives = signature(settings)

    def run(module: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return forward(module, feeds)
        except IndexError as problem:  # torch's word for an id without a row
            raise ModelError(
                f"{model_id} looks up what is beyond one of its tables, in windows of up to {settings.max_length} tokens ({problem}). "
                "Correct max_position_embeddings or model_max_length.",
                code="model-max-length",
            ) from problem

    return windows.together(gives, rows, batches.reference(run, module, gives, windows.apart(gives, rows), progress))


def check_outputs(model_id: str, kind: str, outputs: Sequence[Arrays]) -> None:
    """Refuses outputs that lie between 0 and 1 as probabilities do."""
    _probabilities.check(
        model_id, _classes.SINGLE, [{OUTPUT: token} for row in outputs for token in np.asarray(row[OUTPUT])]
    )


def truth_tensor(kind: str, truth: Sequence[Any]) -> Any:
    """Places of the labels of words, ``int64 [batch, words]``; -100 behind the last and in rows without a truth."""
    import torch

    longest = max(1, *(0 if value is None else len(value) for value in truth))
    table = np.full((len(truth), longest), _UNLABELLED, np.int64)
    for row, value in zip(table, truth, strict=True):
        if value is not None:
            row[: len(value)] = value
    return torch.from_numpy(table)


def teacher_loss(
    kind: str, feeds: Mapping[str, Any], student: Mapping[str, Any], teacher: Mapping[str, Any], temperature: float
) -> Any:
    """Kullback-Leibler divergence of each token's distribution, mean over the tokens of a row: ``[batch]``."""
    from torch.nn import functional

    x, y = student[OUTPUT] / temperature, teacher[OUTPUT] / temperature
    apart = functional.kl_div(x.log_softmax(dim=2), y.log_softmax(dim=2), reduction="none", log_target=True).sum(dim=2)
    real = _real(feeds, apart)
    return temperature**2 * (apart * real).sum(dim=1) / real.sum(dim=1)


def truth_loss(kind: str, feeds: Mapping[str, Any], student: Mapping[str, Any], truth: Any) -> Any:
    """Cross-entropy at the first token of each word, mean over the words of a row: ``[batch]``."""
    from torch.nn import functional

    starts = feeds[STARTS]
    labels = truth.gather(1, starts.clamp(0, truth.shape[1] - 1)).masked_fill(starts < 0, _UNLABELLED)
    losses = functional.cross_entropy(
        student[OUTPUT].transpose(1, 2), labels, reduction="none", ignore_index=_UNLABELLED
    )
    return losses.sum(dim=1) / (labels != _UNLABELLED).sum(dim=1).clamp(min=1)


def sampled_nll(kind: str, feeds: Mapping[str, Any], outputs: Mapping[str, Any], generator: Any) -> Any:
    """Surprise at labels that are drawn for each token from the logits."""
    import torch
    from torch.nn import functional

    logits = outputs[OUTPUT]
    values = logits.detach().cpu().softmax(dim=2)
    drawn = (
        torch.multinomial(values.reshape(-1, values.shape[2]), 1, generator=generator)
        .reshape(values.shape[:2])
        .to(logits.device)
    )
    losses = functional.cross_entropy(logits.transpose(1, 2), drawn, reduction="none")
    return (losses * _real(feeds, losses)).sum()


def _real(feeds: Mapping[str, Any], like: Any) -> Any:
    """Which tokens are no padding: float ``[batch, sequence]``."""
    import torch

    mask = feeds.get("attention_mask")
    return torch.ones_like(like) if mask is None else mask.to(like.dtype)
