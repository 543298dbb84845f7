"""Shorter measurements in a child process: a test puts this folder in front of ``PYTHONPATH``, see ``measuring.py``.

Python imports this module when it starts. The constants of a module are changed once it is imported, so that a process
which does not measure imports nothing for it.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys

PROCESSES = int(os.environ.get("EDGEKIT_TEST_PROCESSES", "4"))
SETTINGS = {
    "edgekit.timing.interleaved": {"_MAX_BLOCKS": 2, "FEWEST": PROCESSES},
    "edgekit.report.run": {"_PROCESSES": PROCESSES},
}


class ShortMeasurements:
    """Finds the modules with the constants, and changes them after the import."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Return the usual spec, whose loader sets the constants."""
        if name not in SETTINGS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            vars(module).update(SETTINGS[name])

        spec.loader.exec_module = exec_module
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, ShortMeasurements)
