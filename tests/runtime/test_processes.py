"""Sessions in forked and spawned processes, in threads and event loops, copied, pickled, and closed while they are at work.

What forks is a process of its own: the one that runs the tests has too many threads to be forked.
"""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import os
import pickle
import sys
import threading
import time

import pytest
import small
from refusals import refused

import edgekit
from edgekit import EdgekitError

TEXTS = small.texts(12, seed=21)
_PARENT = """
import os, sys, time, signal
import edgekit, small
texts = small.texts(12, seed=21)
bundle, loads = sys.argv[1], int(sys.argv[2])
sessions = [edgekit.load(bundle, threads=2) for _ in range(loads)]
expected = [session(texts) for session in sessions]

def act(what, end):
    try:
        if what == "call":
            sessions[-1](texts[0]); print("same" if sessions[-1](texts) == expected[-1] else "other", flush=True)
        elif what == "load":
            print(len(edgekit.load(bundle, threads=2)(texts)), flush=True)
        elif what == "close":
            for session in sessions: session.close()
            print("closed", flush=True)
        else:
            print("nothing", flush=True)
    except edgekit.BackendError as problem:
        print(type(problem).__name__, " ".join(str(problem).split()), flush=True)
    if end == "delete":
        sessions.clear(); os._exit(0)
    sys.exit(0)

for what in sys.argv[3:]:
    child = os.fork()
    if child == 0:
        act(*what.split())
    limit = time.monotonic() + 60
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > limit:
            os.kill(child, signal.SIGKILL); print("HANGS"); break
        time.sleep(0.01)
    print("status", status, "parent", sessions[-1](texts) == expected[-1] if sessions else True, flush=True)
"""
PATH = {"PYTHONPATH": os.pathsep.join(map(str, (small.ROOT, small.ROOT / "tests", os.environ.get("PYTHONPATH", ""))))}


def forked(bundle, loads, *acts):
    """Return what a child prints for each act, all of them forked from one process that has loaded the bundle so often."""
    done = small.python(_PARENT, bundle, loads, *acts, **PATH)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[1::2] == ["status 0 parent True"] * len(acts), lines
    return lines[::2]


@pytest.mark.slow
def test_a_forked_child_on_onnx_runtime_answers_loads_closes_and_ends(float32_ort):
    assert forked(float32_ort, 1, "call delete", "call exit", "close exit") == ["same", "same", "closed"]
    assert forked(float32_ort, 2, "call delete", "call exit", "load exit") == ["same", "same", "12"]


@pytest.mark.slow
def test_a_forked_child_on_openvino_gets_an_error_that_says_how_or_ends(float32_openvino):
    errors = forked(float32_openvino, 1, "call exit", "load exit", "close delete")
    assert errors.pop() == "closed"
    errors += forked(float32_openvino, 2, "call delete", "call exit", "nothing exit")
    assert errors.pop() == "nothing"
    for words in errors:
        assert words.startswith("BackendError")
        for remedy in ("Load the bundle in the child", "get_context('spawn')", "backend='onnxruntime'"):
            assert remedy in words


@pytest.mark.slow
def test_a_forked_child_on_openvino_loads_where_the_parent_has_not(float32_openvino):
    assert forked(float32_openvino, 0, "load exit") == ["12"]


@pytest.mark.slow
def test_a_fork_while_other_threads_are_in_a_call(float32_ort):
    """The lock of the calls may be held by a thread that the child does not have; closing there must not wait for its call either."""
    code = """
import os, sys, threading, time, signal
import edgekit, small
texts = small.texts(12, seed=21)
session = edgekit.load(sys.argv[1], threads=2)
expected = [session(t).label for t in texts]
threads = [threading.Thread(target=lambda: [session(texts) for _ in iter(int, 1)], daemon=True) for _ in range(3)]
for t in threads: t.start()
bad = 0
for _ in range(25):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        right = [session(t).label for t in texts] == expected
        session.close()
        os._exit(0 if right else 1)
    bad += os.waitpid(child, 0)[1] != 0
print(bad)
os._exit(0)
"""
    done = small.python(code, float32_ort, **PATH)
    assert (done.returncode, done.stdout) == (0, b"0\n"), done.stderr.decode()


@pytest.mark.system
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(float32_bundle, tmp_path, method):
    """A pool whose workers load the bundle themselves, as the errors advise."""
    script = tmp_path / "work.py"
    script.write_text(
        """
import multiprocessing, sys
import edgekit, small
texts = small.texts(12, seed=21)

def start(bundle):
    global session
    session = edgekit.load(bundle)

def answer(text):
    return session(text).label

def use(held):
    return held

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    with context.Pool(2, start, (sys.argv[1],)) as pool:
        labels = pool.map(answer, texts)
        session = edgekit.load(sys.argv[1])
        print(labels == [session(t).label for t in texts])
        try:
            pool.apply(use, (session,))
        except edgekit.UsageError as problem:
            print("edgekit.load(path)" in str(problem))
""",
        "utf-8",
    )
    done = small.run(sys.executable, script, float32_bundle, method, **PATH)
    assert (done.returncode, done.stdout) == (0, b"True\nTrue\n"), done.stderr.decode()


