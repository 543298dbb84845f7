"""The comment on a pull request: what it says, that nothing in a report becomes markup or pings anybody, and that it is never too long."""

from __future__ import annotations

import html.parser
import re
from dataclasses import fields, is_dataclass, replace

import pytest
import reports
import small
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.report.render._words import change, gate_numbers, number, percentiles
from edgekit.report.render.markdown import MARKS, MOST_BYTES, escape, markdown
from edgekit.spec.report import KINDS, VERDICTS, Change, Gate
from edgekit.spec.subject import Times

markdown_it = pytest.importorskip("markdown_it", reason="it comes with rich")
REPORTS = reports.everything()
HOSTILE = [
    "a|b", "`code`", "**bold** _it_", "<b onclick=x>", "<!-- x", "@octocat", "me@example.com", "#123", "GH-12", "owner/repo#5", "!7", "~bug", "%v1", "$3$",
    "[x](y)", "![i](//x)", "[^1]", "http://x.y/z", "www.example.com", "mailto:a@b.c", ":tada:", "a\nb", "a\r\n\r\n# b", "\\|", "\\", "&amp;", "&#64;octocat",
    "1. x", "2) x", "- x", "+ x", "# x", "> x", "===", "---", "|---|", "    x", "```", "~~~", "</details>", "\u202eevil", "a\u2028b", "\x00\x07", "@", "#",
    "@org/team", "&1", "^x^", "==x==", "*", "_", "<https://x.y>", "\udc80", "日本語 שלום", "a" * 500, "|" * 90, "@" * 500,
]  # fmt: skip


class Shown(html.parser.HTMLParser):
    """The tags of a page, its text, and the texts of its cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.cells, self.inside = [], "", [], False
        self.feed(markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(attrs)))
        self.inside = tag in ("td", "th")
        self.cells += [""] * self.inside

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.cells[-1] += data.replace("\u200b", "")

    def handle_comment(self, data):
        self.tags.append(("!--", ()))


def with_texts(value, text):
    """A report in which everything that anybody else wrote is ``text``; what EdgeKit's code chose from a few words stays."""
    if is_dataclass(value):
        own = {"kind", "verdict", "metric", "problem_type", "dtype", "why_not"}
        return replace(value, **{f.name: with_texts(getattr(value, f.name), text) for f in fields(value) if f.name not in own})
    if isinstance(value, str):
        return text if value else value
    if isinstance(value, tuple):
        return tuple(with_texts(v, text) for v in value)
    if isinstance(value, dict):
        return {f"{text}{i}": with_texts(v, text) for i, v in enumerate(value.values())}
    return value


def linked(text):
    """What GitHub or GitLab would make a link or a ping of, in text as it is shown."""
    return re.findall(r"[@#!~%&$]\w|[@#!~%&$]\"|GH-\d|://|www\.|:[\w+-]+:|\w@\w|mailto:|xmpp:", text)


# --- what it says --------------------------------------------------------------------------------------------------------------------


def test_a_check():
    text = markdown(REPORTS["check"])
    lines = text.splitlines()
    assert lines[0] == "## ✗ regression: EdgeKit check"
    assert lines[2] == "**main** against **release-1.4**, 872 samples, 5 of 9 gates not passed."
    table = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0] == ["gate", "verdict", "seen", "allowed"]
    assert table[2] == ["latency.p50", "✗ regression", "+8.3 % (+7.0 to +9.7)", "+5 %"]
    assert [row[1].split(" ", 1)[1] for row in table[2:7]] == ["regression", "over budget", "incomparable", "inconclusive", "inconclusive"]
    shown = Shown(text).text.replace("\u200b", "")
    for said in (
        "accuracy 0.8796 → 0.8716, drop 0.0080 (-0.0007 to 0.0172), 210 rows lost, 203 won (exact McNemar p = 0.768).",
        "This set can resolve a drop of 0.0121, not 0.005: it would take 5100 rows.",
        "p50: ratio 1.083 (1.070 to 1.097), can resolve +2.1 %",
        "p99: not estimable from 300 samples (needs 662)",
        "this machine's noise alone can look like p50 +1.1 %, p90 +3.1 %",
        "cold start: 253.1 ms (import 151.2, verify 12.40, load 88.30, first answer 2.61)",
        "size: 23.40 → 21.10 MB, ratio 0.902\n",
        "Slices: none of 8 differ for sure; 2 could not be tested.",
        "413 of 872 rows (47.4 %) are answered differently; those that were surest before:",
        "Faithfulness (descriptive): attributions of 40 rows agree by 0.871 in rank (before with itself 0.912, random 0.011)",
        "Robustness (descriptive): drop of the candidate against the baseline under typos 0.0100 (-0.0110 to 0.0330);",
        "Divergence of the answers 0.0121 on average, 0.0488 at the 95th percentile. Calibration error 0.0413 → 0.0467.",
        "Machine and versions", "AMD EPYC 9R14", "The machine was throttled 3 times during the run.",
    ):  # fmt: skip
        assert said in shown
    assert (shown.count("row "), " more\n" in shown) == (10, False)
    first = REPORTS["check"].accuracy.flipped[0]
    assert f"row 1 {first.id[:12]}: negative (margin {first.margin_before:.2f}) → neutral ({first.margin_after:.2f}), right is negative: a text" in shown


