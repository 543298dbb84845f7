"""Heads with one output for each of a fixed list of labels or numbers: kind and labels, from the files of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.source.modules import read_object
from edgekit.spec.errors import ModelError, UsageError, near
from edgekit.spec.head import Shapes, Told

SINGLE = "single_label_classification"
MULTI = "multi_label_classification"
NUMBER = "regression"
PROBLEM_TYPES = (SINGLE, MULTI, NUMBER)
OPTIONS = {
    "problem_type": "Meaning of the head's outputs: single_label_classification, multi_label_classification or "
    "regression."
}
_WEIGHTS = ("classifier.weight", "classifier.out_proj.weight")
# Last part of an activation class's path.
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "identity", "Softmax": "softmax"}
# Activations that agree with each problem type.
_AGREEING = {SINGLE: ("softmax", "identity"), MULTI: ("sigmoid",), NUMBER: ("identity",)}


def survey(
    model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, options: Told
) -> tuple[str, tuple[str, ...]]:
    """Return the problem type, and notes about how it was determined; see :class:`edgekit.spec.head.Head`."""
    kind, notes = problem_type(model_id, config, activation(model_id, config, folder), options.get("problem_type"))
    if folder is None:
        return kind, notes
    label_notes = check_labels(model_id, config)
    count = outputs(config)
    for name, shape in shapes.items():
        if name in _WEIGHTS and shape and shape[0] != count:
            raise head_size_error(model_id, name, shape[0], count)
    return kind, (*notes, *label_notes)


def head_size_error(model_id: str, weight: str, size: int, count: int) -> ModelError:
    """Return the error for a head whose weights and labels differ in number.

    Args:
        model_id: Name of the model.
        weight: Name of the weight.
        size: Number of outputs of the weight.
        count: Number of labels in the config.
    """
    return ModelError(
        f"{model_id}: the weights of the head ({weight}) have {size} outputs, but config.json has {count} labels. "
        "Correct id2label and label2id, or save the model again with the config that it was trained with.",
        code="model-head-size",
    )


def label_names(config: Any, model_id: str) -> tuple[str, ...]:
    """Return the names of the outputs in their order, from ``id2label`` of a config.

    Raises:
        ModelError: If ``id2label`` is missing, has gaps, or has duplicate names.
    """
    table = getattr(config, "id2label", None)
    if not table:
        raise ModelError(
            f"{model_id} has no label names: config.id2label is missing. "
            "Set it, e.g. {0: 'negative', 1: 'positive'}.",
            code="model-labels",
        )
    names = {int(index): str(name) for index, name in table.items()}
    if sorted(names) != list(range(len(names))) or len(set(names.values())) != len(names):
        raise ModelError(
            f"id2label of {model_id} is {table}, expected the indices 0 to {len(names) - 1} with distinct names. "
            "Correct config.json.",
            code="model-labels",
        )
    return tuple(names[i] for i in range(len(names)))


def outputs(config: Mapping[str, Any]) -> int:
    """Return the number of outputs by a config; 2, the default of Transformers, if it has none."""
    table = config.get("id2label")
    return len(table) if isinstance(table, Mapping) and table else int(config.get("num_labels") or 2)


def activation(model_id: str, config: Mapping[str, Any], folder: Path | None = None) -> str | None:
    """Return the activation that sentence-transformers applies to the logits: ``sigmoid``, ``identity`` or ``softmax``.

    Its CrossEncoder writes ``sentence_transformers.activation_fn`` of config.json, before version 4
    ``sbert_ce_default_activation_function``, and ``activation_fn`` of config_sentence_transformers.json.

    Args:
        model_id: Name of the model, for messages.
        config: Config of the model.
        folder: Folder that may contain the other file.

    Returns:
        The activation; None if no file names one.

    Raises:
        ModelError: If an activation is unknown, or the files name different ones.
    """
    entries: dict[str, object] = {}
    inner = config.get("sentence_transformers")
    if isinstance(inner, Mapping):
        entries["sentence_transformers of config.json"] = inner.get("activation_fn")
    entries["sbert_ce_default_activation_function of config.json"] = config.get("sbert_ce_default_activation_function")
    if folder is not None:
        other_config = read_object(folder / "config_sentence_transformers.json")
        entries["config_sentence_transformers.json"] = other_config.get("activation_fn")
    paths = {place: str(path) for place, path in entries.items() if path}
    kinds = set()
    for place, path in paths.items():
        name = path.rpartition(".")[2]
        if name not in _ACTIVATIONS:
            raise ModelError(
                f"{model_id}: {place} names the activation '{path}', expected one of torch's "
                f"{', '.join(_ACTIVATIONS)}. Remove it and set problem_type in config.json, "
                "or pass the module from Python: edgekit.build(edgekit.TorchModule(module=..., processor=...), ...).",
                code="model-activation",
            )
        kinds.add(_ACTIVATIONS[name])
    if len(kinds) > 1:
        places = " and ".join(f"{place} ({path})" for place, path in paths.items())
        raise ModelError(
            f"{model_id}: {places} name different activations. Remove the wrong one.", code="model-activation"
        )
    return next(iter(kinds), None)


def problem_type(
    model_id: str, config: Mapping[str, Any], applied: str | None, requested: str | None
) -> tuple[str, tuple[str, ...]]:
    """Return the kind of head, and notes about how it was determined.

    The user's option has priority over ``problem_type`` of the config, and this over the activation of
    sentence-transformers. Without any of them the rule is that of Transformers' text-classification pipeline: a sigmoid
    for one output, which is a multi-label head with one label, and softmax for several.

    Args:
        model_id: Name of the model, for messages.
        config: Config of the model.
        applied: Activation, from :func:`activation`.
        requested: Option of the user, one of ``PROBLEM_TYPES``, or None.

    Raises:
        ModelError: If the config has an unknown problem type.
        UsageError: If ``requested`` is unknown, or not possible with one output.
    """
    count = outputs(config)
    configured = config.get("problem_type")
    if requested is not None:
        return _requested_problem_type(model_id, count, configured, requested)
    if configured is not None:
        return _configured_problem_type(model_id, count, str(configured), applied)
    if count == 1:
        if applied == "identity":
            note = "The model has one output, the activation 'identity' and no problem_type: the output is a number."
            return NUMBER, (note,)
        reason = "as in the pipeline of Transformers"
        if applied:
            reason = "sentence-transformers names the activation 'sigmoid'"
        return MULTI, (
            f"The model has one output and no problem_type: its sigmoid is the score ({reason}). "
            f"If the output is a number, choose --problem-type {NUMBER}.",
        )
    if applied == "sigmoid":
        return MULTI, (
            f"The config has no problem_type: {MULTI} is assumed (sentence-transformers names the activation "
            f"'sigmoid'). Otherwise choose --problem-type {SINGLE}.",
        )
    return SINGLE, (
        f"The config has no problem_type: {SINGLE} is assumed (as in the pipeline of Transformers). "
        f"Otherwise choose --problem-type {MULTI}.",
    )


def _requested_problem_type(model_id: str, count: int, configured: Any, requested: str) -> tuple[str, tuple[str, ...]]:
    if requested not in PROBLEM_TYPES:
        raise UsageError(
            f"Unknown problem type '{requested}'.{near(requested, PROBLEM_TYPES)} "
            f"Expected one of: {', '.join(PROBLEM_TYPES)}.",
            code="problem-type-unknown",
        )
    if requested == SINGLE and count == 1:
        raise UsageError(
            f"{model_id} has one output, whose softmax is always 1. "
            f"Choose '{MULTI}' (its sigmoid is the score) or '{NUMBER}'.",
            code="problem-type-one-output",
        )
    if configured == requested:
        return requested, ()
    return requested, (
        f"problem_type is {configured or 'missing'} in the config; '{requested}' was used, as requested.",
    )


def _configured_problem_type(
    model_id: str, count: int, configured: str, applied: str | None
) -> tuple[str, tuple[str, ...]]:
    if configured not in PROBLEM_TYPES:
        raise ModelError(
            f"problem_type of {model_id} is '{configured}'.{near(configured, PROBLEM_TYPES)} "
            f"Expected one of: {', '.join(PROBLEM_TYPES)}.",
            code="model-problem-type",
        )
    # The softmax of one output is always 1, so the pipeline of Transformers applies a sigmoid.
    kind = MULTI if configured == SINGLE and count == 1 else configured
    if applied is None or applied in _AGREEING[kind]:
        return kind, ()
    return kind, (
        f"problem_type is '{kind}', but sentence-transformers names the activation '{applied}': problem_type was used.",
    )


def check_labels(model_id: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Compare the number and the names of labels in a config.

    Returns:
        A note if the config names different labels and one table was used.

    Raises:
        ModelError: If the entries contradict each other.
    """
    names = config.get("id2label")
    indices = config.get("label2id")
    count = config.get("num_labels")
    has_indices = isinstance(indices, Mapping) and bool(indices)
    if not isinstance(names, Mapping) or not names:
        if has_indices and not _is_default(indices):
            raise ModelError(
                f"{model_id}: config.json has label2id but no id2label, which names the outputs. "
                "Add id2label, the inverse of label2id.",
                code="model-labels",
            )
        return ()
    if count is not None and int(count) != len(names):
        raise ModelError(
            f"{model_id}: config.json has num_labels {count} but {len(names)} names in id2label. "
            "Correct the wrong one.",
            code="model-labels",
        )
    if not has_indices:
        return ()
    by_name = {str(name): str(index) for index, name in names.items()}
    inverse = {str(name): str(index) for name, index in dict(indices or {}).items()}
    if by_name == inverse:
        return ()
    if not _is_default(indices):
        for name, index in by_name.items():
            if name in inverse and inverse[name] != index:
                raise ModelError(
                    f"{model_id}: '{name}' is output {index} in id2label of config.json, but output {inverse[name]} in "
                    "label2id. Correct the wrong one; the weights do not tell which it is.",
                    code="model-labels",
                )
    return ("id2label and label2id of config.json have different labels: id2label was used.",)


def _is_default(indices: Any) -> bool:
    """Return whether label2id has the default names of Transformers."""
    return all(str(name) == f"LABEL_{index}" for name, index in indices.items())
