"""The CUDA layer: against NVIDIA's own cuda.h, where a package brings it, and on a driver without a GPU (``fake_cuda.py``)."""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib.metadata
import itertools
import re
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import small
from fake_cuda import ERRORS, FakeDriver, Refused
from refusals import refused

from edgekit.drivers import cuda_api
from edgekit.drivers.cuda import Cuda, probe, view

pytestmark = pytest.mark.device

# ---- the contract: cuda.h


class Header:
    """What cuda.h declares for a program that includes it: its macros rename functions to what the library exports."""

    def __init__(self, text):
        self.documented = text
        self.text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
        public, mark, _ = self.text.partition(
            "#if defined(__CUDA_API_VERSION_INTERNAL)\n"
        )  # what follows is the library's own old names
        assert mark
        macros = re.findall(
            r"^\s*#define\s+(cu\w+)\s+(?:__CUDA_API_PT[DS][SZ]\((cu\w+)\)|(cu\w+))\s*$", public, re.MULTILINE
        )
        exported = {name: wrapped or plain for name, wrapped, plain in macros}
        declared = re.findall(r"\bCUresult\s+CUDAAPI\s+(cu\w+)\s*\(([^)]*)\)\s*;", public)
        self.functions = {exported.get(name, name): arguments.split(",") for name, arguments in declared}

    def types(self, name):
        """Of a function's parameters, which have a name each."""
        return [
            self.type(re.fullmatch(r"(.*[\s*])\w+", parameter.strip(), re.DOTALL)[1])
            for parameter in self.functions[name]
        ]

    def type(self, name):
        """The ctypes type of a C type."""
        plain = {
            "int": ctypes.c_int,
            "unsigned int": ctypes.c_uint,
            "size_t": ctypes.c_size_t,
            "unsigned long long": ctypes.c_ulonglong,
            "char": ctypes.c_char,
        }
        name = " ".join(name.split())
        if name.endswith("*"):
            inner = name[:-1].strip()
            special = {"void": ctypes.c_void_p, "const void": ctypes.c_void_p, "const char": ctypes.c_char_p}
            return special.get(inner) or ctypes.POINTER(self.type(inner))
        if name in plain:
            return plain[name]
        if re.search(rf"typedef struct \w+ ?\* ?{name};", self.text):
            return ctypes.c_void_p
        if re.search(rf"typedef enum \w+\s*\{{[^}}]*\}}\s*{name};", self.text):
            return ctypes.c_int
        return self.type(
            re.search(rf"typedef ([\w ]+) {name};", self.text)[1]
        )  # of CUdeviceptr the first, which is that of 64 bits

    def value(self, name):
        return int(re.search(rf"^\s*(?:#define\s+{name}\s+|{name}\s*=\s*)(\w+)", self.text, re.MULTILINE)[1], 0)

    def errors(self):
        (body,) = re.findall(r"typedef enum cudaError_enum \{(.*?)\} CUresult;", self.documented, re.DOTALL)
        found = re.findall(r"/\*\*(.*?)\*/\s*(\w+)\s*=\s*(\d+)", body, re.DOTALL)
        return {int(code): (name, " ".join(text.replace("*", " ").split())) for text, name, code in found}


@functools.cache
def header_of(package):
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    (file,) = [f for f in files if f.name == "cuda.h"]
    return Header(file.read_text())


@pytest.fixture(params=["nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"])
def header(request):
    """CUDA 13 and CUDA 12."""
    return header_of(request.param) or pytest.skip(
        f"the package {request.param}, which brings cuda.h, is not installed"
    )


def shape_of(kind):
    """A ctypes type by what a call passes: pointers to what, or an integer's size and sign."""
    if hasattr(kind, "contents"):
        return "pointer", shape_of(kind._type_)
    return (
        (kind,)
        if kind in (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char)
        else (ctypes.sizeof(kind), kind(-1).value < 0)
    )


def test_functions_are_those_of_the_header(header):
    assert [name for name in cuda_api.FUNCTIONS if name not in header.functions] == [], (
        "not what a program that includes cuda.h calls"
    )
    ours = {name: [shape_of(t) for t in types] for name, types in cuda_api.FUNCTIONS.items()}
    assert ours == {name: [shape_of(t) for t in header.types(name)] for name in cuda_api.FUNCTIONS}


def test_names_without_their_version_would_be_noticed(header):
    """The library exports these as well, with the 32-bit or otherwise older types."""
    for name in (
        "cuMemAlloc",
        "cuMemFree",
        "cuMemGetInfo",
        "cuMemcpyHtoDAsync",
        "cuStreamDestroy",
        "cuStreamBeginCapture",
        "cuGraphInstantiate",
    ):
        assert name not in header.functions and re.search(rf"\b{name}\(", header.text)


