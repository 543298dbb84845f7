"""The JSON Schema of a report: it takes what parse takes, and refuses what that refuses."""

from __future__ import annotations

import json
import runpy
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import pytest
import reports
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.spec import report as report_module
from edgekit.spec import subject as subject_module
from edgekit.spec.errors import UsageError
from edgekit.spec.parsing import parse, plain
from edgekit.spec.report import KINDS, VERDICTS, Report

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "release/report_schema.py"))
FILE = SCRIPT["FILE"]
SHIPPED = json.loads(FILE.read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SHIPPED)
REPORTS = reports.everything()


def errors(data):
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in VALIDATOR.iter_errors(data)]


def test_the_shipped_schema_is_the_derived_one():
    assert FILE.read_text("utf-8") == SCRIPT["text"](), "write it anew: python release/report_schema.py"
    jsonschema.Draft202012Validator.check_schema(SHIPPED)
    assert SHIPPED["$id"] == "urn:edgekit:report:2"
    assert SHIPPED["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_is_within_it(name):
    data = plain(REPORTS[name])
    assert errors(json.loads(json.dumps(data))) == []


def test_every_field_is_described():
    """A reader of the file has the schema only: a field without words is a field that nobody explains."""
    known = {Report.__name__: SHIPPED, **SHIPPED["$defs"]}
    bare = [
        f"{name}.{key}"
        for name, own in known.items()
        for key, value in own["properties"].items()
        if not value.get("description")
    ]
    assert bare == []
    assert all(own["additionalProperties"] is False and own["description"] for own in known.values())
    ours = {
        c.__name__
        for m in (report_module, subject_module)
        for c in vars(m).values()
        if isinstance(c, type) and hasattr(c, "__dataclass_fields__")
    }
    assert set(known) == ours | {"Agreement", "Trial"}
    assert set(SHIPPED["properties"]) == {f.name for f in fields(Report)}
    low = SHIPPED["$defs"]["Gate"]["properties"]["low"]
    assert low == {
        "anyOf": [{"type": "number"}, {"type": "null"}],
        "description": "Ends of its interval; None if there is none.",
    }
    assert SHIPPED["properties"]["digest"]["default"] == ""
    assert "digest" not in SHIPPED["required"]
    assert "kind" in SHIPPED["required"]


def broken(change):
    data = json.loads(json.dumps(plain(REPORTS["check"])))
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "place", "said"),
    [
        (lambda d: d.update(extra=1), ": ", "'extra' was unexpected"),
        (lambda d: d.pop("samples"), ": ", "'samples' is a required property"),
        (lambda d: d.update(seed="0"), "seed: ", "'0' is not of type 'integer'"),
        (lambda d: d.update(schema=3), "schema: ", "3 is not one of [2]"),
        (lambda d: d.update(kind="audit"), "kind: ", "'audit' is not one of"),
        (lambda d: d["gates"][0].update(verdict="passed"), "gates/0/verdict: ", "'passed' is not one of"),
        (lambda d: d["gates"][0].pop("limit"), "gates/0: ", "'limit' is a required property"),
        (lambda d: d["gates"][0].update(low="0"), "gates/0/low: ", "'0' is not valid under any of the given schemas"),
        (
            lambda d: d["fingerprint"]["backends"].update(onnxruntime=1),
            "fingerprint/backends/onnxruntime: ",
            "1 is not of type 'string'",
        ),
        (
            lambda d: d["subjects"][0]["processes"][0]["blocks_ms"][0].append("1"),
            "subjects/0/processes/0/blocks_ms/0/4: ",
            "is not of type 'number'",
        ),
        (
            lambda d: d["subjects"][1]["predictions"].update(texts=[]),
            "subjects/1/predictions: ",
            "is not valid under any of the given schemas",
        ),
        (
            lambda d: d["accuracy"]["flipped"][3].update(row=True),
            "accuracy: ",
            "is not valid under any of the given schemas",
        ),
        (lambda d: d.update(include_text=None), "include_text: ", "None is not of type 'boolean'"),
    ],
)
def test_a_broken_report_is_refused(change, place, said):
    (found,) = errors(broken(change))
    assert found.startswith(place)
    assert said in found


_scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, -1.25]) | st.sampled_from(["", "a"])
_values = st.recursive(
    _scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["size", "note", "x"]), v, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(REPORTS.keys() - {"largest"})), st.data())
def test_it_takes_what_parse_takes(name, drawn):
    """Two readers of the same rules, one of them by somebody else. One value somewhere in a report is another one, or gone."""
    data = json.loads(json.dumps(plain(replace(REPORTS[name], notes=("n",)))))
    place, depth = data, drawn.draw(st.integers(0, 4))
    for _ in range(depth):
        inner = [v for v in (place.values() if isinstance(place, dict) else place) if isinstance(v, (dict, list)) and v]
        if not inner:
            break
        place = inner[drawn.draw(st.integers(0, len(inner) - 1))]
    key = drawn.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    if drawn.draw(st.booleans()):
        del place[key]
    else:
        place[key] = drawn.draw(_values)
    try:
        parse(Report, data, "x")
        taken = data["kind"] in KINDS and data["schema"] == 2
        taken = taken and all(g["verdict"] in VERDICTS for g in data.get("gates", []))
    except UsageError:
        taken = False
    assert VALIDATOR.is_valid(data) == taken
