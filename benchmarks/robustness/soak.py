"""A hundred thousand calls of varied texts, pairs and lists: does the memory of the process stay where it was?

    python benchmarks/robustness/soak.py --calls 100000 --work .work/robustness

Resident memory is read 100 times; the growth is the median of the last tenth of the readings over that of the second tenth (the first warms up).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

from common import bundle, write


def resident_mb() -> float:
    """Resident memory of this process, MiB."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--calls", type=int, default=100_000)
    options.add_argument("--work", type=Path, default=Path(".work/robustness"))
    options.add_argument("--bundle", type=Path, help="another bundle than the small one")
    options.add_argument("-o", dest="out", type=Path, help="JSON [default: benchmarks/results/robustness_soak.json]")
    said = options.parse_args()
    path = said.bundle or bundle(said.work.resolve())
    import small

    import edgekit

    texts, rng, readings, refused = small.texts(500, seed=31), random.Random(0), [], 0
    began = time.perf_counter()
    with edgekit.load(path) as session:
        for call in range(said.calls):
            kind = call % 10
            some: object = rng.choice(texts)
            if kind == 7:
                some = (rng.choice(texts), rng.choice(texts))
            elif kind == 8:
                some = rng.sample(texts, rng.randrange(1, 12))
            elif kind == 9:
                some = None if call % 20 == 9 else "film " * rng.randrange(1000)
            try:
                session(some)
            except edgekit.InputError:
                refused += 1
            if call % max(1, said.calls // 100) == 0:
                readings.append(round(resident_mb(), 1))
        backend = session.info.backend
    tenth = max(1, len(readings) // 10)
    early, late = statistics.median(readings[tenth : 2 * tenth] or readings), statistics.median(readings[-tenth:])
    record = {
        "calls": said.calls,
        "refused": refused,
        "backend": backend,
        "early_mb": early,
        "late_mb": late,
        "growth_mb": round(late - early, 1),
    }
    write(
        "robustness_soak", {**record, "seconds": round(time.perf_counter() - began), "readings_mb": readings}, said.out
    )


if __name__ == "__main__":
    main()
