"""The build: a fine-tuned model goes in, a measured and verified bundle comes out."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.bundle import assemble
from edgekit.bundle.trust import Bundle
from edgekit.cache.store import Cache
from edgekit.machine.cpu import cpu_name
from edgekit.report.table import built_text
from edgekit.search import checks, record
from edgekit.search.candidates import search_bundle
from edgekit.search.choose import Choice
from edgekit.search.context import BuildContext, EvaluationSet
from edgekit.search.engines import Verified
from edgekit.search.graphs import export_model
from edgekit.search.manifest import check_reference, complete_manifest, describe_provenance, score_test_set
from edgekit.search.models import prepare_model
from edgekit.search.request import ModelSource, check_samples, read_request, read_samples
from edgekit.search.stand_in import reference_outputs
from edgekit.search.step_cache import StepCache
from edgekit.search.students import make_models
from edgekit.spec.manifest import Manifest
from edgekit.spec.options import BuildOptions, OnnxModel, TorchModule
from edgekit.spec.parsing import plain
from edgekit.spec.paths import check_path, takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.sources import FilePath, SampleSource
from edgekit.spec.user_metric import with_metric

__all__ = ["BuildResult", "build"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildResult:
    """The outcome of a build.

    Attributes:
        bundle: Bundle; its manifest holds all trials and the reason for the choice.
        seconds: Seconds that the build took.
        reused: Names of the steps that were taken from the cache.
        remeasured: Reasons why times in the cache were not used, a sentence each.
    """

    bundle: Bundle
    seconds: float
    reused: tuple[str, ...]
    remeasured: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return one line: the bundle, the first variant, and the seconds."""
        first = self.bundle.manifest.variants[0]
        return f"<BuildResult {self.bundle.path}: {first.method} on {first.backend}, {self.seconds:.0f} s>"

    def table(self, *, wide: bool = False) -> str:
        """Return the candidates as a text table, with the reason for the choice, the test set if any, and notes.

        Args:
            wide: Whether the table has all columns; else those that most readers look for.
        """
        return "\n".join(built_text(self.bundle.manifest, self.remeasured, wide=wide))

    def text(self, *, wide: bool = False) -> str:
        """Return the table, and where the bundle was written.

        Args:
            wide: Whether the table has all columns; else those that most readers look for.
        """
        reused = f" (from the cache: {', '.join(self.reused)})" if self.reused else ""
        size_mb = self.bundle.size / 2**20
        return f"{self.table(wide=wide)}\nWrote {self.bundle.path}, {size_mb:.1f} MB, in {self.seconds:.0f} s{reused}."

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {
            "bundle": str(self.bundle.path),
            "size_mb": self.bundle.size / 2**20,
            "seconds": self.seconds,
            "reused": list(self.reused),
            "remeasured": list(self.remeasured),
            "manifest": plain(self.bundle.manifest),
        }


