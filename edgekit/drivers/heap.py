"""The heap of the C library: memory that was freed, and that the process keeps all the same.

glibc returns freed memory to the system only from the end of its heap. Behind a step that allocates and frees many
arrays, several hundred megabytes stay resident that no object uses, and the next step adds its own.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["trim"]


def trim() -> bool:
    """Return freed memory of the C library's heap to the system (``malloc_trim(3)``, some milliseconds).

    Returns:
        Whether the C library can do so: glibc does. Others (musl, macOS, Windows) return memory by themselves.
    """
    function = _malloc_trim()
    if function is None:
        return False
    function(0)
    return True


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows loads no library without a name.
        return None
    function.argtypes = (ctypes.c_size_t,)
    function.restype = ctypes.c_int
    return function
