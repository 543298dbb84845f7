"""The public functions: what is exported, that the options are one list, and each function from end to end on rows in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import json
import pkgutil
import shutil

import pytest
import small
from measuring import quick
from refusals import refused

import edgekit
from edgekit import (
    BaselineOptions,
    BenchOptions,
    BuildOptions,
    CheckOptions,
    CompareOptions,
    DistillOptions,
    EvaluateOptions,
    FunctionMetric,
    MeasureOptions,
    Training,
)
from edgekit.cli import __path__ as verbs_path
from edgekit.spec import options as public_options
from edgekit.spec import project as projects
from edgekit.spec.errors import IntegrityError
from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates
from edgekit.spec.options import PruneOptions, TrimVocabOptions

VERBS = sorted(m.name.rstrip("_") for m in pkgutil.iter_modules(verbs_path) if not m.name.startswith("_"))
RENAMED = {"eval": "evaluate"}
NO_FUNCTION = {
    "init": "writes a starter edgekit.toml for people",
    "run": "edgekit.load() and a call of the session",
    "cache": "looks after the disk of a machine, not after a model",
    "deploy": "edgekit.deploy is the package with deploy() and bench() on a device",
    "doctor": "edgekit.doctor is the module with examine()",
}
FUNCTIONS = [name for name in edgekit.__all__ if inspect.isfunction(getattr(edgekit, name))]
OPEN = Gates(LatencyGates(9.0, None, None), AccuracyGates(0.05), FootprintGates(9.0, 1.0, 0.1, None))


@pytest.fixture(autouse=True)
def quick_timing():
    """Fewer processes than decide a gate of a time: where a test is about one, it asks for four."""
    with quick(processes=1):
        yield


# ---- what is exported


def test_every_verb_has_its_function():
    names = {RENAMED.get(verb, verb) for verb in VERBS} - set(NO_FUNCTION)
    assert names <= set(FUNCTIONS)
    assert set(NO_FUNCTION) <= set(VERBS), "a reason for a verb that is not there"


def test_all_names_are_there_and_dir_lists_them():
    assert dir(edgekit) == sorted(edgekit.__all__)
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    with pytest.raises(AttributeError):
        _ = edgekit.no_such_name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_documented_and_returns_what_can_be_shown(name):
    function = getattr(edgekit, name)
    assert (function.__doc__ or "").strip() and "Args:" in function.__doc__
    assert len(inspect.signature(function).parameters) <= 7
    if name == "load":
        return
    returned = function.__annotations__["return"]
    module = importlib.import_module(inspect.unwrap(function).__module__)
    result = getattr(module, returned)
    assert dataclasses.is_dataclass(result) and "Attributes:" in result.__doc__
    assert callable(result.text) and callable(result.record)


@pytest.mark.parametrize("name", public_options.__all__)
def test_options_are_frozen_keyword_only_documented_and_have_defaults(name):
    kind = getattr(public_options, name)
    if not dataclasses.is_dataclass(kind):
        return
    documented = "".join(parent.__doc__ for parent in kind.__mro__ if parent is not object)
    for field in dataclasses.fields(kind):
        assert field.kw_only and f"{field.name}: " in documented, field.name
    assert kind.__dataclass_params__.frozen
    if name not in ("TorchModule", "OnnxModel"):
        assert kind() == kind()


def test_a_package_that_is_missing_is_named(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError("no torch", name="torch")

    monkeypatch.setattr(importlib, "import_module", absent)
    with refused("package-missing"):
        _ = edgekit.build


# ---- one list of options


@pytest.mark.parametrize(("table", "kind"), [("build", BuildOptions), ("check", CheckOptions)], ids=["build", "check"])
def test_a_table_of_the_project_file_has_the_fields_of_the_options(tmp_path, table, kind):
    fields = dataclasses.fields(kind)
    for field in fields:
        file = tmp_path / "edgekit.toml"
        file.write_text(f"[{table}]\n{field.name} = {{}}\n", "utf-8")
        if field.metadata.get("key", True):
            with contextlib.nullcontext() if field.name == "model_options" else refused("value-type"):
                projects.read(file)
        else:
            with refused("key-unknown"):
                projects.read(file)


def test_a_project_without_a_word_has_the_defaults_of_the_options(tmp_path):
    (tmp_path / "edgekit.toml").write_text("", "utf-8")
    project = projects.read(tmp_path / "edgekit.toml")
    assert projects.build_options(project) == BuildOptions()
    assert projects.check_options(project, {}) == CheckOptions(gates=Gates())


def test_the_command_line_has_an_option_for_each_field():
    from edgekit.cli import bench, build, check, compare, distill, eval_, prune, trim_vocab

    trained = {field.name for field in dataclasses.fields(Training)}
    cases = {
        build: (BuildOptions, {"model_options"}),
        check: (CheckOptions, {"report"}),
        compare: (CompareOptions, {"backend"}),
        eval_: (MeasureOptions, {"reference", "server_bound_ms"}),
        distill: (DistillOptions, {"training"}),
        prune: (PruneOptions, {"training"}),
        trim_vocab: (TrimVocabOptions, set()),
        bench: (BenchOptions, set()),
    }
    for verb, (kind, otherwise) in cases.items():
        names = {parameter.name for parameter in verb.command.params}
        missing = {field.name for field in dataclasses.fields(kind)} - names - otherwise
        assert missing - {"backend"} == set(), verb.__name__
    assert {"epochs", "batch", "seed"} <= trained & {parameter.name for parameter in distill.command.params}


def test_defaults_of_the_command_line_are_those_of_the_options():
    from edgekit.cli import bench, build

    for verb, defaults in ((build, BuildOptions()), (bench, BenchOptions())):
        for parameter in verb.command.params:
            if hasattr(defaults, parameter.name) and isinstance(parameter.default, (str, int, float)):
                value = getattr(defaults, parameter.name)
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                assert parameter.default == text, parameter.name


# ---- from end to end, on rows in memory


class Rows:
    """A data set that is no list, and not in the order of its file at the second reading."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __iter__(self):
        self.read += 1
        return iter(self.rows if self.read == 1 else self.rows[::-1])


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_model, tiny_samples):
    """A build on rows in memory, and of the same rows a second time."""
    folder = tmp_path_factory.mktemp("api")
    target = small.target(folder / "one.toml", methods=("dynamic",), backends=("onnxruntime",))
    train = [json.loads(line) for line in tiny_samples.train.read_text("utf-8").splitlines()]
    options = BuildOptions(test=iter(tiny_samples.rows), calibration_rows=30)
    first = edgekit.build(
        tiny_model, samples=Rows(train), eval=tiny_samples.rows, out=folder / "first", target=target, options=options
    )
    options = dataclasses.replace(options, test=tuple(tiny_samples.rows))
    again = edgekit.build(
        tiny_model, samples=train, eval=Rows(tiny_samples.rows), out=folder / "again", target=target, options=options
    )
    return first, again


