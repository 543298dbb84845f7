"""What a build decides and says: scores of the test set, strictness, layers in float, times on record, and choices left to the device."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small
from refusals import refused
from scipy.stats import binomtest

import edgekit
from edgekit import BackendError, UsageError, backends
from edgekit.backends import openvino
from edgekit.bundle.trust import open_bundle
from edgekit.cache.records import RACES, Records
from edgekit.machine.cpu import cpu_instructions, cpus, has_vnni, lacks_vnni
from edgekit.report.inspect import inspect
from edgekit.runtime import choice, golden
from edgekit.runtime import session as sessions
from edgekit.samples import Sample, Samples
from edgekit.search import checks, race
from edgekit.search.checks import notes, resolve_target
from edgekit.spec.manifest import content_digest
from edgekit.spec.sealed import matches
from edgekit.spec.target import load as load_target
from edgekit.stats.paired import tango_interval

QUICK = 'threads = 1\n{extra}\n[budget]\naccuracy_drop = 0.1\n[quantize]\nranges = "min_max"\nsmooth = "off"\n'


def target(file, methods=("float32",), backends=("onnxruntime",), extra=""):
    """One thread, and nothing that is searched: the same candidates on every machine."""
    return small.target(file, methods, backends, QUICK.format(extra=extra))


def rows_of(module, texts, wrong):
    """Labels by torch, those of the first rows changed; texts between two labels are among them, unlike in ``small.labelled``."""
    answers = small.torch_logits(module, texts).argmax(axis=1)
    return [
        {"text": t, "label": small.LABELS[(a + (i < wrong)) % 3]}
        for i, (t, a) in enumerate(zip(texts, answers, strict=True))
    ]


def left(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def build(tiny_model, tiny_samples, tmp_path):
    """``edgekit.build`` with the session's model and samples, into a folder of its own."""
    (tmp_path / "place").mkdir()

    def call(**options):
        return small.build(
            **{
                "model": tiny_model,
                "samples": tiny_samples.train,
                "eval": tiny_samples.dev,
                "out": tmp_path / "place" / "out",
                **options,
            }
        )

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, tiny_module, tiny_samples):
    """A build with a test set. Its threads are not fixed, so that they are varied; INT8 alone could win."""
    folder = tmp_path_factory.mktemp("made")
    rows = rows_of(tiny_module, small.texts(150, seed=9), wrong=12)
    test = small.write_jsonl(folder / "test.jsonl", rows)
    aim = small.target(
        folder / "aim.toml",
        ("static", "float32"),
        extra='[budget]\naccuracy_drop = 0.1\n[quantize]\nranges = "mse"\nsmooth = "off"',
    )
    options = {"samples": tiny_samples.train, "eval": tiny_samples.dev, "test": test, "target": aim}
    result = small.build(tiny_model, out=folder / "out", **options)
    return SimpleNamespace(
        result=result, manifest=result.bundle.manifest, path=folder / "out", rows=rows, test=test, options=options
    )


# ---- the test set


def truth_of(rows):
    return np.array([small.LABELS.index(r["label"]) for r in rows])


def expected_numbers(reference, candidate, truth):
    """Of two models' logits: what a test set says, counted row by row."""
    torch_right, right = reference.argmax(axis=1) == truth, candidate.argmax(axis=1) == truth
    losses, gains = int((torch_right & ~right).sum()), int((~torch_right & right).sum())
    p_value = binomtest(losses, losses + gains, 0.5).pvalue if losses + gains else 1.0
    return {
        "rows": len(truth),
        "score": right.mean(),
        "reference_score": torch_right.mean(),
        "losses": losses,
        "gains": gains,
        "p_value": p_value,
    }


def check_held_out(held_out, path, rows, tiny_module):
    texts, truth = [r["text"] for r in rows], truth_of(rows)
    with edgekit.load(path) as session:
        expected = expected_numbers(small.torch_logits(tiny_module, texts), small.logits(session, texts), truth)
    assert {name: getattr(held_out, name) for name in expected} == pytest.approx(expected)
    assert held_out.drop == pytest.approx(expected["reference_score"] - expected["score"])
    assert (held_out.drop_low, held_out.drop_high) == pytest.approx(
        tango_interval(expected["losses"], expected["gains"], len(truth))
    )


def test_the_choice_is_scored_on_the_test_set(made, tiny_module):
    found = made.manifest.held_out
    check_held_out(found, made.path, made.rows, tiny_module)
    assert found.reference_score == pytest.approx(138 / 150)
    assert found.digest not in made.manifest.provenance.values()
    table = " ".join(made.result.table().split())
    assert f"test set of 150, scored once: accuracy {found.score:.4f}, torch 0.9200; drop" in table


@pytest.mark.slow
def test_int8_on_a_test_set_that_it_does_not_answer_like_torch(build, made, tiny_module, tmp_path):
    """With texts between two labels INT8 loses rows and wins some."""
    result = build(test=made.test, target=target(tmp_path / "one.toml", ("static",)))
    found = result.bundle.manifest.held_out
    assert found.losses + found.gains > 0, "else nothing of this could be wrong"
    check_held_out(found, tmp_path / "place" / "out", made.rows, tiny_module)