def test_one_bundle():
    shown = Shown(markdown(REPORTS["single"])).text
    assert shown.startswith("✗ over budget: EdgeKit report\n")
    assert "p90: 3.20 ms\n" in shown
    assert "p99: not estimable from 300 samples (needs 662)" in shown
    assert "energy: no RAPL domain may be read, and this is no Jetson" in shown
    assert "drop against the same inputs undisturbed under typos 0.0450" in shown
    assert "budget.memory_mb✗ over budget101.4 MB100 MB" in shown.replace("\n", "")


def test_nothing_gated_is_no_pass():
    for name in ("comparison", "teacher", "self_check", "minimal"):
        first = markdown(REPORTS[name]).splitlines()[0]
        assert first == f"## EdgeKit {REPORTS[name].kind}: nothing was gated"
    assert markdown(REPORTS["passing"]).startswith("## ✓ pass: EdgeKit check\n\n**main** against **release-1.4**, 872 samples, all 2 gates passed.")


def test_what_cannot_be_compared():
    text = markdown(REPORTS["regression"])
    why = "cpu: Cortex-A78AE, then AMD EPYC 9R14 96-Core Processor"
    assert f"the baseline's read from a file. Not comparable: {why}" in text
    assert text.count(why) == 2, "once with its gate, once with the latencies, not with each"
    assert "margin" not in text.split("**Flips**")[1].split("**Robustness**")[0]
    other = replace(REPORTS["passing"].accuracy, comparable=False, why_not="The samples differ.")
    assert "**Accuracy**: not comparable. The samples differ." in markdown(replace(REPORTS["passing"], accuracy=other))


@pytest.mark.parametrize(
    ("found", "seen", "allowed"),
    [
        (Gate("latency.p50", "pass", 0.07, -0.0123, -0.02, 0.001, ""), "-1.2 % (-2.0 to +0.1)", "+7 %"),
        (Gate("footprint.size", "pass", 0.1, 0.0, 0.0, 0.0, ""), "+0.0 %", "+10 %"),
        (Gate("accuracy.flips", "pass", 0.02, 0.0123, None, None, ""), "1.2 %", "2 %"),
        (Gate("accuracy.drop", "pass", 0.005, 0.00123, -0.01, 0.02, ""), "0.0012 (-0.0100 to 0.0200)", "0.005"),
        (Gate("slice.length=1-8", "pass", 0.05, -0.5, None, None, ""), "-0.5000", "0.05"),
        (Gate("budget.p50_ms", "pass", 3.0, 2.412, None, None, ""), "2.41 ms", "3 ms"),
        (Gate("budget.first_answer_ms", "pass", 1500.0, 1234.56, None, None, ""), "1235 ms", "1500 ms"),
        (Gate("budget.memory_mb", "pass", 100.0, 100.3, None, None, ""), "100.3 MB", "100 MB"),
        (Gate("budget.accuracy_drop", "pass", 0.01, None, None, None, ""), "not known", "0.01"),
    ],
)
def test_numbers_of_gates(found, seen, allowed):
    assert gate_numbers(found) == (seen, allowed)


def test_numbers():
    assert [number(v) for v in (0, 0.00004, -0.5, 1, 99.999, 100, 999.96, 1000, 123456.7)] == [
        "0.0000", "0.0000", "-0.5000", "1.00", "100.00", "100.0", "1000.0", "1000", "123457",
    ]  # fmt: skip
    assert change(Change("size", 2.0, 1.0, "MB", 0.5, 0.5, 0.5)) == "2.00 → 1.00 MB, ratio 0.500"
    assert change(Change("p50", None, None, "ms", None, None, None)) == "not known"
    few = Times(5, 2.0, None, 1.0, None, {"p50": 11}, ())
    assert percentiles(few) == {
        "p50": (None, "not estimable from 5 samples (needs 11)"), "p90": (1.0, "1.00 ms"), "p99": (None, "not estimable from 5 samples"),
    }  # fmt: skip


def test_slices_that_stand_out():
    base = REPORTS["check"].accuracy
    sure = (replace(base.slices[0], p_holm=0.049, drop=0.05), replace(base.slices[1], p_holm=0.051), replace(base.slices[3], p_holm=0.001, drop=0.09))
    shown = Shown(markdown(replace(REPORTS["check"], accuracy=replace(base, slices=sure)))).text
    assert "Slices: 2 of 3 differ for sure." in shown
    assert shown.index("drop 0.0900") < shown.index("drop 0.0500")
    untested = tuple(replace(s, p_value=None, p_holm=None, low=low, high=0.03) for s, low in zip(base.slices[:2], (0.001, -0.001), strict=True))
    assert "Slices: 1 of 2 differ for sure." in Shown(markdown(replace(REPORTS["check"], accuracy=replace(base, slices=untested)))).text


