"""A build in a process of its own: seconds and memory of its steps, and the peak of each kind of process that it
starts.

The process that builds tells when a step begins; Linux's record of its peak memory is reset then (``clear_refs``,
proc(5)), so that each step has a peak of its own. Its children are looked at ten times a second.

    python benchmarks/_build.py SPEC.json
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _rounds import environment

HERE = Path(__file__).resolve().parent
_INTERVAL_S = 0.1
_KINDS = {"edgekit.timing": "timing worker", "multiprocessing": "helper", "spawn_main": "helper"}
"""Kind of a child by a part of its command."""


def measured_build(
    spec: Mapping[str, Any], work: Path, more_environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Build as a specification says, and return what it took.

    Args:
        spec: ``model``, ``samples``, ``eval``, ``out``, ``target`` and ``options`` of :func:`edgekit.build`.
        work: Folder for the specification, the log and the build cache, which is removed before the build.
        more_environment: Variables in addition to those of a side.

    Returns:
        ``seconds``; ``largest_mb`` of the largest process, and ``peaks_mb`` by kind of process; ``steps``: seconds,
        peak memory and memory at the beginning of each; ``table``, the candidates; ``bundle_mb``. Or ``error``.
    """
    import shutil

    work.mkdir(parents=True, exist_ok=True)
    cache = work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    file, result, log = work / "spec.json", work / "result.json", work / "build.log"
    result.unlink(missing_ok=True)
    file.write_text(json.dumps(dict(spec), default=str), "utf-8")
    side_environment = environment(2, HERE.parent) | {"EDGEKIT_CACHE": str(cache)} | dict(more_environment or {})
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "_build.py"), str(file), str(result)],
            stdout=output,
            stderr=output,
            env=side_environment,
        )
        peaks = _watch(process)
    shutil.rmtree(cache, ignore_errors=True)
    if process.returncode or not result.is_file():
        return {"error": log.read_text("utf-8", "replace").strip()[-1500:] or f"exit code {process.returncode}"}
    found: dict[str, Any] = json.loads(result.read_text("utf-8"))
    peaks["build"] = max(peaks.get("build", 0.0), *(step["peak_mb"] for step in found["steps"]))
    found["peaks_mb"] = {kind: round(mb) for kind, mb in sorted(peaks.items(), key=lambda item: -item[1])}
    return found | {"largest_mb": max(found["peaks_mb"].values())}


def _watch(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Return the largest peak of each kind of process in MiB, until the process ends."""
    peaks: dict[str, float] = {}
    while process.poll() is None:
        for pid, command in _tree(process.pid):
            kind = (
                "build" if pid == process.pid else next((k for part, k in _KINDS.items() if part in command), "other")
            )
            with contextlib.suppress(OSError, ValueError):
                peaks[kind] = max(peaks.get(kind, 0.0), memory_mb(pid)["VmHWM"])
        time.sleep(_INTERVAL_S)
    return peaks


def _tree(pid: int) -> Iterator[tuple[int, str]]:
    """Yield a process and its descendants, with their command lines."""
    with contextlib.suppress(OSError):
        yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text("utf-8").split():
                yield from _tree(int(child))


def memory_mb(pid: int | str = "self") -> dict[str, float]:
    """Return ``VmHWM`` (peak) and ``VmRSS`` (now) of a process in MiB.

    Raises:
        ValueError: If the process has ended.
    """
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    found = {
        name: int(rest.split()[0]) / 1024 for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest
    }
    if "VmHWM" not in found:
        raise ValueError(f"process {pid} has ended")
    return found


class Steps:
    """Steps of a build: a progress callback.

    Attributes:
        steps: Name, seconds, peak memory and memory at the beginning of each stretch between changes of the step.
    """

    def __init__(self) -> None:
        """Begin with the step ``prepare``."""
        self.steps: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._begin("prepare")

    def __call__(self, step: str, done: int, total: int) -> None:
        """Note a change of the step."""
        with self._lock:
            if step and step != self._name:
                self._end()
                self._begin(step)

    def finish(self) -> list[dict[str, Any]]:
        """Return the stretches, the last one ended."""
        with self._lock:
            self._end()
        return self.steps

    def _begin(self, name: str) -> None:
        self._name = name
        self._start_s = time.perf_counter()
        self._start_mb = memory_mb()["VmRSS"]
        Path("/proc/self/clear_refs").write_text("5")

    def _end(self) -> None:
        seconds = time.perf_counter() - self._start_s
        one = {"step": self._name, "seconds": round(seconds, 2), "peak_mb": round(memory_mb()["VmHWM"], 1)}
        self.steps.append(one | {"start_mb": round(self._start_mb, 1)})
        print(json.dumps(self.steps[-1]), flush=True)  # into the log, so that a long build can be watched


def sum_steps(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line for each name of a step: all its seconds, and its largest peak and growth."""
    sums: dict[str, dict[str, Any]] = {}
    for one in steps:
        line = sums.setdefault(one["step"], {"step": one["step"], "seconds": 0.0, "peak_mb": 0.0, "growth_mb": 0.0})
        line["seconds"] += one["seconds"]
        line["peak_mb"] = max(line["peak_mb"], one["peak_mb"])
        line["growth_mb"] = max(line["growth_mb"], one["peak_mb"] - one["start_mb"])
    return sorted(sums.values(), key=lambda line: -line["seconds"])


def main() -> None:
    """Builds, and writes what it took."""
    import edgekit

    spec = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    options = edgekit.BuildOptions(force=True, **spec.pop("options", {}))
    began = time.perf_counter()
    steps = Steps()
    made = edgekit.build(spec.pop("model"), **spec, options=options, progress=steps)
    found = {"seconds": round(time.perf_counter() - began, 2), "steps": steps.finish()}
    first = made.bundle.manifest.variants[0]
    found |= {
        "variant": f"{first.method} on {first.backend}, {first.threads} threads",
        "linear_macs": first.linear_macs,
    }
    found |= {"table": made.table().splitlines(), "bundle_mb": round(made.bundle.size / 2**20, 2)}
    Path(sys.argv[2]).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
