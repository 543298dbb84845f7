"""The head of image classification: one label, several labels or numbers for an image."""

from __future__ import annotations

import math
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
forward = _losses.forward
truth_tensor = _losses.truth_tensor
teacher_loss = _losses.teacher_loss
truth_loss = _losses.truth_loss
sampled_nll = _losses.sampled_nll
check_outputs = _probabilities.check
prepare = _probabilities.prepare
# Model types whose position embeddings fix the image size in the config.
_OF_ONE_SIZE = ("beit", "deit", "vit")


def survey(
    model_id: str, config: Mapping[str, Any], folder: Path | None, shapes: Shapes, options: Told
) -> tuple[str, tuple[str, ...]]:
    """Return the problem type, and notes about how it was determined."""
    kind, notes = _classes.survey(model_id, config, folder, shapes, options)
    _probabilities.check_kind(options.get("outputs"), kind)
    return kind, notes


def settings(model_id: str, module: Any, processor: Any, kind: str) -> Settings:
    """Return the settings of the task for a model.

    Raises:
        ModelError: If the runtime does not support the image processor, or its image size is not the module's.
    """
    pixels = image.pixels(model_id, processor)
    config = getattr(module, "config", None)
    size = getattr(config, "image_size", None)
    height, width = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size, size)
    if getattr(config, "model_type", "") in _OF_ONE_SIZE and (height, width) != (pixels.height, pixels.width):
        raise ModelError(
            f"The image processor of {model_id} makes images of {pixels.height} x {pixels.width}, but the model "
            f"expects {height} x {width} (image_size of its config). Correct the wrong one.",
            code="model-image-size",
        )
    return Settings(kind, _classes.label_names(config, model_id), pixels)


def save(settings: Settings, processor: Any, assets: Path) -> None:
    """Write ``task.json``, which contains everything of the image processor."""
    image_classification.save(settings, assets)


def encode(settings: Settings, processor: Any, inputs: Sequence[Input]) -> list[Arrays]:
    """Return the ``pixel_values`` of each image by the image processor: float32 ``[3, height, width]``."""
    return image.encode(processor, inputs)


def signature(settings: Settings) -> Signature:
    """Return the signature: ``pixel_values [batch, 3, height, width]`` to ``logits [batch, labels]``, both float32."""
    pixels = settings.pixels
    input_spec = TensorSpec(INPUT, "float32", ("batch", 3, pixels.height, pixels.width))
    output_spec = TensorSpec("logits", "float32", ("batch", len(settings.labels)))
    return Signature(single.SIGNATURES[0], (input_spec,), (output_spec,))


def graphs(module: Any, settings: Settings, processor: Any) -> Sequence[Traced]:
    """Return the single graph, with a dynamic batch axis."""
    import torch

    shape = (2, 3, settings.pixels.height, settings.pixels.width)
    example = torch.linspace(-1.0, 1.0, math.prod(shape)).reshape(shape)
    batch = torch.export.Dim("batch", min=1, max=2**16)
    return [Traced(signature(settings), _losses.logits_module(module, [INPUT]), (example,), ({0: batch},))]


def outputs(model_id: str, module: Any, settings: Settings, rows: Sequence[Arrays], progress: Progress) -> list[Arrays]:
    """Return the logits of each row."""
    return batches.reference(forward, module, signature(settings), rows, progress)