def test_values_are_those_of_the_header(header):
    ours = {name: value for name, value in vars(cuda_api).items() if name.startswith("CU_")}
    assert len(ours) == 8 and {name: header.value(name) for name in ours} == ours


def test_errors_are_those_of_the_header(header):
    """CUDA_SUCCESS is the 0 that all calls are tested for."""
    theirs = header.errors()
    assert theirs[0][0] == "CUDA_SUCCESS" and len(theirs) > 90
    for ours in (cuda_api.KNOWN, ERRORS):
        assert set(ours) - set(theirs) <= {36}, "which came with CUDA 13"
        assert [(code, name) for code, (name, _) in ours.items() if code in theirs and theirs[code][0] != name] == []
    final = {
        code
        for code, (_, text) in theirs.items()
        if "process must be terminated" in text or "context cannot be used anymore" in text
    }
    assert final == cuda_api.STICKY & set(theirs)
    of_captures = {
        code
        for code, (name, _) in theirs.items()
        if "CAPTURE" in name and name not in ("CUDA_ERROR_GRAPH_RECAPTURE_FAILURE",)
    }
    callers = {code for code, (name, _) in theirs.items() if name.endswith(("_UNMATCHED", "_WRONG_THREAD"))}
    assert len(callers) == 2 and of_captures - callers == cuda_api.NO_GRAPH


def test_a_wrong_type_would_be_noticed(header):
    right = [shape_of(t) for t in header.types("cuMemAlloc_v2")]
    for wrong in (
        (ctypes.POINTER(ctypes.c_uint32), ctypes.c_size_t),
        (ctypes.POINTER(ctypes.c_uint64), ctypes.c_uint32),
        (ctypes.c_void_p, ctypes.c_size_t),
    ):
        assert [shape_of(t) for t in wrong] != right


# ---- opening


@pytest.fixture
def driver():
    """A driver that is checked at the end of a test."""
    made = FakeDriver()
    yield made
    assert (made.misuse, made.leaks()) == ([], [])


@pytest.fixture
def cuda(driver):
    opened = Cuda(library=driver)
    yield opened
    opened.close()


def test_what_is_known_of_a_gpu():
    jetson, rtx = Cuda(library=FakeDriver.jetson()), Cuda(1, FakeDriver(devices=2, memory=2**33, driver_version=13000))
    assert (jetson.name, jetson.compute_capability, jetson.memory, jetson.multiprocessors, jetson.integrated) == (
        "Orin",
        (8, 7),
        2**34,
        8,
        True,
    )
    assert (rtx.compute_capability, rtx.memory, rtx.integrated, rtx.driver_version) == ((8, 9), 2**33, False, 13000)
    assert jetson.driver_version == 12060


def test_a_long_name_is_cut_and_a_foreign_one_read():
    assert Cuda(library=FakeDriver(name="x" * 300)).name == "x" * 255
    assert Cuda(library=FakeDriver(name="GPU ü")).name == "GPU ü"


def test_opening_only_retains_the_primary_context(driver):
    """Anything else would take memory of the GPU before it is known to serve."""
    opened = Cuda(library=driver)
    assert driver.log[:2] == ["cuInit", "cuDeviceGetCount"] and driver.log[-1] == "cuDevicePrimaryCtxRetain"
    assert driver.live() == {
        "device": 0,
        "pinned": 0,
        "mapped": 0,
        "streams": 0,
        "graphs": 0,
        "executables": 0,
        "contexts": 1,
    }
    opened.close()


def test_functions_of_a_library_have_no_types_before():
    """Without them Python gives a C function 32 bits of an address."""
    driver = FakeDriver()
    functions = {name: ctypes.cast(getattr(driver, name), ctypes.c_void_p).value for name in cuda_api.FUNCTIONS}
    bare = SimpleNamespace(**{name: ctypes.CFUNCTYPE(ctypes.c_int)(address) for name, address in functions.items()})
    cuda, back = Cuda(library=bare), ctypes.create_string_buffer(8)
    stream, address = cuda.stream(), cuda.allocate(8)
    cuda.to_device(address, ctypes.addressof(ctypes.create_string_buffer(b"whatever", 8)), 8, stream)
    cuda.to_host(ctypes.addressof(back), address, 8, stream)
    assert back.raw == b"whatever"
    if min(stream, address) < 2**32:
        pytest.skip("this process has addresses of 32 bits, of which nothing can be lost")
    cuda.free(address)
    cuda.destroy_stream(stream)
    cuda.close()
    assert (driver.misuse, driver.leaks()) == ([], [])


