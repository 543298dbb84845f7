"""Heads that give a logit for each of a fixed list of labels, or numbers: what the files of a folder say of it, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.source.modules import read_object
from edgekit.spec.errors import ModelError, UsageError, near
from edgekit.spec.head import Shapes, Told

SINGLE, MULTI, NUMBER = "single_label_classification", "multi_label_classification", "regression"
PROBLEM_TYPES = (SINGLE, MULTI, NUMBER)
OPTIONS = {
    "problem_type": "What the outputs of the model's head mean: single_label_classification, multi_label_classification or regression."
}
_WEIGHTS = ("classifier.weight", "classifier.out_proj.weight")
_ACTIVATIONS = {
    "Sigmoid": "sigmoid",
    "Identity": "identity",
    "Softmax": "softmax",
}  # the last part of the class's path


def survey(
    model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, told: Told
) -> tuple[str, tuple[str, ...]]:
    """The problem type, and what should be known of how it was found; see :class:`edgekit.spec.head.Head`."""
    kind, notes = problem_type(model_id, config, activation(model_id, config, folder), told.get("problem_type"))
    if folder is None:
        return kind, notes
    labels = check_labels(model_id, config)
    for name, shape in shapes.items():
        if name in _WEIGHTS and shape and shape[0] != (count := outputs(config)):
            raise ModelError(
                f"{model_id}: the head in the weights ({name}) has {shape[0]} outputs, and config.json names {count} "
                "labels. Correct id2label and label2id, "
                "or save the model again with the config that it was trained with.",
                code="model-head-size",
            )
    return kind, (*notes, *labels)


def label_names(config: Any, model_id: str) -> tuple[str, ...]:
    """Names of the outputs in their order, by ``id2label`` of a config.

    Raises:
        ModelError: when it is missing, has gaps, or names two outputs alike.
    """
    table = getattr(config, "id2label", None)
    if not table:
        raise ModelError(
            f"{model_id} names no labels: config.id2label is missing. Set it, e.g. {{0: 'negative', 1: 'positive'}}.",
            code="model-labels",
        )
    indices = {int(k): str(v) for k, v in table.items()}
    if sorted(indices) != list(range(len(indices))) or len(set(indices.values())) != len(indices):
        expected = f"the indices 0 to {len(indices) - 1}, each with a name of its own"
        raise ModelError(
            f"id2label of {model_id} is {table}, expected {expected}. Correct config.json.", code="model-labels"
        )
    return tuple(indices[i] for i in range(len(indices)))


def outputs(config: Mapping[str, Any]) -> int:
    """How many a config names; Transformers takes two where nothing says it."""
    table = config.get("id2label")
    return len(table) if isinstance(table, Mapping) and table else int(config.get("num_labels") or 2)


def activation(model_id: str, config: Mapping[str, Any], folder: Path | None = None) -> str | None:
    """What sentence-transformers applies to the logits: ``sigmoid``, ``identity``, ``softmax``, or None if unsaid.

    Written by its CrossEncoder: ``sentence_transformers.activation_fn`` of config.json, before version 4
    ``sbert_ce_default_activation_function``, and ``activation_fn`` of config_sentence_transformers.json.

    Args:
        model_id: for messages.
        config: of the model.
        folder: where the other file may be.

    Raises:
        ModelError: for one that is not known, or where the files name different ones.
    """
    named: dict[str, object] = {}
    inside = config.get("sentence_transformers")
    if isinstance(inside, Mapping):
        named["sentence_transformers of config.json"] = inside.get("activation_fn")
    named["sbert_ce_default_activation_function of config.json"] = config.get("sbert_ce_default_activation_function")
    if folder is not None:
        named["config_sentence_transformers.json"] = read_object(folder / "config_sentence_transformers.json").get(
            "activation_fn"
        )
    found = {where: str(path) for where, path in named.items() if path}
    for where, path in found.items():
        if path.rpartition(".")[2] not in _ACTIVATIONS:
            raise ModelError(
                f"{model_id}: {where} names the activation '{path}'. Known: {', '.join(_ACTIVATIONS)} of torch. Say "
                "what the outputs are with problem_type in "
                "config.json and take the activation out of it, or pass the module from Python: "
                "edgekit.build(module=..., processor=...).",
                code="model-activation",
            )
    kinds = {_ACTIVATIONS[path.rpartition(".")[2]] for path in found.values()}
    if len(kinds) > 1:
        raise ModelError(
            f"{model_id}: {' and '.join(f'{where} ({path})' for where, path in found.items())} name different "
            "activations. Take out the one that is wrong.",
            code="model-activation",
        )
    return next(iter(kinds), None)


def problem_type(
    model_id: str, config: Mapping[str, Any], applied: str | None, told: str | None
) -> tuple[str, tuple[str, ...]]:
    """What the head is, and what should be known of how that was found.

    The user's word counts before ``problem_type`` of the config, this before the activation of sentence-transformers,
    and without any it is as in the text-classification pipeline of Transformers: a sigmoid for one output, which is a
    multi-label head of one label, and softmax for several.

    Args:
        model_id: for messages.
        config: of the model.
        applied: as :func:`activation` gives it.
        told: one of ``PROBLEM_TYPES``, or None.

    Raises:
        ModelError: when the config has one that does not exist.
        UsageError: when ``told`` does not exist, or one output cannot be that.
    """
    count, said = outputs(config), config.get("problem_type")
    if told is not None:
        if told not in PROBLEM_TYPES:
            raise UsageError(
                f"Unknown problem type '{told}'.{near(told, PROBLEM_TYPES)} Expected one of: "
                f"{', '.join(PROBLEM_TYPES)}.",
                code="problem-type-unknown",
            )
        if told == SINGLE and count == 1:
            raise UsageError(
                f"{model_id} has one output, whose softmax is always 1. Choose '{MULTI}' (its sigmoid is the score) "
                f"or '{NUMBER}'.",
                code="problem-type-one-output",
            )
        return told, (
            f"problem_type is {said or 'missing'} in the config, and '{told}' was asked for.",
        ) if said != told else ()
    if said is not None:
        if said not in PROBLEM_TYPES:
            raise ModelError(
                f"problem_type of {model_id} is '{said}'.{near(str(said), PROBLEM_TYPES)} Expected one of: "
                f"{', '.join(PROBLEM_TYPES)}.",
                code="model-problem-type",
            )
        if said == SINGLE and count == 1:
            said = MULTI  # softmax of one output is always 1: the pipeline takes a sigmoid
        fits = {SINGLE: ("softmax", "identity"), MULTI: ("sigmoid",), NUMBER: ("identity",)}[said]
        against = (
            f"problem_type is '{said}' and sentence-transformers names the activation '{applied}': problem_type counts."
        )
        return said, (against,) if applied is not None and applied not in fits else ()
    if count == 1:
        if applied == "identity":
            return NUMBER, ("One output, the activation 'identity', no problem_type: the output is taken as a number.",)
        how = (
            "sentence-transformers names the activation 'sigmoid'" if applied else "as in the pipeline of Transformers"
        )
        return MULTI, (
            f"One output and no problem_type: its sigmoid is the score ({how}). Choose --problem-type {NUMBER} if it "
            "is a number as it is.",
        )
    kind = MULTI if applied == "sigmoid" else SINGLE
    other = SINGLE if kind == MULTI else MULTI
    how = (
        "sentence-transformers names the activation 'sigmoid'"
        if kind == MULTI
        else "as in the pipeline of Transformers"
    )
    return kind, (
        f"The config has no problem_type: taken for {kind} ({how}). Choose --problem-type {other} if it is that.",
    )


def check_labels(model_id: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Holds the number and the names of labels in a config against each other; a sentence where one of two counts.

    Raises:
        ModelError: when they contradict each other.
    """
    names, back, count = config.get("id2label"), config.get("label2id"), config.get("num_labels")
    if not isinstance(names, Mapping) or not names:
        if isinstance(back, Mapping) and back and not _default(back):
            raise ModelError(
                f"{model_id}: config.json has label2id and no id2label, which names the outputs. Add it: the same, "
                "turned round.",
                code="model-labels",
            )
        return ()
    if count is not None and int(count) != len(names):
        raise ModelError(
            f"{model_id}: config.json has num_labels {count} and {len(names)} names in id2label. Correct the one "
            "that is wrong.",
            code="model-labels",
        )
    if not isinstance(back, Mapping) or not back:
        return ()
    by_name = {str(name): str(index) for index, name in names.items()}
    turned = {str(name): str(index) for name, index in back.items()}
    if by_name == turned:
        return ()
    if set(by_name) & set(turned) and not _default(back):
        wrong = next((n for n in by_name if n in turned and by_name[n] != turned[n]), None)
        if wrong is not None:
            raise ModelError(
                f"{model_id}: config.json calls output {by_name[wrong]} '{wrong}' in id2label, and output "
                f"{turned[wrong]} in label2id. "
                "Correct the one that is wrong: which label is which output cannot be told from the weights.",
                code="model-labels",
            )
    return ("id2label and label2id of config.json name different labels: id2label counts.",)


def _default(back: Mapping[str, Any]) -> bool:
    return all(str(name) == f"LABEL_{index}" for name, index in back.items())
