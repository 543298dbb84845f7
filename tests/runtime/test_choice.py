"""Bundles that race on the device: engines are made, compared with the golden answers and timed; what does not serve is told and left out."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import small
from board import Board
from fake_cuda import FakeDriver
from refusals import refused

import edgekit
from edgekit import BuildError, IntegrityError, backends
from edgekit.backends import _trt_device
from edgekit.bundle import trust
from edgekit.bundle.keys import make_keys
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import open_bundle
from edgekit.engines.engine_cache import EngineCache
from edgekit.runtime import choice, golden
from edgekit.runtime.compile import compile_bundle, explain

STATIC, HALF = "static_float16 on tensorrt", "float16 on tensorrt"
TEXTS = small.texts(6, seed=8)
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Our private key, our public key, and the public key of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    return folder / "ours", make_keys(folder / "ours"), make_keys(folder / "theirs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Of a device that has loaded nothing yet. Races are short ones."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "_ROUNDS", 2)
    return tmp_path / "cache"


@pytest.fixture
def changed(jetson, tmp_path):
    """A copy of the bundle with other recipes, and golden rows up to a length."""

    def call(longest=64, **recipe):
        bundle = small.copy(jetson, tmp_path / "changed")
        manifest = open_bundle(bundle).manifest
        stored = golden.read(open_bundle(bundle))
        kept = [i for i, row in enumerate(stored.rows) if len(row["input_ids"]) <= longest]
        rows, *outputs, reference = (
            [part[i] for i in kept] for part in (stored.rows, *stored.outputs, stored.reference)
        )
        packed = golden.pack(manifest.signatures[0], rows, outputs, reference)
        (bundle / golden.FILE).write_bytes(packed)
        variants = json.loads((bundle / "manifest.json").read_text())["variants"]
        small.sign(bundle, variants=[{**v, "engine": {**v["engine"], **recipe}} for v in variants])
        return bundle

    return call


def wrong_goldens(bundle, index):
    """What a variant is to answer is changed, so that its engine answers otherwise."""
    stored = golden.read(open_bundle(bundle))
    stored.outputs[index] = small.named(small.column(stored.outputs[index]) + 10)
    (bundle / golden.FILE).write_bytes(
        golden.pack(open_bundle(bundle).manifest.signatures[0], stored.rows, stored.outputs, None)
    )
    small.sign(bundle)
    return bundle


def records(cache):
    return sorted((cache / "races").glob("*.json"))


def answers_like(session, bundle, index):
    """As ONNX Runtime answered with that variant's graph where the bundle was built."""
    stored = golden.read(open_bundle(bundle))
    expected = small.column(stored.outputs[index])
    np.testing.assert_allclose(small.column(session.run_rows(stored.rows)), expected, atol=0.02 * np.ptp(expected))


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# ---- the first load, and later ones


@pytest.mark.parametrize(("slow", "winner"), [("int8", 1), ("half", 0)])
def test_the_faster_engine_runs(jetson, board, cache, slow, winner):
    board.fake.slow_ms = {slow: 3}
    with edgekit.load(jetson) as session:
        assert session.info.method == ("static_float16", "float16")[winner]
        chosen = session.info.chosen
        answers_like(session, jetson, winner)
        assert session.info.engine.startswith("engine compiled here in ")
        assert (session.info.backend, session.info.backend_version, session.info.threads) == ("tensorrt", "10.3.0", 1)
    said = chosen.removeprefix("it won the race at this load: ")
    times = dict(re.findall(r"(\S+ on tensorrt) ([\d.]+) ms", said))
    assert list(times) == [STATIC, HALF]
    slower, faster = float(times[(HALF, STATIC)[winner]]), float(times[(STATIC, HALF)[winner]])
    assert slower > 16 * 3 > 0, "each golden row took 3 ms more"
    assert faster < slower
    assert board.fake.builds == 2
    assert len(records(cache)) == 1


