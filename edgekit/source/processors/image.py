"""Images: the image processor of Transformers that Pillow computes, and the same as settings of the runtime.

A processor that torchvision computes gives other pixels (it resizes otherwise); on a device there is none. So the one by Pillow is what counts, here and in
every comparison.
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
"""Classes of Transformers, without the suffix of what computes them, that :func:`pixels` reads."""

_FILES = ("preprocessor_config.json", "processor_config.json")
_SUFFIXES = ("Pil", "Fast")
_WARPED_FROM = 384  # shortest edge from which ConvNeXT resizes to a square and crops nothing


def check_names(model_id: str, names: set[str]) -> None:
    """Refuses a folder without the file of an image processor; see :class:`edgekit.spec.head.Processors`."""
    if not names & set(_FILES):
        raise ModelError(
            f"{model_id} has no image processor ({_FILES[0]}). Save the model's own there: processor.save_pretrained(FOLDER).",
            code="processor-missing-file",
        )


def check_told(told: Told) -> None:
    """Nothing: there is nothing that the user may say."""


def survey(model_id: str, folder: Path, config: Mapping[str, Any], shapes: Shapes, told: Told) -> tuple[str, ...]:
    """Refuses an image processor that the runtime does not know, and a model of other channels than three."""
    entries = _entries(folder)
    if "auto_map" in entries:
        raise ModelError(
            f"{model_id} brings code of its own ({_FILES[0]} has auto_map), and no code of a model is run. "
            "Pass the module from Python: edgekit.build(module=..., processor=...).",
            code="model-own-code",
        )
    if (channels := config.get("num_channels", 3)) != 3:
        raise ModelError(
            f"{model_id} takes images of {channels} channels (num_channels of config.json), expected 3: red, green and blue.",
            code="model-channels",
        )
    name = entries.get("image_processor_type") or entries.get("feature_extractor_type")
    if name is not None:
        _check_class(model_id, str(name).replace("FeatureExtractor", "ImageProcessor"))
    return ()


def load(model_id: str, folder: Path, told: Told) -> Any:
    """The image processor of a folder, computed by Pillow.

    Raises:
        UsageError: when Pillow is not installed.
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
    """Nothing: the file of an image processor and what is made of it cannot differ on single images."""


def encode(processor: Any, images: Sequence[Input]) -> list[Arrays]:
    """What the image processor makes of each image, read as the pipelines of Transformers read it: ``pixel_values`` float32 ``[3, height, width]``.

    Raises:
        InputError: for what is no image, and one of too many pixels, before or after it is resized.
        ModelError: for an image processor that the runtime does not know.
    """
    from PIL import Image

    rows: list[Arrays] = []
    settings = pixels("the model", processor)
    for place, image in enumerate(images):
        where = f" at position {place}" if len(images) > 1 else ""
        settings.check_size(*size_of(image, where), where)  # Transformers resizes without a limit
        values = processor(images=Image.fromarray(decode(image, where)), return_tensors="np")["pixel_values"][0]
        rows.append({"pixel_values": np.asarray(values, np.float32)})
    return rows


def same(processor: Any, other: Any) -> bool:
    """Whether two image processors do the same."""
    return processor is other or pixels("the model", processor) == pixels("the other model", other)


