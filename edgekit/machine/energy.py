"""How much energy a piece of work took, where the machine itself measures that: RAPL of x86 processors, the sensors of a Jetson.

What is in the number, all of it including what the machine draws when idle and what other processes do meanwhile:

* RAPL (Linux, Documentation/power/powercap/powercap.rst; Intel, Software Developer's Manual volume 3, "Platform Specific Power Management
  Support"): the whole processor package: cores, caches, integrated GPU, memory controller. Memory, disks and a graphics card are not. AMD's
  processors tell the same under the same names. Of several processors the sum. ``psys``, the whole platform, contains the packages and is not added.
* INA3221 of a Jetson (Linux, Documentation/hwmon/ina3221.rst; NVIDIA, Jetson Linux Developer Guide, "Software-Based Power Consumption
  Modeling"): the whole module, from the rail ``VDD_IN`` where there is one, else the sum of its rails. The carrier board is not.

A measurement must last for ``Meter.least_s`` at least, or its two ends, which are known to a step of the counter or to a sample, weigh more than 1 %.
At most, a counter of RAPL may turn over once: it holds 2**32 units, which is 11 minutes at 400 W for units of 61 microjoule (Intel), 2.7 minutes
for units of 15.3 (AMD).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgekit.drivers.sysfs import entries, integer, line
from edgekit.spec.errors import UsageError

__all__ = ["Meter", "find_meter", "integral", "measure_per_answer", "unavailable_reason"]

_POWERCAP = "sys/class/powercap"
_SAMPLE_S = 0.01  # a new value of all channels comes every 6.6 ms: 3 channels, bus and shunt, 1.1 ms each (INA3221, default settings)
_TOTAL_RAIL = "VDD_IN"
# NVIDIA's table of rails, AGX Orin: "VDDQ_VDD2_1V8AO power is also included in VIN_SYS_5V0 power".
_PART_OF = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_NOT_CONNECTED = ("", "NC")


class Meter(Protocol):
    """Measures the energy between ``start`` and ``stop``; one measurement at a time, again and again.

    Attributes:
        source: what is measured, e.g. ``RAPL package-0 + package-1`` or ``INA3221 VDD_IN``.
        least_s: how long a measurement must be for its ends to weigh less than 1 %, seconds.
    """

    source: str
    least_s: float

    def start(self) -> None:
        """Begins."""

    def stop(self) -> float | None:
        """Ends, and gives the energy since ``start`` in joules.

        None where it cannot be told: the counter or sensor could not be read, the counter went backwards and its range is not known, the clock
        went backwards, or nothing was counted (the time was too short, or a virtual machine shows a counter that stands still).

        Raises:
            UsageError: when it was not started.
        """


@dataclass(frozen=True)
class _Zone:
    """A processor package: name, counter in microjoules, and where the counter turns over (0: not known)."""

    name: str
    counter: Path
    range_uj: int


@dataclass(frozen=True)
class _Rail:
    """A supply line: name, voltage in millivolts and current in milliamperes."""

    name: str
    voltage: Path
    current: Path

    def watts(self) -> float | None:
        """Now. A current near zero may read as slightly negative."""
        voltage, current = integer(self.voltage), integer(self.current)
        return None if voltage is None or current is None else voltage * current / 1e6


class _Counters:
    """RAPL's counters, which go up by themselves about every millisecond."""

    least_s = 0.2

    def __init__(self, zones: Sequence[_Zone]) -> None:
        self.source = f"RAPL {' + '.join(zone.name for zone in zones)}"
        self._zones = tuple(zones)
        self._before: list[int | None] | None = None

    def start(self) -> None:
        self._before = self._read()

    def stop(self) -> float | None:
        if self._before is None:
            raise _not_started()
        parts = [
            _grown(before, after, zone.range_uj)
            for before, after, zone in zip(self._before, self._read(), self._zones, strict=True)
        ]
        self._before = None
        known = [part for part in parts if part is not None]
        return sum(known) / 1e6 if len(known) == len(parts) and sum(known) > 0 else None

    def _read(self) -> list[int | None]:
        return [integer(zone.counter) for zone in self._zones]


