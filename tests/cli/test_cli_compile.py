"""``edgekit compile``: what it prints, and its exit codes."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
from types import SimpleNamespace

import pytest
import small
from board import Board

import edgekit
from edgekit.backends import _trt_device
from edgekit.bundle import trust
from edgekit.bundle.keys import make_keys
from edgekit.cli import main
from edgekit.engines.engine_cache import EngineCache
from edgekit.runtime import choice


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Our private key, our public key, and the public key of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    return folder / "ours", make_keys(folder / "ours"), make_keys(folder / "theirs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Of a device that has made nothing yet. Races are short ones."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "_ROUNDS", 2)
    return tmp_path / "cache"


@pytest.fixture
def compile_(monkeypatch, capsys):
    """Runs ``edgekit compile`` in this process: code, standard output, standard error."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgekit", "compile", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(), "utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert small.plain_words(said.out) == said.out
        words = " ".join(said.out.split())  # however its lines are wrapped
        return SimpleNamespace(code=ended.value.code or 0, out=said.out, err=small.without_steps(said.err), words=words)

    yield call
    signal.signal(signal.SIGTERM, before)


def fine(said):
    assert (said.code, said.err) == (0, "")
    return said.out


def unwrapped(text):
    """Lines as they are before they are wrapped: further lines of one are indented."""
    lines = []
    for line in text.splitlines():
        if line.startswith("  "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return lines


def test_engines_are_made_and_the_faster_is_kept(compile_, jetson, board):
    board.fake.slow_ms = {"half": 3}
    device, static, half, last = unwrapped(fine(compile_(jetson)))
    assert device.startswith("device: library tensorrt, version 10.3.0, driver ")
    assert "compute_capability 8.7, device Orin, " in device
    for line, method in ((static, "static_float16"), (half, "float16")):
        assert line.startswith(f"{method} on tensorrt: engine compiled here in ")
        assert line.endswith(" ms for all golden inputs")
    assert last.startswith("runs from now on: static_float16 on tensorrt, it won the race at this load: ")
    with edgekit.load(jetson) as session:
        assert session.info.method == "static_float16"
    assert board.fake.builds == 2


def test_as_json(compile_, jetson, board):
    said = json.loads(fine(compile_(jetson, "--json")))
    assert set(said) == {"bundle", "chosen", "reason", "device", "variants"}
    assert said["bundle"] == str(jetson)
    assert said["device"]["compute_capability"] == "8.7"
    assert [v["method"] for v in said["variants"]] == ["static_float16", "float16"]
    for variant in said["variants"]:
        assert set(variant) == {"method", "backend", "refused", "compilation", "golden", "executed", "ms"}
        assert variant["compilation"].keys() == {"source", "key", "seconds", "size_mb"}
        assert variant["golden"].keys() == {"rows", "difference", "flips", "distance", "off", "decisive", "lost"}
        assert (variant["refused"], variant["compilation"]["source"], variant["golden"]["rows"]) == (
            "",
            "made here",
            17,
        )
        assert EngineCache().find(variant["compilation"]["key"]) is not None
    fastest = min(said["variants"], key=lambda v: v["ms"])
    assert said["chosen"] == f"{fastest['method']} on {fastest['backend']}"


def test_made_anew_only_when_forced(compile_, jetson, board):
    sources = []
    for options in ((), (), ("--force",)):
        sources.append(
            {v["compilation"]["source"] for v in json.loads(fine(compile_(jetson, "--json", *options)))["variants"]}
        )
    assert sources == [{"made here"}, {"cache"}, {"made here"}]
    assert board.fake.builds == 4


# ---- what would be done


def test_a_dry_run_on_a_machine_without_a_gpu(compile_, jetson, cache):
    if _trt_device.probe() is None:
        pytest.skip("this machine has an NVIDIA GPU")
    said = fine(compile_(jetson, "--dry-run"))
    assert " ".join(said.split()).startswith(f"{jetson}: built for target 'jetson', 2 variant(s) ")
    assert said.count("  here: cannot be compiled: TensorRT needs an NVIDIA GPU with its driver. ") == 2
    assert said.count("  profiles: batch 1-8, sequence 1-64\n") == 2
    assert [line for line in said.splitlines() if "trtexec" in line] == [
        f"  like: {line}" for line in (jetson / "trtexec.txt").read_text().splitlines() if line.startswith("trtexec")
    ]
    assert not cache.exists()


def test_a_dry_run_on_the_board_makes_nothing(compile_, jetson, board, cache):
    told = compile_(jetson, "--dry-run")
    assert fine(told)
    assert told.words.count("Orin, compute capability 8.7, TensorRT 10.3.0: the engine would be compiled") == 2
    assert (board.fake.builds, cache.exists()) == (0, False)
    compile_(jetson)
    assert compile_(jetson, "--dry-run").words.count(": the cache has the engine ") == 2
    assert (
        compile_(jetson, "--dry-run", "--force").words.count("the cache has the engine, it would be compiled again")
        == 2
    )
    assert board.fake.builds == 2


def test_a_dry_run_has_no_json(compile_, jetson):
    said = compile_(jetson, "--dry-run", "--json")
    assert (said.code, said.out) == (2, "")
    assert "error[option-conflict]" in said.err


# ---- keys


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["", "dry run"])
def test_a_bundle_of_a_known_maker(compile_, jetson, board, keys, tmp_path, options):
    bundle = small.copy(jetson, tmp_path / "signed")
    said = compile_(bundle, "--key", keys[1], *options)
    assert (said.code, said.out) == (5, "")
    assert "error[bundle-not-signed]" in said.err
    trust.sign(bundle, keys[0])
    fine(compile_(bundle, "--key", keys[1], *options))
    fine(compile_(bundle, "--key", keys[2], "--key", keys[1], *options))
    said = compile_(bundle, "--key", keys[2], *options)
    assert (said.code, said.out) == (5, "")
    assert "error[signature-untrusted]" in said.err
    said = compile_(bundle, "--key", tmp_path / "no.pub", *options)
    assert (said.code, said.out) == (2, "")
    assert "error[key-unreadable]" in said.err
    assert "no.pub" in said.err