def test_a_failed_opening_leaves_nothing():
    for name in (
        "cuInit",
        "cuDeviceGetCount",
        "cuDriverGetVersion",
        "cuDeviceGet",
        "cuDeviceGetName",
        "cuDeviceTotalMem_v2",
        "cuDevicePrimaryCtxRetain",
    ):
        driver = FakeDriver()
        driver.fail(name, 999)
        with refused("cuda-call", f"{name}", "CUDA_ERROR_UNKNOWN", "999"):
            Cuda(library=driver)
        assert driver.leaks() == []
    for after in range(4):
        driver = FakeDriver()
        driver.fail("cuDeviceGetAttribute", 101, after)
        with refused("cuda-call", "CUDA_ERROR_INVALID_DEVICE"):
            Cuda(library=driver)
        assert driver.leaks() == []


@pytest.mark.parametrize("ordinal", [-1, 2, 100])
def test_a_gpu_that_is_not_there(ordinal):
    with refused("cuda-ordinal", f"{ordinal}", "2", "CUDA_VISIBLE_DEVICES"):
        Cuda(ordinal, FakeDriver(devices=2))


# ---- probe


def test_probe():
    assert probe(FakeDriver()) is None
    driver = FakeDriver()
    assert probe(driver) is None and driver.log == ["cuInit", "cuDeviceGetCount"], "it takes nothing"


def test_probe_tells_why_not():
    assert "cuInit failed with CUDA_ERROR_NO_DEVICE (100): no CUDA-capable device" in probe(FakeDriver(devices=0))
    driver = FakeDriver()
    driver.fail("cuInit", 803)
    assert re.search(r"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH \(803\).*restart the machine", probe(driver))
    driver = FakeDriver()
    driver._cuDeviceGetCount = lambda out: out.__setitem__(0, 0)
    assert "finds no GPU. Check that nvidia-smi lists" in probe(driver)
    driver = FakeDriver()
    del driver.cuGraphInstantiateWithFlags
    assert re.search(
        r"has no function cuGraphInstantiateWithFlags, which CUDA 12 has. Install a newer NVIDIA driver", probe(driver)
    )


def test_a_library_that_has_not_even_names_for_its_errors():
    """As the stand-in that the CUDA toolkit has for linking, which answers 34 to all."""
    driver = FakeDriver()
    for name in ("cuInit", "cuGetErrorName", "cuGetErrorString"):
        driver.fail(name, 34)
    assert re.search(
        r"cuInit failed with CUDA_ERROR_STUB_LIBRARY \(34\): no text. .*'stubs' from LD_LIBRARY_PATH", probe(driver)
    )
    driver = FakeDriver()
    driver.fail("cuInit", 4711)
    assert re.search(r"failed with an error without a name \(4711\): no text. .*report", probe(driver))


def test_probe_without_a_driver():
    """In a process of its own, since it must not end it; and from an empty folder of libraries where there is a driver."""
    code = (
        "import ctypes, sys; from edgekit.drivers import cuda as cuda_driver\n"
        "def absent(name): raise OSError(name + ': cannot open shared object file.')\n"
        "if 'absent' in sys.argv: ctypes.CDLL = absent\n"
        "print(cuda_driver.probe())\n"
        "try: print('open', cuda_driver.Cuda().name)\n"
        "except cuda_driver.BackendError as problem: print(problem)"
    )
    probed, opened = small.python(code, "absent").stdout.decode().splitlines()
    assert probed == opened and re.fullmatch(
        r"No NVIDIA driver can be loaded here .*(libcuda.so.1|nvcuda.dll).*Install the driver of the GPU.*", probed
    )
    probed, opened = small.python(code).stdout.decode().splitlines()  # as this machine is
    assert opened.startswith("open ") if probed == "None" else probed == opened


# ---- errors


def test_an_error_says_what_the_driver_says(cuda, driver):
    driver.fail("cuStreamCreate", 801)
    with refused("cuda-call") as raised:
        cuda.stream()
    assert str(raised.value).startswith(
        "The CUDA call cuStreamCreate failed with CUDA_ERROR_NOT_SUPPORTED (801): operation not supported. This is a fault"
    )
    cuda.destroy_stream(cuda.stream())


