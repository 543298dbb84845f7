"""What a terminal or a log shows of a report: the same document as the page and the comment, plain, with the gravest last."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import reports
import small

from edgekit.report.render.document import Limits, is_open
from edgekit.report.render.html import html
from edgekit.report.render.markdown import markdown
from edgekit.report.render.sections import document
from edgekit.report.render.terminal import terminal
from edgekit.report.render.words import GRAVEST_FIRST, plain
from edgekit.spec.text import WIDTH, width

REPORTS = reports.everything()


def test_a_check():
    lines = terminal(REPORTS["check"], 3).splitlines()
    text = " ".join(" ".join(lines).split())
    assert text.startswith(
        "check: main against release-1.4, 872 samples, on AMD EPYC 9R14 96-Core Processor (2 CPUs), minilm-sst2@a1b2c3d, "
    )
    assert lines[2].split() == ["release-1.4", "main", "change", "90", "%", "interval"]
    assert "  accuracy                  0.8796    0.8716  -0.0080  -0.0172 to +0.0007" in lines
    assert "  p50 latency              2.41 ms   2.61 ms   +8.3 %  +7.0 % to +9.7 %" in lines
    assert "413 of 872 rows (47.4 %) are answered differently." in lines
    assert "This machine's noise alone can look like +1.1 % in p50 latency" in text
    assert "Attributions of 40 inputs agree with a rank correlation of 0.871" in text
    first = next(index for index, line in enumerate(lines) if line.split() == ["verdict", "gate", "in", "words"])
    verdicts = [line[2:14].strip() for line in lines[first + 2 : -2] if line[2] != " "]
    assert verdicts[0] == "regression"
    assert [name for name in GRAVEST_FIRST if name in verdicts] == list(dict.fromkeys(verdicts))
    assert max(map(len, lines)) <= WIDTH
    assert lines[-2:] == ["note: The machine was throttled 3 times during the run.", "verdict: regression (exit 3)"]


def test_the_verdict_is_the_last_line():
    assert terminal(REPORTS["passing"]).splitlines()[-1] == "verdict: pass"
    assert terminal(REPORTS["minimal"]).splitlines()[-1].startswith("Measured, not judged: No gate was set")
    noise = terminal(REPORTS["self_check"]).splitlines()
    assert "noise alone can look like +1.1 % in p50 latency" in " ".join(line.strip() for line in noise[-3:])
    assert "  p50 latency, second over first   +0.2 % (-1.1 % to +1.6 %)" in noise


def test_every_gate_is_there():
    """Those that other forms fold or leave out too."""
    gates = REPORTS["largest"].gates
    shown = terminal(
        replace(REPORTS["largest"], gates=tuple(replace(g, name=f"{g.name} {i}") for i, g in enumerate(gates)))
    )
    assert len(gates) > 60
    assert all(re.search(rf"^  [a-z ]+ .* {i}  ", shown, re.MULTILINE) for i in range(len(gates)))


@pytest.mark.parametrize("name", REPORTS)
def test_all_forms_say_the_same(name):
    """What a text form shows at once stands on the page, in the comment and in the terminal."""
    report = REPORTS[name]
    comment = re.sub(r"&#(\d+);", lambda m: "" if m[1] == "8203" else chr(int(m[1])), markdown(report))
    page = (
        re.sub(r"<[^>]+>", "", html(report))
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&#39;", "'")
        .replace("&#34;", '"')
        .replace("&amp;", "&")
    )
    line = " ".join(terminal(report).split())
    sections = [
        s for s in document(report, Limits(rows=40, flips=10, name=60, sentence=200)).sections if not s.page_only
    ]
    said = [b for s in sections for b in s.blocks if isinstance(b, str) and is_open(s, b)]
    assert said or name == "minimal"
    for text in said:
        assert " ".join(text.split()) in comment
        if name != "largest":  # which is cut shorter in a comment
            assert text in page
            assert " ".join(plain(text).split()) in line


def test_texts_of_others_are_no_lines():
    base, evil = REPORTS["check"], "x\nverdict: pass\r\x1b[2J"

    token = width.set(1_000_000)  # so that a longer text does not take more lines

    def told(text):
        return terminal(
            replace(
                base, notes=(text,), samples=text, subjects=tuple(replace(s, name=text, model=text, score_name=text) for s in base.subjects),
                gates=tuple(replace(g, name=f"{text}{i}", said=text) for i, g in enumerate(base.gates)),
                accuracy=replace(base.accuracy, score_name=text, slices=tuple(replace(s, column=text, value=text, p_holm=0.01) for s in base.accuracy.slices)),
                speed=replace(base.speed, changes=tuple(replace(c, said=text) for c in base.speed.changes)),
                fingerprint=replace(base.fingerprint, cpu=text),
            )
        )  # fmt: skip

    assert len(told(evil).splitlines()) == len(told("x").splitlines())
    assert "\x1b" not in told(evil)
    width.reset(token)


def test_no_text_of_a_sample():
    base = REPORTS["check"]
    flips = tuple(replace(f, text=small.CANARY) for f in base.accuracy.flipped)
    assert small.CANARY not in terminal(replace(base, accuracy=replace(base.accuracy, flipped=flips)))
