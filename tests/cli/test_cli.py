"""The command line: what each verb prints, on which stream, with which exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys

import pytest
import small

from edgekit.bundle.trust import open_bundle
from edgekit.spec.parsing import plain

VERBS = (
    *("init", "build", "distill", "prune", "trim-vocab", "eval", "compare", "baseline", "check"),
    *(
        "predict",
        "run",
        "bench",
        "inspect",
        "verify",
        "compile",
        "deploy",
        "pack",
        "sign",
        "keygen",
        "cache",
        "targets",
        "doctor",
    ),
)
HEAVY = (
    "torch",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "rich",
    "scipy",
    "jinja2",
    "sklearn",
)


def lines(said):
    assert (said.code, said.err) == (0, ""), said.err
    return [json.loads(line) for line in said.out.splitlines()]


@pytest.fixture(scope="module")
def damaged(tiny_bundle, tmp_path_factory):
    bundle = small.copy(tiny_bundle, tmp_path_factory.mktemp("damaged") / "bundle")
    (bundle / "graphs/model.onnx").write_bytes(b"x" + (bundle / "graphs/model.onnx").read_bytes()[1:])
    return bundle


# ---- help


def test_help_imports_nothing_heavy():
    """One process for all verbs: the first line that imports something heavy is the one that fails."""
    code = """
import sys
from edgekit.cli import main
heavy, *lines = sys.argv[1:]
for line in lines:
    sys.argv = ["edgekit", *line.split()]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    sys.stdout.flush()
    print("END", code, sorted({m.split(".")[0] for m in sys.modules} & set(heavy.split())))
