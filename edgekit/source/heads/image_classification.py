"""Image classification with torch: one label, several labels or numbers of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.runtime.loops import single
from edgekit.source import batches
from edgekit.source.heads import _classes, _losses, _probabilities
from edgekit.source.processors import image
from edgekit.spec.errors import ModelError
from edgekit.spec.head import Shapes, Told, Traced
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays, Input
from edgekit.spec.tensor import Signature, TensorSpec
from edgekit.tasks import image_classification
from edgekit.tasks.image_classification import INPUT, Settings

__all__ = [
    "ALIGNED",
    "ARCHITECTURES",
    "AUTO_CLASS",
    "MODULE_OPTIONS",
    "OPTIONS",
    "PADS",
    "check_outputs",
    "encode",
    "forward",
    "graphs",
    "outputs",
    "prepare",
    "sampled_nll",
    "save",
    "settings",
    "signature",
    "survey",
    "teacher_loss",
    "truth_loss",
    "truth_tensor",
]

AUTO_CLASS = "AutoModelForImageClassification"
ARCHITECTURES = "ForImageClassification"
OPTIONS = _classes.OPTIONS
MODULE_OPTIONS = ("outputs",)
ALIGNED = False
PADS: Mapping[str, float] = {}
forward, truth_tensor = _losses.forward, _losses.truth_tensor
teacher_loss, truth_loss, sampled_nll = _losses.teacher_loss, _losses.truth_loss, _losses.sampled_nll
check_outputs, prepare = _probabilities.check, _probabilities.prepare
_OF_ONE_SIZE = ("beit", "deit", "vit")  # their position embeddings are of the image size in the config


def survey(
    model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, told: Told
) -> tuple[str, tuple[str, ...]]:
    """The problem type, and what should be known of how it was found."""
    kind, notes = _classes.survey(model_id, config, folder, shapes, told)
    _probabilities.check_kind(told.get("outputs"), kind)
    return kind, notes


def settings(model_id: str, module: Any, processor: Any, kind: str) -> Settings:
    """What the runtime must know of the model.

    Raises:
        ModelError: when the image processor is none of the runtime's, or makes images of another size than the module takes.
    """
    pixels, config = image.pixels(model_id, processor), getattr(module, "config", None)
    size = getattr(config, "image_size", None)
    height, width = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size, size)
    if getattr(config, "model_type", "") in _OF_ONE_SIZE and (height, width) != (pixels.height, pixels.width):
        raise ModelError(
            f"The image processor of {model_id} makes images of {pixels.height} x {pixels.width}, and the model takes {height} x {width} (image_size of its "
            "config). Correct the one that is wrong.",
            code="model-image-size",
        )
    return Settings(kind, _classes.label_names(config, model_id), pixels)


def save(settings: Settings, processor: Any, assets: Path) -> None:
    """Writes ``task.json``: the settings are all of the image processor."""
    image_classification.save(settings, assets)


def encode(settings: Settings, processor: Any, inputs: Sequence[Input]) -> list[Arrays]:
    """What the image processor makes of each image: ``pixel_values`` float32 ``[3, height, width]``."""
    return image.encode(processor, inputs)


def signature(settings: Settings) -> Signature:
    """``pixel_values: float32 [batch, 3, height, width]`` in, ``logits: float32 [batch, labels]`` out."""
    pixels, labels = settings.pixels, len(settings.labels)
    takes = TensorSpec(INPUT, "float32", ("batch", 3, pixels.height, pixels.width))
    return Signature(single.SIGNATURES[0], (takes,), (TensorSpec("logits", "float32", ("batch", labels)),))


def graphs(module: Any, settings: Settings, processor: Any) -> Sequence[Traced]:
    """The one graph, with a batch that can vary."""
    import torch

    example = torch.linspace(-1.0, 1.0, 2 * 3 * settings.pixels.height * settings.pixels.width).reshape(
        2, 3, settings.pixels.height, settings.pixels.width
    )
    return [
        Traced(
            signature(settings),
            _losses.exported(module, [INPUT]),
            (example,),
            ({0: torch.export.Dim("batch", min=1, max=2**16)},),
        )
    ]


def outputs(model_id: str, module: Any, settings: Settings, rows: Sequence[Arrays], progress: Progress) -> list[Arrays]:
    """Logits of each row."""
    return batches.reference(forward, module, signature(settings), rows, progress)
