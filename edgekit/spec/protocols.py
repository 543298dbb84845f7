"""Every interface of EdgeKit in one place.

They are protocols, not base classes: a backend, a task or a method is a file of its own, and must not import the code that calls it. They are narrow
on purpose. What a protocol does not name, its callers cannot depend on, so that a new backend, task, modality or loop is a new file and nothing else.
Widen one only where two implementations need it; what one task alone can do is an optional capability below, found with ``isinstance``. What a task is
made of where torch is stands in ``spec/head.py``.

Three ideas carry the seam between tasks and the rest:

- A row is named arrays, in and out: ``Arrays``. There is no batch axis, and rows may differ in size.
- A metric is a function of what each row contributes (its evidence) and of how often each row counts. That one form serves intervals, paired tests,
  power and slices of every metric.
- A modality says how inputs of one kind are read, measured, generated and disturbed; a task says what outputs mean. Their combinations are a sum.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekit.spec.content import Content
from edgekit.spec.metric import Evidence, Metric, Score, additive
from edgekit.spec.tensor import Signature

# fmt: off
__all__ = [
    "Arrays", "Encoded", "Evidence", "Explainable", "HasConfidence", "HasForms", "HasLabels", "HasLimit", "HasNumbers", "Input", "Labelled",
    "Loop", "Metric", "Modality", "ModalityModule", "Runs", "Score", "Task", "TaskModule", "Truth", "additive",
]
# fmt: on

Arrays = Mapping[str, np.ndarray]
"""One row without a batch axis: name to array, e.g. ``input_ids: int64 [sequence]``, ``scores: float32 [labels]``."""

Input = Any
"""What a session takes for one row: a text, a pair of texts, the path of an image, an array."""


@dataclass(frozen=True)
class Encoded:
    """A preprocessed input.

    Attributes:
        arrays: graph inputs of the row. Beside them a loop may need others (sizes of windows), and a task may keep some for itself (places of words):
            no graph is fed these, and such a loop hands them on beside the outputs.
        truncated: a part of the input was not read.
        context: what postprocessing needs of the input, e.g. offsets or the size of an image.
        length: extent of the whole input along the bucketed axis, where it is read in several windows; None where that is ``Modality.size`` of the row.
    """

    arrays: Arrays
    truncated: bool = False
    context: Any = None
    length: int | None = None


@dataclass(frozen=True)
class Truth:
    """The right answers of labelled rows.

    Attributes:
        values: one a row, in the form that the task's ``evidence`` takes.
        notes: how labels were read where they were not taken as they stand, a sentence each.
    """

    values: Sequence[Any]
    notes: tuple[str, ...] = field(default=())


class Labelled(Protocol):
    """A row of a sample file, as far as its label is concerned.

    Attributes:
        input: as a session takes it; a task whose labels belong to parts of an input (words) compares them with it.
        label: value of the label column, or None.
        empty: the row has a cell for the label, and it is empty.
        others: column to value, of the columns that play no role.
    """

    @property
    def input(self) -> Input:
        """See the class."""

    @property
    def label(self) -> object:
        """See the class."""

    @property
    def empty(self) -> bool:
        """See the class."""

    @property
    def others(self) -> Mapping[str, object]:
        """See the class."""


class Modality(Protocol):
    """One kind of input, a file in ``modalities/``; bound to one model by its task."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Columns of a sample file that make an input, the required one first, e.g. ``("text", "text_pair")``."""

    @property
    def reads_files(self) -> bool:
        """Whether inputs are paths, so that a table alone does not tell what its rows are."""

    def read(self, columns: Mapping[str, object], folder: Path) -> Input:
        """Makes the input of one row of a sample file.

        Args:
            columns: role to the value of its cell.
            folder: of the file, which relative paths start from.

        Raises:
            SamplesError: for a value that is no input; it never quotes the value. The message begins behind the place of the row, which the
                caller puts before it: ``has no value for text, expected ...``.
        """

    def content(self, value: Input) -> bytes:
        """The canonical bytes of an input, which keyed row ids are made of: equal for equal inputs alone."""

    def size(self, arrays: Arrays) -> int:
        """Extent of a row along the bucketed axis, e.g. tokens; 1 where rows do not vary."""

    def generate(self, count: int, longest: int, seed: int) -> list[Input]:
        """Synthetic inputs for golden files, fuzzing and timing; the last one is of ``longest``, or near it."""

    def join(self, inputs: Sequence[Input], longest: int) -> list[Input]:
        """Inputs of at least ``longest``, or near it, made of parts of the given ones over and over; none where rows do not vary in size.

        Rows of full length are what memory, overflow and golden files are checked with, and samples seldom have one.
        """

    def cut(self, arrays: Arrays, longest: int) -> Arrays:
        """A row of at most ``longest``, cut as preprocessing cuts; the row itself where rows do not vary in size."""

    def check(self, inputs: Sequence[Input], where: str) -> None:
        """Refuses rows of a sample file that a session would not read as they stand, e.g. a text beyond the limit of characters.

        Args:
            inputs: of the file, in its order.
            where: the file, for messages.

        Raises:
            SamplesError: with the number of the first such row.
        """

    @property
    def perturbations(self) -> Mapping[str, Callable[[Input, random.Random], Input | None]]:
        """Name to a disturbance that leaves the right answer as it is; None where it has nothing to change in an input."""

    def occlude(self, value: Input, filler: str) -> tuple[Sequence[str], Iterable[Input]]:
        """Names of an input's units (words, patches), and the input once without each of them, made as it is asked for: a text has many words.

        Args:
            value: the input.
            filler: what stands in a unit's place, from :meth:`filler`; empty to leave the unit out.
        """

    def filler(self) -> str:
        """What says nothing to this model in the place of a unit, e.g. the mask token; empty where there is none."""

    def quote(self, value: Input) -> str:
        """An input as a report may show it with ``--include-text``."""


