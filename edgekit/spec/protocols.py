"""Interfaces of EdgeKit: modalities, tasks and loops.

The interfaces are protocols, not base classes, so a backend, a task or a method is a file of its own that does not
import its callers. They are narrow on purpose: callers can only depend on what a protocol names, so a new backend,
task, modality or loop is a new file and no change elsewhere. Widen a protocol only when two implementations need it.
A capability of some tasks is an optional protocol, detected with ``isinstance``: see ``spec/capabilities.py``, whose
names this module re-exports. The parts of a task that need torch are in ``spec/head.py``.

Three ideas separate the tasks from the rest of the package:

- A row is a mapping of named arrays, for inputs and for outputs: ``Arrays``. It has no batch axis, and rows may differ
  in shape.
- A metric is a function of the evidence (what each row contributes) and of weights (how often each row counts).
  Intervals, paired tests, power and slices of every metric use this one form.
- A modality defines how inputs of one kind are read, measured, generated and perturbed. A task defines what outputs
  mean. Several tasks share a modality, so the number of files is a sum and not a product.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekit.spec.arrays import Arrays, Encoded, Input, Truth
from edgekit.spec.capabilities import Explainable, HasConfidence, HasLabels, HasNumbers, SavesSettings
from edgekit.spec.content import Content
from edgekit.spec.metric import Evidence, Metric, Score, additive
from edgekit.spec.tensor import Signature

# fmt: off
__all__ = [
    "Arrays", "Encoded", "Evidence", "Explainable", "HasConfidence", "HasForms", "HasLabels", "HasLimit",
    "HasNumbers", "Input", "Labelled", "Loop", "Metric", "Modality", "ModalityModule", "Remembers", "Runs",
    "SavesSettings", "Score",
    "Task", "TaskModule", "Truth", "additive",
]
# fmt: on


class Labelled(Protocol):
    """A row of a sample file, as far as its label is concerned."""

    @property
    def input(self) -> Input:
        """Input as a session takes it. A task that labels parts of an input (words) checks the label against it."""

    @property
    def label(self) -> object:
        """Value of the label column, or None."""

    @property
    def empty(self) -> bool:
        """Whether the row has a label cell and the cell is empty."""

    @property
    def others(self) -> Mapping[str, object]:
        """Values by column, for the columns without a role."""


class Modality(Protocol):
    """One kind of input: a file in ``modalities/``, bound to a model by its task."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Sample columns that form an input, the required one first, e.g. ``("text", "text_pair")``."""

    @property
    def reads_files(self) -> bool:
        """Whether inputs are file paths, so that the sample table alone does not define the data."""

    def read(self, columns: Mapping[str, object], folder: Path) -> Input:
        """Return the input of one row of a sample file.

        Args:
            columns: Cell values by role.
            folder: Folder of the sample file, the base of relative paths.

        Raises:
            SamplesError: If a value is not an input. The message never quotes the value, and it lacks the position of
                the row, which the caller prepends: ``has no value for text, expected ...``.
        """

    def content(self, value: Input) -> bytes:
        """Return the canonical bytes of an input: equal only for equal inputs. Keyed row ids are derived from them."""

    def size(self, arrays: Arrays) -> int:
        """Return the extent of a row along the bucketed axis, e.g. tokens; 1 if all rows have one shape."""

    def generate(self, count: int, longest: int, seed: int) -> list[Input]:
        """Generate inputs for golden files, fuzzing and timing. The last one has a size of about ``longest``."""

    def join(self, inputs: Sequence[Input], longest: int) -> list[Input]:
        """Build inputs of at least (or about) size ``longest`` by repeating parts of the inputs.

        Samples rarely have rows of maximum length, which memory, overflow and golden checks need. The result is empty
        if all rows have one shape.
        """

    def cut(self, arrays: Arrays, longest: int) -> Arrays:
        """Truncate a row to size ``longest`` as preprocessing does; return it unchanged if rows do not vary in size."""

    def check(self, inputs: Sequence[Input], where: str) -> None:
        """Check that a session would read the rows of a sample file unchanged, e.g. within the character limit.

        Args:
            inputs: Inputs of the file, in its order.
            where: Name of the file, for messages.

        Raises:
            SamplesError: If it would not; with the number of the first such row.
        """

    @property
    def perturbations(self) -> Mapping[str, Callable[[Input, random.Random], Input | None]]:
        """Label-preserving perturbations by name. One returns None if an input has nothing that it can change."""

    def occlude(self, value: Input, filler: str) -> tuple[Sequence[str], Iterable[Input]]:
        """Return the names of an input's units (words, patches), and one copy of the input without each unit.

        The copies are generated lazily, since a text has many words.

        Args:
            value: Input to occlude.
            filler: Replacement of a unit, from :meth:`filler`; empty to remove the unit.
        """

    def filler(self) -> str:
        """Return the neutral replacement of a unit, e.g. the mask token; empty if the model has none."""

    def quote(self, value: Input) -> str:
        """Return an input as text for a report with ``--include-text``."""


