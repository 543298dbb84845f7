"""Checks of paths that users pass, with an EdgeKit error in place of an OSError or TypeError."""

from __future__ import annotations

import errno
import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from edgekit.spec.errors import EdgekitError, UsageError

__all__ = ["Function", "check_path", "convert_os_error", "takes_paths"]

Function = TypeVar("Function", bound=Callable[..., Any])

# Errors that the path itself causes. Some platforms lack some of these names.
_PATH_ERROR_NAMES = (
    "EACCES",
    "EEXIST",
    "EINVAL",
    "EIO",
    "EISDIR",
    "ELOOP",
    "ENAMETOOLONG",
    "ENODEV",
    "ENOENT",
    "ENOTDIR",
    "ENOTEMPTY",
    "ENXIO",
    "EPERM",
    "EROFS",
)
_PATH_ERRORS = {getattr(errno, name) for name in _PATH_ERROR_NAMES if hasattr(errno, name)}
_MISSING_ERRORS = (errno.ENOENT, errno.ENOTDIR)
_LONGEST = 200  # characters of a path in a message


def takes_paths(*names: str) -> Callable[[Function], Function]:
    """Return a decorator that checks the path arguments of a public function.

    The function then raises UsageError for an invalid path, and never an OSError. It raises UsageError if a path is at
    fault (a folder in place of a file, no permission, a name that is too long), and EdgekitError for other causes (a
    full disk, too many open files).

    Args:
        names: Parameters that are paths, or sequences of paths. None is allowed if it is the default.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            bound = signature.bind(*arguments, **options)
            for name in names:
                if name not in bound.arguments:
                    continue
                value = bound.arguments[name]
                is_default_none = value is None and signature.parameters[name].default is None
                if not is_default_none:
                    check_path(value, name)
            try:
                return function(*arguments, **options)
            except OSError as problem:
                raise convert_os_error(problem) from problem

        return cast(Function, call)

    return decorate


def check_path(value: object, name: str) -> None:
    """Check that a value is a path, or a sequence of paths, that the system accepts.

    A missing file passes: the function that reads it has the better message.

    Args:
        value: Value to check.
        name: Name of the parameter, for messages.

    Raises:
        UsageError: If it is not a path, or the system refuses to look it up.
    """
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        for part in value:
            check_path(part, name)
        return
    expected = "expected a path (a str or a pathlib.Path)"
    try:
        text = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        kind = "None" if value is None else f"a {type(value).__name__}"
        raise UsageError(f"{name} is {kind}, {expected}. Correct the call.", code="path-type") from None
    if not isinstance(text, str):
        raise UsageError(f"{name} is a path of bytes, {expected}. Write os.fsdecode(...) around it.", code="path-type")
    if not text:
        raise UsageError(f"{name} is empty, {expected}. Correct the call.", code="path-type")
    if "\0" in text:
        raise UsageError(f"{name} is a text with a NUL character, {expected}. Correct the call.", code="path-type")
    try:
        os.stat(text)
    except UnicodeEncodeError:
        raise UsageError(
            f"{name} contains a character that is invalid in a path (a lone surrogate), {expected}. Correct the call.",
            code="path-type",
        ) from None
    except OSError as problem:
        if problem.errno not in _MISSING_ERRORS:
            raise convert_os_error(problem) from problem


def convert_os_error(problem: OSError) -> EdgekitError:
    """Return the EdgeKit error for an OSError."""
    path = _display_path(problem.filename)
    what = f"{path or 'A file'} cannot be used: {problem.strerror or problem}."
    if problem.errno in _PATH_ERRORS:
        return UsageError(
            f"{what} Expected a path that can be read or written here; correct it, or its permissions.",
            code="path-unusable",
        )
    return EdgekitError(
        f"{what} The operating system refused; free what it lacks (space, memory, open files), and try again.",
        code="system-refused",
    )


def _display_path(filename: object) -> str:
    """Return the file name of an OSError for a message, shortened; empty if it has none."""
    if filename is None:
        return ""
    path = os.fsdecode(filename) if isinstance(filename, (str, bytes)) else str(filename)
    if len(path) <= _LONGEST:
        return path
    return f"{path[:_LONGEST]}... ({len(path)} characters)"
