"""Times in the build cache: used again while they are young and of a quiet machine, else measured anew, and that is said; what a choice rests on."""

from __future__ import annotations

import hashlib
import json
import time
from types import SimpleNamespace

import pytest
import small
from refusals import refused

from edgekit.machine import busy
from edgekit.machine.busy import Busy
from edgekit.search import choose
from edgekit.search.candidates import describe_disturbance
from edgekit.search.record import Race

QUIET = {"seconds": 2.0, "others": 0.01, "stolen": 0.0, "queue": 0.5}


@pytest.fixture
def build(tiny_model, tiny_samples, own_cache, tmp_path, monkeypatch):
    """Builds float32 on one backend, in a cache of its own."""
    monkeypatch.setattr(busy, "OTHERS", 0.10)
    monkeypatch.setattr(busy, "STOLEN", 0.02)
    aim = small.target(tmp_path / "one.toml", backends=("onnxruntime",), extra="threads = 1")

    def call(**options):
        return small.build(
            tiny_model,
            samples=tiny_samples.train,
            eval=tiny_samples.dev,
            out=tmp_path / "out",
            target=aim,
            force=True,
            **options,
        )

    call.cache = own_cache
    return call


def set_busy(cache, step, **changes):
    """What the machine did while the times of all entries of a step were taken, as if it had been so; their digests follow."""
    for entry in [f.parent for f in cache.glob("*/entry.json")]:
        listed = json.loads((entry / "entry.json").read_text())
        if listed["step"] != step:
            continue
        name = "values.json"
        data = json.loads((entry / name).read_text())
        data["busy"] = {"at": time.time(), **QUIET, **changes}
        (entry / name).write_text(json.dumps(data))
        content = (entry / name).read_bytes()
        listed["files"][name] = [hashlib.sha256(content).hexdigest(), len(content)]
        (entry / "entry.json").write_text(json.dumps(listed))


def quiet(cache):
    for step in ("race", "answers"):
        set_busy(cache, step)


@pytest.mark.slow
def test_when_times_are_measured_again(build):
    build()
    quiet(build.cache)
    again = build()
    assert {"race", "answers"} <= set(again.reused)
    assert again.remeasured == ()

    quiet(build.cache)
    set_busy(build.cache, "race", at=time.time() - 8 * 86400)
    set_busy(build.cache, "answers", others=0.6, stolen=0.03)
    aged = build()
    assert not {"race", "answers"} & set(aged.reused)
    assert "export" in aged.reused
    old, loud = (
        sorted(aged.remeasured, key=lambda line: "(race)" not in line)[0],
        next(line for line in aged.remeasured if "(answers)" in line),
    )
    assert old == "Times in the cache (race) were not used but measured again: they are 8 days old."
    assert (
        "other processes took 60 % of the CPUs' time, the hypervisor 3 % (run queue 0.5) while they were measured."
        in loud
    )
    assert f"note: {old}" in " ".join(aged.table().split())

    quiet(build.cache)
    set_busy(build.cache, "race", at=time.time() - 6 * 86400)
    assert "race" in build().reused
    set_busy(build.cache, "race", at=time.time() + 3600)
    assert any("in the future" in line for line in build().remeasured)

    quiet(build.cache)
    asked = build(rerace=True)
    assert not {"race", "answers"} & set(asked.reused)
    assert (asked.remeasured, "export" in asked.reused) == ((), True)


@pytest.mark.slow
def test_without_the_cache_nothing_is_taken_from_it_or_left_in_it(build):
    build()
    before = {f: f.stat().st_mtime_ns for f in build.cache.rglob("*")}
    result = build(no_cache=True)
    assert result.reused == ()
    assert {f: f.stat().st_mtime_ns for f in build.cache.rglob("*")} == before


def test_a_record_and_new_times_exclude_each_other(build, tmp_path):
    with refused("race-or-rerace"):
        build(rerace=True, race=tmp_path / "race.json")


# ---- what a choice rests on


def rests_on(busy_then, shaken, times=(1.0, 1.3)):
    """The note on a race of two candidates, the first chosen; ``shaken``: by how much every other round of the second is longer."""
    turns = [[[t * (shaken if n and r % 2 else 1.0)] for r in range(6)] for n, t in enumerate(times)]
    race = Race(tuple(tuple(tuple(x) for x in one) for one in turns), (), busy_then)
    judged = [SimpleNamespace(p50_ms=t, rows_per_s=0.0) for t in times]
    return describe_disturbance(race, judged, 0)


def test_a_steady_race_on_a_quiet_machine_needs_no_word(monkeypatch):
    monkeypatch.setattr(busy, "OTHERS", 0.10)
    assert rests_on(Busy(0.0, **QUIET), 1.04) == ""
    assert rests_on(None, 1.0) == ""
    assert rests_on(Busy(0.0, 1.0, 0.9, 0.0, 5.0), 1.5, times=(1.0,)) == "", "there was nothing to choose"
    assert choose.LEVEL == 1.05


def test_a_busy_machine_is_named(monkeypatch):
    monkeypatch.setattr(busy, "OTHERS", 0.10)
    line = rests_on(Busy(0.0, 1.0, 0.61, 0.0, 4.2), 1.0)
    assert line == (
        "While the candidates raced, other processes took 61 % of the CPUs' time, the hypervisor 0 % (run queue 4.2); two halves of the race differ by up to "
        "1.00 x. The next candidate takes 1.30 x the time of the chosen one, beyond that noise."
    )


def test_a_choice_within_the_noise_says_so():
    line = rests_on(Busy(0.0, **QUIET), 1.4)
    assert line.startswith(
        "While the candidates raced, the machine was not steady: two halves of the race differ by up to 1.40 x."
    )
    assert (
        "1.30 x the time of the chosen one, within that noise. The choice may differ on a quiet machine: build there with --rerace."
        in line
    )
