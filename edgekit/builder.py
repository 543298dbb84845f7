"""The whole story: a fine-tuned model goes in, a measured and verified bundle comes out."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.bundle import assemble
from edgekit.bundle.trust import Bundle
from edgekit.cache.store import Cache
from edgekit.machine.cpu import cpu_name
from edgekit.report.table import built_text
from edgekit.search import checks, record
from edgekit.search.candidates import choose_whole
from edgekit.search.checks import CALIBRATION_ROWS
from edgekit.search.choose import Choice
from edgekit.search.context import BuildContext, EvaluationSet
from edgekit.search.engines import Verified
from edgekit.search.graphs import export_model
from edgekit.search.kept import StepCache
from edgekit.search.manifest import check_reference, complete_manifest, describe_provenance, score_test_set
from edgekit.search.models import make_models, prepare_model
from edgekit.search.request import ModelRequest, check_samples, read_request, read_samples
from edgekit.search.stand_in import reference_outputs
from edgekit.spec.manifest import Manifest
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent

__all__ = ["BuildResult", "build"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildResult:
    """What a build made.

    Attributes:
        bundle: the bundle; its manifest holds all trials and the reason of the choice.
        seconds: what the build took.
        reused: steps that were taken from the cache.
        remeasured: times that were in the cache and why they were not used, a sentence each.
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
        """Return the candidates as a plain text table, the reason of the choice, the test set if there was one, and notes.

        Args:
            wide: Whether the table has all columns; else those that most readers look for.
        """
        return "\n".join(built_text(self.bundle.manifest, self.remeasured, wide=wide))