def test_a_later_load_takes_what_was_made_and_does_not_race(jetson, board):
    board.fake.slow_ms = {"half": 2}
    edgekit.load(jetson).close()
    board.fake.slow_ms = {"int8": 2}
    before = board.fake.executions
    with edgekit.load(jetson) as session:
        assert session.info.method == "static_float16"
        assert session.info.chosen.startswith(f"it won the race at the first load here: {STATIC} ")
        assert session.info.engine.startswith("engine from the cache, compiled here in ")
        assert board.fake.executions == before, "nothing was computed"
        session(TEXTS[0])
    assert board.fake.builds == 2


def test_a_list_and_single_texts_are_answered_alike(jetson, board, tiny_module):
    board.fake.slow_ms = {"int8": 2}
    with edgekit.load(jetson) as session:
        texts = small.texts(20, seed=4)
        assert [a.label for a in session(texts)] == [session(t).label for t in texts]
        np.testing.assert_allclose(
            small.logits(session, texts, batched=True), small.torch_logits(tiny_module, texts), atol=0.05
        )


def test_another_version_races_again(jetson, cache, monkeypatch):
    for version in ("10.3.0", "10.16.1", "10.3.0"):
        board = Board(monkeypatch, version)
        with edgekit.load(jetson) as session:
            assert session.info.backend_version == importlib.metadata.version("tensorrt")
    assert board.fake.builds == 0, "the engines of the first are still there"
    assert len(records(cache)) == 2


def test_the_backend_that_is_asked_for(jetson, board):
    with edgekit.load(jetson, backend="tensorrt") as session:
        assert session.info.chosen.startswith("it won the race at this load: ")
    with refused("backend-not-in-bundle", "tensorrt_rtx", "tensorrt"):
        edgekit.load(jetson, backend="tensorrt_rtx")


def test_two_that_load_at_once_make_each_engine_once(jetson, board):
    board.fake.slow_ms = {"int8": 3}  # so that both come to the same
    ready, found = threading.Barrier(2, timeout=30), []

    def run():
        ready.wait()
        with edgekit.load(jetson) as session:
            found.append([a.label for a in session(TEXTS)])

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2
    assert found[0] == found[1]
    assert board.fake.builds == 2


def test_progress_is_told_and_may_end_the_load(jetson, board, cache):
    told = []
    edgekit.load(jetson, progress=lambda *step: told.append(step)).close()
    steps = [step for step, _, _ in told]
    assert "TensorRT builds the engine" in steps
    assert told[-1] == ("race on the golden inputs", 3, 3)
    shutil.rmtree(cache)

    def stops(step, *_):
        if step == "race on the golden inputs":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edgekit.load(jetson, progress=stops)
    assert records(cache) == []


# ---- variants that do not serve


def test_an_engine_that_answers_wrongly_does_not_run(jetson, monkeypatch, cache):
    board = Board(monkeypatch, wrong=5)
    for beginning in ("it won the race at this load: ", "it won the race at the first load here: "):
        with edgekit.load(jetson) as session:
            assert session.info.method == "float16"
            assert session.info.chosen.startswith(f"{beginning}{HALF} ")
            words = rf"; {STATIC} cannot run here: its outputs for the golden inputs differ by ([\d.]+) of their range, expected at most 0.05$"
            reason = re.search(words, session.info.chosen)
            answers_like(session, jetson, 1)
    assert float(reason[1]) == pytest.approx(
        5 / np.ptp(small.column(golden.read(open_bundle(jetson)).outputs[0])), rel=0.05
    )
    assert not board.leaks()


def test_none_runs_when_all_answer_wrongly(jetson, board, tmp_path, cache):
    board.fake.wrong = 5
    bundle = wrong_goldens(small.copy(jetson, tmp_path / "copy"), 1)
    for _ in range(2):
        with refused("no-variant") as caught:
            edgekit.load(bundle)
        reasons = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
        assert [line.partition(" differ ")[0] for line in reasons] == [
            f"  {name} cannot run here: its outputs for the golden inputs" for name in (STATIC, HALF)
        ]
    assert records(cache) == []
    assert board.fake.builds == 2, "they are looked at anew, and not made anew"