@pytest.mark.slow
def test_only_the_choice_is_scored_on_it_and_once(build, tiny_samples, tiny_module, tmp_path):
    """Of all that the build puts into the cache, one entry holds answers to the test set: the winner's. Scores of candidates are the evaluation's."""
    test = small.write_jsonl(tmp_path / "test.jsonl", rows_of(tiny_module, small.texts(60, seed=10), wrong=30))
    told = []
    result = build(
        test=test,
        target=target(tmp_path / "two.toml", ("dynamic", "float32")),
        progress=lambda *step: told.append(step),
    )
    manifest = result.bundle.manifest
    entries = [json.loads(file.read_text()) for file in Path(os.environ["EDGEKIT_CACHE"]).glob("*/entry.json")]
    digests = {e["samples"] for e in entries if isinstance(e.get("samples"), str)}
    (digest,) = [d for d in digests if matches(manifest.held_out.digest, d)]
    used = [e for e in entries if e.get("samples") == digest]
    (winner,) = [t for t in manifest.trials if t.verdict == "chosen"]
    assert sorted(e["step"] for e in used) == ["answers", "reference"]
    (given,) = [e for e in used if e["step"] == "answers"]
    assert len(given["candidates"]) == 1
    assert given["candidates"][0].startswith(f"{winner.method} {winner.backend} ")
    last_race = [step for step, _, _ in told].index("race candidates")
    assert [step for step, _, rows in told[:last_race] if step.startswith("evaluate") and rows == 60] == []
    assert manifest.held_out.reference_score == 0.5
    assert manifest.reference_score == pytest.approx(tiny_samples.accuracy)
    assert all(abs(t.score - 0.95) < 0.1 for t in manifest.trials)


def test_a_test_set_without_labels_is_refused_before_any_work(build, tmp_path):
    bare = small.write_jsonl(tmp_path / "bare.jsonl", [{"text": t} for t in small.texts(5, seed=1)])
    with refused("samples-no-label", "bare.jsonl", "row 1"):
        build(test=bare, progress=lambda step, *_: pytest.fail(f"work began: {step}"))


# ---- strict


@pytest.mark.slow
def test_strict_needs_rows_to_prove_it(build, tmp_path):
    """With no row lost of 120 the bound is z^2 / (120 + z^2) = 0.022 (Tango 1998), whatever the candidate is."""
    bound = 1.6448536**2 / (120 + 1.6448536**2)
    assert bound == pytest.approx(0.02205, abs=1e-5)
    aim = target(tmp_path / "exact.toml")
    for limit, said in (
        (0.01, ("samples-too-few", "268")),
        (0.02, ("samples-too-few", "133")),
        (0.0, "budget-unprovable"),
    ):
        with refused(said):
            build(
                target=aim,
                budget={"accuracy_drop": limit},
                strict=True,
                progress=lambda step, *_: pytest.fail(f"work began: {step}"),
            )
    assert left(tmp_path / "place") == []
    manifest = build(target=aim, budget={"accuracy_drop": 0.0221}, strict=True).bundle.manifest
    assert manifest.trials[0].drop_high == pytest.approx(bound, abs=1e-6)
    assert not any("inconclusive" in note for note in manifest.notes)
    loose = build(target=aim, budget={"accuracy_drop": 0.01}, force=True).bundle.manifest
    assert any("inconclusive" in note and "0.01" in note and "120 rows" in note for note in loose.notes)


# ---- layers in float


@pytest.mark.slow
def test_keep_float_reaches_the_recipe(build, tmp_path):
    """What the target names and what is named beside it, once each, by name or by pattern."""
    aim = target(tmp_path / "one.toml", ("dynamic",))
    aim.write_text(aim.read_text() + 'keep_float = ["bert.encoder.layer.1.output.dense"]\n')
    manifest = build(
        target=aim, keep_float=["bert.encoder.layer.0.inter*", "bert.encoder.*1.output.dense"]
    ).bundle.manifest
    kept = manifest.variants[0].recipe["keep_float"].split(", ")
    assert kept == [f"bert.encoder.layer.{name}.dense" for name in ("0.intermediate", "1.output")]
    whole = build(target=target(tmp_path / "two.toml", ("dynamic",)), force=True).bundle.manifest
    assert "keep_float" not in whole.variants[0].recipe
    low, high = (int(m.trials[0].executed.removeprefix("int8 ").split("/")[0]) for m in (manifest, whole))
    assert high - low == len(kept), "what the backend says that it ran"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name"), [("dynamic", "bert.encoder.layer.0.output.dens"), ("static", "bert.encoder.layer.9.*")]
)
def test_a_layer_that_does_not_exist(build, tmp_path, method, name):
    with refused("layer-unknown", name, "keep_float") as caught:
        build(target=target(tmp_path / "one.toml", (method,)), keep_float=[name])
    if "*" not in name:
        assert "Did you mean 'bert.encoder.layer.0.output.dense'?" in str(caught.value)
    assert left(tmp_path / "place") == []


@pytest.fixture(scope="module")
def hurt(tmp_path_factory):
    """A model with a channel of 300 in front of one layer of the feed-forward part, which INT8 with ``min_max`` does not survive."""
    import torch

    folder = tmp_path_factory.mktemp("hurt")
    module = small.module()
    layer = module.bert.encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.weight[0].zero_()
        layer.intermediate.dense.bias[0] = 300.0  # GELU leaves it as it is
        layer.output.dense.weight[:, 0].zero_()
    module.save_pretrained(folder / "model")
    small.tokenizer().save_pretrained(folder / "model")
    rows = small.labelled(module, small.texts(300, seed=2), count=120, wrong=6)
    options = {
        "samples": small.write_jsonl(
            folder / "train.jsonl", [{"text": t, "label": "positive"} for t in small.texts(24, seed=1)]
        ),
        "eval": small.write_jsonl(folder / "dev.jsonl", rows),
        "target": target(folder / "aim.toml", ("static",)),
    }
    return SimpleNamespace(
        build=lambda **more: small.build(**{"model": folder / "model", **options, **more}),
        folder=folder,
        module=module,
        rows=rows,
    )


HURT = "bert.encoder.layer.1.output.dense"


