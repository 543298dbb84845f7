"""What a task is made of where torch is: a head, and the processor of its modality. On a device nothing of it is needed.

They are protocols of modules, as those in ``spec/protocols.py``, and narrow for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from edgekit.spec.protocols import Arrays, Input
from edgekit.spec.tensor import Signature

__all__ = ["Alters", "ChoosesRows", "Head", "Processors", "Shapes", "Told", "Traced"]

Told = Mapping[str, Any]
"""What the user says of a model in place of its files: option to value, without the options that were left out."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the weights in a folder, by their names in the model."""


class Traced(NamedTuple):
    """One graph of a model, before it is exported.

    Attributes:
        signature: what the graph takes and gives.
        module: torch module whose ``forward(*arrays)`` takes the inputs in the order of the signature; returns the outputs in its order, or the only one bare.
        feeds: example tensors, one for each input, in order.
        dynamic_shapes: axes that vary, as ``torch.export`` takes them, one entry for each input, in order.
    """

    signature: Signature
    module: Any
    feeds: tuple[Any, ...]
    dynamic_shapes: tuple[Any, ...]


class Head(Protocol):
    """All of a task that needs torch or Transformers: a module in ``source/heads/``, with the file name of its task in ``tasks/``.

    ``kind`` is what the outputs of one model mean, as :meth:`survey` finds it (e.g. one label or several): plain data that the head alone reads.
    ``feeds`` and outputs of a module are tensors by name, batch first, short rows padded.
    """

    AUTO_CLASS: str
    """The class of Transformers that loads such a model, e.g. ``AutoModelForCausalLM``."""

    ARCHITECTURES: str
    """Suffix of the architectures in a config that this head is for, e.g. ``ForCausalLM``."""

    OPTIONS: Mapping[str, str]
    """What a user may say of a model folder, with a sentence of help; what its processor takes (:attr:`Processors.OPTIONS`) comes beside it."""

    MODULE_OPTIONS: tuple[str, ...]
    """What a user may say of a module from Python."""

    ALIGNED: bool
    """An output has an entry for each unit that the processor makes of an input (e.g. a token), so a student needs the processor of its teacher."""

    PADS: Mapping[str, float]
    """Value that pads short rows, for each array of :meth:`encode` that is no input of the module."""

    def survey(
        self, model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, told: Told
    ) -> tuple[Any, tuple[str, ...]]:
        """Reads what the outputs mean, before anything large is loaded.

        Args:
            model_id: for messages.
            config: entries of ``config.json``, or of the config of a module.
            folder: of the model; None for a module.
            shapes: of the weights; empty for a module.
            told: options of the user.

        Returns:
            The kind, and a sentence for each thing that files leave open or contradict each other on.

        Raises:
            ModelError: where none of two contradicting files can count.
            UsageError: for an option of the user that cannot be.
        """

    def prepare(self, module: Any, kind: Any, told: Told) -> Any:
        """The module in the form that the rest works on: its config says the kind; what the user says of its outputs is undone."""

    def settings(self, model_id: str, module: Any, processor: Any, kind: Any) -> Any:
        """What the runtime must know of a model: the settings dataclass of the task.

        Raises:
            ModelError: when config and processor are not consistent, or the processor cannot be used without Transformers.
        """

    def save(self, settings: Any, processor: Any, assets: Path) -> None:
        """Writes the assets that the task's ``load`` reads."""

    def encode(self, settings: Any, processor: Any, inputs: Sequence[Input]) -> list[Arrays]:
        """What Transformers' own processor makes of inputs, one row each: the truth that the runtime's preprocessing is compared with.

        Arrays beside those of the signature (:attr:`PADS`) are for the losses; no module is fed them.
        """

    def signature(self, settings: Any) -> Signature:
        """What the module as it was trained takes and gives: names, axes, and the values that pad short rows."""

    def graphs(self, module: Any, settings: Any, processor: Any) -> Sequence[Traced]:
        """The graphs to export, one for each signature of the loop."""

    def forward(self, module: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        """Runs the module once: outputs by the names of :meth:`signature`, in float32."""

    def outputs(
        self,
        model_id: str,
        module: Any,
        settings: Any,
        rows: Sequence[Arrays],
        progress: Callable[[str, int, int], None],
    ) -> list[Arrays]:
        """What the torch module computes for rows, in their order, through all of the loop: the reference.

        Raises:
            ModelError: when the module cannot take one of the rows.
        """

    def check_outputs(self, model_id: str, kind: Any, outputs: Sequence[Arrays]) -> None:
        """Refuses outputs of a module from Python that are not what this head takes, e.g. probabilities.

        Raises:
            ModelError: with what to do.
        """

    def truth_tensor(self, kind: Any, truth: Sequence[Any]) -> Any:
        """The truth of a batch for :meth:`truth_loss`.

        Args:
            kind: see the class.
            truth: one a row, an entry of ``Truth.values``; None for a row without one. At least one row has one.
        """

    def teacher_loss(
        self,
        kind: Any,
        feeds: Mapping[str, Any],
        student: Mapping[str, Any],
        teacher: Mapping[str, Any],
        temperature: float,
    ) -> Any:
        """Divergence of a student's outputs from its teacher's, for each row of a batch: ``[batch]``.

        Args:
            kind: see the class.
            feeds: of the batch.
            student: its outputs.
            teacher: outputs of the teacher to the same rows, short rows filled with 0.
            temperature: that both are divided by; the divergence is scaled by its square.
        """

    def truth_loss(self, kind: Any, feeds: Mapping[str, Any], student: Mapping[str, Any], truth: Any) -> Any:
        """The task's own loss for each row of a batch, ``[batch]``; of a row without a truth any finite number.

        Args:
            kind: see the class.
            feeds: of the batch.
            student: its outputs.
            truth: as :meth:`truth_tensor` gives it.
        """

    def sampled_nll(self, kind: Any, feeds: Mapping[str, Any], outputs: Mapping[str, Any], generator: Any) -> Any:
        """Negative log-likelihood, summed over a batch, of answers drawn from the outputs themselves: what Fisher information is made of."""


@runtime_checkable
class ChoosesRows(Protocol):
    """A head whose module cannot be trained on every row that its loop runs."""

    def check_taught(self, rows: Sequence[Arrays], where: str) -> None:
        """Refuses rows that no module is trained on.

        Args:
            rows: of a sample file, in its order, as :meth:`Head.encode` gives them.
            where: the file, for the message.

        Raises:
            SamplesError: with the number of the first such row.
        """


class Processors(Protocol):
    """What turns inputs of one modality into arrays in Transformers: a module in ``source/processors/``, with the file name of its modality."""

    NOUN: str
    """What such a processor is called, e.g. ``tokenizer``."""

    OPTIONS: Mapping[str, str]
    """What a user may say of it."""

    MODEL_TYPES: Mapping[str, str]
    """``model_type`` of the configs that are supported, each with a test of its own, and what people call it."""

    SAME_AS: Mapping[str, str]
    """Other model types that compute as a supported one does."""

    def check_names(self, model_id: str, names: set[str]) -> None:
        """Refuses a folder by its file names alone.

        Raises:
            ModelError: when the processor is missing.
        """

    def check_told(self, told: Told) -> None:
        """Refuses an option that cannot be, before the model is looked for.

        Raises:
            UsageError: with what can be.
        """

    def survey(
        self, model_id: str, folder: Path, config: Mapping[str, Any], shapes: Shapes, told: Told
    ) -> tuple[str, ...]:
        """Compares the files of the processor with each other, with the config and with the weights; a sentence where one of two counts.

        Raises:
            ModelError: where none can count.
        """

    def load(self, model_id: str, folder: Path, told: Told) -> Any:
        """The processor of a folder."""

    def check_inputs(self, model_id: str, folder: Path, processor: Any, inputs: Sequence[Input]) -> None:
        """Compares the processor's files with the processor on the user's own inputs.

        Raises:
            ModelError: where they make different arrays of one.
        """

    def same(self, processor: Any, other: Any) -> bool:
        """Whether two processors make the same arrays of every input."""


@runtime_checkable
class Alters(Protocol):
    """A processors module that knows altered versions of inputs, which a teacher can answer and a student learns more from."""

    def altered(
        self, processor: Any, inputs: Sequence[Input], *, mask: float, swap: float, crop: float, seed: int
    ) -> list[Input]:
        """One altered version of each input.

        Args:
            processor: of the student.
            inputs: the inputs.
            mask: share of an input's units that are masked.
            swap: share of units that change places with the next.
            crop: share of inputs of which a run of units alone is left.
            seed: of the choice.
        """
