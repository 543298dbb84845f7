"""Interfaces of the parts of a task that need torch: a head, and the processors of its modality.

Devices do not use them. They are protocols of modules, like those in ``spec/protocols.py``, and narrow for the same
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from edgekit.spec.protocols import Arrays, Input
from edgekit.spec.tensor import Signature

__all__ = ["Alters", "ChoosesRows", "Head", "Processors", "Shapes", "Told", "Traced"]

Told = Mapping[str, Any]
"""Options by which the user overrides the files of a model: value by option, without the options that are not set."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the weights in a folder, by their names in the model."""


class Traced(NamedTuple):
    """One graph of a model, before it is exported.

    Attributes:
        signature: Inputs and outputs of the graph.
        module: Torch module whose ``forward(*arrays)`` takes the inputs in the order of the signature. It returns the
            outputs in the order of the signature; a single output is not in a tuple.
        feeds: Example tensors, one per input, in order.
        dynamic_shapes: Variable axes in the form of ``torch.export``, one entry per input, in order.
    """

    signature: Signature
    module: Any
    feeds: tuple[Any, ...]
    dynamic_shapes: tuple[Any, ...]


class Head(Protocol):
    """Parts of a task that need torch or Transformers: a module in ``source/heads/``, named like its task.

    ``kind`` is the meaning of a model's outputs as :meth:`survey` determines it (e.g. one label or several): plain data
    that only the head reads. ``feeds`` and outputs of a module are tensors by name, batch axis first, short rows
    padded.
    """

    AUTO_CLASS: str
    """Class of Transformers that loads such a model, e.g. ``AutoModelForCausalLM``."""

    ARCHITECTURES: str
    """Suffix of the architecture names in a config that this head supports, e.g. ``ForCausalLM``."""

    OPTIONS: Mapping[str, str]
    """Help text by option of a model folder, besides the options of its processor (:attr:`Processors.OPTIONS`)."""

    MODULE_OPTIONS: tuple[str, ...]
    """Options of a torch module that is passed from Python."""

    ALIGNED: bool
    """Whether an output has an entry per unit that the processor produces (e.g. a token).

    A student then needs the processor of its teacher.
    """

    PADS: Mapping[str, float]
    """Padding value of each array of :meth:`encode` that is not an input of the module."""

    def survey(
        self, model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, options: Told
    ) -> tuple[Any, tuple[str, ...]]:
        """Determine the meaning of the outputs, before anything large is loaded.

        Args:
            model_id: Model id, for messages.
            config: Entries of ``config.json``, or of the config of a module.
            folder: Folder of the model; None for a module.
            shapes: Shapes of the weights; empty for a module.
            options: Options of the user.

        Returns:
            The kind, and one sentence per missing or contradictory information in the files.

        Raises:
            ModelError: If files contradict each other and no choice is safe.
            UsageError: If an option of the user is invalid.
        """

    def prepare(self, module: Any, kind: Any, options: Told) -> Any:
        """Return the module with the kind in its config, and without output transformations that an option names."""

    def settings(self, model_id: str, module: Any, processor: Any, kind: Any) -> Any:
        """Return the settings dataclass of the task, which the runtime needs.

        Raises:
            ModelError: If config and processor are inconsistent, or the processor only works in Transformers.
        """

    def save(self, settings: Any, processor: Any, assets: Path) -> None:
        """Write the assets that the task's ``load`` reads."""

    def encode(self, settings: Any, processor: Any, inputs: Sequence[Input]) -> list[Arrays]:
        """Encode inputs with the processor of Transformers, one row each.

        The rows are the reference for the runtime's preprocessing. Arrays that are not in the signature (:attr:`PADS`)
        are for the losses and are not fed to a module.
        """

    def signature(self, settings: Any) -> Signature:
        """Return inputs and outputs of the module as it was trained: names, axes, padding values."""

    def graphs(self, module: Any, settings: Any, processor: Any) -> Sequence[Traced]:
        """Return the graphs to export, one per signature of the loop."""

    def forward(self, module: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run the module once. Outputs are in float32, by the names of :meth:`signature`."""

    def outputs(
        self,
        model_id: str,
        module: Any,
        settings: Any,
        rows: Sequence[Arrays],
        progress: Callable[[str, int, int], None],
    ) -> list[Arrays]:
        """Return the reference outputs: those of the torch module in the whole loop, in the order of the rows.

        Raises:
            ModelError: If the module does not accept a row.
        """

    def check_outputs(self, model_id: str, kind: Any, outputs: Sequence[Arrays]) -> None:
        """Refuse outputs of a module from Python that this head does not accept, e.g. probabilities.

        Raises:
            ModelError: If there are any; with the remedy.
        """

    def truth_tensor(self, kind: Any, truth: Sequence[Any]) -> Any:
        """Return the ground truth of a batch for :meth:`truth_loss`.

        Args:
            kind: Kind of the model, see the class.
            truth: One entry of ``Truth.values`` per row; None for a row without one. At least one row has one.
        """

    def teacher_loss(
        self,
        kind: Any,
        feeds: Mapping[str, Any],
        student: Mapping[str, Any],
        teacher: Mapping[str, Any],
        temperature: float,
    ) -> Any:
        """Return the divergence of a student's outputs from its teacher's, per row of a batch: ``[batch]``.

        Args:
            kind: Kind of the model, see the class.
            feeds: Inputs of the batch.
            student: Outputs of the student.
            teacher: Outputs of the teacher for the same rows, short rows padded with 0.
            temperature: Divisor of both outputs. The divergence is scaled by its square.
        """

    def truth_loss(self, kind: Any, feeds: Mapping[str, Any], student: Mapping[str, Any], truth: Any) -> Any:
        """Return the task's loss per row of a batch, ``[batch]``; any finite number for a row without a truth.

        Args:
            kind: Kind of the model, see the class.
            feeds: Inputs of the batch.
            student: Outputs of the student.
            truth: Ground truth from :meth:`truth_tensor`.
        """

    def sampled_nll(self, kind: Any, feeds: Mapping[str, Any], outputs: Mapping[str, Any], generator: Any) -> Any:
        """Return the negative log-likelihood of answers sampled from the outputs, summed over a batch.

        The Fisher information is computed from it.
        """


@runtime_checkable
class ChoosesRows(Protocol):
    """A head whose module cannot be trained on every row that its loop runs."""

    def check_taught(self, rows: Sequence[Arrays], where: str) -> None:
        """Refuse rows that the module cannot be trained on.

        Args:
            rows: Rows of a sample file from :meth:`Head.encode`, in its order.
            where: Name of the file, for messages.

        Raises:
            SamplesError: If there are any; with the number of the first such row.
        """


class Processors(Protocol):
    """Input processors of one modality in Transformers: a module in ``source/processors/``, named like its modality."""

    NOUN: str
    """Name of such a processor, e.g. ``tokenizer``."""

    OPTIONS: Mapping[str, str]
    """Help text by option of the user."""

    MODEL_TYPES: Mapping[str, str]
    """Common name by ``model_type`` of the supported configs. Each has a test."""

    SAME_AS: Mapping[str, str]
    """Supported model type by another model type that computes the same."""

    def check_names(self, model_id: str, names: set[str]) -> None:
        """Check the file names of a folder.

        Raises:
            ModelError: If the processor is missing.
        """

    def check_told(self, options: Told) -> None:
        """Check the options of the user, before the model is located.

        Raises:
            UsageError: If an option is invalid; with the valid values.
        """

    def survey(
        self, model_id: str, folder: Path, config: Mapping[str, Any], shapes: Shapes, options: Told
    ) -> tuple[str, ...]:
        """Compare the processor files with each other, the config and the weights.

        Returns:
            One sentence per contradiction, with the choice that was made.

        Raises:
            ModelError: If files contradict each other and no choice is safe.
        """

    def load(self, model_id: str, folder: Path, options: Told) -> Any:
        """Return the processor of a folder."""

    def check_inputs(self, model_id: str, folder: Path, processor: Any, inputs: Sequence[Input]) -> None:
        """Compare the processor files with the processor on the inputs of the user.

        Raises:
            ModelError: If they encode an input differently.
        """

    def same(self, processor: Any, other: Any) -> bool:
        """Return whether two processors encode every input in the same way."""


@runtime_checkable
class Alters(Protocol):
    """A processors module that augments inputs, as further training data that a teacher can label."""

    def altered(
        self, processor: Any, inputs: Sequence[Input], *, mask: float, swap: float, crop: float, seed: int
    ) -> list[Input]:
        """Return one augmented version of each input.

        Args:
            processor: Processor of the student.
            inputs: Inputs to augment.
            mask: Share of the units of an input to mask.
            swap: Share of the units to swap with the next one.
            crop: Share of the inputs to crop to a run of units.
            seed: Random seed.
        """