@pytest.fixture(scope="module")
def saved(hurt):
    told = []
    hurt.build(out=hurt.folder / "out", budget={"accuracy_drop": 0.05}, progress=lambda *step: told.append(step))
    return SimpleNamespace(path=hurt.folder / "out", manifest=open_bundle(hurt.folder / "out").manifest, told=told)


def test_layers_go_back_to_float_where_int8_breaks_the_budget(saved, hurt):
    manifest = saved.manifest
    by_verdict = {t.verdict == "chosen": t for t in manifest.trials}
    assert len(manifest.trials) == 2
    whole, part = by_verdict[False], by_verdict[True]
    assert whole.verdict.startswith("over budget: accuracy_drop ")
    assert whole.drop > 0.1
    assert part.drop <= 0.05 + 1e-9
    (variant,) = manifest.variants
    assert variant.recipe["keep_float"] == HURT, "the fewest: one"
    counts = [int(t.executed.removeprefix("int8 ").split("/")[0]) for t in (whole, part)]
    assert counts[0] - counts[1] == 1
    texts = [r["text"] for r in hurt.rows]
    with edgekit.load(saved.path) as session:
        found = small.logits(session, texts).argmax(axis=1)
    assert part.score == pytest.approx((found == truth_of(hurt.rows)).mean())


def test_the_ranking_says_which_layer_it_was(saved):
    ranking = saved.manifest.sensitivity
    assert max(ranking, key=ranking.__getitem__) == HURT
    others = [damage for layer, damage in ranking.items() if layer != HURT]
    assert ranking[HURT] > 5 * max(others)
    assert all(damage >= 0 for damage in others)
    assert sum(step == "rank layers" for step, _, _ in saved.told) == len(ranking)
    said = inspect(open_bundle(saved.path)).splitlines()
    first = next(i for i, line in enumerate(said) if line.startswith("layers by INT8 sensitivity"))
    assert said[first + 1].endswith(HURT)


def test_where_all_of_it_holds_the_budget_nothing_is_ranked(made):
    assert made.manifest.sensitivity == {}
    assert not any("keep_float" in v.recipe for v in made.manifest.variants)


def test_layers_are_searched_beside_those_that_are_kept_anyway(hurt, tmp_path):
    kept = "bert.encoder.layer.0.output.dense"
    manifest = hurt.build(out=tmp_path / "out", budget={"accuracy_drop": 0.05}, keep_float=[kept]).bundle.manifest
    assert manifest.variants[0].recipe["keep_float"] == f"{kept}, {HURT}"
    assert kept not in manifest.sensitivity
    assert max(manifest.sensitivity, key=manifest.sensitivity.__getitem__) == HURT
    assert len(manifest.trials) == 2


@pytest.mark.usefixtures("own_cache")
def test_no_number_of_layers_is_enough(hurt, tmp_path, monkeypatch):
    """Whatever is tried drops by a half: all layers but one are tried, and the build says so."""
    from edgekit.search.context import BuildContext

    monkeypatch.setattr(BuildContext, "holds_budget", lambda *_: False)
    aim = target(tmp_path / "aim.toml", ("static", "float32"))
    manifest = hurt.build(out=tmp_path / "out", target=aim, budget={"accuracy_drop": 0.05}).bundle.manifest
    assert "No number of layers in float brings 'static' inside the accuracy budget." in manifest.notes
    assert [t.method for t in manifest.trials if t.verdict == "chosen"] == ["float32"]


def test_a_budget_that_nobody_holds_leaves_nothing(hurt, tmp_path):
    aim = target(tmp_path / "aim.toml", ("static",))
    with refused("budget-none-inside"):
        hurt.build(out=tmp_path / "out", target=aim, budget={"accuracy_drop": 0.05, "size_mb": 0.01})
    assert left(tmp_path) == ["aim.toml"]


# ---- the same again


@pytest.mark.slow
def test_the_size_that_counts_is_that_of_the_whole_bundle(build, tmp_path):
    """With golden inputs, race and manifest, not of graphs and assets alone."""
    aim = target(tmp_path / "one.toml")
    bundle = build(target=aim).bundle
    (trial,) = [t for t in bundle.manifest.trials if t.verdict == "chosen"]
    assert trial.size_mb * 2**20 == pytest.approx(bundle.size, abs=200)
    bare_mb = (
        sum(f.size for name, f in bundle.manifest.files.items() if name.startswith(("graphs/", "assets/"))) / 2**20
    )
    between = (bare_mb + 2 * trial.size_mb) / 3
    with refused("budget-none-inside", "size_mb"):
        build(target=aim, budget={"accuracy_drop": 0.1, "size_mb": between}, force=True)
    assert build(
        target=aim, budget={"accuracy_drop": 0.1, "size_mb": trial.size_mb + 1e-3}, force=True
    ).bundle.size == pytest.approx(bundle.size, abs=200)


@pytest.mark.slow
def test_a_search_that_is_gone_through_again_races_nothing_again(build, tmp_path, monkeypatch):
    """Where the whole bundle is too large the others are judged anew, by the times that are there, whatever time is allowed."""
    raced, real = [], race.time_candidates

    def time_candidates(candidates, *rest, **said):
        raced.append([c.variant for c in candidates])
        return real(candidates, *rest, **said)

    monkeypatch.setattr(race, "time_candidates", time_candidates)
    aim, options = (
        target(tmp_path / "one.toml", ("dynamic", "float32")),
        {"no_cache": True, "force": True, "max_time": 10_000},
    )
    first = build(target=aim, max_time=0).bundle
    smallest_mb = min(t.size_mb for t in first.manifest.trials)
    bare_mb = sum(f.size for name, f in first.manifest.files.items() if name.startswith(("graphs/", "assets/"))) / 2**20
    limit_mb = (bare_mb + 2 * smallest_mb) / 3
    raced.clear()
    with refused("budget-none-inside", "size_mb"):
        build(target=aim, budget={"accuracy_drop": 0.1, "size_mb": limit_mb}, **options)
    assert raced
    assert all(raced.count(variants) == 1 for variants in raced)


