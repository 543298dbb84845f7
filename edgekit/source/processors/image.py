"""The processor of images: an image processor of Transformers with Pillow, and the same as settings of the runtime.

A processor with torchvision resizes differently and so gives other pixels, and a device has no torchvision. So the
processor with Pillow is the reference, here and in every comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities.image import decode, size_of
from edgekit.modalities.pixels import FILTERS, Pixels
from edgekit.source.modules import read_object
from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import ModelError, UsageError, near
from edgekit.spec.head import Shapes, Told
from edgekit.spec.protocols import Arrays, Input

__all__ = [
    "MODEL_TYPES",
    "NOUN",
    "OPTIONS",
    "PROCESSORS",
    "SAME_AS",
    "check_inputs",
    "check_names",
    "check_told",
    "encode",
    "load",
    "pixels",
    "same",
    "survey",
]

NOUN = "image processor"
OPTIONS: dict[str, str] = {}
MODEL_TYPES = {
    "beit": "BEiT",
    "convnext": "ConvNeXT",
    "convnextv2": "ConvNeXTv2",
    "deit": "DeiT",
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2",
    "mobilevit": "MobileViT",
    "resnet": "ResNet",
    "swin": "Swin",
    "vit": "ViT",
}
SAME_AS: dict[str, str] = {}

PROCESSORS = (
    "BeitImageProcessor",
    "BitImageProcessor",
    "CLIPImageProcessor",
    "ConvNextImageProcessor",
    "DeiTImageProcessor",
    "EfficientNetImageProcessor",
    "LevitImageProcessor",
    "MobileNetV1ImageProcessor",
    "MobileNetV2ImageProcessor",
    "MobileViTImageProcessor",
    "PoolFormerImageProcessor",
    "PvtImageProcessor",
    "SiglipImageProcessor",
    "ViTImageProcessor",
)
"""Classes of Transformers that :func:`pixels` supports, without the suffix of the backend."""

_FILES = ("preprocessor_config.json", "processor_config.json")
_SUFFIXES = ("Pil", "Fast")
_WARPED_FROM = 384  # Shortest edge from which ConvNeXT resizes to a square and does not crop.


def check_names(model_id: str, names: set[str]) -> None:
    """Check that a folder has an image processor; see :class:`edgekit.spec.head.Processors`."""
    if not names & set(_FILES):
        raise ModelError(
            f"{model_id} has no image processor ({_FILES[0]}). "
            "Save the model's own image processor in the folder: processor.save_pretrained(FOLDER).",
            code="processor-missing-file",
        )


def check_told(options: Told) -> None:
    """Do nothing, since there are no options."""


def survey(model_id: str, folder: Path, config: Mapping[str, Any], shapes: Shapes, options: Told) -> tuple[str, ...]:
    """Check that the runtime supports the image processor, and that the model has three channels."""
    entries = _entries(folder)
    if "auto_map" in entries:
        raise ModelError(
            f"{model_id} has code of its own ({_FILES[0]} has auto_map), and EdgeKit runs no code of a model. "
            "Pass the module from Python: edgekit.build(edgekit.TorchModule(module=..., processor=...), ...).",
            code="model-own-code",
        )
    channels = config.get("num_channels", 3)
    if channels != 3:
        raise ModelError(
            f"{model_id} expects images of {channels} channels (num_channels of config.json). "
            "Only 3 channels (red, green and blue) are supported.",
            code="model-channels",
        )
    name = entries.get("image_processor_type") or entries.get("feature_extractor_type")
    if name is not None:
        _check_class(model_id, str(name).replace("FeatureExtractor", "ImageProcessor"))
    return ()


def load(model_id: str, folder: Path, options: Told) -> Any:
    """Return the image processor of a folder, with Pillow.

    Raises:
        UsageError: If Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as problem:
        raise UsageError(
            f"Image processors need the package 'pillow', which is not installed here. Run: {install_hint('image')}",
            code="extra-missing",
        ) from problem
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False, local_files_only=True)


def check_inputs(model_id: str, folder: Path, processor: Any, inputs: Sequence[Input]) -> None:
    """Do nothing, since an image processor and its file cannot differ on single images."""


def encode(processor: Any, images: Sequence[Input]) -> list[Arrays]:
    """Return the ``pixel_values`` of each image by the image processor: float32 ``[3, height, width]``.

    Images are decoded as in the pipelines of Transformers.

    Raises:
        InputError: If an input is not an image, or has too many pixels before or after resizing.
        ModelError: If the runtime does not support the image processor.
    """
    from PIL import Image

    rows: list[Arrays] = []
    settings = pixels("the model", processor)
    for index, image in enumerate(images):
        where = f" at position {index}" if len(images) > 1 else ""
        # Transformers resizes without a limit.
        settings.check_size(*size_of(image, where), where)
        values = processor(images=Image.fromarray(decode(image, where)), return_tensors="np")["pixel_values"][0]
        rows.append({"pixel_values": np.asarray(values, np.float32)})
    return rows


def same(processor: Any, other: Any) -> bool:
    """Return whether two image processors behave the same."""
    return processor is other or pixels("the model", processor) == pixels("the other model", other)