@pytest.mark.slow
def test_rows_in_memory_build_what_a_file_builds_and_are_found_in_the_cache(built, tiny_samples):
    first, again = built
    manifests = [result.bundle.manifest for result in built]
    assert manifests[0].provenance["evaluation_digest"] == manifests[1].provenance["evaluation_digest"]
    assert manifests[0].provenance["calibration_digest"] == manifests[1].provenance["calibration_digest"]
    assert "export" in again.reused and "race" in again.reused
    assert manifests[0].held_out.rows == len(tiny_samples.rows)
    assert small.CANARY.encode() not in b"".join(p.read_bytes() for p in first.bundle.path.rglob("*") if p.is_file())


@pytest.mark.slow
def test_a_build_is_shown_and_recorded(built):
    first, _ = built
    assert str(first.bundle.path) in first.text()
    assert json.loads(json.dumps(first.record()))["manifest"]["task"] == "text-classification"


@pytest.mark.slow
def test_evaluate_takes_rows_and_files_alike(built, tiny_samples):
    path = built[0].bundle.path
    of_file = edgekit.evaluate(path, tiny_samples.dev)
    of_rows = edgekit.evaluate(path, iter(tiny_samples.rows), options=EvaluateOptions(threads=1))
    assert (of_rows.score, of_rows.rows) == (of_file.score, of_file.rows)
    assert of_rows.text() and of_rows.record()["score_name"] == "accuracy"


@pytest.fixture(scope="module")
def baseline(built, tiny_samples, tmp_path_factory):
    """The result of ``edgekit.baseline``; its bundle is not where it was."""
    folder = tmp_path_factory.mktemp("baseline")
    bundle = small.copy(built[0].bundle.path, folder / "moved")
    with quick():
        result = edgekit.baseline(
            bundle, tiny_samples.rows, file=folder / "baseline.json", options=BaselineOptions(seed=1)
        )
    shutil.rmtree(bundle)
    return result


@pytest.mark.slow
def test_baseline_compare_and_check_take_rows(baseline, built, tiny_samples, tmp_path):
    path, rows = built[0].bundle.path, tiny_samples.rows
    (file,) = baseline.written
    assert file.name == "baseline.json" and file.is_file()
    options = CheckOptions(gates=OPEN, max_time=0.0, report=tmp_path / "report")
    with quick():
        checked = edgekit.check(built[1].bundle.path, file, Rows(rows), options=options)
    assert checked.passed and checked.exit_code == 0, checked.text()
    assert {file.name for file in checked.written} >= {"report.html", "report.json"}
    assert checked.report.accuracy.drop == 0.0
    assert json.loads((tmp_path / "report" / "report.json").read_text("utf-8")) == checked.record()
    compared = edgekit.compare(path, built[1].bundle.path, rows, options=CompareOptions(gates=OPEN, max_time=0.0))
    assert compared.report.kind == "compare" and "pass" in compared.text()


