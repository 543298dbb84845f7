"""CPU load of other processes during a measurement, from the kernel's counters of CPU time (proc_stat(5)).

The load is the busy time of the CPUs that this process may use, less the CPU time of this process and of its children
that have ended. Time that a hypervisor took (steal) is counted separately. In a container the counters are those of the
host for these CPUs, so the load of other containers is included.
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
"""Share of the CPU time, 0 to 1, above which the load of other processes makes a measurement unreliable."""
STOLEN = 0.02
"""Share of the CPU time, 0 to 1, above which the time taken by a hypervisor makes a measurement unreliable."""
OLD_S = 7 * 24 * 3600.0
"""Age in seconds above which times are measured again.

Drivers, frequency governors, other load and even the machine behind a host name change over time."""

_IDLE = (3, 4)  # Fields idle and iowait.
_STEAL = 7
_FIELDS = 8  # The fields after these are guest time, which user time includes already.


@dataclass(frozen=True)
class Busy:
    """Load of the machine during a measurement, besides the measured processes.

    Attributes:
        at: End of the measurement in seconds since 1970.
        seconds: Duration of the measurement.
        others: Share of the CPU time that other processes used, 0 to 1. It is 0 where the system does not report it.
        stolen: Share of the CPU time that a hypervisor took, 0 to 1.
        queue: Load average of the last minute: running and runnable processes, including this one.
    """

    at: float
    seconds: float
    others: float
    stolen: float
    queue: float

    @property
    def loud(self) -> bool:
        """Whether the load makes the measurement unreliable."""
        return self.others > OTHERS or self.stolen > STOLEN

    def text(self) -> str:
        """Return the load as text.

        Example: ``other processes took 61 % of the CPUs' time, the hypervisor 3 % (run queue 4.1)``.
        """
        others = f"other processes took {self.others * 100:.0f} % of the CPUs' time"
        return f"{others}, the hypervisor {self.stolen * 100:.0f} % (run queue {self.queue:.1f})"


def outdated_reason(busy: Busy | None, at: float) -> str:
    """Return why cached times must be measured again, as a clause, or an empty string if they can be used.

    Args:
        busy: Load of the machine during the measurement. None if unknown.
        at: Time of the measurement in seconds since 1970, used if ``busy`` is None.
    """
    age_s = time.time() - (at if busy is None else busy.at)
    if age_s < 0:
        return "their time stamp is in the future"
    if age_s > OLD_S:
        return f"they are {age_s / 86400:.0f} days old"
    if busy is not None and busy.loud:
        return f"{busy.text()} while they were measured"
    return ""


@dataclass(frozen=True)
class _Counters:
    """Counters at one moment.

    Attributes:
        clock_s: Monotonic clock in seconds.
        process_s: CPU seconds of this process and of its children that have ended.
        ticks: Clock ticks of the usable CPUs by kind, ``[field]``. Empty where the system does not report them.
    """

    clock_s: float
    process_s: float
    ticks: list[int]


class Watch:
    """Measurement of the load, from its creation to :meth:`stop`."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        """Read the first counters.

        Args:
            root: Folder of the files ``stat`` and ``loadavg``.
        """
        self._root = root
        self._before = self._read()

    def stop(self) -> Busy:
        """Return the load since the creation.

        Child processes count as other processes until they have ended and been waited for.
        """
        before = self._before
        after = self._read()
        seconds = after.clock_s - before.clock_s
        ticks: list[int] = []
        if len(before.ticks) == len(after.ticks):
            ticks = [b - a for a, b in zip(before.ticks, after.ticks, strict=True)]
        total = sum(ticks)
        if total <= 0:
            return Busy(time.time(), seconds, 0.0, 0.0, self._load_average())
        busy = total - sum(ticks[i] for i in _IDLE) - ticks[_STEAL]
        process = (after.process_s - before.process_s) * os.sysconf("SC_CLK_TCK")
        others = max(0.0, busy - process) / total
        return Busy(time.time(), seconds, others, ticks[_STEAL] / total, self._load_average())

    def _read(self) -> _Counters:
        times = os.times()
        ticks = [0] * _FIELDS
        cpus = usable_cpus()
        with contextlib.suppress(OSError, ValueError):
            for line in (self._root / "stat").read_text("ascii", "replace").splitlines():
                name, *counts = line.split()
                is_cpu = name.startswith("cpu") and name != "cpu" and int(name[3:]) in cpus
                if is_cpu and len(counts) >= _FIELDS:
                    ticks = [a + int(b) for a, b in zip(ticks, counts, strict=False)]
        process_s = times.user + times.system + times.children_user + times.children_system
        return _Counters(time.monotonic(), process_s, ticks if any(ticks) else [])

    def _load_average(self) -> float:
        try:
            return float((self._root / "loadavg").read_text("ascii").split()[0])
        except (OSError, ValueError, IndexError):
            return 0.0
