"""Gates as JUnit XML: what CI systems read of it, and that any text makes valid XML."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import reports
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.report.render.junit import OUTCOMES, junit
from edgekit.spec.report import PASS, VERDICTS, Gate

REPORTS = reports.everything()

# The part of junit-10.xsd (Jenkins, xUnit plugin) that is about what is written: children, attributes that may be there, those that must be.
SUREFIRE_TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]{0,3})?")
XSD = {
    "testsuites": (["testsuite"], {"name", "time", "tests", "failures", "errors"}, set()),
    "testsuite": (
        ["testsuite", "properties", "testcase", "system-out", "system-err"],
        {
            "name",
            "tests",
            "failures",
            "errors",
            "group",
            "time",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
            "file",
            "log",
            "url",
        },
        {"name", "tests", "failures", "errors"},
    ),
    "testcase": (
        ["skipped", "error", "failure", "system-out", "system-err"],
        {"name", "time", "classname", "group"},
        {"name"},
    ),
    "properties": (["property"], set(), set()),
    "property": ([], {"name", "value"}, {"name", "value"}),
    "failure": ([], {"type", "message"}, set()),
    "error": ([], {"type", "message"}, set()),
    "skipped": ([], {"type", "message"}, set()),
    "system-out": ([], set(), set()),
}
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def violations(element):
    """Where an element is outside the schema."""
    children, may, must = XSD[element.tag]
    found = [f"{element.tag}: {name}" for name in (element.attrib.keys() - may) | (must - element.attrib.keys())]
    found += [f"{element.tag}: text"] if children and (element.text or "").strip() else []
    if element.tag != "testcase" and not SUREFIRE_TIME.fullmatch(element.get("time", "")):
        found.append(f"{element.tag}: time {element.get('time')}")
    for child in element:
        found += [f"{element.tag} in it: {child.tag}"] if child.tag not in children else violations(child)
        found += [f"{child.tag}: text behind it"] if (child.tail or "").strip() else []
    return found


def gate(name="latency.p50", verdict=PASS, said="It is so."):
    return Gate(name, verdict, 0.05, 0.083, 0.07, 0.097, said)


def root(*gates, **more):
    return ElementTree.fromstring(junit(replace(REPORTS["minimal"], gates=gates, **more)).encode())


@pytest.mark.parametrize("name", REPORTS)
def test_it_is_within_the_schema(name):
    text = junit(REPORTS[name])
    assert text == junit(REPORTS[name])
    found = ElementTree.fromstring(text.encode())
    assert violations(found) == []
    names = [f"{case.get('classname')}.{case.get('name')}" for case in found.findall("testsuite/testcase")]
    assert names == [f"edgekit.{gate.name}" for gate in REPORTS[name].gates]


def test_a_check():
    found = ElementTree.fromstring(junit(REPORTS["check"]).encode())
    (suite,) = found
    assert suite.attrib == {
        "name": "edgekit check", "tests": "9", "failures": "2", "errors": "1", "skipped": "2", "time": "29.600", "timestamp": "2026-02-03T04:05:06",
        "hostname": "localhost",
    }  # fmt: skip
    assert {k: found.get(k) for k in ("tests", "failures", "errors")} == {"tests": "9", "failures": "2", "errors": "1"}
    by_name = {c.get("name"): c for c in suite.findall("testcase")}
    failure = by_name["p50"].find("failure")
    assert failure.attrib == {"message": "p50 grew by 8.3 % (7.0 % to 9.7 %), above 5 %.", "type": "regression"}
    assert failure.text.splitlines()[1] == "measured +8.3 % (+7.0 % to +9.7 %), allowed +5 %"
    assert by_name["memory_mb"].find("failure").get("type") == "over budget"
    assert by_name["p99"].find("error").attrib == {
        "message": "p99 is not estimable from 300 samples (needs 662).",
        "type": "incomparable",
    }
    assert (
        by_name["p90"].find("skipped").get("message")
        == "p90 grew by 5.9 % (1.0 % to 12.1 %): not settled against 10 %."
    )
    assert [e.tag for e in by_name["first_answer"]] == ["system-out"]
    assert (
        by_name["first_answer"].find("system-out").text.splitlines()[0]
        == "pass: measured +3.1 % (-3.0 % to +10.0 %), allowed +25 %"
    )
    values = {p.get("name"): p.get("value") for p in suite.findall("properties/property")}
    assert {k: values[k] for k in ("verdict", "rows", "baseline", "candidate")} == {
        "verdict": "regression", "rows": "872", "baseline": "release-1.4", "candidate": "main",
    }  # fmt: skip


def test_an_outcome_for_each_verdict():
    assert set(OUTCOMES) | {PASS} == set(VERDICTS)
    found = root(*(gate(f"t.{i}", v) for i, v in enumerate(VERDICTS)))
    (suite,) = found
    assert [[e.tag for e in c if e.tag != "system-out"] for c in suite.findall("testcase")] == [
        [], ["failure"], ["failure"], ["skipped"], ["error"],
    ]  # fmt: skip
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("2", "1", "1")


def test_nothing_gated():
    found = ElementTree.fromstring(junit(REPORTS["comparison"]).encode())
    assert (found.get("tests"), found.findall("testsuite/testcase")) == ("0", [])
    assert found.find("testsuite/properties/property[@name='verdict']").get("value") == "nothing was gated"


def test_one_subject_is_no_baseline():
    names = {p.get("name") for p in ElementTree.fromstring(junit(REPORTS["single"]).encode()).iter("property")}
    assert "candidate" in names
    assert "baseline" not in names


def test_a_time_that_is_no_time_is_left_out():
    assert "timestamp" not in root(created="yesterday")[0].attrib
    assert root(created="2026-02-03T04:05:06.123456+00:00")[0].get("timestamp") == "2026-02-03T04:05:06"


@pytest.mark.parametrize("name", ["p50", "", ".", "a.b.c"])
def test_names_of_any_form(name):
    (case,) = root(gate(name)).iter("testcase")
    table, _, rest = name.partition(".")
    assert (case.get("classname"), case.get("name")) == (f"edgekit.{table}", rest or table)


@settings(deadline=None)
@given(st.text(), st.text(), st.sampled_from(VERDICTS))
@example("slice.\x00\x0b\ufffe\udc80=\U0001f600", "]]> <![CDATA[ &amp; \x1b[31m\r\n\t\x85\u2028", "regression")
@example("slice.\"'<&>", "\"'<&>", "incomparable")
@example("a.b", "", "inconclusive")
def test_any_text_is_valid_xml_and_the_same_text(name, said, verdict):
    subject = replace(REPORTS["minimal"].subjects[0], name=said)
    text = junit(
        replace(REPORTS["minimal"], gates=(gate("slice." + name, verdict, said),), subjects=(subject,), samples=name)
    )
    assert NOT_XML.search(text) is None
    found = ElementTree.fromstring(text.encode())
    assert violations(found) == []
    clean_name, clean = NOT_XML.sub("\ufffd", name), NOT_XML.sub("\ufffd", said)
    (case,) = found.iter("testcase")
    assert case.get("name") == (clean_name or "slice")
    assert found.find("testsuite/properties/property[@name='candidate']").get("value") == clean
    outcome = [e for e in case if e.tag != "system-out"]
    if verdict != PASS:
        assert outcome[0].get("message") == (clean or verdict)
    unified = clean.replace("\r\n", "\n").replace("\r", "\n")  # as XML parsers read line ends in text
    assert case.find("system-out").text.split("\n", 1)[1:] == ([unified] if clean else [])


def test_the_check_sees():
    """The rules above refuse what the schema refuses."""
    good = junit(REPORTS["check"])
    for old, new in (
        ('errors="1" skipped', 'erors="1" skipped'), (' time="29.600" timestamp', ' time="29.6001" timestamp'), ("<properties>", "<properties>text"),
        ("<system-out>pass", "<output/><system-out>pass"), ('<property name="rows"', "<property"), ("</testcase>", "</testcase>text"),
    ):  # fmt: skip
        assert old in good
        broken = good.replace(old, new, 1)
        try:
            assert violations(ElementTree.fromstring(broken.encode())), new
        except KeyError:
            pytest.fail(f"{new} is not seen")
