"""The whole story: what a build makes, takes again, refuses, and leaves behind when it is stopped."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit import BackendError, InputError, SamplesError, UsageError
from edgekit.bundle.trust import open_bundle

CANDIDATES = {
    ("float32", "onnxruntime"),
    ("float32", "openvino"),
    ("static", "onnxruntime"),
    ("static", "openvino"),
    ("dynamic", "onnxruntime"),
    ("dynamic_rows", "litert"),
    ("dynamic_rows_int4", "litert"),
    ("float32", "litert"),
}


@pytest.fixture
def filled_cache(tiny_build, tmp_path_factory, monkeypatch):
    """A copy of the session's build cache: its export and its quantized graphs are reused."""
    folder = small.copy(tiny_build.cache, tmp_path_factory.mktemp("filled") / "cache")
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder))
    return folder


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


def left(folder):
    return sorted(p.name for p in folder.iterdir())


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def ours_in(folder):
    """What a build leaves in the folder for temporary files (libraries may leave theirs)."""
    return [n for n in left(folder) if "edgekit" in n]


# ---- what is made


def test_all_candidates_are_measured(tiny_build, tiny_samples):
    manifest = tiny_build.result.bundle.manifest
    assert {(t.method, t.backend) for t in manifest.trials} == CANDIDATES
    assert manifest.reference_score == pytest.approx(tiny_samples.accuracy)
    for trial in manifest.trials:
        if trial.method == "float32":
            assert (trial.score, trial.drop) == (pytest.approx(tiny_samples.accuracy), pytest.approx(0))
            assert (trial.executed, trial.changed) == ("float32", 0)
        # Random weights bear 16 levels badly; the budget keeps such a candidate out.
        assert trial.score == pytest.approx(tiny_samples.accuracy, abs=0.1) or trial.method == "dynamic_rows_int4"
        assert trial.drop == pytest.approx(manifest.reference_score - trial.score)
        assert abs(trial.drop) * len(tiny_samples.rows) <= trial.changed + 1e-6
        assert 0 < trial.p50_ms <= trial.p90_ms < 1000
        assert 50 < trial.first_answer_ms < 60_000
        assert 20 < trial.memory_mb < 600
    assert [t.verdict for t in manifest.trials].count("chosen") == 1
    int8 = {t.method: t.size_mb for t in manifest.trials if t.backend == "onnxruntime"}
    assert max(int8["static"], int8["dynamic"]) < int8["float32"]


def test_the_bundle_is_the_winner(tiny_build):
    bundle = open_bundle(tiny_build.path)
    assert bundle == tiny_build.result.bundle
    manifest = bundle.manifest
    (winner,) = [t for t in manifest.trials if t.verdict == "chosen"]
    (variant,) = manifest.variants
    assert (variant.method, variant.backend, variant.executed) == (winner.method, winner.backend, winner.executed)
    assert manifest.reason.startswith(f"{winner.method} on {winner.backend} is ")
    assert winner.size_mb * 2**20 == pytest.approx(bundle.size, abs=200), "golden inputs, race and manifest included"
    assert (manifest.target, manifest.score_name, manifest.max_batch) == ("cpu", "accuracy", 32)
    assert set(manifest.provenance) >= {
        "model",
        "revision",
        "model_digest",
        "calibration_digest",
        "evaluation_digest",
        "seed",
        "torch",
        "onnxruntime",
    }
    assert (
        manifest.provenance["model"],
        manifest.provenance["calibration_rows"],
        manifest.provenance["evaluation_rows"],
    ) == ("tiny-bert", "40", "120")
    table = " ".join(tiny_build.result.table().split())
    assert manifest.reason in table
    assert table.count("onnxruntime") >= 3


def test_it_is_told_how_far_it_is_and_nothing_is_printed(tiny_build):
    assert tiny_build.output == b""
    steps = dict.fromkeys(s for s, _, _ in tiny_build.steps)
    assert next(iter(steps)) == "export"
    assert {"calibrate", "race candidates"} <= set(steps)
    assert all(0 <= done <= total or total == 0 for _, done, total in tiny_build.steps)


def test_a_fresh_build_reuses_nothing(tiny_build):
    assert tiny_build.result.reused == ()
    assert tiny_build.result.seconds > 0
    assert "\n" not in repr(tiny_build.result)
    assert len(repr(tiny_build.result)) < 2500