CALLS = {
    "cuMemGetInfo_v2": lambda c, o: c.free_memory(),
    "cuMemAlloc_v2": lambda c, o: c.allocate(8),
    "cuMemFree_v2": lambda c, o: c.free(o["device"]),
    "cuMemHostAlloc": lambda c, o: c.allocate_host(8, mapped=False),
    "cuMemHostGetDevicePointer_v2": lambda c, o: c.allocate_host(8, mapped=True),
    "cuMemFreeHost": lambda c, o: c.free_host(o["host"]),
    "cuStreamCreate": lambda c, o: c.stream(),
    "cuStreamSynchronize": lambda c, o: c.synchronize(o["stream"]),
    "cuStreamDestroy_v2": lambda c, o: c.destroy_stream(o["stream"]),
    "cuMemcpyHtoDAsync_v2": lambda c, o: c.to_device(o["device"], o["host"], 8, o["stream"]),
    "cuMemcpyDtoHAsync_v2": lambda c, o: c.to_host(o["host"], o["device"], 8, o["stream"]),
    "cuMemcpyDtoDAsync_v2": lambda c, o: c.on_device(o["device"], o["device"], 8, o["stream"]),
    "cuStreamBeginCapture_v2": lambda c, o: c.begin_capture(o["stream"]),
    "cuStreamEndCapture": lambda c, o: (c.begin_capture(o["stream"]), c.end_capture(o["stream"])),
    "cuGraphInstantiateWithFlags": lambda c, o: (c.begin_capture(o["stream"]), c.end_capture(o["stream"])),
    "cuGraphLaunch": lambda c, o: c.launch(o["graph"], o["stream"]),
    "cuGraphExecDestroy": lambda c, o: c.destroy_graph(o["graph"]),
    "cuCtxSetCurrent": lambda c, o: c.enter(),
    "cuDevicePrimaryCtxRelease_v2": lambda c, o: c.close(),
}
NOT_RAISED = {
    name
    for name in cuda_api.FUNCTIONS
    if name.startswith(("cuInit", "cuDriver", "cuGetError", "cuDeviceGet", "cuDeviceTotal"))
}


@pytest.fixture
def objects():
    """A GPU with one of each thing."""
    driver = FakeDriver()
    cuda = Cuda(library=driver)
    stream = cuda.stream()
    cuda.begin_capture(stream)
    graph = cuda.end_capture(stream)
    return (
        driver,
        cuda,
        {"stream": stream, "graph": graph, "device": cuda.allocate(8), "host": cuda.allocate_host(8, mapped=False)[0]},
    )


def test_each_function_is_called_here():
    assert set(CALLS) | NOT_RAISED | {"cuDevicePrimaryCtxRetain", "cuGraphDestroy"} == set(cuda_api.FUNCTIONS)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", [1, 700])
def test_every_call_that_fails_raises(objects, name, code):
    driver, cuda, held = objects
    before = driver.live()
    driver.fail(name, code)
    with refused("cuda-call", f"{name}", f"{ERRORS[code][0]}", f"{code}", f"{ERRORS[code][1]}", "CUDA") as raised:
        CALLS[name](cuda, held)
    assert ("end the process and start it again" in str(raised.value)) == (code == 700)
    if code == 1 and name != "cuStreamBeginCapture_v2":
        assert driver.live() == before, "nothing is left of a call that failed"
    assert driver.misuse == [] or name == "cuStreamEndCapture"


def test_a_sticky_error_stays(objects):
    driver, cuda, held = objects
    driver.fail("cuStreamSynchronize", 719)
    for name in ("cuStreamSynchronize", "cuMemAlloc_v2", "cuMemFree_v2", "cuStreamDestroy_v2"):
        with refused("cuda-call", f"{name}", "CUDA_ERROR_LAUNCH_FAILED", "719", "CUDA"):
            CALLS[name](cuda, held)
    cuda.close()
    assert driver.leaks() == []


# ---- memory


def test_memory(cuda, driver):
    free = cuda.free_memory()
    address = cuda.allocate(3 * 2**20)
    assert cuda.free_memory() == free - 3 * 2**20 and address % 256 == 0
    assert driver.live()["device"] == 1
    cuda.free(address)
    assert cuda.free_memory() == free


def test_host_memory(cuda, driver):
    host, nothing = cuda.allocate_host(64, mapped=False)
    mapped, device = cuda.allocate_host(64, mapped=True)
    assert (nothing, device) == (0, mapped) and host != mapped
    assert (driver.live()["pinned"], driver.live()["mapped"]) == (1, 1)
    view(mapped, np.uint8, (64,))[:] = 7
    assert driver.read(device, 64) == b"\7" * 64
    cuda.free_host(host)
    cuda.free_host(mapped)


def test_a_device_pointer_of_its_own(cuda, driver):
    """Where addresses are not unified it differs from that of the host."""
    driver._cuMemHostGetDevicePointer_v2 = lambda out, address, flags: out.__setitem__(0, 2**63 + 4096)
    host, device = cuda.allocate_host(8, mapped=True)
    assert device == 2**63 + 4096
    cuda.free_host(host)


def test_nothing_is_an_allocation_too(cuda):
    one, other, (host, device) = cuda.allocate(0), cuda.allocate(0), cuda.allocate_host(0, mapped=True)
    assert len({one, other, host}) == 3 and host == device
    for address in (one, other):
        cuda.free(address)
    cuda.free_host(host)


