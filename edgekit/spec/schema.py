"""The JSON Schema of a frozen dataclass, derived from what :func:`edgekit.spec.parsing.parse` takes: the two cannot drift apart.

Draft 2020-12 (https://json-schema.org/draft/2020-12). What parse cannot say in a type (a word out of a few) is given as ``enums``.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.spec.parsing import plain

__all__ = ["DRAFT", "Enums", "attributes", "schema"]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_ENTRY = re.compile(r"    (\w+(?:, \w+)*): (.*)")  # of an Attributes section, in a docstring without its indent

Enums = Mapping[str, Sequence[str | int]]
"""``Class.field`` to the values that the field may have."""


def schema(cls: type[Any], ident: str, enums: Enums | None = None) -> dict[str, Any]:
    """Derives the schema of ``cls``; dataclasses that it holds become ``$defs``.

    An unknown key is refused as parse refuses it; keys without a default are required, the others carry theirs. The first paragraph of a
    docstring describes the object, and its Attributes section the fields.

    Args:
        cls: a dataclass of scalars, tuples, mappings by string, optionals and other dataclasses.
        ident: the schema's ``$id``, a URI.
        enums: values of fields that may have only a few.

    Returns:
        Plain data, ready for JSON.

    Raises:
        ValueError: for a type that parse does not take, an enum of a field that does not exist, or two dataclasses of one name.
    """
    left, found = dict(enums or {}), {}
    waiting, seen = [cls], {cls.__name__: cls}
    while waiting:
        current = waiting.pop(0)
        found[current.__name__] = _object(current, left)
        for inner in _dataclasses(current):
            if seen.setdefault(inner.__name__, inner) is not inner:
                raise ValueError(f"There are two dataclasses {inner.__name__}, expected each name once. Rename one.")
            if inner.__name__ not in found and inner not in waiting:
                waiting.append(inner)
    if left:
        raise ValueError(f"There is no field {', '.join(left)} to give an enum. Correct its name.")
    own = found.pop(cls.__name__)
    return {"$schema": DRAFT, "$id": ident, "title": cls.__name__, **own, **({"$defs": dict(sorted(found.items()))} if found else {})}


def _object(cls: type[Any], enums: dict[str, Sequence[str | int]]) -> dict[str, Any]:
    """The schema of one dataclass; takes what it uses out of ``enums``."""
    hints, said = typing.get_type_hints(cls), attributes(cls)
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        own = _type(hints[field.name])
        if (values := enums.pop(f"{cls.__name__}.{field.name}", None)) is not None:
            own["enum"] = list(values)
        if field.name in said:
            own["description"] = said[field.name]
        if field.default is not dataclasses.MISSING:
            own["default"] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            own["default"] = plain(field.default_factory())
        else:
            required.append(field.name)
        properties[field.name] = own
    described = {} if not cls.__doc__ else {"description": " ".join(inspect.cleandoc(cls.__doc__).split("\n\n")[0].split())}
    return {**described, "type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _type(hint: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if dataclasses.is_dataclass(hint):
        return {"$ref": f"#/$defs/{typing.cast('type[Any]', hint).__name__}"}
    if origin in (typing.Union, types.UnionType):
        if all(a in _SCALARS for a in args):
            return {"type": [_SCALARS[a] for a in args]}
        return {"anyOf": [_type(a) for a in args]}
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return {"type": "array", "items": _type(args[0])}
        return {"type": "array", "prefixItems": [_type(a) for a in args], "items": False, "minItems": len(args)}
    if origin is not None and issubclass(origin, Mapping) and args[0] is str:
        return {"type": "object", "additionalProperties": _type(args[1])}
    raise ValueError(f"{hint} has no JSON Schema here, expected what parse takes: a scalar, tuple, mapping by string, optional or dataclass.")


def _dataclasses(cls: type[Any]) -> list[type[Any]]:
    """Those that the fields of ``cls`` hold, in their order."""
    found: list[type[Any]] = []

    def visit(hint: Any) -> None:
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found.append(hint)
        for inner in typing.get_args(hint):
            visit(inner)

    for hint in typing.get_type_hints(cls).values():
        visit(hint)
    return found


def attributes(cls: type[Any]) -> dict[str, str]:
    """What the Attributes section of a docstring says of each field; ``low, high: ...`` is said of both."""
    found: dict[str, str] = {}
    names: list[str] = []
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    for line in section.split("\n\n")[0].splitlines():
        if entry := _ENTRY.fullmatch(line):
            names = entry[1].split(", ")
            found.update(dict.fromkeys(names, entry[2]))
        else:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found
