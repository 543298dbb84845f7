"""What Python does on the device. This file is sent there as text and run with ``-c``: any Python from 3.6 on, nothing but its own library.

Each step is given by name and writes one JSON object; what a shell's start-up files print comes before ``MARK``. No output is
needed of a step that fails: what it raises is the message.
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
ABANDONED_S = 86400  # a copy that was not removed when it ended, because the connection was lost


def say(**found: object) -> None:
    """The answer of a step."""
    sys.stdout.write(MARK + json.dumps(found, allow_nan=False))


def state(path: str) -> str:
    """``free`` for nothing or an empty folder, ``bundle`` for one whose manifest lists all that is in it, else ``other``."""
    if not os.path.lexists(path):
        return "free"
    if os.path.islink(path) or not os.path.isdir(path):
        return "other"
    if not os.listdir(path):
        return "free"
    found: set[str] = set()  # in a function this is not evaluated: Python 3.6 runs it
    for root, folders, files in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found.update(os.path.relpath(os.path.join(root, name), path) for name in files + links)
    try:
        with open(os.path.join(path, "manifest.json"), encoding="utf-8") as stream:
            listed = set(json.load(stream)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "other"
    return "bundle" if found - {"manifest.json", "model.sig"} <= listed else "other"


def sha256(path: str) -> str:
    """Digest of a file in hex."""
    made = hashlib.sha256()
    with open(path, "rb") as stream:
        for part in iter(lambda: stream.read(1 << 20), b""):
            made.update(part)
    return made.hexdigest()


def ask(wanted: str) -> None:
    """What there is: Python, EdgeKit as the command line gives its version, and what is at the path."""
    path = os.path.abspath(os.path.expanduser(wanted))
    started = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "--version"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = (part.decode("utf-8", "replace").strip() for part in started.communicate())
    found = state(path)
    named = {}
    if found == "bundle":
        with open(os.path.join(path, "manifest.json"), encoding="utf-8") as stream:
            named = json.load(stream)
    say(
        path=path,
        state=found,
        name=named.get("name", ""),
        version=named.get("version", ""),
        manifest=sha256(os.path.join(path, "manifest.json")) if found == "bundle" else "",
        python=platform.python_version(),
        system=" ".join([platform.system(), platform.release(), platform.machine()]),
        edgekit=out if started.returncode == 0 else "",
        complaint=err,
    )


def prepare(path: str, token: str, needed: str) -> None:
    """Makes a folder beside the path, for the copy, if the disk has so many bytes.

    Before OpenSSH 9, scp has its path read by the device's shell; later it has not. So it gets one that needs no quoting: through a link.
    """
    parent = os.path.dirname(path)
    os.makedirs(parent, exist_ok=True)
    for name in os.listdir(parent):
        old = os.path.join(parent, name)
        if name.startswith("." + COPY) and time.time() - os.lstat(old).st_mtime > ABANDONED_S:
            shutil.rmtree(old, ignore_errors=True)
    free = shutil.disk_usage(parent).free
    stage, door = os.path.join(parent, "." + COPY + token), os.path.join(tempfile.gettempdir(), COPY + token)
    if free >= int(needed):
        os.mkdir(stage, 0o700)
        os.mkdir(door, 0o700)
        os.symlink(stage, os.path.join(door, "to"))
    say(stage=stage, door=os.path.join(door, "to"), free=free)


def receive(place: str, name: str) -> None:
    """Writes standard input into a file: how files come where the ssh server has no SFTP."""
    with open(os.path.join(place, name), "wb") as sink:
        shutil.copyfileobj(sys.stdin.buffer, sink)
    say()


def fetch(file: str) -> None:
    """Sends the text of a file."""
    with open(file, encoding="utf-8") as stream:
        say(text=stream.read())


def digests(stage: str, *names: str) -> None:
    """Of what was copied."""
    say(**{name: sha256(os.path.join(stage, name)) for name in names})


def clean(path: str, token: str) -> None:
    """Removes all that ``prepare`` has made, also where its answer never came back."""
    for left in (
        os.path.join(tempfile.gettempdir(), COPY + token),
        os.path.join(os.path.dirname(path), "." + COPY + token),
    ):
        shutil.rmtree(left, ignore_errors=True)
    say()


def verb(*arguments: str) -> None:
    """Runs ``edgekit``. It is ended, and removes what it has begun, when the connection ends: sshd alone tells it nothing."""
    sys.stdout.write(MARK)
    sys.stdout.flush()
    started = subprocess.Popen([sys.executable, "-m", "edgekit", *arguments], stdin=subprocess.DEVNULL)

    def watch() -> None:
        while os.read(0, 1):
            pass
        started.terminate()

    threading.Thread(target=watch, daemon=True).start()
    code = started.wait()
    raise SystemExit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