"""
    lines = ["--help", "-h", "--version", *(f"{verb} --help" for verb in VERBS)]
    done = small.python(code, " ".join(HEAVY), *lines)
    assert (done.returncode, done.stderr) == (0, b"")
    texts = re.findall(r"(.*?)^END (.*?)\n", done.stdout.decode(), re.MULTILINE | re.DOTALL)
    assert [end for _, end in texts] == ["0 []"] * len(lines)
    for line, (text, _) in zip(lines, texts, strict=True):
        if line != "--version":
            verb = line.split()[0] if " " in line else ""
            assert text.startswith(f"Usage: edgekit {verb}"), line
            assert "-h, --help" in text, line


def test_all_verbs_are_listed_in_the_order_of_their_use(edgekit):
    said = edgekit("--help").out
    assert re.findall(r"^  ([a-z-]+) ", said.partition("Commands:")[2], re.MULTILINE) == list(VERBS)
    codes = "0 pass, 1 tool error, 2 usage, 3 over budget or regression, 4 incomparable (or, with --strict, inconclusive), 5 integrity."
    assert f"Exit codes: {codes}" in " ".join(said.split())


def test_python_m_is_the_same():
    import edgekit

    done = small.edgekit("--version")
    assert (done.returncode, done.stdout.decode().split()[-1]) == (0, edgekit.__version__)


# ---- exit codes


def test_usage_errors(edgekit, tiny_bundle, tiny_model, tmp_path, tmp_path_factory):
    one = small.write_jsonl(tmp_path_factory.mktemp("rows") / "one.jsonl", [{"text": "a", "label": "positive"}])
    cases = [
        (("bild",), "bild"),
        (("run", tiny_bundle), "TEXT"),
        (("run", tiny_bundle, "a", "--thread", "1"), "--thread"),
        (("run", tiny_bundle, "a", "--threads", "0"), "0"),
        (("run", tiny_bundle, "a", "b", "c", "--pair"), "--pair got 3 texts"),
        (("build", "model"), "--samples"),
        (("build", "m", "--samples", "s", "--eval", "e", "-o", "o", "--budget", "accuracy_drop"), "KEY=NUMBER"),
        (
            ("build", "m", "--samples", "s", "--eval", "e", "-o", "o", "--budget", "speed=1"),
            "Unknown budget key 'speed'",
        ),
        (("build", "m", "--samples", "s", "--eval", "e", "-o", "o", "--budget", "p50_ms=nan"), "expected a number"),
        (("eval", tiny_bundle, "--samples", one, "--columns", "txt=a"), "Did you mean 'text'"),
        (("build", "m", "--samples", "s", "--eval", "e", "-o", "o", "--target", "cpuu"), "Did you mean 'cpu'"),
        (
            ("build", tiny_model, "--samples", tmp_path / "s.jsonl", "--eval", "e", "-o", tmp_path / "o"),
            "s.jsonl does not exist",
        ),
        (("eval", tiny_bundle, "--samples", tmp_path / "s.jsonl"), "does not exist"),
        (("eval", tiny_bundle), "--samples"),
        (("bench", tiny_bundle, "--batches", "1,x"), "is not a list of whole numbers"),
        (("bench", tiny_bundle, "--lengths", "0"), "is not a list of whole numbers"),
        (
            ("bench", tiny_bundle, "--lengths", "65", "--seconds", "0.05"),
            "Length 65 exceeds the model's maximum of 64 tokens",
        ),
        (("bench", tiny_bundle, "--seconds", "0"), "--seconds"),
        (("targets", "cpuu"), "Did you mean 'cpu'"),
    ]
    for arguments, said in cases:
        result = edgekit(*arguments)
        assert (result.code, result.out) == (2, ""), arguments
        assert said in result.err, arguments
    assert list(tmp_path.iterdir()) == []


def test_tool_errors(edgekit, tiny_bundle):
    result = edgekit("run", tiny_bundle, "a", "--backend", "tensorrt")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("edgekit: error[backend-not-in-bundle]: ")


@pytest.mark.parametrize(
    "command", ["run {} a", "eval {} --samples {dev}", "bench {}", "inspect {}", "verify {}", "verify {} --files-only"]
)
def test_integrity_errors(edgekit, damaged, tiny_samples, tmp_path, command):
    for bundle, code, name in (
        (damaged, 5, "bundle-file-altered"),
        (tmp_path, 2, "bundle-other-folder"),
        (tmp_path / "none", 2, "bundle-not-found"),
    ):
        result = edgekit(*(part.format(bundle, dev=tiny_samples.dev) for part in command.split()))
        assert (result.code, result.out) == (code, "")
        assert result.err.startswith(f"edgekit: error[{name}]: ")
        assert result.err.count("\n") == 1


# ---- run


def test_run_prints_one_object_a_line(edgekit, float32_ort, tiny_module):
    texts = ["the film was fine", "their plot was dull", "", "😀 שלום", "-", "film " * 100]
    found = lines(edgekit("run", float32_ort, *texts))
    logits = small.torch_logits(tiny_module, texts)
    assert [r["label"] for r in found] == [small.LABELS[i] for i in logits.argmax(axis=1)]
    truth = 1 / sum(pow(2.718281828459045, (logits - logits.max(axis=1, keepdims=True)).astype(float)).T)
    assert [r["score"] for r in found] == pytest.approx(truth, abs=1e-4)
    assert [r.get("truncated", False) for r in found] == [False] * 5 + [True]
    assert all(set(r) == {"label", "score", "scores", "labels", "truncated"} for r in found)
    assert all(r["scores"][r["label"]] == r["score"] and r["labels"] == [r["label"]] for r in found)


def test_run_pairs(edgekit, float32_ort, tiny_module):
    pairs = [("the plot was dull", "their cast is strong"), ("a", "")]
    expected = [small.LABELS[i] for i in small.torch_logits(tiny_module, pairs).argmax(axis=1)]
    said = edgekit("run", float32_ort, "--pair", *(t for p in pairs for t in p))
    assert said.err.startswith("edgekit: warning: A tuple is one pair of texts"), "the model was built on single texts"
    assert [json.loads(line)["label"] for line in said.out.splitlines()] == expected
    stdin = "".join(f"{a}\t{b}\r\n" for a, b in pairs).encode()
    said = edgekit("run", float32_ort, "--pair", "-", "-q", stdin=stdin)
    assert [json.loads(line)["label"] for line in said.out.splitlines()] == expected
    assert said.err == ""
    result = edgekit("run", float32_ort, "--pair", "-", stdin=b"a\tb\nno tab\n")
    assert result.code == 2
    assert "Line 2 of standard input has no tab" in result.err


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_run_reads_lines(edgekit, float32_ort, end):
    texts = [*small.texts(600, seed=30), "", "last"]
    listed = lines(edgekit("run", float32_ort, *texts[:300])) + lines(edgekit("run", float32_ort, *texts[300:]))
    for start in ("", "\ufeff"):
        found = lines(edgekit("run", float32_ort, "-", stdin=(start + end.join(texts)).encode()))
        assert [r["label"] for r in found] == [r["label"] for r in listed]
        assert [r["score"] for r in found] == pytest.approx([r["score"] for r in listed], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "stdin", "expected"),
    [
        (
            (),
            "\ufeffone\r\ntwo \n\n\ufefffour\r\n fi\u2028ve\x0b",
            ["one", "two ", "", "\ufefffour", " fi\u2028ve\x0b"],
        ),
        (("--pair",), "\ufeffa\tb\r\n\tc\td\n", [("a", "b"), ("", "c\td")]),
    ],
    ids=["texts", "pairs"],
)
def test_run_hands_over_exactly_what_the_lines_hold(edgekit, monkeypatch, options, stdin, expected):
    """BERT's tokenizer drops a mark or a CR that is left over, so that no answer would tell; other tokenizers do not."""
    from edgekit.runtime import load as loading

    seen = []

    class Recorder(contextlib.nullcontext):
        def __enter__(self):
            return lambda inputs: seen.extend(inputs) or []

    monkeypatch.setattr(loading, "load", lambda *_, **__: Recorder())
    assert edgekit("run", "bundle", *options, "-", stdin=stdin.encode()).code == 0
    assert seen == expected


