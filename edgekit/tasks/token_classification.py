"""Token classification: a text, or its words, in; a label for each word and the entities that they make out.

What is longer than the model is read in windows that overlap; nothing is cut off. A word has the label of its first token, in evaluation as in training. A
token that is in two windows counts by the one in which it has more of the text around it.
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
from edgekit.spec.errors import IntegrityError, SamplesError, UsageError, near
from edgekit.spec.metric import Evidence, Metric, additive
from edgekit.spec.protocols import Arrays, Encoded, Labelled, Truth
from edgekit.spec.short import ShortRepr
from edgekit.spec.tensor import Signature
from edgekit.tasks import _entities, _labels, _spans
from edgekit.tasks._entities import Entity
from edgekit.tasks._settings import read_settings, write_settings
from edgekit.tasks._token_values import OUTPUT, leads, of_rows, probabilities

__all__ = [
    "LOOP",
    "MODALITY",
    "OUTPUT",
    "STRATEGIES",
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


def _f1(sums: np.ndarray) -> np.ndarray:
    """F1 of the sums of (true positives, false positives, false negatives); NaN where there is nothing to find and nothing found."""
    both = 2 * sums[:, 0]
    everything = both + sums[:, 1] + sums[:, 2]
    return np.asarray(np.divide(both, everything, out=np.full(len(sums), np.nan), where=everything > 0))


def _share(sums: np.ndarray) -> np.ndarray:
    """The first sum as a share of the second; NaN where that is 0."""
    return np.asarray(np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0))


SPAN_F1 = Metric(
    "span F1",
    additive(_f1),
    undefined="No row has a span, and none is answered, so the F1 of spans is not defined. Give rows with spans.",
)
TOKEN_ACCURACY = Metric(
    "token accuracy",
    additive(_share),
    undefined="No row has a word, so the share of right ones is not defined. Give rows with words.",
)


@dataclass(frozen=True)
class Settings:
    """What the task must know of a model: ``assets/task.json``.

    Attributes:
        labels: names in the order of the outputs.
        max_length: tokens of the longest window that the model takes.
        stride: tokens that a window shares with the next.
        inputs: graph inputs that the tokenizer fills.
        pads: value that fills short windows, for each input.
        aggregation: how tokens become entities, one of ``STRATEGIES``.
        unknown: id of the token that stands for what is not in the vocabulary; None where there is none.
        tables: rows of the table that the ids of an input are looked up in, by input name; nothing where it is not known.
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
        """Checks what the types cannot say.

        Raises:
            UsageError: for no label, a label that is there twice, a size out of range, or an unknown strategy.
        """
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise UsageError(
                f"Labels are {list(self.labels)}, expected at least one and each once. Correct id2label in the model's config.",
                code="labels-invalid",
            )
        if not 1 <= self.max_length <= _LONGEST or not 0 <= self.stride < self.max_length:
            raise UsageError(
                f"max_length is {self.max_length} and stride {self.stride}, expected 1 to {_LONGEST}, and less than that.",
                code="length-invalid",
            )
        if self.aggregation not in STRATEGIES:
            raise UsageError(
                f"Unknown aggregation '{self.aggregation}'.{near(self.aggregation, STRATEGIES)} Expected one of: {', '.join(STRATEGIES)}.",
                code="aggregation-unknown",
            )


@dataclass(frozen=True, repr=False)
class Tagging(ShortRepr):
    """The answer for one example.

    Attributes:
        entities: parts of the text whose label is not ``O``, in the order of the text, by the bundle's strategy of aggregation.
        words: each word with the label of its first token.
        truncated: the text was longer than the limit of characters and was cut there, as asked for.
    """

    entities: tuple[Entity, ...]
    words: tuple[Entity, ...]
    truncated: bool