# ---- nothing to compile, and what ends it


def test_a_bundle_for_the_cpu(compile_, jetson, tmp_path):
    bundle = small.copy(jetson, tmp_path / "cpu")
    half = json.loads((bundle / "manifest.json").read_text())["variants"][1]
    small.sign(bundle, variants=[{**half, "backend": "onnxruntime", "device": "cpu", "engine": None}], choose_on="host")
    told = "runs from now on: float16 on onnxruntime, it won the race where the bundle was built, and runs the graph itself\n"
    assert " ".join(fine(compile_(bundle)).split()) == told.strip()
    assert json.loads(fine(compile_(bundle, "--json")))["variants"] == []
    assert "runs the graph itself; nothing is compiled\n" in fine(compile_(bundle, "--dry-run"))


def test_no_variant_runs_here(compile_, jetson, monkeypatch):
    monkeypatch.setattr(_trt_device, "probe", lambda: "There is none.")
    said = compile_(jetson)
    assert (said.code, said.out) == (1, "")
    first, reason, hint = said.err.splitlines()
    assert first.startswith("edgekit: error[no-variant]: ")
    assert str(jetson) in first
    assert reason.startswith("  static_float16 on tensorrt and float16 on tensorrt ")
    assert reason.endswith("There is none.")
    assert "--backend onnxruntime" in hint


def test_all_answer_wrongly_is_no_success(compile_, jetson, board, tmp_path):
    bundle = small.copy(jetson, tmp_path / "copy")
    manifest = trust.open_bundle(bundle).manifest
    stored = choice.golden.read(trust.open_bundle(bundle))
    outputs = [small.named(small.column(o) + 10) for o in stored.outputs]
    (bundle / "golden.npz").write_bytes(choice.golden.pack(manifest.signatures[0], stored.rows, outputs, None))
    small.sign(bundle)
    said = compile_(bundle)
    assert (said.code, said.out) == (1, "")
    assert said.err.count("cannot run here: its outputs for the golden inputs differ by ") == 2


def test_an_engine_that_cannot_be_kept(compile_, jetson, board, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "cache"))
    said = compile_(jetson)
    assert (said.code, said.out) == (1, "")
    assert "is not writable" in said.err
    assert "EDGEKIT_CACHE" in said.err


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["", "dry run"])
def test_a_damaged_bundle(compile_, jetson, board, tmp_path, options):
    bundle = small.copy(jetson, tmp_path / "copy")
    graph = bundle / "graphs" / "model.onnx"
    graph.write_bytes(b"x" + graph.read_bytes()[1:])
    said = compile_(bundle, *options)
    assert (said.code, said.out) == (5, "")
    assert "error[bundle-file-altered]" in said.err
    assert compile_(tmp_path / "nowhere", *options).code == 2
    assert board.fake.builds == 0


def test_an_interrupt_leaves_nothing(compile_, jetson, board, cache, monkeypatch):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr("edgekit.cli._stop.check", stopped)
    said = compile_(jetson)
    assert (said.code, said.out) == (130, "")
    assert "interrupted; nothing was left behind" in said.err
    assert [f.name for f in (cache / "engines").iterdir()] == []


# ---- verify, of a bundle for another machine


def test_a_bundle_for_a_device_passes_here_by_its_files(edgekit, jetson):
    if _trt_device.probe() is None:
        pytest.skip("this machine has an NVIDIA GPU")
    result = edgekit("verify", jetson)
    assert (result.code, result.err) == (0, "")
    files, *lines = unwrapped(result.out)
    assert files.startswith(f"files: {len(trust.open_bundle(jetson).manifest.files)}, ")
    assert [line.partition(": TensorRT needs ")[0] for line in lines] == [
        f"golden: not compared, {method} on tensorrt" for method in ("static_float16", "float16")
    ]
    result = edgekit("verify", "--require-golden", jetson)
    assert (result.code, result.out.count("not compared")) == (5, 2)
    assert "error[golden-not-run]" in result.err
    assert edgekit("verify", "--require-golden", "--files-only", jetson).code == 2


def test_on_the_device_it_is_compared(edgekit, jetson, board):
    result = edgekit("verify", "--require-golden", jetson)
    assert (result.code, result.err) == (0, "")
    assert re.findall(r"golden: \d+ inputs, (\S+) on tensorrt 10\.3\.0 \(built with \S+\), largest difference ", result.words) == [
        "static_float16", "float16",
    ]  # fmt: skip


def test_one_of_two_engines_that_answers_wrongly(edgekit, jetson, monkeypatch):
    """A load takes the other one; that the first does not serve is said."""
    Board(monkeypatch, wrong=5)
    result = edgekit("verify", "--require-golden", jetson)
    assert (result.code, result.err) == (0, "")
    assert re.search(r"golden: .* static_float16 on tensorrt .* differs: ", result.words)
