"""The whole story: a fine-tuned model goes in, a measured and verified bundle comes out."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import samples as samples_module
from edgekit import source, tasks
from edgekit.bundle import assemble
from edgekit.bundle.install import check_replaced
from edgekit.bundle.trust import Bundle
from edgekit.cache.store import Cache
from edgekit.compress import recipe as recipes
from edgekit.compress.distill import lesson as lessons
from edgekit.compress.vocabulary import read_tokens
from edgekit.report import reference as references
from edgekit.report.table import held_out_text, lists_text, trials_table, verified_text
from edgekit.runtime import golden
from edgekit.runtime.choice import machine
from edgekit.samples import Samples
from edgekit.search import checks, goldens, record, stand_in
from edgekit.search.candidates import Field
from edgekit.search.contender import contender
from edgekit.search.engines import Scored, verify
from edgekit.search.race import Candidate
from edgekit.search.slicing import CALIBRATION_ROWS, check_here, clock
from edgekit.search.steps import Evaluation, Steps
from edgekit.source import Source
from edgekit.spec import target as targets
from edgekit.spec.errors import BudgetError, UsageError
from edgekit.spec.identity import check_date, check_name, check_version
from edgekit.spec.manifest import HeldOut
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.target import Target
from edgekit.stats.once import distinct


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

    def table(self) -> str:
        """The candidates as a plain text table, why the winner won, the test set if there was one, and what should be known."""
        m = self.bundle.manifest
        lines = [trials_table(m.trials, m.score_name, m.reference_score), m.reason]
        if m.held_out is not None:
            lines.append(held_out_text(m.held_out, m.score_name))
        lines += lists_text(m.variants)
        return "\n".join([*lines, *(f"note: {note}" for note in (*m.notes, *self.remeasured)), *verified_text(m)])


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
    task: str = source.TASK,
    outputs: str | None = None,
    tokenizer: str | None = None,
    problem_type: str | None = None,
    calibration_rows: int = CALIBRATION_ROWS,
    seed: int = 0,
    force: bool = False,
    name: str | None = None,
    version: str | None = None,
    expires: str | None = None,
    allow_downgrade: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Exports, quantizes, measures every candidate against the torch model, and writes the fastest inside the budget.

    Args:
        model: a local Hugging Face folder or a hub id; or None with ``module`` and ``processor``.
        samples: calibration rows (JSONL, CSV, TSV or a calibration TOML); labels are not needed.
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
        processor: its Hugging Face tokenizer.
        task: the task of ``module``.
        outputs: what ``module`` returns: ``logits`` or ``probabilities``, see :func:`edgekit.source.from_module`.
        tokenizer: ``file`` or ``transformers``: which counts where tokenizer.json and what Transformers makes of it differ.
        problem_type: what the model's head is, in place of what its config says.
        calibration_rows: rows chosen from ``samples``, at random by ``seed``.
        seed: of that choice.
        force: replace a bundle that is at ``out``.
        name: the bundle's; only a bundle of this name, and no newer one, is replaced by it later.
        version: the bundle's, whole numbers between dots.
        expires: last day (``2027-06-30``, UTC) on which the bundle may be installed.
        allow_downgrade: replace also a bundle of another name, or a newer one.
        progress: told how far each step is.

    Raises:
        EdgekitError: a subclass says which of model, samples, target, export, budget or disk is at fault; nothing is left at ``out``.
    """
    start = time.perf_counter()
    until = None if max_time is None else time.monotonic() + max_time
    destination = Path(os.path.abspath(out))
    aim = targets.with_budget(targets.load(os.fspath(target)), budget or {})
    aim = checks.settled(aim, keep_float, use)
    checks.check_target(aim)
    if rerace and race is not None:
        raise UsageError("race= takes times from a record, and rerace=True measures them anew. Give one of them.")
    aim, left_out = checks.without_wrong(aim)
    replayed = None if race is None else record.read(Path(race))
    assemble.check_output(destination, force)
    assemble.check_place(destination)
    name, version, expires = check_name(name or ""), check_version(version or ""), check_date(expires or "")
    check_replaced(destination, name, version, allow_downgrade)
    # Labels are not needed for calibration, so a column that is named for them need not be there.
    without_labels = {role: column for role, column in (columns or {}).items() if role != "label"}
    whole = samples_module.read(Path(samples), without_labels)
    calibration = whole.take(calibration_rows, seed)
    evaluation, held_out = samples_module.read(Path(eval), columns), None if test is None else samples_module.read(Path(test), columns)
    for rows_with_labels in filter(None, (evaluation, held_out)):
        rows_with_labels.check_labelled()  # a missing one is told before the model is looked for
    checks.check_calibration(calibration, aim)
    if strict:
        checks.check_strict(aim, evaluation)
    told = {"tokenizer": tokenizer, "problem_type": problem_type}
    origin = _origin(model, revision, module, processor, task, outputs, told)
    truths = {s.digest: s.truth(origin.settings) for s in (evaluation, held_out) if s is not None}  # what is wrong with one is told now, not after the export
    checks.check_lengths((whole, evaluation, held_out), origin.settings.max_length)
    students = [recipes.recipe(said) for said in distill]
    names = [recipe.name for recipe in students]
    if len(set(names)) < len(names):
        raise UsageError(f"Two students would be called '{max(names, key=names.count)}'. Make one with edgekit distill, and give it as student=FOLDER.")
    if origin.digest is None and (students or vocabulary is not None):
        raise UsageError("distill= and vocabulary= take a model folder or a hub id, and a module was given. Save it with save_pretrained() first.")
    if any(recipe.speedup is not None for recipe in students):
        check_here(aim)
    lesson = lessons(distill_samples or [samples], columns) if students else []
    checks.check_lengths(lesson, origin.settings.max_length)
    words = [samples_module.read(Path(f), without_labels) for f in (samples, *distill_samples)] if vocabulary == "samples" else []
    tokens = None if vocabulary in (None, "samples") else read_tokens(Path(os.fspath(vocabulary)))

    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        cache = Cache(Path(scratch) / "cache", math.inf) if no_cache else Cache()
        steps = Steps(origin, calibration, Path(scratch), progress, replayed, cache, rerace)
        floats = steps.export(origin)
        scorer = tasks.get(floats.task).load(floats.assets)

        def scored(rows: Samples) -> Evaluation:
            truth = truths[rows.digest].values
            checks.check_labels(truth, rows.where)
            return Evaluation(rows, scorer, truth, steps.reference(rows))

        rows = scored(evaluation)
        asked = references.question(scorer, rows.reference, rows.truth, rows.texts, evaluation.where, "the torch model")
        believed = references.hold(asked, accept_reference)
        unseen = None if held_out is None else scored(held_out)
        known = (*origin.notes, *checks.cut_notes(scorer, {"calibration": calibration, "evaluation": evaluation}))
        provenance = steps.provenance(seed, evaluation)
        models, trimmings = {"": origin}, dict[str, str]()
        if tokens is not None:
            steps.trim(origin, words, tokens, evaluation)  # a list that cannot be is refused before a student is trained
        for recipe in students:
            models[recipe.name] = recipe.make(origin, lesson, evaluation, clock(steps, aim, rows), progress, cache)
        if vocabulary is not None:
            for student, one in models.items():
                models[student], trimmings[student] = steps.trim(one, words, tokens, evaluation)
        contenders = [contender(student, one, steps, aim, rows, provenance, strict, until) for student, one in models.items()]
        origin.release()
        try:
            choice = Field(contenders).run()
        except BudgetError as problem:
            if mirrored := checks.saturates_here(aim):
                raise BudgetError(f"{problem}\n{mirrored}") from problem
            raise
        best = choice.winner
        blank = best.bundle.manifest
        most = scorer.settings.max_length
        scored_on = Scored(len(evaluation), stand_in.longest(aim, most), most)
        engines = verify(choice.variants, choice.files, blank.signatures, scored_on, Path(scratch), progress)
        held_out_score, said_of_it = (None, ()) if unseen is None else _held_out(steps, best, unseen, aim)
        manifest = replace(
            blank,
            name=name,
            version=version,
            expires=expires,
            built=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) if name or version or expires else "",
            variants=engines.variants,
            verified=tuple(engines.done),
            unverified=(*engines.open, *goldens.unverified(aim, scorer.settings.max_length)),
            reason=choice.reason,
            machine=machine(),
            trials=choice.trials,
            sensitivity=choice.sensitivity,
            notes=(
                *known,
                *(note for truth in truths.values() for note in truth.notes),
                *filter(None, (believed.said, distinct(rows.texts, rows.truth).note)),
                *left_out,
                *checks.notes(aim, calibration, contenders[0].lengths),
                *[t for n, t in trimmings.items() if n == best.model],
                *choice.notes,
                *said_of_it,
            ),
            reference_check=believed,
            held_out=held_out_score,
        )
        exact = next(c.floats for c in contenders if c.name == best.model)
        files: dict[str, Path | bytes] = {**choice.files, **engines.files, record.FILE: steps.recorded.text().encode()}
        files[golden.FILE] = goldens.make(choice.variants, choice.files, best.bundle, exact, aim, Path(scratch))
        progress("write", 0, 0)
        bundle = assemble.write(destination, manifest, files, force=force, allow_downgrade=allow_downgrade)
    return BuildResult(bundle, time.perf_counter() - start, tuple(steps.reused), tuple(steps.remeasured))


