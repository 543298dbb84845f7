"""The models of a build that compete: the model itself and its students, trained or read from the cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.search.context import BuildContext
from edgekit.search.graphs import trim_vocabulary
from edgekit.search.pruning import make_clock
from edgekit.source import Source

if TYPE_CHECKING:
    from edgekit.search.request import BuildRequest, BuildSamples

__all__ = ["Models", "make_models"]


@dataclass(frozen=True)
class Models:
    """The models that compete in the search.

    Attributes:
        sources: Torch models by student name. The first one is the model itself, with an empty name.
        trimmed: Summaries of the vocabulary pruning by student name, two sentences each.
    """

    sources: dict[str, Source]
    trimmed: dict[str, str] = field(default_factory=dict)


def make_models(ctx: BuildContext, model: Source, request: BuildRequest, files: BuildSamples) -> Models:
    """Train the students and prune the vocabularies, or read the results from the cache.

    Args:
        ctx: Build context.
        model: Torch model.
        request: Build request, with the students and the vocabulary option.
        files: Sample files of the build.

    Raises:
        EdgekitError: Samples, tokens or training are at fault; the subclass says which.
    """
    if request.tokens is not None:
        # An invalid token list must fail before a student is trained.
        trim_vocabulary(ctx.cache, model, files.vocabulary, request.tokens, files.evaluation)
    sample_files = (files.pool, files.evaluation, files.test, *files.training)
    for student in request.students:
        student.check(model, [file for file in sample_files if file is not None])
    models = Models({"": model})
    if request.students:
        latency = make_clock(ctx)
        for student in request.students:
            models.sources[student.name] = student.make(
                model, files.training, files.evaluation, latency, ctx.cache.progress, ctx.cache.cache
            )
    if request.options.vocabulary is not None:
        for name, source in models.sources.items():
            smaller, summary = trim_vocabulary(ctx.cache, source, files.vocabulary, request.tokens, files.evaluation)
            models.sources[name] = smaller
            models.trimmed[name] = summary
    return models
