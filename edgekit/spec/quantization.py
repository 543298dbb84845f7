"""How a target's graphs are quantized: the ``[quantize]`` table of a target file."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.spec.errors import UsageError, near

__all__ = ["RANGES", "Quantization"]

RANGES = ("min_max", "percentile", "entropy", "mse")
"""Ways to choose an activation's range; ``auto`` tries them all on the calibration set."""


@dataclass(frozen=True)
class Quantization:
    """What the methods are told. Where a value is ``auto``, the calibration set decides; labels are not needed for that.

    Attributes:
        ranges: ``min_max``, ``percentile``, ``entropy``, ``mse``, or ``auto``: the one whose outputs are nearest to the float graph's.
        smooth: strength of SmoothQuant's folding, ``0`` to ``1``, ``off``, or ``auto``: the best of several, ``off`` among them.
        keep_float: layers that stay in float, by name; ``*`` and ``?`` stand for any characters, as in file names.
        embeddings: ``int8``, ``int4`` (tables of a vocabulary; smaller ones in 8 bits) or ``float32``: how embedding tables are stored.
        weight_bits: 8; 7 where INT8 products saturate (x86 without VNNI); 0 leaves that to the instructions of the target.
        bias_correction: take the mean error that quantization leaves in each layer out of its bias.
    """

    ranges: str = "auto"
    smooth: str = "auto"
    keep_float: tuple[str, ...] = ()
    embeddings: str = "int8"
    weight_bits: int = 0
    bias_correction: bool = False

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            UsageError: for a value that is none of the known ones.
        """
        _one_of("ranges", self.ranges, ("auto", *RANGES))
        _one_of("embeddings", self.embeddings, ("int8", "int4", "float32"))
        if self.weight_bits not in (0, 7, 8):
            raise UsageError(
                f"weight_bits is {self.weight_bits}, expected 8, 7, or 0 for what the target's instructions need.",
                code="target-value",
            )
        if self.smooth not in ("auto", "off") and not 0 <= _number(self.smooth) <= 1:
            raise UsageError(
                f"smooth is '{self.smooth}', expected auto, off, or a number from 0 to 1 in quotes.",
                code="target-value",
            )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            f"{key} is '{value}'.{near(value, known)} Expected one of: {', '.join(known)}.", code="target-value"
        )