def _origin(
    model: str | os.PathLike[str] | None,
    revision: str | None,
    module: Any,
    processor: Any,
    task: str,
    outputs: str | None,
    told: Mapping[str, str | None],
) -> Source:
    if (model is None) == (module is None):
        raise UsageError("Give either a model (folder or hub id) or module= and processor=, not both and not neither.")
    if model is None:
        if revision is not None:
            raise UsageError("revision= is of a hub id, and a module was given. Leave it out.")
        if any(value is not None for value in told.values()):
            raise UsageError("tokenizer= and problem_type= are of a model folder, and a module was given. Set problem_type in module.config.")
        return source.from_module(module, processor, task, outputs)
    if processor is not None or task != source.TASK or outputs is not None:
        raise UsageError("processor=, task= and outputs= go with module=, and a model was given, which brings its own. Leave them out.")
    return source.read(os.fspath(model), revision, **told)


def _held_out(steps: Steps, best: Candidate, rows: Evaluation, aim: Target) -> tuple[HeldOut, tuple[str, ...]]:
    """Scores the frozen choice on the test set; and what should be known of that."""
    given, trouble = steps.for_the_device(best, rows, aim)
    found = rows.compare(given.logits)
    unseen = HeldOut(
        rows=found.rows,
        score=rows.task.score(given.logits, rows.truth),
        reference_score=rows.task.score(rows.reference, rows.truth),
        drop=found.drop,
        drop_low=found.low,
        drop_high=found.high,
        losses=found.losses,
        gains=found.gains,
        p_value=found.p_value,
        digest=steps.sealed(rows.samples),
    )
    return unseen, (f"On the test set: {trouble}.",) if trouble else ()
