"""Settings of a student's training: the weights of its loss and the settings of the loop.

The module holds data alone, so that options can hold it where torch is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.spec.errors import UsageError

__all__ = ["PRECISIONS", "RECOVERY", "Loss", "Training"]

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Loss:
    """Weights of the parts of the loss; a part of weight 0 is left out.

    Attributes:
        teacher: Weight of the divergence from the teacher's softened answers (Hinton et al., arXiv 1503.02531), times
            the temperature squared.
        labels: Weight of the task's own loss, on the rows that have a label.
        relation: Weight of the mean squared difference between the cosines of all pairs of tokens, after the last
            layer: the relation idea of MiniLM (Wang et al., arXiv 2002.10957) on hidden states, so that it needs no
            attention maps and works across widths.
        temperature: Divisor of both models' outputs before the softmax.
    """

    teacher: float = 0.7
    labels: float = 0.3
    relation: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            UsageError: If a weight is negative, no weight is above 0, or the temperature is not above 0.
        """
        weights = (self.teacher, self.labels, self.relation)
        if (
            not all(0 <= w < float("inf") for w in weights)
            or not any(weights[:2])
            or not 0 < self.temperature < float("inf")
        ):
            raise UsageError(
                f"The loss has the weights teacher {self.teacher:g}, labels {self.labels:g}, "
                f"relation {self.relation:g} and the temperature {self.temperature:g}, expected weights of at least 0, "
                "teacher or labels above 0, and a temperature above 0.",
                code="training-settings",
            )


@dataclass(frozen=True)
class Training:
    """How a student is trained.

    Attributes:
        epochs: Largest number of epochs.
        patience: Epochs without a better score on the evaluation set after which training stops; half of all, since the
            learning rate falls to the end and the last epochs are often the best.
        batch: Rows of a step, over all processes.
        learning_rate: Highest learning rate; it rises over the first ``warmup`` of the steps and falls in a line to 0.
        warmup: Share of the steps.
        weight_decay: Weight decay of matrices; biases and norms have none.
        clip: Largest norm of the gradients.
        freeze_embeddings: Whether the embedding tables stay the teacher's, which a few thousand rows would only
            distort; ignored for a student of another architecture.
        copies: Altered versions of each text that are trained on in turn with the text itself.
        mask: Share of words masked in them.
        swap: Share of words swapped with the next in them.
        crop: Share of the altered versions that are cut to a run of words.
        precision: One of ``float32``, ``bfloat16`` (matrix products in it, weights in float32), or ``auto``: bfloat16
            where the GPU has it or the CPU has AMX or AVX-512 instructions for it.
        loss: Weights of the parts of the loss.
        seed: Random seed for the order of rows, dropout and altered versions.
    """

    epochs: int = 16
    patience: int = 8
    batch: int = 32
    learning_rate: float = 2e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    freeze_embeddings: bool = True
    copies: int = 6
    mask: float = 0.1
    swap: float = 0.05
    crop: float = 0.5
    precision: str = "auto"
    loss: Loss = field(default_factory=Loss)
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            UsageError: If a value is out of its range.
        """
        ranges = {
            "epochs": (1, 10_000), "patience": (1, 10_000), "batch": (1, 2**20), "learning_rate": (1e-12, 1e3),
            "warmup": (0, 1), "weight_decay": (0, 1e3), "clip": (1e-6, 1e9), "copies": (0, 100), "mask": (0, 0.9),
            "swap": (0, 0.9), "crop": (0, 1), "seed": (0, 2**32 - 1),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(
                    f"{name} is {getattr(self, name):g}, expected {low:g} to {high:g}.", code="training-settings"
                )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"precision is '{self.precision}', expected one of: {', '.join(PRECISIONS)}.", code="training-settings"
            )


RECOVERY = Training(epochs=6, patience=3)
"""Settings for a pruned model, which starts close to the accuracy that it has to regain."""
