"""Reports of a device's bundle that ran on a stand-in: its accuracy and size are judged, nothing that the device alone can tell."""

from __future__ import annotations

from dataclasses import replace

from edgekit.spec.report import Speed
from edgekit.spec.subject import Subject

__all__ = ["only_size", "without_times"]


def without_times(subject: Subject) -> Subject:
    """Return what is reported of a bundle without times, memory and energy."""
    return replace(
        subject, times=None, start=None, memory_mb=0.0, energy_mj=None, energy_from="", processes=(), probes_ran=""
    )


_WHY = "a stand-in ran on this CPU in place of the device: measure it there"


def only_size(judged: Speed | None) -> Speed | None:
    """Return a comparison by the clock in which the size alone is known; None where there is none."""
    if judged is None:
        return None
    changes = []
    for change in judged.changes:
        if change.metric != "size":
            change = replace(change, before=None, after=None, ratio=None, low=None, high=None, said=_WHY)
        changes.append(change)
    return replace(judged, comparable=False, why_not=_WHY, changes=tuple(changes))
