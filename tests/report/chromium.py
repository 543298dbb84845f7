"""Pages in a real browser: what it says on its console, what it asks the network for, how it lays them out, what it paints."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DARK, LIGHT = 0, 1
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--disable-default-apps", "--disable-features=OptimizationHints,MediaRouter", "--enable-logging=stderr", "--v=0",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the browser itself reaches nobody either
)  # fmt: skip
_CONSOLE = re.compile(r":CONSOLE[:(]\d+\)?\] (.*)")


def run(folder: Path, *flags: str) -> tuple[str, str]:
    """Standard output and errors of one run; ``folder`` holds its profile."""
    done = subprocess.run(
        [PROGRAM, *_FLAGS, f"--user-data-dir={folder / 'profile'}", *flags],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


TILE = (320, 240)
"""Width and height of a page in the picture of ``load``."""


def load(
    folder: Path, pages: Mapping[str, Path], scheme: int = LIGHT
) -> tuple[list[str], list[str], dict[str, list[tuple[int, ...]]]]:
    """Load pages, each in a frame of its own.

    Returns:
        Lines of the console, addresses that were asked for, and the top of each page: colours of its dots, by row.
    """
    net, picture, columns = folder / "net.json", folder / "picture.png", 4
    width, height = TILE
    style = f"border: 0; float: left; width: {width}px; height: {height}px"
    frames = "".join(f'<iframe style="{style}" src="{page.as_uri()}"></iframe>' for page in pages.values())
    harness = folder / "loading.html"
    harness.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">{frames}', "utf-8")
    _, said = run(
        folder,
        f"--log-net-log={net}",
        f"--screenshot={picture}",
        f"--window-size={columns * width},{-(-len(pages) // columns) * height}",
        f"--blink-settings=preferredColorScheme={scheme}",
        harness.as_uri(),
    )
    wide, _, dots = pixels(picture.read_bytes())
    assert wide == columns * width
    tiles = {}
    for number, name in enumerate(pages):
        row, column = divmod(number, columns)
        starts = [((row * height + y) * wide + column * width) * 3 for y in range(height)]
        tiles[name] = [tuple(dots[i : i + 3]) for start in starts for i in range(start, start + width * 3, 3)]
    return _CONSOLE.findall(said), asked(net), tiles


def asked(file: Path) -> list[str]:
    """Addresses in a net log that a page asked for. What the browser asks for on its own account has no page as its initiator."""
    log = json.loads(file.read_text("utf-8"))
    started = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    params = [
        event["params"] for event in log["events"] if event["type"] == started and "url" in event.get("params", {})
    ]
    return sorted({p["url"] for p in params if p.get("initiator", "") != "not an origin"})


def measure(folder: Path, pages: Mapping[str, Path], width: int, scheme: int) -> dict[str, dict]:
    """Lays out pages of a width, each in a frame of its own, and tells of each what ``_ASK`` asks."""
    frames = "".join(
        f'<iframe name="{name}" src="{page.as_uri()}" width="{width}" height="900"></iframe>'
        for name, page in pages.items()
    )
    harness = folder / "harness.html"
    harness.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body>{frames}<pre id="found"></pre><script>{_ASK}</script>', "utf-8"
    )
    flags = (
        "--allow-file-access-from-files",
        "--dump-dom",
        "--virtual-time-budget=60000",
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    dom, said = run(folder, *flags, f"--window-size={width + 40},900", harness.as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found and found[1], (dom[-2000:], said)
    return json.loads(html.unescape(found[1]))


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """Width, height and RGB bytes of an 8 bit PNG without interlacing (PNG specification, chapter 9)."""
    place, data, width, height, channels = 8, b"", 0, 0, 3
    while place < len(png):
        length, kind = int.from_bytes(png[place : place + 4], "big"), png[place + 4 : place + 8]
        body = png[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, channels = (
                int.from_bytes(body[:4], "big"),
                int.from_bytes(body[4:8], "big"),
                {2: 3, 6: 4}[body[9]],
            )
        data += body if kind == b"IDAT" else b""
        place += 12 + length
    raw, stride, last, rows = zlib.decompress(data), width * channels, bytearray(width * channels), []
    for y in range(height):
        start = y * (stride + 1)
        rows.append(last := _line(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), last, channels))
    flat = b"".join(rows)
    if channels == 4:
        flat = b"".join(flat[i : i + 3] for i in range(0, len(flat), 4))
    return width, height, flat


def _line(kind: int, line: bytearray, above: bytearray, channels: int) -> bytearray:
    for i in range(len(line) if kind else 0):
        a, b, c = (line[i - channels], above[i], above[i - channels]) if i >= channels else (0, above[i], 0)
        if kind == 4:
            p = a + b - c
            guess = min((a, b, c), key=lambda v, p=p: abs(p - v))
        else:
            guess = (0, a, b, (a + b) // 2)[kind]
        line[i] = (line[i] + guess) & 255
    return line


_ASK = r"""
const told = {};
async function painted(svg, styles) {
  // the picture alone, on a canvas: how many colours it has, how many dots of the marks' colours, how much is not the ground
  const box = svg.viewBox.baseVal, copy = svg.cloneNode(true);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg"); copy.setAttribute("width", box.width); copy.setAttribute("height", box.height);
  const style = document.createElementNS("http://www.w3.org/2000/svg", "style"); style.textContent = styles; copy.prepend(style);
  const root = getComputedStyle(svg.ownerDocument.documentElement);
  for (const name of new Set(styles.match(/--[\w-]+/g))) copy.style.setProperty(name, root.getPropertyValue(name));
  const numbers = ["--after", "--before", "--limit"].map(name => /#(..)(..)(..)/.exec(root.getPropertyValue(name)) || []);
  const marks = new Set(numbers.map(([, red, green, blue]) => parseInt("ff" + blue + green + red, 16)));
  const image = new Image();
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(copy));
  await image.decode();
  const canvas = document.createElement("canvas"); canvas.width = box.width; canvas.height = box.height;
  const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
  const data = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return {colours: new Set(data).size, marked: data.reduce((n, v) => n + marks.has(v), 0), inked: data.reduce((n, v) => n + (v !== 0), 0) / data.length};
}
async function look(frame) {
  const page = frame.contentDocument, root = page.documentElement, found = {};
  found.overflow = root.scrollWidth - root.clientWidth;
  found.height = root.scrollHeight;
  found.background = getComputedStyle(root).backgroundColor;
  found.title = page.title;
  found.scripts = page.scripts.length;
  const styles = [...page.querySelectorAll("style")].map(s => s.textContent).join("");
  found.pictures = [];
  for (const svg of page.querySelectorAll("svg")) {
    const outer = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")], boxes = texts.map(t => t.getBoundingClientRect());
    const clipped = texts.filter((t, i) => boxes[i].left < outer.left - 1.5 || boxes[i].right > outer.right + 1.5 || boxes[i].top < outer.top - 1.5 ||
      boxes[i].bottom > outer.bottom + 1.5).map(t => t.textContent);
    const over = [];
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
      const wide = Math.min(boxes[i].right, boxes[j].right) - Math.max(boxes[i].left, boxes[j].left);
      const high = Math.min(boxes[i].bottom, boxes[j].bottom) - Math.max(boxes[i].top, boxes[j].top);
      if (wide > 1 && high > 4) over.push([texts[j].textContent, texts[i].textContent]);
    }
    const letters = texts.length ? parseFloat(getComputedStyle(texts[0]).fontSize) * outer.width / svg.viewBox.baseVal.width : 0;
    found.pictures.push({name: svg.querySelector("title").id, width: outer.width, height: outer.height, letters, clipped, over, ...await painted(svg, styles)});
  }
  // what sticks out of the page, and is in no box that scrolls
  found.outside = [...page.body.querySelectorAll("*")].filter(e => !e.closest(".scroll") && e.getBoundingClientRect().right > root.clientWidth + 1)
    .map(e => e.tagName + " " + e.textContent.slice(0, 40));
  return found;
}
addEventListener("load", async () => {
  for (const frame of document.querySelectorAll("iframe")) {
    try { told[frame.name] = await look(frame); } catch (error) { told[frame.name] = {error: String(error) + error.stack}; }
  }
  document.getElementById("found").textContent = JSON.stringify(told);
});
"""
