"""The check that a text task's settings and a graph agree about the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekit.spec.tensor import Signature


def input_problem(
    inputs: Sequence[str], pads: Mapping[str, int], max_length: int, signature: Signature, shapes: Sequence[int]
) -> str:
    """Return how the settings differ from a graph's inputs; empty if they do not.

    Args:
        inputs: Names of the graph inputs that the tokenizer fills.
        pads: Padding value of each input.
        max_length: Length of the longest row, in tokens.
        signature: Signature of the graph.
        shapes: Bucket edges, in tokens.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    if sorted(inputs) != sorted(specs):
        return f"lists the inputs {list(inputs)}, the graph has {list(specs)}"
    for name, pad in pads.items():
        if name not in specs or specs[name].pad not in (None, pad):
            return f"pads the input '{name}' with {pad}, the graph's signature does not"
    if shapes and max(shapes) > max_length:
        return f"has max_length {max_length}, a variant is compiled for {max(shapes)} tokens"
    return ""
