"""Gates as JUnit XML, which every CI system shows: one test case per gate.

There is no standard. The output conforms to Jenkins' ``junit-10.xsd`` (xUnit plugin; pytest tests its own file against
it), in which a test case, unlike in Ant's format, may have its own output.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from edgekit.report.render.words import NOTHING, gate_numbers, plain
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Gate, Report

__all__ = ["OUTCOMES", "junit"]

OUTCOMES = {REGRESSION: "failure", OVER_BUDGET: "failure", INCOMPARABLE: "error", INCONCLUSIVE: "skipped"}
"""Element of a test case by verdict; a gate that passes has none."""

# https://www.w3.org/TR/xml/#charsets: other characters are not allowed, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def junit(report: Report) -> str:
    """Return one test suite with a test case for each gate.

    The gate ``latency.p50`` has the class ``edgekit.latency`` and the name ``p50``. A failure is a regression or an
    exceeded budget, an error is an incomparable gate, and skipped is an inconclusive one. Each has its reason. These
    are the verdicts of the gates; the exit code also depends on ``--strict`` and ``--allow-incomparable``.
    """
    outcomes = [OUTCOMES.get(gate.verdict) for gate in report.gates]
    failures = str(outcomes.count("failure"))
    errors = str(outcomes.count("error"))
    totals = {"tests": str(len(report.gates)), "failures": failures, "errors": errors}
    seconds = "0.000" if report.speed is None else f"{report.speed.seconds:.3f}"
    root = ElementTree.Element("testsuites", {"name": "edgekit", **totals, "time": seconds})
    timestamp = _SECONDS.match(report.created)
    attributes = {
        "name": f"edgekit {report.kind}",
        **totals,
        "skipped": str(outcomes.count("skipped")),
        "time": seconds,
        **({} if timestamp is None else {"timestamp": timestamp[0]}),
        "hostname": "localhost",
    }
    suite = ElementTree.SubElement(root, "testsuite", {name: _clean(value) for name, value in attributes.items()})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(report).items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for gate in report.gates:
        _add_case(suite, gate)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _properties(report: Report) -> dict[str, str]:
    """Return the properties of the suite: bundles, samples and machine."""
    names = ("candidate",) if len(report.subjects) == 1 else ("baseline", "candidate")
    properties = {
        "verdict": report.verdict if report.gates else "nothing was gated",
        "samples": report.samples,
        "rows": str(report.rows),
        "seed": str(report.seed),
    }
    for name, subject in zip(names, report.subjects, strict=True):
        properties[name] = subject.name
        properties[f"{name}.digest"] = subject.digest
    for name in ("edgekit", "python", "system", "cpu", "gpu"):
        properties[name] = getattr(report.fingerprint, name)
    return properties


def _add_case(suite: ElementTree.Element, gate: Gate) -> None:
    table, _, metric = _clean(gate.name).partition(".")
    attributes = {"classname": f"edgekit.{table}", "name": metric or table, "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    allowed, measured, interval = gate_numbers(gate)
    value = "not known" if measured == NOTHING else measured
    if interval != NOTHING:
        value += f" ({interval})"
    numbers = plain(f"measured {value}, allowed {allowed}")
    sentence = _clean(gate.said)
    if gate.verdict != PASS:
        outcome = OUTCOMES[gate.verdict]
        element = ElementTree.SubElement(case, outcome, {"message": sentence or gate.verdict, "type": gate.verdict})
        if outcome != "skipped":  # Some readers show this text as the reason, others ignore it.
            element.text = f"{sentence}\n{numbers}"
    output = f"{gate.verdict}: {numbers}"
    if sentence:
        output += f"\n{sentence}"
    ElementTree.SubElement(case, "system-out").text = output


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
