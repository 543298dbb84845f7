"""Golden inputs of a bundle: generated inputs, one of full length among them, and what each variant and the float32 graph answer to them here."""

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

_AS_THEY_COME, _CLEAR = 8, 8
_POOL = 54
_HALVINGS = 40
_FEWEST, _MOST_BYTES = 2, 4 * 2**20  # rows of golden inputs, and their size before compression


def make(
    variants: Sequence[Variant],
    files: Mapping[str, Path],
    bundle: Bundle,
    float_graphs: GraphSet,
    target: Target,
    scratch: Path,
) -> bytes:
    """The content of ``golden.npz``.

    Eight inputs come as they are generated (of a text model: empty, of blanks, pairs ...), eight are those of further ones whose float32 answers are the
    clearest, of all answers in turn, and one is of full length: as long as the model and the target's profiles take, at most 1,024 where there are no
    profiles, because it runs at a first load, where attention over more takes seconds and gigabytes.

    Args:
        variants: ways to run the model; one whose backend is not on this machine is answered by the stand-in.
        files: place in the bundle to file.
        bundle: bundle with the assets and the signatures.
        float_graphs: the float32 graphs of the same model.
        target: device class.
        scratch: a folder that goes when the build ends.

    Raises:
        UsageError: when no input is inside the target's profiles.
        BuildError: when an answer is not finite.
    """
    manifest = bundle.manifest
    signature = merge_signatures(manifest.signatures)
    task: Task = tasks.get(manifest.task).load(bundle.path / "assets")
    modality = task.modality
    longest = stand_in.longest(target, signature, task.max_size)
    recipes = [variant.engine for variant in variants if variant.engine is not None]

    def fits(row: Arrays) -> bool:
        # A row that no profile holds would be refused where the golden inputs are to be compared.
        size = modality.size(row)
        shape = {axis: size for axis in signature.varying[:1]} | {"batch": 1}
        return size <= longest and all(recipe.holds(shape) for recipe in recipes)

    generated = modality.generate(_POOL + 1, longest, 0)[:_POOL]
    pool = [encoded.arrays for encoded in task.preprocess(generated) if fits(encoded.arrays)]
    full = [modality.cut(encoded.arrays, longest) for encoded in task.preprocess(modality.join(generated, longest)[:1])]
    rows = [*pool, *(row for row in full if fits(row))]
    if not rows:
        raise UsageError(
            "No row of the golden inputs is inside the target's profiles, which have to begin at short rows. Write e.g. sequence = [1, 32, 64].",
            code="golden-outside-profiles",
        )
    exact = Variant(STAND_IN, float_graphs.graphs[0].method, {}, "cpu", 1, "")
    float_files = {graph.signature.name: graph.path for graph in float_graphs.graphs}
    reference = _answers(exact, float_files, rows, bundle, scratch)
    kept = [*_clearest(task, reference[: len(pool)]), *range(len(pool), len(rows))]
    kept = kept[: _most_rows(rows)]
    rows = [rows[i] for i in kept]
    outputs = []
    for variant in variants:
        graphs = {name: files[graph] for name, graph in variant.graphs.items()}
        outputs.append(_answers(runnable(variant), graphs, rows, bundle, scratch))
    return golden.pack(signature, rows, outputs, [reference[i] for i in kept])


def unverified(target: Target, longest: int, most: int) -> list[str]:
    """What golden inputs, and the scores of this machine, leave open; a sentence each. Profiles tell of their own end.

    Args:
        target: device class.
        longest: size of the longest golden input.
        most: size that the model takes.
    """
    left = (
        [f"Rows beyond {longest} tokens: golden inputs end there, and the model takes {most}."]
        if longest < most and target.engine is None
        else []
    )
    return left + ([f"Accuracy of INT8. {mirrored}"] if (mirrored := saturates_here(target)) else [])


def _answers(
    variant: Variant, graphs: Mapping[str, Path], rows: Sequence[Arrays], bundle: Bundle, scratch: Path
) -> list[Arrays]:
    """Outputs of a variant's graphs for rows that are run one by one."""
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
        answers = runner.run(rows, alone=True, finite=False)
    broken = np.flatnonzero(~finite(answers)).tolist()
    if broken:
        task: Task = tasks.get(manifest.task).load(bundle.path / "assets")
        sizes = [task.modality.size(rows[i]) for i in broken]
        lengths = f" ({min(sizes)} to {max(sizes)} tokens)" if max(sizes) > 1 else ""
        raise BuildError(
            f"The graph of '{variant.method}' answers {len(broken)} of {len(rows)} generated inputs{lengths} with values that are "
            "not finite, so nothing was written. Look for weights of such values, or take the method out of the target.",
            code="graph-not-finite",
        )
    return answers


def _most_rows(rows: Sequence[Arrays]) -> int:
    """How many rows may be kept: images are large, and golden inputs are a part of every bundle."""
    return max(_FEWEST, _MOST_BYTES // max(sum(array.nbytes for array in row.values()) for row in rows))


def _clearest(task: Task, reference: Sequence[Arrays]) -> list[int]:
    """Which rows of the pool are kept: the first as they come, then the clearest of each answer in turn."""
    kept, rest = list(range(min(_AS_THEY_COME, len(reference)))), range(_AS_THEY_COME, len(reference))
    order = sorted(rest, key=lambda i: -_clearness(task, reference[i]))
    answers = task.describe(reference)
    by_answer = [[i for i in order if answers[i] == answer] for answer in dict.fromkeys(answers[i] for i in order)]
    in_turn = [i for turn in itertools.zip_longest(*by_answer) for i in turn if i is not None]
    return sorted([*kept, *in_turn[:_CLEAR]])


def _clearness(task: Task, outputs: Arrays) -> float:
    """The largest change of all output values that cannot change a row's answer, by bisection; more than all values where none can."""
    low, high = 0.0, 1.0 + 2.0 * max(float(np.abs(array).max(initial=0.0)) for array in outputs.values())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if task.decided([outputs], middle)[0] else (low, middle)
    return low
