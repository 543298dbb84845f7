"""Writes the JSON Schema of a report, ``edgekit/report/report.schema.json``, of its dataclasses.

    python release/report_schema.py

Draft 2020-12, by pydantic. As ``edgekit.spec.parsing.parse`` does, it refuses an unknown key and asks for those without a default. The first paragraph of
a docstring describes an object, its Attributes section the fields. What no type says (a word out of a few) is in ``ENUMS``.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from edgekit.spec.report import KINDS, SCHEMA, VERDICTS, Report

FILE = Path(__file__).parents[1] / "edgekit/report/report.schema.json"
ENUMS = {"Report.schema": [SCHEMA], "Report.kind": list(KINDS), "Gate.verdict": list(VERDICTS)}

_ENTRY = re.compile(r"    (\w+(?:, \w+)*): (.*)")  # of an Attributes section, in a docstring without its indent


class _Described(GenerateJsonSchema):
    """Pydantic's schema with the words of the docstrings, and without the titles that it makes of names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        cls = schema["cls"]
        found, words = super().dataclass_schema(schema), attributes(cls)
        for field in dataclasses.fields(cls):
            own = found["properties"][field.name]
            own["description"] = words[field.name]
            if field.default_factory is not dataclasses.MISSING:  # which pydantic does not call
                own["default"] = field.default_factory()
            if f"{cls.__name__}.{field.name}" in ENUMS:
                own["enum"] = ENUMS[f"{cls.__name__}.{field.name}"]
        return {
            **found,
            "description": " ".join(inspect.cleandoc(cls.__doc__).split("\n\n")[0].split()),
            "additionalProperties": False,
        }


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


def text() -> str:
    """The schema, as the file holds it."""
    head = {"$schema": _Described.schema_dialect, "$id": f"urn:edgekit:report:{SCHEMA}"}
    made = TypeAdapter(Report).json_schema(schema_generator=_Described)
    return json.dumps({**head, **made}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
