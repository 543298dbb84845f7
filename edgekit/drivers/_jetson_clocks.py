"""Clocks of the processors of a Jetson, from the kernel's frequency files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.drivers import sysfs


@dataclass(frozen=True)
class Clock:
    """Clock of a processor.

    Attributes:
        current_mhz: Current frequency, MHz; an idle GPU slows down.
        maximum_mhz: Maximum frequency in this power mode, MHz.
        governor: Frequency governor.
        locked: True if the clock is always at its maximum, as ``jetson_clocks`` sets it.
    """

    current_mhz: int
    maximum_mhz: int
    governor: str
    locked: bool


def gpu_clock(root: Path) -> Clock | None:
    """Return the clock of the GPU.

    The device is ``17000000.gpu`` (Orin; ``.ga10b`` with JetPack 5), ``17000000.gv11b`` (Xavier) or ``gpu-gpc-0``
    (Thor). Frequencies are in Hz.
    """
    folders = []
    for pattern in ("*.gpu", "*.ga10b", "*.gv11b", "gpu-gpc-*", "*gpu*"):
        folders += sysfs.entries(root / "sys/class/devfreq", pattern)
    return _read_clock(folders[:1], "cur_freq", "min_freq", "max_freq", "governor", 10**6)


def cpu_clock(root: Path) -> Clock | None:
    """Return the clock of all CPU clusters that are on in this power mode. Frequencies are in kHz."""
    folders = sysfs.entries(root / "sys/devices/system/cpu/cpufreq", "policy*")
    return _read_clock(folders, "scaling_cur_freq", "scaling_min_freq", "scaling_max_freq", "scaling_governor", 10**3)


def _read_clock(folders: list[Path], current: str, low: str, high: str, governor: str, unit: int) -> Clock | None:
    """Return the clock from frequency files; None if no folder has a maximum frequency.

    Args:
        folders: Folder of each clock domain.
        current: File name of the current frequency.
        low: File name of the lower limit.
        high: File name of the upper limit.
        governor: File name of the governor.
        unit: Frequency unit of 1 MHz in the files.
    """
    current_frequencies = []
    high_frequencies = []
    governors = []
    locked = True
    for folder in folders:
        high_frequency = sysfs.integer(folder / high) or 0
        if high_frequency <= 0:
            continue
        low_frequency = sysfs.integer(folder / low) or 0
        governor_name = sysfs.text(folder / governor)
        current_frequencies.append(sysfs.integer(folder / current) or 0)
        high_frequencies.append(high_frequency)
        if governor_name:
            governors.append(governor_name)
        # jetson_clocks raises the lower limit to the upper one.
        locked = locked and (low_frequency >= high_frequency or governor_name == "performance")
    if not high_frequencies:
        return None
    return Clock(
        current_mhz=max(current_frequencies) // unit,
        maximum_mhz=max(high_frequencies) // unit,
        governor=", ".join(dict.fromkeys(governors)),
        locked=locked,
    )
