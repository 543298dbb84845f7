"""Paths as callers give them: what cannot be one, or cannot be looked at, is an error of its own before anything is done."""

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

_OF_THE_PATH = {
    getattr(errno, name)
    for name in (
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
    if hasattr(errno, name)
}
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_LONGEST = 200  # characters of a path in a message


def takes_paths(*names: str) -> Callable[[Function], Function]:
    """Makes a function one that callers outside may hand anything.

    Args:
        names: its parameters that are paths, or sequences of paths; None is taken where it is the default.

    Returns:
        A decorator. The function then raises UsageError for a path that cannot be one, and never an OSError: UsageError where a path is at fault (a folder in
        place of a file, no permission, a name that is too long), else EdgekitError (a disk that is full, too many open files).
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            bound = signature.bind(*arguments, **options)
            for name in names:
                value, default = bound.arguments.get(name), signature.parameters[name].default
                if name in bound.arguments and not (value is None and default is None):
                    check_path(value, name)
            try:
                return function(*arguments, **options)
            except OSError as problem:
                raise convert_os_error(problem) from problem

        return cast(Function, call)

    return decorate


def check_path(value: object, name: str) -> None:
    """Refuses what cannot be a path, or what the system does not look at as one. One that is not there is not refused: whoever reads it knows what is missing.

    Raises:
        UsageError: with what it is.
    """
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        for part in value:
            check_path(part, name)
        return
    expected = "expected a path (a str or a pathlib.Path)"
    try:
        text = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        raise UsageError(
            f"{name} is {'None' if value is None else f'a {type(value).__name__}'}, {expected}. Correct the call.",
            code="path-type",
        ) from None
    if not isinstance(text, str):
        raise UsageError(f"{name} is a path of bytes, {expected}. Write os.fsdecode(...) around it.", code="path-type")
    if not text or "\0" in text:
        raise UsageError(
            f"{name} is {'empty' if not text else 'a text with a NUL character'}, {expected}. Correct the call.",
            code="path-type",
        )
    try:
        os.stat(text)
    except UnicodeEncodeError:
        raise UsageError(
            f"{name} holds a character that no path can hold (a lone surrogate), {expected}. Correct the call.",
            code="path-type",
        ) from None
    except OSError as problem:
        if problem.errno not in _ABSENT:
            raise convert_os_error(problem) from problem


def convert_os_error(problem: OSError) -> EdgekitError:
    """An error of the system as one of EdgeKit."""
    name = (
        ""
        if problem.filename is None
        else os.fsdecode(problem.filename)
        if isinstance(problem.filename, (str, bytes))
        else str(problem.filename)
    )
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}... ({len(name)} characters)"
    what = f"{shown or 'A file'} cannot be used: {problem.strerror or problem}."
    if problem.errno in _OF_THE_PATH:
        return UsageError(
            f"{what} Expected a path that can be read or written here; correct it, or its permissions.",
            code="path-unusable",
        )
    return EdgekitError(
        f"{what} The system refused; free what it lacks (space, memory, open files), and try again.",
        code="system-refused",
    )