def test_a_graph_that_tensorrt_cannot_build(jetson, board, monkeypatch):
    real = _trt_device.build

    def build(trt, graph, *arguments, **named):
        board.fake.build_returns_none = graph.name == "model.onnx"
        return real(trt, graph, *arguments, **named)

    monkeypatch.setattr(_trt_device, "build", build)
    with edgekit.load(jetson) as session:
        assert session.info.method == "float16"
        said = session.info.chosen
    assert (
        f"{STATIC} cannot run here: TensorRT 10.3.0 could not build an engine from model.onnx. Its messages:\n" in said
    )
    assert "Could not find any implementation for node" in said
    assert "workspace_mb" in said


def test_what_fails_for_all_is_said_once(jetson, board):
    board.fake.build_returns_none = True
    with refused("no-variant") as caught:
        edgekit.load(jetson)
    assert caught.value.exit_code == 1
    text = str(caught.value)
    assert f"  {STATIC} cannot run here: TensorRT 10.3.0 could not build an engine from model.onnx" in text
    assert f"  {HALF} cannot run here: TensorRT 10.3.0 could not build an engine from float16-model.onnx" in text
    assert text.count("Could not find any implementation") == 2


def test_an_engine_for_which_memory_does_not_suffice(jetson, board):
    """It is loaded, and cannot run: the other one can."""
    board.driver.fail("cuMemHostAlloc", OUT_OF_MEMORY)
    with edgekit.load(jetson) as session:
        assert session.info.method == "float16"
        assert f"; {STATIC} cannot run here: " in session.info.chosen
        assert "CUDA_ERROR_OUT_OF_MEMORY" in session.info.chosen
        answers_like(session, jetson, 1)


def test_a_machine_without_a_driver(jetson):
    if _trt_device.probe() is None:
        pytest.skip("this machine has an NVIDIA GPU")
    with refused("no-variant", f"{STATIC}", f"{HALF}", "NVIDIA") as caught:
        edgekit.load(jetson)
    assert caught.value.exit_code == 1
    assert "Install the driver" in str(caught.value) or "Check that nvidia-smi" in str(caught.value)


def test_a_machine_without_tensorrt(jetson, monkeypatch):
    monkeypatch.setattr(_trt_device, "probe", lambda: None)
    if backends.installed_version("tensorrt") is not None:
        pytest.skip("this machine has TensorRT")
    with refused("no-variant", "edgekit-sdk[tensorrt]"):
        edgekit.load(jetson)


def test_a_chip_that_the_bundle_is_not_for(jetson, monkeypatch):
    board = Board(monkeypatch, driver=FakeDriver())
    with refused("no-variant", f"{STATIC}", f"{HALF}", "8.7", "8.9"):
        edgekit.load(jetson)
    assert not board.leaks()


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"minimum": "10.13"}, "The bundle needs TensorRT 10.13 or newer; 10.3.0 is installed."),
        (
            {"workspace_mb": 20000, "memory_mb": 32768},
            "The bundle asks for a workspace of 20000 MiB, but the device has 16384 MiB.",
        ),
    ],
    ids=["old TensorRT", "small device"],
)
def test_a_recipe_that_this_device_cannot_follow(changed, board, recipe, said):
    with refused("no-variant") as caught:
        edgekit.load(changed(**recipe))
    assert f"{STATIC} and {HALF} cannot run here: {said}" in str(caught.value)


# ---- what a profile does not hold


def test_a_row_that_is_longer_than_the_profile(changed, board):
    bundle = changed(longest=32, profiles=[{"batch": [1, 1, 8], "sequence": [1, 16, 32]}])
    with edgekit.load(bundle) as session:
        assert session("film " * 20).label in small.LABELS
        with refused("input-outside-profiles", "sequence", "42", "1", "32"):
            session("film " * 40)
        assert session("film").label in small.LABELS, "the session goes on"


def test_more_rows_than_the_profile_holds(jetson, board):
    with edgekit.load(jetson) as session:
        assert session.info.batch == 8
        assert len(session(["film"] * 20)) == 20
        with refused("input-outside-profiles", "batch", "9", "batch 1", "8"):
            session.run(session.example_feeds(9, 4))


# ---- an engine that no race saw


