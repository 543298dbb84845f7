"""Infer requests of a compiled OpenVINO model: one for each concurrent call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.backends import Feeds

__all__ = ["Requests"]


class Requests:
    """A compiled model with its idle infer requests, which are created on demand.

    A request holds inputs and outputs only; intermediate values belong to the stream that the request runs on.

    Attributes:
        compiled: ``openvino.CompiledModel``.
    """

    def __init__(self, compiled: Any) -> None:
        """Start without a request."""
        self.compiled = compiled
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def infer(self, feeds: Feeds, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the model on a request that no other thread uses.

        Args:
            feeds: Arrays by input name. Axes of one name have one size.
            outputs: Names of the outputs to return.

        Raises:
            RuntimeError: OpenVINO failed.
        """
        with self._lock:
            request = self._idle.pop() if self._idle else self.compiled.create_infer_request()
        try:
            result = request.infer(feeds, share_inputs=True)
            return {name: result[name] for name in outputs}
        finally:
            with self._lock:
                self._idle.append(request)