DASHED = ["-5 degrees outside", "- 3", "-5", "--5 apples and a horse", "--backend is a word here", "a -- b", "-\u20ac"]


def test_run_takes_texts_that_begin_with_a_dash(edgekit, float32_ort, tiny_module):
    expected = [small.LABELS[i] for i in small.torch_logits(tiny_module, DASHED).argmax(axis=1)]
    assert [r["label"] for r in lines(edgekit("run", float32_ort, *DASHED))] == expected
    between = (*DASHED[:2], "--threads", "1", *DASHED[2:], "--backend=onnxruntime")
    assert [r["label"] for r in lines(edgekit("run", *between[:0], float32_ort, *between))] == expected
    words = ["-cold", "--backend", "--", "-h"]
    expected = [small.LABELS[i] for i in small.torch_logits(tiny_module, words).argmax(axis=1)]
    assert [r["label"] for r in lines(edgekit("run", float32_ort, "--", *words))] == expected


@pytest.mark.parametrize("option", ["--bakend", "-x", "--pears", "--bakend=onnxruntime"])
def test_run_takes_no_mistyped_option_for_a_text(edgekit, float32_ort, option):
    result = edgekit("run", float32_ort, "a text", option, "onnxruntime")
    assert (result.code, result.out) == (2, "")
    assert "No such option" in result.err
    assert "edgekit run BUNDLE -- TEXT" in result.err


def test_run_with_nothing_to_read(edgekit, float32_ort):
    assert lines(edgekit("run", float32_ort, "-", stdin=b"")) == []


