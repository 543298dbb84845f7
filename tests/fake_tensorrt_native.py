"""What the stand-in for TensorRT (``fake_tensorrt.py``) has of pybind11: arguments that are checked, enums that are no ints, objects that
take no new attributes; and the knobs that a test turns.
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

ALIGNMENT = 256  # of tensors' addresses (NvInferRuntime.h, setTensorAddress) and of memory that contexts share
_ORDERED = ("Severity", "BuilderFlag", "NetworkDefinitionCreationFlag", "ExecutionContextAllocationStrategy")


@dataclass
class Fake:
    """What a test sets on a fake module, and what it may look at.

    Attributes:
        version: in full, e.g. ``11.4.0.106``.
        driver: a fake driver; None runs everything at once.
        compute_capability: of the device; None asks the driver.
        slow_ms: sleeps so long in each execution, by what the engine's products multiply: ``int8``, ``half``, ``float``.
        wrong: is added to all float outputs of graphs with Q/DQ.
        build_returns_none: makes builds fail, with a line in the log.
        refuse_capture: makes ``execute_async_v3`` return False while its stream captures, as for graphs with loops.
        out_of_memory: makes ``create_execution_context`` return None.
        builds: engines built so far.
        timed: kernels that builds measured, those that a timing cache knew not counted.
        executions: of all contexts, launches of graphs included.
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
        """Engines that are alive."""
        return len(self._engines)

    @property
    def contexts(self) -> int:
        """Execution contexts that are alive."""
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
        """What a stream records into, or None while it runs what it is given."""
        return None if self.driver is None else self.driver._stream(stream).capture

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        """Runs work on a stream, or records it."""
        if self.driver is None:
            work()
        else:
            self.driver.record(stream, work)

    def memory(self, address: int, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Device memory as an array. A driver refuses what is not memory of the device, as the device does with an illegal access."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if self.driver is not None:
            self.driver.read(address, size)
        return np.ndarray(tuple(shape), dtype, (ctypes.c_char * size).from_address(address))

    def count(self) -> None:
        """Counts an execution."""
        with self._lock:
            self.executions += 1

    @contextlib.contextmanager
    def scratch(self, owner: int, address: int, size: int) -> Iterator[None]:
        """Holds device memory for an execution. It is written to, as kernels do.

        Raises:
            AssertionError: when another execution holds some of it: two contexts that share memory may not run at the same time.
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


def refused(function: str) -> TypeError:
    return TypeError(
        f"{function}(): incompatible function arguments. The following argument types are supported: (see the documentation)"
    )


def number(value: Any, function: str, least: int | None = None) -> int:
    """An argument that is an integer in C++: no float, no None."""
    try:
        number = operator.index(value)
    except TypeError as problem:
        raise refused(function) from problem
    if least is not None and number < least:
        raise refused(function)
    return number


def string(value: Any, function: str) -> str:
    """An argument that is a ``char const*`` in C++: no Path."""
    if not isinstance(value, (str, bytes)):
        raise refused(function)
    return value if isinstance(value, str) else value.decode()


def given(value: Any, kind: type, function: str) -> Any:
    if not isinstance(value, kind):
        raise refused(function)
    return value


def buffer(value: Any, function: str) -> bytes:
    try:
        return bytes(memoryview(value))
    except TypeError as problem:
        raise refused(function) from problem


class Native:
    """An object that lives in C++: it takes no new attributes, and the library alone makes it."""

    __slots__ = ("__weakref__",)
    _fake: Fake

    def __init__(self, *_: Any) -> None:
        raise TypeError(f"tensorrt.tensorrt.{type(self).__name__}: No constructor defined!")


def made(kind: Any, **fields: Any) -> Any:
    made = object.__new__(kind)
    for name, value in fields.items():
        setattr(made, f"_{name}", value)
    return made


def log(logger: Any, severity: str, text: str) -> None:
    """Hands a line to a logger. What that raises is printed and lost, as in the bindings."""
    try:
        logger.log(getattr(logger.Severity, severity), text)
    except BaseException as problem:
        sys.stderr.write(f"[ERROR] Exception caught in log(): {type(problem).__name__}: {problem}\n")


class Enum:
    """An enum of pybind11: not an int, and equal to its own kind alone."""

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
    made = type(name, (Enum,), space)
    made.__members__ = {member: made(value) for value, member in enumerate(members.split()) if member != "-"}
    for member, value in made.__members__.items():
        setattr(made, member, value)
    return made


class Dims:
    """A shape. It looks like a tuple and is none; -1 dimensions, which no tensor has, stand for "no such tensor"."""

    __slots__ = ("_count", "_sizes")
    MAX_DIMS = 8
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any = ()) -> None:
        if isinstance(shape, str):
            raise refused("__init__")
        try:
            self._sizes = [operator.index(size) for size in shape]
        except TypeError as problem:
            raise refused("__init__") from problem
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
            raise refused("__eq__")
        return tuple(self._sizes) == tuple(other)

    def __repr__(self) -> str:
        return str(tuple(self._sizes))


class IHostMemory(Native):
    """Bytes of the library's. It has the buffer protocol and neither a length nor an index: use memoryview or bytes."""

    __slots__ = ()
    dtype = property(lambda self: self._fake.trt.DataType.INT8)
    nbytes = property(lambda self: ctypes.sizeof(self))
    __len__ = __getitem__ = None


def memory(trt: Any, data: bytes) -> Any:
    """Memory of the library's. The class is a ctypes array, as Python before 3.12 cannot offer a buffer otherwise."""
    kind = type("IHostMemory", (trt.IHostMemory, ctypes.c_ubyte * len(data)), {"__slots__": ()})
    made = kind.__new__(kind)
    ctypes.memmove(ctypes.addressof(made), data, len(data))
    return made


class _Overridden(type):
    """Refuses an object whose class did not call the base class's ``__init__``, without which C++ has nothing."""

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        made = super().__call__(*arguments, **named)
        if not made._ready:
            base = next(kind for kind in cls.__mro__ if kind.__module__ == "tensorrt.tensorrt").__name__
            raise TypeError(f"tensorrt.tensorrt.{base}.__init__() must be called when overriding __init__")
        return made


class ILogger(metaclass=_Overridden):
    """What receives the library's lines, from any thread."""

    _ready = False

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


class Logger(ILogger):
    """Writes lines to standard error, from a severity on."""

    def __init__(self, min_severity: Any = None) -> None:
        ILogger.__init__(self)
        self.min_severity = (
            self.Severity.WARNING if min_severity is None else given(min_severity, self.Severity, "__init__")
        )

    def log(self, severity: Any, msg: str) -> None:
        if severity <= self.min_severity:
            sys.stderr.write(f"[TRT] [{severity.name[0]}] {msg}\n")


class IProgressMonitor(metaclass=_Overridden):
    """What is told how far a build is."""

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
    """A property that takes values of one type, kept under a name in ``_settings``. ``int`` stands for all integers."""

    def write(self: Any, value: Any) -> None:
        wanted = kind(self._fake)
        self._settings[name] = adapt(number(value, "") if wanted is int else given(value, wanted, ""))

    return property(lambda self: self._settings[name], write)


KINDS = (IHostMemory, Dims, ILogger, Logger, IProgressMonitor)