def test_the_second_build_reuses_all_replaces_and_is_the_same(build, filled_cache, tiny_build, tmp_path):
    with refused("output-exists"):
        build(out=tiny_build.path)
    out = small.copy(tiny_build.path, tmp_path / "place" / "out")
    (out / "golden.npz").write_bytes(b"damaged")
    result = build(force=True)
    methods = ("static", "dynamic", "dynamic_rows", "dynamic_rows_int4")
    rows = {f"{method} on the evaluation rows" for method in methods}
    written = {"float32 for LiteRT", "dynamic_rows for LiteRT", "dynamic_rows_int4 for LiteRT"}
    assert set(result.reused) == {"export", "torch reference", "answers", "race", *methods} | rows | written
    assert content(out) == content(tiny_build.path)
    assert left(tmp_path / "place") == ["out"]
    open_bundle(out)


@pytest.fixture(scope="module")
def by_command(tiny_build, tiny_model, tiny_samples, tmp_path_factory):
    """The command line, with a cache of its own that is always too full, for one INT8 candidate."""
    folder = tmp_path_factory.mktemp("command")
    target = small.target(
        folder / "one.toml",
        methods=("static",),
        backends=("openvino",),
        extra="threads = 1\nshapes = []\n[budget]\naccuracy_drop = 0.5",
    )
    (folder / "temporary").mkdir()
    arguments = ("build", tiny_model, "--samples", tiny_samples.train, "--eval", tiny_samples.dev, "--target", target)
    done = small.edgekit(
        *arguments,
        "-o",
        folder / "out",
        EDGEKIT_CACHE=str(folder / "cache"),
        EDGEKIT_CACHE_MB="0",
        TMPDIR=str(folder / "temporary"),
        timeout=400,
    )
    assert done.returncode == 0, done.stderr.decode()
    return folder, target, done, arguments


def test_the_command_says_what_it_made(by_command):
    folder, _, done, _ = by_command
    said = done.stdout.decode()
    assert re.fullmatch(r"(.+: \d+\.\d s\n)+", done.stderr.decode()), "a line for each finished step"
    assert small.plain_words(said) == said, "no escapes where there is no terminal"
    assert re.search(r"^static on openvino.* chosen$", said, re.MULTILINE)
    assert re.search(rf"^Wrote {folder}/out, \d+\.\d MB, in \d+ s\.$", said, re.MULTILINE)
    assert open_bundle(folder / "out").manifest.variants[0].threads == 1
    assert ours_in(folder / "temporary") == []


def test_a_full_cache_loses_nothing_that_the_build_still_needs(by_command):
    folder = by_command[0]
    kept = [json.loads((entry / "entry.json").read_text())["step"] for entry in (folder / "cache").iterdir()]
    assert sorted(set(kept)) == ["answers", "export", "outputs", "race", "reference", "static"]


def test_the_same_build_in_another_process_makes_the_same_bytes(by_command, build, filled_cache, tmp_path):
    """Graphs come from two exports and two calibrations; only times differ."""
    folder, target, _, _ = by_command
    build(target=target)
    one, two = content(folder / "out"), content(tmp_path / "place" / "out")
    manifests = [json.loads(made.pop("manifest.json")) for made in (one, two)]
    records = [json.loads(made.pop("race.json")) for made in (one, two)]
    assert one == two
    assert records[0].keys() == records[1].keys()
    assert records[0]["costs"].keys() == records[1]["costs"].keys()
    assert all(manifest["files"].pop("race.json") for manifest in manifests)
    for manifest in manifests:
        (trial,) = manifest.pop("trials")
        assert trial["p50_ms"] > 0
        reason = manifest.pop("reason")
        assert "static on openvino" in reason
    assert manifests[0] == manifests[1]
    for entry in (folder / "cache").iterdir():
        same = filled_cache / entry.name
        if json.loads((entry / "entry.json").read_text())["step"] in ("race", "answers"):  # times and memory
            continue
        assert content(entry) == content(same)


def test_an_int8_bundle_answers_nearly_like_torch(by_command, tiny_module):
    texts = small.texts(40, seed=8)
    with edgekit.load(by_command[0] / "out") as session:
        found, expected = small.logits(session, texts), small.torch_logits(tiny_module, texts)
        assert "int8" in session.info.executed
    difference = np.abs(found - expected)
    assert 0 < difference.mean() < 0.1 * np.ptp(expected)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.8


