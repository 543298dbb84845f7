"""What was made before a fork knows in the child that it was, whatever the numbers of the processes are."""

from __future__ import annotations

import pytest
import small

pytestmark = pytest.mark.device


def test_a_child_of_the_same_number():
    code = """
import os
from edgekit.drivers.fork import ForkAware
kept = ForkAware()
os.getpid = lambda: kept.process  # as in another namespace of process numbers
if (child := os.fork()) == 0:
    os._exit(0 if kept.inherited and not ForkAware().inherited else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), kept.inherited)
"""
    assert small.python(code).stdout.split() == [b"0", b"False"]
