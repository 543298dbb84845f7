"""Tiny image classifiers of all supported architectures, and of some that go in from Python.

They have random weights and are saved as ordinary Hugging Face folders with their image processors.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageClassification

ARCHITECTURES = (
    "beit",
    "convnext",
    "convnextv2",
    "deit",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "resnet",
    "swin",
    "vit",
)
FROM_PYTHON = ("dinov2", "focalnet", "levit", "mobilevitv2", "poolformer", "pvt_v2", "regnet", "swinv2")
LABELS = ("cat", "dog", "bird")
SIZE = 32
SPREAD = 4.0  # of an output over the images, largest minus smallest
_WORK = tempfile.TemporaryDirectory(prefix="edgekit-tiny-images-")  # goes with the process
torch.set_num_threads(1)

_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": SIZE,
    "patch_size": 8,
}
_STAGES = {"depths": [1, 1], "hidden_sizes": [16, 32], "num_stages": 2}
_FOUR_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32]}
_SWIN = {
    "image_size": SIZE,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_CONFIGS = {
    "beit": {**_VIT, "use_relative_position_bias": True, "use_mean_pooling": True},
    "convnext": {**_STAGES, "layer_scale_init_value": 0.5},
    "convnextv2": _STAGES,
    "deit": _VIT,
    "dinov2": _VIT,
    "focalnet": {
        "image_size": SIZE,
        "embed_dim": 16,
        "depths": [1, 1],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
        "hidden_sizes": [16, 32],
    },
    "levit": {
        "image_size": SIZE,
        "hidden_sizes": [16, 32, 48],
        "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": SIZE},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": SIZE, "finegrained_output": False},
    "mobilevit": {
        "image_size": SIZE,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 12, 16, 20, 24, 32],
        "num_attention_heads": 4,
        "expand_ratio": 2.0,
    },
    "mobilevitv2": {"image_size": 2 * SIZE, "width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1]},
    "poolformer": {**_FOUR_STAGES, "layer_scale_init_value": 0.5},
    "pvt_v2": {**_FOUR_STAGES, "image_size": SIZE, "num_attention_heads": [1, 2, 2, 4]},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "vit": _VIT,
}
_CROP = {"height": SIZE, "width": SIZE}
_PROCESSORS = {
    "beit": ("BeitImageProcessor", {"size": _CROP}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": SIZE}}),
    "convnextv2": ("ConvNextImageProcessor", {"size": {"shortest_edge": SIZE}}),
    "deit": ("DeiTImageProcessor", {"size": {"height": 40, "width": 40}, "crop_size": _CROP}),
    "mobilenet_v1": ("MobileNetV1ImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": _CROP}),
    "mobilenet_v2": ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": _CROP}),
    "mobilevit": ("MobileViTImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": _CROP}),
    "resnet": ("ConvNextImageProcessor", {"size": {"shortest_edge": SIZE}}),
    "swin": ("ViTImageProcessor", {"size": _CROP, "resample": 3}),
    "vit": ("ViTImageProcessor", {"size": _CROP}),
}


def images(count: int = 6, seed: int = 0) -> list[np.ndarray]:
    """Pictures of several sizes with a colour and a texture of their own."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        height, width = draw.integers(28, 64, 2)
        base = draw.uniform(0, 255, (1, 1, 3)) + draw.normal(0, draw.uniform(5, 60), (height, width, 3))
        made.append(np.clip(base, 0, 255).astype(np.uint8))
    return made


def processor(name: str):
    size = _CONFIGS[name].get("image_size", SIZE)
    plain = ("ViTImageProcessor", {"size": {"height": size, "width": size}})
    kind, settings = _PROCESSORS.get(name, plain)
    return getattr(transformers, kind + "Pil")(**settings)


def module(name: str, seed: int = 0):
    """The model, its last layer scaled until outputs spread."""
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    config = AutoConfig.for_model(name, **_CONFIGS[name], **labels)
    config.architectures = []  # without it Transformers cannot choose between the classes of DeiT
    model = AutoModelForImageClassification.from_config(config).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.Linear):
                part.weight.normal_(0, 1.2 / part.in_features**0.5)
            elif isinstance(part, torch.nn.Conv2d):
                part.weight.normal_(0, 1.4 / part.weight[0].numel() ** 0.5)
            elif isinstance(part, torch.nn.BatchNorm2d):
                part.weight.uniform_(0.8, 1.2)
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
        head = [part for part in model.modules() if isinstance(part, torch.nn.Linear)][-1]
        values = torch.cat([model(**processor(name)(images=image, return_tensors="pt")).logits for image in images()])
        scale = SPREAD / (values.amax(dim=0) - values.amin(dim=0)).max()
        head.weight.mul_(scale)
        if head.bias is not None:
            head.bias.copy_((head.bias - values.mean(dim=0)) * scale)
    return model


@functools.cache
def folder(name: str) -> Path:
    """The model folder of an architecture, made once a process. Read only: tests that change it copy it first."""
    made = Path(_WORK.name) / name
    module(name).save_pretrained(made)
    processor(name).save_pretrained(made)
    return made