@runtime_checkable
class HasLimit(Protocol):
    """A modality with a user-defined limit of input length: ``load(max_characters=, truncate=)`` of a text model."""

    @property
    def limit(self) -> Any:
        """Current limit: ``characters: int``, and ``truncate: bool`` to cut a longer text instead of refusing it."""

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Set the limit; None is the model's default.

        Raises:
            InputError: If the limit has another type or is out of range.
        """


@runtime_checkable
class Remembers(Protocol):
    """A modality that can remember how parts of its inputs were encoded, e.g. the token ids of words.

    The build compares the encodings with and without it, and the task stores the result: its method ``save_settings``
    writes whether it is on.
    """

    @property
    def remembers(self) -> bool:
        """Whether parts are remembered."""

    def remember(self, on: bool) -> bool:
        """Remember parts from now on, or stop it and forget them.

        Args:
            on: Whether to remember.

        Returns:
            Whether parts are remembered now: no, if the inputs of this model do not allow it.
        """


@runtime_checkable
class HasForms(Protocol):
    """A modality whose inputs have several forms that are easily confused, e.g. single texts and pairs of texts."""

    def form(self, value: Input) -> str:
        """Return the name of the form of an input, e.g. ``text`` or ``pair``; empty for a value that is no input."""

    def form_warning(self, form: str) -> str:
        """Return a warning for an input in a form that no sample of the build had.

        Args:
            form: Form of the input.
        """


class Task(Protocol):
    """A task bound to one model, created by ``load(assets)`` of a module in ``tasks/``.

    A module in ``tasks/`` has ``LOOP`` (a file name in ``runtime/loops/``), ``MODALITY`` (a file name in
    ``modalities/``) and ``load(assets) -> Task``. A task of an installed package can bring its loop and modality: names
    of its entry points in the groups ``edgekit.loops`` and ``edgekit.modalities``, which may be the task module itself.
    """

    @property
    def modality(self) -> Modality:
        """Modality of the inputs."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics of the task. The first is gated, the others are reported."""

    @property
    def max_size(self) -> int:
        """Largest ``Modality.size`` of a row that the model accepts."""

    @property
    def identity(self) -> Mapping[str, object]:
        """Plain data that two models must share to be comparable: ``labels``, the kind of head, languages."""

    @property
    def answers_quote_input(self) -> bool:
        """Whether an answer is user text (transcripts, translations), shown in reports only with ``--include-text``."""

    def check_signature(self, signature: Signature, shapes: Sequence[int] = ()) -> None:
        """Check the task's settings against the inputs and outputs of the graph.

        Args:
            signature: Signature of the graph.
            shapes: Bucket edges, in units of ``Modality.size``.

        Raises:
            IntegrityError: If they do not match.
        """

    def check_arrays(self, feeds: Arrays) -> None:
        """Check raw inputs (batch axis first) for values that the model's tables do not have, e.g. token ids.

        Raises:
            InputError: If there is such a value; with the first one.
        """

    def preprocess(self, inputs: Sequence[Input]) -> list[Encoded]:
        """Convert inputs to arrays. The loop does the padding and batching.

        Raises:
            InputError: If a value is not an input of this task.
        """

    def postprocess(self, outputs: Sequence[Arrays], encoded: Sequence[Encoded]) -> list[Any]:
        """Return the task's public answer for each row."""

    def labelled(self, rows: Sequence[Labelled]) -> Sequence[bool]:
        """Return which rows have a label, i.e. which rows :meth:`parse_truth` accepts.

        A sample set may be partly labelled where labels are not required for all rows.
        """

    def parse_truth(self, rows: Sequence[Labelled], where: str) -> Truth:
        """Read the labels of rows.

        Args:
            rows: Rows of a sample file.
            where: Name of the file, for messages.

        Raises:
            SamplesError: If a row has no label, or one that the model does not know.
        """

    def merge_truth(self, values: Sequence[Any]) -> Any:
        """Return one ground truth for several rows with equal inputs: the most frequent label, or the mean number."""

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """Return the contribution of each row to a metric of this task: float64 ``[rows, k]``."""

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return whether each row has the same answer as the reference: bool ``[rows]``."""

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return the distance of each row's outputs from the reference: float64 ``[rows]``, 0 for equal outputs.

        Searches minimise its mean.
        """

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """Return the rows whose answer cannot change if every output value changes by less than ``tolerance``.

        Returns:
            Array of bool ``[rows]``.
        """

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Return each row's answer as text."""

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Return each row's ground truth as text; also the value of the slice ``label``."""


