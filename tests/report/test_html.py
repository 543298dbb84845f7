"""The page of a report as HTML: whole, offline, small, readable by those who do not see it, and silent on what it was not asked to show."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import reports

from edgekit.report.render import html as module
from edgekit.report.render.html import MOST_BYTES, html

REPORTS = reports.everything()
VOID = {"meta", "wbr", "br", "img", "link", "input", "hr"}
ACTIVE = {"script", "iframe", "object", "embed", "link", "img", "image", "use", "form", "base", "foreignobject"}
STYLE = "".join((module._HERE / name).read_text("utf-8") for name in ("charts.css", "page.css"))


class Page(HTMLParser):
    """Elements with their ancestors, and faults in their nesting."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.faults, self.text = [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"{name} stays open" for name, _ in self.open]

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        self.faults += [f"{tag} has {name} twice" for name in set(names) if names.count(name) > 1]
        self.elements.append((tag, dict(attrs), list(self.open), []))
        if tag in ("td", "th", "li", "dt", "dd", "p", "h2", "caption"):  # what a reader sees apart
            self.handle_data(" ")
        if tag not in VOID:
            self.open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open[-1][0] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data):
        self.text.append(data)
        for _, place in self.open:
            self.elements[place][3].append(data)

    def all(self, tag):
        return [e for e in self.elements if e[0] == tag]

    def words(self, name):
        """What is said in the section of a name; empty where there is none."""
        return next((" ".join("".join(e[3]).split()) for e in self.all("section") if e[1].get("id") == name), "")


@pytest.fixture(scope="module")
def pages():
    return {name: html(report) for name, report in REPORTS.items()}


@pytest.fixture(params=REPORTS)
def page(request, pages):
    return pages[request.param]


def test_it_is_always_the_same(pages):
    assert html(reports.check()) == pages["check"]


def test_it_is_well_formed(page):
    parsed = Page(page)
    assert parsed.faults == []
    ids = [attrs["id"] for _, attrs, _, _ in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for _, attrs, _, _ in parsed.elements if "href" in attrs]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    for _, attrs, _, _ in parsed.elements:
        assert set(attrs.get("aria-labelledby", "").split()) <= set(ids)


def test_it_holds_nothing_that_runs_or_is_fetched(page):
    parsed = Page(page)
    assert {tag for tag, *_ in parsed.elements} & ACTIVE == set()
    for _, attrs, _, _ in parsed.elements:
        assert not [
            name
            for name in attrs
            if name.startswith("on") or name in ("src", "srcset", "xlink:href", "action", "style")
        ]
    assert "@import" not in page
    assert {u[:1] for u in re.findall(r"url\(\s*['\"]?([^)]*)", page)} <= {"#"}
    (policy,) = [a["content"] for _, a, _, _ in parsed.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))


def test_it_is_small(pages):
    assert {name: len(text.encode()) for name, text in pages.items() if len(text.encode()) >= MOST_BYTES} == {}
    assert len(pages["largest"]) > 100_000, "it is the large one that is tried"