def test_the_second_build_is_the_same(build, made, tmp_path):
    result = build(**made.options)
    manifest = result.bundle.manifest
    assert content_digest(manifest) == content_digest(made.manifest)
    assert manifest == made.manifest
    assert {"export", "torch reference", "static", "answers", "race"} <= set(result.reused)


@pytest.fixture(scope="module")
def again(made, tiny_model, tmp_path_factory):
    """The same build with nothing in the cache, from the times of the first."""
    folder = tmp_path_factory.mktemp("again")
    before = os.environ["EDGEKIT_CACHE"]
    os.environ["EDGEKIT_CACHE"] = str(folder / "cache")
    try:
        result = small.build(tiny_model, out=folder / "out", race=made.path / "race.json", **made.options)
        steps = [json.loads(file.read_text())["step"] for file in (folder / "cache").glob("*/entry.json")]
    finally:
        os.environ["EDGEKIT_CACHE"] = before
    return SimpleNamespace(path=folder / "out", manifest=result.bundle.manifest, reused=result.reused, steps=steps)


def test_a_race_on_record_gives_the_same_choice(made, again):
    assert (again.reused, again.steps.count("race")) == ((), 0)
    assert content_digest(again.manifest) == content_digest(made.manifest)
    assert again.manifest.reason == made.manifest.reason
    assert again.manifest.variants == made.manifest.variants
    assert again.manifest.trials == made.manifest.trials, "every number that came from a clock too"
    assert again.manifest.held_out == made.manifest.held_out
    assert len(made.manifest.trials) > 2 or cpus() == 1, "a race of variations was on record as well"


def test_the_record_in_the_bundle_is_the_record_that_was_given(made, again):
    assert (again.path / "race.json").read_bytes() == (made.path / "race.json").read_bytes()


def test_the_digest_leaves_out_the_times_and_nothing_else(made, tmp_path):
    bundle = small.copy(made.path, tmp_path / "copy")
    (bundle / "race.json").write_text("{}")
    small.sign(bundle)
    assert content_digest(open_bundle(bundle).manifest) == content_digest(made.manifest)
    (bundle / "assets" / "task.json").write_text((bundle / "assets" / "task.json").read_text() + "\n")
    small.sign(bundle)
    assert content_digest(open_bundle(bundle).manifest) != content_digest(made.manifest)


def test_times_of_another_build_are_refused(build, made, saved, tmp_path):
    with refused("race-record-other", "--race"):
        build(**made.options, race=saved.path / "race.json")
    with refused("race-record-unreadable", "none.json"):
        build(race=tmp_path / "none.json", progress=lambda step, *_: pytest.fail(f"work began: {step}"))
    with refused("key-unknown"):
        build(race=made.path / "manifest.json", progress=lambda step, *_: pytest.fail(f"work began: {step}"))
    assert left(tmp_path / "place") == []


# ---- time that is used up


def test_no_time_at_all_still_builds(build, made, tmp_path, monkeypatch):
    options = {n: v for n, v in made.options.items() if n != "test"}
    monkeypatch.setenv("EDGEKIT_CACHE", str(small.copy(os.environ["EDGEKIT_CACHE"], tmp_path / "cache")))
    for file in list((tmp_path / "cache").glob("*/entry.json")):  # nothing was timed yet
        if json.loads(file.read_text())["step"] == "race":
            shutil.rmtree(file.parent)
    manifest = build(**options, max_time=0).bundle.manifest
    assert "The time allowed was used up: other shapes, threads and batch sizes were not tried." in manifest.notes
    assert {(t.method, t.threads) for t in manifest.trials} == {("static", cpus()), ("float32", cpus())}
    assert [t.verdict for t in manifest.trials].count("chosen") == 1
    record = json.loads((tmp_path / "place" / "out" / "race.json").read_text())
    (race,) = record["races"].values()
    assert np.shape(race["times_ms"])[1:] == (4, 20), "four rounds, where there is time for six"
    whole = build(**options, force=True).bundle.manifest
    assert not any("time allowed" in note for note in whole.notes)
    rounds = {
        np.shape(r["times_ms"])[1]
        for r in json.loads((tmp_path / "place" / "out" / "race.json").read_text())["races"].values()
    }
    assert 4 not in rounds, "a race that was cut short is not taken from the cache where there is time"


def test_layers_are_not_searched_when_the_time_is_used_up(hurt, tmp_path):
    aim = target(tmp_path / "aim.toml", ("static", "float32"))
    manifest = hurt.build(out=tmp_path / "out", target=aim, budget={"accuracy_drop": 0.05}, max_time=0).bundle.manifest
    assert "The time allowed was used up: layers of 'static' in float were not searched." in manifest.notes
    assert [(t.method, t.verdict[:11]) for t in manifest.trials] == [("static", "over budget"), ("float32", "chosen")]
    assert manifest.sensitivity == {}


# ---- buckets, batches and streams


