"""Steps that run on the device.

This file is sent as text and run by ``python -c``. It needs Python 3.6 or newer and only the standard library. A step
is called by name and writes one JSON object after ``MARK``; output of a shell's start-up files comes before it. A step
that fails writes nothing: its exception is the message.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time

MARK = "edgekit-says:"
COPY = "edgekit-copy-"
ABANDONED_S = 86400  # age of a copy that was not removed because the connection was lost
AGAIN_S = 10.0  # time that a verb has to clean up and end before it is asked again


def say(**values: object) -> None:
    """Write the result of a step."""
    sys.stdout.write(MARK + json.dumps(values, allow_nan=False))


def state(path: str) -> str:
    """Return what is at a path: ``free``, ``bundle`` or ``other``.

    ``free`` is nothing or an empty folder, ``bundle`` is a folder whose manifest lists all its files.
    """
    if not os.path.lexists(path):
        return "free"
    if os.path.islink(path) or not os.path.isdir(path):
        return "other"
    if not os.listdir(path):
        return "free"
    names: set[str] = set()  # annotations in a function are not evaluated, so Python 3.6 runs this
    for root, folders, files in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        names.update(os.path.relpath(os.path.join(root, name), path) for name in files + links)
    try:
        with open(os.path.join(path, "manifest.json"), encoding="utf-8") as stream:
            listed = set(json.load(stream)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "other"
    return "bundle" if names - {"manifest.json", "model.sig"} <= listed else "other"


def sha256(path: str) -> str:
    """Return the sha256 of a file in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for part in iter(lambda: stream.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def ask(place: str) -> None:
    """Report the versions of Python and EdgeKit, and what is at the path."""
    path = os.path.abspath(os.path.expanduser(place))
    started = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "--version"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = (part.decode("utf-8", "replace").strip() for part in started.communicate())
    kind = state(path)
    manifest = {}
    digest = ""
    if kind == "bundle":
        file = os.path.join(path, "manifest.json")
        with open(file, encoding="utf-8") as stream:
            manifest = json.load(stream)
        digest = sha256(file)
    say(
        path=path,
        state=kind,
        name=manifest.get("name", ""),
        version=manifest.get("version", ""),
        manifest=digest,
        python=platform.python_version(),
        system=" ".join([platform.system(), platform.release(), platform.machine()]),
        edgekit=out if started.returncode == 0 else "",
        complaint=err,
    )


def prepare(path: str, token: str, needed: str) -> None:
    """Make a private folder beside the path for the copy, if the disk has the bytes that are needed.

    Before OpenSSH 9 the shell of the device reads the path of scp, later it does not. So scp gets a link whose path
    needs no quoting.
    """
    parent = os.path.dirname(path)
    os.makedirs(parent, exist_ok=True)
    for name in os.listdir(parent):
        old = os.path.join(parent, name)
        if name.startswith("." + COPY) and time.time() - os.lstat(old).st_mtime > ABANDONED_S:
            shutil.rmtree(old, ignore_errors=True)
    free = shutil.disk_usage(parent).free
    stage = os.path.join(parent, "." + COPY + token)
    door = os.path.join(tempfile.gettempdir(), COPY + token)
    if free >= int(needed):
        os.mkdir(stage, 0o700)
        os.mkdir(door, 0o700)
        os.symlink(stage, os.path.join(door, "to"))
    say(stage=stage, door=os.path.join(door, "to"), free=free)


def receive(place: str, name: str) -> None:
    """Write standard input to a file, for an ssh server without SFTP."""
    with open(os.path.join(place, name), "wb") as sink:
        shutil.copyfileobj(sys.stdin.buffer, sink)
    say()


def fetch(file: str) -> None:
    """Write the text of a file as the result."""
    with open(file, encoding="utf-8") as stream:
        say(text=stream.read())


def digests(stage: str, *names: str) -> None:
    """Report the digests of copied files."""
    say(**{name: sha256(os.path.join(stage, name)) for name in names})


def clean(path: str, token: str) -> None:
    """Remove all that ``prepare`` made, also if its result never arrived."""
    for left in (
        os.path.join(tempfile.gettempdir(), COPY + token),
        os.path.join(os.path.dirname(path), "." + COPY + token),
    ):
        shutil.rmtree(left, ignore_errors=True)
    say()


def verb(*arguments: str) -> None:
    """Run ``edgekit``, and end it when the connection ends, so that it removes unfinished output.

    The ssh server alone does not end it.
    """
    sys.stdout.write(MARK)
    sys.stdout.flush()
    started = subprocess.Popen([sys.executable, "-m", "edgekit", *arguments], stdin=subprocess.DEVNULL)

    def watch() -> None:
        while os.read(0, 1):
            pass
        # The exception that the signal raises there can be lost, e.g. in an import with a fallback.
        while started.poll() is None:
            started.terminate()
            time.sleep(AGAIN_S)

    threading.Thread(target=watch, daemon=True).start()
    code = started.wait()
    raise SystemExit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