# --- nobody is pinged, nothing is markup ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_others_stay_texts(text):
    """The page has the same tags as with a plain word in every place, and the text as it is."""
    for name in ("check", "single", "regression", "multilabel"):
        expected, found = Shown(markdown(with_texts(REPORTS[name], "x"))), Shown(markdown(with_texts(REPORTS[name], text)))
        assert found.tags == expected.tags
        assert linked(found.text) == linked(expected.text)
        assert [found.cells[i::4] for i in (1, 2, 3)] == [expected.cells[i::4] for i in (1, 2, 3)], "the first cell is one cell"
        if len(text) < 80 and not re.search("[\x00-\x1f\u2028\u202e\udc80]", text):
            assert " ".join(text.split()) in found.text.replace("\u200b", "")


_pieces = st.lists(st.sampled_from(HOSTILE[:55]) | st.text(max_size=8), min_size=1, max_size=5).map("".join)


@settings(max_examples=300, deadline=None)
@given(_pieces, st.integers(2, 80))
@example("a\\|b", 80)
@example("\u200b@x", 80)
@example("@\u200bx #\u20601", 80)
def test_escape(text, longest):
    """In a cell, in an item, in bold and in code: one text, and nothing that anybody looks for in it."""
    escaped = escape(text, longest)
    assert "\n" not in escaped
    page = Shown(f"| a | b |\n|---|---|\n| {escaped} | 1 |\n\n- {escaped}\n- <code>{escaped}</code>\n\n**{escaped or 'x'}**, {escaped}\n")
    expected = Shown("| a | b |\n|---|---|\n| x | 1 |\n\n- x\n- <code>x</code>\n\n**x**, x\n")
    assert page.tags == expected.tags
    assert linked(page.text) == []
    assert page.cells[:2] + page.cells[3:] == ["a", "b", "1"]
    assert len(page.text.replace("\u200b", "")) < 6 * longest + 40


def test_no_text_without_include_text():
    base = REPORTS["check"]
    flips = tuple(replace(f, text=small.CANARY) for f in base.accuracy.flipped)
    drifts = tuple(replace(d, words=(small.CANARY,)) for d in base.faithfulness.drifts)
    told = replace(base, accuracy=replace(base.accuracy, flipped=flips), faithfulness=replace(base.faithfulness, drifts=drifts))
    assert small.CANARY in markdown(told)
    assert small.CANARY not in markdown(replace(told, include_text=False))


def test_marks_are_no_emoji():
    """Characters that no system shows as coloured pictures: those that are emoji have neighbours that are not (emoji-data.txt of Unicode)."""
    assert set(MARKS) == set(VERDICTS)
    assert {ord(c) for mark in MARKS.values() for c in mark} & {0x2705, 0x2714, 0x2716, 0x274C, 0x274E, 0x2753, 0x2757, 0x26A0} == set()
    assert all(len(mark) == 1 and ord(mark) < 0x2800 for mark in MARKS.values())
    assert "\ufe0f" not in markdown(REPORTS["check"])


# --- never too long ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORTS)
def test_it_is_short_and_always_the_same(name):
    text = markdown(REPORTS[name])
    assert text == markdown(REPORTS[name])
    assert len(text.encode()) <= MOST_BYTES < 64 * 1024
    assert not any(line.startswith("#") for line in text.splitlines()[1:])
    if name != "largest":
        assert "Left out" not in text


@pytest.mark.parametrize(
    ("text", "kind"), zip(["x" * 2_000, "|" * 2_000, "~" * 2_000, "日" * 2_000, "\U0001f600" * 2_000, "@a " * 700], [*KINDS, "check"], strict=True)
)
def test_the_largest(text, kind):
    base = with_texts(REPORTS["largest"], text)
    more = replace(base, kind=kind, gates=base.gates * 40, notes=base.notes * 40, robustness=base.robustness * 500)
    found = markdown(more)
    assert len(found.encode()) <= MOST_BYTES
    assert found.startswith(f"## ✗ regression: EdgeKit {kind}\n")
    assert "| latency" in found or "✗ regression |" in found
    assert "more gates, none of them graver than these, are in report.html." in found
    assert Shown(found).text.count("<details") == 0


def test_what_is_left_out_is_said():
    base = REPORTS["check"]
    notes = replace(base, notes=("~" * 300,) * 30)
    text = markdown(notes)
    assert text.endswith("Left out here, as a comment holds no more: notes. All of it is in report.html and report.json.\n")
    assert "</details>\n\nLeft out" in text
    flips = tuple(replace(f, before="~" * 80, after="|" * 80, truth="&" * 80, text="~" * 300) for f in base.accuracy.flipped)
    cut = markdown(replace(notes, accuracy=replace(base.accuracy, flipped=flips), gates=base.gates * 9))
    assert "flips, faithfulness, robustness, machine, notes. All" in cut or cut.endswith("notes. All of it is in report.html and report.json.\n")
    assert "**Latency**" in cut


def test_many_notes_are_cut():
    text = markdown(replace(REPORTS["passing"], notes=tuple(f"note {i}" for i in range(33))))
    assert "- note 29\n- and 3 more\n" in text
    assert "note 30" not in text