def test_it_can_be_read_without_eyes(page):
    parsed = Page(page)
    assert parsed.all("html")[0][1]["lang"] == "en"
    levels = [int(tag[1]) for tag, *_ in parsed.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert len(parsed.all("main")) == 1
    skip = parsed.all("a")[0][1]
    assert (skip["class"], skip["href"]) == ("skip", "#verdict")
    for _, attrs, _, _ in parsed.all("th"):
        assert attrs["scope"] in ("row", "col")
    assert '<th scope="col"></th>' not in page, "a heading says something"
    for _, _, ancestors, said in parsed.all("caption"):
        assert "".join(said).strip()
        assert ancestors[-1][0] == "table"
    assert len(parsed.all("caption")) == len(parsed.all("table"))


def test_beside_every_picture_are_its_name_and_its_table(page):
    parsed = Page(page)
    for _, attrs, ancestors, _ in parsed.all("svg"):
        assert attrs["role"] == "img"
        figures = [place for tag, place in ancestors if tag == "figure"]
        inside = [tag for tag, _, above, _ in parsed.elements if figures[0] in [place for _, place in above]]
        assert inside.count("table") == 1
        assert inside.count("figcaption") == 1
    named = [said for tag, _, _, said in parsed.elements if tag in ("title", "desc")]
    assert all("".join(said).strip() for said in named)
    assert len(named) == 2 * len(parsed.all("svg")) + 1


def test_pictures_are_there_where_their_data_are(pages):
    named = {name: re.findall(r'<title id="(\w+)-t">', text) for name, text in pages.items()}
    everything = [
        "drop",
        "slices",
        "flips",
        "times",
        "ratios",
        "lengths",
        "start",
        "sizes",
        "front",
        "agreement",
        "robustness",
    ]
    assert named["check"] == everything
    assert named["comparison"] == everything
    assert named["largest"] == everything
    assert named["single"] == ["times", "lengths", "start", "sizes", "front", "robustness"]
    assert named["minimal"] == []
    assert named["self_check"] == ["times", "ratios", "lengths", "start", "sizes"]
    assert "flips" not in named["regression"], "numbers have no margin"
    assert "flips" not in named["passing"], "nothing flipped"


def test_hostile_strings_are_text(pages):
    for name in ("comparison", "check", "largest", "single"):
        assert "<script" not in pages[name].lower()
        assert reports.HOSTILE in "".join(Page(pages[name]).text)
    assert "Orin (nvgpu) &lt;b&gt;" in pages["regression"]
    evil = "\x00\x1b[31m\ud800\u202e</title></style><!--<svg onload=x>{{ 7 * 7 }}{% raw %}&lt;"
    base = reports.check()
    drifts = tuple(replace(d, id=evil, answer=evil, words=(evil,) * len(d.before)) for d in base.faithfulness.drifts)
    hurt = replace(
        base, created=evil, samples=evil, digest=evil, notes=(evil,), fingerprint=replace(base.fingerprint, cpu=evil, backends={evil: evil}),
        subjects=tuple(replace(s, name=evil, digest=evil, model=evil, task=evil, labels=(evil,) * 3, score_name=evil, energy_from=evil, energy_mj=None,
                               scenarios=tuple(replace(x, name=evil, metric=evil, unit=evil, detail=evil) for x in s.scenarios),
                               candidates=tuple(replace(t, method=evil, verdict=evil, model=evil) for t in s.candidates)) for s in base.subjects),
        gates=tuple(replace(g, name=f"{g.name}{evil}", said=evil) for g in base.gates),
        accuracy=replace(base.accuracy, score_name=evil, slices=tuple(replace(s, column=evil, value=evil) for s in base.accuracy.slices),
                         flipped=tuple(replace(f, id=evil, truth=evil, before=evil, after=f"{evil}!", text=evil) for f in base.accuracy.flipped[:20])),
        speed=replace(base.speed, changes=tuple(replace(c, said=evil) for c in base.speed.changes), noise_floor={evil: 0.1}),
        faithfulness=replace(base.faithfulness, drifts=drifts),
        robustness=tuple(replace(r, name=evil) for r in base.robustness),
    )  # fmt: skip
    text = html(hurt)
    text.encode()
    parsed = Page(text)
    assert parsed.faults == []
    assert {tag for tag, *_ in parsed.elements} <= {tag for tag, *_ in Page(pages["check"]).elements}
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", text)
    assert "{{ 7 * 7 }}" in text
    assert "49" not in parsed.words("notes")


def test_texts_are_shown_only_where_they_were_asked_for(pages):
    assert "a text that only include_text may show" in pages["check"]
    assert "película" in pages["check"]
    silent = html(replace(reports.check(), include_text=False))
    assert "only include_text" not in silent
    assert "película" not in silent
    assert "No text of a sample is in this page." in silent
    assert re.search(r'<th scope="col">1</th><th scope="col">2</th>', silent), "words are numbered instead"


def test_the_verdict_comes_first_and_in_words(pages):
    said = Page(pages["check"]).words("verdict")
    assert said.startswith(
        "✗ Regression Of 9 gates 1 is a regression, 1 is over budget, 1 cannot be compared, 2 are inconclusive, 4 pass."
    )
    assert "latency.p50 p50 grew by 8.3 % (7.0 % to 9.7 %), above 5 %." in said
    assert "footprint.memory" not in said, "what passes is no reason"
    assert pages["check"].index('id="verdict"') < pages["check"].index("<svg")
    assert "<title>EdgeKit check: main against release-1.4: regression</title>" in pages["check"]
    assert Page(pages["passing"]).words("verdict") == "✓ Pass Of 2 gates 2 pass."
    assert "passes or fails" in Page(pages["comparison"]).words("verdict")
    assert Page(pages["regression"]).words("verdict").startswith("≠ Incomparable")
    assert "can look like 1.1 % in p50 latency" in Page(pages["self_check"]).words("verdict").replace(
        "\xa0", " "
    ).replace("+", "")


def test_what_the_numbers_say(pages):
    single, check = Page(pages["single"]), Page(pages["check"])
    assert "not estimable from 300 samples (needs 662)" in single.words("latency")
    assert "not estimable from 300 samples (needs 662)" in single.words("glance")
    assert (
        "These samples can detect a drop of 0.0121 with a power of 80 %, but not one of 0.005: about 5,100 rows would decide"
        in check.words("accuracy")
    )
    assert "accuracy 0.8796 0.8716 −0.0080 −0.0172 to +0.0007" in check.words("glance"), "a drop is a change downwards"
    assert "latency.p50 ✗ regression +5 % +8.3 % +7.0 % to +9.7 %" in check.words("gates").replace("\xa0", " ")
    assert "budget.memory_mb ▲ over budget 100 MB 101.9 MB" in check.words("gates").replace("\xa0", " ")
    assert "MLPerf-style, not MLPerf-compliant" in check.words("latency")
    assert "413 of 872 rows (47.4 %) are answered differently" in check.words("flips").replace("\xa0", " ")
    assert "No row is answered differently." in Page(pages["passing"]).words("flips")
    assert "cpu: Cortex-A78AE" in Page(pages["regression"]).words("latency")
    assert "KL" not in Page(pages["regression"]).words("accuracy")
    assert "AMD EPYC 9R14" in check.words("machine")
    for page in (single, check):
        assert all(
            word in page.words("reading")
            for word in ("Pass", "Regression", "Over budget", "Inconclusive", "Incomparable")
        )


def test_a_percentile_that_is_not_estimable_has_no_mark(pages):
    def marks(text):
        picture = text[text.index('<title id="times-t">') :]
        return re.findall(r'(?<!<g>)<circle[^>]*r="3.5" class="d (\w)"', picture[: picture.index("</svg>")])

    assert marks(pages["single"]) == ["b"] * 2, "p50 and p90 of 300 calls"
    assert marks(pages["check"]) == ["a"] * 3 + ["b"] * 3


def test_incomparable_samples_are_not_compared():
    base = reports.check()
    page = Page(html(replace(base, accuracy=replace(base.accuracy, comparable=False, why_not="the samples changed"))))
    assert page.words("accuracy") == "Accuracy The accuracy is not compared. The samples changed."
    assert page.words("slices") == page.words("flips") == ""
    assert "0.8716" not in page.words("glance")


def test_a_confusion_of_many_labels_adds_up(pages):
    whole = sum(map(sum, REPORTS["largest"].subjects[0].confusion))
    text = pages["largest"]
    start = text.index('aria-labelledby="t-confusion-a"')
    cells = [
        int(c.replace(",", ""))
        for c in re.findall(r'<td class="h\d[^>]*>([\d,]+)<', text[start : text.index("</table>", start)])
    ]
    assert len(cells) == 12 * 12
    assert sum(cells) == whole == 5_000
    assert "39 labels with the fewest errors are merged" in text


def test_what_is_left_out_is_told(pages):
    largest = Page(pages["largest"])
    assert "60 of 61 gates are listed; report.json has the others." in largest.words("gates")
    assert (
        "of 413 rows are listed, those with the largest margin before; report.json has the first 200."
        in largest.words("flips")
    )
    assert "The 24 largest of 52 are drawn." in largest.words("slices")


def test_the_largest_that_anybody_writes_still_fits():
    """Long texts of characters that take most bytes, everywhere."""
    base, wide = reports.largest(), "'日&<" * 400
    accuracy = replace(
        base.accuracy, flipped=tuple(replace(f, text=wide, truth=wide, before=wide, after=wide + "!") for f in base.accuracy.flipped),
        slices=tuple(replace(s, column=wide, value=wide) for s in base.accuracy.slices),
    )  # fmt: skip
    gates, notes = tuple(replace(g, name=wide, said=wide) for g in base.gates), (wide,) * 500
    subjects = tuple(
        replace(
            s,
            name=wide,
            labels=(wide,) * 50,
            candidates=tuple(replace(c, method=wide, verdict=wide) for c in s.candidates),
        )
        for s in base.subjects
    )
    page = html(replace(base, accuracy=accuracy, gates=gates, notes=notes, subjects=subjects))
    assert len(page.encode()) < MOST_BYTES
    assert Page(page).faults == []


def schemes():
    """Colours by name, light and dark."""
    found = ({}, {})
    for dark, body in re.findall(
        r"(@media screen and \(prefers-color-scheme: dark\) \{\s*)?:root \{(.*?)\}", STYLE, re.DOTALL
    ):
        found[bool(dark)].update(re.findall(r"--([\w-]+): (#[0-9a-f]{6}|\d+ \d+ \d+);", body))
    return {name: {k: rgb(v) for k, v in colors.items()} for name, colors in zip(("light", "dark"), found, strict=True)}


def rgb(value):
    return (
        tuple(int(value[i : i + 2], 16) for i in (1, 3, 5)) if value.startswith("#") else tuple(map(int, value.split()))
    )


def contrast(one, other):
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(color):
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((0x77, 0x77, 0x77), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)  # WebAIM's table


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out(scheme):
    colors = schemes()[scheme]
    for name in ("ink", "muted", "link", "pass", "regression", "over", "inconclusive", "incomparable", "none"):
        for ground in ("paper", "panel"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
    for name in ("before", "after", "limit", "s0", "s1", "s2", "s3", "s4", "axis"):
        assert contrast(colors[name], colors["paper"]) >= 3, name  # WCAG 1.4.11: parts of a picture
    shades = re.findall(r"\.[hpn]\d \{ background: rgb\(var\(--(heat|cold)\) / ([\d.]+)\)", STYLE)
    assert len(shades) == 7 + 4 + 4
    for tint, share in shades:
        ground = tuple(
            float(share) * t + (1 - float(share)) * p for t, p in zip(colors[tint], colors["paper"], strict=True)
        )
        assert contrast(colors["ink"], ground) >= 4.5, (tint, share)


def test_both_schemes_have_every_colour():
    light, dark = schemes().values()
    assert light.keys() == dark.keys()
    assert set(re.findall(r"var\(--([\w-]+)\)", STYLE)) - {"tone", "shade"} <= light.keys()