def pixels(model_id: str, processor: Any) -> Pixels:
    """What an image processor does, as settings.

    Raises:
        ModelError: for a class that is not known, one that torchvision computes, or settings that do not give images of one size.
    """
    name = _check_class(model_id, type(processor).__name__)
    if getattr(processor, "backend", "pil") != "pil":
        raise ModelError(
            f"The image processor of {model_id} is computed by {processor.backend}, whose pixels differ from Pillow's, and a device has Pillow alone. Load it "
            "with AutoImageProcessor.from_pretrained(MODEL, backend='pil'), and check the score of the model with that.",
            code="processor-backend",
        )
    if getattr(processor, "do_pad", None):
        raise ModelError(
            f"The image processor of {model_id} pads images (do_pad), which is not supported. Supported are resizing and cropping.",
            code="processor-unsupported",
        )
    resize, shortest = _resizing(model_id, name, processor)
    crop = _edges(processor.crop_size) if getattr(processor, "do_center_crop", None) else None
    if name == "ConvNextImageProcessor" and resize is None and shortest is not None:
        edge = int(processor.size["shortest_edge"])
        crop = crop or (edge, edge)
        if crop != (edge, edge):
            raise ModelError(
                f"The image processor of {model_id} crops to {edge} x {edge} and then to {crop[0]} x {crop[1]}, expected one of both.",
                code="processor-unsupported",
            )
    size = crop or resize
    if size is None:
        raise ModelError(
            f"The image processor of {model_id} gives images of different sizes, expected one: a size of height and width, or a crop. "
            f"Correct {_FILES[0]}, as the model was trained.",
            code="processor-unsupported",
        )
    again = name == "EfficientNetImageProcessor" and bool(processor.include_top)
    # MobileViT has the setting, and does not heed it.
    normalized = bool(processor.do_normalize) and name != "MobileViTImageProcessor"
    try:
        return Pixels(
            *size,
            resize=resize,
            shortest_edge=shortest,
            resample=_filter(model_id, processor.resample),
            crop=crop is not None,
            scale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
            offset=-1.0 if getattr(processor, "rescale_offset", False) and processor.do_rescale else 0.0,
            mean=_channels(processor.image_mean) if normalized else (),
            std=_channels(processor.image_std) if normalized else (),
            std_again=_channels(processor.image_std) if again else (),
            channels="bgr" if getattr(processor, "do_flip_channel_order", False) else "rgb",
        )
    except (UsageError, TypeError, ValueError) as problem:
        raise ModelError(
            f"The image processor of {model_id} cannot be taken: {problem}", code="processor-unsupported"
        ) from problem


def _resizing(model_id: str, name: str, processor: Any) -> tuple[tuple[int, int] | None, int | None]:
    """Height and width that an image is resized to, or the length of its shorter side; both None where it is not resized."""
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
        height, width = size["height"], size["width"]
        if name == "PoolFormerImageProcessor" and processor.crop_pct is not None:
            larger = int(height / processor.crop_pct), int(width / processor.crop_pct)
            return (None, larger[0]) if height == width else (larger, None)
        return (height, width), None
    raise ModelError(
        f"The image processor of {model_id} has the size {size}, which is not supported. Supported: height and width, or shortest_edge.",
        code="processor-unsupported",
    )


def _edges(size: Any) -> tuple[int, int]:
    return int(size["height"]), int(size["width"])


def _channels(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values) if isinstance(values, Sequence) else (float(values),) * 3


def _filter(model_id: str, number: Any) -> str:
    try:
        return FILTERS[2 if number is None else int(number)]
    except (TypeError, ValueError, IndexError) as problem:
        raise ModelError(
            f"The image processor of {model_id} resizes with the filter {number!r}, expected 0 to {len(FILTERS) - 1}.",
            code="processor-unsupported",
        ) from problem


def _check_class(model_id: str, name: str) -> str:
    """The name of a class without what computes it."""
    bare = name
    for suffix in _SUFFIXES:
        bare = bare.removesuffix(suffix)
    if bare not in PROCESSORS:
        raise ModelError(
            f"{model_id} has the image processor {name}, which is not supported.{near(bare, PROCESSORS)} Supported: {', '.join(PROCESSORS)}.",
            code="processor-unsupported",
        )
    return bare


def _entries(folder: Path) -> dict[str, Any]:
    """Settings of an image processor by the files of a folder."""
    for file in _FILES:
        data = read_object(folder / file)
        if inner := data.get("image_processor", data):
            return dict(inner)
    return {}
