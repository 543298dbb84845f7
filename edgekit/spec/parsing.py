"""Strict parsing: plain data (from TOML or JSON) into a frozen dataclass and back.

A key that the dataclass does not have, a missing key and a value of another type are errors that name the place, so
that a typing mistake in a target or an altered manifest never turns into a default.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from edgekit.spec.errors import EdgekitError, UsageError, check_known

__all__ = ["Recorded", "T", "parse", "plain", "strict_json", "to_json"]

T = TypeVar("T")


def parse(cls: type[T], data: object, where: str, error: type[EdgekitError] = UsageError) -> T:
    """Makes a ``cls`` of plain data.

    Args:
        cls: a dataclass; its fields may be scalars, tuples and sequences, mappings, optionals and other dataclasses. A field with the metadata ``key``
            of False is no key; one with ``hint`` is read as of that type, where its own type has values that no file can hold.
        data: a mapping, as TOML or JSON gives it.
        where: what is being read, for messages (a file name and a table).
        error: the error type to raise.

    Raises:
        EdgekitError: of type ``error``, for an unknown or missing key or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise error(f"{where} is {_kind(data)}, expected a table of keys and values.", code="value-type")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("key", True)}  # type: ignore[arg-type]
    check_known(data, fields, "key", f" in {where}", error=error, code="key-unknown")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(field.metadata.get("hint", hints[name]), data[name], f"{where}: {name}", error)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise error(
                f"{where} has no key '{name}', which it needs. Add {name} = ... to it.", code="key-missing", key=name
            )
    try:
        return cls(**values)
    except UsageError as problem:  # a value that the dataclass itself refuses
        raise problem.reworded(f"{where}: {problem}", error) from problem
    except ValueError as problem:
        raise error(f"{where}: {problem}", code="value-invalid") from problem


def strict_json(text: str) -> Any:
    """Reads JSON of which no two readers can think differently: a key that is there twice, NaN and infinities are refused.

    Raises:
        ValueError, RecursionError: where it is not such JSON.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once)


def plain(value: object) -> Any:
    """The inverse of :func:`parse`: dataclasses to dicts and tuples to lists, ready for JSON.

    A field with the metadata ``unless_empty`` is left out where it is empty: what lacks it is written as before there was such a field.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        values = {
            f.name: getattr(value, f.name)
            for f in dataclasses.fields(value)
            if "unless_empty" not in f.metadata or getattr(value, f.name)
        }
        return {name: plain(part) for name, part in values.items()}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return value


class Recorded:
    """A dataclass that a verb comes to."""

    def record(self) -> dict[str, object]:
        """Plain data for JSON."""
        return dict(plain(self))


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _value(hint: Any, value: Any, where: str, error: type[EdgekitError]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(args, value, where, error)
    if origin in (tuple, Sequence):
        return _tuple(args if origin is tuple else (*args, Ellipsis), value, where, error)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise error(f"{where} is {_kind(value)}, expected a table of keys and values.", code="value-type")
        return {str(k): _value(args[1], v, f"{where}: {k}", error) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast("type[Any]", hint), value, where, error)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if (
            not -sys.float_info.max <= value <= sys.float_info.max
        ):  # NaN is in no range; an int may be too large to convert
            raise error(f"{where} is {value!r}, expected a finite number.", code="value-not-finite")
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise error(
            f"{where} is {value!r} ({type(value).__name__}), expected a value of type {hint.__name__}.",
            code="value-type",
        )
    return value


def _union(options: tuple[Any, ...], value: Any, where: str, error: type[EdgekitError]) -> Any:
    """The first option that takes the value; the last one's complaint when none does."""
    if value is None and type(None) in options:
        return None
    *others, last = [o for o in options if o is not type(None)]
    for option in others:
        try:
            return _value(option, value, where, error)
        except error:
            continue
    return _value(last, value, where, error)


def _tuple(args: tuple[Any, ...], value: Any, where: str, error: type[EdgekitError]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise error(f"{where} is {_kind(value)}, expected a list.", code="value-type")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_value(args[0], v, f"{where}[{i}]", error) for i, v in enumerate(value))
    if len(value) != len(args):
        raise error(f"{where} has {len(value)} entries, expected {len(args)}.", code="value-length")
    return tuple(_value(a, v, f"{where}[{i}]", error) for i, (a, v) in enumerate(zip(args, value, strict=True)))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a key that is there twice: of two readers, each could take another one."""
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise ValueError(f"the key {name!r} is there twice")
        data[name] = value
    return data


def to_json(value: object, **options: Any) -> str:
    """JSON text of plain data, as ``json.dumps`` makes it with the same options, but never with a number that JSON does not have.

    Args:
        value: plain data. A number that is not defined is None, which becomes null.
        **options: of ``json.dumps``.

    Raises:
        EdgekitError: for NaN or infinity, with where it is.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        place = _not_finite(value)
        if place is None:
            raise
        where = place.lstrip(".") or "the value itself"
        raise EdgekitError(
            f"The number at {where} is not finite, and JSON has no such number. A model or a clock gave it: nothing was written.",
            code="number-not-finite",
        ) from None


def _not_finite(value: object, place: str = "") -> str | None:
    """Where in plain data the first number is that is not finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    if isinstance(value, Mapping):
        items: list[tuple[str, object]] = [(f"{place}.{key}", inner) for key, inner in value.items()]
    else:
        items = [(f"{place}[{i}]", inner) for i, inner in enumerate(value)] if isinstance(value, (list, tuple)) else []
    return next((found for path, inner in items if (found := _not_finite(inner, path)) is not None), None)