@runtime_checkable
class HasLimit(Protocol):
    """A modality whose inputs have a limit of length that the user may set: ``load(max_characters=, truncate=)`` of a text model."""

    @property
    def limit(self) -> Any:
        """The limit that holds, with ``characters: int`` and ``truncate: bool``: a longer text is cut there and not refused."""

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Sets the limit; None for the default of the model.

        Raises:
            InputError: for a limit of another type or out of range.
        """


@runtime_checkable
class HasForms(Protocol):
    """A modality whose inputs have several forms that are easily mistaken for each other, e.g. single texts and pairs of texts."""

    def form(self, value: Input) -> str:
        """Return the name of the form of an input, e.g. ``text`` or ``pair``; empty for a value that is no input."""

    def form_warning(self, form: str) -> str:
        """Return a warning for an input in a form that no sample of the build had.

        Args:
            form: Form of the input.
        """


class Task(Protocol):
    """A task bound to one model: ``load(assets)`` of a module in ``tasks/`` makes it.

    A module in ``tasks/`` has ``LOOP`` (a file name in ``runtime/loops/``), ``MODALITY`` (a file name in ``modalities/``) and ``load(assets) -> Task``.
    A task of an installed package may bring a loop and a modality of its own: names of its entry points in the groups ``edgekit.loops`` and
    ``edgekit.modalities``, which may be the task module itself.
    """

    @property
    def modality(self) -> Modality:
        """How inputs are read and disturbed."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Scores of the task. The first is gated, the others are reported."""

    @property
    def max_size(self) -> int:
        """Largest ``Modality.size`` of a row that the model takes."""

    @property
    def identity(self) -> Mapping[str, object]:
        """What must be equal for two models to be compared, plain data: ``labels``, the kind of head, languages."""

    @property
    def answers_quote_input(self) -> bool:
        """Whether an answer is text of the user (transcripts, translations), which reports may show with ``--include-text`` alone."""

    def check_signature(self, signature: Signature, shapes: Sequence[int] = ()) -> None:
        """Compares the task's settings with what the graph takes and gives.

        Args:
            signature: of the graph.
            shapes: bucket edges, in units of ``Modality.size``.

        Raises:
            IntegrityError: where they do not belong together.
        """

    def check_arrays(self, feeds: Arrays) -> None:
        """Refuses values of raw inputs, batch axis first, that the model has no row for.

        Raises:
            InputError: with the first such value.
        """

    def preprocess(self, inputs: Sequence[Input]) -> list[Encoded]:
        """Makes arrays of inputs. Padding and batching are the loop's.

        Raises:
            InputError: for what is no input of this task.
        """

    def postprocess(self, outputs: Sequence[Arrays], encoded: Sequence[Encoded]) -> list[Any]:
        """Makes the task's public answer of each row."""

    def labelled(self, rows: Sequence[Labelled]) -> Sequence[bool]:
        """Which rows have a label; :meth:`parse_truth` takes these. A set may be labelled in part where labels are not needed of all rows."""

    def parse_truth(self, rows: Sequence[Labelled], where: str) -> Truth:
        """Reads the labels of rows.

        Args:
            rows: of a sample file.
            where: the file, for messages.

        Raises:
            SamplesError: for a row without a label, or one that the model does not know.
        """

    def merge_truth(self, values: Sequence[Any]) -> Any:
        """The one truth of several rows with equal inputs: the most frequent label, or the mean of numbers."""

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """What each row contributes to a metric of this task: float64 ``[rows, k]``."""

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Whether each row is answered as the reference answers it: bool ``[rows]``."""

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """How far each row's outputs are from the reference's: float64 ``[rows]``, 0 where equal. Searches minimise its mean."""

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """Rows whose answer no change of all output values by less than ``tolerance`` can change: bool ``[rows]``."""

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Each row's answer in words."""

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Each row's right answer in words; also the value of the slice ``label``."""