def pixels(model_id: str, processor: Any) -> Pixels:
    """Return the settings of an image processor.

    Raises:
        ModelError: If the class is not supported, the backend is torchvision, or the images have different sizes.
    """
    name = _check_class(model_id, type(processor).__name__)
    if getattr(processor, "backend", "pil") != "pil":
        raise ModelError(
            f"The image processor of {model_id} uses {processor.backend}, whose pixels differ from those of Pillow, "
            "the only backend on a device. Load it with "
            "AutoImageProcessor.from_pretrained(MODEL, backend='pil'), and check the model's score with that.",
            code="processor-backend",
        )
    if getattr(processor, "do_pad", None):
        raise ModelError(
            f"The image processor of {model_id} pads images (do_pad), which is not supported. "
            "Use one that resizes or crops.",
            code="processor-unsupported",
        )
    resize, shortest = _resizing(model_id, name, processor)
    crop = _edges(processor.crop_size) if getattr(processor, "do_center_crop", None) else None
    if name == "ConvNextImageProcessor" and resize is None and shortest is not None:
        edge = int(processor.size["shortest_edge"])
        crop = crop or (edge, edge)
        if crop != (edge, edge):
            raise ModelError(
                f"The image processor of {model_id} crops to {edge} x {edge} and then to {crop[0]} x {crop[1]}, "
                f"expected one crop. Correct {_FILES[0]}.",
                code="processor-unsupported",
            )
    size = crop or resize
    if size is None:
        raise ModelError(
            f"The image processor of {model_id} gives images of different sizes, expected one size by height and "
            f"width, or a crop. Correct {_FILES[0]} to match the training of the model.",
            code="processor-unsupported",
        )
    try:
        return Pixels(
            *size,
            resize=resize,
            shortest_edge=shortest,
            resample=_filter(model_id, processor.resample),
            crop=crop is not None,
            **_value_settings(name, processor),
        )
    except (UsageError, TypeError, ValueError) as problem:
        raise ModelError(
            f"The image processor of {model_id} cannot be used: {problem}", code="processor-unsupported"
        ) from problem


def _value_settings(name: str, processor: Any) -> dict[str, Any]:
    """Return the settings of :class:`Pixels` that change the values of an image, where they are not the defaults."""
    settings: dict[str, Any] = {}
    if processor.do_rescale:
        settings["scale"] = float(processor.rescale_factor)
        if getattr(processor, "rescale_offset", False):
            settings["offset"] = -1.0
    # MobileViT has the setting do_normalize, but ignores it.
    if processor.do_normalize and name != "MobileViTImageProcessor":
        settings["mean"] = _channels(processor.image_mean)
        settings["std"] = _channels(processor.image_std)
    if name == "EfficientNetImageProcessor" and processor.include_top:
        settings["std_again"] = _channels(processor.image_std)
    if getattr(processor, "do_flip_channel_order", False):
        settings["channels"] = "bgr"
    return settings


def _resizing(model_id: str, name: str, processor: Any) -> tuple[tuple[int, int] | None, int | None]:
    """Return the height and width after resizing, or the length of the shorter side; both None without resizing."""
    if not processor.do_resize:
        return None, None
    size = {key: int(value) for key, value in dict(processor.size).items() if value is not None}
    if set(size) == {"shortest_edge"}:
        edge = size["shortest_edge"]
        if name == "ConvNextImageProcessor":
            return ((edge, edge), None) if edge >= _WARPED_FROM else (None, int(edge / processor.crop_pct))
        if name == "LevitImageProcessor":
            return None, int((256 / 224) * edge)
        if name == "PoolFormerImageProcessor" and processor.crop_pct is not None:
            return None, int(edge / processor.crop_pct)
        return None, edge
    if set(size) == {"height", "width"} and name != "ConvNextImageProcessor":
        height = size["height"]
        width = size["width"]
        if name == "PoolFormerImageProcessor" and processor.crop_pct is not None:
            larger = (int(height / processor.crop_pct), int(width / processor.crop_pct))
            return (None, larger[0]) if height == width else (larger, None)
        return (height, width), None
    raise ModelError(
        f"The image processor of {model_id} has the size {size}, which is not supported. "
        "Supported: height and width, or shortest_edge.",
        code="processor-unsupported",
    )


def _edges(size: Any) -> tuple[int, int]:
    return int(size["height"]), int(size["width"])


def _channels(values: Any) -> tuple[float, ...]:
    if isinstance(values, Sequence):
        return tuple(float(value) for value in values)
    return (float(values),) * 3


def _filter(model_id: str, number: Any) -> str:
    try:
        return FILTERS[2 if number is None else int(number)]
    except (TypeError, ValueError, IndexError) as problem:
        raise ModelError(
            f"The image processor of {model_id} resizes with the filter {number!r}, expected 0 to {len(FILTERS) - 1}. "
            f"Correct {_FILES[0]}.",
            code="processor-unsupported",
        ) from problem


def _check_class(model_id: str, name: str) -> str:
    """Return the name of a supported class without the suffix of its backend."""
    bare = name
    for suffix in _SUFFIXES:
        bare = bare.removesuffix(suffix)
    if bare not in PROCESSORS:
        raise ModelError(
            f"{model_id} has the image processor {name}, which is not supported.{near(bare, PROCESSORS)} "
            f"Supported: {', '.join(PROCESSORS)}.",
            code="processor-unsupported",
        )
    return bare


def _entries(folder: Path) -> dict[str, Any]:
    """Return the settings of an image processor from the files of a folder."""
    for file in _FILES:
        data = read_object(folder / file)
        settings = data.get("image_processor", data)
        if settings:
            return dict(settings)
    return {}
