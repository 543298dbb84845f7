"""The command line, run in this process; and bundles with a baseline for the verbs that compare."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import small
from measuring import quick, quick_environment

from edgekit.cli import main
from edgekit.report import check
from edgekit.spec.report import PASS, SCHEMA, Gate, Report
from edgekit.spec.subject import Fingerprint, Subject


@pytest.fixture
def quick_timing():
    """Fewer processes than decide a gate of a time: for tests that look at everything else."""
    with quick(processes=1):
        yield


@pytest.fixture
def edgekit(monkeypatch, capsys):
    """Runs ``edgekit`` in this process: code, standard output, standard error."""
    names = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    before = {name: signal.getsignal(name) for name in names}

    def call(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["edgekit", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert small.plain_words(said.out) == said.out
        assert small.plain_words(said.err) == said.err
        words = " ".join(said.out.split())  # however its lines are wrapped
        return SimpleNamespace(code=ended.value.code or 0, out=said.out, err=small.without_steps(said.err), words=words)

    yield call
    for name, handler in before.items():
        signal.signal(name, handler)


# 120 rows settle a margin of 0.1; what a machine that runs other tests does to latencies is not what is tested here.
WIDE = """
[latency]
p50 = 9
p90 = "off"
p99 = "off"
[accuracy]
drop = 0.1
slice_drop = 0.5
[footprint]
first_answer = 9
memory = 1
[budget]
size_mb = 50
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory, float32_ort, tiny_samples):
    """A bundle, one that answers something else, a damaged one, samples with a column to slice by, gates that 120 rows settle, and a baseline."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("place")
    worse = small.copy(float32_ort, folder / "worse")
    model = onnx.load(worse / "graphs/model.onnx")
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 2 and array.dtype == "float32":
            tensor.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), tensor.name))
    onnx.save(model, worse / "graphs/model.onnx")
    small.sign(worse)
    damaged = small.copy(float32_ort, folder / "damaged")
    (damaged / "graphs/model.onnx").write_bytes(b"x" + (damaged / "graphs/model.onnx").read_bytes()[1:])
    rows = [{**row, "source": "phone" if i % 2 else "web"} for i, row in enumerate(tiny_samples.rows)]
    dev = small.write_jsonl(folder / "dev.jsonl", rows)
    (folder / "gates.toml").write_text(WIDE, "utf-8")
    options = ("--samples", dev, "-o", folder / "baseline.json")
    done = small.edgekit("baseline", float32_ort, *options, **quick_environment())
    assert (done.returncode, small.without_steps(done.stderr.decode())) == (0, "")
    return SimpleNamespace(
        folder=folder,
        good=float32_ort,
        worse=worse,
        damaged=damaged,
        dev=dev,
        gates=folder / "gates.toml",
        baseline=folder / "baseline.json",
        said=done.stdout,
    )


@pytest.fixture
def asked(monkeypatch):
    """What the verbs ask of the report code, which answers at once with a report of the verdicts that were given."""
    seen = SimpleNamespace(calls=[], verdicts={})

    def stand_in(name):
        def call(*arguments, **options):
            options.pop("progress")
            seen.calls.append((name, tuple(map(str, arguments)), given(**options)))
            answer = seen.verdicts.get(os.path.basename(str(arguments[0])), (PASS,))
            if isinstance(answer, Exception):
                raise answer
            return made(*answer)

        return call

    for name in ("report", "baseline", "compare", "check", "self_check"):
        monkeypatch.setattr(check, name, stand_in(name))
    return seen


def given(options=None, **others):
    """What was asked for beside the defaults, by name."""
    chosen = {}
    if options is not None:
        defaults = type(options)()
        chosen = {name: value for name, value in vars(options).items() if value != getattr(defaults, name)}
    return {**chosen, **{name: value for name, value in others.items() if value is not None}}


def made(*verdicts):
    """A report whose gates have these verdicts."""
    machine = Fingerprint("0.1.0", "3.11", "Linux", "a CPU", 2)
    gates = tuple(
        Gate(f"latency.g{i}", verdict, 0.1, 0.0, 0.0, 0.0, f"sentence {i}") for i, verdict in enumerate(verdicts)
    )
    subjects = tuple(
        Subject(name, "0" * 64, 1, "m", "text-classification", {"labels": ["a", "b"]}, ("a", "b"))
        for name in ("old", "new")
    )
    return Report(SCHEMA, "check", "2024-01-01T00:00:00Z", 0, "sha256:00", 7, machine, subjects, gates=gates)
