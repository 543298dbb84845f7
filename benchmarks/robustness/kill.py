"""Children that write bundles, killed (SIGKILL) at moments that nobody chose: is a bundle ever lost, and is anything left after the next start?

    python benchmarks/robustness/kill.py --kills 300 --work .work/robustness

A child does one of build's last step (a bundle replaces another), sign, pack and unpack, over and over, and is killed after a random time. Then: what stands
at each place must open (a bundle), or unpack (a file), as the old one or as the new one; the same act is done once more, by a child that is not killed; and
after it no name may be in the folder, or in the bundle, that was not there at first. ``tests/kill.py`` kills at each single step instead.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import bundle, write

_ACTS = ("replace", "sign", "pack", "unpack")
_CHILD = """
import sys
from pathlib import Path
act, place, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
from edgekit.bundle import assemble
from edgekit.bundle.pack import pack, unpack
from edgekit.bundle.trust import open_bundle, sign
source = open_bundle(place / "source")
files = {name: place / "source" / name for name in source.manifest.files}
print("ready", flush=True)
for _ in range(times):
    if act == "replace":
        assemble.write(place / "bundle", source.manifest, files, force=True)
    elif act == "sign":
        sign(place / "bundle", place / "maker")
    elif act == "pack":
        pack(place / "bundle", place / "whole.edge", force=True)
    else:
        unpack(place / "kept.edge", place / "bundle", force=True)
"""


def act(name: str, place: Path, times: int) -> subprocess.Popen[bytes]:
    """A child at work, from the moment when it has imported what it needs."""
    child = subprocess.Popen([sys.executable, "-c", _CHILD, name, str(place), str(times)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def whole(place: Path) -> str:
    """What is not as it must be; empty where the bundle opens and the files unpack."""
    from edgekit.bundle.pack import unpack
    from edgekit.bundle.trust import open_bundle
    from edgekit.spec.errors import EdgekitError

    try:
        open_bundle(place / "bundle")
        with tempfile.TemporaryDirectory() as scratch:
            unpack(place / "whole.edge", Path(scratch) / "out")
    except EdgekitError as problem:
        return str(problem)[:200]
    return ""


def names(place: Path) -> set[str]:
    """All that is there."""
    return {p.relative_to(place).as_posix() for p in place.rglob("*")}


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--work", type=Path, default=Path(".work/robustness"))
    options.add_argument("-o", dest="out", type=Path, help="JSON [default: benchmarks/results/robustness_kill.json]")
    said = options.parse_args()
    path = bundle(said.work.resolve())
    from edgekit.bundle.keys import make_keys
    from edgekit.bundle.pack import pack
    from edgekit.bundle.trust import sign

    place = Path(tempfile.mkdtemp(prefix="kill-", dir=said.work.resolve()))
    os.environ["EDGEKIT_CACHE"] = str(place.parent / "cache")
    for name in ("source", "bundle"):
        shutil.copytree(path, place / name)
    make_keys(place / "maker")
    sign(place / "bundle", place / "maker")
    pack(place / "bundle", place / "whole.edge")
    pack(place / "bundle", place / "kept.edge")
    at_first, rng, counts, faults = names(place), random.Random(said.seed), Counter[str](), []
    began = time.perf_counter()
    for number in range(said.kills):
        name = _ACTS[number % len(_ACTS)]
        child = act(name, place, 10_000)
        time.sleep(rng.random() * rng.choice([0.01, 0.05, 0.2]))
        child.send_signal(signal.SIGKILL)
        counts["killed"] += child.wait() == -signal.SIGKILL
        if wrong := whole(place):
            counts["lost"] += 1
            faults.append({"kill": number, "act": name, "fault": wrong})
            break
        if act(name, place, 1).wait():
            counts["failed"] += 1
            faults.append({"kill": number, "act": name, "fault": "the same act failed after the kill"})
        left = names(place) - at_first
        if left:
            counts["left"] += len(left)
            faults.append({"kill": number, "act": name, "fault": f"left: {sorted(left)[:5]}"})
            at_first |= left
    zero = dict.fromkeys(("killed", "lost", "failed", "left"), 0)
    record = {
        "kills": said.kills,
        "seed": said.seed,
        **zero,
        **counts,
        "seconds": round(time.perf_counter() - began),
        "faults": faults[:50],
    }
    write("robustness_kill", record, said.out)
    shutil.rmtree(place)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
