"""Where the sides of a comparison run: interpreters, bundles, models of peers; their processes and first answers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _rounds import Side, environment

HERE = Path(__file__).resolve().parent
BUNDLE = "edgekit"
PROGRAM = """import sys
import edgekit
answer = edgekit.load(sys.argv[1])(sys.argv[2])
print(answer.label if hasattr(answer, "label") else answer.entities, flush=True)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0], flush=True)
"""
"""What a user of a bundle has to write, and the peak memory after it."""


@dataclass(frozen=True)
class Place:
    """Where a side runs.

    Attributes:
        python: Interpreter of its environment.
        side: Name of the side in ``peer.py``.
        task: ``texts``, ``images`` or ``words``.
        model: Bundle, or the model of a peer.
        path: Folder that is added to the module path.
        work: Folder of the peer's artifact.
        calibration: File of rows that a peer's ranges are taken from.
    """

    python: Path
    side: str
    task: str
    model: Path
    path: Path | None = None
    work: Path | None = None
    calibration: Path | None = None

    @property
    def is_bundle(self) -> bool:
        """Whether a bundle runs here, not a peer."""
        return self.side == BUNDLE

    def command(self, *more: str) -> list[str]:
        """Return the command that serves this side."""
        command = [str(self.python), str(HERE / "peer.py"), self.side, self.task, str(self.model)]
        for option, value in (("--work", self.work), ("--calib", self.calibration)):
            if value is not None:
                command += [option, str(value)]
        return [*command, *more]


@contextlib.contextmanager
def opened(name: str, place: Place, logs: Path, *more: str) -> Iterator[Side]:
    """Make a peer's artifact where it is not there, and run a side."""
    make_artifact(name, place)
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name.replace(' ', '_').replace('/', '_')}.log"
    side = Side(name, place.command(*more), environment(2, place.path), log)
    try:
        yield side
    finally:
        side.close()


def make_artifact(name: str, place: Place) -> None:
    """Make a peer's artifact where it is not there.

    Raises:
        SystemExit: If the peer cannot make it.
    """
    if place.is_bundle:
        return
    command = place.command("--make")
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(2, place.path), cwd="/")
    if made.returncode:
        raise SystemExit(f"{name} cannot be made:\n{made.stderr[-3000:]}")


def first_answer(place: Place, value: str) -> tuple[float, float]:
    """Return the milliseconds from the start of a process to its answer, and its peak memory until then in MiB.

    Raises:
        SystemExit: If the process ends before its answer.
    """
    command = place.command("--first", value)
    if place.is_bundle:
        command = [str(place.python), "-c", PROGRAM, str(place.model), value]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(2, place.path), cwd="/", text=True
    ) as process:
        assert process.stdout is not None
        answer = process.stdout.readline()
        ms = (time.perf_counter() - began) * 1e3
        memory = process.stdout.readline().strip()
    if not answer or not memory:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode} before its first answer")
    mb = float(memory) / 1024 if place.is_bundle else float(json.loads(memory)["peak_mb"])
    return ms, mb


def machine() -> dict[str, Any]:
    """Return where it runs, and how busy it is."""
    from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus

    found: dict[str, Any] = {"cpu": cpu_name(), "cpus": cpus(), "instructions": cpu_instructions()}
    return found | {"date": time.strftime("%Y-%m-%d"), "load": [round(load, 2) for load in os.getloadavg()]}


def report(part: str) -> Any:
    """Return a function that prints how far a part is, some twenty times."""

    def shown(done: int, total: int) -> None:
        if done == total or done % max(1, total // 20) == 0:
            print(f"{part}: round {done} of {total}", flush=True)

    return shown