class _Sampled:
    """Power of rails, sampled by a thread every 10 ms and at both ends, integrated over time by the trapezoidal rule.

    The thread's own work, about 2 % of one core, is in the number.
    """

    least_s = 2.0

    def __init__(self, rails: Sequence[_Rail]) -> None:
        self.source = f"INA3221 {' + '.join(rail.name for rail in rails)}"
        self._rails = tuple(rails)
        self._samples: list[tuple[float, float | None]] = []
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._finish()
        self._end = threading.Event()
        self._samples = [self._sample()]
        self._thread = threading.Thread(target=self._run, args=(self._end,), name="edgekit-energy", daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        if self._thread is None:
            raise _not_started()
        self._finish()
        return integral([*self._samples, self._sample()])

    def _finish(self) -> None:
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None

    def _run(self, end: threading.Event) -> None:
        while not end.wait(_SAMPLE_S):
            self._samples.append(self._sample())

    def _sample(self) -> tuple[float, float | None]:
        before = time.perf_counter()
        watts = [rail.watts() for rail in self._rails]
        known = [w for w in watts if w is not None]
        return (before + time.perf_counter()) / 2, sum(known) if len(known) == len(watts) else None


def find_meter(root: Path = Path("/")) -> Meter | None:
    """What measures energy on this machine, or None where nothing does; :func:`unavailable_reason` then tells why.

    Args:
        root: where the kernel's files are.
    """
    zones = _zones(root)
    if zones and all(_counts(zone) for zone in zones):
        return _Counters(zones)
    rails = _summed(_rails(root))
    return _Sampled(rails) if rails and all(rail.watts() is not None for rail in rails) else None


def unavailable_reason(root: Path = Path("/")) -> str:
    """Why there is no meter, and what can be done: a sentence; empty where there is one.

    Args:
        root: where the kernel's files are.
    """
    if find_meter(root) is not None:
        return ""
    if dead := [zone.counter for zone in _zones(root) if not _counts(zone)]:
        return (
            f"RAPL is there, but this user may not read {_said(dead[0], root)}, which since Linux 5.10 only root may: "
            f"run as root, or run: sudo chmod a+r /{_POWERCAP}/intel-rapl:*/energy_uj"
        )
    if rails := [rail for rail in _summed(_rails(root)) if rail.watts() is None]:
        return f"The INA3221 power sensor is there, but {_said(rails[0].current, root)} gives no number: run as root, or restart the board."
    return "This machine does not tell its energy: there is neither RAPL (virtual machines have none) nor a Jetson's INA3221 power sensor."


def measure_per_answer(meter: Meter, work: Callable[[], int]) -> float | None:
    """Energy of one answer in millijoule, or None where the meter cannot tell or nothing was answered.

    Args:
        meter: that measures meanwhile.
        work: does the work, for ``meter.least_s`` seconds at least, and gives the number of answers.
    """
    meter.start()
    try:
        answers = work()
    finally:
        joules = meter.stop()
    return None if joules is None or answers < 1 else joules * 1000 / answers


def integral(samples: Sequence[tuple[float, float | None]]) -> float | None:
    """Energy in joules of power over time, by the trapezoidal rule. A sample without power is bridged by its neighbours.

    Args:
        samples: time in seconds and power in watts, in the order in which they were taken.

    Returns:
        None where the first or the last has no power, where time went backwards or stood still, or where the energy comes out as zero or less.
    """
    known = [(at, watts) for at, watts in samples if watts is not None]
    if len(known) < 2 or samples[0][1] is None or samples[-1][1] is None:
        return None
    steps = [(later[0] - earlier[0], (earlier[1] + later[1]) / 2) for earlier, later in itertools.pairwise(known)]
    total = sum(seconds * watts for seconds, watts in steps)
    return total if all(seconds >= 0 for seconds, _ in steps) and total > 0 else None


def _not_started() -> UsageError:
    return UsageError(
        "The energy meter was stopped, but it was not started. Call start() before the work.", code="energy-not-started"
    )


def _grown(before: int | None, after: int | None, range_uj: int) -> int | None:
    """How far a counter went, which may have turned over once."""
    if before is None or after is None:
        return None
    if after >= before:
        return after - before
    return range_uj - before + after if 0 <= after < before <= range_uj else None


def _counts(zone: _Zone) -> bool:
    counted = integer(zone.counter)
    return counted is not None and counted >= 0


def _zones(root: Path) -> list[_Zone]:
    """The packages. ``intel-rapl-mmio:0`` is the same package over another interface; ``intel-rapl:0:0``, with another name, a part of one."""
    found = []
    for folder in entries(root / _POWERCAP, "intel-rapl:*"):
        name = line(folder / "name")
        if name.startswith("package"):
            found.append(_Zone(name, folder / "energy_uj", max(integer(folder / "max_energy_range_uj") or 0, 0)))
    return found


def _rails(root: Path) -> list[_Rail]:
    """Channels 1 to 3 of each sensor; what it names channel 7 is a sum of voltages."""
    found = []
    for folder in entries(root / "sys/class/hwmon", "hwmon*"):
        if line(folder / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            name = line(folder / f"in{channel}_label")
            if name not in _NOT_CONNECTED and integer(folder / f"in{channel}_enable") != 0:
                found.append(_Rail(name, folder / f"in{channel}_input", folder / f"curr{channel}_input"))
    return found


def _summed(rails: Sequence[_Rail]) -> list[_Rail]:
    """The rail that feeds all others; where there is none, those that are no part of another."""
    names = {rail.name for rail in rails}
    total = [rail for rail in rails if rail.name == _TOTAL_RAIL]
    return total[:1] or [rail for rail in rails if _PART_OF.get(rail.name) not in names]


def _said(file: Path, root: Path) -> str:
    return f"/{file.relative_to(root).as_posix()}"
