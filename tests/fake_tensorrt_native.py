"""The pybind11 behaviour of the fake TensorRT, and its controls for tests.

Arguments are checked, enums are not ints, and objects accept no new attributes.
"""

from __future__ import annotations

import contextlib
import ctypes
import operator
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import fake_tensorrt_graph as graphs
import numpy as np

ALIGNMENT = 256  # Of tensor addresses (NvInferRuntime.h, setTensorAddress) and of memory that contexts share.
_ORDERED = ("Severity", "BuilderFlag", "NetworkDefinitionCreationFlag", "ExecutionContextAllocationStrategy")


@dataclass
class Fake:
    """Controls and counters of a fake module.

    Attributes:
        version: Full version, e.g. ``11.4.0.106``.
        driver: Fake driver; None runs all work immediately.
        compute_capability: Compute capability of the device; None for that of the driver.
        slow_ms: Sleep time of each execution in ms, by the precision of the engine's products: ``int8``, ``half``,
            ``float``.
        wrong: Number added to all float outputs of graphs with Q/DQ.
        build_returns_none: Whether builds fail, with a line in the log.
        refuse_capture: Whether ``execute_async_v3`` returns False during a capture, as for graphs with loops.
        out_of_memory: Whether ``create_execution_context`` returns None.
        builds: Number of engines built so far.
        timed: Number of kernels that builds timed, without those in a timing cache.
        executions: Number of executions of all contexts, including launches of graphs.
    """

    version: str
    driver: Any = None
    compute_capability: tuple[int, int] | None = None
    slow_ms: dict[str, float] = field(default_factory=dict)
    wrong: float = 0.0
    build_returns_none: bool = False
    refuse_capture: bool = False
    out_of_memory: bool = False
    builds: int = 0
    timed: int = 0
    executions: int = 0
    trt: Any = None
    _engines: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    _contexts: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    _scratch: dict[int, tuple[int, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def engines(self) -> int:
        """Number of live engines."""
        return len(self._engines)

    @property
    def contexts(self) -> int:
        """Number of live execution contexts."""
        return len(self._contexts)

    @property
    def major(self) -> int:
        """First number of the version."""
        return int(self.version.split(".")[0])

    @property
    def compute(self) -> list[int]:
        """Compute capability of the device."""
        device = (8, 7) if self.driver is None else (self.driver.attributes[75], self.driver.attributes[76])
        return list(self.compute_capability or device)

    def capture(self, stream: int) -> Any:
        """Return the capture of a stream, or None."""
        return None if self.driver is None else self.driver._stream(stream).capture

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        """Run work on a stream, or record it."""
        if self.driver is None:
            work()
        else:
            self.driver.record(stream, work)

    def memory(self, address: int, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Return device memory as an array. The driver refuses other addresses, like an illegal access on a device."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if self.driver is not None:
            self.driver.read(address, size)
        return np.ndarray(tuple(shape), dtype, (ctypes.c_char * size).from_address(address))

    def count(self) -> None:
        """Count an execution."""
        with self._lock:
            self.executions += 1

    @contextlib.contextmanager
    def scratch(self, owner: int, address: int, size: int) -> Iterator[None]:
        """Reserve device memory for an execution and overwrite it, as kernels do.

        Raises:
            AssertionError: Another execution uses part of the memory: two contexts run at the same time in it.
        """
        with self._lock:
            for other, (start, length) in self._scratch.items():
                assert other == owner or address + size <= start or start + length <= address, (
                    "two contexts run at the same time in the same device memory"
                )
            self._scratch[owner] = (address, size)
        try:
            self.memory(address, (size,), np.uint8)[...] = 0xA5
            yield
        finally:
            with self._lock:
                del self._scratch[owner]


def type_error(function: str) -> TypeError:
    return TypeError(
        f"{function}(): incompatible function arguments. The following argument types are supported: (see the documentation)"
    )


def number(value: Any, function: str, least: int | None = None) -> int:
    """Return an argument that is an integer in C++: not a float, not None."""
    try:
        number = operator.index(value)
    except TypeError as problem:
        raise type_error(function) from problem
    if least is not None and number < least:
        raise type_error(function)
    return number


def string(value: Any, function: str) -> str:
    """Return an argument that is a ``char const*`` in C++: not a Path."""
    if not isinstance(value, (str, bytes)):
        raise type_error(function)
    return value if isinstance(value, str) else value.decode()


def check_type(value: Any, kind: type, function: str) -> Any:
    if not isinstance(value, kind):
        raise type_error(function)
    return value


def buffer(value: Any, function: str) -> bytes:
    try:
        return bytes(memoryview(value))
    except TypeError as problem:
        raise type_error(function) from problem


class Native:
    """A C++ object: it accepts no new attributes, and only the library creates it."""

    __slots__ = ("__weakref__",)
    _fake: Fake

    def __init__(self, *_: Any) -> None:
        raise TypeError(f"tensorrt.tensorrt.{type(self).__name__}: No constructor defined!")


def create(kind: Any, **fields: Any) -> Any:
    instance = object.__new__(kind)
    for name, value in fields.items():
        setattr(instance, f"_{name}", value)
    return instance


def log(logger: Any, severity: str, text: str) -> None:
    """Pass a line to a logger. An exception of the logger is printed and dropped, as in the bindings."""
    try:
        logger.log(getattr(logger.Severity, severity), text)
    except BaseException as problem:
        sys.stderr.write(f"[ERROR] Exception caught in log(): {type(problem).__name__}: {problem}\n")


class Enum:
    """An enum of pybind11: not an int, and equal only to members of the same class."""

    __slots__ = ("_value",)
    __members__: dict[str, Enum]

    def __init__(self, value: Any) -> None:
        self._value = number(value, "__init__")

    @property
    def _name(self) -> str:
        return next((name for name, member in self.__members__.items() if member._value == self._value), "???")

    name = _name

    @property
    def value(self) -> int:
        return self._value

    def __int__(self) -> int:
        return self._value

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self._name}"

    def __repr__(self) -> str:
        return f"<{self}: {self._value}>"


def enum(name: str, members: str) -> type[Enum]:
    def compared(how: Callable[[int, int], bool]) -> Callable[[Enum, Enum], bool]:
        def compare(self: Enum, other: Enum) -> bool:
            if type(other) is not type(self):
                raise TypeError("Expected an enumeration of matching type!")
            return how(self._value, other._value)

        return compare

    space: dict[str, Any] = {"__slots__": (), "__module__": "tensorrt.tensorrt"}
    if name in _ORDERED:
        space.update({f"__{how}__": compared(getattr(operator, how)) for how in ("lt", "le", "gt", "ge")})
    if name == "DataType":
        space["itemsize"] = property(lambda self: np.dtype(graphs.NUMPY[self.name]).itemsize)
    instance = type(name, (Enum,), space)
    instance.__members__ = {member: instance(value) for value, member in enumerate(members.split()) if member != "-"}
    for member, value in instance.__members__.items():
        setattr(instance, member, value)
    return instance


class Dims:
    """A shape that looks like a tuple but is not one; -1 dimensions mean that there is no such tensor."""

    __slots__ = ("_count", "_sizes")
    MAX_DIMS = 8
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any = ()) -> None:
        if isinstance(shape, str):
            raise type_error("__init__")
        try:
            self._sizes = [operator.index(size) for size in shape]
        except TypeError as problem:
            raise type_error("__init__") from problem
        if len(self._sizes) > self.MAX_DIMS:
            raise ValueError(f"Input length {len(self._sizes)}. Max expected length is {self.MAX_DIMS}")
        self._count = len(self._sizes)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self._sizes[index])
        if not -self._count <= index < self._count:
            raise IndexError("Out of bounds")
        return self._sizes[index]

    def __setitem__(self, index: int, size: int) -> None:
        self._sizes[index] = size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (tuple, list)):
            raise type_error("__eq__")
        return tuple(self._sizes) == tuple(other)

    def __repr__(self) -> str:
        return str(tuple(self._sizes))


