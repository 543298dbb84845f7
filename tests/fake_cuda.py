"""A fake CUDA driver for tests without a GPU: ``Cuda(library=FakeDriver())``.

Its functions are real C functions with the types of libcuda. Device memory is host memory, and calls are checked as
strictly as by a driver.

``log`` has the names of all calls in order. An invalid call returns the driver's error and is noted in ``misuse``, also
where a real driver would not notice it (a freed address in a launched graph, a write beyond an allocation). ``leaks()``
lists what was not freed.

A fake engine queues its work with ``record(stream, function)``; a capture records it and a launch replays it. With
``deferred=True`` no work is done before the stream is synchronized, as on a GPU: a missing synchronize then gives wrong
numbers here too.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import itertools
import threading

from edgekit.drivers.cuda_api import FUNCTIONS, NO_GRAPH, STICKY

ERRORS = {
    1: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    2: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    3: ("CUDA_ERROR_NOT_INITIALIZED", "initialization error"),
    36: ("CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", "API call is not supported in the installed CUDA driver"),
    100: ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    101: ("CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"),
    201: ("CUDA_ERROR_INVALID_CONTEXT", "invalid device context"),
    400: ("CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"),
    401: ("CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"),
    700: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    709: ("CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"),
    719: ("CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    801: ("CUDA_ERROR_NOT_SUPPORTED", "operation not supported"),
    803: ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"),
    900: ("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"),
    901: ("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"),
    904: ("CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"),
    908: (
        "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
        "attempt to terminate a thread-local capture sequence from another thread",
    ),
    999: ("CUDA_ERROR_UNKNOWN", "unknown error"),
}
_STATIC = {
    code: tuple(text.encode() for text in texts) for code, texts in ERRORS.items()
}  # The texts of a driver outlive every call.
_ALWAYS = {"cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString"}  # Valid before cuInit.
_WITHOUT_CONTEXT = _ALWAYS | {"cuCtxSetCurrent", *(name for name in FUNCTIONS if name.startswith("cuDevice"))}
_UNSAFE = {"cuMemAlloc_v2", "cuMemFree_v2", "cuMemHostAlloc", "cuMemFreeHost"}  # Invalid while this thread captures.
_UNWRITTEN = 0xCD  # Byte that fills new memory.
_FREED = 0xDD  # Byte that fills freed memory.
_ALIGNMENT = {"device": 256, "pinned": 4096, "mapped": 4096}


class Refused(Exception):
    """An error that the driver returns from a call."""

    def __init__(self, code, text=""):
        super().__init__(text)
        self.code = code


class Block:
    """An allocation: ``device``, ``pinned`` (host) or ``mapped`` (host memory that the device accesses in place)."""

    def __init__(self, size, kind):
        self.size, self.kind, self.alive = size, kind, True
        self._buffer = ctypes.create_string_buffer(size + 2 * _ALIGNMENT[kind])
        start = ctypes.addressof(self._buffer)
        self.address = -(-start // _ALIGNMENT[kind]) * _ALIGNMENT[kind]
        ctypes.memset(start, _UNWRITTEN, len(self._buffer))

    def overrun(self):
        start, end = ctypes.addressof(self._buffer), self.address + self.size
        around = ctypes.string_at(start, self.address - start) + ctypes.string_at(end, start + len(self._buffer) - end)
        return bool(around.strip(bytes([_UNWRITTEN])))

    def free(self):
        self.alive = False
        ctypes.memset(self.address, _FREED, self.size)

    def __str__(self):
        return f"{self.kind} memory {self.address:#x} of {self.size} bytes"


class Stream:
    def __init__(self, context):
        self.context, self.queue, self.capture = context, [], None


class Capture:
    def __init__(self, mode):
        self.mode, self.thread, self.operations, self.invalid = mode, threading.get_ident(), [], False


class FakeDriver:
    """A replacement of ``ctypes.CDLL("libcuda.so.1")`` with every function in ``cuda_api.FUNCTIONS``.

    Args:
        devices: Number of identical GPUs; 0 for a driver without a GPU.
        deferred: Whether a stream does its work only when it is synchronized.
        invalidate_capture: Whether captures fail when they end; it can be changed later.
    """

    def __init__(
        self,
        *,
        name="NVIDIA GeForce RTX 4060",
        compute_capability=(8, 9),
        memory=8 * 2**30,
        multiprocessors=24,
        integrated=False,
        driver_version=12060,
        devices=1,
        deferred=False,
        invalidate_capture=False,
    ):
        self.name, self.memory, self.devices, self.driver_version = name, memory, devices, driver_version
        self.integrated, self.deferred, self.invalidate_capture = integrated, deferred, invalidate_capture
        self.attributes = {
            75: compute_capability[0],
            76: compute_capability[1],
            16: multiprocessors,
            18: int(integrated),
        }
        self.log, self.misuse = [], []
        self._lock, self._local = threading.RLock(), threading.local()
        self._initialized, self._sticky = False, 0
        self._failures = collections.defaultdict(list)
        self._handles = itertools.count(0x5500_0000_1000, 0x10)  # More than 32 bits, to detect truncation.
        self._contexts = {}  # Handle to device.
        self._references = collections.Counter()  # Device to number of references.
        self._blocks = {}
        self._freed = collections.deque(maxlen=64)  # The newest freed blocks stay readable.
        self._streams, self._graphs, self._executables = {}, {}, {}
        for function, types in FUNCTIONS.items():
            setattr(self, function, ctypes.CFUNCTYPE(ctypes.c_int, *types)(functools.partial(self._dispatch, function)))

    @classmethod
    def jetson(cls, **settings):
        """Return the driver of a Jetson Orin NX, whose CPU and GPU share one memory."""
        return cls(
            **{
                "name": "Orin",
                "compute_capability": (8, 7),
                "memory": 16 * 2**30,
                "multiprocessors": 8,
                "integrated": True,
                **settings,
            }
        )

    # ---- for tests

    def fail(self, name, code, after=0):
        """Make the next call of a function fail, or the one after ``after`` calls. A sticky error stays for all calls."""
        assert name in FUNCTIONS, name
        self._failures[name].append([after, code])

    def record(self, stream, function):
        """Queue the work of an engine on a stream: a function without arguments that does not raise."""
        with self._lock:
            ready = self._put(stream, function)
        for operation in ready:
            operation()

    def read(self, address, size):
        """Return bytes from memory that the device can read."""
        with self._lock:
            self._block(address, size, ("device", "mapped"), "read")
            return ctypes.string_at(address, size)

    def live(self):
        """Return the number of live objects of each kind that must be freed."""
        kinds = collections.Counter(block.kind for block in self._blocks.values())
        return {
            **{kind: kinds[kind] for kind in _ALIGNMENT},
            "streams": len(self._streams),
            "graphs": len(self._graphs),
            "executables": len(self._executables),
            "contexts": self._references.total(),
        }

    def leaks(self):
        """Return what was not freed. After a sticky error only the context can be released."""
        with self._lock:
            leaks = [
                f"primary context of device {device}: {count} reference(s)"
                for device, count in self._references.items()
                if count
            ]
            if not self._sticky:
                leaks += [str(block) for block in self._blocks.values()]
                for kind, handles in (
                    ("stream", self._streams),
                    ("graph", self._graphs),
                    ("executable graph", self._executables),
                ):
                    leaks += [f"{kind} {handle:#x}" for handle in handles]
            return leaks

    # ---- parts of all calls

    def _dispatch(self, name, *arguments):
        """Run a call and return its code. It never raises: ctypes would print the exception and return 0 (success)."""
        try:
            with self._lock:
                self.log.append(name)
                self._check(name, arguments)
                ready = getattr(self, f"_{name}")(*arguments) or ()
            for operation in ready:  # Without the lock: streams of several threads run concurrently.
                operation()
            return 0
        except Refused as refusal:
            code, text = refusal.code, str(refusal)
        except BaseException as problem:
            code, text = 719, f"{name}: {problem!r}"
        with self._lock:
            if text:
                self.misuse.append(text)
            if code in STICKY:
                self._sticky = code
        return code

    def _check(self, name, arguments):
        if name not in _ALWAYS and not self._initialized:
            raise Refused(3, f"{name} before cuInit")
        if name not in _WITHOUT_CONTEXT:
            if self._sticky:
                raise Refused(self._sticky)
            if not self._current:
                raise Refused(201, f"{name} on a thread without a current context")
            if self._current not in self._contexts:
                raise Refused(709, f"{name} in a context that was released")
        captures = [s.capture for s in self._streams.values() if s.capture]
        banning = [c for c in captures if c.mode == 0 or (c.mode == 1 and c.thread == threading.get_ident())]
        if name in _UNSAFE and banning:
            for capture in banning:
                capture.invalid = True
            raise Refused(900, f"{name} during a capture")
        for failure in self._failures[name]:
            failure[0] -= 1
        due = [f for f in self._failures[name] if f[0] < 0]
        if due:
            self._failures[name].remove(due[0])
            if name == "cuStreamEndCapture" and due[0][1] in NO_GRAPH:
                self._stream(arguments[0]).capture = None
            raise Refused(due[0][1])

    @property
    def _current(self):
        return getattr(self._local, "context", None)

    def _handle(self, of, value):
        handle = next(self._handles)
        of[handle] = value
        return handle

    def _pop_handle(self, of, handle, what):
        if handle not in of:
            raise Refused(400, f"{what} {handle or 0:#x} does not exist, or not any more")
        return of.pop(handle)

    def _device(self, device):
        if not 0 <= device < self.devices:
            raise Refused(101, f"there is no device {device}")

    # ---- the driver and its devices

    def _cuInit(self, flags):
        if not self.devices:
            raise Refused(100)
        self._initialized = True

    def _cuDriverGetVersion(self, out):
        out[0] = self.driver_version

    def _cuGetErrorName(self, code, out, which=0):
        if code not in _STATIC:
            raise Refused(1)
        out[0] = _STATIC[code][which]  # ctypes keeps no reference after this call.

    def _cuGetErrorString(self, code, out):
        self._cuGetErrorName(code, out, 1)

    def _cuDeviceGetCount(self, out):
        out[0] = self.devices

    def _cuDeviceGet(self, out, ordinal):
        self._device(ordinal)
        out[0] = ordinal

    def _cuDeviceGetName(self, out, size, device):
        self._device(device)
        ctypes.memmove(out, self.name.encode()[: size - 1] + b"\0", min(size, len(self.name.encode()) + 1))

    def _cuDeviceTotalMem_v2(self, out, device):
        self._device(device)
        out[0] = self.memory

    def _cuDeviceGetAttribute(self, out, which, device):
        self._device(device)
        out[0] = self.attributes[which]

    def _cuDevicePrimaryCtxRetain(self, out, device):
        self._device(device)
        self._references[device] += 1
        alive = [handle for handle, owner in self._contexts.items() if owner == device]
        out[0] = alive[0] if alive else self._handle(self._contexts, device)

    def _cuDevicePrimaryCtxRelease_v2(self, device):
        if not self._references[device]:
            raise Refused(201, f"the primary context of device {device} was released more often than retained")
        self._references[device] -= 1
        if not self._references[device]:
            self._contexts = {handle: owner for handle, owner in self._contexts.items() if owner != device}

    def _cuCtxSetCurrent(self, context):
        if context is not None and context not in self._contexts:
            raise Refused(201, f"context {context:#x} does not exist, or not any more")
        self._local.context = context

    # ---- memory

    def _cuMemGetInfo_v2(self, free, total):
        free[0], total[0] = self.memory - self._used(), self.memory

    def _used(self):
        return sum(block.size for block in self._blocks.values() if self.integrated or block.kind == "device")

    def _allocate(self, out, size, kind):
        if not size:
            raise Refused(1, "an allocation of 0 bytes")
        if size > self.memory - (self._used() if self.integrated or kind == "device" else 0):
            raise Refused(2)
        block = Block(size, kind)
        self._blocks[block.address] = block
        out[0] = block.address

    def _release(self, address, kinds):
        block = self._blocks.get(address)
        if block is None or block.kind not in kinds:
            twice = any(freed.address == address for freed in self._freed)
            raise Refused(1, f"{'second free of' if twice else 'free of unknown'} address {address or 0:#x}")
        del self._blocks[address]
        overrun = block.overrun()
        block.free()
        self._freed.append(block)
        if overrun:
            self.misuse.append(f"written outside of {block}")

    def _cuMemAlloc_v2(self, out, size):
        self._allocate(out, size, "device")

    def _cuMemFree_v2(self, address):
        self._release(address, ("device",))

    def _cuMemHostAlloc(self, out, size, flags):
        self._allocate(out, size, "mapped" if flags & 2 else "pinned")

    def _cuMemHostGetDevicePointer_v2(self, out, address, flags):
        block = self._blocks.get(address)
        if block is None or block.kind != "mapped" or flags:
            raise Refused(1, f"{address or 0:#x} is not mapped into the device")
        out[0] = address  # Unified addressing.

    def _cuMemFreeHost(self, address):
        self._release(address, ("pinned", "mapped"))

    # ---- copies

    def _block(self, address, size, kinds, what):
        """Return the allocation that contains a range; None for pageable host memory."""
        for block in self._blocks.values():
            if block.address <= (address or 0) < block.address + block.size:
                if block.kind not in kinds:
                    raise Refused(1, f"{what}: {block} is on the wrong side")
                if address + size > block.address + block.size:
                    raise Refused(1, f"{what}: {size} bytes at {address:#x} go beyond {block}")
                return block
        if "pinned" in kinds and address:
            return None
        raise Refused(1, f"{what}: {address or 0:#x} is not memory of the device")

    def _copy(self, name, to, to_kinds, source, source_kinds, size, stream):
        blocks = self._block(to, size, to_kinds, f"{name} to"), self._block(source, size, source_kinds, f"{name} from")

        def copy(source=source):
            if not all(block is None or block.alive for block in blocks):
                raise Refused(700, f"{name} of memory that was freed")
            ctypes.memmove(to, source, size)

        queue = self._stream(stream)
        # A copy of pageable memory is complete when the call returns.
        if self.deferred and not queue.capture and None in blocks:
            if blocks[1] is None:
                return self._put(stream, functools.partial(copy, ctypes.string_at(source, size)))
            ready, queue.queue = [*queue.queue, copy], []
            return ready
        return self._put(stream, copy)

    def _cuMemcpyHtoDAsync_v2(self, to, source, size, stream):
        return self._copy("cuMemcpyHtoDAsync_v2", to, ("device", "mapped"), source, ("pinned", "mapped"), size, stream)

    def _cuMemcpyDtoHAsync_v2(self, to, source, size, stream):
        return self._copy("cuMemcpyDtoHAsync_v2", to, ("pinned", "mapped"), source, ("device", "mapped"), size, stream)

    def _cuMemcpyDtoDAsync_v2(self, to, source, size, stream):
        return self._copy("cuMemcpyDtoDAsync_v2", to, ("device", "mapped"), source, ("device", "mapped"), size, stream)

    # ---- streams and graphs

    def _stream(self, handle):
        if handle not in self._streams:
            what = (
                f"stream {handle:#x} does not exist, or not any more"
                if handle
                else "the default stream, which other streams here do not wait for"
            )
            raise Refused(400, what)
        stream = self._streams[handle]
        if self._current not in (None, stream.context):
            raise Refused(400, f"stream {handle:#x} belongs to another context")
        return stream

    def _put(self, handle, operation):
        """Queue or record an operation; return the operations to run now."""
        stream = self._stream(handle)
        if stream.capture:
            stream.capture.operations.append(operation)
        elif self.deferred:
            stream.queue.append(operation)
        else:
            return [operation]
        return []

    def _cuStreamCreate(self, out, flags):
        if flags != 1:
            raise Refused(1, f"stream with flags {flags}: it waits for the default stream")
        out[0] = self._handle(self._streams, Stream(self._current))

    def _cuStreamSynchronize(self, handle):
        stream = self._stream(handle)
        if stream.capture:
            stream.capture.invalid = True
            raise Refused(900, "cuStreamSynchronize of a stream that captures")
        ready, stream.queue = stream.queue, []
        return ready

    def _cuStreamDestroy_v2(self, handle):
        stream = self._stream(handle)
        if stream.capture:
            self.misuse.append(f"stream {handle:#x} was destroyed while it captured")
        return self._streams.pop(handle).queue

    def _cuStreamBeginCapture_v2(self, handle, mode):
        stream = self._stream(handle)
        if stream.capture:
            raise Refused(401, f"stream {handle:#x} captures already")
        stream.capture = Capture(mode)

    def _cuStreamEndCapture(self, handle, out):
        out[0] = None
        stream = self._stream(handle)
        if not stream.capture:
            raise Refused(401, f"stream {handle:#x} does not capture")
        if stream.capture.thread != threading.get_ident():
            raise Refused(908, f"the capture of stream {handle:#x} was begun by another thread")
        capture, stream.capture = stream.capture, None
        if capture.invalid or self.invalidate_capture:
            raise Refused(901)
        out[0] = self._handle(self._graphs, capture.operations)

    def _cuGraphInstantiateWithFlags(self, out, graph, flags):
        if graph not in self._graphs or flags:
            raise Refused(1, f"graph {graph or 0:#x} does not exist, or has flags ({flags})")
        out[0] = self._handle(self._executables, list(self._graphs[graph]))

    def _cuGraphLaunch(self, executable, stream):
        if executable not in self._executables:
            raise Refused(400, f"executable graph {executable or 0:#x} does not exist, or not any more")
        operations = self._executables[executable]
        return self._put(stream, lambda: [operation() for operation in operations])

    def _cuGraphExecDestroy(self, executable):
        self._pop_handle(self._executables, executable, "executable graph")

    def _cuGraphDestroy(self, graph):
        self._pop_handle(self._graphs, graph, "graph")
