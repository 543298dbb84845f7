"""What differs between two bundles is named; a bundle and itself can never be a regression."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import short
import small

from edgekit.report import check as verbs
from edgekit.report import gating
from edgekit.report.differences import describe_differences, differences, equal, settings
from edgekit.report.side import open_for_test
from edgekit.spec.gates import FootprintGates, Gates, LatencyGates
from edgekit.spec.options import CheckOptions
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, PASS, REGRESSION, Accuracy, Change, Speed
from edgekit.spec.subject import Subject

IMPOSSIBLE = Gates(LatencyGates(0.0, 0.0, 0.0), footprint=FootprintGates(0.0, 0.0, 0.0))
"""Margins that noise alone exceeds."""


def subject(bundle, **changes):
    manifest = open_for_test(bundle).bundle.manifest
    first = manifest.variants[0]
    one = Subject(
        "b", "sha256:0", 1, "m", "text-classification", {"labels": ["a", "b"]}, ("a", "b"), settings=settings(manifest)
    )
    return replace(
        one,
        **{
            "backend": first.backend,
            "method": first.method,
            "executed": first.executed,
            "threads": first.threads,
            **changes,
        },
    )


def altered(bundle, place, change):
    """A copy whose manifest's data were changed, signed anew."""
    copy = small.copy(bundle, place)
    data = json.loads((copy / "manifest.json").read_text("utf-8"))
    change(data)
    small.sign(copy, **{name: value for name, value in data.items() if name != "files"})
    return copy


def test_a_bundle_does_not_differ_from_its_copy(float32_ort, tmp_path):
    def other_words(data):
        data["notes"], data["reason"], data["provenance"]["seed"] = ["made on a Tuesday"], "another", "99"
        data["name"], data["version"], data["built"], data["machine"] = (
            "shop",
            "1.2",
            "2026-02-03",
            {"architecture": "riscv64"},
        )

    was, now = subject(float32_ort), subject(altered(float32_ort, tmp_path / "copy", other_words))
    assert differences(was, now) == [] and equal(was, now)
    assert describe_differences(was, now).startswith("Both sides are the same bundle, files and settings:")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("threads", 7, "variant 1 threads: {}, then 7"),
        ("streams", 3, "variant 1 streams: 1, then 3"),
        ("batch", 5, "variant 1 batch: {}, then 5"),
    ],
)
def test_the_same_files_with_other_settings(float32_ort, tmp_path, name, value, said):
    def change(data):
        data["variants"][0][name] = value

    was, now = subject(float32_ort), subject(altered(float32_ort, tmp_path / "other", change), threads=1)
    before = open_for_test(float32_ort).bundle.manifest.variants[0]
    was = replace(was, threads=1)
    assert differences(was, now) == [said.format(getattr(before, name))]
    assert not equal(was, now) and describe_differences(was, now).startswith(
        "The files are the same, the settings differ: variant 1 "
    )


def test_files_are_named(float32_ort, tmp_path):
    copy = small.copy(float32_ort, tmp_path / "copy")
    (copy / "assets/more.txt").write_text("more")
    (copy / "assets/task.json").write_text((copy / "assets/task.json").read_text() + " ")
    (copy / "race.json").write_text("{}")
    small.sign(copy)
    was, now = subject(float32_ort), subject(copy)
    assert sorted(differences(was, now)) == ["file assets/more.txt (only now)", "file assets/task.json (content)"], (
        "a race's record is of the clock"
    )
    assert describe_differences(was, now).startswith("The bundles differ: file ")


def test_how_it_ran_counts_too(float32_ort):
    was, now = subject(float32_ort, threads=1), subject(float32_ort, threads=2)
    assert differences(was, now) == ["ran with threads 1, then 2"] and not equal(was, now)


def test_an_older_report_does_not_tell_its_settings(float32_ort):
    was, now = subject(float32_ort, settings={}), subject(float32_ort)
    assert not equal(was, now), "what is not known to be equal is judged"
    assert "does not record its settings" in describe_differences(was, now)
    assert "the content of their files" in describe_differences(replace(was, digest="sha256:1"), now)


def judge(low, ratio, high, equal, here=True, comparable=True):
    accuracy = Accuracy(100, "accuracy", 0.9, 0.8, 0.1, 0.05, 0.15, flips=10)
    changes = tuple(Change(m, 2.0, 2.0 * ratio, "ms", ratio, low, high) for m in ("p50", "size"))
    speed = Speed(
        True, changes, 8, 80, 1280, 1, 20.0, comparable=comparable, why_not="" if comparable else "cpu: a, then b"
    )
    gates = Gates(LatencyGates(0.05, None, None), footprint=FootprintGates(None, None, 0.1))
    return {g.name: g for g in gating.judge_comparison(gates, accuracy, speed, equal=equal, here=here)}


def test_a_bundle_against_itself_can_never_fail():
    for ratio in ((1.5, 1.56, 1.6), (1.0, 1.05, 1.1)):
        assert {g.verdict for g in judge(*ratio, equal=True).values()} == {PASS}
    assert (
        "same bundle" in judge(1.5, 1.56, 1.6, equal=True)["latency.p50"].said
        and "x 1.560" in judge(1.5, 1.56, 1.6, equal=True)["latency.p50"].said
    )
    assert {g.verdict for g in judge(1.5, 1.56, 1.6, equal=False).values()} == {REGRESSION}
    assert judge(1.0, 1.05, 1.1, equal=False)["latency.p50"].verdict == INCONCLUSIVE


def test_elsewhere_its_answers_may_differ_and_its_times_cannot_be_compared():
    found = {name: g.verdict for name, g in judge(1.5, 1.56, 1.6, equal=True, here=False, comparable=False).items()}
    assert found == {"accuracy.drop": REGRESSION, "latency.p50": INCOMPARABLE, "footprint.size": PASS}


@pytest.mark.slow
@short.measurements()
def test_from_end_to_end(float32_ort, tiny_samples, tmp_path):
    """The same bundle passes where noise alone exceeds every margin; with another thread count it is named, and judged."""
    found = verbs.check(
        small.copy(float32_ort, tmp_path / "copy"),
        float32_ort,
        tiny_samples.dev,
        options=CheckOptions(gates=IMPOSSIBLE, max_time=0.0),
    )
    assert {g.verdict for g in found.gates} == {PASS} and found.exit_code(strict=True) == 0, found.gates

    def other(data):
        data["variants"][0]["streams"] += 1

    changed = verbs.check(
        altered(float32_ort, tmp_path / "other", other),
        float32_ort,
        tiny_samples.dev,
        options=CheckOptions(gates=IMPOSSIBLE, max_time=0.0),
    )
    assert any(
        note.startswith("The files are the same, the settings differ: variant 1 streams: 1, then 2")
        for note in changed.notes
    )
    assert "same bundle" not in " ".join(g.said for g in changed.gates)