def test_buckets_are_tried_where_the_backend_gains_from_them(float32_openvino):
    manifest = open_bundle(float32_openvino).manifest
    (winner,) = [t for t in manifest.trials if t.verdict == "chosen"]
    (variant,) = manifest.variants
    assert (variant.shapes, variant.threads) == (winner.shapes, winner.threads)
    tried = {t.shapes for t in manifest.trials}
    assert () in tried
    assert len(tried) > 1
    for edges in tried - {()}:
        assert len(edges) <= 8
        assert list(edges) == sorted(set(edges))
        assert edges[-1] <= small.MAX_LENGTH


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [(), (12, 40)], ids=str)
def test_buckets_that_the_target_says_are_not_searched(build, tmp_path, tiny_module, shapes):
    """None of them is an answer too."""
    runs_on = (
        ("openvino", "onnxruntime") if shapes else ("openvino",)
    )  # alone, or it might be too slow to be worth a search
    aim = target(tmp_path / "fixed.toml", backends=runs_on, extra=f"shapes = {list(shapes)}")
    manifest = build(target=aim).bundle.manifest
    assert {(t.backend, t.shapes) for t in manifest.trials} == {("openvino", shapes), *((b, ()) for b in runs_on[1:])}
    texts = small.texts(10, seed=4)
    with edgekit.load(tmp_path / "place" / "out") as session:
        np.testing.assert_allclose(small.logits(session, texts), small.torch_logits(tiny_module, texts), atol=1e-3)


@pytest.mark.slow
def test_throughput(build, tmp_path, tiny_module):
    aim = small.target(tmp_path / "many.toml", ("float32",), extra='threads = 2\nmax_batch = 6\nuse = "throughput"')
    manifest = build(target=aim).bundle.manifest
    (winner,) = [t for t in manifest.trials if t.verdict == "chosen"]
    assert all(t.rows_per_s > 0 and t.batch in (4, 6) and t.streams in (1, 2) for t in manifest.trials)
    assert winner.rows_per_s >= max(t.rows_per_s for t in manifest.trials) / 1.05
    assert f"{winner.rows_per_s:.0f} rows/s" in manifest.reason
    texts = small.texts(30, seed=3)
    with edgekit.load(tmp_path / "place" / "out") as session:
        if cpus() > 1:
            assert (session.info.streams, session.info.batch) == (winner.streams, winner.batch)
        np.testing.assert_allclose(
            small.logits(session, texts, batched=True), small.torch_logits(tiny_module, texts), atol=1e-3
        )
    with refused("name-unknown", "throughputs", "throughput"):
        build(target=aim, use="throughputs", progress=lambda step, *_: pytest.fail(f"work began: {step}"))


# ---- chosen by the device


