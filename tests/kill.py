"""Writes bundles in children that are killed (SIGKILL) before each step that changes a disk, and looks at what they leave.

    python kill.py SCRATCH WHAT ...

prints one JSON object for each WHAT, e.g. ``replace`` or ``replace two-steps``: how many children were killed, what was lost, and what was
left after the next start. A child is killed at the n-th
of Python's audit events for such steps, at the n-th fsync, and around the exchange of two names; with ``two-steps`` there is no such call.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from edgekit.bundle import assemble, place, trust
from edgekit.bundle.keys import make_keys
from edgekit.bundle.pack import pack, unpack
from edgekit.bundle.signature import FILE
from edgekit.spec.errors import EdgekitError
from edgekit.spec.manifest import Manifest, Variant
from edgekit.spec.tensor import Signature

_STEPS = {
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.link",
    "fcntl.flock",
    "shutil.rmtree",
    "tempfile.mkdtemp",
    "tempfile.mkstemp",
}
BLANK = Manifest(
    format=1,
    task="text-classification",
    loop="single",
    max_batch=1,
    signatures=(Signature("forward", (), ()),),
    variants=(Variant("onnxruntime", "float32", {"forward": "graphs/m.onnx"}, "cpu", 1, "float32"),),
    files={},
    target="t",
    reason="",
    score_name="accuracy",
    reference_score=1.0,
    trials=(),
)


def files(mark: bytes) -> dict[str, bytes]:
    return {"graphs/m.onnx": b"\x12\x04" + mark, "assets/a.json": b"{}", "golden.npz": mark}


def killed_at(step: int, action) -> bool:
    """Whether a child was killed before so many steps were done; False: it came to its end before."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            return True
        if os.waitstatus_to_exitcode(status):
            raise SystemExit("a child that was not killed failed")
        return False
    left = [step]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function):
        def counted(*arguments):
            count()
            result = function(*arguments)
            count()
            return result

        return counted

    def audit(event, arguments):
        if event in _STEPS or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            count()

    os.fsync, place._exchange = around(os.fsync), around(place._exchange)
    sys.addaudithook(audit)
    try:
        action()
    except BaseException:
        os._exit(1)
    os._exit(0)


def main(what: str, scratch: Path) -> dict[str, object]:
    out, key = scratch / "out", scratch.parent / "key"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    old, new = b"old!", b"new!"
    public = make_keys(key) if not key.exists() else key.with_suffix(".pub")
    source = assemble.write(scratch.parent / "source", BLANK, files(new), force=True).path
    packed = pack(source, scratch.parent / "source.edge", force=True)
    first = {
        "new": lambda: None,
        "sign": lambda: assemble.write(out, BLANK, files(old), force=True),
        "pack": lambda: pack(assemble.write(scratch / "bundle", BLANK, files(old), force=True).path, out, force=True),
    }.get(what, lambda: assemble.write(out, BLANK, files(old), force=True))
    action = {
        "new": lambda: assemble.write(out, BLANK, files(new)),
        "replace": lambda: assemble.write(out, BLANK, files(new), force=True),
        "unpack": lambda: unpack(packed, out, force=True),
        "sign": lambda: trust.sign(out, key),
        "pack": lambda: pack(source, out, force=True),
    }[what]
    lost, left, killed = [], [], 0
    while True:
        for name in os.listdir(scratch):
            path = scratch / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        first()
        if not killed_at(killed + 1, action):
            break
        killed += 1
        try:  # the next start
            seen = (unpack(out, scratch / "opened") if what == "pack" else trust.open_bundle(out)).path
            mark = (seen / "golden.npz").read_bytes()
            assert mark in (old, new) and (
                what != "sign" or not (out / FILE).exists() or trust.open_bundle(out, trust.Trust([public]))
            )
            shutil.rmtree(scratch / "opened", ignore_errors=True)
        except (EdgekitError, AssertionError, OSError) as problem:
            if what != "new" or out.exists():
                lost.append(f"step {killed}: {problem!r}")
        shutil.rmtree(scratch / "bundle", ignore_errors=True)
        if what == "new" and out.exists():
            trust.sign(out, key)
        else:
            action()
        if names := sorted(set(os.listdir(scratch)) - {"out"}):
            left.append(f"step {killed}: {names}")
    return {"killed": killed, "lost": lost, "left": left}


if __name__ == "__main__":
    exchange = place._exchange
    results = {}
    for name in sys.argv[2:]:
        what, _, steps = name.partition(" ")
        place._exchange = (lambda one, other: False) if steps == "two-steps" else exchange
        results[name] = main(what, Path(sys.argv[1]))
    print(json.dumps(results))
