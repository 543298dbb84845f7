"""Addresses of devices, and the steps that run on a device, without one."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import small
from refusals import refused

from edgekit.deploy import Address, _there, parse_url

# ---- addresses

GOOD = {
    "ssh://board": Address("board"),
    "ssh://board/": Address("board"),
    "ssh://pi@192.168.1.20": Address("192.168.1.20", "pi"),
    "ssh://pi@board.local:2222/opt/models/film/": Address("board.local", "pi", 2222, "/opt/models/film"),
    "ssh://board/~/film": Address("board", path="~/film"),
    "ssh://board/~film": Address("board", path="/~film"),
    "ssh://Board-1/a%20b/it's%25": Address("Board-1", path="/a b/it's%"),
    "ssh://board/a b?c#d@e:1": Address("board", path="/a b?c#d@e:1"),
    "ssh://board/%C3%BC": Address("board", path="/ü"),
    "ssh://[::1]:22/a": Address("::1", port=22, path="/a"),
    "ssh://me@[fe80::1%eth0]": Address("fe80::1%eth0", "me"),
}
BAD = {
    "": "is not an address of the form",
    "board": "is not an address of the form",
    "pi@board:film": "is not an address of the form",
    "ssh:/board": "is not an address of the form",
    "SSH://board": "is not an address of the form",
    "http://board": "is not an address of the form",
    "scp://board/film": "is not an address of the form",
    "ssh://": "names the host ''",
    "ssh:///film": "names the host ''",
    "ssh://pi@": "names the host ''",
    "ssh://@board": "names the user ''",
    "ssh://a@b@c": "names the user 'a@b'",
    "ssh://-oProxyCommand=touch x/film": "names the host '-oProxyCommand=touch x'",
    "ssh://-v@board": "names the user '-v'",
    "ssh://a b@board": "names the user 'a b'",
    "ssh://$(id)/film": "names the host '$(id)'",
    "ssh://bo ard": "names the host 'bo ard'",
    "ssh://board\n": "names the host",
    "ssh://::1/film": "names the host",
    "ssh://[::1/film": "names the host",
    "ssh://[board]": "names the host '[board]'",
    "ssh://board:": "names the port ''",
    "ssh://board:0": "names the port '0'",
    "ssh://board:65536": "names the port '65536'",
    "ssh://board:22x": "names the port '22x'",
    "ssh://board:-1": "names the port '-1'",
    "ssh://board:²": "names the port '²'",
    "ssh://board/~": "names the path '/~'",
    "ssh://board/~/": "names the path '/~'",
    "ssh://board/a%00b": "control characters",
    "ssh://board/a\nb": "control characters",
    "ssh://board/%ff": "not UTF-8",
}


@pytest.mark.parametrize("url", GOOD)
def test_an_address(url):
    assert parse_url(url) == GOOD[url]
    assert str(parse_url(url)) == url.removeprefix("ssh://").partition("/")[0]


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_address(url):
    with refused("address-invalid") as caught:
        parse_url(url)
    assert BAD[url] in str(caught.value)
    assert "Write ssh://[user@]host[:port][/path], e.g. ssh://" in str(caught.value)


def test_a_password_is_not_repeated():
    with refused("address-password") as caught:
        parse_url("ssh://pi:secret@board")
    assert "secret" not in str(caught.value)


# ---- what runs there


NO_BUNDLES = ("file", "folder", "link", "bundle with more in it", "web page")


@pytest.mark.parametrize(
    ("what", "state"), [(what, "other") for what in NO_BUNDLES] + [("bundle", "bundle"), ("empty", "free")]
)
def test_what_is_at_a_place(float32_ort, tmp_path, what, state):
    place = tmp_path / "film"
    if what == "file":
        place.write_text("notes")
    elif what == "link":
        place.symlink_to(small.copy(float32_ort, tmp_path / "real"))
    elif what == "bundle":
        small.copy(float32_ort, place)
    elif what == "bundle with more in it":
        (small.copy(float32_ort, place) / "notes.txt").write_text("notes")
    else:
        place.mkdir()
        if what != "empty":
            (place / ("notes.txt" if what == "folder" else "manifest.json")).write_text('{"name": "notes"}')
    assert _there.state(str(place)) == state


def test_what_is_sent_runs_on_an_old_python():
    source = Path(_there.__file__).read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= set(sys.stdlib_module_names)
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
