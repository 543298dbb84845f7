"""Bundles on another machine: a real ssh server on loopback, whose Python is this one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import small
import sshd
from refusals import refused

from edgekit import BudgetError, IntegrityError, RemoteError, UsageError, deploy
from edgekit.bundle import trust
from edgekit.bundle.keys import make_keys
from edgekit.deploy import _ssh, parse_url
from edgekit.report.bench import Bench
from edgekit.spec.digests import sha256
from edgekit.spec.options import BenchOptions, DeployOptions
from edgekit.spec.parsing import parse

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    (folder / "tmp").mkdir()
    with sshd.running(folder, TMPDIR=str(folder / "tmp")) as device:
        yield device


@pytest.fixture
def device(server):
    """The server, with an empty home before; after it, nothing of a copy is left anywhere on it."""
    shutil.rmtree(server.home)
    server.home.mkdir()
    yield server
    assert left(server) == []


@pytest.fixture
def bundle(float32_ort):
    """A small bundle on ONNX Runtime."""
    return float32_ort


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python that has nothing installed."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    return str(folder / "bin" / "python")


def left(device):
    return [str(p) for folder in (device.home, device.folder / "tmp") for p in folder.rglob("*edgekit-copy*")]


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


ONE = BenchOptions(batches=[1], lengths=[8])


def brought(bundle, device, path="", **options):
    progress = {name: options.pop(name) for name in ("progress",) if name in options}
    login = DeployOptions(**{"python": sys.executable, "ssh_options": device.options, **options})
    return deploy.deploy(bundle, device.url + path, options=login, **progress)


def assert_refused(bundle, device, code, *values, error=RemoteError, path="", remote_code=None, **options):
    with refused(code, *values) as caught:
        brought(bundle, device, path, **options)
    assert type(caught.value) is error
    if remote_code is not None:
        assert caught.value.fields["remote_code"] == remote_code
    assert str(device.folder / "user") not in str(caught.value)
    return str(caught.value)


def ask(device, place, python=sys.executable, identity=None, options=None):
    """What the device says of a place."""
    login = _ssh.Device(parse_url(device.url), python, identity, options or device.options, lambda *_: None)
    return login.step("ask", "ask", place)


def script(file: Path, text: str) -> str:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.slow
def test_a_bundle_is_brought_and_then_replaced(bundle, device, tmp_path):
    steps = []
    first = brought(bundle, device, progress=lambda *step: steps.append(step[0]))
    place = device.home / "edgekit" / bundle.name
    assert content(place) == content(bundle)
    assert os.stat(place).st_mode & 0o777 == 0o755
    assert (first.device, first.path, first.replaced, first.compiled) == (
        f"127.0.0.1:{device.port}",
        str(place),
        False,
        None,
    )
    assert first.manifest == sha256(place / "manifest.json")
    assert first.size_mb * 2**20 == sum(map(len, content(bundle).values()))
    assert re.search(r"golden: \d+ inputs, float32 on onnxruntime .*, 0 label\(s\) changed", first.verified)
    assert first.doctor["python"] == first.python == sys.version.split()[0]
    assert list(dict.fromkeys(steps)) == [
        "check the bundle", "ask the device", "pack", "make room", "copy", "check the copy", "unpack there", "verify there", "look at the device",
        "put it in its place",
    ]  # fmt: skip
    assert json.loads(json.dumps(first.record()))["path"] == str(place)
    for part in (first.device, first.path, first.system, first.doctor["cpu"], first.verified):
        assert part in first.text()
    assert "in place of" not in first.text()

    # Another bundle of that name, and what an earlier deployment left: only what is old is nobody's.
    other = small.copy(bundle, tmp_path / bundle.name)
    (other / "assets" / "more.txt").write_text("more")
    small.sign(other)
    for name, age_s in (("old", 2 * 86400), ("new", 60)):
        folder = place.parent / f".edgekit-copy-{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age_s,) * 2)
    second = brought(other, device)
    assert second.replaced
    assert "in place of the bundle that was there" in second.text()
    assert content(place) == content(other)
    assert sorted(p.name for p in place.parent.iterdir()) == [".edgekit-copy-new", bundle.name]
    (place.parent / ".edgekit-copy-new").rmdir()


@pytest.mark.slow
def test_a_signed_bundle(bundle, device, tmp_path):
    ours, theirs = make_keys(tmp_path / "ours"), make_keys(tmp_path / "theirs")
    signed = small.copy(bundle, tmp_path / "signed")
    assert_refused(signed, device, "bundle-not-signed", error=IntegrityError, keys=[ours])
    trust.sign(signed, tmp_path / "ours")
    assert_refused(signed, device, "signature-untrusted", theirs, error=IntegrityError, keys=[theirs])
    assert list(device.home.iterdir()) == [], "nothing was sent of what is not trusted here"
    found = brought(signed, device, "/~/film", keys=[theirs, str(ours)])
    assert "signed by a key that is trusted" in found.verified
    assert content(device.home / "film") == content(signed)
    assert sorted(p.name for p in device.home.iterdir() if p.name != ".cache") == ["film"]
    assert ask(device, "~/film")["state"] == "bundle", "with its signature too, it may be replaced"
    with refused("signature-untrusted"):
        login = DeployOptions(keys=[theirs], python=sys.executable, ssh_options=device.options)
        deploy.bench(signed, device.url + "/~/film", options=ONE, login=login)


@pytest.mark.slow
def test_what_computes_something_else_there_takes_no_place(bundle, device, tmp_path):
    onnx = pytest.importorskip("onnx")
    place = small.copy(bundle, device.home / "film")
    other = small.copy(bundle, tmp_path / "film")
    model = onnx.load(other / "graphs/model.onnx")
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 2 and array.dtype == "float32":
            tensor.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), tensor.name))
    onnx.save(model, other / "graphs/model.onnx")
    small.sign(other)
    assert_refused(
        other,
        device,
        "remote-step",
        "edgekit verify",
        "5",
        path="/~/film",
        error=IntegrityError,
        remote_code="golden-differs",
    )
    assert content(place) == content(bundle)


def test_what_is_no_bundle_stays(bundle, device):
    place = device.home / "film"
    (small.copy(bundle, place) / "notes.txt").write_text("notes")
    before = sorted(map(str, device.home.rglob("*")))
    assert_refused(bundle, device, "remote-not-a-bundle", place, path="/~/film", error=UsageError)
    assert sorted(map(str, device.home.rglob("*"))) == before


def test_a_damaged_bundle_is_not_sent(bundle, device, tmp_path):
    damaged = small.copy(bundle, tmp_path / "damaged")
    (damaged / "golden.npz").write_bytes(b"x")
    assert_refused(damaged, device, "bundle-file-size", "golden.npz", error=IntegrityError)
    assert list(device.home.iterdir()) == []


# ---- who is not let in, and what is not there


def test_a_host_key_that_is_not_known(bundle, device):
    options = device.configured("unknown", UserKnownHostsFile="/dev/null")
    said = assert_refused(
        bundle,
        device,
        "remote-host-key-unknown",
        f"ssh -p {device.port} 127.0.0.1",
        f"ssh-keyscan -p {device.port} 127.0.0.1",
        ssh_options=options,
    )
    assert "No ED25519 host key is known" in said or "verification failed" in said
    # What the user's own configuration says otherwise does not hold.
    assert_refused(
        bundle,
        device,
        "remote-host-key-unknown",
        ssh_options=device.configured("lax", UserKnownHostsFile="/dev/null", StrictHostKeyChecking="no"),
    )


def test_a_host_key_that_is_another_one(bundle, device):
    sshd.key(device.folder / "other")
    known = sshd.known(device.folder / "changed", device.port, device.folder / "other.pub")
    shown = small.run("ssh-keygen", "-lf", device.folder / "host.pub").stdout.decode().split()[1]
    options = device.configured("another", UserKnownHostsFile=str(known))
    assert_refused(
        bundle,
        device,
        "remote-host-key-changed",
        shown,
        "ssh-keygen -f",
        f'-R "[127.0.0.1]:{device.port}"',
        ssh_options=options,
    )


def test_a_user_key_that_is_not_let_in(bundle, device, tmp_path):
    wrong = sshd.key(tmp_path / "wrong")
    options = device.configured("keyless", IdentityFile="none")
    assert_refused(
        bundle,
        device,
        "remote-connection",
        "ssh-copy-id",
        "Permission denied",
        ssh_options=options,
        identity=wrong,
    )
    assert_refused(bundle, device, "remote-connection", "ssh-copy-id", ssh_options=options)
    assert_refused(bundle, device, "key-not-found", tmp_path / "none", error=UsageError, identity=tmp_path / "none")
    asked = ask(device, "~/film", identity=device.folder / "user", options=options)
    assert (asked["path"], asked["state"]) == (str(device.home / "film"), "free")


def test_a_port_that_is_closed(bundle, device):
    with refused("remote-connection"):
        deploy.deploy(bundle, f"ssh://127.0.0.1:{sshd.free_port()}", options=DeployOptions(ssh_options=device.options))


def test_a_name_that_is_not_found(bundle, device):
    with refused("remote-connection"):
        deploy.deploy(bundle, "ssh://no-such-host.invalid", options=DeployOptions(ssh_options=device.options))


def test_a_host_that_does_not_answer(bundle, device):
    options = ("-o", "ConnectTimeout=1", "-o", "ProxyCommand=sleep 30", *device.options)
    assert_refused(bundle, device, "remote-connection", "does not answer", ssh_options=options)


def test_no_python(bundle, device, tmp_path):
    for python in ("/no/such python", "no-such-python"):
        assert_refused(bundle, device, "remote-python", f"'{python}'", "--python PATH", python=python)
    for python in ("", " ", "a\0b"):
        assert_refused(bundle, device, "remote-python-name", repr(python), error=UsageError, python=python)


def test_a_python_that_is_too_old(bundle, device, tmp_path):
    """Python 3.8, as far as it says of itself."""
    old = "import sys, platform; platform.python_version = lambda: '3.8.10'; code = sys.argv[1]; sys.argv[1:2] = []; exec(code)"
    python = script(tmp_path / "python3.8", f'shift\nexec {sys.executable} -c "{old}" "$@"')
    assert_refused(bundle, device, "remote-python", "127.0.0.1", "3.8.10", "3.10", python=python)
    assert_refused(
        bundle,
        device,
        "remote-python",
        "SyntaxError",
        python=script(tmp_path / "python2", "echo 'SyntaxError: invalid syntax' >&2; exit 1"),
    )


def test_a_device_without_edgekit(bundle, device, bare):
    said = assert_refused(
        bundle, device, "remote-edgekit", "pip install 'edgekit-sdk[cli]'", "onnxruntime", python=bare
    )
    assert "No module named edgekit" in said
    (device.home / "edgekit").mkdir()  # which Python takes for a package without a file of its own
    assert_refused(bundle, device, "remote-edgekit", python=bare)


def test_a_shell_that_greets(bundle, device, tmp_path):
    python = script(tmp_path / "python", f'echo "Welcome to the board"\nexec {sys.executable} "$@"')
    assert ask(device, "~", python)["path"] == str(device.home)


def test_without_ssh_here(bundle, device, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused(bundle, device, "program-missing", "'ssh'", "apt install openssh-client")


def test_a_disk_that_is_full_there(bundle, device):
    with small.tiny_disk("64k") as disk:
        assert_refused(bundle, device, "remote-disk-full", f"{disk}/film", path=f"{disk}/film")
        assert list(disk.iterdir()) == []


def test_a_place_that_cannot_be_made(bundle, device):
    (device.home / "file").write_text("x")
    assert_refused(bundle, device, "remote-step", "'make room'", "Error", path="/~/file/below")


# ---- on the way


def test_a_copy_that_was_altered_on_the_way(bundle, device, tmp_path, monkeypatch):
    """An scp that flips a bit."""
    flip = "import pathlib; p = pathlib.Path('bundle.edge'); b = bytearray(p.read_bytes()); b[len(b) // 2] ^= 4; p.write_bytes(b)"
    path = device.programs(
        tmp_path / "bin",
        f'cp bundle.edge kept; {sys.executable} -c "{flip}"; "$real" -F "$config" "$@"; mv kept bundle.edge',
    )
    monkeypatch.setenv("PATH", path["PATH"])
    assert_refused(bundle, device, "remote-copy-altered", "bundle.edge", error=IntegrityError)
    assert not (device.home / "edgekit" / bundle.name).exists()


def test_a_copy_that_fails(bundle, device, tmp_path, monkeypatch):
    path = device.programs(
        tmp_path / "bin", "echo 'scp: write remote \"bundle.edge\": No space left on device' >&2; exit 1"
    )
    monkeypatch.setenv("PATH", path["PATH"])
    assert_refused(bundle, device, "remote-copy", "127.0.0.1", "No space left on device")


def test_a_connection_that_is_lost_for_good(bundle, tmp_path, monkeypatch):
    """The server ends when half of the copy is there; nobody can clean up, and the message says where."""
    (tmp_path / "device").mkdir()
    (tmp_path / "doors").mkdir()
    with sshd.running(tmp_path / "device", TMPDIR=str(tmp_path / "doors")) as device:
        dies = f'"$real" -F "$config" "$@"; kill {device.process.pid}; echo "client_loop: send disconnect: Broken pipe" >&2; exit 255'
        monkeypatch.setenv("PATH", device.programs(tmp_path / "bin", dies)["PATH"])
        said = assert_refused(bundle, device, "remote-connection", "127.0.0.1", "was lost")
        (stage,) = (device.home / "edgekit").glob(".edgekit-copy-*")
        assert str(stage) in said


@pytest.mark.slow
@pytest.mark.parametrize("at", ["make room", "copy", "verify there", "put it in its place"])
def test_an_interrupt_leaves_nothing(bundle, device, at):
    def stop(step, *_):
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        brought(bundle, device, "/~/film", progress=stop)
    end = time.monotonic() + 20
    while left(device) and time.monotonic() < end:  # what ran there is told to end, and removes what it has begun
        time.sleep(0.1)
    assert [p.name for p in device.home.iterdir() if p.name != ".cache"] == (
        ["film"] if at.startswith("put") and (device.home / "film").exists() else []
    )


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(bundle, device, tmp_path):
    """It reaches all programs of the terminal's foreground; the copy takes a minute."""
    path = device.programs(tmp_path / "bin", "exec sleep 60")
    command = (sys.executable, "-m", "edgekit", "deploy", bundle, device.url, "--python", sys.executable)
    with small.started(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **path}, start_new_session=True
    ) as child:
        end = time.monotonic() + 60
        while len(left(device)) < 2 and child.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.5)
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate()
    assert (child.returncode, out) == (130, b"")
    assert small.without_steps(err.decode()) == "edgekit: interrupted; nothing was left behind.\n"


