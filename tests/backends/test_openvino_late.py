"""Static shapes that OpenVINO compiles after the load: when they are compiled, by whom, and what happens if they cannot be."""

from __future__ import annotations

import concurrent.futures
import shutil
import threading
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import small
from refusals import refused

from edgekit import backends
from edgekit.backends import _openvino_engine
from edgekit.bundle.trust import open_bundle
from edgekit.runtime import golden
from edgekit.runtime.runner import open_runner
from edgekit.runtime.session import Session
from edgekit.timing.worker import Worker

SHAPES = (5, 8)
CALLS = _openvino_engine._CALLS_BEFORE_SHAPES
BUNDLE = small.ROOT / "tests" / "data" / "bundles" / "openvino"
GRAPH = BUNDLE / "graphs" / "model.onnx"
(SIGNATURE,) = open_bundle(BUNDLE).manifest.signatures
OUTPUT = SIGNATURE.outputs[0].name


def feeds(batch, length):
    ids = np.random.default_rng([batch, length]).integers(5, 200, (batch, length))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {spec.name: arrays[spec.name] for spec in SIGNATURE.inputs}


@pytest.fixture(scope="module")
def truth():
    """The same graph on another backend."""
    engine = backends.get("onnxruntime").open_device("cpu", 1).load(GRAPH, SIGNATURE)
    return lambda batch, length: engine.run(feeds(batch, length))[OUTPUT]


@pytest.fixture
def opened(monkeypatch):
    """An engine that has just been loaded, with its device; ``compiled`` is the number of its compilations."""
    device = backends.get("openvino").open_device("cpu", 1)
    compile_model = device.compile
    state = SimpleNamespace(device=device, compiled=0, before=lambda: None)

    def compile_counted(source, model):
        state.before()
        state.compiled += 1
        return compile_model(source, model)

    monkeypatch.setattr(device, "compile", compile_counted)
    state.engine = device.load(GRAPH, SIGNATURE, SHAPES)
    yield state
    state.before = lambda: None
    state.engine.close()


def answer(engine, batch=1, length=5):
    return engine.run(feeds(batch, length))[OUTPUT]


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "edgekit-static-shapes"]


def end_compilation():
    for thread in threads():
        thread.join()


@pytest.fixture
def gate(opened):
    """Holds the next compilation back until it is opened; ``reached`` tells that it has begun."""
    reached, opening = threading.Event(), threading.Event()

    def wait():
        reached.set()
        assert opening.wait(60)

    opened.before = wait
    yield SimpleNamespace(reached=reached, open=opening.set)
    opening.set()


# ---- when they are compiled


def test_a_load_compiles_dynamic_shapes_alone(opened, truth):
    assert (opened.compiled, opened.engine.ready_shapes) == (1, ())
    for length in (1, 5, 8, 30):
        np.testing.assert_allclose(answer(opened.engine, 1, length), truth(1, length), atol=1e-4)
    assert opened.compiled == 1


def test_warm_up_compiles_them_once(opened, truth):
    for _ in range(2):
        opened.engine.warm_up()
        assert (opened.compiled, opened.engine.ready_shapes) == (2, SHAPES)
    for batch, length in ((1, 1), (1, 5), (1, 8), (1, 30), (3, 5)):
        np.testing.assert_allclose(answer(opened.engine, batch, length), truth(batch, length), atol=1e-4)


def test_calls_that_they_would_serve_start_it(opened):
    """Batches and rows of other lengths do not count."""
    for _ in range(CALLS + 1):
        answer(opened.engine, 2, 5)
        answer(opened.engine, 1, 6)
    for _ in range(CALLS - 1):
        answer(opened.engine, 1, 8)
    assert threads() == [] and opened.compiled == 1
    answer(opened.engine, 1, 5)
    end_compilation()
    assert (opened.compiled, opened.engine.ready_shapes) == (2, SHAPES)


def test_without_static_shapes_there_is_nothing_to_do(opened):
    engine = opened.device.load(GRAPH, SIGNATURE)
    for _ in range(CALLS + 1):
        answer(engine)
    engine.warm_up()
    assert (opened.compiled, engine.ready_shapes, threads()) == (2, (), [])


