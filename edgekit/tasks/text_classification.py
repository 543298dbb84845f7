"""Text classification: one text or a pair of texts in; one label, several labels or a number out.

The three heads of Transformers' ``problem_type``: single label (softmax), multi label (a sigmoid each) and regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.modalities.text import Text, TextEncoder, TextModality, check_ids
from edgekit.spec.content import Content
from edgekit.spec.errors import IntegrityError, UsageError, near
from edgekit.spec.protocols import Arrays, Encoded
from edgekit.spec.tensor import Signature
from edgekit.tasks._heads import HEADS, Classification, Head, MultiLabel, Regression, SingleLabel
from edgekit.tasks._settings import read_settings, write_settings

__all__ = ["LOOP", "MODALITY", "Classification", "Settings", "Text", "TextClassification", "bind", "load", "save"]

LOOP = "single"
MODALITY = "text"
_LONGEST = 2**20


@dataclass(frozen=True)
class Settings:
    """What the task must know of a model: ``assets/task.json``.

    Attributes:
        problem_type: what the outputs mean, as in Transformers.
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
        if self.problem_type not in HEADS:
            raise UsageError(
                f"Unknown problem type '{self.problem_type}'.{near(self.problem_type, HEADS)} Expected one of: {', '.join(HEADS)}.",
                code="problem-type-unknown",
            )
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise UsageError(
                f"Labels are {list(self.labels)}, expected at least one and each once. Correct id2label in the model's config.",
                code="labels-invalid",
            )
        if not 1 <= self.max_length <= _LONGEST:
            raise UsageError(
                f"max_length is {self.max_length}, expected 1 to {_LONGEST}. Correct it in the model's config.",
                code="length-invalid",
            )
        if self.truncation_side not in ("right", "left"):
            raise UsageError(
                f"truncation_side is '{self.truncation_side}', expected 'right' or 'left'. Correct it in the tokenizer's config.",
                code="truncation-side",
            )


class TextClassification(Head):
    """A text or a pair of texts in; the classes below, one a head, say what comes out."""

    settings: Settings
    modality: TextModality

    def __init__(self, settings: Settings, encode: TextEncoder | None) -> None:
        """Binds settings to an encoder; :func:`load` makes both of a bundle's assets."""
        super().__init__(settings.labels)
        self.settings = settings
        self.modality = TextModality(encode, settings.max_length, pairs=settings.takes_pairs)

    @property
    def max_size(self) -> int:
        """Tokens of the longest row that the model takes."""
        return self.settings.max_length

    def preprocess(self, inputs: Sequence[Text]) -> list[Encoded]:
        """Makes token ids of texts or pairs.

        Raises:
            InputError: for anything else, a text beyond the limit of the modality, or one whose ids are beyond the model's tables.
            IntegrityError: when the tokenizer fails at one of them.
        """
        return list(self.modality.encoder(list(inputs)))

    def _stated(
        self, label: str, score: float, scores: Mapping[str, float], given: tuple[str, ...], source: Encoded
    ) -> Classification:
        return Classification(label, score, scores, given, source.truncated)

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
        elif (
            not signature.outputs
            or len(signature.outputs[0].shape) != 2
            or signature.outputs[0].shape[1] not in (len(settings.labels), "labels")
        ):
            shape = list(signature.outputs[0].shape) if signature.outputs else "nothing"
            problem = f"has {len(settings.labels)} label(s), the graph gives {shape}"
        if problem:
            raise IntegrityError(
                f"assets/task.json {problem}. The bundle's files do not belong together: build or copy it again.",
                code="bundle-assets",
            )

    def check_arrays(self, feeds: Arrays) -> None:
        """Refuses ids that the model has no row for.

        Args:
            feeds: graph inputs, batch axis first.

        Raises:
            InputError: with the first such id.
        """
        check_ids(feeds, self.settings.tables, None)


class TextSingleLabel(TextClassification, SingleLabel):
    """One label a text."""


class TextMultiLabel(TextClassification, MultiLabel):
    """Any number of labels a text."""


class TextRegression(TextClassification, Regression):
    """One or more numbers a text."""


_CLASSES: tuple[type[TextSingleLabel | TextMultiLabel | TextRegression], ...] = (
    TextSingleLabel,
    TextMultiLabel,
    TextRegression,
)


def bind(settings: Settings, encode: TextEncoder | None) -> TextSingleLabel | TextMultiLabel | TextRegression:
    """The task of a model: settings, and its tokenizer; without one it scores outputs and encodes nothing."""
    return next(c for c in _CLASSES if issubclass(c, HEADS[settings.problem_type]))(settings, encode)


def load(assets: Content) -> TextSingleLabel | TextMultiLabel | TextRegression:
    """Makes the task of ``assets/task.json`` and ``assets/tokenizer.json``.

    Raises:
        IntegrityError: when one of them is missing or malformed.
    """
    settings = read_settings(Settings, assets)
    encode = TextEncoder(
        assets / "tokenizer.json",
        settings.inputs,
        settings.max_length,
        settings.truncation_side,
        tables=settings.tables,
    )
    return bind(settings, encode)


def save(settings: Settings, tokenizer_json: str, assets: Path) -> None:
    """Writes the two files that :func:`load` reads."""
    write_settings(settings, assets)
    (assets / "tokenizer.json").write_text(tokenizer_json, "utf-8")