def test_no_memory_left():
    driver = FakeDriver.jetson(memory=100 * 2**20)
    cuda = Cuda(library=driver)
    held = cuda.allocate(60 * 2**20)
    size = int(48.5 * 2**20)
    for name, what, ask in (
        ("cuMemAlloc_v2", "device memory", lambda: cuda.allocate(size)),
        ("cuMemHostAlloc", "page-locked host memory", lambda: cuda.allocate_host(size, mapped=True)),
    ):
        with refused("cuda-call") as raised:
            ask()
        assert str(raised.value).startswith(
            f"The CUDA call {name} failed with CUDA_ERROR_OUT_OF_MEMORY (2): out of memory. "
            f"48.5 MiB of {what} were requested, 40.0 of 100.0 MiB of the GPU are free. Close other programs"
        )
    cuda.free(held)
    cuda.close()
    assert (driver.leaks(), driver.misuse) == ([], [])


# ---- copies


@pytest.fixture
def late():
    """A GPU that does its work when it is waited for."""
    driver = FakeDriver(deferred=True)
    cuda = Cuda(library=driver)
    stream = cuda.stream()
    yield driver, cuda, stream
    cuda.destroy_stream(stream)
    cuda.close()
    assert (driver.misuse, driver.leaks()) == ([], [])


def test_copies(late):
    driver, cuda, stream = late
    (source, _), (target, _), one, other = (
        *(cuda.allocate_host(40, mapped=False) for _ in "ab"),
        cuda.allocate(40),
        cuda.allocate(40),
    )
    view(source, np.float32, (10,))[:] = np.arange(10)
    view(target, np.float32, (10,))[:] = -1
    driver.log.clear()
    cuda.to_device(one, source, 40, stream)
    cuda.on_device(other, one, 40, stream)
    cuda.to_host(target, other + 4, 32, stream)
    assert view(target, np.float32, (10,)).tolist() == [-1] * 10, "the copies are asynchronous"
    cuda.synchronize(stream)
    assert view(target, np.float32, (10,)).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, -1, -1]
    assert driver.log == ["cuMemcpyHtoDAsync_v2", "cuMemcpyDtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize"]
    for free, address in ((cuda.free_host, source), (cuda.free_host, target), (cuda.free, one), (cuda.free, other)):
        free(address)


def test_copies_of_an_array(late):
    """Memory that is not page-locked may change as soon as the call returns, and has its copy by then."""
    _, cuda, stream = late
    array, address, back = np.arange(6, dtype=np.int64), cuda.allocate(48), np.zeros(6, np.int64)
    cuda.to_device(address, array.ctypes.data, 48, stream)
    array[:] = -1
    cuda.to_host(back.ctypes.data, address, 48, stream)
    assert back.tolist() == [0, 1, 2, 3, 4, 5]
    cuda.free(address)


def test_nothing_to_copy(late):
    driver, cuda, stream = late
    driver.log.clear()
    cuda.to_device(0, 0, 0, stream)
    cuda.to_host(0, 0, 0, stream)
    cuda.on_device(0, 0, 0, stream)
    assert driver.log == []


# ---- streams and graphs


def test_streams(cuda, driver):
    one, other = cuda.stream(), cuda.stream()
    assert 0 not in (one, other) and one != other and driver.live()["streams"] == 2
    cuda.synchronize(one)
    cuda.destroy_stream(one)
    cuda.destroy_stream(other)


@pytest.mark.parametrize("deferred", [False, True])
def test_a_captured_graph_does_what_was_queued(deferred):
    driver = FakeDriver(deferred=deferred)
    cuda = Cuda(library=driver)
    stream, address, (host, _) = cuda.stream(), cuda.allocate(8), cuda.allocate_host(8, mapped=False)
    number, done = view(host, np.int64, ()), []
    number[...] = 1
    driver.log.clear()
    cuda.begin_capture(stream)
    cuda.to_device(address, host, 8, stream)
    driver.record(stream, lambda: done.append(driver.read(address, 8)))
    graph = cuda.end_capture(stream)
    assert done == [] and driver.read(address, 8) == b"\xcd" * 8, "recorded, not done"
    assert driver.log == [
        "cuStreamBeginCapture_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphDestroy",
    ]
    for value in (2, 3):
        number[...] = value
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
    assert [int.from_bytes(d, "little") for d in done] == [2, 3]
    assert (driver.live()["graphs"], driver.live()["executables"]) == (0, 1)
    cuda.destroy_graph(graph)
    cuda.free(address)
    cuda.free_host(host)
    cuda.destroy_stream(stream)
    cuda.close()
    assert (driver.misuse, driver.leaks()) == ([], [])


def test_a_capture_is_of_its_thread_only(driver, cuda, monkeypatch):
    modes = []
    begin = driver._cuStreamBeginCapture_v2
    monkeypatch.setattr(
        driver, "_cuStreamBeginCapture_v2", lambda stream, mode: (modes.append(mode), begin(stream, mode))[1]
    )
    stream = cuda.stream()
    cuda.begin_capture(stream)
    in_thread(lambda: cuda.free(cuda.allocate(8)))
    cuda.destroy_graph(cuda.end_capture(stream))
    cuda.destroy_stream(stream)
    assert modes == [1]


