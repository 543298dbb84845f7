"""Reports on disk: read back exactly as written, or refused with a typed error."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reports
import small
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refusals import refused

from edgekit.report import files
from edgekit.report.files import dumps, loads, read, write
from edgekit.spec.errors import EdgekitError, IntegrityError
from edgekit.spec.parsing import plain
from edgekit.spec.report import Gate, Report
from edgekit.spec.subject import Predictions


def sound(report):
    """With a logit for each label."""
    return replace(
        report,
        subjects=tuple(
            replace(s, predictions=s.predictions and reports.predictions(24, len(s.labels) or 1))
            for s in report.subjects
        ),
    )


REPORTS = {name: sound(report) for name, report in reports.everything().items()}
MINIMAL = dumps(REPORTS["minimal"]).encode()
CHECK = dumps(REPORTS["check"]).encode()
_floats = st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(st.none() | _floats | st.text(max_size=3), st.lists, max_leaves=9).map(json.dumps)


def assert_refused(content, *codes):
    """Whether it is refused, and as it must be; any other exception is a failure."""
    try:
        loads(content, "file")
    except EdgekitError as problem:
        return problem.exit_code in (codes or (5,))
    return False


def harmless(content, original):
    """Whether it is refused, or holds the very same data in another layout."""
    return assert_refused(content) or json.loads(content) == json.loads(original)


def signed_anew(change, report=REPORTS["check"]):
    """A report that was changed by hand, with a digest that fits: what a digest cannot tell."""
    data = json.loads(json.dumps(plain(report)))
    change(data)
    return files._text(data).encode()


def same(a, b):
    """Equality in which a mapping of any type is one."""
    return plain(a) == plain(b)


# --- written and read ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORTS)
def test_read_back(name, tmp_path):
    write(REPORTS[name], tmp_path / "report.json")
    back = read(tmp_path / "report.json")
    assert same(replace(back, digest=""), replace(REPORTS[name], digest=""))
    assert len(back.digest) == 64
    assert dumps(back) == (tmp_path / "report.json").read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_the_digest_is_of_all_the_rest():
    """Computed here by hand: sha256 of the same text with the digest empty."""
    told = json.loads(CHECK)["digest"]
    assert hashlib.sha256(CHECK.replace(told.encode(), b"")).hexdigest() == told
    assert loads(CHECK, "x").digest == told


def test_a_change_is_a_line_of_a_diff():
    before, after = (dumps(replace(REPORTS["check"], seed=seed)).splitlines() for seed in (0, 1))
    differ = [a.split(":")[0] for a, b in zip(before, after, strict=True) if a != b]
    assert differ == ['"digest"', '"seed"']
    names = [line.split(":")[0] for line in before[1:-1]]
    assert names == sorted(f'"{f.name}"' for f in dataclasses.fields(Report))


@given(_floats, _floats, st.text(), st.text())
@example(5e-324, 1.7976931348623157e308, "\udcff name", "日本語\u2028\x7f")
@example(0.1 + 0.2, -0.0, "", '"\\')
@settings(deadline=None)
def test_numbers_and_texts_come_back_exactly(one, two, name, note):
    gate = Gate("latency.p50", "pass", one, two, None, None, "")
    report = replace(
        REPORTS["minimal"], gates=(gate,), notes=(note,), subjects=(replace(REPORTS["minimal"].subjects[0], name=name),)
    )
    back = loads(dumps(report).encode(), "x")
    assert (back.gates[0].limit.hex(), back.gates[0].value.hex()) == (one.hex(), two.hex())
    assert (back.subjects[0].name, back.notes) == (name, (note,))


def test_numpy_numbers_are_numbers_where_they_are_floats(tmp_path):
    gate = Gate("latency.p50", "pass", np.float64(0.1), None, None, None, "")
    assert loads(dumps(replace(REPORTS["minimal"], gates=(gate,))).encode(), "x").gates[0].limit == 0.1


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32(0.5), "0.5", 10**400])
def test_what_a_report_cannot_hold_is_not_written(value, tmp_path):
    bad = replace(REPORTS["minimal"], gates=(Gate("latency.p50", "pass", value, None, None, None, ""),))
    with refused("report-invalid"):
        write(bad, tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


# --- damage ----------------------------------------------------------------------------------------------------------------------------


def test_every_bit_of_every_byte():
    """All 8 single-bit flips of every byte of a small report."""
    assert not assert_refused(MINIMAL)
    flipped = {
        (i, bit): MINIMAL[:i] + bytes([MINIMAL[i] ^ 1 << bit]) + MINIMAL[i + 1 :]
        for i in range(len(MINIMAL))
        for bit in range(8)
    }
    assert [place for place, content in flipped.items() if not harmless(content, MINIMAL)] == []


def test_every_truncation():
    assert [n for n in range(len(MINIMAL)) if not harmless(MINIMAL[:n], MINIMAL)] == []
    assert [n for n in range(1, len(MINIMAL)) if not assert_refused(MINIMAL[n:])] == []


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(CHECK) - 1), st.integers(1, 255))
@example(CHECK.index(b"\n"), ord("\n") ^ ord(" "))
@example(CHECK.index(b"\n") + 0, ord("\n") ^ ord("\r"))
@example(len(CHECK) - 1, ord("\n") ^ ord(" "))
@example(len(CHECK) - 1, ord("\n") ^ ord("\r"))
def test_any_byte_of_a_large_one(place, flip):
    assert harmless(CHECK[:place] + bytes([CHECK[place] ^ flip]) + CHECK[place + 1 :], CHECK)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(CHECK) - 1), st.integers(0, 40), st.binary(max_size=20))
def test_any_piece_cut_out_or_put_in(place, length, piece):
    damaged = CHECK[:place] + piece + CHECK[place + length :]
    assert harmless(damaged, CHECK)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | (st.text(max_size=200) | _json).map(str.encode))
def test_anything_else(content):
    assert assert_refused(content)


@pytest.mark.parametrize("how", [{"indent": 2}, {"sort_keys": True}, {"separators": (",", ":")}])
def test_another_layout_of_the_same_data_is_as_good(how):
    """As a formatter leaves it, or git with the line ends of Windows; other data are damage in any layout."""
    written = json.dumps(json.loads(CHECK), **how).replace("\n", "\r\n").encode()
    assert same(loads(written, "x"), loads(CHECK, "x"))
    assert assert_refused(json.dumps({**json.loads(CHECK), "seed": 7}, **how).encode())


def test_a_changed_number_is_refused():
    assert CHECK.count(b'"limit":0.05,') == 2
    with refused("report-damaged"):
        loads(CHECK.replace(b'"limit":0.05,', b'"limit":0.5,'), "x")


def test_texts_of_samples_are_in_no_error():
    """A report with texts is damaged in every part; what is said of it quotes nothing."""
    base = REPORTS["check"]
    flips = tuple(replace(f, text=small.CANARY) for f in base.accuracy.flipped[:3])
    content = dumps(replace(base, accuracy=replace(base.accuracy, flipped=flips))).encode()
    start = content.index(small.CANARY.encode())
    for place in range(start - 40, start + 40):
        for flip in (1, 2, 0x80, 0x22 ^ content[place]):
            if flip:
                with refused("report-damaged") as caught:
                    loads(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :], "x")
                assert small.CANARY[:6] not in str(caught.value)


# --- what a digest cannot tell ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda d: d.update(kind="audit"),
            "contradicts itself: its kind is not one of report, baseline, compare, check, self-check",
        ),
        (lambda d: d.update(subjects=[]), "it has 0 subjects, expected 1 or 2"),
        (lambda d: d.update(subjects=d["subjects"] * 2), "it has 4 subjects"),
        (lambda d: d["gates"][1].update(verdict="passed"), "the gate latency.p50 has a verdict"),
        (lambda d: d["subjects"][0]["predictions"]["ids"].pop(), "release-1.4 has predictions of 24 rows for 23 ids"),
        (
            lambda d: d["subjects"][0]["predictions"]["outputs"]["logits"]["values"].pop(),
            "shape [24, 3] with 71 values",
        ),
        (lambda d: d["subjects"][0]["predictions"]["outputs"]["logits"]["shape"].pop(), "shape [24] with 72 values"),
        (
            lambda d: d["subjects"][0]["predictions"]["outputs"]["logits"].update(dtype="int64"),
            "not int64, as 'logits'",
        ),
        (lambda d: d["subjects"][0]["confusion"].pop(), "confusion matrix that is not as wide as its 3 labels"),
        (lambda d: d.update(include_text=False), "it contains texts of samples, but include_text is false"),
        (lambda d: d.update(extra=1), "Unknown key 'extra' in file"),
        (lambda d: d.pop("kind"), "file has no key 'kind'"),
        (lambda d: d.update(schema=True), "schema is True"),
        (lambda d: d.update(schema="1"), "schema is '1'"),
    ],
)
def test_a_digest_made_anew_does_not_hide(change, said):
    with pytest.raises(IntegrityError) as caught:
        loads(signed_anew(change), "file")
    assert said in str(caught.value)


def test_a_report_that_contradicts_itself_is_not_written_either(tmp_path):
    one = replace(REPORTS["minimal"].subjects[0], predictions=Predictions(("a",), {}))
    with refused("report-invalid", "0", "1"):
        write(replace(REPORTS["minimal"], subjects=(one,)), tmp_path / "r.json")
    with refused("report-invalid"):
        write(replace(REPORTS["check"], include_text=False), tmp_path / "r.json")


def test_a_later_field_with_a_default_makes_no_old_report_a_damaged_one():
    """An old file lacks it: its digest is over what it has."""
    content = signed_anew(lambda d: d.pop("notes"))
    assert loads(content, "x").notes == ()
    with refused("report-damaged"):
        loads(content.replace(b'"seed":0', b'"seed":1'), "x")


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (3, ("report-schema", "2")),
        (10**30, "report-schema"),
        (1, ("report-schema", "2")),
        (0, ("report-schema", "schema 0")),
        (-1, ("report-schema", "1")),
    ],
)
def test_other_schemas(version, said):
    for more in ({}, {"later": [1]}):
        content = signed_anew(lambda d, more=more: d.update(schema=version, **more))
        with refused(said) as caught:
            loads(content, "x")
        assert caught.value.exit_code == 5


# --- files -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (
            b'{"format": 1, "signatures": [], "variants": [], "task": ""}',
            "is not a report: it is JSON with other content",
        ),
        (b"[1]", "is not a report"),
        (b"17", "is not a report"),
        (b"[latency]\np50 = 0.05\n", "not valid JSON"),
        (b'{"logits": [0.5, 1.5]}\n{"logits": [0.5, 1.5]}\n', "not valid JSON"),
        (b"PK\x03\x04\x14\x00", "not valid JSON"),
        (b"\x93NUMPY\x01\x00", "not valid JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (b'{"kind": NaN}', "NaN is not a JSON number"),
        (b'{"kind": 1, "kind": 1}', "the key 'kind' appears twice"),
        (b'{"kind": "\xff"}', "'utf-8' codec"),
        (b"[" * 100_000, "recursion"),
        (b'{"kind": ' + b"9" * 5_000 + b"}", "not valid JSON"),
        (b'{"kind":1e999,"subjects":[],"fingerprint":{}}', "is damaged"),
    ],
)
def test_what_is_no_report(content, said, tmp_path):
    (tmp_path / "f").write_bytes(content)
    with refused("report-damaged") as caught:
        read(tmp_path / "f")
    assert said in str(caught.value)
    assert (caught.value.exit_code, str(tmp_path / "f") in str(caught.value)) == (5, True)


def test_a_real_bundle_s_manifest(tiny_bundle):
    with refused("report-damaged"):
        read(tiny_bundle / "manifest.json")
    with refused("report-not-found"):
        read(tiny_bundle)


def test_what_is_not_there(tmp_path):
    with refused("report-not-found", "BUNDLE", "FILE") as caught:
        read(tmp_path / "report.json")
    assert caught.value.exit_code == 2
    os.mkfifo(tmp_path / "pipe")
    with refused("report-not-found"):
        read(tmp_path / "pipe")
    with refused("report-not-found"):
        read("/dev/zero")


def test_a_file_that_is_too_large(tmp_path):
    with (tmp_path / "r.json").open("wb") as stream:
        stream.truncate(files.MAX_BYTES + 1)  # sparse: no byte of it is on the disk
    with refused("report-too-large", "256"):
        read(tmp_path / "r.json")


def test_what_was_there_stays_when_nothing_can_be_written(tmp_path):
    """A limit on the size of files, as a full disk: the kernel itself refuses."""
    file = tmp_path / "report.json"
    write(REPORTS["minimal"], file)
    code = (
        "import resource, signal, sys; sys.path[:0] = sys.argv[2:]; import reports; from edgekit.report.files import write\n"
        "from edgekit.spec.errors import BuildError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write(reports.check(), sys.argv[1])\n"
        "except BuildError as problem: print(problem)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file, Path(reports.__file__).parent, small.ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot be written: File too large" in done.stdout, done.stderr
    assert read(file).kind == "baseline"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    with refused("output-not-a-file"):
        write(REPORTS["minimal"], tmp_path / "folder")
    (tmp_path / "file").write_text("x")
    with refused("output-not-writable"):
        write(REPORTS["minimal"], tmp_path / "file" / "report.json")
    os.mkfifo(tmp_path / "pipe")
    with refused("output-not-a-file"):
        write(REPORTS["minimal"], tmp_path / "pipe")
    with refused("output-not-writable"):
        write(REPORTS["minimal"], "/proc/none/report.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "pipe"]
    write(REPORTS["minimal"], tmp_path / "new" / "deep" / "report.json")
    assert (tmp_path / "new" / "deep" / "report.json").stat().st_mode & 0o777 == 0o644


def test_a_text_that_is_no_utf_8_is_written_all_the_same(tmp_path):
    """A lone surrogate, in whatever form of a report, does not cost the report when all is measured."""
    files.put({tmp_path / "page": "caf\udce9"})
    assert (tmp_path / "page").read_bytes() == b"caf\\udce9"


def test_either_the_old_or_the_new_is_there(tmp_path):
    """A reader that looks all the time never sees half a file: written over 40 times."""
    file = tmp_path / "r.json"
    write(REPORTS["minimal"], file)
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[2:]; from edgekit.report.files import read; file = pathlib.Path(sys.argv[1]); kinds = set()\n"
        "print('ready', flush=True)\n"
        "while not (file.parent / 'stop').exists(): kinds.add(read(file).kind)\n"
        "print(sorted(kinds))"
    )
    with subprocess.Popen([sys.executable, "-c", code, file, small.ROOT], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "ready\n"
        for i in range(40):
            write(REPORTS["minimal" if i % 2 else "single"], file)
        (tmp_path / "stop").touch()
        assert reader.stdout.read().strip() in ("['baseline', 'report']", "['baseline']", "['report']")
    assert reader.returncode == 0


def test_reading_needs_neither_scipy_nor_jinja():
    code = "import sys; import edgekit.report.files; print(sorted({'scipy', 'jinja2', 'torch', 'onnxruntime'} & {m.split('.')[0] for m in sys.modules}))"
    assert small.python(code).stdout.decode().strip() == "[]"
