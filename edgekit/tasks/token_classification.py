"""Token classification: the input is a text or its words; the answer is a label for each word, and the entities.

A text that is longer than the model's limit is read in overlapping windows; nothing is cut off. A word has the label of
its first token, in evaluation as in training. A token in two windows is taken from the one with more context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities.text import check_ids
from edgekit.modalities.words import WordEncoder, Words, WordsModality
from edgekit.spec.content import Content
from edgekit.spec.errors import IntegrityError, UsageError, near
from edgekit.spec.metric import Evidence, Metric
from edgekit.spec.protocols import Arrays, Encoded, Labelled, Truth
from edgekit.spec.short import ShortRepr
from edgekit.spec.tensor import Signature
from edgekit.stats.divergence import kl_softmax
from edgekit.tasks import _entities, _spans
from edgekit.tasks._entities import Entity
from edgekit.tasks._heads import check_labels
from edgekit.tasks._settings import read_settings, write_settings
from edgekit.tasks._span_metrics import SPAN_F1, TOKEN_ACCURACY
from edgekit.tasks._text_inputs import input_problem
from edgekit.tasks._token_values import OUTPUT, leads, probabilities, word_values_of_rows
from edgekit.tasks._word_labels import parse_word_labels

__all__ = [
    "LOOP",
    "MODALITY",
    "OUTPUT",
    "SPAN_F1",
    "STRATEGIES",
    "TOKEN_ACCURACY",
    "Entity",
    "Settings",
    "Tagging",
    "TokenClassification",
    "load",
    "save",
]

LOOP = "windows"
MODALITY = "words"
STRATEGIES = _entities.STRATEGIES
_LONGEST = 2**20


@dataclass(frozen=True)
class Settings:
    """Settings of the task for one model, the content of ``assets/task.json``.

    Attributes:
        labels: Label names, in the order of the outputs.
        max_length: Length of the longest window the model accepts, in tokens.
        stride: Overlap of adjacent windows, in tokens.
        inputs: Names of the graph inputs that the tokenizer fills.
        pads: Padding value of each input.
        aggregation: Strategy that merges tokens into entities, one of ``STRATEGIES``.
        unknown: Token id of the unknown token; None if the vocabulary has none.
        tables: Number of rows of the embedding table behind each input of ids; inputs with an unknown table are absent.
    """

    labels: tuple[str, ...]
    max_length: int
    stride: int
    inputs: tuple[str, ...]
    pads: Mapping[str, int] = field(default_factory=dict)
    aggregation: str = "simple"
    unknown: int | None = None
    tables: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: If the labels are empty or not unique, a size is out of range, or the strategy is unknown.
        """
        check_labels(self.labels)
        if not 1 <= self.max_length <= _LONGEST or not 0 <= self.stride < self.max_length:
            raise UsageError(
                f"max_length is {self.max_length} and stride is {self.stride}, expected 1 to {_LONGEST} "
                "and a smaller stride.",
                code="length-invalid",
            )
        _check_strategy(self.aggregation)


@dataclass(frozen=True, repr=False)
class Tagging(ShortRepr):
    """The answer for one example.

    Attributes:
        entities: Parts of the text with a label other than ``O``, in the order of the text, by the bundle's aggregation
            strategy.
        words: Words, each with the label of its first token.
        truncated: Whether the text was longer than the limit of characters and was cut, as ``truncate=True`` requests.
    """

    entities: tuple[Entity, ...]
    words: tuple[Entity, ...]
    truncated: bool


