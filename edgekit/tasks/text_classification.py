"""Text classification: one text or a pair of texts in; one label, several labels or a number out.

The three heads of Transformers' ``problem_type``: single label (softmax), multi label (a sigmoid each) and regression.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.modalities.text import Text, TextEncoder, Tokens
from edgekit.spec.content import Content
from edgekit.spec.errors import IntegrityError, SamplesError, UsageError, near
from edgekit.spec.parsing import parse, plain, to_json
from edgekit.spec.tensor import Signature
from edgekit.tasks import _labels

LOOP = "single"
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
_LONGEST = 2**20
THRESHOLD = 0.5
"""A label of a multi-label head is given when its probability is above this."""


@dataclass(frozen=True)
class Settings:
    """What the task must know of a model: ``assets/task.json``.

    Attributes:
        problem_type: one of ``PROBLEM_TYPES``.
        labels: names in the order of the logits.
        max_length: tokens of the longest row that the model takes.
        inputs: graph inputs that the tokenizer fills.
        pads: value that fills short rows, for each input.
        truncation_side: ``right`` or ``left``: which end of a text that is too long is cut off.
        tables: rows of the table that the ids of an input are looked up in, by input name; nothing where it is not known.
    """

    problem_type: str
    labels: tuple[str, ...]
    max_length: int
    inputs: tuple[str, ...]
    pads: Mapping[str, int] = field(default_factory=dict)
    truncation_side: str = "right"
    tables: Mapping[str, int] = field(default_factory=dict)

    @property
    def takes_pairs(self) -> bool:
        """Whether the model has a row for the token type of a second text, as far as is known."""
        return self.tables.get("token_type_ids", 2) > 1

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            UsageError: for an unknown problem type, no label, or a label that is there twice.
        """
        if self.problem_type not in PROBLEM_TYPES:
            raise UsageError(
                f"Unknown problem type '{self.problem_type}'.{near(self.problem_type, PROBLEM_TYPES)} Expected one of: {', '.join(PROBLEM_TYPES)}."
            )
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise UsageError(f"Labels are {list(self.labels)}, expected at least one and each once. Correct id2label in the model's config.")
        if not 1 <= self.max_length <= _LONGEST:
            raise UsageError(f"max_length is {self.max_length}, expected 1 to {_LONGEST}. Correct it in the model's config.")
        if self.truncation_side not in ("right", "left"):
            raise UsageError(f"truncation_side is '{self.truncation_side}', expected 'right' or 'left'. Correct it in the tokenizer's config.")


@dataclass(frozen=True)
class Classification:
    """The answer for one example.

    Attributes:
        label: the most probable label; for regression the name of the (first) output.
        score: its probability, 0 to 1; for regression the predicted number.
        scores: every label's probability (or number), in the model's order.
        labels: labels that are given: one for a single-label head, those above 0.5 for a multi-label head, none for regression.
        truncated: the text was longer than the model takes and its end was not read.
    """

    label: str
    score: float
    scores: Mapping[str, float]
    labels: tuple[str, ...]
    truncated: bool


