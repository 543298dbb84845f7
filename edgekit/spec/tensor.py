"""Named tensors: the inputs and outputs of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Signature", "TensorSpec", "merge_signatures"]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: Name in the graph.
        dtype: Element type by its numpy name, e.g. ``int64`` or ``float32``.
        shape: One entry per axis: a name for a variable axis (``batch``, ``sequence``), a number for a fixed one.
        pad: Value that pads short rows along the variable axes after ``batch``; None if rows do not vary.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    pad: int | float | None = None

    @cached_property
    def element(self) -> np.dtype[Any]:
        """Element type as a NumPy dtype."""
        return np.dtype(self.dtype)

    @cached_property
    def row_axes(self) -> tuple[str | int, ...]:
        """Axes of one row: those after ``batch``."""
        return self.shape[1:]


@dataclass(frozen=True)
class Signature:
    """One entry point of a graph set, e.g. ``forward``.

    Attributes:
        name: Unique name within the graph set.
        inputs: Inputs in the order of the graph.
        outputs: Outputs in the order of the graph.
        state: Pairs of an output and the input that receives it in the next call for the same rows. Both have the same
            type and shape (axes by name), so a state does not grow. The loop sets the input in the first call.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: tuple[tuple[str, str], ...] = field(default=(), metadata={"unless_empty": True})

    def __post_init__(self) -> None:
        """Check that each state goes from an output to an input of the same type and shape.

        Raises:
            ValueError: If it does not; with the pair.
        """
        outputs = {spec.name: spec for spec in self.outputs}
        inputs = {spec.name: spec for spec in self.inputs}
        for output, name in self.state:
            pair = f"The signature '{self.name}' passes its output '{output}' to its input '{name}'"
            if output not in outputs or name not in inputs:
                raise ValueError(
                    f"{pair}, but its outputs are {', '.join(outputs)} and its inputs are {', '.join(inputs)}. "
                    "Name one of each."
                )
            source = outputs[output]
            target = inputs[name]
            if (source.dtype, source.shape) != (target.dtype, target.shape):
                raise ValueError(
                    f"{pair}, but the output is {_describe(source)} and the input is {_describe(target)}. "
                    "Export the graph with the same type and shape for both."
                )
        if len({name for _, name in self.state}) < len(self.state):
            raise ValueError(
                f"The signature '{self.name}' passes two outputs to one input. Name each input of its state once."
            )

    @cached_property
    def places(self) -> tuple[tuple[str, int, str], ...]:
        """Variable input axes after ``batch``: input name, position of the axis without ``batch``, axis name."""
        return tuple(
            (spec.name, place, axis)
            for spec in self.inputs
            for place, axis in enumerate(spec.shape[1:])
            if isinstance(axis, str)
        )

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """Names of the variable input axes after ``batch``; empty if all rows have one shape.

        The first one is the bucketed axis.
        """
        return tuple(dict.fromkeys(axis for _, _, axis in self.places))

    @cached_property
    def shared_axes(self) -> tuple[str, ...]:
        """Names of the axes of every input after ``batch``, if all are variable and the same; otherwise empty."""
        first = self.inputs[0].row_axes if self.inputs else ()
        names = tuple([axis for axis in first if isinstance(axis, str)])
        is_shared = len(set(names)) == len(first) and all(spec.row_axes == first for spec in self.inputs)
        return names if is_shared else ()

    @cached_property
    def padded_outputs(self) -> frozenset[str]:
        """Names of the outputs with a variable input axis, whose padding is cut off for each row."""
        names = [spec.name for spec in self.outputs if not set(self.varying).isdisjoint(spec.row_axes)]
        return frozenset(names)


def merge_signatures(signatures: Sequence[Signature]) -> Signature:
    """Return one signature with all inputs and outputs of the graphs of a model, each name once.

    A row of a loop may hold any of these arrays. The signature of a single graph is returned unchanged.
    """
    if len(signatures) == 1:
        return signatures[0]
    inputs = {spec.name: spec for signature in signatures for spec in signature.inputs}
    outputs = {spec.name: spec for signature in signatures for spec in signature.outputs}
    name = "+".join(signature.name for signature in signatures)
    return Signature(name, tuple(inputs.values()), tuple(outputs.values()))


def _describe(spec: TensorSpec) -> str:
    return f"{spec.dtype} [{', '.join(map(str, spec.shape))}]"
