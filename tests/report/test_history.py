"""The JSON for history pages, and all files of a report in one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import reports
import small
from refusals import refused

from edgekit.report import files
from edgekit.report.render import NAMES, check_writable, write_all
from edgekit.report.render.history import history
from edgekit.report.render.markdown import markdown
from edgekit.spec.errors import UsageError

REPORTS = {name: report for name, report in reports.everything().items() if name != "regression"}


def entries(report):
    return {entry["name"]: entry for entry in json.loads(history(report))}


# --- history.json --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reports.everything())
def test_it_is_what_the_action_takes(name):
    """``BenchmarkResult`` of github-action-benchmark: name, value and unit, and range and extra where they are there, as texts."""
    report = reports.everything()[name]
    found = json.loads(history(report))
    assert history(report) == history(report)
    for entry in found:
        assert set(entry) <= {"name", "unit", "value", "range", "extra"}
        assert all(isinstance(entry[key], str) for key in entry if key != "value")
        assert isinstance(entry["value"], float)
        assert entry["value"] >= 0
        assert entry["unit"]
    assert len({entry["name"] for entry in found}) == len(found), "a line is drawn for each name"
    assert bool(found) == (name != "minimal")


def test_the_candidate_s_numbers():
    report = REPORTS["check"]
    last = report.subjects[-1]
    found = entries(report)
    assert {name: entry["value"] for name, entry in found.items()} == {
        "latency p50": last.times.p50_ms, "latency p90": last.times.p90_ms, "latency p99": last.times.p99_ms, "first answer": 253.1, "peak memory": 101.9,
        "bundle size": 21.1, "energy of an answer": 14.2, "error (1 - accuracy)": pytest.approx(1 - last.score, abs=1e-12),
    }  # fmt: skip
    assert found["peak memory"]["range"] == "101.5 to 102.5 over 2 processes"
    assert found["first answer"]["range"] == "252.0 to 253.0 over 2 processes"
    medians = sorted(sorted(t for b in p.blocks_ms for t in b) for p in last.processes)
    low, high = sorted((m[11] + m[12]) / 2 for m in medians)
    assert found["latency p50"]["range"] == f"{low:.2f} to {high:.2f} over 2 processes"
    assert "range" not in found["latency p90"]
    assert found["latency p50"]["extra"].splitlines()[0] == "1744 calls"
    assert f"accuracy {last.score:.4f} on 872 samples" in found["error (1 - accuracy)"]["extra"]
    assert all("AMD EPYC 9R14" in entry["extra"] for entry in found.values()), (
        "numbers of two machines are not to be mixed up"
    )


def test_only_what_is_known():
    found = entries(REPORTS["single"])
    assert "latency p99" not in found, "300 calls do not carry it"
    assert "latency p90" in found
    assert "energy of an answer" not in found
    assert set(entries(REPORTS["teacher"])) >= {"latency p50", "error (1 - accuracy)"}
    assert list(entries(REPORTS["multilabel"]))[-1] == "error (1 - micro F1)"


def test_an_error_rate_is_there_as_it_is():
    found = entries(REPORTS["speech"])
    assert found["WER"]["value"] == 0.1
    assert not any(name.startswith("error (1") for name in found)


def test_a_better_score_is_a_smaller_error():
    one = REPORTS["single"]
    errors = [
        entries(replace(one, subjects=(replace(one.subjects[0], score=s),)))["error (1 - accuracy)"]["value"]
        for s in (0.0, 0.9, 0.91, 1.0)
    ]
    assert errors == [1.0, 0.1, 0.09, 0.0]


def test_one_process_has_no_range():
    one = REPORTS["single"]
    alone = replace(one, subjects=(replace(one.subjects[0], processes=one.subjects[0].processes[:1]),))
    assert all("range" not in entry for entry in entries(alone).values())


# --- all files -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORTS)
def test_all_forms(name, tmp_path):
    paths = write_all(REPORTS[name], tmp_path / "new")
    assert [p.name for p in paths] == list(NAMES)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(NAMES)
    page, text, xml, numbers, data = (p.read_text("utf-8") for p in paths)
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert text == markdown(REPORTS[name])
    assert ElementTree.fromstring(xml.encode()).tag == "testsuites"
    assert isinstance(json.loads(numbers), list)
    assert files.loads(data.encode(), "x").kind == REPORTS[name].kind
    first = {p: p.read_bytes() for p in paths}
    assert {p: p.read_bytes() for p in write_all(REPORTS[name], tmp_path / "new")} == first


def test_a_name_that_is_no_utf_8(tmp_path):
    """The name of a bundle's folder is bytes; Python gives those that are no UTF-8 as lone surrogates."""
    one = REPORTS["single"]
    name = os.fsdecode(b"caf\xe9")
    paths = write_all(replace(one, subjects=(replace(one.subjects[0], name=name),)), tmp_path)
    assert files.read(paths[-1]).subjects[0].name == name
    assert all(p.read_bytes().decode() for p in paths)