def test_the_files_may_be_gone_by_then(tmp_path, truth):
    folder = shutil.copytree(BUNDLE, tmp_path / "bundle")
    engine = backends.get("openvino").open_device("cpu", 1).load(folder / "graphs" / "model.onnx", SIGNATURE, SHAPES)
    shutil.rmtree(folder)
    engine.warm_up()
    np.testing.assert_allclose(answer(engine), truth(1, 5), atol=1e-4)


def test_all_are_compiled_at_the_load_if_the_caller_says_so(opened, truth):
    """Then the dynamic shapes are compiled once, as a part of the same model."""
    engine = opened.device.load(GRAPH, SIGNATURE, SHAPES, when="load")
    assert (opened.compiled, engine.ready_shapes) == (2, SHAPES)
    for batch, length in ((1, 1), (1, 5), (1, 8), (1, 30), (3, 5)):
        np.testing.assert_allclose(answer(engine, batch, length), truth(batch, length), atol=1e-4)
    engine.warm_up()
    assert opened.compiled == 2


# ---- several threads


def test_calls_are_answered_while_they_are_compiled(opened, gate, truth):
    for _ in range(CALLS):
        answer(opened.engine)
    assert gate.reached.wait(60)
    for length in (5, 8, 30):
        np.testing.assert_allclose(answer(opened.engine, 1, length), truth(1, length), atol=1e-4)
    assert opened.engine.ready_shapes == ()
    gate.open()
    opened.engine.warm_up()
    assert opened.engine.ready_shapes == SHAPES


def test_one_thread_compiles_and_the_others_wait(opened, gate):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(opened.engine.warm_up) for _ in range(3)]
        assert gate.reached.wait(60)
        assert not any(future.done() for future in waiting)
        gate.open()
        for future in waiting:
            future.result(60)
    assert (opened.compiled, opened.engine.ready_shapes) == (2, SHAPES)


def test_a_call_keeps_the_model_that_it_began_with(opened, truth):
    """Calls of two threads run without a pause while the models change."""
    wrong, done = [], threading.Event()

    def work(length):
        expected = truth(1, length)
        while not done.is_set():
            if not np.allclose(answer(opened.engine, 1, length), expected, atol=1e-4):
                wrong.append(length)

    workers = [threading.Thread(target=work, args=(length,)) for length in (5, 8)]
    for worker in workers:
        worker.start()
    opened.engine.warm_up()
    done.set()
    for worker in workers:
        worker.join()
    assert (wrong, opened.engine.ready_shapes) == ([], SHAPES)


# ---- close


