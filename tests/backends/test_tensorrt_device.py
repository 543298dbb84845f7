"""The TensorRT device on stand-ins for driver and library: what it is, what it refuses, how engines are made and loaded, and how the library is found."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
import types

import fake_tensorrt
import numpy as np
import pytest
import small
from fake_cuda import FakeDriver
from fake_tensorrt_bench import VERSIONS, encoder
from refusals import refused

from edgekit.backends import EngineMismatchError, _trt, _trt_device, tensorrt
from edgekit.backends._trt_device import TensorRtDevice
from edgekit.drivers import jetson
from edgekit.drivers.cuda import Cuda
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.progress import silent
from edgekit.spec.tensor import Signature, TensorSpec

SIGNATURE = Signature(
    "forward",
    tuple(TensorSpec(name, "int64", ("batch", "seq")) for name in ("ids", "mask")),
    (TensorSpec("y", "float32", ("batch", "seq", 4)),),
)
PROFILE = {"batch": (1, 1, 4), "seq": (1, 8, 16)}
RECIPE = EngineRecipe((PROFILE,))
ORIN = jetson.Board(
    "NVIDIA Jetson Orin NX", "tegra234", "36.4.3", "6.2", "10.3.0", "MAXN (0)", None, None, 16 * 1024, 12 * 1024
)


@pytest.fixture
def make(monkeypatch):
    """Opens devices with a library of a version; nothing may be left of them in the end."""
    monkeypatch.setattr(_trt, "_loggers", {})
    monkeypatch.setattr(jetson, "board", lambda: None)
    opened = []

    def make(version="10.16.1", driver=None, **knobs):
        driver = driver or FakeDriver.jetson(deferred=True)
        device = TensorRtDevice(fake_tensorrt.make(version, driver, **knobs), 1, Cuda(library=driver))
        device.fake, device.driver = fake_tensorrt.fake(device.trt), driver
        opened.append(device)
        return device

    yield make
    for device in opened:
        device.close()
        assert (device.driver.misuse, device.driver.leaks(), device.fake.engines, device.fake.contexts) == (
            [],
            [],
            0,
            0,
        )


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(encoder().SerializeToString())
    return path


def build(device, graph, recipe=RECIPE, cache=b"", progress=silent):
    return device.compile(graph, SIGNATURE, recipe, cache, progress)


def on_board(monkeypatch, board=ORIN):
    monkeypatch.setattr(jetson, "board", lambda: board)


# ---- what it is, and what it refuses


def test_identity_is_all_that_an_engine_is_bound_to(make, monkeypatch):
    on_board(monkeypatch)
    orin = make("10.3.0").identity()
    assert {**orin, "machine": ""} == {
        "library": "tensorrt",
        "version": "10.3.0",
        "driver": 12060,
        "l4t": "36.4.3",
        "machine": "",
        "compute_capability": "8.7",
        "device": "Orin",
        "multiprocessors": 8,
        "memory": 16 * 2**30,
    }
    assert orin["machine"] == f"{platform.system()} {platform.machine()}"
    on_board(monkeypatch, None)
    assert make("10.3.0").identity()["l4t"] == "none"
    others = [
        make("11.4.0"),
        *(
            make("10.3.0", FakeDriver.jetson(**{what: value}))
            for what, value in (("multiprocessors", 16), ("driver_version", 13000))
        ),
    ]
    assert [{k for k, v in device.identity().items() if v != orin[k]} - {"l4t"} for device in others] == [
        {"version"},
        {"multiprocessors"},
        {"driver"},
    ]
    assert others[0].identity()["version"] == "11.4.0.106", "with all its parts"


def test_a_bundle_for_another_chip_is_refused(make, graph):
    device = make()
    with refused("engine-compute-capability") as caught:
        build(device, graph, EngineRecipe((PROFILE,), compute_capability=("8.9", "12.0")))
    assert all(word in str(caught.value) for word in ("8.9, 12.0", "Orin", "8.7"))
    assert device.fake.builds == 0
    device.check(EngineRecipe((PROFILE,), compute_capability=("8.6", "8.7")))
    assert build(device, graph, EngineRecipe((PROFILE,), compute_capability=("8.7",))).plan


def test_a_bundle_for_a_newer_tensorrt_is_refused(make, monkeypatch, graph):
    on_board(monkeypatch)
    device = make("10.3.0")
    with refused("tensorrt-too-old") as caught:
        build(device, graph, EngineRecipe((PROFILE,), minimum="10.16"))
    assert all(word in str(caught.value) for word in ("TensorRT 10.16", "10.3.0", "JetPack 6.2", "newer JetPack"))
    assert device.fake.builds == 0
    on_board(monkeypatch, None)
    with refused("tensorrt-too-old", "11.0", "10.16.1.11", "10.3"):
        make("10.16.1").check(EngineRecipe((PROFILE,), minimum="11.0"))
    make("10.16.1").check(EngineRecipe((PROFILE,), minimum="10.16"))
    device = make("10.3.0")
    device.trt.__name__ = "tensorrt_rtx_bindings"
    device.check(EngineRecipe((PROFILE,), minimum="10.16"))  # whose versions are others
    device.trt.__name__ = "tensorrt"


def test_a_closed_device_does_nothing_more(make, graph):
    device = make()
    plan = build(device, graph).plan
    device.close()
    for call in (lambda: build(device, graph), lambda: device.load(plan, SIGNATURE)):
        with refused("cuda-closed"):
            call()


def test_tensorrt_that_does_not_start(monkeypatch):
    """As with a driver that is older than the CUDA that TensorRT was made for: the factory gives a null pointer."""
    monkeypatch.setattr(_trt, "_loggers", {})
    driver = FakeDriver()
    trt = fake_tensorrt.make("11.4.0", driver)

    def fail(self, logger):
        logger.log(logger.Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt.Runtime, "__init__", fail)
    with refused("tensorrt-start", "11.4.0.106", "CUDA", "35"):
        TensorRtDevice(trt, 2, Cuda(library=driver))
    assert (driver.leaks(), driver.misuse) == ([], [])


# ---- loading


DAMAGED = {
    "cut": (lambda plan: plan[:-9], r"Assertion bufferSize >= minBufferSize failed"),
    "a bit": (lambda plan: plan[:-9] + bytes([plan[-9] ^ 1]) + plan[-8:], "Assertion"),
    "empty": (lambda plan: b"", "Cannot deserialize with an empty memory buffer"),
    "something else": (lambda plan: b"nothing of the kind" * 9, "Magic tag does not match"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_plan_is_to_be_made_again(make, graph, what):
    device = make()
    plan = build(device, graph).plan
    damage, words = DAMAGED[what]
    with refused("engine-mismatch", f"{words}", "10.16.1.11", "BUNDLE"):
        device.load(damage(plan), SIGNATURE)
    device.load(plan, SIGNATURE)


def test_a_plan_of_another_version_or_chip_is_to_be_made_again(make, graph):
    plan = build(make("10.3.0"), graph).plan
    with refused("engine-mismatch", "10.16.1.11", "10.3.0"):
        make("10.16.1").load(plan, SIGNATURE)
    with refused("engine-mismatch", "8.9", "8.7"):
        make("10.3.0", FakeDriver()).load(plan, SIGNATURE)


@pytest.mark.parametrize(
    "line",
    [
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
        "Requested amount of GPU memory (52428800 bytes) could not be allocated. There may not be enough free memory for allocation to succeed.",
        "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (an illegal memory access was encountered)",
    ],
)
def test_a_plan_that_finds_no_memory_is_not_made_again(make, graph, monkeypatch, line):
    """A mismatch would have it thrown out of the cache, and minutes spent on another that finds no memory either."""
    device = make()
    plan = build(device, graph).plan

    def fail(runtime, plan):
        runtime.logger.log(runtime.logger.Severity.ERROR, line)

    monkeypatch.setattr(device.trt.Runtime, "deserialize_cuda_engine", fail)
    with refused("engine-load-failed") as caught:
        device.load(plan, SIGNATURE)
    assert line in str(caught.value) and not isinstance(caught.value, EngineMismatchError)
    assert "Not enough memory" in str(caught.value) or "illegal" in line
    monkeypatch.undo()


def test_plans_come_as_files_and_as_memory(make, graph, tmp_path):
    device = make()
    plan = build(device, graph).plan
    (tmp_path / "engine.plan").write_bytes(plan)
    feeds = {"ids": np.ones((1, 3), int), "mask": np.ones((1, 3), int)}
    answers = [
        device.load(source, SIGNATURE).run(feeds)["y"]
        for source in (plan, bytearray(plan), memoryview(plan), tmp_path / "engine.plan")
    ]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    with refused("shapes-unsupported", "16", "32"):
        device.load(plan, SIGNATURE, (16, 32))


def test_engines_that_are_closed_are_forgotten(make, graph):
    device = make()
    plan = build(device, graph).plan
    for _ in range(3):
        device.load(plan, SIGNATURE).close()
    assert len(device._engines) == 1 and device.fake.engines == 0
    kept = [device.load(plan, SIGNATURE) for _ in range(2)]
    device.close()
    assert device.fake.engines == 0 and kept


# ---- making


@pytest.fixture
def configs(monkeypatch):
    """What builds were told: network and settings, read when they begin."""

    def watch(device):
        seen, real = [], device.trt.Builder.build_serialized_network

        def spy(builder, network, config):
            flags, typed = device.trt.BuilderFlag, device.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
            seen.append({
                "workspace": config.get_memory_pool_limit(device.trt.MemoryPoolType.WORKSPACE),
                "flags": {name for name in flags.__members__ if config.get_flag(getattr(flags, name))},
                "level": config.builder_optimization_level,
                "verbosity": config.profiling_verbosity.name,
                "typed": network.get_flag(typed),
                "asked": network.flags,
                "profiles": config.num_optimization_profiles,
            })  # fmt: skip
            return real(builder, network, config)

        monkeypatch.setattr(device.trt.Builder, "build_serialized_network", spy)
        return seen

    return watch


@pytest.mark.parametrize("version", VERSIONS)
def test_settings_of_a_build(make, graph, configs, version):
    device = make(version)
    seen = configs(device)
    build(device, graph)
    two = (PROFILE, {"batch": (1, 1, 1), "seq": (17, 20, 32)})
    build(device, graph, EngineRecipe(two, workspace_mb=64, optimization_level=5, flags=("SPARSE_WEIGHTS", "TF32")))
    assert [s["workspace"] for s in seen] == [4 * 2**30, 64 * 2**20], (
        "a quarter of the device's 16 GiB where the recipe says nothing"
    )
    assert [s["flags"] for s in seen] == [set(), {"SPARSE_WEIGHTS", "TF32"}], "TensorRT sets TF32 by itself"
    assert [s["level"] for s in seen] == [3, 5] and [s["profiles"] for s in seen] == [1, 2]
    assert {(s["verbosity"], s["typed"]) for s in seen} == {("DETAILED", True)}
    assert {s["asked"] for s in seen} == {1 if version == "11.4.0" else 2}, (
        "its value is 0 in TensorRT 11, which needs not be asked"
    )


def test_a_workspace_larger_than_the_device_is_refused(make, graph):
    device = make()
    with refused("engine-workspace", "16385", "16384"):
        build(device, graph, EngineRecipe((PROFILE,), workspace_mb=16385))
    assert device.fake.builds == 0
    build(device, graph, EngineRecipe((PROFILE,), workspace_mb=16384))


def test_a_flag_that_this_version_does_not_have(make, graph):
    with refused("tensorrt-name-unknown", "flags", "FP16", "DEBUG", "TF32"):
        build(make("11.4.0"), graph, EngineRecipe((PROFILE,), flags=("FP16",)))
    with refused("engine-build-failed"):
        build(make("10.3.0"), graph, EngineRecipe((PROFILE,), flags=("FP16",)))


def test_a_timing_cache_saves_the_next_build_its_timing(make, graph):
    device = make()
    cache = build(device, graph).timing_cache
    timed = device.fake.timed
    assert timed > 0 and cache
    again = build(device, graph, cache=cache)
    assert device.fake.timed == timed, "nothing was timed again"
    assert build(device, graph, cache=again.timing_cache).plan and device.fake.timed == timed, (
        "and what it gives serves the next"
    )


@pytest.mark.parametrize("what", ["another version", "another chip", "damaged", "nothing of the kind"])
def test_a_foreign_timing_cache_is_not_used(make, graph, what):
    device = make()
    own = build(device, graph).timing_cache
    elsewhere = make("10.3.0") if what == "another version" else make(driver=FakeDriver())
    foreign = {"damaged": own[:-5], "nothing of the kind": b"\0" * 40}.get(what) or build(elsewhere, graph).timing_cache
    before = device.fake.timed
    built = build(device, graph, cache=foreign)
    timed = device.fake.timed - before
    assert timed > 0 and built.plan
    build(device, graph, cache=built.timing_cache)
    assert device.fake.timed == before + timed, "what it gives is this device's"


def test_a_build_that_fails_shows_nvidias_lines(make, graph):
    device = make(build_returns_none=True)
    with refused("engine-build-failed") as caught:
        build(device, graph)
    lines = str(caught.value).splitlines()
    assert lines[0] == "TensorRT 10.16.1.11 could not build an engine from graph.onnx. Its messages:"
    assert lines[1].startswith(
        "  IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node"
    )
    assert lines[2].startswith("No kernel fits the workspace: set a larger workspace_mb")
    device.fake.build_returns_none = False
    assert build(device, graph).plan
    graph.write_bytes(b"no graph")
    with refused("engine-graph-refused", "10.16.1.11", "graph.onnx"):
        build(device, graph)


def test_progress_tells_of_the_outermost_phase(make, graph):
    told = []
    build(make(), graph, progress=lambda *step: told.append(step))
    assert [step for step in told if step[0]] == [("TensorRT builds the engine", done, 3) for done in (1, 2, 3)]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(3), ValueError("of the progress bar")])
def test_what_progress_raises_ends_the_build(make, graph, stop):
    device, asked = make(), []

    def progress(*step):
        asked.append(step)
        if len(asked) == 4:
            raise stop

    with pytest.raises(type(stop)) as caught:
        build(device, graph, progress=progress)
    assert caught.value is stop
    assert len(asked) == 4 and device.fake.builds == 0, "nothing is told any more, and no engine is made"
    assert build(device, graph).plan, "and the next one is not hindered"


def test_ctrl_c_ends_the_build_wherever_it_comes(make, graph, monkeypatch):
    """Python handles a signal in what the main thread runs next. In a build that is the logger, where the bindings print what is raised and drop it."""
    device, sent, handled = make(), [], threading.Event()

    def interrupt(number, frame):
        handled.set()
        signal.default_int_handler(number, frame)

    class Broken(_trt.Messages):
        def add(self, severity, text):
            if not sent:
                sent.append(text)
                os.kill(os.getpid(), signal.SIGINT)
                assert handled.wait(30), "the main thread sees it, on a busy machine too"
                time.sleep(0.5)  # and ends the build
            super().add(severity, text)

    _, messages = _trt.logger(device.trt)
    monkeypatch.setattr(messages, "__class__", Broken)
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            build(device, graph, progress=lambda *step: time.sleep(0.05))
    finally:
        signal.signal(signal.SIGINT, before)
    assert sent and device.fake.builds == 0, "the builder ends at its next step, and the call with it"
    assert not [t for t in threading.enumerate() if t.name.startswith("edgekit-build")]
    assert build(device, graph).plan


# ---- the library


def library(monkeypatch, version):
    module = types.ModuleType("tensorrt")
    module.__version__ = version
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.mark.parametrize("version", ["10.3.0", "10.16.2.10", "11.4.1", "11.0.0.dev3", "10.3.0+cuda12.6"])
def test_versions_that_are_supported(monkeypatch, version):
    module = library(monkeypatch, version)
    assert tensorrt.library() is module


def old(l4t, jetpack, tensorrt_version, soc="tegra234"):
    return jetson.Board("NVIDIA Jetson", soc, l4t, jetpack, tensorrt_version, "", None, None, 8192, 4096)


@pytest.mark.parametrize(
    ("version", "board", "advice"),
    [
        (
            "8.6.2",
            old("36.3.0", "6.0", "8.6.2"),
            "JetPack 6.1 or newer",
        ),
        (
            "8.5.2.2",
            old("35.4.1", "5.1.2", "8.5.2", "tegra194"),
            "Jetson Xavier is JetPack 5",
        ),
        (
            "10.0.1",
            ORIN,
            "/usr/bin/python3 -m venv",
        ),
        ("10.0.1", None, "Install TensorRT 10.3 or newer. Run: pip install -U 'tensorrt<12'"),
        ("12.0", None, "Install TensorRT 10 or 11, or a newer EdgeKit."),
        ("12.0", ORIN, "Install TensorRT 10 or 11, or a newer EdgeKit."),
    ],
)
def test_versions_that_are_not(monkeypatch, version, board, advice):
    library(monkeypatch, version)
    on_board(monkeypatch, board)
    with refused("tensorrt-version", f"{version}", f"{advice}", "10.3", "11"):
        tensorrt.library()


@pytest.mark.parametrize("problem", ["ImportError", "OSError"])
def test_a_library_that_cannot_be_imported(monkeypatch, tmp_path, problem):
    (tmp_path / "tensorrt.py").write_text(f"raise {problem}('libcudart.so.13: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with refused("backend-import"):
        tensorrt.library()


def test_what_is_missing_is_told_in_order(monkeypatch):
    monkeypatch.setattr(_trt_device, "probe", lambda: "There is no driver. Install one.")
    with refused("gpu-missing", "NVIDIA"):
        tensorrt.check_here()
    monkeypatch.setattr(_trt_device, "probe", lambda: None)
    monkeypatch.setattr("edgekit.backends.installed_version", lambda name: None)
    usual = "pip install 'edgekit-sdk[tensorrt]'"
    for advice, words in (("Make an environment that sees it.", "Make an environment"), ("", usual)):
        monkeypatch.setattr(jetson, "system_tensorrt", lambda advice=advice: ("", advice))
        with refused("backend-not-installed", f"{words}"):
            tensorrt.check_here()


def test_without_a_driver_tensorrt_is_never_imported(tmp_path):
    """It can end the process there, as the module that lies here in its place does."""
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text("import os\nos._exit(13)\n")
    (tmp_path / "tensorrt-10.3.0.dist-info").mkdir()
    (tmp_path / "tensorrt-10.3.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.3.0\n"
    )
    code = """
import ctypes, sys
def absent(name):
    raise OSError(f"{name}: cannot open shared object file: No such file or directory")
ctypes.CDLL = absent
from edgekit import backends
from edgekit.backends import tensorrt
from edgekit.spec.errors import BackendError
assert backends.installed_version("tensorrt") == "10.3.0"
for ask in (tensorrt.check_here, lambda: tensorrt.open_device("gpu", 1)):
    try:
        ask()
        print("nothing was raised")
    except BackendError as problem:
        print(problem)
assert "tensorrt" not in sys.modules
import tensorrt
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(small.ROOT)))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 13, f"the trap works: {done.stderr}"
    lines = done.stdout.splitlines()
    message = "TensorRT needs an NVIDIA GPU with its driver. No NVIDIA driver can be loaded here"
    assert [line[: len(message)] for line in lines] == [message, message]