@pytest.mark.slow
def test_a_lost_engine_is_made_again_for_the_one_that_won(jetson, board, cache):
    board.fake.slow_ms = {"half": 2}
    edgekit.load(jetson).close()
    shutil.rmtree(cache / "engines")
    with edgekit.load(jetson) as session:
        assert session.info.chosen.startswith("it won the race at the first load here: ")
        assert session.info.engine.startswith("engine compiled here in ")
        answers_like(session, jetson, 0)
    assert board.fake.builds == 3


@pytest.mark.slow
def test_an_engine_that_is_made_again_is_looked_at_again(jetson, board, cache, caplog):
    board.fake.slow_ms = {"half": 2}
    edgekit.load(jetson).close()
    shutil.rmtree(cache / "engines")
    board.fake.wrong = 5
    for _ in range(2):
        with refused("engine-self-test", "BUNDLE"):
            edgekit.load(jetson)
        kept = [json.loads(file.read_text("utf-8"))["parts"] for file in EngineCache().root.glob("*.json")]
        assert [list(parts) for parts in kept] == [["timings of"]], "nobody finds it at the next load"
    assert "was removed" in warnings(caplog)[0]
    assert compile_bundle(jetson).chosen == HALF
    with edgekit.load(jetson) as session:
        assert session.info.method == "float16"


@pytest.fixture(params=["full disk", "no folder", "refused"])
def no_room(request, tmp_path, monkeypatch):
    """A cache that takes no engine."""
    if request.param == "full disk":
        with small.tiny_disk("64k") as disk:
            monkeypatch.setenv("EDGEKIT_CACHE", str(disk))
            yield request.param
        return
    if request.param == "no folder":
        (tmp_path / "file").write_text("x")
        monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "cache"))
    else:

        def store(*_):
            raise BuildError("there is no room")

        monkeypatch.setattr(EngineCache, "store", store)
    yield request.param


def test_a_load_works_where_nothing_can_be_kept(jetson, board, no_room, caplog):
    with edgekit.load(jetson) as session:
        answers_like(session, jetson, session.variant_index)
        assert session.info.engine.startswith("engine compiled here in ")
        assert session.info.chosen.endswith(
            "; the cache folder is not writable, or others may write it, so every load races"
        ) == (no_room == "no folder")
    assert any(line.startswith("The engine runs but could not be cached: ") for line in warnings(caplog))
    with pytest.raises(BuildError):
        compile_bundle(jetson)


# ---- engines that the bundle brings


@pytest.fixture
def ada(monkeypatch):
    """A PC with TensorRT-RTX."""
    made = Board(monkeypatch, driver=FakeDriver(), rtx=True)
    yield made
    assert not made.leaks()


@pytest.fixture(scope="module")
def signed_once(rtx, keys, tmp_path_factory):
    """The bundle with plans that this machine can load in place of those for a GPU, signed by us."""
    bundle = small.copy(rtx, tmp_path_factory.mktemp("signed") / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(bundle.parent / "cache"))
        Board(patch, driver=FakeDriver(), rtx=True)
        for run in compile_bundle(bundle).runs:
            (bundle / run.variant.engines["forward"]).write_bytes(EngineCache().find(run.compilation.key))
    small.sign(bundle)
    trust.sign(bundle, keys[0])
    return bundle


@pytest.fixture
def signed(signed_once, tmp_path):
    return small.copy(signed_once, tmp_path / "signed")


def assert_refused(bundle, **how):
    with pytest.raises(IntegrityError) as caught:
        edgekit.load(bundle, **how)
    assert caught.value.exit_code == 5
    return str(caught.value)


def test_an_engine_of_nobody_is_not_loaded(rtx, ada):
    said = assert_refused(rtx)
    assert "no key that you trust signed it" in said
    assert "load(..., trust=Trust(keys=[...]))" in said
    assert "edgekit compile BUNDLE" in said
    assert ada.fake.builds == 0


def test_a_signature_that_nobody_asked_for_is_no_trust(signed, ada):
    assert "no key that you trust signed it" in assert_refused(signed)


def test_engines_that_a_trusted_key_signed_race_and_run(signed, ada, keys):
    for _ in range(2):
        with edgekit.load(signed, trust=Trust([keys[1]])) as session:
            assert session.info.engine.startswith("engine of the bundle, signed by a trusted key (")
            answers_like(session, signed, session.variant_index)
    assert ada.fake.builds == 0
    assert not [*EngineCache().root.glob("*.plan")]


