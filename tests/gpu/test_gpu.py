"""The CUDA and TensorRT layers on a real NVIDIA GPU: ``make test-gpu``. Where there is none, all of this skips and says why.

What other tests hold against stand-ins is asked of NVIDIA's own driver and libraries here, TensorRT and TensorRT-RTX, those that are
installed. What was found is written to ``benchmarks/results/gpu.json``.
"""

from __future__ import annotations

import json
import platform
import threading
import time

import numpy as np
import pytest
import small
from fake_tensorrt_bench import encoder, truth

from edgekit import backends
from edgekit.backends import EngineMismatchError
from edgekit.drivers import cuda as cuda_driver
from edgekit.drivers.cuda import Cuda, view
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.errors import BackendError, InputError
from edgekit.spec.progress import silent
from edgekit.spec.tensor import Signature, TensorSpec

if (reason := cuda_driver.probe()) is not None:
    pytest.skip(f"no GPU: {reason}", allow_module_level=True)

MIB = 2**20
SIGNATURE = Signature(
    "forward",
    tuple(TensorSpec(name, "int64", ("batch", "seq")) for name in ("ids", "mask")),
    (TensorSpec("y", "float32", ("batch", "seq", 4)),),
)
RECIPE = EngineRecipe(({"batch": (1, 1, 8), "seq": (1, 16, 32)}, {"batch": (1, 1, 2), "seq": (33, 64, 128)}))
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def results():
    """What is written down in the end."""
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    yield found
    (small.ROOT / "benchmarks" / "results" / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


@pytest.fixture
def cuda(results):
    gpu = Cuda()
    results["gpu"] = {
        "name": gpu.name,
        "compute_capability": ".".join(map(str, gpu.compute_capability)),
        "memory_mib": gpu.memory // MIB,
        "multiprocessors": gpu.multiprocessors,
        "integrated": gpu.integrated,
        "driver": gpu.driver_version,
    }
    yield gpu
    gpu.close()


# ---- CUDA


def test_the_gpu_tells_what_it_is(cuda):
    assert cuda.name and cuda.compute_capability >= (5, 0) and cuda.multiprocessors > 0 and cuda.driver_version >= 12000
    assert 0 < cuda.free_memory() <= cuda.memory


def test_memory_goes_to_the_device_and_back(cuda):
    stream, size = cuda.stream(), 3 * MIB + 5
    there, other = cuda.allocate(size), cuda.allocate(size)
    host, nowhere = cuda.allocate_host(size, mapped=False)
    empty = cuda.allocate(0)
    assert there % 256 == other % 256 == 0 and nowhere == 0 and len({there, other, empty}) == 3
    data, array = RANDOM.integers(0, 256, size).astype(np.uint8), view(host, np.uint8, (size,))
    array[...] = data
    cuda.to_device(there, host, size, stream)
    cuda.on_device(other, there, size, stream)
    cuda.synchronize(stream)
    array[...] = 0
    cuda.to_host(host, other, size, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(array, data)
    pageable = np.zeros(size, np.uint8)
    cuda.to_host(pageable.ctypes.data, other, size, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(pageable, data)
    for address in (there, other, empty):
        cuda.free(address)
    cuda.free_host(host)
    cuda.destroy_stream(stream)


def test_mapped_memory_is_one_for_both(cuda):
    stream, count = cuda.stream(), 1000
    (first, first_there), (second, second_there) = (cuda.allocate_host(8 * count, mapped=True) for _ in range(2))
    data, found = view(first, np.int64, (count,)), view(second, np.int64, (count,))
    data[...] = np.arange(count)
    cuda.on_device(second_there, first_there, data.nbytes, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(found, np.arange(count))
    cuda.free_host(first)
    cuda.free_host(second)
    cuda.destroy_stream(stream)


def test_a_graph_does_at_each_launch_what_was_captured(cuda):
    stream, size = cuda.stream(), 4096
    there, (host, _) = cuda.allocate(size), cuda.allocate_host(2 * size, mapped=False)
    given, found = view(host, np.uint8, (size,)), view(host + size, np.uint8, (size,))
    found[...] = 0
    cuda.begin_capture(stream)
    cuda.to_device(there, host, size, stream)
    cuda.to_host(host + size, there, size, stream)
    graph = cuda.end_capture(stream)
    assert graph is not None and not found.any(), "nothing is done while it is captured"
    for turn in range(1, 5):
        given[...] = turn
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert (found == turn).all()
    cuda.destroy_graph(graph)
    cuda.begin_capture(stream)
    with pytest.raises(BackendError, match="CAPTURE"):
        cuda.synchronize(stream)
    assert cuda.end_capture(stream) is None, "what may not be captured gives no graph"
    cuda.to_device(there, host, size, stream)
    cuda.synchronize(stream)
    cuda.free(there)
    cuda.free_host(host)
    cuda.destroy_stream(stream)


def test_streams_of_several_threads(cuda):
    def work(index):
        stream, size = cuda.stream(), 64 * 1024
        there, (host, _) = cuda.allocate(size), cuda.allocate_host(size, mapped=False)
        array = view(host, np.uint8, (size,))
        for turn in range(50):
            array[...] = (index + turn) % 256
            cuda.to_device(there, host, size, stream)
            cuda.synchronize(stream)
            array[...] = 0
            cuda.to_host(host, there, size, stream)
            cuda.synchronize(stream)
            assert (array == (index + turn) % 256).all()
        cuda.free(there)
        cuda.free_host(host)
        cuda.destroy_stream(stream)

    in_threads(8, work)


def test_errors_are_the_drivers_own_words(cuda):
    with pytest.raises(
        BackendError,
        match=r"cuMemAlloc_v2 failed with CUDA_ERROR_OUT_OF_MEMORY \(2\): out of memory\. .* MiB of device memory were requested",
    ):
        cuda.allocate(cuda.memory * 4)
    with pytest.raises(BackendError, match=r"cuMemFree_v2 failed with CUDA_ERROR_INVALID_VALUE \(1\)"):
        cuda.free(256)


def in_threads(count, work):
    """Runs ``work(index)`` in threads at a time; raises what one of them raised."""
    problems = []

    def run(index):
        try:
            work(index)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


# ---- TensorRT and TensorRT-RTX


def feeds(batch, seq):
    ids, mask = RANDOM.integers(0, 50, (batch, seq)), np.ones((batch, seq), np.int64)
    mask[:, seq // 2 + 1 :] = 0
    return {"ids": ids, "mask": mask}


def right(found, given, tolerance=1e-3):
    np.testing.assert_allclose(found["y"], truth(**given), atol=tolerance)


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def library(request, results, tmp_path_factory):
    """A backend that works here, with plans that it made on this GPU; skipped with the backend's own words where it does not."""
    backend, told = backends.get(request.param), results.setdefault(request.param, {})

    def skip(problem):
        told["skipped"] = " ".join(str(problem).split())
        pytest.skip(f"{request.param}: {told['skipped']}")

    try:
        device = backend.open_device("gpu", 1, 2)
    except BackendError as problem:
        skip(problem)
    folder = tmp_path_factory.mktemp(request.param)
    told["version"] = str(device.trt.__version__)
    plans = {}
    try:
        for name, model in {
            "float32": encoder(),
            "float16": encoder(np.float16),
            "int8": encoder(quantized=True),
        }.items():
            path = folder / f"{name}.onnx"
            path.write_bytes(model.SerializeToString())
            own = (
                SIGNATURE
                if name != "float16"
                else Signature("forward", SIGNATURE.inputs, (TensorSpec("y", "float16", ("batch", "seq", 4)),))
            )
            start = time.perf_counter()
            # Without chips that are named, TensorRT-RTX builds for the GPU that is there, and refuses one that it does not serve (data centres').
            plans[name] = own, device.compile(path, own, RECIPE, b"", silent)
            told[f"build_{name}_s"] = round(time.perf_counter() - start, 2)
        loaded = device.load(plans["float32"][1].plan, SIGNATURE)
        loaded.run(feeds(1, 1))
        loaded.close()
    except BackendError as problem:
        # TensorRT must do all of this on every GPU that has a driver; of TensorRT-RTX NVIDIA says which it serves.
        device.close()
        if request.param == "tensorrt_rtx":
            skip(problem)
        raise
    yield backend, plans, folder, told
    device.close()


@pytest.fixture
def device(library):
    opened = library[0].open_device("gpu", 1, 2)
    yield opened
    opened.close()


def load(device, library, name="float32"):
    own, built = library[1][name]
    return device.load(built.plan, own)


@pytest.mark.parametrize(("name", "tolerance"), [("float32", 1e-3), ("float16", 0.05), ("int8", 0.2)])
def test_answers_are_right_however_they_run(device, library, name, tolerance):
    engine = load(device, library, name)
    for _ in range(5):  # on two streams: enqueued, captured, launched
        for batch, seq in ((1, 1), (8, 32), (3, 7), (1, 128), (2, 33)):
            for _ in range(2):
                given = feeds(batch, seq)
                right(engine.run(given), given, tolerance)
    if device.trt.__name__ == "tensorrt":
        assert all(len(lane.graphs) == 5 for lane in engine._lanes.values()), "each shape was captured"
    library[3][f"executed_{name}"] = backends.summary(engine.precisions())


def test_shapes_outside_the_profiles(device, library):
    engine = load(device, library)
    with pytest.raises(
        InputError, match=r"Axis 'seq' is 129.*It accepts: batch 1 to 8, seq 1 to 32; batch 1 to 2, seq 33 to 128"
    ):
        engine.run(feeds(1, 129))
    right(engine.run(given := feeds(8, 32)), given)


def test_outputs_that_are_kept(device, library):
    engine = load(device, library)
    for _ in range(4):
        given = feeds(2, 9)
        kept, other = engine.run(given, keep=["y"])["y"], engine.run(feeds(2, 9), keep=["y"])["y"]
        right({"y": kept.numpy()}, given)
        right(engine.run(given), given)
        right({"y": kept.numpy()}, given)
        del other


def test_many_shapes_take_turns(device, library):
    """More than there are graphs, so that graphs and their contexts go while others run."""
    engine = load(device, library)
    for _ in range(4):
        for seq in range(1, 31):
            right(engine.run(given := feeds(1, seq)), given)


def test_many_threads(device, library):
    engine, other = load(device, library), load(device, library, "float32")
    given = [feeds(1 + index % 4, 1 + 5 * index) for index in range(6)]

    def work(index):
        for turn in range(60):
            own = given[(index + turn) % 6]
            right((engine if turn % 3 else other).run(own), own)

    in_threads(8, work)


def test_an_input_may_lie_in_memory_as_it_likes(device, library):
    given = {name: np.repeat(array, 2, axis=1)[:, ::2].astype(np.int32) for name, array in feeds(2, 8).items()}
    right(load(device, library).run(given), given)


def test_a_plan_that_is_damaged(device, library):
    plan = library[1]["float32"][1].plan
    for wrong in (plan[: len(plan) // 2], b"", b"nothing of the kind" * 100):
        with pytest.raises(EngineMismatchError, match="cannot load the engine"):
            device.load(wrong, SIGNATURE)
    right(load(device, library).run(given := feeds(1, 4)), given)


def test_a_timing_cache_is_taken(device, library):
    if device.trt.__name__ != "tensorrt":
        pytest.skip("TensorRT-RTX has no timing cache")
    own, built = library[1]["float32"]
    again = device.compile(library[2] / "float32.onnx", own, RECIPE, built.timing_cache, silent)
    right(device.load(again.plan, own).run(given := feeds(2, 5)), given)
    assert device.compile(library[2] / "float32.onnx", own, RECIPE, b"of another kind", silent).plan


def test_all_memory_is_given_back(library, cuda):
    """A device that is opened, used and closed again and again takes no more each time."""
    left = []
    for _ in range(6):
        device = library[0].open_device("gpu", 1, 2)
        engine = load(device, library)
        for seq in (1, 2, 3, 40):
            for _ in range(6):
                engine.run(feeds(1, seq))
        engine.run(feeds(1, 8), keep=["y"])
        device.close()
        left.append(cuda.free_memory())
    assert left[1] - left[-1] <= 16 * MIB, f"free after each: {[size // MIB for size in left]} MiB"


def test_what_a_call_costs(device, library):
    """Over the bare launch of the same graph and a synchronize, in turns."""
    engine = load(device, library)
    given = feeds(1, 32)
    for _ in range(6):
        engine.run(given)
    shape = tuple(array.shape for array in given.values())
    times = {"bare": [], "EdgeKit": []}
    lane = next(iter(engine._lanes.values()))
    captured = lane.graphs.get(shape)
    context = lane.contexts[0]

    def bare():
        if captured is not None:
            device.cuda.launch(captured.graph, lane.stream)
        else:
            context.execute_async_v3(lane.stream)
        device.cuda.synchronize(lane.stream)

    for turn in range(600):
        for name, run in (("bare", bare), ("EdgeKit", lambda: engine.run(given))):
            start = time.perf_counter()
            run()
            if turn >= 100:
                times[name].append(1e6 * (time.perf_counter() - start))
    bare_us, own_us = (float(np.median(times[name])) for name in ("bare", "EdgeKit"))
    added = float(np.median(np.array(times["EdgeKit"]) - np.array(times["bare"])))
    library[3]["call"] = {
        "graph": captured is not None,
        "bare_us": round(bare_us, 1),
        "edgekit_us": round(own_us, 1),
        "added_us": round(added, 1),
    }
    assert added <= 50, f"{added:.1f} us are added to {bare_us:.1f} us"
