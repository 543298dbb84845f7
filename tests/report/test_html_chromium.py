"""Every page in headless Chromium: it loads in silence, asks nobody for anything, fits a phone, and its pictures are drawn and legible."""

from __future__ import annotations

import chromium
import pytest
import reports

from edgekit.report.render.html import html

pytestmark = [
    pytest.mark.skipif(chromium.PROGRAM is None, reason="Chromium is not installed: apt-get install chromium"),
    pytest.mark.system,
]
REPORTS = reports.everything()
GROUND = {chromium.LIGHT: (253, 252, 249), chromium.DARK: (21, 24, 27)}  # --paper of charts.css


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, report in REPORTS.items():
        (folder / f"{name}.html").write_text(html(report), "utf-8")
    return {name: folder / f"{name}.html" for name in REPORTS}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.mark.slow
def test_the_browser_tells(browser, tmp_path):
    """What the tests below look for is found where it is."""
    bad = tmp_path / "bad.html"
    texts = '<text x="90" y="10">clipped</text><text x="88" y="11">over</text>'
    wide = f'<div style="width: 900px">wide</div><svg viewBox="0 0 100 20"><title id="x-t">x</title>{texts}</svg>'
    bad.write_text(
        f'<!DOCTYPE html><img src="http://127.0.0.1:9/x.png"><script>console.error("a canary")</script>{wide}', "utf-8"
    )
    plain = tmp_path / "plain.html"
    plain.write_text('<!DOCTYPE html><body style="background: rgb(1, 2, 3)">', "utf-8")
    console, asked, tiles = chromium.load(browser, {"bad": bad, "plain": plain})
    assert set(tiles["plain"]) == {(1, 2, 3)} and len(set(tiles["bad"])) > 5
    assert ["a canary" in line for line in console] == [True]
    assert asked == ["http://127.0.0.1:9/x.png"]
    found = chromium.measure(browser, {"bad": bad}, 360, chromium.LIGHT)["bad"]
    assert found["overflow"] > 500
    assert found["scripts"] == 1
    (picture,) = found["pictures"]
    assert picture["clipped"] == ["clipped", "over"]
    assert picture["over"] == [["clipped", "over"]]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", GROUND)
def test_they_load_in_silence_and_ask_nobody(pages, browser, scheme):
    console, asked, tiles = chromium.load(browser, pages, scheme)
    assert console == []
    assert asked == []
    for name, dots in tiles.items():
        assert dots[0] == GROUND[scheme], name
        assert len(set(dots)) > 40, f"there is something on {name}"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(360, chromium.LIGHT), (1120, chromium.DARK)])
def test_it_fits_and_its_pictures_are_drawn(pages, browser, width, scheme):
    found = chromium.measure(browser, pages, width, scheme)
    assert found.keys() == pages.keys()
    for name, page in found.items():
        assert "error" not in page, (name, page)
        assert (page["overflow"], page["outside"]) == (0, []), name
        assert page["background"] == "rgb({}, {}, {})".format(*GROUND[scheme])
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