@pytest.mark.slow
def test_a_head_of_ones_own_on_pairs_with_several_labels(tmp_path, monkeypatch):
    """``module=`` with a forward of its own: nothing of it is kept in the cache, its answers are torch's."""
    import torch

    names = ("sharp", "round", "tall", "wide")

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small.module(seed=3).bert
            self.head = torch.nn.Linear(64, len(names))
            self.config = small.module(seed=3, labels=names, problem_type="multi_label_classification").config

        def forward(self, input_ids, token_type_ids, attention_mask):
            states = self.body(
                input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            return self.head((states * mask).sum(1) / mask.sum(1))

    torch.manual_seed(0)
    module = Mean().eval()

    class Bare:
        """As ``torch_logits`` calls a model."""

        def __call__(self, **feeds):
            return type("Output", (), {"logits": module(**feeds)})

    pairs = list(zip(small.texts(30, seed=20), small.texts(30, seed=21), strict=True))
    logits = small.torch_logits(Bare(), pairs)
    given = logits > 0
    given[::10, 0] ^= True
    for name, columns in (("train.csv", ["one", "two"]), ("dev.tsv", ["one", "two", "gold"])):
        with (tmp_path / name).open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="," if name.endswith(".csv") else "\t")
            writer.writerow(columns)
            labels = ["|".join(n for n, g in zip(names, row, strict=True) if g) for row in given]
            writer.writerows(
                [*pair, label][: len(columns)]
                for pair, label in zip(pairs, labels, strict=True)
                if label or len(columns) == 2
            )
    kept = [row.any() for row in given]
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    result = small.build(
        module=module,
        processor=small.tokenizer(),
        samples=tmp_path / "train.csv",
        eval=tmp_path / "dev.tsv",
        columns={"text": "one", "text_pair": "two", "label": "gold"},
        target=small.target(tmp_path / "exact.toml"),
        calibration_rows=3,  # fewer are enough where no method needs them
        out=tmp_path / "out",
    )
    assert result.reused == ()
    assert left(tmp_path / "cache") == [], "its code has no digest"
    manifest = result.bundle.manifest
    metrics = pytest.importorskip("sklearn.metrics")
    truth = metrics.f1_score(given[kept], logits[kept] > 0, average="micro")
    assert truth < 1
    assert (manifest.score_name, manifest.reference_score) == ("micro F1", pytest.approx(truth))
    assert manifest.trials[0].score == pytest.approx(truth)
    assert [manifest.provenance[n] for n in ("model", "revision", "calibration_rows")] == ["Mean", "python", "3"]
    assert "model_digest" not in manifest.provenance
    with edgekit.load(tmp_path / "out") as session:
        np.testing.assert_allclose(small.logits(session, pairs), logits, atol=1e-4 * max(1, np.ptp(logits)))
        answers = session(pairs)
        assert [a.labels for a in answers] == [
            tuple(n for n, g in zip(names, row, strict=True) if g) for row in logits > 0
        ]


