"""Named tensors: what a graph takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

__all__ = ["Signature", "TensorSpec", "merge_signatures"]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: name in the graph.
        dtype: numpy name of the element type, e.g. ``int64`` or ``float32``.
        shape: one entry an axis: a name for an axis that varies (``batch``, ``sequence``), a number for a fixed one.
        pad: the value that fills short rows along the varying axes behind ``batch``; None where rows never vary.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    pad: int | float | None = None


@dataclass(frozen=True)
class Signature:
    """One entry point of a graph set, e.g. ``forward``.

    Attributes:
        name: unique within its graph set.
        inputs: in the order of the graph.
        outputs: in the order of the graph.
        state: pairs of an output and the input that takes it at the next call for the same rows. Both have one type
            and one shape, axes by name: a state does not grow. At their first call the loop says what such an input holds.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: tuple[tuple[str, str], ...] = field(default=(), metadata={"unless_empty": True})

    def __post_init__(self) -> None:
        """Checks that each state goes from an output to an input that can take it.

        Raises:
            ValueError: with the pair.
        """
        gives, takes = ({spec.name: spec for spec in specs} for specs in (self.outputs, self.inputs))
        for output, name in self.state:
            pair = f"The signature '{self.name}' hands on its output '{output}' as its input '{name}'"
            if output not in gives or name not in takes:
                raise ValueError(
                    f"{pair}, and has the outputs {', '.join(gives)} and the inputs {', '.join(takes)}. Name one of each."
                )
            if (gives[output].dtype, gives[output].shape) != (takes[name].dtype, takes[name].shape):
                from_, to = (
                    f"{spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in (gives[output], takes[name])
                )
                raise ValueError(
                    f"{pair}, and the one is {from_}, the other {to}. Export the graph with one type and one shape of both."
                )
        if len({name for _, name in self.state}) < len(self.state):
            raise ValueError(
                f"The signature '{self.name}' hands on two outputs as one input. Name each input of its state once."
            )

    @cached_property
    def places(self) -> tuple[tuple[str, int, str], ...]:
        """Input, place behind ``batch`` and name of each input axis that varies from row to row."""
        return tuple(
            (spec.name, place, axis)
            for spec in self.inputs
            for place, axis in enumerate(spec.shape[1:])
            if isinstance(axis, str)
        )

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """Names of the input axes behind ``batch`` that vary from row to row. The first is the bucketed axis; there is none where all rows have one shape."""
        return tuple(dict.fromkeys(axis for _, _, axis in self.places))


def merge_signatures(signatures: Sequence[Signature]) -> Signature:
    """All that the graphs of a model take and give, each name once: of one graph its own signature. What a row of a loop may hold."""
    if len(signatures) == 1:
        return signatures[0]
    inputs, outputs = (
        {spec.name: spec for signature in signatures for spec in getattr(signature, part)}
        for part in ("inputs", "outputs")
    )
    return Signature(
        "+".join(signature.name for signature in signatures), tuple(inputs.values()), tuple(outputs.values())
    )