@runtime_checkable
class HasConfidence(Protocol):
    """A task whose answers have a probability: calibration error, margins of changed answers."""

    def confidence(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Probability of each answer, float64 ``[answers]``, and whether it is right, bool ``[answers]``; several a row are flattened."""

    def margin(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Lead of each row's answer over the next best one: float64 ``[rows]``, 0 to 1."""


@runtime_checkable
class HasLabels(Protocol):
    """A task whose answers are labels of a fixed list: confusion matrix, recall by label, chance-corrected score, slices by label."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names, in the model's order."""

    @property
    def exclusive(self) -> bool:
        """Whether each item has exactly one label; otherwise it has any number of them."""

    def label_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Labels that each item has and that it is answered: bool ``[items, labels]`` each, truth first. An item is a row, or a part of one (a word)."""


@runtime_checkable
class HasNumbers(Protocol):
    """A task whose answers are numbers: error in the labels' unit, R2."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers, in the model's order."""

    def number_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Right numbers and answered numbers: float64 ``[rows, numbers]`` each, truth first."""


@runtime_checkable
class Explainable(Protocol):
    """A task whose answer can be attributed to the units of its input by occlusion."""

    def target_score(self, outputs: Sequence[Arrays], answer: Arrays) -> np.ndarray:
        """Support of each output for the answer that the outputs ``answer`` give: float64 ``[rows]``, e.g. its probability."""

    def target_name(self, answer: Arrays) -> str:
        """The name of that answer."""


class ModalityModule(Protocol):
    """A module in ``modalities/``."""

    UNBOUND: Modality
    """The modality without a model: it reads sample files, and identifies, disturbs and quotes inputs."""


class TaskModule(Protocol):
    """A module in ``tasks/``."""

    LOOP: str
    MODALITY: str

    def load(self, assets: Content) -> Task:
        """Makes the task of a bundle's assets.

        Raises:
            IntegrityError: when a file is missing or malformed.
        """


class Runs(Protocol):
    """What a loop asks of an engine."""

    def run(self, feeds: Mapping[str, Any], keep: Any = ()) -> dict[str, Any]:
        """Runs once: arrays by input name in, batch first; arrays by output name out, or device buffers for the outputs in ``keep``."""


class Loop(Protocol):
    """A way of driving the graphs of a model: a module in ``runtime/loops/``, or of the package that brings the task.

    A state (``Signature.state``) is the loop's to hand on from call to call: as the arrays that an engine gave, which on a CPU costs nothing.
    """

    SIGNATURES: tuple[str, ...]

    def run(
        self,
        engines: Mapping[str, Runs],
        signatures: Mapping[str, Signature],
        rows: Sequence[Arrays],
        shapes: Sequence[int],
        options: Mapping[str, Any],
    ) -> list[Arrays]:
        """Collates rows, pads the axes that each ``TensorSpec`` names, drives the graphs, and cuts the padding off the outputs.

        Args:
            engines: signature name to its engine.
            signatures: signature name to what the graph takes and gives.
            rows: of any sizes; they share one call.
            shapes: bucket edges, ascending; a single row is padded to the smallest that holds it.
            options: of the loop, e.g. the number of beams; empty for one forward pass.
        """

    def record(
        self, engines: Mapping[str, Runs], signatures: Mapping[str, Signature], rows: Sequence[Arrays]
    ) -> Mapping[str, list[dict[str, np.ndarray]]]:
        """Feeds of every graph, batch first, as :meth:`run` of these rows brings them about: what a graph is calibrated with.

        A loop of one graph without a state needs no engine here, and may be given none. Rows of examples may lack arrays that no graph takes.

        Rows share a call here as they do in :meth:`run`, so the caller cuts a list into calls.
        """

    def calls(self, signatures: Mapping[str, Signature], rows: Sequence[Arrays]) -> list[Sequence[Arrays]]:
        """Rows of each call of the first graph that :meth:`run` makes of these rows, with the inputs of the graph: what :meth:`record` has a batch of."""
