"""Golden inputs of a bundle: generated inputs with the answers of each variant and of the float32 graphs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit import tasks
from edgekit.bundle.trust import Bundle
from edgekit.runtime import golden
from edgekit.search import stand_in
from edgekit.search.checks import STAND_IN, runnable, saturates_here
from edgekit.spec.errors import BuildError, UsageError
from edgekit.spec.graph import GraphSet
from edgekit.spec.manifest import Variant
from edgekit.spec.protocols import Arrays, Task
from edgekit.spec.rows import finite
from edgekit.spec.target import Target
from edgekit.spec.tensor import merge_signatures

__all__ = ["make", "unverified"]

_FIRST_ROWS = 8
_CLEAR_ROWS = 8
_POOL_ROWS = 54
_BISECTIONS = 40
_MIN_ROWS = 2
_MAX_BYTES = 4 * 2**20  # Largest size of the golden inputs before compression.


def make(
    variants: Sequence[Variant],
    files: Mapping[str, Path],
    bundle: Bundle,
    float_graphs: GraphSet,
    target: Target,
    scratch: Path,
) -> bytes:
    """Generate golden inputs, predict them with each variant and float32, and return the content of ``golden.npz``.

    The inputs come from a generated pool (of a text model: empty texts, blanks, pairs ...). The first eight are the
    first of the pool. Eight more are those with the clearest float32 answers, taken from each answer in turn. One has
    full length: as long as the model and the target's profiles accept, and at most 1,024 without profiles. The limit
    exists because the inputs run at the first load, where attention over longer rows takes seconds and gigabytes.

    Args:
        variants: Variants of the bundle. If the backend of one is not on this machine, its graphs run on the stand-in.
        files: Files of the bundle: path in the bundle to source file.
        bundle: Bundle with the assets and the signatures.
        float_graphs: Float32 graphs of the same model.
        target: Device class.
        scratch: Temporary folder of the build.

    Raises:
        UsageError: If no input is inside the target's profiles.
        BuildError: If an answer is not finite.
    """
    manifest = bundle.manifest
    signature = merge_signatures(manifest.signatures)
    task: Task = tasks.get(manifest.task).load(bundle.path / "assets")
    modality = task.modality
    longest = stand_in.longest(target, signature, task.max_size)
    recipes = [variant.engine for variant in variants if variant.engine is not None]

    def fits(row: Arrays) -> bool:
        # The device would refuse a row outside all profiles, so its answer could not be compared.
        size = modality.size(row)
        shape = {axis: size for axis in signature.varying[:1]} | {"batch": 1}
        return size <= longest and all(recipe.holds(shape) for recipe in recipes)

    generated = modality.generate(_POOL_ROWS + 1, longest, 0)[:_POOL_ROWS]
    pool = [encoded.arrays for encoded in task.preprocess(generated) if fits(encoded.arrays)]
    joined = task.preprocess(modality.join(generated, longest)[:1])
    full = [modality.cut(encoded.arrays, longest) for encoded in joined]
    rows = [*pool, *(row for row in full if fits(row))]
    if not rows:
        raise UsageError(
            "No golden input fits the target's profiles, which must include short rows. "
            "Write e.g. sequence = [1, 32, 64].",
            code="golden-outside-profiles",
        )
    exact = Variant(STAND_IN, float_graphs.graphs[0].method, {}, "cpu", 1, "")
    float_files = {graph.signature.name: graph.path for graph in float_graphs.graphs}
    reference = _predict(exact, float_files, rows, bundle, scratch)
    chosen = [*_choose_clearest(task, reference[: len(pool)]), *range(len(pool), len(rows))]
    chosen = chosen[: _most_rows(rows)]
    rows = [rows[i] for i in chosen]
    outputs = []
    for variant in variants:
        graphs = {name: files[graph] for name, graph in variant.graphs.items()}
        outputs.append(_predict(runnable(variant), graphs, rows, bundle, scratch))
    return golden.pack(signature, rows, outputs, [reference[i] for i in chosen])


def unverified(target: Target, longest: int, most: int) -> list[str]:
    """Return what golden inputs and the scores of this machine leave open, one sentence each.

    Profiles are excluded: the checks of the engines report their limits.

    Args:
        target: Device class.
        longest: Size of the longest golden input.
        most: Largest size that the model accepts.
    """
    sentences = []
    if longest < most and target.engine is None:
        sentences.append(
            f"Rows beyond {longest} tokens: the longest golden input has that size, and the model takes up to {most}."
        )
    saturation = saturates_here(target)
    if saturation:
        sentences.append(f"Accuracy of INT8. {saturation}")
    return sentences


def _predict(
    variant: Variant, graphs: Mapping[str, Path], rows: Sequence[Arrays], bundle: Bundle, scratch: Path
) -> list[Arrays]:
    """Return the outputs of a variant's graphs for rows, run one at a time.

    Raises:
        BuildError: If an output is not finite.
    """
    manifest = bundle.manifest
    with stand_in.open_graphs(
        graphs,
        manifest.signatures,
        variant.backend,
        variant.device,
        scratch,
        threads=variant.threads,
        loop=manifest.loop,
        streams=variant.streams,
        shapes=variant.shapes,
    ) as runner:
        outputs = runner.run(rows, alone=True, finite=False)
    broken = np.flatnonzero(~finite(outputs)).tolist()
    if broken:
        task: Task = tasks.get(manifest.task).load(bundle.path / "assets")
        sizes = [task.modality.size(rows[i]) for i in broken]
        lengths = f" ({min(sizes)} to {max(sizes)} tokens)" if max(sizes) > 1 else ""
        raise BuildError(
            f"The graph of '{variant.method}' gives NaN or infinite values for {len(broken)} of {len(rows)} generated "
            f"inputs{lengths}, so nothing was written. Look for NaN or infinite weights, or remove the method from the "
            "target.",
            code="graph-not-finite",
        )
    return outputs


def _most_rows(rows: Sequence[Arrays]) -> int:
    """Return the number of rows that fit the size limit: images are large, and every bundle has golden inputs."""
    largest = 0
    for row in rows:
        largest = max(largest, sum(array.nbytes for array in row.values()))
    return max(_MIN_ROWS, _MAX_BYTES // largest)


def _choose_clearest(task: Task, reference: Sequence[Arrays]) -> list[int]:
    """Return the pool rows to use: the first ones, then the clearest of each answer in turn.

    Args:
        task: Task of the model.
        reference: Float32 outputs of the pool, one entry per row.
    """
    first = list(range(min(_FIRST_ROWS, len(reference))))
    rest = range(_FIRST_ROWS, len(reference))
    order = sorted(rest, key=lambda i: -_clearness(task, reference[i]))
    answers = task.describe(reference)
    by_answer: dict[str, list[int]] = {}
    for index in order:
        by_answer.setdefault(answers[index], []).append(index)
    in_turn = [i for turn in itertools.zip_longest(*by_answer.values()) for i in turn if i is not None]
    return sorted([*first, *in_turn[:_CLEAR_ROWS]])


def _clearness(task: Task, outputs: Arrays) -> float:
    """Return the largest change of all output values that cannot change a row's answer, found by bisection.

    The result exceeds all values if no such change alters the answer.
    """
    low = 0.0
    high = 1.0 + 2.0 * max(float(np.abs(array).max(initial=0.0)) for array in outputs.values())
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if task.decided([outputs], middle)[0]:
            low = middle
        else:
            high = middle
    return low