def test_run_with_what_is_not_utf8(edgekit, float32_ort):
    result = edgekit("run", float32_ort, "-", stdin=b"fine\nsecret caf\xe9\n")
    assert result.code == 2
    assert "Line 2 of standard input is not UTF-8" in result.err
    assert "secret" not in result.err
    done = small.edgekit("run", float32_ort, os.fsdecode(b"secret caf\xe9"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"lone surrogate" in done.stderr
    assert b"secret" not in done.stderr


def test_run_for_a_reader_that_leaves(float32_ort, tmp_path):
    (tmp_path / "texts").write_bytes(b"the film was fine\n" * 5_000)
    command = [sys.executable, "-m", "edgekit", "run", str(float32_ort), "-"]
    with (
        (tmp_path / "texts").open("rb") as texts,
        (tmp_path / "errors").open("wb") as errors,
        small.started(*command, stdin=texts, stdout=subprocess.PIPE, stderr=errors) as child,
    ):
        assert json.loads(child.stdout.readline())["label"] in small.LABELS
        child.stdout.close()
        assert child.wait() == 0
    assert (tmp_path / "errors").read_bytes() == b""


def test_run_on_another_backend_and_threads(edgekit, float32_openvino):
    assert len(lines(edgekit("run", float32_openvino, "a", "--backend", "openvino", "--threads", "1"))) == 1


# ---- eval


def test_eval_says_what_it_measured(edgekit, float32_ort, tiny_samples, tmp_path):
    result = edgekit(
        "eval", float32_ort, "--samples", tiny_samples.dev, "--json", tmp_path / "e.json", "--threads", "1"
    )
    assert (result.code, result.err) == (0, "")
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["score"] == pytest.approx(tiny_samples.accuracy)
    assert (record["rows"], record["truncated"], record["score_name"]) == (len(tiny_samples.rows), 0, "accuracy")
    assert (record["method"], record["backend"], record["latency"]["count"]) == (
        "float32",
        "onnxruntime",
        len(tiny_samples.rows),
    )
    assert 0 < record["latency"]["p50_ms"] <= record["latency"]["p90_ms"]
    assert record["latency"]["p99_ms"] is None
    assert record["size_mb"] * 2**20 == pytest.approx(open_bundle(float32_ort).size)
    assert 50 < record["first_answer_ms"] < 60_000
    assert 20 < record["memory_mb"] < 400
    table = dict(re.split(r"  +", line, maxsplit=1) for line in result.out.splitlines())
    assert table["accuracy"] == f"{tiny_samples.accuracy:.4f}"
    assert table["samples"] == str(len(tiny_samples.rows))
    assert f"p50 {record['latency']['p50_ms']:.2f} ms" in table["latency"]
    assert "p99 not estimable from 120 samples (needs 662)" in table["latency"]


def test_eval_to_standard_output_alone(edgekit, float32_ort, tiny_samples, tmp_path):
    rows = [
        {"sentence": "film " * 100 if i < 3 else r["text"], "gold": r["label"]}
        for i, r in enumerate(tiny_samples.rows[:20])
    ]
    samples = small.write_jsonl(tmp_path / "s.jsonl", rows)
    result = edgekit("eval", float32_ort, "--samples", samples, "--columns", "text=sentence,label=gold", "--json", "-")
    record = json.loads(result.out)
    assert (record["rows"], record["truncated"], record["latency"]["p90_ms"]) == (20, 3, None)
    missing = edgekit("eval", float32_ort, "--samples", samples)
    assert (missing.code, missing.out) == (2, "")
    assert "no column 'text'" in missing.err
    assert edgekit("eval", float32_ort, "--samples", tiny_samples.train).code == 2


def test_eval_into_a_place_that_cannot_be_written(edgekit, float32_ort, tiny_samples, tmp_path):
    samples = small.write_jsonl(tmp_path / "s.jsonl", tiny_samples.rows[:3])
    result = edgekit("eval", float32_ort, "--samples", samples, "--json", tmp_path / "none" / "e.json")
    assert result.code == 1
    assert "e.json cannot be written" in result.err


# ---- bench, inspect, verify, targets, doctor


@pytest.mark.slow
def test_bench(edgekit, float32_ort):
    result = edgekit("bench", float32_ort, "--batches", "1,4", "--lengths", "8,64", "--seconds", "0.05", "--json")
    record = json.loads(result.out)
    assert [(p["batch"], p["length"]) for p in record["points"]] == [(1, 8), (1, 64), (4, 8), (4, 64)]
    for point in record["points"]:
        assert point["latency"]["count"] >= 11
        assert point["latency"]["p50_ms"] > 0
        assert point["rows_per_s"] == pytest.approx(point["batch"] * 1e3 / point["latency"]["mean_ms"])
    text = edgekit("bench", float32_ort, "--batches", "2", "--lengths", "4", "--seconds", "0.05")
    assert re.search(r"^ +2 +4 +\d+\.\d\d ", text.out, re.MULTILINE)
    assert text.words.startswith(f"{float32_ort}: float32 on onnxruntime")


def test_inspect(edgekit, tiny_bundle):
    manifest = open_bundle(tiny_bundle).manifest
    text = edgekit("inspect", tiny_bundle).words
    for part in (
        manifest.reason,
        "input_ids int64 [batch, sequence]",
        "logits float32 [batch, 3]",
        manifest.provenance["model_digest"],
        "built for 'cpu'",
    ):
        assert part in text
    wide = edgekit("inspect", tiny_bundle, "--wide").out
    assert all(trial.method in wide and trial.verdict in wide for trial in manifest.trials)
    assert json.loads(edgekit("inspect", tiny_bundle, "--json").out) == plain(manifest)


def test_verify(edgekit, tiny_bundle, float32_ort, tmp_path):
    for bundle in (tiny_bundle, float32_ort):
        result = edgekit("verify", bundle)
        assert (result.code, result.err) == (0, "")
        count = len(open_bundle(bundle).manifest.files)
        assert result.out.splitlines()[0] == f"files: {count}, all as the manifest lists them; not signed"
        assert "0 label(s) changed" in result.words
        assert edgekit("verify", bundle, "--files-only").out.count("\n") == 1


def test_verify_of_a_bundle_that_computes_something_else(edgekit, float32_ort, tmp_path):
    """Digests are right, so only running it can tell."""
    onnx = pytest.importorskip("onnx")
    bundle = small.copy(float32_ort, tmp_path / "copy")
    model = onnx.load(bundle / "graphs/model.onnx")
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 2 and array.dtype == "float32":
            tensor.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), tensor.name))
    onnx.save(model, bundle / "graphs/model.onnx")
    small.sign(bundle)
    assert edgekit("verify", bundle, "--files-only").code == 0
    result = edgekit("verify", bundle)
    assert result.code == 5
    assert "does not compute here what it computed where it was built" in result.err