def test_a_model_that_differs_in_its_labels_alone(build, filled_cache, tiny_model, tiny_samples, tmp_path):
    """Its float graph, and with it the graph of each method, is in the cache; tokenizer and labels of that must not come along."""
    other = small.copy(tiny_model, tmp_path / "other-name")
    config = json.loads((other / "config.json").read_text())
    names = ("rouge", "vert", "bleu")
    config.update(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    (other / "config.json").write_text(json.dumps(config))
    dev = small.write_jsonl(
        tmp_path / "dev.jsonl", [{**r, "label": names[small.LABELS.index(r["label"])]} for r in tiny_samples.rows[:40]]
    )
    target = small.target(tmp_path / "one.toml", methods=("dynamic",), extra="[budget]\naccuracy_drop = 0.5")
    result = build(model=other, eval=dev, target=target)
    assert result.reused == (), (
        "what a method makes depends on what tokenizer and labels are, even where this one's did not"
    )
    with edgekit.load(tmp_path / "place" / "out") as session:
        assert session.info.labels == names
        assert session(tiny_samples.rows[1]["text"]).label in names
    assert result.bundle.manifest.provenance["model"] == "other-name"


def test_a_model_under_another_name(build, filled_cache, tiny_model, tmp_path):
    result = build(model=small.copy(tiny_model, tmp_path / "renamed"))
    assert "export" in result.reused
    assert result.bundle.manifest.provenance["model"] == "renamed"


# ---- what is refused


def test_model_or_module(build, tmp_path):
    with refused("path-type", "model"):
        build(model=None)
    with refused("processor-missing"):
        build(model=None, module=small.module(), processor=None)
    with refused("module-type"):
        build(model=None, module="bert", processor=small.tokenizer())
    with refused("name-unknown", "text-classification"):
        build(model=None, module=small.module(), processor=small.tokenizer(), task="text-clasification")
    assert left(tmp_path / "place") == []


def test_what_is_refused_before_any_work(build, tmp_path, tiny_samples):
    few = small.write_jsonl(tmp_path / "few.jsonl", [{"text": t} for t in small.texts(15, seed=1)])
    (tmp_path / "place" / "mine").mkdir()
    (tmp_path / "place" / "mine" / "file").write_text("x")
    exact = small.target(tmp_path / "exact.toml")
    cases = [
        (UsageError, "Unknown target 'cpuu'. Did you mean 'cpu'", {"target": "cpuu"}),
        (UsageError, "Unknown budget key 'speed'", {"budget": {"speed": 1}}),
        (
            UsageError,
            "Unknown method 'statik'. Did you mean 'static'",
            {"target": small.target(tmp_path / "a.toml", methods=("statik",))},
        ),
        (
            UsageError,
            "Unknown backend 'openvin'. Did you mean 'openvino'",
            {"target": small.target(tmp_path / "b.toml", backends=("openvin",))},
        ),
        (
            UsageError,
            "has no candidate",
            {"target": small.target(tmp_path / "c.toml", methods=("dynamic",), backends=("openvino",))},
        ),
        (
            UsageError,
            "has no candidate",
            {"target": small.target(tmp_path / "d.toml", methods=(), backends=("openvino",))},
        ),
        (UsageError, "has no candidate", {"target": small.target(tmp_path / "e.toml", backends=())}),
        (
            BackendError,
            "runs on the device .cpu. only",
            {"target": small.target(tmp_path / "f.toml", extra='device = "gpu"')},
        ),
        (UsageError, "is not a bundle", {"out": tmp_path / "place" / "mine", "force": True}),
        (UsageError, "exists", {"out": tmp_path / "place" / "mine"}),
        (SamplesError, "does not exist", {"samples": tmp_path / "none.jsonl"}),
        (SamplesError, "does not exist", {"eval": tmp_path / "none.jsonl"}),
        (SamplesError, "has 15 rows. The method 'static' of target 'cpu' needs at least 16", {"samples": few}),
        (SamplesError, "has 15 rows. The method 'static'", {"calibration_rows": 15}),
        (UsageError, "0 rows", {"calibration_rows": 0, "target": exact}),
        (SamplesError, "row 1 has no label", {"eval": few}),
        (SamplesError, "no column 'gold'", {"columns": {"label": "gold"}}),
        (edgekit.ModelError, "does not exist", {"model": tmp_path / "no" / "model"}),
    ]
    for error, said, options in cases:
        with pytest.raises(error, match=said):
            build(**options, progress=lambda step, *_: pytest.fail(f"work began: {step}"))
    assert left(tmp_path / "place") == ["mine"]


def test_a_label_that_the_model_does_not_know(build, tiny_samples, tmp_path):
    rows = [dict(r) for r in tiny_samples.rows[:20]]
    rows[7] = {"text": f"a text with {small.CANARY}", "label": "positiv"}
    with refused("samples-label", "row 8", "positiv", "positive") as caught:
        build(eval=small.write_jsonl(tmp_path / "bad.jsonl", rows))
    assert small.CANARY not in "".join(traceback.format_exception(caught.value))
    assert left(tmp_path / "place") == []


@pytest.mark.system
def test_a_full_disk_at_the_end(build, filled_cache):
    with small.tiny_disk("64k") as disk:
        with refused("disk-full"):
            build(out=disk / "out")
        assert left(disk) == []


def test_a_place_that_cannot_be_written(build, tmp_path):
    (tmp_path / "file").write_text("x")
    with refused("output-not-writable"):
        build(out=tmp_path / "file" / "out")


# ---- stopped in the middle


@contextlib.contextmanager
def started(tmp_path, tiny_model, train, dev, *options, **environment):
    (tmp_path / "place").mkdir(exist_ok=True)
    (tmp_path / "temporary").mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "build",
        tiny_model,
        "--samples",
        train,
        "--eval",
        dev,
        "-o",
        tmp_path / "place" / "out",
        *options,
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), **environment}
    with small.started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        yield child