class ModalityModule(Protocol):
    """A module in ``modalities/``."""

    UNBOUND: Modality
    """Modality without a model: it reads sample files, and identifies, perturbs and quotes inputs."""


class TaskModule(Protocol):
    """A module in ``tasks/``."""

    LOOP: str
    MODALITY: str

    def load(self, assets: Content) -> Task:
        """Create the task from a bundle's assets.

        Raises:
            IntegrityError: If a file is missing or malformed.
        """


class Runs(Protocol):
    """The part of an engine that a loop uses."""

    def run(self, feeds: Mapping[str, Any], keep: Any = ()) -> dict[str, Any]:
        """Run the engine once.

        Args:
            feeds: Arrays by input name, batch axis first.
            keep: Names of the outputs to return as device buffers.

        Returns:
            Arrays, or device buffers for the outputs in ``keep``, by output name.
        """


class Loop(Protocol):
    """Control flow over the graphs of a model: a module in ``runtime/loops/``, or of the package that brings the task.

    The loop passes a state (``Signature.state``) from call to call as the array that the engine returned, without a
    copy on a CPU.
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
        """Collate rows, pad the axes that each ``TensorSpec`` names, run the graphs, and remove padding from outputs.

        Args:
            engines: Engine of each graph, by signature name.
            signatures: Inputs and outputs of each graph, by signature name.
            rows: Rows of any size, run in one call.
            shapes: Bucket edges, ascending. A single row is padded to the smallest edge that holds it.
            options: Options of the loop, e.g. the number of beams; empty for one forward pass.
        """

    def record(
        self, engines: Mapping[str, Runs], signatures: Mapping[str, Signature], rows: Sequence[Arrays]
    ) -> Mapping[str, list[dict[str, np.ndarray]]]:
        """Return the feeds of every graph (batch axis first) in a :meth:`run` of these rows, for calibration.

        A loop of one graph without a state runs no engine here, so ``engines`` may be empty. Rows of examples may lack
        arrays that no graph takes. As in :meth:`run`, rows share a call, so the caller splits a list into calls.
        """

    def calls(self, signatures: Mapping[str, Signature], rows: Sequence[Arrays]) -> list[Sequence[Arrays]]:
        """Return the rows of each call of the first graph in a :meth:`run` of these rows, with the graph's inputs.

        They are the rows of each batch that :meth:`record` returns for that graph.
        """
