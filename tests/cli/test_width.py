"""Lines of at most 100 columns: every verb's help and output, and narrower ones in a narrower terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from edgekit.builder import BuildResult
from edgekit.bundle.trust import open_bundle
from edgekit.report.table import built_text, table
from edgekit.spec.text import WIDTH, width, wrap, wrap_lines

VERBS = (
    *("init", "build", "distill", "prune", "trim-vocab", "eval", "compare", "baseline", "check"),
    *(
        "predict",
        "run",
        "bench",
        "inspect",
        "verify",
        "compile",
        "deploy",
        "pack",
        "sign",
        "keygen",
        "cache",
        "targets",
    ),
    "doctor",
)


def too_long(text):
    """Lines that are wider than allowed, but for those of one word that cannot be broken, such as a path."""
    return [line for line in text.splitlines() if len(line) > WIDTH and " " in line.strip()]


@pytest.mark.parametrize("verb", VERBS)
def test_help(edgekit, verb):
    said = edgekit(verb, "--help").out
    assert too_long(said) == []


def test_the_list_of_verbs_has_whole_sentences(edgekit):
    said = edgekit("--help").out
    assert too_long(said) == []
    assert "..." not in said.partition("Commands:")[2]
    assert re.findall(r"^  ([a-z-]+) ", said.partition("Commands:")[2], re.MULTILINE) == list(VERBS)


@pytest.mark.slow
def test_outputs(edgekit, place, quick_timing, tiny_bundle, tmp_path):
    out = tmp_path / "predictions.csv"
    calls = [
        ("eval", tiny_bundle, "--samples", place.dev, "--slice", "source"),
        ("eval", tiny_bundle, "--samples", place.dev, "-o", tmp_path / "report", "--max-time", "0.1"),
        ("compare", place.good, tiny_bundle, "--samples", place.dev, "--max-time", "0.1"),
        ("check", tiny_bundle, "--baseline", place.good, "--samples", place.dev, "--max-time", "0.1"),
        ("predict", tiny_bundle, "--samples", place.dev, "-o", out),
        ("bench", tiny_bundle, "--batches", "1,8", "--lengths", "8", "--seconds", "0.05"),
        ("inspect", tiny_bundle),
        ("verify", tiny_bundle),
        ("doctor",),
        ("targets",),
        ("targets", "jetson"),
        ("cache", "show"),
    ]
    for call in calls:
        said = edgekit(*call)
        assert said.out, call
        assert too_long(said.out) == [], call


def test_the_table_of_a_build(tiny_bundle):
    result = BuildResult(open_bundle(tiny_bundle), 1.0, ())
    main, wide = result.table(), result.table(wide=True)
    assert too_long(main) == []
    header, underline = main.splitlines()[:2]
    assert header.split()[:3] == ["candidate", "accuracy", "p50"]
    assert len(underline) <= WIDTH
    assert "lost/won" in wide.splitlines()[0]
    assert "lost/won" not in header
    notes = [line for line in main.splitlines() if line.startswith("note: ")]
    assert len(notes) == len(set(notes)) > 0


def test_notes_are_told_once(tiny_bundle):
    manifest = open_bundle(tiny_bundle).manifest
    twice = built_text(manifest, [*manifest.notes, "one", "one"])
    assert sum(line == "note: one" for line in twice) == 1
    assert sum(line.startswith("note: ") for line in twice) == len(manifest.notes) + 1


def test_a_terminal_that_is_narrower(tiny_bundle):
    controller, terminal = pty.openpty()
    with open(controller, "rb", closefd=True) as reader:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 88, 0, 0))
        command = (sys.executable, "-m", "edgekit", "inspect", str(tiny_bundle))
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        child = subprocess.Popen(command, stdout=terminal, stderr=terminal, stdin=terminal, env=environment)
        os.close(terminal)
        text = b""
        with contextlib.suppress(OSError):  # on Linux a read from a terminal whose other end is closed is an error
            while part := os.read(reader.fileno(), 65536):
                text += part
        assert child.wait(60) == 0
    lines = text.decode().replace("\r", "").splitlines()
    assert [line for line in lines if len(line) > 88 and " " in line.strip() and "sha256" not in line] == []
    assert max(map(len, lines)) > 75


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", ["short"]),
        ("note: a b c d e f g", ["note: a b c", "      d e f", "      g"]),
        ("name  a b c d e f", ["name  a b c", "      d e f"]),
        ("one two three four", ["one two", "  three four"]),
        ("x" * 20, ["x" * 20]),
    ],
)
def test_wrapping(text, expected):
    assert wrap(text, 12) == expected
    assert wrap_lines(f"{text}\n\n{text}", 12) == "\n".join([*expected, "", *expected])


def test_cells_of_words_are_wrapped_and_numbers_are_not():
    text = table(
        ("name", "number", "words"), [("a", "12.5", "one two three four five six seven eight nine")], (0, 2), 40
    )
    assert text.splitlines() == [
        "name  number  words",
        "----  ------  --------------------------",
        "a       12.5  one two three four five",
        "              six seven eight nine",
    ]
    token = width.set(30)
    try:
        assert max(map(len, table(("name", "words"), [("a", "b " * 40)], (0, 1)).splitlines())) <= 30
    finally:
        width.reset(token)


def test_a_last_column_of_few_words_gives_way_too():
    # 89 columns by cells of words of 16 columns; the verdict's longest word has 8.
    row = ("int8-static on openvino, 2t", "1.0000", "12345.67", "1234", "1234.5", "12.5", "too slow: 0.2 ms")
    header = ("candidate", "accuracy", "p50 ms", "start ms", "memory MB", "size MB", "verdict")
    for columns in (88, 80, 72):
        assert max(map(len, table(header, [row], (0, 6), columns).splitlines())) <= columns, columns
