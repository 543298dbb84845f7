"""The whole story: a fine-tuned model goes in, a measured and verified bundle comes out."""

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
from edgekit.search.candidates import choose_whole
from edgekit.search.choose import Choice
from edgekit.search.context import BuildContext, EvaluationSet
from edgekit.search.engines import Verified
from edgekit.search.graphs import export_model
from edgekit.search.manifest import check_reference, complete_manifest, describe_provenance, score_test_set
from edgekit.search.models import make_models, prepare_model
from edgekit.search.request import ModelSource, check_samples, read_request, read_samples
from edgekit.search.stand_in import reference_outputs
from edgekit.search.step_cache import StepCache
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
        bundle: Bundle; its manifest holds all trials and the reason of the choice.
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
        """Return the candidates as a text table, with the reason of the choice, the test set if any, and notes.

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
    """Build a bundle: the fastest candidate inside the budget.

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
        EdgekitError: When the build fails. The subclass says which of model, samples, target, export, budget or disk is
            at fault; nothing is left at ``out``.
    """
    start = time.perf_counter()
    # The request: one that cannot be met is refused here, before anything is loaded.
    if not isinstance(model, TorchModule):
        check_path(model.file if isinstance(model, OnnxModel) else model, "model")
    chosen = options or BuildOptions()
    request = read_request(model, samples=samples, eval=eval, out=out, target=target, options=chosen)
    # The model: its config tells the task, and so how samples are read.
    origin = request.model.read()
    _LOG.info("model %s (%s), task %s, target %s", origin.model_id, origin.revision, origin.task, request.target.name)
    files = read_samples(request, origin.task)
    _LOG.info("samples: %d calibration rows, %d evaluation rows", len(files.calibration), len(files.evaluation))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        scratch = Path(folder)
        cache = Cache(scratch / "cache", math.inf) if chosen.no_cache else Cache()
        steps = StepCache(scratch, progress, cache, replay=request.replayed is not None, rerace=chosen.rerace)

        # The task: it checks the rows and reads the labels. Errors in them are reported now, not after the export.
        bound = with_metric(origin.save_assets(scratch / "assets"), request.metric)
        check_samples(request, files, bound)
        rows = checks.read_labels(bound, files.evaluation)
        test_rows = None if files.test is None else checks.read_labels(bound, files.test)

        # The reference: what torch answers to the labelled rows. A model that is no better than chance is no reference.
        export_model(steps, origin, files.calibration)
        outputs = reference_outputs(steps, origin, files.evaluation)
        evaluation = EvaluationSet(files.evaluation, rows, outputs, request.metric)
        test_set = None
        if files.test is not None and test_rows is not None:
            outputs = reference_outputs(steps, origin, files.test)
            test_set = EvaluationSet(files.test, test_rows, outputs, request.metric)
        doubt = check_reference(evaluation, chosen.accept_reference)
        if doubt is not None:
            _LOG.info("reference: %s, %s %s", doubt.outcome, doubt.score_name, doubt.value)
        provenance = describe_provenance(steps, origin.digest, files.calibration, files.evaluation, chosen.seed)
        ctx = BuildContext(
            request.target, evaluation, files.calibration, origin.digest, steps, record.Record(cpu_name()),
            strict=chosen.strict, deadline=request.deadline, provenance=provenance, replayed=request.replayed,
        )  # fmt: skip

        # The models that compete: the model itself and its students, each exported and with its calibration feeds.
        models = make_models(ctx, origin, request, files)
        entries = [prepare_model(ctx, student, model) for student, model in models.sources.items()]
        origin.release()

        test_notes = test_rows.notes if test_rows is not None else ()
        doubt_note = doubt.said if doubt else ""
        noted = (
            *origin.notes,
            *checks.cut_notes(bound, {"calibration": files.calibration, "evaluation": files.evaluation}),
            *rows.notes,
            *test_notes,
            *filter(None, (doubt_note, rows.note)),
            *request.left_out,
            *checks.notes(request.target, files.calibration, entries[0].sizes),
        )

        def describe(ctx: BuildContext, choice: Choice, engines: Verified) -> Manifest:
            notes = [*noted, *filter(None, [models.trimmed.get(choice.winner.model)]), *ctx.notes]
            return complete_manifest(ctx, request, choice, engines, notes, doubt)

        # The search: every method makes candidates, which answer the rows and race. The fastest one inside the budget
        # wins, and its bundle is completed.
        with checks.explain_saturation(request.target):
            whole = choose_whole(ctx, entries, describe)

        # The test set: the frozen choice meets it once.
        held_out, notes_on_test = score_test_set(ctx, whole.choice, test_set)

        # The bundle: its manifest says all of this.
        manifest = replace(whole.manifest, held_out=held_out, notes=(*whole.manifest.notes, *notes_on_test))
        progress("write", 0, 0)
        files_of = {**whole.files, record.FILE: ctx.recorded.text().encode()}  # with what the test set took
        bundle = assemble.write(
            request.out, manifest, files_of, force=chosen.force, allow_downgrade=chosen.allow_downgrade
        )
    _LOG.info("wrote %s, %.1f MB, in %.1f s", bundle.path, bundle.size / 2**20, time.perf_counter() - start)
    return BuildResult(bundle, time.perf_counter() - start, tuple(steps.reused), tuple(steps.remeasured))
