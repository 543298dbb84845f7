"""The head of token classification: one label for each word of a text."""

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
    "aggregation": f"Aggregation of tokens to entities: {', '.join(STRATEGIES)}. The default is simple, since no "
    "file of a model names one."
}
MODULE_OPTIONS = ("outputs", "aggregation")
ALIGNED = True
PADS: Mapping[str, float] = {STARTS: -1, WINDOWS: 0}
encode = words.encode
_UNLABELLED = -100  # Label that torch's cross-entropy ignores.


def survey(
    model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, options: Told
) -> tuple[str, tuple[str, ...]]:
    """Return the aggregation strategy, ``simple`` by default, and notes about the labels."""
    strategy = str(options.get("aggregation", "simple"))
    if strategy not in STRATEGIES:
        raise UsageError(
            f"Unknown aggregation '{strategy}'.{near(strategy, STRATEGIES)} Expected one of: {', '.join(STRATEGIES)}.",
            code="aggregation-unknown",
        )
    _probabilities.check_kind(options.get("outputs"), _classes.SINGLE)
    weights = shapes.get("classifier.weight", ())
    count = _classes.outputs(config)
    if weights and weights[0] != count:
        raise _classes.head_size_error(model_id, "classifier.weight", weights[0], count)
    return strategy, () if folder is None else _classes.check_labels(model_id, config)


def prepare(module: Any, kind: str, options: Told) -> Any:
    """Return the module, with logits instead of probabilities."""
    if options.get("outputs") == "probabilities":
        return _probabilities.invert_activation(module, _classes.SINGLE)
    return module


def settings(model_id: str, module: Any, processor: Any, kind: str) -> Settings:
    """Return the settings of the task for a model. Adjacent windows overlap by a quarter."""
    facts = text.facts(model_id, module, processor)
    del facts["truncation_side"]  # Nothing is cut off.
    longest = int(facts["max_length"])
    stride = max(0, min(longest // 4, longest - processor.num_special_tokens_to_add(pair=False) - 1))
    labels = _classes.label_names(getattr(module, "config", None), model_id)
    return Settings(labels, stride=stride, aggregation=kind, unknown=processor.unk_token_id, **facts)


def save(settings: Settings, processor: Any, assets: Path) -> None:
    """Write ``task.json`` and ``tokenizer.json``."""
    token_classification.save(settings, text.tokenizer_json(processor), assets)


def signature(settings: Settings) -> Signature:
    """Return the signature: token ids of a window to ``logits: float32 [batch, sequence, labels]``."""
    output_spec = TensorSpec(OUTPUT, "float32", ("batch", "sequence", len(settings.labels)))
    return Signature(windows.SIGNATURES[0], text.input_specs(settings), (output_spec,))


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


def forward(module: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Run a module on one window of each row.

    Raises:
        UsageError: If a row has several windows, which only :func:`outputs` supports.
    """
    if WINDOWS in feeds and feeds[WINDOWS].shape[1] > 1:
        raise UsageError(
            "A row is longer than the model's limit, and training does not use windows. "
            "Split the row, or leave it out.",
            code="training-row-too-long",
        )
    return _losses.forward(module, {name: tensor for name, tensor in feeds.items() if name not in PADS})


def check_taught(rows: Sequence[Arrays], where: str) -> None:
    """Check that no row has several windows, since training does not use windows.

    Raises:
        SamplesError: If a row has; the message has the number of the first such row.
    """
    for number, row in enumerate(rows, 1):
        if len(row[WINDOWS]) > 1:
            raise SamplesError(
                f"{where}, row {number} is longer than the model's limit, and training does not use windows. "
                "Split or remove the row.",
                code="samples-text-too-long",
                row=number,
            )


def outputs(model_id: str, module: Any, settings: Settings, rows: Sequence[Arrays], progress: Progress) -> list[Arrays]:
    """Return the logits of each token of a row, window by window."""
    window_signature = signature(settings)

    def run(module: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return forward(module, feeds)
        except IndexError as problem:  # torch raises it for an id without a row.
            raise ModelError(
                f"{model_id} uses an index beyond one of its tables, in windows of up to {settings.max_length} tokens "
                f"({problem}). Correct max_position_embeddings or model_max_length.",
                code="model-max-length",
            ) from problem

    window_rows = windows.split_windows(window_signature, rows)
    window_outputs = batches.reference(run, module, window_signature, window_rows, progress)
    return windows.merge_windows(window_signature, rows, window_outputs)


def check_outputs(model_id: str, kind: str, outputs: Sequence[Arrays]) -> None:
    """Check that outputs do not look like probabilities."""
    tokens = [{OUTPUT: token} for row in outputs for token in np.asarray(row[OUTPUT])]
    _probabilities.check(model_id, _classes.SINGLE, tokens)


def truth_tensor(kind: str, truth: Sequence[Any]) -> Any:
    """Return the label indices of words, ``int64 [batch, words]``; -100 for padding and in rows without a truth."""
    import torch

    longest = max((len(value) for value in truth if value is not None), default=1)
    table = np.full((len(truth), max(longest, 1)), _UNLABELLED, np.int64)
    for row, value in zip(table, truth, strict=True):
        if value is not None:
            row[: len(value)] = value
    return torch.from_numpy(table)


def teacher_loss(
    kind: str, feeds: Mapping[str, Any], student: Mapping[str, Any], teacher: Mapping[str, Any], temperature: float
) -> Any:
    """Return the Kullback-Leibler divergence from the teacher, mean over the tokens of each row: ``[batch]``."""
    from torch.nn import functional

    log_x = (student[OUTPUT] / temperature).log_softmax(dim=2)
    log_y = (teacher[OUTPUT] / temperature).log_softmax(dim=2)
    losses = functional.kl_div(log_x, log_y, reduction="none", log_target=True).sum(dim=2)
    mask = _token_mask(feeds, losses)
    return temperature**2 * (losses * mask).sum(dim=1) / mask.sum(dim=1)


def truth_loss(kind: str, feeds: Mapping[str, Any], student: Mapping[str, Any], truth: Any) -> Any:
    """Return the cross-entropy at the first token of each word, mean over the words of each row: ``[batch]``."""
    from torch.nn import functional

    starts = feeds[STARTS]
    labels = truth.gather(1, starts.clamp(0, truth.shape[1] - 1)).masked_fill(starts < 0, _UNLABELLED)
    losses = functional.cross_entropy(
        student[OUTPUT].transpose(1, 2), labels, reduction="none", ignore_index=_UNLABELLED
    )
    return losses.sum(dim=1) / (labels != _UNLABELLED).sum(dim=1).clamp(min=1)


def sampled_nll(kind: str, feeds: Mapping[str, Any], outputs: Mapping[str, Any], generator: Any) -> Any:
    """Return the negative log-likelihood, summed over tokens, of labels sampled from the logits themselves."""
    import torch
    from torch.nn import functional

    logits = outputs[OUTPUT]
    values = logits.detach().cpu().softmax(dim=2)
    drawn = torch.multinomial(values.reshape(-1, values.shape[2]), 1, generator=generator)
    drawn = drawn.reshape(values.shape[:2]).to(logits.device)
    losses = functional.cross_entropy(logits.transpose(1, 2), drawn, reduction="none")
    return (losses * _token_mask(feeds, losses)).sum()


def _token_mask(feeds: Mapping[str, Any], like: Any) -> Any:
    """Return 1 for tokens and 0 for padding: float ``[batch, sequence]``."""
    import torch

    mask = feeds.get("attention_mask")
    return torch.ones_like(like) if mask is None else mask.to(like.dtype)