def test_a_capture_that_was_invalidated(cuda, driver):
    stream = cuda.stream()
    driver.invalidate_capture = True
    cuda.begin_capture(stream)
    assert cuda.end_capture(stream) is None
    driver.invalidate_capture = False
    for code in sorted(cuda_api.NO_GRAPH):
        driver.fail("cuStreamEndCapture", code)
        cuda.begin_capture(stream)
        assert cuda.end_capture(stream) is None
    done = []
    driver.record(stream, lambda: done.append(1))
    assert done == [1], "the stream works as before"
    cuda.begin_capture(stream)
    cuda.destroy_graph(cuda.end_capture(stream))
    cuda.destroy_stream(stream)


def test_a_capture_without_a_graph(cuda, driver):
    """cuda.h: "if capture was invalidated [...] a NULL graph will be returned"; it does not say that there is an error too."""
    stream, end = cuda.stream(), driver._cuStreamEndCapture

    def none(handle, out):
        end(handle, out)
        driver._cuGraphDestroy(out[0])
        out[0] = None

    driver._cuStreamEndCapture = none
    cuda.begin_capture(stream)
    driver.log.clear()
    assert cuda.end_capture(stream) is None
    assert driver.log == ["cuStreamEndCapture"], "there is nothing to instantiate or to free"
    cuda.destroy_stream(stream)


def test_a_graph_of_a_broken_capture_is_freed(cuda, driver):
    stream, end = cuda.stream(), driver._cuStreamEndCapture

    def broken(handle, out):
        end(handle, out)
        raise Refused(904)

    driver._cuStreamEndCapture = broken
    cuda.begin_capture(stream)
    assert cuda.end_capture(stream) is None
    assert driver.live()["graphs"] == 0 and driver.log[-2:] == ["cuStreamEndCapture", "cuGraphDestroy"]
    cuda.destroy_stream(stream)


def test_a_graph_that_finds_no_memory(cuda, driver):
    stream = cuda.stream()
    driver.fail("cuGraphInstantiateWithFlags", 2)
    cuda.begin_capture(stream)
    with refused("cuda-call", "CUDA_ERROR_OUT_OF_MEMORY"):
        cuda.end_capture(stream)
    assert (driver.live()["graphs"], driver.live()["executables"]) == (0, 0)
    cuda.destroy_stream(stream)


def test_a_capture_that_was_not_begun_here(objects):
    driver, cuda, held = objects
    with refused("cuda-call", "CUDA_ERROR_ILLEGAL_STATE"):
        cuda.end_capture(held["stream"])
    cuda.begin_capture(held["stream"])
    with refused("cuda-call", "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"):
        in_thread(lambda: cuda.end_capture(held["stream"]))
    assert len(driver.misuse) == 2


# ---- threads


def in_thread(function):
    """What a function gives, or raises, on another thread."""
    result = []

    def work():
        try:
            result.append((function(), None))
        except Exception as problem:
            result.append((None, problem))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ((value, problem),) = result
    if problem:
        raise problem
    return value


def test_each_thread_enters_once(cuda, driver):
    driver.log.clear()
    for _ in range(3):
        cuda.free(cuda.allocate(1))
    assert driver.log == ["cuCtxSetCurrent", *["cuMemAlloc_v2", "cuMemFree_v2"] * 3]
    driver.log.clear()
    in_thread(lambda: [cuda.free(cuda.allocate(1)) for _ in range(3)])
    assert driver.log == ["cuCtxSetCurrent", *["cuMemAlloc_v2", "cuMemFree_v2"] * 3]


@pytest.mark.parametrize("name", CALLS)
def test_every_call_enters_by_itself(objects, name):
    """On a thread that is new to the driver."""
    driver, cuda, held = objects
    in_thread(lambda: CALLS[name](cuda, held))
    assert driver.misuse == []


def test_the_end_of_a_capture_enters_by_itself(cuda, driver):
    stream = cuda.stream()
    cuda.begin_capture(stream)
    Cuda(library=FakeDriver()).enter()  # another GPU was the last on this thread
    driver.log.clear()
    cuda.destroy_graph(cuda.end_capture(stream))
    assert driver.log[:2] == ["cuCtxSetCurrent", "cuStreamEndCapture"]
    cuda.destroy_stream(stream)


def test_two_gpus_on_one_thread():
    driver = FakeDriver(devices=2)
    one, other = Cuda(0, driver), Cuda(1, driver)
    streams = [(one, one.stream()), (other, other.stream())]
    for cuda, stream in streams * 2:
        cuda.synchronize(stream)
    for cuda, stream in streams:
        cuda.destroy_stream(stream)
        cuda.close()
    assert (driver.misuse, driver.leaks()) == ([], [])


