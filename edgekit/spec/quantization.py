"""Quantization settings of a target: the ``[quantize]`` table of a target file."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.spec.errors import UsageError, near

__all__ = ["RANGES", "Quantization"]

RANGES = ("min_max", "percentile", "entropy", "mse")
"""Methods to choose the range of an activation; ``auto`` tries all on the calibration set."""


@dataclass(frozen=True)
class Quantization:
    """Settings of the quantization methods. ``auto`` chooses on the calibration set, which needs no labels for it.

    Attributes:
        ranges: ``min_max``, ``percentile``, ``entropy``, ``mse``; or ``auto`` for the method whose outputs are nearest
            to those of the float graph.
        smooth: Migration strength of SmoothQuant, ``0`` to ``1``; ``off``; or ``auto`` for the best of several values
            and ``off``.
        keep_float: Names of the layers that stay in float, with the wildcards ``*`` and ``?``.
        embeddings: Storage of embedding tables: ``int8``, ``int4`` (for vocabulary tables; smaller tables use 8 bits)
            or ``float32``.
        weight_bits: 8; 7 if INT8 products saturate (x86 without VNNI); 0 chooses by the target's instructions.
        bias_correction: True to subtract the mean quantization error of each layer from its bias.
        keep_int8: Names of the layers that stay in INT8 where a method stores weights in 4 bits, with the wildcards
            ``*`` and ``?``.
    """

    ranges: str = "auto"
    smooth: str = "auto"
    keep_float: tuple[str, ...] = ()
    embeddings: str = "int8"
    weight_bits: int = 0
    bias_correction: bool = False
    keep_int8: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: If a value is unknown or out of range.
        """
        _check_choice("ranges", self.ranges, ("auto", *RANGES))
        _check_choice("embeddings", self.embeddings, ("int8", "int4", "float32"))
        if self.weight_bits not in (0, 7, 8):
            raise UsageError(
                f"weight_bits is {self.weight_bits}, expected 8, 7, or 0 to choose by the target's instructions.",
                code="target-value",
            )
        if self.smooth not in ("auto", "off") and not 0 <= _number(self.smooth) <= 1:
            raise UsageError(
                f"smooth is '{self.smooth}', expected auto, off, or a number from 0 to 1 in quotes.",
                code="target-value",
            )


def _number(text: str) -> float:
    """Return a text as a number, or -1 if it is none."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def _check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            f"{key} is '{value}'.{near(value, known)} Expected one of: {', '.join(known)}.", code="target-value"
        )
