"""The comment on a pull request: what it says, that nothing in a report becomes markup or pings anybody, and that it is never too long."""

from __future__ import annotations

import functools
import html.parser
import re
from dataclasses import fields, is_dataclass, replace

import pytest
import reports
import small
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.report.render.markdown import MOST_BYTES, escape, markdown
from edgekit.report.render.words import MARKS, gate_numbers, number, percentiles, plain
from edgekit.spec.report import KINDS, VERDICTS, Gate
from edgekit.spec.subject import Times

markdown_it = pytest.importorskip("markdown_it", reason="it comes with rich")
REPORTS = reports.everything()
HOSTILE = [
    "a|b", "`code`", "**bold** _it_", "<b onclick=x>", "<!-- x", "@octocat", "me@example.com", "#123", "GH-12", "owner/repo#5", "!7", "~bug", "%v1", "$3$",
    "[x](y)", "![i](//x)", "[^1]", "http://x.y/z", "www.example.com", "mailto:a@b.c", ":tada:", "a\nb", "a\r\n\r\n# b", "\\|", "\\", "&amp;", "&#64;octocat",
    "1. x", "2) x", "- x", "+ x", "# x", "> x", "===", "---", "|---|", "    x", "```", "~~~", "</details>", "\u202eevil", "a\u2028b", "\x00\x07", "@", "#",
    "@org/team", "&1", "^x^", "==x==", "*", "_", "<https://x.y>", "\udc80", "日本語 שלום", "a" * 500, "|" * 40, "@" * 500,
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
        return replace(
            value, **{f.name: with_texts(getattr(value, f.name), text) for f in fields(value) if f.name not in own}
        )
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


def rows_of(text, first):
    """Cells of the row that a table names so."""
    return [
        [c.strip().replace("&#43;", "+") for c in line.strip("| ").split(" | ")]
        for line in text.splitlines()
        if line.startswith(f"| {first} |")
    ]


def test_a_check():
    text = markdown(REPORTS["check"])
    lines = text.splitlines()
    assert lines[0] == "## ✗ Regression: EdgeKit check"
    assert lines[2].startswith(
        "**main** against **release-1.4**, 872 samples, on AMD EPYC 9R14 96-Core Processor (2 CPUs), "
    )
    assert lines[2].endswith(
        "UTC. Of 9 gates 1 is a regression, 1 is over budget, 1 cannot be compared, 2 are inconclusive, 4 pass."
    )
    assert lines[4] == "**Gates**"
    table = [
        [c.strip().replace("&#43;", "+") for c in line.strip("|").split("|")] for line in lines if line.startswith("|")
    ]
    assert table[0] == ["gate", "verdict", "allowed", "measured", "90 % interval", "in words"]
    assert table[2] == [
        "latency.p50",
        "✗ regression",
        "+5 %",
        "+8.3 %",
        "+7.0 % to +9.7 %",
        "p50 grew by 8.3 % (7.0 % to 9.7 %), above 5 %.",
    ]
    assert [row[1].split(" ", 1)[1] for row in table[2:7]] == [
        "regression",
        "over budget",
        "incomparable",
        "inconclusive",
        "inconclusive",
    ]
    shown = Shown(text).text.replace("\u200b", "")
    for said in (
        "Accuracy 0.8796 before, 0.8716 now, on 872 rows: a drop of 0.0080 (90 % interval −0.0007 to 0.0172). 210 rows were right before and are wrong now, "
        "203 the other way round (exact McNemar, p = 0.768).",
        "These samples can detect a drop of 0.0121 with a power of 80 %, but not one of 0.005: about 5,100 rows would decide that.",
        "This machine's noise alone can look like +1.1 % in p50 latency, +3.1 % in p90 latency.",
        "Slices: None of 8 slices differs significantly. 2 could not be tested.",
        "Flips: 413 of 872 rows (47.4 %) are answered differently.",
        "Faithfulness: Attributions of 40 inputs agree with a rank correlation of 0.871 (baseline with itself 0.912, chance 0.011) "
        "and an overlap of 0.805 in the top 3",
        "Robustness: Drop from before to now: typos 0.0100; case 0.0000;",
        "Machine and bundles: tables", "AMD EPYC 9R14", "The machine was throttled 3 times during the run.",
        "10 of 413 rows are listed, those with the largest margin before; report.json has the first 200.",
    ):  # fmt: skip
        assert said in shown, said
    assert rows_of(text, "p50 latency") == [
        ["p50 latency", "2.41 ms", "2.61 ms", "+8.3 %", "+7.0 % to +9.7 %"], ["p50 latency", "1.083", "+8.3 %", "+7.0 % to +9.7 %", "+5 %", "+2.1 %"],
    ]  # fmt: skip
    assert rows_of(text, "p99 latency")[0] == [
        "p99 latency",
        "–",
        "–",
        "–",
        "not estimable from 300 samples (needs 662)",
    ]
    assert rows_of(text, "size on disk")[0] == ["size on disk", "23.40 MB", "21.10 MB", "−9.8 %", "–"]
    assert rows_of(text, "calibration error") == [["calibration error", "0.0413", "0.0467"]]
    assert [rows_of(text, f"divergence of the answers, {name}")[0][2] for name in ("mean", "95th percentile")] == [
        "0.0121",
        "0.0488",
    ]
    first = REPORTS["check"].accuracy.flipped[0]
    (row,) = [r for r in rows_of(text, "1") if len(r) == 9]
    assert row[:8] == [
        "1",
        first.id[:12],
        "negative",
        "negative",
        "neutral",
        "✗ lost",
        f"{first.margin_before:.2f}",
        f"{first.margin_after:.2f}",
    ]
    assert row[8].startswith("a text")


def test_what_is_said_stands_above_the_tables():
    text = markdown(REPORTS["check"])
    assert text.index("**Notes**") < text.index("<details>")
    assert "<svg" not in text and "framed" not in text, "what takes colours is of the page alone"
    folded = re.findall(r"<summary>(.*?): tables</summary>", text)
    assert folded == [
        "Accuracy",
        "Slices",
        "Flips",
        "Latency",
        "Footprint",
        "Faithfulness",
        "Robustness",
        "Machine and bundles",
    ]


def test_one_bundle():
    text = markdown(REPORTS["single"])
    assert text.startswith("## ▲ Over budget: EdgeKit report\n")
    assert rows_of(text, "p90 latency") == [["p90 latency", "3.20 ms"]]
    assert rows_of(text, "p99 latency") == [["p99 latency", "not estimable from 300 samples (needs 662)"]]
    assert rows_of(text, "first answer")[0] == [
        "first answer",
        "253.1 ms (import 151.2, verify 12.40, load 88.30, first answer 2.41)",
    ]
    assert (
        rows_of(text, "energy of an answer")[0][1] == "not measured: no RAPL domain may be read, and this is no Jetson"
    )
    assert "Drop from clean to perturbed: typos 0.0450;" in text
    assert "| budget.memory&#95;mb | ▲ over budget | 100 MB | 101.4 MB | – |" in text


def test_nothing_gated_is_no_pass():
    for name, kind in (("comparison", "comparison"), ("teacher", "comparison"), ("minimal", "baseline")):
        assert markdown(REPORTS[name]).startswith(f"## ○ Measured, not judged: EdgeKit {kind}\n")
    assert markdown(REPORTS["self_check"]).startswith("## ○ Noise floor: EdgeKit self-check\n")
    assert markdown(REPORTS["passing"]).startswith(
        "## ✓ Pass: EdgeKit check\n\n**main** against **release-1.4**, 872 samples, "
    )


def test_what_cannot_be_compared():
    text = markdown(REPORTS["regression"])
    why = "cpu: Cortex-A78AE, then AMD EPYC 9R14 96-Core Processor"
    assert f"Latencies are not compared: {why}." in text
    assert text.count(why) == 2, "once with its gate, once with the latencies, not with each"
    assert "margin" not in text.split("Flips: tables")[1].split("</details>")[0]
    other = replace(REPORTS["passing"].accuracy, comparable=False, why_not="The samples differ.")
    assert "**Accuracy**: The accuracy is not compared. The samples differ." in markdown(
        replace(REPORTS["passing"], accuracy=other)
    )


def test_rows_that_can_never_settle_it_are_told_first():
    few = replace(REPORTS["passing"].accuracy, inputs=120, fewest=268)
    assert few.undecidable_reason
    text = markdown(replace(REPORTS["passing"], accuracy=few, notes=(few.undecidable_reason, "another")))
    assert f"**At a glance**: {few.undecidable_reason}\n" in text
    assert text.count("cannot decide") == 1
    assert text.endswith("</details>\n") and "- Another.\n" in text


@pytest.mark.parametrize(
    ("found", "allowed", "seen", "around"),
    [
        (Gate("latency.p50", "pass", 0.07, -0.0123, -0.02, 0.001, ""), "+7 %", "-1.2 %", "-2.0 % to +0.1 %"),
        (Gate("footprint.size", "pass", 0.1, 0.0, 0.0, 0.0, ""), "+10 %", "0.0 %", "-"),
        (Gate("accuracy.flips", "pass", 0.02, 0.0123, None, None, ""), "2 %", "1.2 %", "-"),
        (Gate("accuracy.drop", "pass", 0.005, 0.00123, -0.01, 0.02, ""), "0.005", "0.0012", "-0.0100 to 0.0200"),
        (Gate("slice.length=1-8", "pass", 0.05, -0.5, None, None, ""), "0.05", "-0.5000", "-"),
        (Gate("budget.p50_ms", "pass", 3.0, 2.412, None, None, ""), "3 ms", "2.41 ms", "-"),
        (Gate("budget.first_answer_ms", "pass", 1500.0, 1234.56, None, None, ""), "1500 ms", "1235 ms", "-"),
        (Gate("budget.memory_mb", "pass", 100.0, 100.3, None, None, ""), "100 MB", "100.3 MB", "-"),
        (Gate("budget.accuracy_drop", "pass", 0.01, None, None, None, ""), "0.01", "-", "-"),
    ],
)
def test_numbers_of_gates(found, allowed, seen, around):
    assert tuple(map(plain, gate_numbers(found))) == (allowed, seen, around)


def test_numbers():
    assert [number(v) for v in (0, 0.00004, -0.5, 1, 99.999, 100, 999.96, 1000, 123456.7)] == [
        "0.0000", "0.0000", "-0.5000", "1.00", "100.00", "100.0", "1000.0", "1000", "123457",
    ]  # fmt: skip
    few = Times(5, 2.0, None, 1.0, None, {"p50": 11}, ())
    assert percentiles(few) == {
        "p50": (None, "not estimable from 5 samples (needs 11)"), "p90": (1.0, "1.00\N{NO-BREAK SPACE}ms"), "p99": (None, "not estimable from 5 samples"),
    }  # fmt: skip


def test_slices_that_stand_out():
    base = REPORTS["check"].accuracy
    sure = (
        replace(base.slices[0], p_holm=0.049, drop=0.05),
        replace(base.slices[1], p_holm=0.051),
        replace(base.slices[3], p_holm=0.001, drop=0.09),
    )
    shown = Shown(markdown(replace(REPORTS["check"], accuracy=replace(base, slices=sure)))).text
    assert re.search(
        r"Slices: 2 of 3 slices differ significantly: length = 25-32 \(drop 0\.0900\); topic = .+ \(drop 0\.0500\)\.",
        shown,
    )
    untested = tuple(
        replace(s, p_value=None, p_holm=None, low=low, high=0.03)
        for s, low in zip(base.slices[:2], (0.001, -0.001), strict=True)
    )
    assert (
        "Slices: 1 of 2 slices differs significantly: topic = "
        in Shown(markdown(replace(REPORTS["check"], accuracy=replace(base, slices=untested)))).text
    )


# --- nobody is pinged, nothing is markup ---------------------------------------------------------------------------------------------


@functools.cache
def page_with(name, text):
    return Shown(markdown(with_texts(REPORTS[name], text)))


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_others_stay_texts(text):
    """The page has the same tags as with a plain word in every place, and the text as it is."""
    for name in ("check", "single", "regression", "multilabel"):
        expected, found = page_with(name, "x"), page_with.__wrapped__(name, text)
        assert found.tags == expected.tags
        assert linked(found.text) == linked(expected.text)
        assert len(found.cells) == len(expected.cells), "a cell is one cell"
        assert [c for c in found.cells if re.fullmatch(r"[−+]?\d+\.\d{4}", c)] == [
            c for c in expected.cells if re.fullmatch(r"[−+]?\d+\.\d{4}", c)
        ]
        if len(text) < 80 and not re.search("[\x00-\x1f\u2028\u202e\udc80]", text):
            assert " ".join(text.split()) in found.text.replace("\u200b", "")


_pieces = st.lists(st.sampled_from(HOSTILE[:55]) | st.text(max_size=8), min_size=1, max_size=5).map("".join)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(_pieces)
@example("a\\|b")
@example("\u200b@x")
@example("@\u200bx #\u20601")
def test_escape(text):
    """In a cell, in an item, in bold and in code: one text, and nothing that anybody looks for in it."""
    escaped = escape(text)
    assert "\n" not in escaped
    page = Shown(
        f"| a | b |\n|---|---|\n| {escaped} | 1 |\n\n- {escaped}\n- <code>{escaped}</code>\n\n**{escaped or 'x'}**, {escaped}\n"
    )
    expected = Shown("| a | b |\n|---|---|\n| x | 1 |\n\n- x\n- <code>x</code>\n\n**x**, x\n")
    assert page.tags == expected.tags
    assert linked(page.text) == []
    assert page.cells[:2] + page.cells[3:] == ["a", "b", "1"]


def test_no_text_without_include_text():
    base = REPORTS["check"]
    flips = tuple(replace(f, text=small.CANARY) for f in base.accuracy.flipped)
    drifts = tuple(replace(d, words=(small.CANARY,)) for d in base.faithfulness.drifts)
    told = replace(
        base, accuracy=replace(base.accuracy, flipped=flips), faithfulness=replace(base.faithfulness, drifts=drifts)
    )
    assert small.CANARY in markdown(told)
    assert small.CANARY not in markdown(replace(told, include_text=False))


def test_marks_are_no_emoji():
    """Characters that no system shows as coloured pictures: those that are emoji have neighbours that are not (emoji-data.txt of Unicode)."""
    assert set(MARKS) == set(VERDICTS)
    assert {ord(c) for mark in MARKS.values() for c in mark} & {
        0x2705,
        0x2714,
        0x2716,
        0x274C,
        0x274E,
        0x2753,
        0x2757,
        0x26A0,
    } == set()
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
    ("text", "kind"),
    zip(
        ["x" * 2_000, "|" * 2_000, "~" * 2_000, "日" * 2_000, "\U0001f600" * 2_000, "@a " * 700],
        [*KINDS, "check"],
        strict=True,
    ),
)
def test_the_largest(text, kind):
    base = with_texts(REPORTS["largest"], text)
    more = replace(base, kind=kind, gates=base.gates * 40, notes=base.notes * 40, robustness=base.robustness * 500)
    found = markdown(more)
    assert len(found.encode()) <= MOST_BYTES
    assert found.startswith(f"## ✗ Regression: EdgeKit {'comparison' if kind == 'compare' else kind}\n")
    assert "| ✗ regression |" in found
    assert "40 of 2,440 gates are listed" in found or "gates tables" in found.splitlines()[-1]
    assert found.count("<details>") == found.count("</details>")
    assert Shown(found).text.count("<details") == 0


def test_what_is_left_out_is_said():
    base = REPORTS["check"]
    wide = "~" * 80
    flips = tuple(
        replace(f, before=wide, after="|" * 80, truth="&" * 80, text="~" * 300) for f in base.accuracy.flipped
    )
    slices = tuple(replace(base.accuracy.slices[0], column=wide, value=f"{i} {wide}") for i in range(40))
    text = markdown(
        replace(base, notes=("~" * 300,) * 9, accuracy=replace(base.accuracy, flipped=flips, slices=slices))
    )
    last = text.splitlines()[-1]
    assert last.startswith("Left out, because a comment cannot be longer: ")
    assert last.endswith("robustness tables, machine and bundles tables. See report.html or report.json.")
    assert "**Latency**" in text and "**Notes**" in text, "what is said stays before what is in tables"
    assert text.count("<details>") == text.count("</details>") > 0


def test_many_notes_are_cut():
    text = markdown(replace(REPORTS["passing"], notes=tuple(f"note {i}" for i in range(43))))
    assert "- Note 39.\n- 40 of 43 notes are listed; report.json has the others.\n" in text
    assert "ote 40" not in text
