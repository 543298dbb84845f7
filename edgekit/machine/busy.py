"""How busy a machine was with other things while something was timed: by the kernel's own counts of CPU time (proc_stat(5)).

What the CPUs that this process may use did, less what this process and its children that have ended used of it, is what others used. Time that a hypervisor
took away counts by itself. In a container the counts are the host's for those CPUs: neighbours are seen too.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from edgekit.machine.cpu import usable_cpus

__all__ = ["OLD_S", "OTHERS", "STOLEN", "Busy", "Watch", "outdated_reason"]

OTHERS = 0.10
"""Share of the CPUs' time that others may use while something is timed, before its times are called those of a busy machine."""
STOLEN = 0.02
"""Share that a hypervisor may take."""
OLD_S = 7 * 24 * 3600.0
"""Age from which times are measured anew: drivers, governors, neighbours and the machine under a name change."""

_IDLE = (3, 4)  # idle, iowait
_STEAL = 7
_COUNTED = 8  # what follows is guest time, which user time holds already


@dataclass(frozen=True)
class Busy:
    """What the machine did beside what was timed.

    Attributes:
        at: when it ended, seconds since 1970.
        seconds: how long it took.
        others: share of the CPUs' time that other processes used, 0 to 1; 0 where the system does not tell.
        stolen: share that a hypervisor took away, 0 to 1.
        queue: processes that were running or ready to run in the last minute, on average, this one's own among them.
    """

    at: float
    seconds: float
    others: float
    stolen: float
    queue: float

    @property
    def loud(self) -> bool:
        """Whether it was busy enough to disturb times."""
        return self.others > OTHERS or self.stolen > STOLEN

    def text(self) -> str:
        """E.g. ``other processes took 61 % of the CPUs' time, the hypervisor 3 % (run queue 4.1)``."""
        shares = f"other processes took {self.others * 100:.0f} % of the CPUs' time, the hypervisor {self.stolen * 100:.0f} %"
        return f"{shares} (run queue {self.queue:.1f})"


def outdated_reason(busy: Busy | None, at: float) -> str:
    """Why times are to be measured anew, as the end of a sentence; empty where they serve.

    Args:
        busy: what the machine did while they were taken; None where that is not known.
        at: when that was where ``busy`` does not say, seconds since 1970.
    """
    age = time.time() - (at if busy is None else busy.at)
    if age < 0:
        return "they are of a time that is still to come"
    if age > OLD_S:
        return f"they are {age / 86400:.0f} days old"
    return f"{busy.text()} while they were measured" if busy is not None and busy.loud else ""


class Watch:
    """Counts from its making on."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        """Takes the first counts.

        Args:
            root: where ``stat`` and ``loadavg`` are.
        """
        self._root = root
        self._before = self._counts()

    def stop(self) -> Busy:
        """What the machine did since; children whose time is to be told from that of others must have ended and been waited for."""
        (clock, own, others), (now, mine, all_) = self._before, self._counts()
        ticks = [b - a for a, b in zip(others, all_, strict=True)] if len(others) == len(all_) else []
        total = sum(ticks)
        used = total - sum(ticks[i] for i in _IDLE) - ticks[_STEAL] if total > 0 else 0.0
        share = max(0.0, used - (mine - own) * os.sysconf("SC_CLK_TCK")) / total if total > 0 else 0.0
        stolen = ticks[_STEAL] / total if total > 0 else 0.0
        return Busy(time.time(), now - clock, share, stolen, self._queue())

    def _counts(self) -> tuple[float, float, list[int]]:
        """Seconds of a clock, CPU seconds of this process and its children, and ticks of the CPUs by kind; no ticks where the system does not tell."""
        times, sums = os.times(), [0] * _COUNTED
        cpus = usable_cpus()
        with contextlib.suppress(OSError, ValueError):
            for line in (self._root / "stat").read_text("ascii", "replace").splitlines():
                name, *counts = line.split()
                if name.startswith("cpu") and name != "cpu" and int(name[3:]) in cpus and len(counts) >= _COUNTED:
                    sums = [a + int(b) for a, b in zip(sums, counts, strict=False)]
        return (
            time.monotonic(),
            times.user + times.system + times.children_user + times.children_system,
            sums if any(sums) else [],
        )

    def _queue(self) -> float:
        try:
            return float((self._root / "loadavg").read_text("ascii").split()[0])
        except (OSError, ValueError, IndexError):
            return 0.0
