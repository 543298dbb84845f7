"""A choice with all that goes into its bundle. The bundle's size is known when it is whole, and counts in the choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.runtime import golden
from edgekit.search import goldens, record
from edgekit.search.candidates import search_candidates
from edgekit.search.choose import Choice, files_mb
from edgekit.search.context import BuildContext
from edgekit.search.engines import Verified, verify_engines
from edgekit.search.models import ModelEntry
from edgekit.spec.manifest import FileEntry, Manifest, dumps

__all__ = ["Whole", "choose_whole"]


@dataclass(frozen=True)
class Whole:
    """What a build ships.

    Attributes:
        choice: the winner, and all trials with sizes of whole bundles.
        manifest: of the bundle, but for its files and what a test set adds.
        files: place in the bundle to content.
    """

    choice: Choice
    manifest: Manifest
    files: Mapping[str, Path | bytes]


def choose_whole(ctx: BuildContext, models: Sequence[ModelEntry], describe: Callable[[Choice, Verified], Manifest]) -> Whole:
    """Searches for the winner, and adds what devices need beyond graphs: engines, and golden inputs with answers to compare with.

    Candidates are judged by their graphs and assets first. Where the winner is too large once its bundle is whole, all are judged anew with what that has
    beside these; what was measured is kept.

    Args:
        ctx: the build.
        models: the model itself, then its students.
        describe: makes the manifest of a choice, but for its files.

    Raises:
        BudgetError: when none is inside the budget.
    """
    limit_mb = ctx.target.budget.size_mb
    while True:
        choice = search_candidates(ctx, models)
        engines, winner = verify_engines(ctx, choice), choice.winner
        graphs = next(model.float_graphs for model in models if model.name == winner.model)
        inputs = goldens.make(choice.variants, choice.files, winner.bundle, graphs, ctx.target, ctx.cache.scratch)
        files = {**choice.files, **engines.files, golden.FILE: inputs, record.FILE: ctx.recorded.text().encode()}
        size_mb = _size_mb(describe(choice, engines), files)
        # Other variants that are shipped with the winner are no part of what every bundle has beside its graphs and assets.
        beside_mb = size_mb - winner.bundle.size / 2**20 - files_mb(choice.files) + files_mb(winner.files)
        if limit_mb is None or size_mb <= limit_mb + 1e-9:
            judged = tuple(replace(trial, size_mb=trial.size_mb - ctx.beside_mb + beside_mb) for trial in choice.trials)
            choice = replace(choice, trials=judged)
            return Whole(choice, describe(choice, engines), files)
        ctx = replace(ctx, beside_mb=max(ctx.beside_mb, beside_mb))


def _size_mb(manifest: Manifest, files: Mapping[str, Path | bytes]) -> float:
    listed = {name: FileEntry("0" * 64, len(content) if isinstance(content, bytes) else content.stat().st_size) for name, content in files.items()}
    return files_mb({**files, "": dumps(replace(manifest, files=listed)).encode()})