def test_a_form_that_cannot_be_made_leaves_nothing(tmp_path):
    write_all(REPORTS["passing"], tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with refused("report-invalid"):
        write_all(replace(REPORTS["check"], include_text=False), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", NAMES)
def test_no_half_set(name, tmp_path):
    """A folder is in the place of one of the files: none of the others appears."""
    (tmp_path / name / "x").mkdir(parents=True)
    with refused("output-not-a-file", f"{name}"):
        write_all(REPORTS["passing"], tmp_path)
    with refused("output-other-kind-folder", f"{name}"):
        check_writable(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_full_disk_leaves_nothing(tmp_path):
    """The kernel refuses in the middle of the set (a limit on the size of files): what was there stays, whole."""
    write_all(REPORTS["minimal"], tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    code = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import reports
from edgekit.report import files, render
from edgekit.spec.errors import BuildError
short = render.history(reports.check())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(short), len(short)))
try:
    files.put({Path(sys.argv[1]) / "history.json": short, Path(sys.argv[1]) / "report.json": files.dumps(reports.check())})
except BuildError as problem:
    print(problem)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, Path(reports.__file__).parent, small.ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "report.json cannot be written: File too large" in done.stdout, done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# --- before anything is measured ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_can_be_written(tmp_path):
    check_writable(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == [], "nothing of the trial stays"
    write_all(REPORTS["minimal"], tmp_path)
    check_writable(tmp_path)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "out").write_text("x")
    for place in (tmp_path / "out", tmp_path / "out" / "deep"):
        with refused("output-not-writable-folder") as caught:
            check_writable(place)
        assert caught.value.exit_code == 2
    assert (tmp_path / "out").read_text() == "x"


def test_a_place_where_the_system_makes_no_files():
    for place in ("/proc/self/out", "/proc/self/fd"):
        with refused("output-not-writable-folder"):
            check_writable(place)


@contextmanager
def mounted(place, *options):
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "tmpfs", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_mounted_read_only(tmp_path):
    """Permissions say yes, and to root always; only trying tells."""
    with mounted(tmp_path / "disk", "-o", "ro") as disk:
        for place in (disk, disk / "new"):
            with refused("output-not-writable-folder"):
                check_writable(place)
        with refused("output-not-writable"):
            write_all(REPORTS["minimal"], disk)


def test_a_disk_that_is_full(tmp_path):
    with mounted(tmp_path / "disk", "-o", "size=64k") as disk:
        with refused("disk-full"):
            write_all(REPORTS["largest"], disk / "out")
        assert list((disk / "out").iterdir()) == []
        with pytest.raises(OSError, match="No space left"), (disk / "fill").open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        with refused("output-not-writable-folder"):
            check_writable(disk)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="permission is denied"):
        check_writable(tmp_path)