@pytest.mark.slow
def test_what_runs_there_ends_when_it_is_no_longer_wanted(bundle, device):
    small.copy(bundle, device.home / "film")

    def running():
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                found += (
                    [process.name] if str(device.home / "film").encode() in (process / "cmdline").read_bytes() else []
                )
            except OSError:
                continue
        return found

    seen = []

    def stop(step, *_):
        if step == "bench there" and running():
            seen.append(len(running()))
            if len(seen) > 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy.bench(
            bundle,
            device.url + "/~/film",
            options=BenchOptions(batches=[1], lengths=[8], seconds=120),
            login=DeployOptions(python=sys.executable, ssh_options=device.options),
            progress=stop,
        )
    end = time.monotonic() + 60
    while running() and time.monotonic() < end:
        time.sleep(0.1)
    assert running() == []


@pytest.mark.slow
def test_what_loses_a_request_to_end_is_asked_again(tmp_path):
    """The verb that runs there passes over the first signal, as an import with a fallback does with its exception."""
    (tmp_path / "edgekit").mkdir()
    (tmp_path / "edgekit/__init__.py").touch()
    (tmp_path / "edgekit/__main__.py").write_text(
        "import signal, sys, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: seen.append(1) if not seen else sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    code = "import runpy, sys; there = runpy.run_path(sys.argv[1]); there['verb'].__globals__['AGAIN_S'] = 0.2; there['verb']('x')"
    command = (sys.executable, "-c", code, deploy._there.__file__)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with small.started(*command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, **pipes) as child:
        assert child.stdout.readline().endswith(b"ready\n")
        child.stdin.close()
        assert child.wait(30) == 7


# ---- numbers from there


@pytest.mark.slow
def test_bench_on_a_device(bundle, device, tmp_path):
    """Through the command line; ``ssh`` and ``scp`` find the configuration as they would find the user's."""
    small.sign(small.copy(bundle, device.home / "film"), reason="another manifest")
    path = device.programs(tmp_path / "bin")
    there = ("--on", device.url + "/~/film", "--python", sys.executable)
    options = ("--batches", "1,2", "--lengths", "8", "--seconds", "0.05", *there)
    done = small.edgekit("bench", bundle, *options, "--json", **path)
    assert (done.returncode, small.without_steps(done.stderr.decode())) == (0, "")
    record = json.loads(done.stdout)
    assert record["bundle"] == str(device.home / "film")
    assert record["machine"].startswith(f"127.0.0.1:{device.port} (Linux ")
    assert [(p["batch"], p["length"], p["latency"]["count"] >= 11) for p in record["points"]] == [
        (1, 8, True),
        (2, 8, True),
    ]
    result = parse(Bench, record, "")
    assert result.record() == record
    manifest = device.home / "film" / "manifest.json"
    assert content(manifest.parent) == content(bundle), "it is brought in place of one with another manifest"

    before = manifest.stat().st_ino
    done = small.edgekit("bench", bundle, *options, "--threads", "1", "--backend", "onnxruntime", **path)
    first, _, table = done.stdout.decode().partition("encoded rows in, outputs out")
    line = " ".join(first.split())  # It is wrapped where the path is long.
    assert line.startswith(f"{device.home / 'film'} on 127.0.0.1:{device.port} (Linux ")
    assert "onnxruntime, 1 thread(s)," in line
    assert "batch  length  p50 ms" in table
    assert manifest.stat().st_ino == before, "the same bundle is not brought again"

    done = small.edgekit("bench", bundle, "--lengths", "65", "--seconds", "0.05", *there, **path)
    assert done.returncode == 2
    assert b"'edgekit bench' failed on 127.0.0.1" in done.stderr
    assert b"Length 65 " in done.stderr and b" 64 tokens" in done.stderr, "as the device says it"


@pytest.mark.parametrize(
    ("option", "code"),
    [("--python", "option-needs-other"), ("--identity", "option-needs-other"), ("--on", "address-invalid")],
)
def test_options_of_a_device_that_is_not_there(bundle, option, code):
    done = small.edgekit("bench", bundle, option, "board")
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"error[{code}]" in done.stderr.decode()
    assert (option if code == "option-needs-other" else "'board'") in done.stderr.decode()


@pytest.mark.slow
def test_the_verb(bundle, device, tmp_path):
    """A path of odd characters, and a bundle that is chosen on the device."""
    raced = small.copy(bundle, tmp_path / "raced")
    small.sign(raced, choose_on="device")
    name = 'it\'s a "test" $HOME `id` \\ ; & * ü % é'
    path = device.programs(tmp_path / "bin")
    report = tmp_path / "report.json"
    where = device.url + "/~/" + name.replace("%", "%25") + "/film 2"
    done = small.edgekit("deploy", raced, where, "--python", sys.executable, "--report", report, "--json", **path)
    assert (done.returncode, small.without_steps(done.stderr.decode())) == (0, "")
    record = json.loads(done.stdout)
    assert record == json.loads(report.read_text())
    assert record["path"] == record["compiled"]["bundle"] == str(device.home / name / "film 2")
    assert content(device.home / name / "film 2") == content(raced)
    assert [p.name for p in device.home.iterdir() if not p.name.startswith(".")] == [name]
    assert record["compiled"]["chosen"] == "float32 on onnxruntime"
    told = deploy.Deployed(**record).text()
    assert "runs there: float32 on onnxruntime, it is the only variant that can run here" in told
    done = small.edgekit("deploy", bundle, device.url + "/~/film", "--python", "no-such-python", **path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"error[remote-python]" in done.stderr
    assert b"no-such-python" in done.stderr


# ---- what runs there


@pytest.mark.parametrize(
    ("code", "error"),
    [(1, RemoteError), (2, UsageError), (3, BudgetError), (5, IntegrityError), (77, RemoteError), (137, RemoteError)],
)
def test_exit_codes_of_there_are_errors_of_here(device, tmp_path, code, error):
    """An ``edgekit`` that ends with each of them."""
    fake = f"import sys; sys.stderr.write('warning\\nedgekit: what happened.\\n  two\\n' if {code} < 100 else ''); sys.exit({code})"
    python = script(tmp_path / "python", f"exec {sys.executable} -c \"print('edgekit-says:', end=''); {fake}\"")
    with refused("remote-step") as caught:
        _ssh.Device(parse_url(device.url), python, None, device.options, lambda *_: None).verb(
            "verify there", "verify", "film"
        )
    assert type(caught.value) is error
    assert f"'edgekit verify' failed on 127.0.0.1:{device.port} (exit code {code}): " in str(caught.value)
    assert str(caught.value).endswith(
        ": what happened.\n  two" if code < 100 else ": it was ended by signal 9, as for lack of memory"
    )
