"""Strict parsing of plain data (from TOML or JSON) into frozen dataclasses, and back.

An unknown key, a missing key and a value of a wrong type are errors that name the place. So a typing mistake in a
target, or a modified manifest, never becomes a default value.
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
from edgekit.spec.short import ShortRepr

__all__ = ["Recorded", "T", "parse", "plain", "strict_json", "to_json"]

T = TypeVar("T")


def parse(cls: type[T], data: object, where: str, error: type[EdgekitError] = UsageError) -> T:
    """Create an instance of a dataclass from plain data.

    Args:
        cls: Dataclass. Its fields may be scalars, tuples, sequences, mappings, optionals and other dataclasses. A field
            with the metadata ``key`` of False is not a key. A field with ``hint`` is read as that type, if its own type
            has values that no file can hold.
        data: Mapping, as TOML or JSON has it.
        where: Name of the file and the table, for messages.
        error: Class of the error to raise.

    Raises:
        EdgekitError: If a key is unknown or missing, or a value has the wrong type; its class is ``error``.
    """
    if not isinstance(data, Mapping):
        raise error(f"{where} is {_kind(data)}, expected a table of keys and values.", code="value-type")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("key", True)}  # type: ignore[arg-type]
    check_known(data, fields, "key", f" in {where}", error=error, code="key-unknown")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _parse_value(field.metadata.get("hint", hints[name]), data[name], f"{where}: {name}", error)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise error(
                f"{where} has no key '{name}', which is required. Add {name} = ... to it.",
                code="key-missing",
                key=name,
            )
    try:
        return cls(**values)
    except UsageError as problem:  # from a check in __post_init__ of the dataclass
        raise problem.reworded(f"{where}: {problem}", error) from problem
    except ValueError as problem:
        raise error(f"{where}: {problem}", code="value-invalid") from problem


def strict_json(text: str) -> Any:
    """Read JSON, and refuse all that readers interpret differently: duplicate keys, NaN and infinity.

    Raises:
        ValueError: If the text is not such JSON.
        RecursionError: If it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)


def plain(value: object) -> Any:
    """Convert dataclasses to dicts and tuples to lists, ready for JSON: the inverse of :func:`parse`.

    A field with the metadata ``unless_empty`` is omitted if it is empty, so the text of older data does not change.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result = {}
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            if "unless_empty" not in field.metadata or part:
                result[field.name] = plain(part)
        return result
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    return value


class Recorded(ShortRepr):
    """Base of the dataclasses that a command returns as its result."""

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return dict(plain(self))


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _parse_value(hint: Any, value: Any, where: str, error: type[EdgekitError]) -> Any:
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _parse_union(args, value, where, error)
    if origin is tuple:
        return _parse_tuple(args, value, where, error)
    if origin is Sequence:
        return _parse_tuple((*args, Ellipsis), value, where, error)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise error(f"{where} is {_kind(value)}, expected a table of keys and values.", code="value-type")
        return {str(key): _parse_value(args[1], part, f"{where}: {key}", error) for key, part in value.items()}
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast("type[Any]", hint), value, where, error)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        # The range also excludes NaN, and an int that is too large to convert.
        if not -sys.float_info.max <= value <= sys.float_info.max:
            raise error(f"{where} is {value!r}, expected a finite number.", code="value-not-finite")
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise error(
            f"{where} is {value!r} ({type(value).__name__}), expected a value of type {hint.__name__}.",
            code="value-type",
        )
    return value


def _parse_union(options: tuple[Any, ...], value: Any, where: str, error: type[EdgekitError]) -> Any:
    """Parse by the first option that accepts the value; if none does, raise the error of the last one."""
    if value is None and type(None) in options:
        return None
    *others, last = [option for option in options if option is not type(None)]
    for option in others:
        try:
            return _parse_value(option, value, where, error)
        except error:
            continue
    return _parse_value(last, value, where, error)


def _parse_tuple(args: tuple[Any, ...], value: Any, where: str, error: type[EdgekitError]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise error(f"{where} is {_kind(value)}, expected a list.", code="value-type")
    hints = args
    if len(args) == 2 and args[1] is Ellipsis:
        hints = (args[0],) * len(value)
    if len(value) != len(hints):
        raise error(f"{where} has {len(value)} entries, expected {len(hints)}.", code="value-length")
    pairs = enumerate(zip(hints, value, strict=True))
    return tuple(_parse_value(hint, part, f"{where}[{index}]", error) for index, (hint, part) in pairs)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a duplicate key: readers differ in which of the two values they use."""
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise ValueError(f"the key {name!r} appears twice")
        data[name] = value
    return data


def to_json(value: object, **options: Any) -> str:
    """Return plain data as JSON text, without the numbers that JSON does not have.

    Args:
        value: Plain data. An undefined number is None, which becomes null.
        **options: Options of ``json.dumps``.

    Raises:
        EdgekitError: If a number is NaN or infinite; with its place.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        place = _find_non_finite(value)
        if place is None:
            raise
        where = place.lstrip(".") or "the value itself"
        raise EdgekitError(
            f"The number at {where} is not finite, and JSON has no such number. "
            "A model or a clock returned it: nothing was written.",
            code="number-not-finite",
        ) from None


def _find_non_finite(value: object, place: str = "") -> str | None:
    """Return the place of the first number in plain data that is not finite, or None."""
    items: list[tuple[str, object]] = []
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    if isinstance(value, Mapping):
        items = [(f"{place}.{key}", part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{place}[{index}]", part) for index, part in enumerate(value)]
    for path, part in items:
        result = _find_non_finite(part, path)
        if result is not None:
            return result
    return None
