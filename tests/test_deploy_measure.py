"""Evaluations and checks on a device, and a device without SFTP: a real ssh server on loopback, whose Python is this one."""

from __future__ import annotations

import json
import sys

import pytest
import small
import sshd
from refusals import refused

from edgekit import deploy
from edgekit.deploy import measure
from edgekit.deploy.measure import Connection
from edgekit.spec.options import DeployOptions


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A device that offers no SFTP, as small images do."""
    folder = tmp_path_factory.mktemp("device")
    (folder / "tmp").mkdir()
    with sshd.running(folder, sftp=False, TMPDIR=str(folder / "tmp")) as server:
        yield server
        assert left(server) == []


@pytest.fixture
def connection(device):
    return Connection(f"{device.url}/~/film", python=sys.executable, ssh_options=device.options)


def left(device):
    """What is on the device beside the bundle: copies of samples must not stay."""
    return [str(p) for folder in (device.home, device.folder / "tmp") for p in folder.rglob("*edgekit-copy*")]


def test_without_sftp_the_copy_goes_through_ssh(float32_ort, device):
    result = deploy.deploy(
        float32_ort,
        f"{device.url}/~/plain",
        options=DeployOptions(python=sys.executable, ssh_options=device.options),
    )
    place = device.home / "plain"
    assert result.path == str(place)
    assert (place / "manifest.json").read_bytes() == (float32_ort / "manifest.json").read_bytes()
    assert left(device) == []


def test_an_evaluation(float32_ort, tiny_samples, device, connection):
    scores = measure.evaluate(float32_ort, {"--samples": tiny_samples.dev}, ["--threads", "1"], connection)
    assert scores.score == pytest.approx(tiny_samples.accuracy)
    assert scores.bundle == f"127.0.0.1:{device.port}:{device.home / 'film'}"
    assert scores.latency.p50_ms > 0
    assert left(device) == []
    assert small.CANARY not in json.dumps(scores.record())


def test_a_check_that_passes_and_one_that_fails(float32_ort, tiny_samples, device, connection, tmp_path):
    gates = tmp_path / "gates.toml"
    gates.write_text(
        '[latency]\np50 = "off"\np90 = "off"\n[accuracy]\ndrop = 0.1\n[footprint]\nfirst_answer = "off"\nmemory = "off"\n'
    )
    files = {"--samples": tiny_samples.dev, "--baseline": float32_ort, "--gates": gates}
    report = measure.report("check", float32_ort, files, ["--max-time", "0.1"], connection)
    assert (report.kind, report.rows, report.exit_code()) == ("check", 120, 0)
    gates.write_text("[budget]\nsize_mb = 0.001\n")
    report = measure.report("check", float32_ort, files, ["--max-time", "0.1"], connection)
    assert report.exit_code() == 3
    assert left(device) == []


def test_the_verbs(float32_ort, tiny_samples, device, tmp_path):
    environment = device.programs(tmp_path / "bin")
    on = ("--on", f"{device.url}/~/film", "--python", sys.executable)
    done = small.edgekit("eval", float32_ort, "--samples", tiny_samples.dev, "--json", "-", *on, **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["score"] == pytest.approx(tiny_samples.accuracy)
    done = small.edgekit(
        "check", float32_ort, "--baseline", float32_ort, "--samples", tiny_samples.dev, "--max-time", "0.1", "-o",
        tmp_path / "report", *on, **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"verdict: " in done.stdout
    assert (tmp_path / "report/report.html").is_file()


def test_what_cannot_be_sent(float32_ort, tmp_path, connection):
    with refused("remote-file"):
        measure.evaluate(float32_ort, {"--samples": tmp_path / "nothing.csv"}, (), connection)
    with refused("remote-samples"):
        measure.evaluate(float32_ort, {"--samples": tmp_path}, (), connection)
    done = small.edgekit("eval", float32_ort, "--samples", "x.csv", "--python", "python3")
    assert (done.returncode, b"option-needs-other" in done.stderr) == (2, True)