@pytest.mark.slow
def test_a_check_that_fails_is_no_exception(built, tiny_samples):
    tight = Gates(budget=edgekit.Budget(size_mb=0.001))
    options = CheckOptions(gates=tight, max_time=0.0)
    result = edgekit.check(built[0].bundle.path, built[1].bundle.path, tiny_samples.rows, options=options)
    assert not result.passed and result.exit_code == 3


@pytest.mark.slow
def test_a_check_needs_a_baseline_or_the_noise_alone(built, tiny_samples):
    path = built[0].bundle.path
    with refused("option-missing"):
        edgekit.check(path, None, tiny_samples.rows)
    noise = edgekit.check(path, None, tiny_samples.rows, options=CheckOptions(self_check=True, max_time=0.0))
    assert noise.report.kind == "self-check"


@pytest.mark.slow
def test_measure_takes_rows(built, tiny_samples):
    options = MeasureOptions(scenarios=(), max_time=0.0, slices=("label",))
    result = edgekit.measure(built[0].bundle.path, tiny_samples.rows, options=options)
    assert result.report.kind == "report" and result.passed


def test_rows_that_are_wrong_are_refused_before_anything_is_loaded(tiny_model, tiny_samples, tmp_path):
    def no_work(step, *_):
        pytest.fail(f"work began: {step}")

    sides = {"out": tmp_path / "out", "progress": no_work}
    with refused("samples-row-type", row=2):
        edgekit.build(tiny_model, samples=[{"text": "a"}, "b"], eval=tiny_samples.rows, **sides)
    with refused("path-type"):
        edgekit.build(tiny_model, samples=tiny_samples.rows, eval=None, **sides)
    with refused("samples-type"):
        options = BuildOptions(test={"train": []})
        edgekit.build(tiny_model, samples=tiny_samples.rows, eval=tiny_samples.rows, options=options, **sides)


@pytest.mark.train
def test_distill_prune_and_trim_take_rows(tiny_model, tiny_samples, tmp_path):
    train = [{"text": row["text"]} for row in tiny_samples.rows]
    options = DistillOptions(layers=1, training=Training(epochs=1, copies=0))
    student = edgekit.distill(
        tiny_model,
        samples=[train, tiny_samples.train],
        eval=Rows(tiny_samples.rows),
        out=tmp_path / "student",
        options=options,
    )
    assert len(student.epochs) == 1 and json.dumps(student.record())
    smaller = edgekit.trim_vocab(tiny_model, samples=(row for row in train[:3]), out=tmp_path / "trimmed", eval=train)
    assert smaller.after < smaller.before and smaller.measured == len(train) and json.dumps(smaller.record())


# ---- bundles


@pytest.mark.slow
def test_a_bundle_is_packed_unpacked_signed_and_verified(built, tmp_path):
    path = built[0].bundle.path
    packed = edgekit.pack(path, tmp_path / "one.edge")
    assert packed.record()["size_mb"] > 0 and str(packed.file) in packed.text()
    unpacked = edgekit.unpack(packed.file, tmp_path / "there")
    keys = edgekit.keygen(tmp_path / "maker")
    assert keys.public == tmp_path / "maker.pub" and keys.fingerprint in keys.text()
    signed = edgekit.sign(unpacked.bundle.path, keys.private)
    trust = edgekit.Trust(keys=[keys.public])
    verified = edgekit.verify(unpacked.bundle.path, require_golden=True, trust=trust)
    assert verified.signed and verified.golden.compared and "golden: " in verified.text()
    assert json.dumps(verified.record()) and json.dumps(signed.record()) and json.dumps(unpacked.record())
    assert edgekit.verify(path, files_only=True).golden is None
    with refused("option-conflict"):
        edgekit.verify(path, files_only=True, require_golden=True)
    with pytest.raises(IntegrityError):
        edgekit.verify(path, trust=trust)


@pytest.mark.slow
def test_a_bundle_and_the_targets_are_shown(built):
    info = edgekit.inspect(built[0].bundle.path)
    assert "text-classification" in info.text() and info.record()["task"] == "text-classification"
    assert "cpu" in edgekit.targets().targets
    (one,) = edgekit.targets("cpu").targets.values()
    assert one.name == "cpu" and edgekit.targets("cpu").record()


@pytest.mark.slow
def test_a_bundle_is_compiled_and_timed(built):
    assert edgekit.compile(built[0].bundle.path).record()["chosen"] == "dynamic on onnxruntime"
    timed = edgekit.bench(built[0].bundle.path, options=BenchOptions(batches=(1,), lengths=(8,), seconds=0.05))
    assert [point.batch for point in timed.points] == [1]


