"""Every page in headless Chromium: it loads in silence, asks nobody for anything, fits a phone, and its pictures are drawn and legible."""

from __future__ import annotations

import chromium
import pytest
import reports

from edgekit.report.render.html import html

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="Chromium is not installed: apt-get install chromium")
REPORTS = reports.everything()
GROUND = {chromium.LIGHT: "rgb(253, 252, 249)", chromium.DARK: "rgb(21, 24, 27)"}  # --paper of charts.css


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, report in REPORTS.items():
        (folder / f"{name}.html").write_text(html(report), "utf-8")
    return {name: folder / f"{name}.html" for name in REPORTS}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


def test_the_browser_tells(browser, tmp_path):
    """What the tests below look for is found where it is."""
    bad = tmp_path / "bad.html"
    texts = '<text x="90" y="10">clipped</text><text x="88" y="11">over</text>'
    wide = f'<div style="width: 900px">wide</div><svg viewBox="0 0 100 20"><title id="x-t">x</title>{texts}</svg>'
    bad.write_text(
        f'<!DOCTYPE html><img src="http://127.0.0.1:9/x.png"><script>console.error("a canary")</script>{wide}', "utf-8"
    )
    console, asked, _ = chromium.load(browser, bad)
    assert ["a canary" in line for line in console] == [True]
    assert asked == ["http://127.0.0.1:9/x.png"]
    found = chromium.measure(browser, {"bad": bad}, 360, chromium.LIGHT)["bad"]
    assert found["overflow"] > 500
    assert found["scripts"] == 1
    (picture,) = found["pictures"]
    assert picture["clipped"] == ["clipped", "over"]
    assert picture["over"] == [["clipped", "over"]]


@pytest.mark.parametrize("name", REPORTS)
def test_it_loads_in_silence_and_asks_nobody(pages, browser, name):
    scheme = chromium.DARK if name in ("single", "comparison") else chromium.LIGHT
    console, asked, (width, height, colors) = chromium.load(browser, pages[name], width=640, height=480, scheme=scheme)
    assert console == []
    assert asked == []
    assert (width, height) == (640, 480)
    assert tuple(colors[:3]) == tuple(map(int, GROUND[scheme][4:-1].split(",")))
    assert len({colors[i : i + 3] for i in range(0, len(colors), 3)}) > 40, "there is something on it"


@pytest.mark.parametrize(("width", "scheme"), [(360, chromium.LIGHT), (1120, chromium.DARK)])
def test_it_fits_and_its_pictures_are_drawn(pages, browser, width, scheme):
    found = chromium.measure(browser, pages, width, scheme)
    assert found.keys() == pages.keys()
    for name, page in found.items():
        assert "error" not in page, (name, page)
        assert (page["overflow"], page["outside"]) == (0, []), name
        assert page["background"] == GROUND[scheme]
        assert page["scripts"] == 0
        assert page["height"] > 900
        assert page["title"].startswith("EdgeKit")
        for picture in page["pictures"]:
            where = (name, picture)
            assert picture["width"] > 280, where
            assert picture["height"] > 40, where
            assert picture["letters"] >= 9.5, where  # pixels, on a phone too
            assert picture["colours"] >= 20, where
            assert picture["inked"] > 0.02, where
            assert picture["marked"] > 10, where
            assert picture["clipped"] == [], where
            assert picture["over"] == [], where
    assert len(found["check"]["pictures"]) == 11