class TokenClassification:
    """The token classification task of one model."""

    answers_quote_input = False
    exclusive = True

    def __init__(self, settings: Settings, encoder: WordEncoder | None) -> None:
        """Create the task from settings and an encoder; :func:`load` reads both from a bundle's assets."""
        self.settings = settings
        self.modality = WordsModality(encoder, settings.max_length)
        self._marks_spans = _spans.marks_spans(settings.labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the model's order."""
        return self.settings.labels

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Span F1 and token accuracy if the labels mark spans, else token accuracy."""
        return (SPAN_F1, TOKEN_ACCURACY) if self._marks_spans else (TOKEN_ACCURACY,)

    @property
    def max_size(self) -> int:
        """Length of the longest window the model accepts, in tokens."""
        return self.settings.max_length

    @property
    def identity(self) -> Mapping[str, object]:
        """Label names. Models that are compared must agree in them."""
        return {"labels": list(self.settings.labels)}

    def check_signature(self, signature: Signature, shapes: Sequence[int] = ()) -> None:
        """Compare the settings with the graph's inputs and outputs.

        Raises:
            IntegrityError: If the inputs or their padding differ, a bucket is longer than the longest window, or there
                is not one output for each token and label.
        """
        settings = self.settings
        problem = input_problem(settings.inputs, settings.pads, settings.max_length, signature, shapes)
        outputs = {spec.name: spec.shape for spec in signature.outputs}
        shape = outputs.get(OUTPUT, ())
        if not problem and (len(shape) != 3 or shape[2] not in (len(settings.labels), "labels")):
            problem = f"has {len(settings.labels)} label(s) for each token, the graph outputs {list(outputs.items())}"
        if problem:
            raise IntegrityError(
                f"assets/task.json {problem}. The bundle's files do not belong together: build or copy it again.",
                code="bundle-assets",
            )

    def check_arrays(self, feeds: Arrays) -> None:
        """Check that all ids are inside the model's tables.

        Raises:
            InputError: If an id is not; the message has the first such id.
        """
        check_ids(feeds, self.settings.tables, None)

    def preprocess(self, inputs: Sequence[Words]) -> list[Encoded]:
        """Return the token ids of texts or words, in windows.

        Raises:
            InputError: If an input is neither a text nor words, exceeds the limit of characters, or has a word without
                tokens.
            IntegrityError: If the tokenizer fails.
        """
        return list(self.modality.encoder(inputs))

    def postprocess(self, outputs: Sequence[Arrays], encoded: Sequence[Encoded]) -> list[Tagging]:
        """Return the answer of each row."""
        answers = []
        for row, source, values in zip(outputs, encoded, word_values_of_rows(outputs), strict=True):
            spans = source.context
            words = []
            for word, (start, end) in zip(probabilities(values), spans.words, strict=True):
                label = self.labels[int(word.argmax())]
                words.append(Entity(label, float(word.max()), start, end, spans.text[start:end]))
            entities = self._entities(row, source, self.settings.aggregation)
            answers.append(Tagging(entities, tuple(words), source.truncated))
        return answers

    def aggregate(
        self, outputs: Sequence[Arrays], encoded: Sequence[Encoded], strategy: str
    ) -> list[tuple[Entity, ...]]:
        """Return the entities of each row by another strategy than the bundle's.

        Args:
            outputs: Outputs of a session.
            encoded: Inputs from :meth:`preprocess`.
            strategy: Aggregation strategy, one of ``STRATEGIES``.

        Raises:
            UsageError: If the strategy is unknown.
        """
        _check_strategy(strategy)
        return [self._entities(row, source, strategy) for row, source in zip(outputs, encoded, strict=True)]

    def _entities(self, row: Arrays, source: Encoded, strategy: str) -> tuple[Entity, ...]:
        values = probabilities(np.asarray(row[OUTPUT]))
        return _entities.extract_entities(values, source.context, self.labels, strategy)

    def labelled(self, rows: Sequence[Labelled]) -> list[bool]:
        """Return which rows have labels."""
        return [row.label is not None for row in rows]

    def parse_truth(self, rows: Sequence[Labelled], where: str) -> Truth:
        """Read the labels of words.

        Args:
            rows: Rows of a sample file. Labels are a list, a list written into a cell, or a text with spaces between
                labels.
            where: Name of the file, for messages.

        Returns:
            Label indices of each row's words, int64 ``[words]``.

        Raises:
            SamplesError: If a row has no labels or is not split into words, has another number of labels than words, an
                unknown label, or a label that continues a span that did not begin.
        """
        return parse_word_labels(rows, self.labels, where, bio=self._marks_spans)

    def merge_truth(self, values: Sequence[Any]) -> Any:
        """Return the most frequent labels of rows with equal words; of equally frequent ones, the first."""
        counts = Counter(tuple(np.asarray(value).tolist()) for value in values)
        return np.array(counts.most_common(1)[0][0], np.int64)

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """Return what each row contributes to a metric.

        Returns:
            True positives, false positives and false negatives of each row's spans, ``[rows, 3]``; for token accuracy,
            numbers of correct words and of words, ``[rows, 2]``.

        Raises:
            UsageError: If a row has another number of words than its truth.
        """
        counts = []
        for row, values, labels in self._pair_rows(outputs, truth):
            predicted = values.argmax(axis=1)
            if metric is TOKEN_ACCURACY:
                count = [float((predicted == labels).sum()), float(len(labels))]
            else:
                predicted_spans = set(_spans.spans(self._tags(predicted)))
                true_spans = set(_spans.spans(self._tags(labels)))
                groups = (predicted_spans & true_spans, predicted_spans - true_spans, true_spans - predicted_spans)
                count = [float(len(group)) for group in groups]
            if np.isnan(row[OUTPUT]).any():
                count = [np.nan] * len(count)
            counts.append(count)
        return np.array(counts, np.float64).reshape(len(counts), 2 if metric is TOKEN_ACCURACY else 3)

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return whether all words of each row have the labels of the reference: bool ``[rows]``."""
        same = []
        for x, y in zip(word_values_of_rows(outputs), word_values_of_rows(reference), strict=True):
            same.append(len(x) == len(y) and bool((x.argmax(axis=1) == y.argmax(axis=1)).all()))
        return np.array(same, bool)

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return the Kullback-Leibler divergence from the reference, mean over the words: float64 ``[rows]``, in nats.

        Raises:
            UsageError: If the two models' tokenizers split a text into different words.
        """
        divergences = []
        for x, y in zip(word_values_of_rows(outputs), word_values_of_rows(reference), strict=True):
            if len(x) != len(y):
                raise UsageError(
                    f"A text has {len(x)} words for one model and {len(y)} for the other, expected as many. "
                    "Compare them on texts that are split into words.",
                    code="words-differ",
                )
            divergences.append(float(kl_softmax(x, y).sum() / max(len(x), 1)))
        return np.array(divergences, np.float64)

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """Return whether the best label of every word leads by at least twice the tolerance: bool ``[rows]``."""
        rows = word_values_of_rows(outputs)
        return np.array([bool((leads(values) / 2 >= tolerance).all()) for values in rows], bool)

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Return the predicted spans of each row by word index, or the words' labels if labels mark no spans."""
        return self.describe_truth([values.argmax(axis=1) for values in word_values_of_rows(outputs)])

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Return the true spans or labels of each row."""
        describe = _spans.in_words if self._marks_spans else " ".join
        return [describe(self._tags(labels)) for labels in truth]

    def label_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and the predicted label of each word as flags, truth first: bool ``[words, labels]`` each."""
        flags = np.eye(len(self.labels), dtype=bool)
        true_labels = [np.zeros(0, np.int64)]
        predicted = [np.zeros(0, np.int64)]
        for _, values, labels in self._pair_rows(outputs, truth):
            true_labels.append(labels)
            predicted.append(values.argmax(axis=1))
        return flags[np.concatenate(true_labels)], flags[np.concatenate(predicted)]

    def confidence(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each word's label and its correctness: float64 ``[words]``, bool ``[words]``."""
        scores = [np.zeros(0)]
        hits = [np.zeros(0, bool)]
        for _, values, labels in self._pair_rows(outputs, truth):
            scores.append(probabilities(values).max(axis=1))
            hits.append(values.argmax(axis=1) == labels)
        return np.concatenate(scores), np.concatenate(hits)

    def margin(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Return the smallest lead, in probability, of a word's label over the next best: float64 ``[rows]``.

        A row without words has 1.
        """
        rows = word_values_of_rows(outputs)
        return np.array([float(leads(probabilities(values)).min(initial=1.0)) for values in rows], np.float64)

    def _tags(self, indices: Any) -> list[str]:
        return [self.labels[int(index)] for index in indices]

    def _pair_rows(
        self, outputs: Sequence[Arrays], truth: Sequence[Any]
    ) -> list[tuple[Arrays, np.ndarray, np.ndarray]]:
        """Return each row with the values of its words and their true labels."""
        rows = []
        for number, (row, values, labels) in enumerate(
            zip(outputs, word_values_of_rows(outputs), truth, strict=True), 1
        ):
            if len(values) != len(labels):
                raise UsageError(
                    f"Row {number} has {len(values)} predicted words and {len(labels)} labels, expected as many. "
                    "Give outputs and labels of the same rows.",
                    code="words-differ",
                )
            rows.append((row, values, np.asarray(labels, np.int64)))
        return rows


def _check_strategy(strategy: str) -> None:
    if strategy not in STRATEGIES:
        raise UsageError(
            f"Unknown aggregation '{strategy}'.{near(strategy, STRATEGIES)} Expected one of: {', '.join(STRATEGIES)}.",
            code="aggregation-unknown",
        )


def load(assets: Content) -> TokenClassification:
    """Return the task described by ``assets/task.json`` and ``assets/tokenizer.json``.

    Raises:
        IntegrityError: If a file is missing or malformed.
    """
    settings = read_settings(Settings, assets)
    encoder = WordEncoder(
        assets / "tokenizer.json",
        settings.inputs,
        settings.max_length,
        settings.stride,
        unknown=settings.unknown,
        tables=settings.tables,
    )
    return TokenClassification(settings, encoder)


def save(settings: Settings, tokenizer_json: str, assets: Path) -> None:
    """Write the two files that :func:`load` reads."""
    write_settings(settings, assets)
    (assets / "tokenizer.json").write_text(tokenizer_json, "utf-8")