@pytest.mark.system
@pytest.mark.parametrize(("backend", "preload"), [("ort", True), ("openvino", True), ("openvino", False)])
def test_gunicorn(backend, tmp_path, preload, request):
    float32_bundle = request.getfixturevalue(f"float32_{backend}")
    if importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed here: pip install 'edgekit-sdk[dev]'")
    (tmp_path / "service.py").write_text(
        f"""
import edgekit
session = edgekit.load({str(float32_bundle)!r}, threads=2)

def application(environ, start_response):
    try:
        status, body = "200 OK", session("the film is strong").label
    except edgekit.BackendError as problem:
        status, body = "503 Service Unavailable", str(problem)
    start_response(status, [("Content-Type", "text/plain")])
    return [body.encode()]
""",
        "utf-8",
    )
    (tmp_path / "ask.py").write_text(
        """
import http.client, os, signal, socket, subprocess, sys, time
with socket.socket() as s:
    s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "--graceful-timeout", "30", *sys.argv[1:], "service:application"]
with subprocess.Popen(command, stderr=subprocess.PIPE) as server:
    limit, replies = time.monotonic() + 60, []
    while len(replies) < 6 and time.monotonic() < limit:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/")
            reply = connection.getresponse()
            replies.append((reply.status, reply.read().decode()))
        except ConnectionError:
            time.sleep(0.1)
    start = time.monotonic()
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
    print(sorted({(s, b.split(",")[0]) for s, b in replies}), len(replies), time.monotonic() - start < 15)
""",
        "utf-8",
    )
    done = small.run(sys.executable, tmp_path / "ask.py", *(["--preload"] if preload else []), cwd=tmp_path, **PATH)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    with edgekit.load(float32_bundle) as session:
        label, backend = session("the film is strong").label, session.info.backend
    assert said.endswith("6 True\n"), "all requests are answered, and the workers end when they are told to"
    if preload and backend == "openvino":
        assert "(503, 'This bundle was loaded on OpenVINO in process" in said
        assert "200" not in said
    else:
        assert said.startswith(f"[(200, '{label}')]")


def test_a_server_that_forks_after_loading(float32_ort):
    """What gunicorn does with preload_app, by hand: load, fork workers, each answers and leaves by ``sys.exit``."""
    code = """
import os, sys, signal
import edgekit, small
session = edgekit.load(sys.argv[1], threads=2)
texts = small.texts(12, seed=21)
expected = session(texts)
workers = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        for _ in range(20):
            assert session(texts) == expected
        sys.exit(0)
    workers.append(child)
print([os.waitpid(child, 0)[1] for child in workers])
"""
    done = small.python(code, float32_ort, **PATH)
    assert (done.returncode, done.stdout) == (0, b"[0, 0, 0, 0]\n"), done.stderr.decode()


def test_usage_data_is_collected_by_nobody():
    done = small.python("import edgekit, os; print(os.environ['ORT_DISABLE_TELEMETRY'])")
    assert done.stdout == b"1\n"
    done = small.python("import edgekit, os; print(os.environ['ORT_DISABLE_TELEMETRY'])", ORT_DISABLE_TELEMETRY="0")
    assert done.stdout == b"0\n", "who wants it has it"


# ---- threads, event loops, copies


def test_threads_and_an_event_loop(float32_bundle):
    with edgekit.load(float32_bundle) as session:
        expected = [session(text).label for text in TEXTS]

        async def ask():
            return await asyncio.gather(*(asyncio.to_thread(session, text) for text in TEXTS * 4))

        assert [a.label for a in asyncio.run(ask())] == expected * 4


def test_a_session_is_not_copied(float32_bundle):
    with edgekit.load(float32_bundle) as session:
        within = {"kept": [session]}
        ways = (pickle.dumps, session), (pickle.dumps, within), (copy.copy, session), (copy.deepcopy, within)
        for way, thing in (*ways, (copy.deepcopy, session)):
            with refused("session-pickled"):
                way(thing)
        assert session("the film").label


# ---- closing


def test_closing_waits_for_calls_and_those_that_come_later_are_refused(float32_bundle):
    session = edgekit.load(float32_bundle, threads=1)
    expected = [session(text).label for text in TEXTS]
    inside, outcomes = threading.Barrier(4), []

    def work():
        inside.wait()
        try:
            for _ in range(10_000):
                answers = session(TEXTS)
                assert [a.label for a in answers] == expected
            outcomes.append("never refused")
        except EdgekitError as problem:
            outcomes.append(str(problem))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait()
    time.sleep(0.05)
    session.close()
    assert session._engine is None
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 3
    assert all("This session is closed" in said for said in outcomes)
    session.close()


def test_closing_frees_the_engine_when_the_last_call_has_ended(float32_ort):
    session = edgekit.load(float32_ort)
    engine, steps = session._engine, []
    ran, closed = engine.run, threading.Event()
    go = threading.Event()

    def slow(*arguments):
        go.set()
        time.sleep(0.3)
        steps.append(("call ended", engine._session is not None))
        return ran(*arguments)

    engine.run = slow
    caller = threading.Thread(target=lambda: steps.append(session("the film").label))
    caller.start()
    assert go.wait(60)
    session.close()
    closed.set()
    caller.join(60)
    assert steps[0] == ("call ended", True)
    assert steps[1] in small.LABELS
    assert engine._session is None


def test_closing_within_a_call_of_the_same_thread_does_not_wait_for_itself(float32_ort):
    """As a signal handler does it that ends a service."""
    session = edgekit.load(float32_ort)
    engine = session._engine
    ran = engine.run

    def interrupted(*arguments):
        session.close()
        return ran(*arguments)

    engine.run = interrupted
    assert session("the film").label in small.LABELS, "the call that is at work ends as it would"
    assert session._engine is None
    with refused("session-closed"):
        session("the film")