class IHostMemory(Native):
    """Memory of the library. It has the buffer protocol but no length and no index: use memoryview or bytes."""

    __slots__ = ()
    dtype = property(lambda self: self._fake.trt.DataType.INT8)
    nbytes = property(lambda self: ctypes.sizeof(self))
    __len__ = __getitem__ = None


def memory(trt: Any, data: bytes) -> Any:
    """Return memory of the library: a ctypes array, because Python before 3.12 has no other way to offer a buffer."""
    kind = type("IHostMemory", (trt.IHostMemory, ctypes.c_ubyte * len(data)), {"__slots__": ()})
    instance = kind.__new__(kind)
    ctypes.memmove(ctypes.addressof(instance), data, len(data))
    return instance


class _Overridden(type):
    """Metaclass that requires subclasses to call the base class's ``__init__``, which creates the C++ object."""

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        instance = super().__call__(*arguments, **named)
        if not instance._ready:
            base = next(kind for kind in cls.__mro__ if kind.__module__ == "tensorrt.tensorrt").__name__
            raise TypeError(f"tensorrt.tensorrt.{base}.__init__() must be called when overriding __init__")
        return instance


class ILogger(metaclass=_Overridden):
    """Receiver of the library's log lines, called from any thread."""

    _ready = False

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


class Logger(ILogger):
    """Logger that writes lines from a severity on to standard error."""

    def __init__(self, min_severity: Any = None) -> None:
        ILogger.__init__(self)
        self.min_severity = (
            self.Severity.WARNING if min_severity is None else check_type(min_severity, self.Severity, "__init__")
        )

    def log(self, severity: Any, msg: str) -> None:
        if severity <= self.min_severity:
            sys.stderr.write(f"[TRT] [{severity.name[0]}] {msg}\n")


class IProgressMonitor(metaclass=_Overridden):
    """Receiver of build progress."""

    _ready = False

    def __init__(self) -> None:
        self._ready = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')


def setting(name: str, kind: Callable[[Fake], Any], adapt: Callable[[Any], Any] = lambda value: value) -> property:
    """Return a property for values of one type, stored under a name in ``_settings``. ``int`` accepts all integers."""

    def write(self: Any, value: Any) -> None:
        value_type = kind(self._fake)
        self._settings[name] = adapt(number(value, "") if value_type is int else check_type(value, value_type, ""))

    return property(lambda self: self._settings[name], write)


KINDS = (IHostMemory, Dims, ILogger, Logger, IProgressMonitor)
