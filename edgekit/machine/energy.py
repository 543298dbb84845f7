"""Energy of a workload, where the machine measures it: RAPL of x86 processors, or the power sensors of a Jetson.

The result includes idle power and the power of other processes:

* RAPL (Linux, Documentation/power/powercap/powercap.rst; Intel, Software Developer's Manual volume 3, "Platform
  Specific Power Management Support") measures the processor package: cores, caches, integrated GPU and memory
  controller. It does not measure memory, disks or a graphics card. AMD processors report the same under the same names.
  Several processors are added up. The domain ``psys`` (the whole platform) contains the packages and is not added.
* INA3221 of a Jetson (Linux, Documentation/hwmon/ina3221.rst; NVIDIA, Jetson Linux Developer Guide, "Software-Based
  Power Consumption Modeling") measures the module, from the rail ``VDD_IN`` if there is one, else as the sum of its
  rails. It does not measure the carrier board.

A measurement must take at least ``Meter.least_s``. In a shorter one, the uncertainty of its two ends, a step of the
counter or a sample, exceeds 1 %. A RAPL counter may overflow at most once during a measurement. It holds 2**32 units,
which takes 11 minutes at 400 W for units of 61 microjoules (Intel) and 2.7 minutes for units of 15.3 (AMD).
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
_SAMPLE_S = 0.01
"""Seconds between two samples. The sensor has new values of all channels every 6.6 ms: 3 channels, bus and shunt,
1.1 ms each (INA3221, default settings)."""
_TOTAL_RAIL = "VDD_IN"
# NVIDIA's table of rails, AGX Orin: "VDDQ_VDD2_1V8AO power is also included in VIN_SYS_5V0 power".
_PART_OF = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_NOT_CONNECTED = ("", "NC")


class Meter(Protocol):
    """Energy meter for one measurement at a time. It can be used repeatedly.

    Attributes:
        source: Measured domains or rails, e.g. ``RAPL package-0 + package-1`` or ``INA3221 VDD_IN``.
        least_s: Shortest duration in seconds for which the uncertainty of the ends is below 1 %.
    """

    source: str
    least_s: float

    def start(self) -> None:
        """Start a measurement."""

    def stop(self) -> float | None:
        """End the measurement and return the energy since ``start`` in joules.

        The result is None in these cases: the counter or sensor could not be read, the counter went backwards and its
        range is unknown, the clock went backwards, or the counter did not change (because the time was too short, or a
        virtual machine has a counter that stands still).

        Raises:
            UsageError: If no measurement was started.
        """


@dataclass(frozen=True)
class _Zone:
    """A processor package.

    Attributes:
        name: Name of the RAPL domain.
        counter: File of the energy counter in microjoules.
        range_uj: Value at which the counter overflows, in microjoules. 0 if unknown.
    """

    name: str
    counter: Path
    range_uj: int


@dataclass(frozen=True)
class _Rail:
    """A power supply rail.

    Attributes:
        name: Name of the rail.
        voltage: File of the voltage in millivolts.
        current: File of the current in milliamperes.
    """

    name: str
    voltage: Path
    current: Path

    def watts(self) -> float | None:
        """Return the present power in watts. A current near zero may be reported as slightly negative."""
        voltage = integer(self.voltage)
        current = integer(self.current)
        if voltage is None or current is None:
            return None
        return voltage * current / 1e6


class _Counters:
    """Meter for RAPL. The hardware updates its counters about every millisecond."""

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
        after = self._read()
        total_uj = 0
        is_known = True
        for zone, first, last in zip(self._zones, self._before, after, strict=True):
            zone_uj = _counter_increase(first, last, zone.range_uj)
            if zone_uj is None:
                is_known = False
            else:
                total_uj += zone_uj
        self._before = None
        return total_uj / 1e6 if is_known and total_uj > 0 else None

    def _read(self) -> list[int | None]:
        return [integer(zone.counter) for zone in self._zones]


class _Sampler:
    """Meter for the power of rails. A thread samples the power every 10 ms, and the trapezoidal rule integrates it.

    The thread uses about 2 % of one core, which is part of the result.
    """

    least_s = 2.0

    def __init__(self, rails: Sequence[_Rail]) -> None:
        self.source = f"INA3221 {' + '.join(rail.name for rail in rails)}"
        self._rails = tuple(rails)
        self._samples: list[tuple[float, float | None]] = []
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stop_thread()
        self._end = threading.Event()
        self._samples = [self._sample()]
        self._thread = threading.Thread(target=self._run, args=(self._end,), name="edgekit-energy", daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        if self._thread is None:
            raise _not_started()
        self._stop_thread()
        return integral([*self._samples, self._sample()])

    def _stop_thread(self) -> None:
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None

    def _run(self, end: threading.Event) -> None:
        while not end.wait(_SAMPLE_S):
            self._samples.append(self._sample())

    def _sample(self) -> tuple[float, float | None]:
        """Return the time of a sample in seconds and the power of all rails in watts, None if a rail is unreadable."""
        before = time.perf_counter()
        watts = [rail.watts() for rail in self._rails]
        at = (before + time.perf_counter()) / 2
        readable = [w for w in watts if w is not None]
        return at, sum(readable) if len(readable) == len(watts) else None


def find_meter(root: Path = Path("/")) -> Meter | None:
    """Return the energy meter of this machine, or None if there is none (see :func:`unavailable_reason`).

    Args:
        root: Root of the kernel's files.
    """
    zones = _zones(root)
    if zones and all(_is_readable(zone) for zone in zones):
        return _Counters(zones)
    rails = _rails_to_add(_rails(root))
    if rails and all(rail.watts() is not None for rail in rails):
        return _Sampler(rails)
    return None


def unavailable_reason(root: Path = Path("/")) -> str:
    """Return why there is no meter and what to do about it, or an empty string if there is a meter.

    Args:
        root: Root of the kernel's files.
    """
    if find_meter(root) is not None:
        return ""
    if unreadable := [zone.counter for zone in _zones(root) if not _is_readable(zone)]:
        return (
            f"This user may not read the RAPL counter {_display_path(unreadable[0], root)}. "
            "Since Linux 5.10 only root may read it. "
            f"Run as root, or run: sudo chmod a+r /{_POWERCAP}/intel-rapl:*/energy_uj"
        )
    if silent := [rail.current for rail in _rails_to_add(_rails(root)) if rail.watts() is None]:
        return (
            f"{_display_path(silent[0], root)} of the INA3221 power sensor does not contain a number. "
            "Run as root, or restart the board."
        )
    return (
        "This machine does not measure its energy: it has neither RAPL (virtual machines have none) "
        "nor the INA3221 power sensor of a Jetson."
    )


def measure_per_answer(meter: Meter, work: Callable[[], int]) -> float | None:
    """Return the energy per inference in millijoules, or None if the meter has no value or nothing was run.

    Args:
        meter: Meter to measure with.
        work: Function that runs the workload for at least ``meter.least_s`` seconds and returns the number of
            inferences.
    """
    meter.start()
    try:
        count = work()
    finally:
        joules = meter.stop()
    if joules is None or count < 1:
        return None
    return joules * 1000 / count


def integral(samples: Sequence[tuple[float, float | None]]) -> float | None:
    """Return the energy in joules of sampled power, by the trapezoidal rule.

    A sample without power is interpolated from its neighbours.

    Args:
        samples: Time in seconds and power in watts of each sample, in the order of sampling.

    Returns:
        The energy. None if the first or the last sample has no power, if the clock went backwards or stood still, or if
        the energy is not positive.
    """
    usable = [(at, watts) for at, watts in samples if watts is not None]
    if len(usable) < 2 or samples[0][1] is None or samples[-1][1] is None:
        return None
    total = 0.0
    for (start, start_watts), (end, end_watts) in itertools.pairwise(usable):
        if end < start:
            return None
        total += (end - start) * (start_watts + end_watts) / 2
    return total if total > 0 else None


def _not_started() -> UsageError:
    return UsageError(
        "The energy meter was stopped without being started. Call start() before the work.", code="energy-not-started"
    )


def _counter_increase(before: int | None, after: int | None, range_uj: int) -> int | None:
    """Return the increase of a counter that may have overflowed once, or None if it is unknown."""
    if before is None or after is None:
        return None
    if after >= before:
        return after - before
    if 0 <= after < before <= range_uj:
        return range_uj - before + after
    return None


def _is_readable(zone: _Zone) -> bool:
    value = integer(zone.counter)
    return value is not None and value >= 0


def _zones(root: Path) -> list[_Zone]:
    """Return the processor packages.

    ``intel-rapl-mmio:0`` is the same package over another interface. ``intel-rapl:0:0``, with another name, is a part
    of a package.
    """
    zones = []
    for folder in entries(root / _POWERCAP, "intel-rapl:*"):
        name = line(folder / "name")
        if name.startswith("package"):
            range_uj = max(integer(folder / "max_energy_range_uj") or 0, 0)
            zones.append(_Zone(name, folder / "energy_uj", range_uj))
    return zones


def _rails(root: Path) -> list[_Rail]:
    """Return channels 1 to 3 of each sensor. The entry that a sensor calls channel 7 is a sum of voltages."""
    rails = []
    for folder in entries(root / "sys/class/hwmon", "hwmon*"):
        if line(folder / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            name = line(folder / f"in{channel}_label")
            if name not in _NOT_CONNECTED and integer(folder / f"in{channel}_enable") != 0:
                rails.append(_Rail(name, folder / f"in{channel}_input", folder / f"curr{channel}_input"))
    return rails


def _rails_to_add(rails: Sequence[_Rail]) -> list[_Rail]:
    """Return the rail that feeds all others, or, if there is none, the rails that are not part of another rail."""
    for rail in rails:
        if rail.name == _TOTAL_RAIL:
            return [rail]
    names = {rail.name for rail in rails}
    return [rail for rail in rails if _PART_OF.get(rail.name) not in names]


def _display_path(file: Path, root: Path) -> str:
    """Return the path of a file as it is on the measured machine."""
    return f"/{file.relative_to(root).as_posix()}"