@takes_paths("out", "target")
def build(
    model: ModelSource,
    *,
    samples: SampleSource,
    eval: SampleSource,
    out: FilePath,
    target: FilePath = "cpu",
    options: BuildOptions | None = None,
    progress: Progress = silent,
) -> BuildResult:
    """Build a bundle: the fastest candidate inside the target's budget of accuracy, latency, memory and size.

    The model is exported and quantized, and every candidate is measured against the torch model.

    Args:
        model: Local Hugging Face folder, hub id, a :class:`edgekit.TorchModule`, or a :class:`edgekit.OnnxModel`.
        samples: Calibration samples; labels are not needed. A file (JSONL, CSV, TSV, calibration TOML), a folder of
            images, or rows in memory.
        eval: Labelled samples. Candidates are scored on them, and the choice is made by them.
        out: Folder of the bundle; it appears whole or not at all.
        target: Name of a target, or a TOML file.
        options: Options; None for the defaults.
        progress: Function that is called with the progress of each step.

    Returns:
        The bundle, and how it was made.

    Raises:
        EdgekitError: If the build fails. The subclass says which of model, samples, target, export, budget or disk is
            at fault. Nothing is written to ``out``: a bundle that was there stays as it was.
    """
    start = time.perf_counter()
    # Refuse a request that cannot be met before anything is loaded.
    if not isinstance(model, TorchModule):
        check_path(model.file if isinstance(model, OnnxModel) else model, "model")
    chosen = options or BuildOptions()
    request = read_request(model, samples=samples, eval=eval, out=out, target=target, options=chosen)
    # The config of the model names the task, and the task decides how samples are read.
    source_model = request.model.read()
    identity = (source_model.model_id, source_model.revision, source_model.task, request.target.name)
    _LOG.info("model %s (%s), task %s, target %s", *identity)
    data = read_samples(request, source_model.task)
    _LOG.info("samples: %d calibration rows, %d evaluation rows", len(data.calibration), len(data.evaluation))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        scratch = Path(folder)
        # A cache in the scratch folder needs no limit: it goes with the folder.
        cache = Cache(scratch / "cache", math.inf) if chosen.no_cache else Cache()
        steps = StepCache(scratch, progress, cache, replay=request.replayed is not None, rerace=chosen.rerace)

        # Check the rows and read the labels now, so that errors in them are not reported after a long export.
        task = with_metric(source_model.save_assets(scratch / "assets"), request.metric)
        check_samples(request, data, task)
        rows = checks.read_labels(task, data.evaluation)
        test_rows = None if data.test is None else checks.read_labels(task, data.test)

        # Torch's answers to the labelled rows are the reference, which must be better than chance. The export comes
        # first, so that a model that cannot be exported is refused before torch answers all rows.
        export_model(steps, source_model, data.calibration)
        outputs = reference_outputs(steps, source_model, data.evaluation)
        evaluation = EvaluationSet(data.evaluation, rows, outputs, request.metric)
        test_set = None
        if data.test is not None and test_rows is not None:
            outputs = reference_outputs(steps, source_model, data.test)
            test_set = EvaluationSet(data.test, test_rows, outputs, request.metric)
        doubt = check_reference(evaluation, chosen.accept_reference)
        if doubt is not None:
            _LOG.info("reference: %s, %s %s", doubt.outcome, doubt.score_name, doubt.value)
        provenance = describe_provenance(steps, source_model.digest, data.calibration, data.evaluation, chosen.seed)
        ctx = BuildContext(
            request.target, evaluation, data.calibration, source_model.digest, steps, record.Record(cpu_name()),
            strict=chosen.strict, deadline=request.deadline, provenance=provenance, replayed=request.replayed,
        )  # fmt: skip

        # Students compete with the model itself. Torch is not needed after they are exported, so its memory is freed.
        models = make_models(ctx, source_model, request, data)
        entries = [prepare_model(ctx, name, source) for name, source in models.sources.items()]
        source_model.release()

        test_notes = test_rows.notes if test_rows is not None else ()
        doubt_note = doubt.said if doubt else ""
        base_notes = (
            *source_model.notes,
            *checks.cut_notes(task, {"calibration": data.calibration, "evaluation": data.evaluation}),
            *rows.notes,
            *test_notes,
            *filter(None, (doubt_note, rows.note)),
            *request.left_out,
            *checks.notes(request.target, data.calibration, entries[0].sizes),
        )

        def describe(ctx: BuildContext, choice: Choice, engines: Verified) -> Manifest:
            notes = [*base_notes, *filter(None, [models.trimmed.get(choice.winner.model)]), *ctx.notes]
            return complete_manifest(ctx, request, choice, engines, notes, doubt)

        # Every method makes candidates, which answer the rows and are timed. The fastest one inside the budget wins.
        with checks.explain_saturation(request.target):
            result = search_bundle(ctx, entries, describe)

        # Only the frozen choice is scored on the test set, once, so that the score is not biased by the choice.
        held_out, notes_on_test = score_test_set(ctx, result.choice, test_set)

        manifest = replace(result.manifest, held_out=held_out, notes=(*result.manifest.notes, *notes_on_test))
        progress("write", 0, 0)
        # The record was complete but for the answers to the test set.
        files_of = {**result.files, record.FILE: ctx.recorded.text().encode()}
        bundle = assemble.write(
            request.out, manifest, files_of, force=chosen.force, allow_downgrade=chosen.allow_downgrade
        )
    _LOG.info("wrote %s, %.1f MB, in %.1f s", bundle.path, bundle.size / 2**20, time.perf_counter() - start)
    return BuildResult(bundle, time.perf_counter() - start, tuple(steps.reused), tuple(steps.remeasured))