class TextClassification:
    """The task with a model's settings: text to tokens, logits to answers, answers to a score."""

    def __init__(self, settings: Settings, encode: TextEncoder) -> None:
        """Binds settings to an encoder; :func:`load` makes both of a bundle's assets."""
        self.settings = settings
        self.preprocess = encode

    def check_signature(self, signature: Signature, shapes: Sequence[int] = ()) -> None:
        """Holds the settings against what the graph takes and gives, when a bundle is opened and not at its first answer.

        Args:
            signature: of the graph.
            shapes: bucket edges in tokens.

        Raises:
            IntegrityError: when other inputs are filled, rows are padded otherwise, a bucket is longer than the longest row, or there is not one
                output a label.
        """
        settings, takes = self.settings, {spec.name: spec for spec in signature.inputs}
        problem = ""
        if sorted(settings.inputs) != sorted(takes):
            problem = f"fills the inputs {list(settings.inputs)}, the graph takes {list(takes)}"
        elif wrong := [n for n, pad in settings.pads.items() if n not in takes or takes[n].pad not in (None, pad)]:
            problem = f"pads the input '{wrong[0]}' with {settings.pads[wrong[0]]}, the graph's signature does not"
        elif shapes and max(shapes) > settings.max_length:
            problem = f"has max_length {settings.max_length}, a variant is compiled for {max(shapes)} tokens"
        elif not signature.outputs or len(signature.outputs[0].shape) != 2 or signature.outputs[0].shape[1] not in (len(settings.labels), "labels"):
            shape = list(signature.outputs[0].shape) if signature.outputs else "nothing"
            problem = f"has {len(settings.labels)} label(s), the graph gives {shape}"
        if problem:
            raise IntegrityError(f"assets/task.json {problem}. The bundle's files do not belong together: build or copy it again.")

    @property
    def binary(self) -> bool:
        """Whether the head has one output, whose sigmoid says yes or no: scored by its accuracy."""
        return self.settings.problem_type == "multi_label_classification" and len(self.settings.labels) == 1

    @property
    def score_name(self) -> str:
        """What :meth:`score` computes."""
        if self.binary:
            return "accuracy"
        return {"single_label_classification": "accuracy", "multi_label_classification": "micro F1", "regression": "Pearson r"}[
            self.settings.problem_type
        ]

    def postprocess(self, logits: np.ndarray, tokens: Sequence[Tokens]) -> list[Classification]:
        """Turns logits into answers.

        Args:
            logits: float32 ``[batch, labels]``.
            tokens: the encoded examples of the same rows.
        """
        names, kind = self.settings.labels, self.settings.problem_type
        values = self.probabilities(logits)
        best = values.argmax(axis=1).tolist() if kind != "regression" else [0] * len(values)
        answers = []
        for row, top, encoded in zip(values.tolist(), best, tokens, strict=True):
            if kind == "multi_label_classification":
                given = tuple(n for n, v in zip(names, row, strict=True) if v > THRESHOLD)
            else:
                given = (names[top],) if kind == "single_label_classification" else ()
            answers.append(Classification(names[top], row[top], dict(zip(names, row, strict=True)), given, encoded.truncated))
        return answers

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Softmax, sigmoid or nothing, by the head: float64 ``[batch, labels]``."""
        x = logits.astype(np.float64)
        if self.settings.problem_type == "regression":
            return x
        if self.settings.problem_type == "multi_label_classification":
            return np.exp(-np.logaddexp(0.0, -x))
        x = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(x / x.sum(axis=1, keepdims=True))

    def parse_labels(self, values: Sequence[object], where: str) -> np.ndarray:
        """Reads the label column of samples, see :func:`edgekit.tasks._labels.parse`.

        Args:
            values: one a row.
            where: the file, for messages.

        Returns:
            ``int64 [rows]`` for a single-label head, ``bool [rows, labels]`` for multi-label, ``float64 [rows, labels]`` for regression.

        Raises:
            SamplesError: for a label that the model does not know, or a value that is not a number.
        """
        return _labels.parse(self.settings.problem_type, self.settings.labels, values, where).values

    def score(self, logits: np.ndarray, truth: np.ndarray) -> float:
        """Task score, higher is better: accuracy (of a head with one output too), micro F1, or Pearson's r (mean over outputs).

        Args:
            logits: float32 ``[rows, labels]``.
            truth: as :meth:`parse_labels` gives it.

        Raises:
            SamplesError: for a regression set in which all labels are equal: r is not defined there.
        """
        kind = self.settings.problem_type
        if kind == "single_label_classification":
            return float((logits.argmax(axis=1) == truth).mean())
        if kind == "multi_label_classification":
            given = logits > 0.0  # probability above one half
            if self.binary:
                return float((given == truth).mean())
            both = 2 * int((given & truth).sum())
            all_of_them = int(given.sum()) + int(truth.sum())
            return both / all_of_them if all_of_them else 1.0
        if len(truth) < 2 or (truth.std(axis=0) == 0).any():
            raise SamplesError("All labels of the regression samples are equal, so Pearson's r is not defined. Give samples with different values.")
        columns = zip(logits.T.astype(np.float64), truth.T, strict=True)
        return float(np.mean([0.0 if x.std() == 0 else np.corrcoef(x, y)[0, 1] for x, y in columns]))

    def divergence(self, logits: np.ndarray, reference: np.ndarray) -> float:
        """How far answers are from those of another model, without labels; 0 where they are equal.

        Mean Kullback-Leibler divergence of the answers' distribution, in nats: over the labels of a single-label head, summed
        over those of a multi-label head; for regression half the mean squared difference, which is that divergence between
        normal distributions of unit variance.

        Args:
            logits: float32 ``[rows, labels]``.
            reference: the same rows by the reference, e.g. the float32 graph.
        """
        x, y = logits.astype(np.float64), reference.astype(np.float64)
        kind = self.settings.problem_type
        if kind == "regression":
            return float(((x - y) ** 2).sum(axis=1).mean() / 2)
        if kind == "multi_label_classification":
            p = self.probabilities(reference)
            yes, no = np.logaddexp(0.0, -x) - np.logaddexp(0.0, -y), np.logaddexp(0.0, x) - np.logaddexp(0.0, y)
            return float((p * yes + (1.0 - p) * no).sum(axis=1).mean())
        x, y = (a - np.logaddexp.reduce(a, axis=1, keepdims=True) for a in (x, y))
        return float((np.exp(y) * (y - x)).sum(axis=1).mean())

    def changed(self, logits: np.ndarray, reference: np.ndarray) -> int:
        """Rows that are answered differently: another label, another set of labels, or a number that is off by 5 % of the numbers' range.

        Args:
            logits: float32 ``[rows, labels]``.
            reference: the same rows by another model, e.g. the torch model.
        """
        return int(self.differs(logits, reference).sum())

    def differs(self, logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Which rows :meth:`changed` counts: bool ``[rows]``."""
        if self.settings.problem_type == "single_label_classification":
            return np.asarray(logits.argmax(axis=1) != reference.argmax(axis=1))
        if self.settings.problem_type == "multi_label_classification":
            return np.asarray(((logits > 0.0) != (reference > 0.0)).any(axis=1))
        return np.asarray((np.abs(logits - reference) > 0.05 * np.ptp(reference, axis=0)).any(axis=1))

    def margins(self, logits: np.ndarray) -> np.ndarray:
        """How clear each row's answer is: the largest number such that no change of all its logits by less gives another one.

        Half of the lead over the second label; the smallest distance of a logit from its threshold where each label is asked alone; 0 where the answer is a
        number, which any change changes.

        Args:
            logits: float32 ``[rows, labels]``.

        Returns:
            float64 ``[rows]``.
        """
        x = logits.astype(np.float64)
        if self.settings.problem_type == "multi_label_classification":
            return np.asarray(np.abs(x).min(axis=1))
        if self.settings.problem_type == "regression":
            return np.zeros(len(x))
        if x.shape[1] < 2:
            return np.full(len(x), np.inf)
        top = np.sort(x, axis=1)
        return np.asarray((top[:, -1] - top[:, -2]) / 2)


def load(assets: Content) -> TextClassification:
    """Makes the task of ``assets/task.json`` and ``assets/tokenizer.json``.

    Raises:
        IntegrityError: when one of them is missing or malformed.
    """
    path = assets / "task.json"
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise IntegrityError(f"{path} cannot be read ({problem}). Build or copy the bundle again.") from problem
    settings = parse(Settings, data, str(path), IntegrityError)
    encode = TextEncoder(
        assets / "tokenizer.json", settings.inputs, settings.max_length, settings.truncation_side, tables=settings.tables
    )
    return TextClassification(settings, encode)


def save(settings: Settings, tokenizer_json: str, assets: Path) -> None:
    """Writes the two files that :func:`load` reads."""
    assets.mkdir(parents=True, exist_ok=True)
    (assets / "tokenizer.json").write_text(tokenizer_json, "utf-8")
    (assets / "task.json").write_text(to_json(plain(settings), indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


__all__ = ["LOOP", "PROBLEM_TYPES", "Classification", "Settings", "Text", "TextClassification", "load", "save"]
