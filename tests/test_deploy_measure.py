"""Evaluations and checks on a device, and a device without SFTP: a real ssh server on loopback, whose Python is this one."""

from __future__ import annotations

import json
import sys

import pytest
import small
import sshd
from refusals import refused

from edgekit.deploy import measure
from edgekit.deploy.measure import Connection
from edgekit.report import files
from edgekit.spec.report import OVER_BUDGET, PASS

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server(tmp_path_factory, float32_ort):
    """A device that offers no SFTP, as small images do. It has a bundle at ``~/film``."""
    folder = tmp_path_factory.mktemp("device")
    (folder / "tmp").mkdir()
    with sshd.running(folder, sftp=False, TMPDIR=str(folder / "tmp")) as running:
        small.copy(float32_ort, running.home / "film")
        yield running


@pytest.fixture
def device(server):
    """The device; after the test, no copy of a bundle or of samples is left on it."""
    yield server
    assert [str(p) for folder in (server.home, server.folder / "tmp") for p in folder.rglob("*edgekit-copy*")] == []


def run_there(verb, bundle, device, folder, name, *arguments):
    """Run a verb with ``--on``; ``ssh`` and ``scp`` find the configuration as they would find the user's."""
    on = ("--on", f"{device.url}/~/{name}", "--python", sys.executable)
    return small.edgekit(verb, bundle, *arguments, *on, **device.programs(folder / "bin"))


@pytest.mark.slow
def test_an_evaluation(float32_ort, tiny_samples, device, tmp_path):
    """The bundle is not there yet: it is brought first, and without SFTP the copies go through ssh."""
    done = run_there(
        "eval", float32_ort, device, tmp_path, "plain", "--samples", tiny_samples.dev, "--threads", "1", "--json", "-"
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert scores["score"] == pytest.approx(tiny_samples.accuracy)
    assert scores["bundle"] == f"127.0.0.1:{device.port}:{device.home / 'plain'}"
    assert scores["latency"]["p50_ms"] > 0
    assert small.CANARY.encode() not in done.stdout + done.stderr
    for file in ("manifest.json", "graphs/model.onnx"):
        assert (device.home / "plain" / file).read_bytes() == (float32_ort / file).read_bytes()


@pytest.mark.slow
def test_a_check(float32_ort, tiny_samples, device, tmp_path):
    """The files of its options are sent, and a gate that fails is a result; the bundle is not brought again."""
    before = (device.home / "film/manifest.json").stat().st_ino
    gates = tmp_path / "gates.toml"
    off = '[latency]\np50 = "off"\np90 = "off"\n[footprint]\nfirst_answer = "off"\nmemory = "off"\n'
    gates.write_text(f"{off}[accuracy]\ndrop = 0.1\n[budget]\nsize_mb = 0.001\n")
    done = run_there(
        "check", float32_ort, device, tmp_path, "film", "--samples", tiny_samples.dev, "--baseline", float32_ort,
        "--gates", gates, "--max-time", "0.1", "-o", tmp_path / "report",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert b"verdict: " in done.stdout
    assert (tmp_path / "report/report.html").is_file()
    report = files.read(tmp_path / "report/report.json")
    assert (report.kind, report.rows, report.exit_code()) == ("check", 120, 3)
    verdicts = {gate.name: gate.verdict for gate in report.gates}
    assert (verdicts["accuracy.drop"], verdicts["budget.size_mb"]) == (PASS, OVER_BUDGET)
    assert (device.home / "film/manifest.json").stat().st_ino == before


def test_what_cannot_be_sent(float32_ort, tmp_path, device):
    connection = Connection(f"{device.url}/~/film", python=sys.executable, ssh_options=device.options)
    with refused("remote-file"):
        measure.evaluate(float32_ort, {"--samples": tmp_path / "nothing.csv"}, (), connection)
    with refused("remote-samples"):
        measure.evaluate(float32_ort, {"--samples": tmp_path}, (), connection)
    done = small.edgekit("eval", float32_ort, "--samples", "x.csv", "--python", "python3")
    assert (done.returncode, b"option-needs-other" in done.stderr) == (2, True)