@takes_paths("model", "samples", "eval", "out", "test", "target", "race", "distill_samples", "vocabulary")
def build(
    model: str | os.PathLike[str] | None = None,
    *,
    samples: str | os.PathLike[str],
    eval: str | os.PathLike[str],
    out: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    target: str | os.PathLike[str] = "cpu",
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    budget: Mapping[str, float] | None = None,
    strict: bool = False,
    keep_float: Sequence[str] = (),
    use: str | None = None,
    max_time: float | None = None,
    race: str | os.PathLike[str] | None = None,
    rerace: bool = False,
    no_cache: bool = False,
    distill: Sequence[Mapping[str, Any]] = (),
    distill_samples: Sequence[str | os.PathLike[str]] = (),
    vocabulary: str | os.PathLike[str] | None = None,
    accept_reference: bool = False,
    module: Any = None,
    processor: Any = None,
    task: str | None = None,
    outputs: str | None = None,
    calibration_rows: int = CALIBRATION_ROWS,
    seed: int = 0,
    force: bool = False,
    name: str | None = None,
    version: str | None = None,
    expires: str | None = None,
    allow_downgrade: bool = False,
    progress: Progress = silent,
    **told: Any,
) -> BuildResult:
    """Exports, quantizes, measures every candidate against the torch model, and writes the fastest inside the budget.

    Args:
        model: a local Hugging Face folder or a hub id; an ONNX file (``model.onnx``) with ``processor``; or None with ``module`` and ``processor``.
        samples: calibration rows (JSONL, CSV, TSV, a calibration TOML, or a folder of images); labels are not needed.
        eval: evaluation rows with labels: candidates are scored on them, and the choice is made by them.
        out: folder of the bundle; appears whole or not at all.
        test: rows with labels that the chosen candidate is scored on once, when the choice is made.
        target: name of a target, or a TOML file.
        revision: branch, tag or commit of a hub id.
        columns: role (``text``, ``text_pair``, ``label``) to column name, for all sample files.
        budget: limits that replace the target's, e.g. ``{"accuracy_drop": 0.005}``.
        strict: the accuracy drop's upper bound (one-sided, 95 %) must be inside the budget, not only the drop that was seen.
        keep_float: layers that stay in float, beside those of the target.
        use: ``latency`` or ``throughput``, in place of the target's.
        max_time: seconds from the start after which no further variation is tried and the race is cut short.
        race: ``race.json`` of an earlier bundle of the same build: its times are taken in place of new ones.
        rerace: measure times anew, whatever is in the cache. Times of more than 7 days ago, or of a busy machine, are measured anew in any case.
        no_cache: take nothing from the build cache and leave nothing in it.
        distill: students that compete beside the model, each by what :class:`edgekit.compress.recipe.Recipe` takes, e.g. ``{"layers": 3}``.
        distill_samples: what they are trained on, with or without labels; by default all rows of ``samples``.
        vocabulary: ``samples`` to leave only the tokens of ``samples`` and ``distill_samples``, and what any other text needs, in the model and its
            students; or a file of the tokens that stay, see :func:`edgekit.compress.vocabulary.trim`.
        accept_reference: go on where the torch model's answers to ``eval`` are no better than chance, or another numbering of its labels fits better.
        module: a torch module with a head of one's own, see :func:`edgekit.source.from_module`.
        processor: its Hugging Face tokenizer or image processor. With an ONNX file the folder of its config (labels) and its tokenizer or image
            processor; the reference is then the file itself, run by ONNX Runtime in float32.
        task: the task of ``module`` or of an ONNX file; by default the one that its class, or ``architectures`` of the config, is named after.
        outputs: what ``module`` returns, e.g. ``probabilities``, see :func:`edgekit.source.from_module`.
        calibration_rows: rows chosen from ``samples``, at random by ``seed``.
        seed: of that choice.
        force: replace a bundle that is at ``out``.
        name: the bundle's; only a bundle of this name, and no newer one, is replaced by it later.
        version: the bundle's, whole numbers between dots.
        expires: last day (``2027-06-30``, UTC) on which the bundle may be installed.
        allow_downgrade: replace also a bundle of another name, or a newer one.
        progress: told how far each step is.
        **told: what is said of the model in place of its files, e.g. ``tokenizer="file"``: options of its head and its processor, see
            :func:`edgekit.source.read`.

    Raises:
        EdgekitError: a subclass says which of model, samples, target, export, budget or disk is at fault; nothing is left at ``out``.
    """
    start = time.perf_counter()
    # What is asked for: refused here where it cannot be, before anything is loaded.
    request = read_request(
        ModelRequest(model, revision, module, processor, task, outputs, told),
        samples=samples, eval=eval, out=out, test=test, target=target, columns=columns, budget=budget, strict=strict, keep_float=keep_float, use=use,
        max_time=max_time, race=race, rerace=rerace, distill=distill, distill_samples=distill_samples, vocabulary=vocabulary,
        calibration_rows=calibration_rows, seed=seed, force=force, name=name, version=version, expires=expires, allow_downgrade=allow_downgrade,
    )  # fmt: skip
    # The model: its config tells the task, and so how samples are read.
    origin = request.model.read()
    _LOG.info("model %s (%s), task %s, target %s", origin.model_id, origin.revision, origin.task, request.target.name)
    files = read_samples(request, origin.task)
    _LOG.info("samples: %d calibration rows, %d evaluation rows", len(files.calibration), len(files.evaluation))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        scratch = Path(folder)
        cache = Cache(scratch / "cache", math.inf) if no_cache else Cache()
        steps = StepCache(scratch, progress, cache, replay=request.replayed is not None, rerace=rerace)

        # The task: it checks the rows and reads the labels. What is wrong with them is told now, not after the export.
        bound = origin.save_assets(scratch / "assets")
        check_samples(request, files, bound)
        rows = checks.read_labels(bound, files.evaluation)
        test_rows = None if files.test is None else checks.read_labels(bound, files.test)

        # The reference: what torch answers to the labelled rows. A model that is no better than chance is no reference.
        export_model(steps, origin, files.calibration)
        evaluation = EvaluationSet(files.evaluation, rows, reference_outputs(steps, origin, files.evaluation))
        test_set = None
        if files.test is not None and test_rows is not None:
            test_set = EvaluationSet(files.test, test_rows, reference_outputs(steps, origin, files.test))
        doubt = check_reference(evaluation, accept_reference)
        if doubt is not None:
            _LOG.info("reference: %s, %s %s", doubt.outcome, doubt.score_name, doubt.value)
        provenance = describe_provenance(steps, origin.digest, files.calibration, files.evaluation, seed)
        ctx = BuildContext(
            request.target, evaluation, files.calibration, origin.digest, steps, record.Record(cpu_name()),
            strict=strict, deadline=request.deadline, provenance=provenance, replayed=request.replayed,
        )  # fmt: skip

        # The models that compete: the model itself and its students, each exported and with its calibration feeds.
        models = make_models(ctx, origin, request, files)
        entries = [prepare_model(ctx, student, model) for student, model in models.sources.items()]
        origin.release()

        noted = (
            *origin.notes,
            *checks.cut_notes(bound, {"calibration": files.calibration, "evaluation": files.evaluation}),
            *rows.notes,
            *(test_rows.notes if test_rows is not None else ()),
            *filter(None, (doubt.said if doubt else "", rows.note)),
            *request.left_out,
            *checks.notes(request.target, files.calibration, entries[0].sizes),
        )

        def describe(ctx: BuildContext, choice: Choice, engines: Verified) -> Manifest:
            notes = [*noted, *filter(None, [models.trimmed.get(choice.winner.model)]), *ctx.notes]
            return complete_manifest(ctx, request, choice, engines, notes, doubt)

        # The search: candidates are made by every method, answer the rows, and race. The fastest inside the budget wins, and its bundle is completed.
        with checks.explain_saturation(request.target):
            whole = choose_whole(ctx, entries, describe)

        # The test set: the frozen choice meets it once.
        held_out, notes_on_test = score_test_set(ctx, whole.choice, test_set)

        # The bundle: its manifest says all of this.
        manifest = replace(whole.manifest, held_out=held_out, notes=(*whole.manifest.notes, *notes_on_test))
        progress("write", 0, 0)
        files_of = {**whole.files, record.FILE: ctx.recorded.text().encode()}  # with what the test set took
        bundle = assemble.write(request.out, manifest, files_of, force=force, allow_downgrade=allow_downgrade)
    _LOG.info("wrote %s, %.1f MB, in %.1f s", bundle.path, bundle.size / 2**20, time.perf_counter() - start)
    return BuildResult(bundle, time.perf_counter() - start, tuple(steps.reused), tuple(steps.remeasured))