# ---- a metric of the user


def macro_recall(predictions, truths):
    shares = []
    for label in sorted(set(truths)):
        of_label = [answer == label for answer, right in zip(predictions, truths, strict=True) if right == label]
        shares.append(sum(of_label) / len(of_label))
    return sum(shares) / len(shares)


def errors(predictions, truths):
    return sum(answer != right for answer, right in zip(predictions, truths, strict=True)) / len(truths)


@pytest.fixture(scope="module")
def by_metric(tmp_path_factory, tiny_model, tiny_samples, built):
    folder = tmp_path_factory.mktemp("metric")
    target = small.target(folder / "one.toml", methods=("dynamic",), backends=("onnxruntime",))
    options = BuildOptions(metric=FunctionMetric(name="errors", function=errors, higher_is_better=False))
    return edgekit.build(
        tiny_model,
        samples=tiny_samples.train,
        eval=tiny_samples.rows,
        out=folder / "out",
        target=target,
        options=options,
    )


@pytest.mark.slow
def test_a_build_goes_by_the_metric_and_its_manifest_names_it(by_metric, tiny_samples):
    manifest = by_metric.bundle.manifest
    assert manifest.score_name == "errors"
    assert manifest.reference_score == pytest.approx(1 - tiny_samples.accuracy)
    assert "errors" in by_metric.text()


@pytest.mark.slow
def test_a_budget_holds_an_error_from_above(tmp_path, tiny_model, tiny_samples, by_metric):
    target = small.target(tmp_path / "one.toml", methods=("dynamic",), backends=("onnxruntime",))
    metric = FunctionMetric(name="errors", function=errors, higher_is_better=False)
    sides = {"samples": tiny_samples.train, "eval": tiny_samples.rows, "target": target}
    least = 1 - tiny_samples.accuracy
    with pytest.raises(edgekit.BudgetError):
        options = BuildOptions(metric=metric, budget={"accuracy": least / 2})
        edgekit.build(tiny_model, **sides, out=tmp_path / "none", options=options)
    options = BuildOptions(metric=metric, budget={"accuracy": 0.9})
    assert (
        edgekit.build(tiny_model, **sides, out=tmp_path / "out", options=options).bundle.manifest.score_name == "errors"
    )


@pytest.mark.slow
def test_evaluate_and_compare_score_the_metric_beside_the_tasks(by_metric, built, tiny_samples):
    path = by_metric.bundle.path
    scores = edgekit.evaluate(path, tiny_samples.rows, options=EvaluateOptions(metric=macro_recall))
    assert scores.score_name == "macro_recall" and "accuracy" in scores.more_scores
    options = CompareOptions(metric=macro_recall, gates=OPEN, max_time=0.0)
    accuracy = edgekit.compare(built[0].bundle.path, path, tiny_samples.rows, options=options).report.accuracy
    assert accuracy.score_name == "macro_recall" and accuracy.losses is None
    assert accuracy.low <= accuracy.drop <= accuracy.high


@pytest.mark.slow
def test_a_drop_against_the_build_is_not_told_of_another_metric(by_metric, built, tiny_samples):
    limits = Gates(budget=edgekit.Budget(accuracy_drop=0.5))
    of_rows = {"gates": limits, "scenarios": (), "max_time": 0.0}
    result = edgekit.measure(by_metric.bundle.path, tiny_samples.rows, options=MeasureOptions(**of_rows))
    assert result.exit_code == 4, "the build's score is of another metric"
    same = MeasureOptions(**of_rows, metric=FunctionMetric(name="errors", function=errors, higher_is_better=False))
    assert edgekit.measure(by_metric.bundle.path, tiny_samples.rows, options=same).exit_code == 0


@pytest.mark.slow
def test_a_baseline_of_another_metric_is_scored_anew(by_metric, baseline, tiny_samples):
    options = CheckOptions(metric=macro_recall, gates=OPEN, max_time=0.0)
    report = edgekit.check(by_metric.bundle.path, baseline.written[0], tiny_samples.rows, options=options).report
    assert [subject.score_name for subject in report.subjects] == ["macro_recall", "macro_recall"]
    assert report.subjects[0].score == pytest.approx(report.accuracy.before)


@pytest.mark.slow
def test_the_command_line_takes_a_metric_by_its_place(by_metric, tiny_samples, tmp_path):
    (tmp_path / "own_scores.py").write_text("def half(predictions, truths):\n    return 0.5\n", "utf-8")
    done = small.edgekit(
        "eval", by_metric.bundle.path, "--samples", tiny_samples.dev, "--metric", "own_scores:half", cwd=tmp_path
    )
    assert done.returncode == 0 and "half" in done.stdout.decode()