@pytest.fixture(scope="module")
def for_device(tmp_path_factory, tiny_model, tiny_samples):
    """Dynamic INT8 is ONNX Runtime's; of float32, which both run, the target prefers OpenVINO."""
    folder = tmp_path_factory.mktemp("device")
    aim = target(
        folder / "device.toml", ("dynamic", "float32"), ("openvino", "onnxruntime"), extra='choose_on = "device"'
    )
    edgekit.build(tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=folder / "out", target=aim)
    return folder / "out"


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """Of a device that has loaded nothing yet."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "device-cache"))
    return tmp_path / "device-cache"


def records(cache):
    return sorted((cache / "races").glob("*.json"))


def answers_like_torch(session, module):
    texts = small.texts(20, seed=8)
    expected = small.torch_logits(module, texts)
    if session.info.method == "float32":
        np.testing.assert_allclose(small.logits(session, texts), expected, atol=1e-3)
    else:
        assert (small.logits(session, texts).argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.8


def test_two_variants_in_order_of_preference(for_device):
    manifest = open_bundle(for_device).manifest
    assert manifest.choose_on == "device"
    assert [(v.method, v.backend) for v in manifest.variants] == [("dynamic", "onnxruntime"), ("float32", "openvino")]
    assert len({v.graphs["forward"] for v in manifest.variants}) == 2
    assert [t.verdict for t in manifest.trials] == ["shipped: the device chooses"] * 2 + [
        "less preferred by the target"
    ]
    assert all(t.p50_ms == t.ratio == 0 for t in manifest.trials), "nothing was timed"
    assert manifest.reason.startswith(
        "dynamic on onnxruntime and float32 on openvino: preferred by target 'device' in this order; not raced here"
    )
    assert (
        "Latency, startup time and memory were not measured: this machine does not stand for the device."
        in manifest.notes
    )
    assert json.loads((for_device / "race.json").read_text())["races"] == {}


def test_the_device_races_once_and_remembers(for_device, fresh_cache, tiny_module):
    with edgekit.load(for_device) as first:
        chosen, info = first.info.chosen, first.info
        answers_like_torch(first, tiny_module)
    assert chosen.startswith("it won the race at this load: dynamic on onnxruntime ")
    said = chosen.removeprefix("it won the race at this load: ")
    times = {part.rsplit(" ", 2)[0]: float(part.rsplit(" ", 2)[1]) for part in said.split(", ")}
    assert times[f"{info.method} on {info.backend}"] == min(times.values())
    (record,) = records(fresh_cache)
    with edgekit.load(for_device) as second:
        assert second.info.chosen == f"it won the race at the first load here: {said}"
        assert (second.info.method, second.info.backend) == (info.method, info.backend)
    # What is remembered is what is used: the other one is taken where the record says so.
    known = Records(RACES).find(record.stem)
    assert Records(RACES).keep(record.stem, {**known, "winner": 1 - known["winner"]})
    with edgekit.load(for_device) as third:
        assert (third.info.method, third.info.backend) != (info.method, info.backend)
        answers_like_torch(third, tiny_module)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "{}",
        "[]",
        '{"winner": 9, "times": ""}',
        '{"winner": "x", "times": ""}',
        '{"winner": null, "times": ""}',
    ],
)
def test_a_damaged_record_is_raced_again(for_device, fresh_cache, content):
    edgekit.load(for_device).close()
    (record,) = records(fresh_cache)
    record.write_text(content)
    with edgekit.load(for_device) as session:
        assert session.info.chosen.startswith("it won the race at this load: ")
    assert Records(RACES).find(record.stem)["winner"] in (0, 1)


def test_an_upgrade_races_again(for_device, fresh_cache, monkeypatch):
    edgekit.load(for_device).close()
    real = backends.installed_version
    monkeypatch.setattr(backends, "installed_version", lambda name: "99.9" if name == "openvino" else real(name))
    with edgekit.load(for_device) as session:
        assert session.info.chosen.startswith("it won the race at this load: ")
    assert len(records(fresh_cache)) == 3, (
        "two races, and the golden inputs by the version that is another than the build's"
    )


def test_a_cache_that_cannot_be_written(for_device, tmp_path, monkeypatch, tiny_module):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        with edgekit.load(for_device) as session:
            assert session.info.chosen.startswith("it won the race at this load: ")
            assert session.info.chosen.endswith(
                "; the cache folder is not writable, or others may write it, so every load races"
            )
            answers_like_torch(session, tiny_module)


def test_the_backend_that_is_asked_for_is_not_raced(for_device, fresh_cache, tiny_module):
    for name, method in (("onnxruntime", "dynamic"), ("openvino", "float32")):
        with edgekit.load(for_device, backend=name) as session:
            assert (session.info.backend, session.info.method, session.info.chosen) == (
                name,
                method,
                "the backend was requested",
            )
            answers_like_torch(session, tiny_module)
    assert not fresh_cache.exists()


def test_what_cannot_run_on_the_device_does_not_race(for_device, fresh_cache, tmp_path, monkeypatch):
    bundle = small.copy(for_device, tmp_path / "copy")
    data = json.loads((bundle / "manifest.json").read_text())
    first, second = data["variants"]
    small.sign(bundle, variants=[{**first, "requires": {"instructions": "vnni"}}, second])
    monkeypatch.setattr(choice, "cpu_instructions", lambda: ("avx2",))
    with edgekit.load(bundle) as session:
        assert (session.info.method, session.info.backend) == ("float32", "openvino")
        assert session.info.chosen.startswith(
            "it is the only variant that can run here (dynamic on onnxruntime cannot run here: "
        )
    small.sign(bundle, variants=[{**v, "requires": {"instructions": "vnni"}} for v in (first, second)])
    with refused("no-variant"):
        edgekit.load(bundle)
    monkeypatch.setattr(choice, "cpu_instructions", lambda: ("avx2", "avx_vnni"))
    with edgekit.load(bundle) as session:
        assert session.info.chosen.startswith("it won the race")


@pytest.mark.parametrize("place", [0, 1])
def test_each_variant_passes_the_golden_test(for_device, place):
    """Against what it answered itself, not what the first did: INT8 and float32 are further apart than this."""
    bundle = open_bundle(for_device)
    with sessions.Session(bundle, replace(bundle.manifest.variants[place], threads=1)) as session:
        assert session.variant_index == place
        assert golden.check(session).difference < 1e-5


@pytest.mark.slow
def test_two_backends_share_one_graph(tmp_path, tiny_model, tiny_samples):
    aim = target(tmp_path / "device.toml", ("float32",), ("openvino", "onnxruntime"), extra='choose_on = "device"')
    made = edgekit.build(
        tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=tmp_path / "out", target=aim
    ).bundle
    assert [v.backend for v in made.manifest.variants] == ["openvino", "onnxruntime"]
    assert [name for name in made.manifest.files if name.endswith(".onnx")] == ["graphs/model.onnx"]


@pytest.fixture
def without_openvino(monkeypatch):
    """As on a machine where it is not installed."""
    real = backends.installed_version
    monkeypatch.setattr(backends, "installed_version", lambda name: None if name == "openvino" else real(name))
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.mark.slow
@pytest.mark.parametrize("preferred", [("openvino",), ("openvino", "onnxruntime")], ids=len)
def test_a_backend_that_this_machine_has_not(build, tmp_path, without_openvino, tiny_module, preferred):
    """ONNX Runtime stands in for it where accuracy is looked at; it is shipped, in the buckets that the target says."""
    extra = 'choose_on = "device"\nshapes = [16, 64]'
    manifest = build(
        target=target(tmp_path / "device.toml", ("static", "float32"), preferred, extra=extra)
    ).bundle.manifest
    first, second = manifest.variants
    assert (first.method, first.backend, first.shapes) == ("static", "openvino", (16, 64))
    assert first.executed == "unknown (scored on onnxruntime)"
    assert (second.method, second.backend) == (
        ("float32", "openvino") if len(preferred) == 1 else ("static", "onnxruntime")
    )
    assert all(abs(t.score - 0.95) < 0.1 for t in manifest.trials)
    out = tmp_path / "place" / "out"
    if len(preferred) == 1:
        with refused("no-variant", "openvino"):
            edgekit.load(out)
    else:
        with edgekit.load(out) as session:
            assert session.info.backend == "onnxruntime"
            assert session.info.chosen.startswith(
                "it is the only variant that can run here (static on openvino cannot run here: The backend 'openvino' is not"
            )
            answers_like_torch(session, tiny_module)


def test_a_backend_that_is_missing_cannot_race_here(build, tmp_path, without_openvino):
    with refused("backend-not-installed", "openvino"):
        build(
            target=target(tmp_path / "host.toml", backends=("openvino",)),
            progress=lambda step, *_: pytest.fail(f"work began: {step}"),
        )


def test_a_race_at_the_first_load_times_each_variant(for_device):
    bundle = open_bundle(for_device)
    made = choice.select_variant(bundle, force=True)
    made.session.close()
    runs = made.runs
    assert [(run.variant, run.refused) for run in runs] == [(variant, "") for variant in bundle.manifest.variants]
    assert all(run.ms > 0 for run in runs)


@pytest.mark.slow
def test_none_inside_the_budget_for_a_device(build, tmp_path):
    aim = target(tmp_path / "device.toml", ("dynamic", "float32"), extra='choose_on = "device"')
    with refused("budget-none-inside", "size_mb"):
        build(target=aim, budget={"size_mb": 0.01})
    assert left(tmp_path / "place") == []


@pytest.mark.slow
def test_two_variants_that_are_too_large_together_are_one(build, tmp_path):
    aim = target(tmp_path / "device.toml", ("dynamic", "float32"), extra='choose_on = "device"')
    both = build(target=aim).bundle
    assert [v.method for v in both.manifest.variants] == ["dynamic", "float32"]
    alone = build(target=aim, budget={"accuracy_drop": 0.1, "size_mb": both.size / 2**20 - 0.01}, force=True).bundle
    assert [v.method for v in alone.manifest.variants] == ["dynamic"]
    assert alone.size < both.size - 10_000


# ---- samples


def test_samples_that_are_all_the_same_text(build, tmp_path):
    same = small.write_jsonl(tmp_path / "same.jsonl", [{"text": "the film was fine"}] * 30)
    with refused("calibration-same", "30", "same.jsonl", "static"):
        build(
            samples=same,
            target=target(tmp_path / "one.toml", ("static",)),
            progress=lambda step, *_: pytest.fail(f"work began: {step}"),
        )


def test_evaluation_rows_that_all_have_one_label(build, tiny_samples, tmp_path):
    one = small.write_jsonl(tmp_path / "one.jsonl", [r for r in tiny_samples.rows if r["label"] == "positive"])
    for options in ({"eval": one}, {"test": one}):
        with refused("samples-one-label", "one.jsonl"):
            build(target=target(tmp_path / "exact.toml"), **options)
    assert left(tmp_path / "place") == []


@pytest.mark.parametrize("count", [1, 15, 16, 40])
def test_calibration_rows_that_show_little(count):
    """From 16 on it is no chance that all have one length, or one label."""
    aim = resolve_target(load_target("onnxruntime"), (), None)

    def said(labels, lengths):
        rows = tuple(Sample("a text", label) for label in labels)
        found = notes(aim, Samples(rows, "s.jsonl", ""), lengths)
        return [n[: n.index(":")] for n in found if n.startswith("All ")]

    alike = [f"All {count} calibration rows have 9 tokens"] if count >= 16 else []
    assert said([None] * count, [9] * count) == alike
    assert said([None] * count, [9] * (count - 1) + [8]) == []
    same = [f"All {count} calibration rows have the same label"] if count >= 16 else []
    assert said(["good"] * count, range(count)) == same
    assert said([0] * count, [9] * count) == alike + same
    assert said(["good"] * (count - 1) + ["bad"], range(count)) == []
    assert said([["a", "b"]] * count, range(count)) == same, "the labels of several heads are lists"


def test_what_should_be_known_of_the_samples_is_in_the_bundle(saved, made):
    assert (
        "All 24 calibration rows have the same label: activation ranges may not hold for other inputs."
        in saved.manifest.notes
    )
    assert not any("calibration rows have" in note for note in made.manifest.notes)


# ---- what a target says


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ('use = "throughputt"', "use is 'throughputt'. Did you mean 'throughput'?"),
        ('choose_on = "devise"', "choose_on is 'devise'. Did you mean 'device'?"),
        ('chose_on = "device"', "Did you mean 'choose_on'?"),
        ('instructions = ["avx512_vnn"]', "unknown instruction set 'avx512_vnn'. Did you mean 'avx512_vnni'?"),
        ('instructions = "avx2"', "instructions is a str, expected a list"),
        ('[quantize]\nrange = "mse"', "Did you mean 'ranges'?"),
        ('[quantize]\nranges = "minmax"', "ranges is 'minmax'. Did you mean 'min_max'?"),
        ("[quantize]\nsmooth = 0.5", "smooth is 0.5 (float)"),
        ('[quantize]\nsmooth = "1.5"', "smooth is '1.5', expected auto, off, or a number from 0 to 1"),
        ('[quantize]\nembeddings = "int2"', "embeddings is 'int2'. Did you mean 'int8'?"),
        ("[quantize]\nweight_bits = 4", "weight_bits is 4, expected 8, 7, or 0"),
        ('[quantize]\nkeep_float = "encoder.*"', "keep_float is a str, expected a list"),
        ("[quantise]\nweight_bits = 8", "Did you mean 'quantize'?"),
    ],
)
def test_a_typing_mistake_in_a_target(build, tmp_path, extra, said):
    with pytest.raises(UsageError) as caught:
        build(
            target=small.target(tmp_path / "wrong.toml", extra=extra),
            progress=lambda step, *_: pytest.fail(f"work began: {step}"),
        )
    assert said in str(caught.value)


def int8_of(bundle):
    """Largest INT8 weight of a graph."""
    import onnx

    graph = onnx.load(bundle / "graphs" / "model.onnx").graph
    arrays = [
        onnx.numpy_helper.to_array(t)
        for t in graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2
    ]
    products = {
        name for node in graph.node if "MatMul" in node.op_type or node.op_type == "QAttention" for name in node.input
    }
    used = [
        onnx.numpy_helper.to_array(t)
        for t in graph.initializer
        if t.name in products and t.data_type == onnx.TensorProto.INT8
    ]
    assert arrays
    return max(np.abs(a.astype(int)).max() for a in used)


def built_for(build, tmp_path, instructions):
    aim = target(tmp_path / "cpu-of-another.toml", ("dynamic",), extra=f"instructions = {list(instructions)}")
    return build(target=aim).bundle.manifest


@pytest.mark.slow
def test_a_cpu_without_int8_dot_products_gets_7_bits(build, tmp_path):
    manifest = built_for(build, tmp_path, ["avx2"])
    (variant,) = manifest.variants
    assert variant.recipe["weights"] == "7 bit"
    assert variant.requires == {}
    assert int8_of(tmp_path / "place" / "out") == 63
    assert any("no INT8 dot product (VNNI), so weights have 7 bits" in note for note in manifest.notes)
    beside = set(cpu_instructions()) - {"avx2"}
    extra = f"this machine additionally has {', '.join(sorted(beside))}"
    assert any(extra in note for note in manifest.notes) is bool(beside)
    edgekit.load(tmp_path / "place" / "out").close()


@pytest.mark.slow
def test_a_cpu_with_int8_dot_products_gets_8_bits(build, tmp_path):
    manifest = built_for(build, tmp_path, ["avx2", "avx512f", "avx512_vnni"])
    (variant,) = manifest.variants
    assert variant.recipe["weights"] == "8 bit"
    assert variant.requires == {"instructions": "vnni"}
    assert int8_of(tmp_path / "place" / "out") == 127
    assert not any("7 bits" in note for note in manifest.notes)
    lacking = {"avx2", "avx512f", "avx512_vnni"} - set(cpu_instructions())
    assert any(f"this machine lacks {', '.join(sorted(lacking))}" in note for note in manifest.notes) is bool(lacking)
    if lacks_vnni(cpu_instructions()):
        with pytest.raises(BackendError, match=r'x86 without INT8 dot products.*instructions = \["avx2"\]'):
            edgekit.load(tmp_path / "place" / "out")


@pytest.mark.slow
def test_a_build_for_arm_where_int8_saturates(build, tmp_path, monkeypatch):
    """What it is for does not saturate, what scores it does: said beside the table. And the bundle is for no x86 without VNNI, wherever it was made."""
    monkeypatch.setattr(checks, "cpu_instructions", lambda: ("avx2",))
    aim = target(tmp_path / "arm.toml", ("dynamic",), extra='instructions = ["asimd", "asimddp"]')
    result = build(target=aim)
    manifest = result.bundle.manifest
    (variant,) = manifest.variants
    assert (variant.recipe["weights"], variant.requires) == ("8 bit", {"instructions": "vnni"})
    (said,) = [line for line in manifest.unverified if line.startswith("Accuracy of INT8. ")]
    assert "INT8 was scored with wrong kernels" in said
    assert f"not verified: {said}" in " ".join(result.table().split())
    with refused("budget-none-inside"):
        build(target=aim, budget={"p50_ms": 1e-6}, out=tmp_path / "place" / "other")


@pytest.mark.parametrize(
    ("methods", "instructions", "bits", "here", "saturates"),
    [
        (("static", "float32"), ("asimd",), 8, ("avx2",), True),
        (("dynamic",), ("avx512_vnni",), 8, ("avx2",), True),
        (("dynamic",), ("asimd",), 8, ("avx512_vnni", "avx2"), False),
        (("dynamic",), ("asimd",), 8, ("asimd",), False),
        (("dynamic",), ("asimd",), 7, ("avx2",), False),
        (("float32", "weight_only"), ("asimd",), 8, ("avx2",), False),
        (("static_float16",), (), 8, ("avx2",), False),
    ],
)
def test_where_scores_of_int8_do_not_hold(tmp_path, monkeypatch, methods, instructions, bits, here, saturates):
    monkeypatch.setattr(checks, "cpu_instructions", lambda: here)
    aim = load_target(str(target(tmp_path / "aim.toml", methods, extra=f"instructions = {list(instructions)}")))
    assert bool(checks.saturates_here(replace(aim, quantize=replace(aim.quantize, weight_bits=bits)))) is saturates


def test_8_bits_where_they_saturate_are_refused_before_any_work(build, tmp_path):
    file = target(tmp_path / "eight.toml", ("static",), extra='instructions = ["avx2"]')
    file.write_text(file.read_text() + "weight_bits = 8\n")
    with refused("target-weight-bits", "weight_bits", "8"):
        build(target=file, progress=lambda step, *_: pytest.fail(f"work began: {step}"))


@pytest.mark.slow
def test_a_backend_that_computes_wrong_results_takes_no_part(build, tmp_path, monkeypatch):
    """It is named beside the table; where there is no other one, nothing begins."""
    monkeypatch.setattr(openvino, "_fault", lambda device: "a layer is wrong")
    result = build(target=target(tmp_path / "both.toml", backends=("openvino", "onnxruntime")))
    manifest = result.bundle.manifest
    assert {t.backend for t in manifest.trials} == {"onnxruntime"}
    (said,) = [note for note in manifest.notes if note.startswith("No candidate ran on 'openvino': OpenVINO ")]
    assert "failed its self-test on this machine" in said
    assert f"note: {said}" in " ".join(result.table().split())
    for extra in ("", 'choose_on = "device"'):
        with refused("backend-wrong-results"):
            build(
                target=target(tmp_path / "one.toml", backends=("openvino",), extra=extra),
                progress=lambda step, *_: pytest.fail(f"work began: {step}"),
            )


@pytest.mark.slow
def test_bits_that_are_asked_for(build, tmp_path):
    file = target(tmp_path / "seven.toml", ("dynamic",), extra='instructions = ["avx2", "avx_vnni"]')
    file.write_text(file.read_text() + "weight_bits = 7\n")
    (variant,) = build(target=file).bundle.manifest.variants
    assert (variant.recipe["weights"], variant.requires) == ("7 bit", {})
    assert has_vnni(["avx_vnni"])


def test_without_instructions_it_is_this_machine(made):
    lacks = lacks_vnni(cpu_instructions())
    int8 = [t for t in made.manifest.trials if t.method == "static"]
    assert int8
    assert any("weights have 7 bits" in note for note in made.manifest.notes) is lacks
    assert not any("; this machine " in note for note in made.manifest.notes)
