"""To be removed: the name that callers know."""

from edgekit.export.graphs import OPSET, TOLERANCE, export

__all__ = ["OPSET", "TOLERANCE", "export"]