def test_enter_takes_the_thread_back(cuda, driver):
    """Other code, as a camera's, may have put its own context in place."""
    cuda.enter()
    driver.cuCtxSetCurrent(None)
    cuda.enter()
    cuda.free(cuda.allocate(1))


def test_many_threads():
    """Each with a stream of its own. All of them wait at the same time for their work, which ends when all have begun theirs."""
    driver = FakeDriver(deferred=True)
    cuda, meet, found = Cuda(library=driver), threading.Barrier(6, timeout=30), []

    def work(seed):
        numbers = np.random.default_rng(seed).integers(0, 2**40, 64)
        stream, address, (host, _) = cuda.stream(), cuda.allocate(512), cuda.allocate_host(512, mapped=False)
        array = view(host, np.int64, (64,))
        for i in range(20):
            array[:] = numbers + i
            cuda.to_device(address, host, 512, stream)
            driver.record(stream, functools.partial(array.fill, 0))
            driver.record(stream, meet.wait)
            cuda.to_host(host, address, 512, stream)
            cuda.synchronize(stream)
            found.append(bool((array == numbers + i).all()))
        cuda.free(address)
        cuda.free_host(host)
        cuda.destroy_stream(stream)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cuda.close()
    assert found == [True] * 120 and driver.log.count("cuCtxSetCurrent") == 6
    assert (driver.misuse, driver.leaks()) == ([], [])


# ---- closing


def test_close_is_idempotent(driver):
    cuda, other = Cuda(library=driver), Cuda(library=driver)
    for _ in range(3):
        cuda.close()
    assert driver.log.count("cuDevicePrimaryCtxRelease_v2") == 1 and driver.live()["contexts"] == 1
    other.free(other.allocate(1))
    with_threads = [threading.Thread(target=other.close) for _ in range(8)]
    for thread in with_threads:
        thread.start()
    for thread in with_threads:
        thread.join()
    assert driver.log.count("cuDevicePrimaryCtxRelease_v2") == 2


def test_what_was_closed_says_so(driver):
    cuda = Cuda(library=driver)
    cuda.enter()
    cuda.close()
    driver.log.clear()
    for call in (
        cuda.enter,
        cuda.stream,
        lambda: cuda.allocate(1),
        lambda: cuda.synchronize(1),
        lambda: in_thread(cuda.free_memory),
    ):
        with refused("cuda-closed"):
            call()
    assert driver.log == []


def test_opened_again_on_the_same_thread(driver):
    """The context of before is gone, also where the new one has its address."""
    driver._handles = itertools.repeat(4096)
    for _ in range(2):
        cuda = Cuda(library=driver)
        cuda.free(cuda.allocate(1))
        cuda.close()
    assert driver.log.count("cuCtxSetCurrent") == 2


@pytest.mark.slow
def test_nothing_holds_what_was_closed():
    cuda = Cuda(library=FakeDriver())
    cuda.enter()
    cuda.close()
    gone = weakref.ref(cuda)
    del cuda
    gc.collect()
    assert gone() is None