def test_another_key_is_no_trust(signed, ada, keys):
    assert str(keys[2]) in assert_refused(signed, trust=Trust([keys[2]]))


def test_an_engine_that_was_exchanged(signed, ada, keys):
    (signed / "engines/float16-forward.plan").write_bytes(b"native code of somebody else")
    assert "float16-forward.plan" in assert_refused(signed, trust=Trust([keys[1]]))
    small.sign(signed)  # a manifest that goes with it is not the one that was signed
    assert "The signature of" in assert_refused(signed, trust=Trust([keys[1]]))


def test_an_engine_that_is_exchanged_while_the_bundle_is_opened(signed, ada, keys, monkeypatch):
    real = EngineCache.find

    def find(self, key):  # is asked after the bundle was checked
        (signed / "engines/float16-forward.plan").write_bytes(b"native code of somebody else")
        return real(self, key)

    monkeypatch.setattr(EngineCache, "find", find)
    assert "float16-forward.plan has 28 bytes, expected " in assert_refused(signed, trust=Trust([keys[1]]))


def test_who_compiles_needs_no_key(rtx, ada):
    """What this device makes is its own."""
    result = compile_bundle(rtx)
    assert [r.compilation.source for r in result.runs] == ["made here"] * 2
    with edgekit.load(rtx) as session:
        assert session.info.engine.startswith("engine from the cache, compiled here in ")
        answers_like(session, rtx, session.variant_index)
    assert ada.fake.builds == 2


def test_engines_for_another_version_are_made_here(signed, keys, monkeypatch):
    """As TensorRT-RTX asks for after an upgrade; the remedy that is told is one."""
    board = Board(monkeypatch, "10.16.1", FakeDriver(), rtx=True)
    who = Trust([keys[1]])
    with refused("no-variant", "10.16.1", "10.3.0", "BUNDLE"):
        edgekit.load(signed, trust=who)
    compile_bundle(signed, trust=who)
    with edgekit.load(signed, trust=who) as session:
        assert session.info.engine.startswith("engine from the cache, compiled here in ")
    assert not board.leaks()


# ---- compile


def test_what_a_compilation_tells(jetson, board):
    board.fake.slow_ms = {"int8": 2}
    result = compile_bundle(jetson)
    assert (result.bundle, result.chosen) == (str(jetson), HALF)
    assert [(r.variant.method, r.refused, r.compilation.source, r.golden.passed) for r in result.runs] == [
        (m, "", "made here", True) for m in ("static_float16", "float16")
    ]
    assert [r.executed.partition(" ")[0] for r in result.runs] == ["int8", "float16"], "as the engines tell it"
    assert result.runs[0].ms > result.runs[1].ms > 0
    assert (result.device["device"], result.device["compute_capability"], result.device["version"]) == (
        "Orin",
        "8.7",
        "10.3.0",
    )
    record = json.loads(json.dumps(result.record()))
    assert set(record) == {"bundle", "chosen", "reason", "device", "variants"}
    assert [v["compilation"]["source"] for v in record["variants"]] == ["made here"] * 2
    first, *lines, last = result.text().splitlines()
    assert first.startswith("device: library tensorrt, version 10.3.0, ")
    assert re.fullmatch(
        rf"{STATIC}: engine compiled here in [\d.]+ s \([\d.]+ MB\); executed in int8.*; "
        r"golden inputs differ by [\d.e-]+ of the output range, \d+ label\(s\) changed; "
        r"[\d.]+ ms for all golden inputs",
        lines[0],
    )
    assert last.startswith(f"runs from now on: {HALF}, it won the race at this load: ")


def test_what_was_compiled_is_what_a_load_takes(jetson, board):
    result = compile_bundle(jetson)
    with edgekit.load(jetson) as session:
        assert f"{session.info.method} on {session.info.backend}" == result.chosen
        assert session.info.chosen.startswith("it won the race at the first load here: ")
    assert board.fake.builds == 2


