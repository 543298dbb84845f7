"""A tensor that stays on the GPU between two engines, or between two calls of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.spec.errors import BackendError

if TYPE_CHECKING:
    from edgekit.backends._trt_device import TensorRtDevice


class Buffer:
    """A tensor that stays on the device: an output that was kept, for an engine of the same device to read. It goes with its last reference.

    Attributes:
        dtype: of its elements.
        shape: sizes of its axes.
    """

    def __init__(self, device: TensorRtDevice, address: int, size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Owns ``size`` bytes at ``address``."""
        self.device, self.address, self.dtype, self.shape = device, address, dtype, shape
        self._size = size

    def numpy(self) -> np.ndarray:
        """A copy of it on the host.

        Raises:
            BackendError: when its device was closed, or CUDA refuses.
        """
        array = np.empty(self.shape, self.dtype)
        stream = self.device.free.get()
        try:
            if self.device.closed:
                raise BackendError("The device of this buffer is closed, and its memory with it. Read buffers before the session is closed.")
            self.device.cuda.enter()
            self.device.cuda.to_host(array.ctypes.data, self.address, array.nbytes, stream)
            self.device.cuda.synchronize(stream)
        finally:
            self.device.free.put(stream)
        return array

    def __del__(self) -> None:
        self.device.take_back(self.address, self._size)
