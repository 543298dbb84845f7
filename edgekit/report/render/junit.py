"""Gates as JUnit XML, which every CI system shows: a gate is a test case.

There is no standard; what is written is within Jenkins' ``junit-10.xsd`` (xUnit plugin; pytest tests its own file against it), in which, other than
in Ant's, a test case may have output of its own.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from edgekit.report.render.words import NOTHING, gate_numbers, plain
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Gate, Report

__all__ = ["OUTCOMES", "junit"]

OUTCOMES = {REGRESSION: "failure", OVER_BUDGET: "failure", INCOMPARABLE: "error", INCONCLUSIVE: "skipped"}
"""Element of a test case by verdict; a gate that passes has none."""

# https://www.w3.org/TR/xml/#charsets: no escape makes the others legal.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def junit(report: Report) -> str:
    """Return one test suite with a test case for each gate: class ``edgekit.latency`` and name ``p50`` for the gate ``latency.p50``.

    A failure is a regression or a budget that was passed, an error what cannot be compared, skipped what is not settled; each says why. This is the
    verdict of a gate; whether the run as a whole fails is the exit code's, which ``--strict`` and ``--allow-incomparable`` change.
    """
    counts = {
        outcome: sum(OUTCOMES.get(g.verdict) == outcome for g in report.gates)
        for outcome in ("failure", "error", "skipped")
    }
    seconds = f"{report.speed.seconds if report.speed else 0.0:.3f}"
    totals = {"tests": str(len(report.gates)), "failures": str(counts["failure"]), "errors": str(counts["error"])}
    root = ElementTree.Element("testsuites", {"name": "edgekit", **totals, "time": seconds})
    more = {"timestamp": found[0]} if (found := _SECONDS.match(report.created)) else {}
    about = {
        "name": f"edgekit {report.kind}",
        **totals,
        "skipped": str(counts["skipped"]),
        "time": seconds,
        **more,
        "hostname": "localhost",
    }
    suite = ElementTree.SubElement(root, "testsuite", {name: _clean(value) for name, value in about.items()})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(report).items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for gate in report.gates:
        _case(suite, gate)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _properties(report: Report) -> dict[str, str]:
    """Return the properties of the suite: bundles, samples and machine."""
    names = ("candidate",) if len(report.subjects) == 1 else ("baseline", "candidate")
    found = {
        "verdict": report.verdict if report.gates else "nothing was gated",
        "samples": report.samples,
        "rows": str(report.rows),
        "seed": str(report.seed),
    }
    for name, subject in zip(names, report.subjects, strict=True):
        found.update({name: subject.name, f"{name}.digest": subject.digest})
    machine = report.fingerprint
    return {
        **found,
        "edgekit": machine.edgekit,
        "python": machine.python,
        "system": machine.system,
        "cpu": machine.cpu,
        "gpu": machine.gpu,
    }


def _case(suite: ElementTree.Element, gate: Gate) -> None:
    table, _, metric = _clean(gate.name).partition(".")
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": f"edgekit.{table}", "name": metric or table, "time": "0"}
    )
    allowed, seen, around = gate_numbers(gate)
    numbers = plain(
        f"seen {'not known' if seen == NOTHING else seen}{'' if around == NOTHING else f' ({around})'}, allowed {allowed}"
    )
    said = _clean(gate.said)
    if gate.verdict != PASS:
        outcome = OUTCOMES[gate.verdict]
        found = ElementTree.SubElement(case, outcome, {"message": said or gate.verdict, "type": gate.verdict})
        if outcome != "skipped":  # whose text some readers take for the reason, and some for nothing
            found.text = f"{said}\n{numbers}"
    ElementTree.SubElement(case, "system-out").text = f"{gate.verdict}: {numbers}" + (f"\n{said}" if said else "")


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