def test_a_compilation_takes_what_is_there_unless_forced(jetson, board):
    edgekit.load(jetson).close()
    assert [r.compilation.source for r in compile_bundle(jetson).runs] == ["cache"] * 2
    assert [r.compilation.source for r in compile_bundle(jetson, force=True).runs] == ["made here"] * 2
    assert board.fake.builds == 4


@pytest.mark.slow
def test_a_compilation_races_again(jetson, board):
    board.fake.slow_ms = {"int8": 3}
    assert compile_bundle(jetson).chosen == HALF
    board.fake.slow_ms = {"half": 3}
    assert compile_bundle(jetson).chosen == STATIC
    with edgekit.load(jetson) as session:
        assert session.info.method == "static_float16"


def test_a_variant_that_does_not_serve_is_told(jetson, monkeypatch):
    Board(monkeypatch, wrong=5)
    result = compile_bundle(jetson)
    refused_one = result.runs[0]
    assert (refused_one.refused[:11], refused_one.ms) == ("its outputs", 0)
    assert f"{STATIC}: engine compiled here in " in result.text()
    assert "; cannot run here: its outputs for the golden inputs differ by" in result.text()


def test_answers_that_are_no_numbers(jetson, monkeypatch):
    """As float16 gives where it overflows. JSON has no word for them."""
    Board(monkeypatch, wrong=float("nan"))
    result = compile_bundle(jetson)
    assert result.chosen == HALF
    assert "inf of their range" in result.runs[0].refused
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    assert [v["golden"]["difference"] is None for v in record["variants"]] == [True, False]


def for_the_cpu(bundle, place, count, **changes):
    """The bundle with its float16 graph, which ONNX Runtime runs too."""
    made = small.copy(bundle, place)
    half = json.loads((made / "manifest.json").read_text())["variants"][1]
    cpu = {**half, "backend": "onnxruntime", "device": "cpu", "engine": None}
    stored = golden.read(open_bundle(bundle))
    packed = golden.pack(
        open_bundle(bundle).manifest.signatures[0], stored.rows, [stored.outputs[1]] * count, stored.reference
    )
    (made / golden.FILE).write_bytes(packed)
    small.sign(made, variants=[cpu, {**cpu, "threads": 2}][:count], **changes)
    return made


def test_a_bundle_for_the_cpu_has_nothing_to_compile(jetson, tmp_path, cache):
    result = compile_bundle(for_the_cpu(jetson, tmp_path / "cpu", 1, choose_on="host"))
    assert (result.chosen, result.runs, result.device) == ("float16 on onnxruntime", (), {})
    assert (
        result.text()
        == "runs from now on: float16 on onnxruntime, it won the race where the bundle was built, and runs the graph itself"
    )
    assert not cache.exists()


def test_a_bundle_that_a_load_refuses_is_no_success(jetson, tmp_path, monkeypatch):
    made = for_the_cpu(jetson, tmp_path / "cpu", 1, choose_on="host")
    (variant,) = json.loads((made / "manifest.json").read_text())["variants"]
    small.sign(made, variants=[{**variant, "requires": {"instructions": "vnni"}}])
    monkeypatch.setattr(choice, "cpu_instructions", lambda: ("avx2",))
    for call in (compile_bundle, edgekit.load):
        with refused("cpu-saturates"):
            call(made)


def test_a_bundle_for_the_cpu_that_races_on_the_device(jetson, tmp_path, cache):
    result = compile_bundle(for_the_cpu(jetson, tmp_path / "cpu", 2))
    assert [(r.refused, r.compilation, r.golden.passed) for r in result.runs] == [("", None, True)] * 2
    assert re.search(
        r"float16 on onnxruntime: golden inputs differ by \S+ of the output range, 0 label\(s\) changed; [\d.]+ ms for all golden inputs",
        result.text(),
    )
    assert len(records(cache)) == 2, "of the race, and of the graph, which another backend was to run"


