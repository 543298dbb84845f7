"""A board that is not there: this machine poses as a Jetson (or another NVIDIA machine) with TensorRT, as far as EdgeKit can tell.

The driver is :class:`fake_cuda.FakeDriver`, the library :mod:`fake_tensorrt`, which computes the graphs of engines on the CPU.
"""

from __future__ import annotations

import importlib.metadata

import fake_tensorrt
from fake_cuda import FakeDriver

from edgekit.backends import _trt, _trt_device, _trt_gpu, tensorrt, tensorrt_rtx
from edgekit.drivers.cuda import Cuda


class Board:
    """What the machine has.

    Attributes:
        driver: the driver.
        trt: the module ``tensorrt``.
        fake: its knobs.
        devices: those that were opened.
    """

    def __init__(self, monkeypatch, version="10.3.0", driver=None, rtx=False, **knobs):
        self.driver = driver or FakeDriver.jetson()
        self.trt = fake_tensorrt.make(version, self.driver, **knobs)
        self.fake = fake_tensorrt.fake(self.trt)
        real = importlib.metadata.version
        name = tensorrt_rtx.PACKAGES[0] if rtx else "tensorrt"

        def found(package):
            return self.trt.__version__ if package == name else real(package)

        monkeypatch.setattr(importlib.metadata, "version", found)
        monkeypatch.setattr(_trt_device, "probe", lambda: None)
        monkeypatch.setattr(_trt_gpu, "Cuda", lambda: Cuda(library=self.driver))
        monkeypatch.setattr(tensorrt_rtx if rtx else tensorrt, "library", lambda: self.trt)
        # The one logger of a process belongs to the library that it was made for.
        monkeypatch.setattr(_trt, "_loggers", {})

    def leaks(self):
        """What is still allocated, and engines and contexts that are alive."""
        alive = {"engines": self.fake.engines, "contexts": self.fake.contexts}
        return [
            *self.driver.leaks(),
            *self.driver.misuse,
            *(f"{count} {kind}" for kind, count in alive.items() if count),
        ]