def wait_for(child, condition, seconds=90):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert child.poll() is None, f"it ended by itself: {child.communicate()}"
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def children(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return []


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_stopped_while_it_exports(tiny_model, tiny_samples, tmp_path, number, code):
    cache = tmp_path / "cache"
    with started(tmp_path, tiny_model, tiny_samples.train, tiny_samples.dev, EDGEKIT_CACHE=str(cache)) as child:
        wait_for(child, lambda: list(cache.glob(".new-*/assets/task.json")))
        time.sleep(0.3)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    # An interrupt that passes through exec() of a text, as torch has, ends CPython by the signal itself: 130 in a shell too.
    ends = (code, -number) if number == signal.SIGINT else (code,)
    assert child.returncode in ends, err.decode()
    assert out == b""
    assert b"Traceback" not in err
    # A library may have swallowed the signal's exception until its step was whole: whole entries may stay, parts of one never.
    assert (
        left(tmp_path / "place")
        == [n for n in left(cache) if n.startswith(".new-")]
        == ours_in(tmp_path / "temporary")
        == []
    )
    assert all((cache / name / "entry.json").is_file() for name in left(cache))
    if number == signal.SIGINT:
        assert small.without_steps(err.decode()) == "edgekit: interrupted; nothing was left behind.\n"


@pytest.mark.system
def test_stopped_while_it_races(filled_cache, tiny_model, tiny_samples, tmp_path):
    target = small.target(tmp_path / "exact.toml")
    dev = small.write_jsonl(tmp_path / "other-dev.jsonl", tiny_samples.rows[:40])
    with started(tmp_path, tiny_model, tiny_samples.train, dev, "--target", target) as child:
        workers = wait_for(child, lambda: children(child.pid))
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert small.without_steps(err.decode()) == "edgekit: interrupted; nothing was left behind.\n"
    assert left(tmp_path / "place") == ours_in(tmp_path / "temporary") == []
    assert [n for n in left(filled_cache) if n.startswith(".new-")] == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


# ---- privacy


def everything_in(file):
    """The bytes of a file, and of what is packed in it."""
    data = file.read_bytes()
    yield data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield archive.read(name)


def holds_canary(data: bytes) -> bool:
    return any(small.CANARY.encode(code) in data for code in ("utf-8", "utf-16-le", "utf-32-le"))


def test_the_canary_is_where_it_can_be_found(tiny_samples):
    assert holds_canary(tiny_samples.train.read_bytes())
    assert holds_canary(tiny_samples.dev.read_bytes())
    assert any(holds_canary(data) for data in everything_in(tiny_samples.dev))


def test_no_text_of_the_samples_is_in_any_output(tiny_build, by_command):
    folder, _, done, _ = by_command
    assert not holds_canary(done.stdout + done.stderr + tiny_build.output)
    searched = 0
    for place in (tiny_build.path, tiny_build.cache, folder / "out", folder / "cache", folder / "temporary"):
        for file in place.rglob("*"):
            assert not holds_canary(str(file).encode())
            if file.is_file():
                searched += 1
                assert not any(holds_canary(data) for data in everything_in(file)), file
    assert searched > 20


def test_no_token_ids_of_the_samples_are_in_any_output(tiny_build, tiny_samples):
    """Ids can be turned back into text."""
    encode = small.tokenizer()
    rows = [json.loads(line)["text"] for line in tiny_samples.train.read_text().splitlines()][:10] + [
        r["text"] for r in tiny_samples.rows[:10]
    ]
    for text in rows:
        ids = encode(text, truncation=True)["input_ids"]
        raw = [np.array(ids[:12], kind).tobytes() for kind in (np.int64, np.int32)] + [str(ids[:12])[1:-1].encode()]
        for place in (tiny_build.path, tiny_build.cache):
            for file in place.rglob("*"):
                if file.is_file():
                    assert not any(part in data for data in everything_in(file) for part in raw), file


BAD_ROWS = {
    "bad label": ("d.jsonl", '{{"text": "{canary}", "label": "nobody knows"}}\n'),
    "no label": ("d.jsonl", '{{"text": "{canary}"}}\n'),
    "number for a pair": ("d.jsonl", '{{"text": "{canary}", "text_pair": 3, "label": 0}}\n'),
    "bad JSON": ("d.jsonl", '{{"text": "{canary}", "label": 0\n'),
    "a JSON string": ("d.jsonl", '"{canary}"\n'),
    "surrogate": ("d.jsonl", '{{"text": "{canary} \\ud800", "label": 0}}\n'),
    "not UTF-8": ("d.jsonl", '{{"text": "{canary} \xe9", "label": 0}}\n'),
    "cells": ("d.csv", "text,label\n{canary}, and more,0\n"),
    "bad CSV": ("d.csv", 'text,label\n"{canary}" x,0\n'),
    "no cell": ("d.csv", "label,text,text_pair\n0,{canary}\n"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_nor_in_an_error(build, tmp_path, name):
    file, text = BAD_ROWS[name]
    (tmp_path / file).write_bytes(text.format(canary=small.CANARY).encode("latin-1"))
    with pytest.raises((SamplesError, InputError)) as caught:
        build(eval=tmp_path / file)
    assert file in str(caught.value)
    assert small.CANARY not in "".join(traceback.format_exception(caught.value))