def test_a_gpu_that_is_missing_leaves_the_cpu(jetson, board, tmp_path, monkeypatch):
    """A bundle for both: what cannot run is told, and the one that can is not raced against nobody."""
    made = small.copy(jetson, tmp_path / "both")
    gpu = json.loads((made / "manifest.json").read_text())["variants"][1]
    small.sign(made, variants=[gpu, {**gpu, "backend": "onnxruntime", "device": "cpu", "engine": None}])
    monkeypatch.setattr(_trt_device, "probe", lambda: "There is none.")
    with edgekit.load(made) as session:
        assert session.info.backend == "onnxruntime"
        assert session.info.engine == ""
        assert session.info.chosen.startswith(
            f"it is the only variant that can run here ({HALF} cannot run here: TensorRT needs an NVIDIA GPU with its driver. There is none.); "
            "golden inputs compared at this load, the first here: "
        )


# ---- what a compilation would do


def test_an_explanation_makes_nothing(jetson, board, cache):
    said = explain(jetson)
    named = "Orin, compute capability 8.7, TensorRT 10.3.0"
    assert said.count(f"here: {named}: the engine would be compiled") == 2
    assert "  profiles: batch 1-8, sequence 1-64\n" in said
    assert "  workspace: 512 MiB; optimization level 3\n" in said
    assert "  for compute capability 8.7, TensorRT 10.3 or newer; strongly typed" in said
    lines = [line.removeprefix("  like: ") for line in said.splitlines() if line.startswith("  like: ")]
    assert lines == (jetson / "trtexec.txt").read_text().splitlines()[1:]
    assert board.fake.builds == 0
    assert not cache.exists()
    compile_bundle(jetson)
    assert explain_words(jetson).count(f"here: {named}: the cache has the engine ") == 2
    assert (
        explain_words(jetson, force=True).count(f"here: {named}: the cache has the engine, it would be compiled again")
        == 2
    )
    assert board.fake.builds == 2


def explain_words(bundle, **options):
    """The words of an explanation, whose lines are wrapped."""
    return " ".join(explain(bundle, **options).split())


def test_an_explanation_tells_what_is_in_the_way(jetson, changed, monkeypatch):
    if _trt_device.probe() is not None:
        assert (
            explain_words(jetson).count("here: cannot be compiled: TensorRT needs an NVIDIA GPU with its driver. ") == 2
        )
    Board(monkeypatch, driver=FakeDriver())
    assert (
        explain_words(jetson).count(
            "here: cannot be compiled: The bundle is for compute capability 8.7, but this device"
        )
        == 2
    )
    board = Board(monkeypatch)
    assert (
        explain_words(changed(minimum="10.13")).count(
            "here: cannot be compiled: The bundle needs TensorRT 10.13 or newer"
        )
        == 2
    )
    assert not board.leaks()


def test_an_explanation_of_engines_that_the_bundle_brings(signed, ada, keys):
    said = explain(signed)
    assert (
        said.count(
            "  engine: in the bundle, compiled ahead of time; loaded only with a trusted key, or compiled here\n"
        )
        == 2
    )
    assert "  for compute capability 7.5, 8.6, 8.9, 12.0, TensorRT-RTX; strongly typed" in said
    assert "trtexec" not in said, "it is TensorRT's"
    assert (
        said.count(
            "  here: NVIDIA GeForce RTX 4060, compute capability 8.9, TensorRT-RTX 10.3.0: the engine would be compiled\n"
        )
        == 2
    )
    said = explain(signed, trust=Trust([keys[1]]))
    assert said.count("  engine: in the bundle, compiled ahead of time; the bundle is signed by a trusted key\n") == 2


def test_an_explanation_of_a_bundle_for_the_cpu(jetson, tmp_path):
    said = explain(for_the_cpu(jetson, tmp_path / "cpu", 1, choose_on="host"))
    assert said.splitlines()[2:] == [
        "float16 on onnxruntime: graph graphs/float16-model.onnx",
        "  runs the graph itself; nothing is compiled",
    ]


def test_threads_are_calls_at_the_same_time(jetson, board, monkeypatch):
    """Each has a stream with contexts of its own; by default there is one."""
    for threads, streams in ((None, 1), (3, 3)):
        with edgekit.load(jetson, threads=threads) as session:
            assert session._device.streams == streams
            with ThreadPoolExecutor(3) as pool:
                answers = list(pool.map(session, ["a fine film"] * 12))
            assert len({answer.score for answer in answers}) == 1