def test_targets(edgekit):
    listed = edgekit("targets")
    assert (listed.code, listed.err) == (0, "")
    for file in (small.ROOT / "targets").glob("*.toml"):
        assert re.search(rf"^{file.stem} ", listed.out, re.MULTILINE)
        assert edgekit("targets", file.stem).out.startswith(f"{file.stem}: ")
    assert "budget     accuracy_drop 0.01" in edgekit("targets", "cpu").out


def test_doctor(edgekit):
    assert "CPU opens" in edgekit("doctor").out
    record = json.loads(edgekit("doctor", "--json").out)
    assert set(record["backends"]) == {"litert", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}


# ---- without click, and with a terminal


def test_without_click():
    done = small.python("import sys; sys.modules['click'] = None; from edgekit.cli import main; main()")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"pip install 'edgekit-sdk[cli]'" in done.stderr


def test_without_a_terminal_there_is_a_line_for_each_step(float32_ort, tiny_samples):
    done = small.edgekit("eval", float32_ort, "--samples", tiny_samples.dev, FORCE_COLOR="", TERM="xterm-256color")
    assert done.returncode == 0
    assert re.fullmatch(r"evaluate: \d+\.\d s\n", done.stderr.decode())
    assert b"\x1b" not in done.stdout
    assert b"accuracy" in done.stdout


def test_a_terminal_gets_bars_and_the_output_stays_clean(float32_ort, tiny_samples):
    parent, child_end = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "eval",
        str(float32_ort),
        "--samples",
        str(tiny_samples.dev),
        "--json",
        "-",
    ]
    with small.started(
        *command, stdout=subprocess.PIPE, stderr=child_end, env={**os.environ, "TERM": "xterm-256color"}
    ) as child:
        os.close(child_end)
        drawn = b""
        with contextlib.suppress(OSError):  # which says that the child has closed its end
            while part := os.read(parent, 65536):
                drawn += part
        out = child.stdout.read()
        assert child.wait() == 0
    os.close(parent)
    assert json.loads(out)["rows"] == len(tiny_samples.rows)
    assert b"\x1b" in drawn
    assert b"evaluate" in drawn
    count = len(tiny_samples.rows)
    assert re.search(rb"\b%d/%d [\d,]+(\.\d)?/s" % (count, count), drawn), "rows done and rows per second"