# ---- arrays on host memory


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (4,), (2, 3, 4), [5, 2]])
@pytest.mark.parametrize("dtype", [np.int64, np.float16, "bool", np.dtype(np.float32)])
def test_view(shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = ctypes.create_string_buffer(bytes(range(1, 256)) * 2, 512)
    array = view(ctypes.addressof(memory), dtype, shape)
    assert (array.shape, array.dtype, array.nbytes) == (tuple(shape), np.dtype(dtype), size)
    assert array.tobytes() == memory.raw[:size] and array.flags.c_contiguous and array.flags.writeable
    array[...] = 0
    assert memory.raw == bytes(size) + (bytes(range(1, 256)) * 2)[size:] + bytes(512 - max(size, 510)), (
        "no copy, and nothing beyond"
    )


# ---- the driver without a GPU is as strict as one, or more

MISUSE = {
    "second free of address": lambda d, c, o: [c.free(o["device"]) for _ in "ab"],
    "free of unknown address 0x10": lambda d, c, o: c.free(16),
    "free of unknown address": lambda d, c, o: c.free(o["host"]),
    "free of unknown": lambda d, c, o: c.free_host(o["device"]),
    "go beyond device memory": lambda d, c, o: c.to_device(o["device"] + 4, o["host"], 8, o["stream"]),
    "go beyond pinned memory": lambda d, c, o: c.to_host(o["host"] + 4, o["device"], 8, o["stream"]),
    "to: device memory .* is on the wrong side": lambda d, c, o: c.to_host(o["device"], o["host"], 8, o["stream"]),
    "to: pinned memory .* is on the wrong side": lambda d, c, o: c.to_device(o["host"], o["device"], 8, o["stream"]),
    "is not memory of the device": lambda d, c, o: c.on_device(o["device"], 4096, 8, o["stream"]),
    "stream 0x8 does not exist": lambda d, c, o: c.synchronize(8),
    "stream .* not any more": lambda d, c, o: [c.destroy_stream(o["stream"]), c.launch(o["graph"], o["stream"])],
    "the default stream": lambda d, c, o: c.to_device(o["device"], o["host"], 8, 0),
    "executable graph .* not any more": lambda d, c, o: [
        c.destroy_graph(o["graph"]),
        c.launch(o["graph"], o["stream"]),
    ],
    "cuMemAlloc_v2 during a capture": lambda d, c, o: [c.begin_capture(o["stream"]), c.allocate(1)],
    "cuStreamSynchronize of a stream that captures": lambda d, c, o: [
        c.begin_capture(o["stream"]),
        c.synchronize(o["stream"]),
    ],
    "captures already": lambda d, c, o: [c.begin_capture(o["stream"]) for _ in "ab"],
    "on a thread without a current context": lambda d, c, o: [d.cuCtxSetCurrent(None), c.synchronize(o["stream"])],
}


def test_a_drivers_texts_outlive_the_calls(driver):
    """The errors read them after the call, beside other threads."""
    texts = {
        (code, function): ctypes.c_char_p() for code in ERRORS for function in ("cuGetErrorName", "cuGetErrorString")
    }
    for (code, function), text in texts.items():
        assert getattr(driver, function)(code, ctypes.byref(text)) == 0
    read = {key: text.value.decode() for key, text in texts.items()}
    assert read == {(code, function): ERRORS[code][function == "cuGetErrorString"] for code, function in texts}


@pytest.mark.parametrize("text", MISUSE)
def test_misuse_is_refused(objects, text):
    driver, cuda, held = objects
    with refused("cuda-call"):
        MISUSE[text](driver, cuda, held)
    assert len(driver.misuse) == 1 and re.search(text, driver.misuse[0])


def test_what_is_unsafe_breaks_the_capture(objects):
    _, cuda, held = objects
    cuda.begin_capture(held["stream"])
    with refused("cuda-call", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        cuda.free(held["device"])
    assert cuda.end_capture(held["stream"]) is None


def test_a_call_before_all_others():
    driver, count = FakeDriver(), ctypes.c_int()
    assert driver.cuDeviceGetCount(ctypes.byref(count)) == 3
    assert driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value == 1
    assert driver.cuMemFree_v2(16) == 201 and driver.cuDevicePrimaryCtxRelease_v2(0) == 201
    assert len(driver.misuse) == 3


def test_a_released_context(objects):
    driver, _, held = objects
    driver.cuDevicePrimaryCtxRelease_v2(0)
    assert driver.cuMemFree_v2(held["device"]) == 709


def test_a_write_beyond_an_allocation_is_found(objects):
    driver, cuda, held = objects
    ctypes.memset(held["device"], 0, 9)
    cuda.free(held["device"])
    assert re.fullmatch("written outside of device memory 0x[0-9a-f]+ of 8 bytes", driver.misuse[0])


def test_a_graph_of_freed_memory_is_found(objects):
    driver, cuda, held = objects
    cuda.begin_capture(held["stream"])
    cuda.to_device(held["device"], held["host"], 8, held["stream"])
    graph = cuda.end_capture(held["stream"])
    cuda.free(held["device"])
    with refused("cuda-call", "CUDA_ERROR_ILLEGAL_ADDRESS"):
        cuda.launch(graph, held["stream"])
    assert driver.misuse == ["cuMemcpyHtoDAsync_v2 of memory that was freed"]


def test_what_an_engine_raises_is_found():
    driver = FakeDriver(deferred=True)
    cuda = Cuda(library=driver)
    stream = cuda.stream()
    driver.record(stream, lambda: 1 / 0)
    with refused("cuda-call", "CUDA_ERROR_LAUNCH_FAILED"):
        cuda.synchronize(stream)
    assert "ZeroDivisionError" in driver.misuse[0]


def test_leaks_are_found(objects):
    driver, cuda, _ = objects
    kinds = ("primary context of device 0: 1", "device memory", "pinned memory", "stream", "executable graph")
    assert [leak.startswith(kind) for leak, kind in zip(driver.leaks(), kinds, strict=True)] == [True] * 5
    cuda.close()
    assert len(driver.leaks()) == 4


def test_a_failure_waits_for_its_call(cuda, driver):
    driver.fail("cuMemAlloc_v2", 2, after=2)
    for address in (cuda.allocate(1), cuda.allocate(1)):
        cuda.free(address)
    with refused("cuda-call", "OUT_OF_MEMORY"):
        cuda.allocate(1)
    cuda.free(cuda.allocate(1))
