"""Short measurements, for tests of what is done with times: how well they are measured is tested in ``tests/timing``."""

from __future__ import annotations

import contextlib

import pytest

from edgekit.report import run
from edgekit.stats.interval import FEWEST
from edgekit.timing import interleaved


@contextlib.contextmanager
def measurements(processes: int = FEWEST):
    """Within it, a process is warmed up by two calls and times a few blocks.

    Args:
        processes: Processes of a bundle that is timed alone. Fewer than ``FEWEST`` give no interval.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interleaved, "_MEASURE_S", 0.0)
        patch.setattr(interleaved, "_WARM_UP_S", 0.0)
        patch.setattr(interleaved, "_MAX_BLOCKS", 3)
        patch.setattr(run, "_PROCESSES", processes)
        yield
