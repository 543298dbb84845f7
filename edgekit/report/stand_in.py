"""Reports of a bundle that ran on a stand-in for its device.

Accuracy and size are valid. Latency, memory and energy are not, since only the device can show them; they are removed.
"""

from __future__ import annotations

from dataclasses import replace

from edgekit.spec.report import Speed
from edgekit.spec.subject import Subject

__all__ = ["only_size", "without_times"]

_WHY = "a stand-in ran on this CPU in place of the device: measure it there"


def without_times(subject: Subject) -> Subject:
    """Return the measurements of a bundle without times, memory and energy."""
    return replace(
        subject, times=None, start=None, memory_mb=0.0, energy_mj=None, energy_from="", processes=(), probes_ran=""
    )


def only_size(speed: Speed | None) -> Speed | None:
    """Return a latency comparison in which only the size has values; None if there is none."""
    if speed is None:
        return None
    changes = []
    for change in speed.changes:
        if change.metric != "size":
            change = replace(change, before=None, after=None, ratio=None, low=None, high=None, said=_WHY)
        changes.append(change)
    return replace(speed, comparable=False, why_not=_WHY, changes=tuple(changes))