class TokenClassification:
    """The task with a model's settings."""

    answers_quote_input = False
    exclusive = True

    def __init__(self, settings: Settings, encoder: WordEncoder | None) -> None:
        """Binds settings to an encoder; :func:`load` makes both of a bundle's assets."""
        self.settings = settings
        self.modality = WordsModality(encoder, settings.max_length)
        self._marked = _spans.marks_spans(settings.labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names, in the model's order."""
        return self.settings.labels

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """F1 of spans and token accuracy where labels mark spans, else token accuracy."""
        return (SPAN_F1, TOKEN_ACCURACY) if self._marked else (TOKEN_ACCURACY,)

    @property
    def max_size(self) -> int:
        """Tokens of the longest window that the model takes."""
        return self.settings.max_length

    @property
    def identity(self) -> Mapping[str, object]:
        """Labels, which two models that are compared must share."""
        return {"labels": list(self.settings.labels)}

    def check_signature(self, signature: Signature, shapes: Sequence[int] = ()) -> None:
        """Compares the settings with what the graph takes and gives.

        Raises:
            IntegrityError: when other inputs are filled, windows are padded otherwise, a bucket is longer than the longest window, or there is not one
                output for each token and label.
        """
        settings, takes = self.settings, {spec.name: spec for spec in signature.inputs}
        outputs = {spec.name: spec.shape for spec in signature.outputs}
        problem = ""
        if sorted(settings.inputs) != sorted(takes):
            problem = f"fills the inputs {list(settings.inputs)}, the graph takes {list(takes)}"
        elif wrong := [n for n, pad in settings.pads.items() if n not in takes or takes[n].pad not in (None, pad)]:
            problem = f"pads the input '{wrong[0]}' with {settings.pads[wrong[0]]}, the graph's signature does not"
        elif shapes and max(shapes) > settings.max_length:
            problem = f"has max_length {settings.max_length}, a variant is compiled for {max(shapes)} tokens"
        elif len(outputs.get(OUTPUT, ())) != 3 or outputs[OUTPUT][2] not in (len(settings.labels), "labels"):
            problem = f"has {len(settings.labels)} label(s) for each token, the graph gives {list(outputs.items())}"
        if problem:
            raise IntegrityError(
                f"assets/task.json {problem}. The bundle's files do not belong together: build or copy it again.",
                code="bundle-assets",
            )

    def check_arrays(self, feeds: Arrays) -> None:
        """Refuses ids that the model has no row for.

        Raises:
            InputError: with the first such id.
        """
        check_ids(feeds, self.settings.tables, None)

    def preprocess(self, inputs: Sequence[Words]) -> list[Encoded]:
        """Makes token ids of texts or words, in windows.

        Raises:
            InputError: for anything else, a text beyond the limit of the modality, or a word that makes no token.
            IntegrityError: when the tokenizer fails at one of them.
        """
        return list(self.modality.encoder(inputs))

    def postprocess(self, outputs: Sequence[Arrays], encoded: Sequence[Encoded]) -> list[Tagging]:
        """Makes the answer of each row."""
        answers = []
        for row, source, values_of_words in zip(outputs, encoded, of_rows(outputs), strict=True):
            spans, values = source.context, probabilities(values_of_words)
            words = []
            for of_word, (start, end) in zip(values, spans.words, strict=True):
                words.append(
                    Entity(self.labels[int(of_word.argmax())], float(of_word.max()), start, end, spans.text[start:end])
                )
            answers.append(
                Tagging(self._entities(row, source, self.settings.aggregation), tuple(words), source.truncated)
            )
        return answers

    def aggregate(
        self, outputs: Sequence[Arrays], encoded: Sequence[Encoded], strategy: str
    ) -> list[tuple[Entity, ...]]:
        """Entities of each row by another strategy than the bundle's.

        Args:
            outputs: of a session.
            encoded: of :meth:`preprocess`.
            strategy: one of ``STRATEGIES``.

        Raises:
            UsageError: for an unknown strategy.
        """
        if strategy not in STRATEGIES:
            raise UsageError(
                f"Unknown aggregation '{strategy}'.{near(strategy, STRATEGIES)} Expected one of: {', '.join(STRATEGIES)}.",
                code="aggregation-unknown",
            )
        return [self._entities(row, source, strategy) for row, source in zip(outputs, encoded, strict=True)]

    def _entities(self, row: Arrays, source: Encoded, strategy: str) -> tuple[Entity, ...]:
        return _entities.entities(probabilities(np.asarray(row[OUTPUT])), source.context, self.labels, strategy)

    def labelled(self, rows: Sequence[Labelled]) -> list[bool]:
        """Which rows have labels."""
        return [row.label is not None for row in rows]

    def parse_truth(self, rows: Sequence[Labelled], where: str) -> Truth:
        """Reads the labels of words: in a list, in one that was written into a cell, or with blanks between them.

        Args:
            rows: of a sample file.
            where: the file, for messages.

        Returns:
            Places of the labels of each row's words, int64 ``[words]``.

        Raises:
            SamplesError: for a row without labels or whose text is not split into words, with fewer or more labels than words, a label that the model does
                not know, or one that continues a span that no label has begun.
        """
        cells = [_labels_of(row, f"{where}, row {place}") for place, row in enumerate(rows, 1)]
        read, notes = _labels.reader([label for cell in cells for label in cell], self.labels, where)
        values = [np.array([read(label, place) for label in cell], np.int64) for place, cell in enumerate(cells)]
        for place, value in enumerate(values, 1):
            if self._marked and (wrong := _spans.first_invalid(tags := self._tags(value), self.labels)) is not None:
                before = f"'{tags[wrong - 1]}'" if wrong else "the beginning of the row"
                raise SamplesError(
                    f"{where}, row {place}: the label of word {wrong + 1}, '{tags[wrong]}', follows {before}, which begins no span of that kind. "
                    "Labels are read as BIO: the first word of a span has B-. Convert the labels, or correct the row.",
                    code="samples-label-bio",
                )
        return Truth(values, tuple(notes))

    def merge_truth(self, values: Sequence[Any]) -> Any:
        """The most frequent labels of rows with equal words; of equally frequent ones the first."""
        counts = Counter(tuple(np.asarray(value).tolist()) for value in values)
        return np.array(counts.most_common(1)[0][0], np.int64)

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """True positives, false positives and false negatives of each row's spans, ``[rows, 3]``; of accuracy right words and words, ``[rows, 2]``.

        Raises:
            UsageError: when a row has another number of words than its truth.
        """
        counts = []
        for row, values, right in self._both(outputs, truth):
            answered = values.argmax(axis=1)
            if metric is TOKEN_ACCURACY:
                count = [float((answered == right).sum()), float(len(right))]
            else:
                found, wanted = (set(_spans.spans(self._tags(places))) for places in (answered, right))
                count = [float(len(found & wanted)), float(len(found - wanted)), float(len(wanted - found))]
            counts.append(count if not np.isnan(row[OUTPUT]).any() else [np.nan] * len(count))
        return np.array(counts, np.float64).reshape(len(counts), 2 if metric is TOKEN_ACCURACY else 3)

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Whether all words of a row have the same labels: bool ``[rows]``."""
        pairs = zip(of_rows(outputs), of_rows(reference), strict=True)
        return np.array(
            [len(x) == len(y) and bool((x.argmax(axis=1) == y.argmax(axis=1)).all()) for x, y in pairs], bool
        )

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Kullback-Leibler divergence of a word's distribution over the labels from the reference's, mean over the words of a row: float64 ``[rows]``, nats.

        Raises:
            UsageError: when two tokenizers split a text into other words.
        """
        found = []
        for x, y in zip(of_rows(outputs), of_rows(reference), strict=True):
            if len(x) != len(y):
                raise UsageError(
                    f"A text has {len(x)} words by one model, {len(y)} by the other. Compare them on texts that are split into words.",
                    code="words-differ",
                )
            x, y = (values - np.logaddexp.reduce(values, axis=1, keepdims=True) for values in (x, y))
            found.append(float((np.exp(y) * (y - x)).sum() / max(len(x), 1)))
        return np.array(found, np.float64)

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """Rows in which the best label of every word leads by twice the tolerance: bool ``[rows]``."""
        return np.array([bool((leads(values) / 2 >= tolerance).all()) for values in of_rows(outputs)], bool)

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Each row's spans by the places of their words; labels of the words where they mark none."""
        return self.describe_truth([values.argmax(axis=1) for values in of_rows(outputs)])

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Each row's right spans or labels."""
        return [_spans.in_words(tags) if self._marked else " ".join(tags) for tags in map(self._tags, truth)]

    def label_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Right label and answered label of each word as flags: bool ``[words, labels]`` each, truth first."""
        flags = np.eye(len(self.labels), dtype=bool)
        pairs = [(right, values.argmax(axis=1)) for _, values, right in self._both(outputs, truth)]
        right, answered = (np.concatenate([np.zeros(0, np.int64), *(pair[i] for pair in pairs)]) for i in (0, 1))
        return flags[right], flags[answered]

    def confidence(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Probability of each word's label, float64 ``[words]``, and whether it is right, bool ``[words]``."""
        sure, hits = [np.zeros(0)], [np.zeros(0, bool)]
        for _, values, right in self._both(outputs, truth):
            sure.append(probabilities(values).max(axis=1))
            hits.append(values.argmax(axis=1) == right)
        return np.concatenate(sure), np.concatenate(hits)

    def margin(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Smallest lead of a word's label over the next best one, in probability: float64 ``[rows]``; 1 for a row without words."""
        return np.array(
            [float(leads(probabilities(values)).min(initial=1.0)) for values in of_rows(outputs)], np.float64
        )

    def _tags(self, places: Any) -> list[str]:
        return [self.labels[int(place)] for place in places]

    def _both(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> list[tuple[Arrays, np.ndarray, np.ndarray]]:
        """Each row with the values of its words and their right labels."""
        found = []
        for place, (row, values, right) in enumerate(zip(outputs, of_rows(outputs), truth, strict=True)):
            if len(values) != len(right):
                raise UsageError(
                    f"Row {place + 1} has {len(values)} answered words and {len(right)} labels. Give outputs and labels of the same rows.",
                    code="words-differ",
                )
            found.append((row, values, np.asarray(right, np.int64)))
        return found


def _labels_of(row: Labelled, where: str) -> Sequence[object]:
    """The labels of a row's words, not read yet.

    Raises:
        SamplesError: when there are none, or fewer or more than words.
    """
    if row.label is None:
        raise SamplesError(
            f"{where} has no labels, which scoring needs. Name the column: --columns label=NAME.",
            code="samples-no-label",
        )
    if not isinstance(row.input, tuple):
        raise SamplesError(
            f"{where} has a text that is not split into words, so labels cannot be told to belong to them. Give a list of words.",
            code="samples-no-words",
        )
    value = _labels.unwritten(row.label)
    labels = value.split() if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else [value]
    if len(labels) != len(row.input):
        raise SamplesError(
            f"{where} has {len(labels)} labels for {len(row.input)} words, expected one for each. Correct or remove the row.",
            code="samples-label-count",
        )
    return labels


def load(assets: Content) -> TokenClassification:
    """Makes the task of ``assets/task.json`` and ``assets/tokenizer.json``.

    Raises:
        IntegrityError: when one of them is missing or malformed.
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
    """Writes the two files that :func:`load` reads."""
    write_settings(settings, assets)
    (assets / "tokenizer.json").write_text(tokenizer_json, "utf-8")
