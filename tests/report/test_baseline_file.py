"""Baselines in files, from end to end: sessions that are added, a bundle that is still where it was, and one that is not."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import short
import small
from refusals import refused

from edgekit.report import baseline_file, files
from edgekit.report import check as verbs
from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates
from edgekit.spec.options import BaselineOptions, CheckOptions
from edgekit.spec.report import PASS

pytestmark = pytest.mark.slow
OPEN = Gates(LatencyGates(9.0, None, None), AccuracyGates(0.05), FootprintGates(9.0, 1.0, 0.1, None))


@pytest.fixture(scope="module", autouse=True)
def quick():
    with short.measurements():
        yield


@pytest.fixture(scope="module")
def place(float32_ort, tiny_samples, tmp_path_factory):
    """A bundle, another one of the same speed (a string of its assets differs), and the baseline of the first in two sessions."""
    root = tmp_path_factory.mktemp("baselines")
    small.copy(float32_ort, root / "old")
    (small.copy(float32_ort, root / "new") / "assets/note.txt").write_text("new")
    small.sign(root / "new")
    for _ in range(2):
        files.write(
            verbs.baseline(root / "old", tiny_samples.dev, file=root / "b.json", options=BaselineOptions(append=True)),
            root / "b.json",
        )
    return root


def test_sessions_are_added(place):
    found = files.read(place / "b.json").subjects[0]
    assert (len(found.sessions), len(found.processes), found.path) == (1, 4, "old")
    first, second = found.sessions[0].processes[0], found.processes[0]
    assert set(first.probes_ms) == set(second.probes_ms) and {k.partition(" ")[0] for k in first.probes_ms} >= {
        "int8",
        "float32",
        "memory",
    }
    assert found.probes_ran.partition(" ")[0] == "onnxruntime"
    assert "With 2 sessions, a later check" in files.read(place / "b.json").notes[-1]
    assert (
        all(len(times) == len(second.blocks_ms) + 1 for times in second.probes_ms.values())
        and second.probe_start_ms > 0
    )


def test_the_probes_are_the_baselines_whatever_the_bundle_runs_on(place):
    """Another backend's kernels are another yardstick. What a file names that no version knew is left out."""
    found = files.read(place / "b.json").subjects[0]
    backend, threads, kernels = baseline_file.probes_of(replace(found, backend="openvino"))
    assert (backend, f"{backend} {threads}") == ("onnxruntime", found.probes_ran) and set(kernels) == set(
        found.processes[-1].probes_ms
    )
    odd = replace(
        found.processes[-1], probes_ms={**found.processes[-1].probes_ms, "rm -rf": ((1.0,),), "int8 0": ((1.0,),)}
    )
    assert baseline_file.probes_of(replace(found, processes=(odd,)))[2] == kernels
    assert baseline_file.probes_of(replace(found, probes_ran="../x 2"))[2] == () == baseline_file.probes_of(None)[2]


def test_without_append_a_baseline_is_begun_anew(place, tiny_samples):
    with short.measurements(processes=1):
        found = verbs.baseline(place / "old", tiny_samples.dev, file=place / "b.json")
    assert found.subjects[0].sessions == ()


def test_a_session_of_something_else_is_refused(place, tiny_samples, tmp_path):
    baseline = place / "b.json"
    with refused("baseline-other-bundle"):
        verbs.baseline(place / "new", tiny_samples.dev, file=baseline, options=BaselineOptions(append=True))
    fewer = small.write_jsonl(tmp_path / "dev.jsonl", tiny_samples.rows[1:])
    with refused("baseline-other-samples"):
        verbs.baseline(place / "old", fewer, file=baseline, options=BaselineOptions(append=True))
    found = files.read(baseline)
    files.write(replace(found, fingerprint=replace(found.fingerprint, cpu="another"), digest=""), tmp_path / "b.json")
    with refused("baseline-other-machine"):
        verbs.baseline(place / "old", tiny_samples.dev, file=tmp_path / "b.json", options=BaselineOptions(append=True))
    own = found.subjects[0]
    with refused("baseline-other-run"):
        baseline_file.append_session(found, replace(found, subjects=(replace(own, threads=own.threads + 1),)))


def test_a_bundle_that_is_still_there_runs_again(place, tiny_samples):
    found = verbs.check(
        place / "new", place / "b.json", tiny_samples.dev, options=CheckOptions(gates=OPEN, max_time=0.0)
    )
    assert found.speed.paired and found.subjects[0].name == "old" and found.exit_code() == 0
    assert any("is still at old" in note for note in found.notes)
    assert any(note.startswith("The bundles differ: file assets/note.txt (only now)") for note in found.notes)


def test_one_that_is_gone_is_read_from_the_file(place, tiny_samples, tmp_path):
    shutil.copy(place / "b.json", tmp_path / "b.json")
    found = verbs.check(place / "new", tmp_path / "b.json", tiny_samples.dev, options=CheckOptions(gates=OPEN))
    p50 = next(c for c in found.speed.changes if c.metric == "p50")
    assert not found.speed.paired and p50.sessions == 2 and p50.spread > 0
    assert any("no longer at old" in note for note in found.notes)
    assert any("probe kernels now over the baseline's" in note for note in found.notes)


def test_another_bundle_in_its_place_is_not_it(place, tiny_samples, tmp_path):
    shutil.copy(place / "b.json", tmp_path / "b.json")
    shutil.copytree(place / "new", tmp_path / "old")
    with short.measurements(processes=1):
        found = verbs.check(place / "new", tmp_path / "b.json", tiny_samples.dev, options=CheckOptions(gates=OPEN))
    assert not found.speed.paired and found.subjects[0].digest == files.read(place / "b.json").subjects[0].digest
    assert any("no longer at old" in note for note in found.notes)


def test_the_baselines_own_bundle_can_never_be_a_regression(place, tiny_samples):
    strict = Gates(LatencyGates(0.0, 0.0, None), AccuracyGates(0.0), FootprintGates(0.0, 0.0, 0.0, None))
    found = verbs.check(place / "old", place / "b.json", tiny_samples.dev, options=CheckOptions(gates=strict))
    assert not found.speed.paired and {g.verdict for g in found.gates} == {PASS} and found.exit_code(strict=True) == 0
