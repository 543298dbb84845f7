"""Golden inputs of a bundle: generated texts, one of full length among them, and what each variant and the float32 graph answer to them here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgekit import tasks
from edgekit.bundle.trust import Bundle
from edgekit.runtime import golden
from edgekit.search import stand_in
from edgekit.search.checks import STAND_IN, runnable, saturates_here
from edgekit.source import fuzz_texts
from edgekit.spec.errors import BuildError, UsageError
from edgekit.spec.graph import GraphSet
from edgekit.spec.manifest import Variant
from edgekit.spec.target import Target
from edgekit.tasks.text_classification import TextClassification

_AS_THEY_COME, _CLEAR = 8, 8
_POOL = 48


def make(variants: tuple[Variant, ...], files: Mapping[str, Path], bundle: Bundle, floats: GraphSet, aim: Target, scratch: Path) -> bytes:
    """The content of ``golden.npz``.

    Eight inputs come as they are generated (empty, of blanks, pairs ...), eight are those of further ones whose float32 answers are the clearest, of all labels
    in turn, and one is of full length: as long as the model and the target's profiles take, at most 1,024 tokens where there are no profiles, because
    it runs at a first load, where attention over more takes seconds and gigabytes.

    Args:
        variants: of the bundle; one whose backend is not on this machine is answered by the stand-in.
        files: place in the bundle to file.
        bundle: that the assets and the signature are of.
        floats: the float32 graphs of the same model.
        aim: the target.
        scratch: a folder that goes when the build ends.

    Raises:
        UsageError: when no input is inside the target's profiles.
        BuildError: when an answer is not finite.
    """
    signature = bundle.manifest.signatures[0]
    task = tasks.get(bundle.manifest.task).load(bundle.path / "assets")
    recipes, first = [v.engine for v in variants if v.engine is not None], signature.inputs[0].name
    longest = stand_in.longest(aim, task.settings.max_length)

    def fits(row: Mapping[str, np.ndarray]) -> bool:
        # A row that no profile holds would be refused where the golden inputs are to be compared.
        return len(row[first]) <= longest and all(r.holds({"batch": 1, "sequence": len(row[first])}) for r in recipes)

    some = [t for t in fuzz_texts(task.settings.max_length, _POOL)[: _AS_THEY_COME + _POOL] if isinstance(t, str) or task.settings.takes_pairs]
    pool = [t.arrays for t in task.preprocess(some) if fits(t.arrays)]
    full = _full_length(task, first, longest)
    rows = [*pool, *([full] if fits(full) else [])]
    if not rows:
        raise UsageError("No text of the golden inputs is inside the target's profiles, which have to begin at short rows. Write e.g. sequence = [1, 32, 64].")
    exact = Variant(STAND_IN, floats.graphs[0].method, {signature.name: ""}, "cpu", 1, "")
    reference = _answers(exact, floats.graphs[0].path, rows, bundle, scratch)
    picked = [*_clearest(task, reference[: len(pool)]), *range(len(pool), len(rows))]
    rows, reference = [rows[i] for i in picked], reference[picked]
    outputs = [_answers(variant, files[variant.graphs[signature.name]], rows, bundle, scratch) for variant in map(runnable, variants)]
    (name,) = (spec.name for spec in signature.outputs)
    named = [[{name: row} for row in answered] for answered in (*outputs, reference)]
    return golden.pack(signature, rows, named[:-1], named[-1])


def unverified(aim: Target, max_length: int) -> list[str]:
    """What golden inputs, and the scores of this machine, leave open; a sentence each. Profiles tell of their own end."""
    longest = stand_in.longest(aim, max_length)
    left = [f"Rows beyond {longest} tokens: golden inputs end there, and the model takes {max_length}."] if longest < max_length and aim.engine is None else []
    return left + ([f"Accuracy of INT8. {mirrored}"] if (mirrored := saturates_here(aim)) else [])


def _answers(variant: Variant, graph: Path, rows: list[Mapping[str, np.ndarray]], bundle: Bundle, scratch: Path) -> np.ndarray:
    """What a graph answers: float32 ``[rows, labels]``."""
    signature, how = bundle.manifest.signatures[0], {"threads": variant.threads, "streams": variant.streams}
    with stand_in.opened(graph, signature, variant.backend, variant.device, scratch, shapes=variant.shapes, **how) as engine:
        found = np.stack([next(iter(row.values())) for row in golden.answers(engine, signature, rows, variant.shapes)])
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        tokens = [len(rows[i][signature.inputs[0].name]) for i in bad]
        raise BuildError(
            f"The graph of '{variant.method}' answers {len(bad)} of {len(rows)} generated texts ({min(tokens)} to {max(tokens)} tokens) with values that are "
            "not finite, so nothing was written. Look for weights of such values, or take the method out of the target."
        )
    return found


def _clearest(task: TextClassification, reference: np.ndarray) -> list[int]:
    """Which rows of the pool are kept: the first as they come, then the clearest of each label in turn."""
    margins, kept = task.margins(reference), list(range(min(_AS_THEY_COME, len(reference))))
    order = sorted(range(len(kept), len(reference)), key=lambda i: -margins[i])
    labels = dict.fromkeys(int(reference[i].argmax()) for i in order)
    by_label = [[i for i in order if reference[i].argmax() == label] for label in labels]
    in_turn = [i for turn in itertools.zip_longest(*by_label) for i in turn if i is not None]
    return sorted([*kept, *in_turn[:_CLEAR]])


def _full_length(task: TextClassification, first: str, longest: int) -> Mapping[str, np.ndarray]:
    """A row of just so many tokens, all of them of text: the generated texts, one after the other, cut to that length."""
    words = " ".join(part for text in fuzz_texts(longest, _POOL) for part in ([text] if isinstance(text, str) else text))
    for characters in (8, 24, 60):  # of a token
        (encoded,) = task.preprocess([(words * (characters * longest // len(words) + 1))[: characters * longest]])
        if len(encoded.arrays[first]) >= longest:
            break
    return {name: array[:longest] for name, array in encoded.arrays.items()}