def test_close_waits_for_a_compilation_that_runs(opened, gate):
    opened.engine._late.start()
    assert gate.reached.wait(60)
    closing = threading.Thread(target=opened.engine.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    gate.open()
    closing.join(60)
    assert threads() == [] and opened.engine._requests is None


def test_nothing_is_compiled_after_close(opened):
    opened.engine.close()
    opened.engine._late.start()
    assert threads() == [] and opened.compiled == 1


# ---- failures


@pytest.mark.parametrize("problem", [RuntimeError("no such kernel"), MemoryError()], ids=["refused", "memory"])
def test_shapes_that_cannot_be_compiled(opened, truth, problem):
    """Asking for them is an error; a call warns once and is answered by dynamic shapes."""

    def fail():
        raise problem

    opened.before = fail
    for _ in range(2):
        with refused("static-shapes-failed", str(problem) or "MemoryError", shapes="5, 8") as caught:
            opened.engine.warm_up()
    assert caught.value.__cause__ is problem
    with pytest.warns(UserWarning, match="5, 8"):
        found = answer(opened.engine)
    np.testing.assert_allclose(found, truth(1, 5), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer(opened.engine)
    assert opened.engine.ready_shapes == ()


def test_a_failure_in_the_background_is_no_secret(opened):
    def fail():
        raise RuntimeError("no such kernel")

    opened.before = fail
    for _ in range(CALLS):
        answer(opened.engine)
    end_compilation()
    with pytest.warns(UserWarning, match="no such kernel"):
        answer(opened.engine)


def test_a_process_that_may_not_start_a_thread(opened, monkeypatch):
    def fail(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with refused("static-shapes-failed", "can't start new thread"):
        opened.engine.warm_up()


# ---- processes

IN_A_PROCESS = """
import os, sys
from pathlib import Path
import numpy as np
from edgekit import backends
from edgekit.bundle.trust import open_bundle
from edgekit.spec.errors import BackendError
bundle = open_bundle(Path(sys.argv[1]))
engine = backends.get("openvino").open_device("cpu", 1).load(
    bundle.path / "graphs" / "model.onnx", bundle.manifest.signatures[0], tuple(range(5, 17))
)
"""


def test_a_process_that_ends_while_they_are_compiled():
    done = small.python(IN_A_PROCESS + "engine._late.start(); print('end')", str(BUNDLE))
    assert (done.returncode, done.stdout.split()) == (0, [b"end"]), done.stderr.decode()


def test_a_child_that_is_forked_while_they_are_compiled():
    """It is refused and ends; the parent goes on."""
    code = """
engine._late.start()
if (child := os.fork()) == 0:
    try:
        engine.warm_up()
    except BackendError as problem:
        print(problem.code, flush=True)
    engine.close()
    sys.exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
engine.warm_up()
print(status, len(engine.ready_shapes))
"""
    done = small.python(IN_A_PROCESS + code, str(BUNDLE))
    assert done.stdout.split() == [b"process-forked", b"0", b"12"], done.stderr.decode()


# ---- sessions, and all that measures or compares


@pytest.fixture
def session():
    bundle = open_bundle(BUNDLE)
    with Session(bundle, replace(bundle.manifest.variants[0], shapes=SHAPES)) as opened:
        yield opened


def test_a_session_says_which_shapes_are_ready(session):
    assert (session.info.shapes, session.info.ready_shapes) == (SHAPES, ())
    session.warm_up()
    assert session.info.ready_shapes == SHAPES


@pytest.mark.parametrize(("method", "when"), [("float32", "later"), ("weight_only", "later"), ("static", "use")])
def test_dynamic_shapes_stand_in_only_where_they_answer_alike(method, when, monkeypatch):
    bundle, times = open_bundle(BUNDLE), []
    device = backends.get("openvino").OpenVinoDevice
    load = device.load
    monkeypatch.setattr(device, "load", lambda *a, when: (times.append(when), load(*a, when=when))[1])
    with Session(bundle, replace(bundle.manifest.variants[0], method=method, shapes=SHAPES)) as session:
        assert (times, session.info.ready_shapes) == ([when], ())


def test_golden_outputs_are_compared_with_static_shapes(session):
    assert golden.check(session).passed
    assert session.info.ready_shapes == SHAPES


def test_a_runner_of_a_build_has_them():
    with open_runner({"forward": GRAPH}, {"forward": SIGNATURE}, "openvino", shapes=SHAPES) as runner:
        assert runner.engines["forward"].ready_shapes == SHAPES


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_session_without_static_shapes(backend):
    bundle = open_bundle(BUNDLE.parent / backend)
    with Session(bundle, replace(bundle.manifest.variants[0], shapes=())) as session:
        session.warm_up()
        assert session.info.ready_shapes == ()


def test_times_are_those_of_static_shapes(monkeypatch):
    """The first answer of a worker process comes from a session as loaded; whatever it measures then does not."""
    report = "import edgekit.runtime.session as s; warm = s.Session.warm_up; "
    report += "s.Session.warm_up = lambda self: (warm(self), setattr(self, '_ready', self.info.ready_shapes))[0]; "
    report += "info = s.Session.info; "
    report += "s.Session.info = property(lambda self: type('I', (), {'method': str(getattr(self, '_ready', ())), "
    report += "'backend': 'x', 'streams': 1, 'ready_shapes': info.fget(self).ready_shapes})()); "
    monkeypatch.setattr(
        Worker, "CHILD", Worker.CHILD.replace("from edgekit.timing.child", report + "from edgekit.timing.child")
    )
    variant = replace(open_bundle(BUNDLE).manifest.variants[0], shapes=SHAPES)
    with Worker(BUNDLE, variant=variant) as worker:
        worker.start("a fine film")
        assert worker.method_and_backend()[0] == "()"
        worker.time(["a fine film"])
        assert worker.method_and_backend()[0] == str(SHAPES)
