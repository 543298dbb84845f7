"""OpenVINO as a guest in a process that also has other things to do."""

from __future__ import annotations

import small


def test_ctrl_c_is_still_python_s_after_devices_were_closed():
    """In a process of its own: what this is about ends one. Two cores that went in the order in which they came left a signal stack that was gone."""
    code = """
import os, signal, threading, time
from edgekit import backends
openvino = backends.get("openvino")
first, second = openvino.open_device("cpu", 1), openvino.open_device("cpu", 1)
first.close()
second.close()
del first, second
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
lock = threading.Lock()
lock.acquire()
try:
    lock.acquire()
except KeyboardInterrupt:
    print("interrupted")
"""
    done = small.python(code)
    assert (done.returncode, done.stdout.decode().strip()) == (0, "interrupted"), done.stderr.decode()
