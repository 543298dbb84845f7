"""Generated rows of a chosen size, for timing."""

from __future__ import annotations

import numpy as np

from edgekit.spec.protocols import Arrays, Task
from edgekit.spec.tensor import Signature


def generate_rows(task: Task, signature: Signature, count: int, length: int) -> list[Arrays]:
    """Return equal rows of a generated input, without padding.

    Args:
        task: Task of the model.
        signature: Signature of the graph, or the merged one of several graphs.
        count: Number of rows.
        length: Size along the first variable axis, e.g. in tokens; ignored if all rows have one shape.
    """
    (encoded,) = task.preprocess(task.modality.generate(1, length, 0)[-1:])
    row = {spec.name: encoded.arrays[spec.name] for spec in signature.inputs if spec.name in encoded.arrays}
    places = [(name, place, axis) for name, place, axis in signature.places if name in row]
    for name, place, axis in places:
        if axis == places[0][2]:
            # The generated input is only about as long as requested, so its values are repeated up to the exact size.
            indices = np.arange(length) % row[name].shape[place]
            row[name] = np.ascontiguousarray(np.take(row[name], indices, axis=place))
    return [row] * count
