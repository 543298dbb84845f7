"""Text classification: the input is a text or a pair of texts; the answer is one label, several labels or a number.

The three heads are those of Transformers' ``problem_type``: single label (softmax), multi label (one sigmoid per label)
and regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.modalities.text import Text, TextEncoder, TextModality, check_ids
from edgekit.spec.content import Content
from edgekit.spec.errors import IntegrityError, UsageError
from edgekit.spec.protocols import Arrays, Encoded
from edgekit.spec.tensor import Signature
from edgekit.tasks._heads import (
    HEADS,
    Classification,
    Head,
    MultiLabel,
    Regression,
    SingleLabel,
    check_labels,
    check_problem_type,
    output_problem,
)
from edgekit.tasks._settings import read_settings, write_settings
from edgekit.tasks._text_inputs import input_problem

__all__ = ["LOOP", "MODALITY", "Classification", "Settings", "Text", "TextClassification", "bind", "load", "save"]

LOOP = "single"
MODALITY = "text"
_LONGEST = 2**20


@dataclass(frozen=True)
class Settings:
    """Settings of the task for one model, the content of ``assets/task.json``.

    Attributes:
        problem_type: Kind of head, as in Transformers.
        labels: Label names, in the order of the logits.
        max_length: Length of the longest row the model accepts, in tokens.
        inputs: Names of the graph inputs that the tokenizer fills.
        pads: Padding value of each input.
        truncation_side: Side where a text that is too long is cut, ``right`` or ``left``.
        tables: Number of rows of the embedding table behind each input of ids; inputs with an unknown table are absent.
        remembers_words: Whether a session remembers the token ids of words: true if the build has found that they give
            the ids of texts. Bundles of earlier releases do not state it.
    """

    problem_type: str
    labels: tuple[str, ...]
    max_length: int
    inputs: tuple[str, ...]
    pads: Mapping[str, int] = field(default_factory=dict)
    truncation_side: str = "right"
    tables: Mapping[str, int] = field(default_factory=dict)
    remembers_words: bool = field(default=False, metadata={"unless_empty": True})

    @property
    def takes_pairs(self) -> bool:
        """Whether the token type table has a row for a second text; true if the table is unknown."""
        return self.tables.get("token_type_ids", 2) > 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: If the problem type is unknown, the labels are empty or not unique, or a value is out of range.
        """
        check_problem_type(self.problem_type)
        check_labels(self.labels)
        if not 1 <= self.max_length <= _LONGEST:
            raise UsageError(
                f"max_length is {self.max_length}, expected 1 to {_LONGEST}. Correct it in the model's config.",
                code="length-invalid",
            )
        if self.truncation_side not in ("right", "left"):
            raise UsageError(
                f"truncation_side is '{self.truncation_side}', expected 'right' or 'left'. "
                "Correct it in the tokenizer's config.",
                code="truncation-side",
            )


class TextClassification(Head):
    """The common part of the three text classification tasks; a subclass for each head adds the outputs."""

    settings: Settings
    modality: TextModality

    def __init__(self, settings: Settings, encode: TextEncoder | None) -> None:
        """Create the task from settings and an encoder; :func:`load` reads both from a bundle's assets."""
        super().__init__(settings.labels)
        self.settings = settings
        self.modality = TextModality(encode, settings.max_length, pairs=settings.takes_pairs)

    @property
    def max_size(self) -> int:
        """Length of the longest row the model accepts, in tokens."""
        return self.settings.max_length

    def preprocess(self, inputs: Sequence[Text]) -> list[Encoded]:
        """Return the token ids of texts or pairs.

        Raises:
            InputError: If an input is not a text or a pair, exceeds the limit of characters, or has ids outside the
                model's tables.
            IntegrityError: If the tokenizer fails.
        """
        return list(self.modality.encoder(list(inputs)))

    def save_settings(self, assets: Path) -> None:
        """Write ``assets/task.json``, with whether words are remembered now."""
        write_settings(replace(self.settings, remembers_words=self.modality.remembers), assets)

    def check_signature(self, signature: Signature, shapes: Sequence[int] = ()) -> None:
        """Compare the settings with the graph's inputs and outputs, when a bundle is opened.

        Args:
            signature: Signature of the graph.
            shapes: Bucket edges, in tokens.

        Raises:
            IntegrityError: If the inputs or their padding differ, a bucket is longer than the longest row, or there is
                not one output per label.
        """
        settings = self.settings
        problem = input_problem(settings.inputs, settings.pads, settings.max_length, signature, shapes)
        problem = problem or output_problem(signature, len(settings.labels))
        if problem:
            raise IntegrityError(
                f"assets/task.json {problem}. The bundle's files do not belong together: build or copy it again.",
                code="bundle-assets",
            )

    def check_arrays(self, feeds: Arrays) -> None:
        """Check that all ids are inside the model's tables.

        Args:
            feeds: Graph inputs, batch axis first.

        Raises:
            InputError: If an id is not; the message has the first such id.
        """
        check_ids(feeds, self.settings.tables, None)

    def _make_answer(
        self, label: str, score: float, scores: Sequence[float], labels: tuple[str, ...], source: Encoded
    ) -> Classification:
        return Classification.of_row(label, score, self._names, scores, labels, truncated=source.truncated)


class TextSingleLabel(TextClassification, SingleLabel):
    """One label per text."""


class TextMultiLabel(TextClassification, MultiLabel):
    """Any number of labels per text."""


class TextRegression(TextClassification, Regression):
    """One or more numbers per text."""


_CLASSES: tuple[type[TextSingleLabel | TextMultiLabel | TextRegression], ...] = (
    TextSingleLabel,
    TextMultiLabel,
    TextRegression,
)


def bind(settings: Settings, encode: TextEncoder | None) -> TextSingleLabel | TextMultiLabel | TextRegression:
    """Return the task for a model's settings, an instance of the class of its head.

    Args:
        settings: Settings of the model.
        encode: Tokenizer of the model; without one the task scores outputs but encodes no input.
    """
    head = HEADS[settings.problem_type]
    task_class = next(c for c in _CLASSES if issubclass(c, head))
    return task_class(settings, encode)


def load(assets: Content) -> TextSingleLabel | TextMultiLabel | TextRegression:
    """Return the task described by ``assets/task.json`` and ``assets/tokenizer.json``.

    Raises:
        IntegrityError: If a file is missing or malformed.
    """
    settings = read_settings(Settings, assets)
    encode = TextEncoder(
        assets / "tokenizer.json",
        settings.inputs,
        settings.max_length,
        settings.truncation_side,
        tables=settings.tables,
        remembers_words=settings.remembers_words,
    )
    return bind(settings, encode)


def save(settings: Settings, tokenizer_json: str, assets: Path) -> None:
    """Write the two files that :func:`load` reads."""
    write_settings(settings, assets)
    (assets / "tokenizer.json").write_text(tokenizer_json, "utf-8")
