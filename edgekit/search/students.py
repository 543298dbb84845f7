"""The models that compete in a build: the model itself, its students, and all of these with a smaller vocabulary where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.search.graphs import trim_vocabulary

if TYPE_CHECKING:
    from edgekit.search.context import BuildContext
    from edgekit.search.request import BuildRequest, BuildSamples
    from edgekit.source import Source

__all__ = ["Models", "make_models"]


@dataclass(frozen=True)
class Models:
    """Models that compete.

    Attributes:
        sources: name of the student to its model; the model itself first, without a name.
        trimmed: name of the student to what was left out of its vocabulary, in two sentences.
    """

    sources: dict[str, Source]
    trimmed: dict[str, str] = field(default_factory=dict)


def make_models(ctx: BuildContext, model: Source, request: BuildRequest, files: BuildSamples) -> Models:
    """Trains students and trims vocabularies, or finds them in the cache.

    Raises:
        EdgekitError: a subclass says which of samples, tokens or training is at fault.
    """
    if request.tokens is not None:
        # A list that cannot be is refused before a student is trained.
        trim_vocabulary(ctx.cache, model, files.vocabulary, request.tokens, files.evaluation)
    for student in request.students:
        student.check(model, [file for file in (files.whole, files.evaluation, files.test, *files.training) if file is not None])
    sources = {"": model}
    if request.students:
        from edgekit.search.pruning import clock  # a build without students needs no clock, and none of pruning

        latency = clock(ctx)
        for student in request.students:
            sources[student.name] = student.make(model, files.training, files.evaluation, latency, ctx.cache.progress, ctx.cache.cache)
    if request.vocabulary is None:
        return Models(sources)
    trimmed = {}
    for name, source in sources.items():
        sources[name], trimmed[name] = trim_vocabulary(ctx.cache, source, files.vocabulary, request.tokens, files.evaluation)
    return Models(sources, trimmed)
