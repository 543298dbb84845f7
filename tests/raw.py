"""Tiny encoders of raw inputs, random weights: a ViT on pixels and a wav2vec 2.0 on samples of sound.

``edgekit build`` has no task for them yet; they hold clean-up, calibration and static INT8 to more than text: inputs of
float32 and of four axes, convolutions in front, no attention mask, and outputs for every token. The weights are of the
size that training gives, for the reason that ``tiny.py`` says.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model

from edgekit.export._clean import clean
from edgekit.export.graphs import OPSET
from edgekit.quantize.graphs import save
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.tensor import Signature, TensorSpec

MODELS = ("vit", "wav2vec2")
LAYERS = 2
_SIZE = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 64}
_INPUTS = {"vit": "pixel_values", "wav2vec2": "input_values"}
_SHAPES = {"vit": (3, 32, 32), "wav2vec2": (800,)}  # of one row
EXPORTS = Path(__file__).parent / "data" / "exports"
_WORK = tempfile.TemporaryDirectory(prefix="edgekit-raw-")  # goes with the process


def _new(name: str):
    if name == "vit":
        return ViTModel(
            ViTConfig(**_SIZE, image_size=32, patch_size=8, attn_implementation="eager"), add_pooling_layer=False
        )
    convolutions = {
        "conv_dim": (32, 32, 32),
        "conv_stride": (5, 2, 2),
        "conv_kernel": (10, 3, 2),
        "num_feat_extract_layers": 3,
    }
    return Wav2Vec2Model(
        Wav2Vec2Config(
            **_SIZE,
            **convolutions,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            attn_implementation="eager",
        )
    )


@functools.cache
def module(name: str):
    """The torch model, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)

    def noise(tensor, size):
        return torch.randn(tensor.shape, generator=generator) * size

    torch.manual_seed(0)
    model = _new(name).eval()
    with torch.no_grad():
        for part_name, part in model.named_modules():
            if isinstance(part, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
                part.weight.copy_(1 + noise(part.weight, 0.1))
                part.bias.copy_(noise(part.bias, 0.1))
            elif isinstance(part, torch.nn.Linear):
                gain = 1.6 if part_name.endswith(("query", "key", "q_proj", "k_proj")) else 1.2
                part.weight.copy_(noise(part.weight, gain / math.sqrt(part.in_features)))
                part.bias.copy_(noise(part.bias, 0.1))
            elif isinstance(part, torch.nn.Conv1d) and part.bias is not None:
                part.bias.copy_(noise(part.bias, 0.1))
        if name == "vit":
            model.embeddings.cls_token.copy_(noise(model.embeddings.cls_token, 0.5))
            model.embeddings.position_embeddings.copy_(noise(model.embeddings.position_embeddings, 0.5))
            patches = model.embeddings.patch_embeddings.projection
            patches.weight.copy_(noise(patches.weight, 1.2 / math.sqrt(patches.weight[0].numel())))
        else:
            positions = model.encoder.pos_conv_embed.conv
            positions.parametrizations.weight.original0.mul_(8.0)  # the norms of the weight-normed convolution
    return model


def digest(name: str) -> str:
    """A digest of all weights."""
    made = hashlib.sha256()
    for part, tensor in module(name).state_dict().items():
        made.update(part.encode() + tensor.numpy().tobytes())
    return made.hexdigest()


@functools.cache
def exported(name: str) -> GraphSet:
    """The cleaned float32 graph: the committed one, or a new one where Transformers or torch make another model."""
    committed = EXPORTS / name
    provenance = json.loads((committed / "provenance.json").read_text("utf-8"))
    if provenance != {"weights": digest(name), "transformers": transformers.__version__}:
        return exported_anew(name)
    place = Path(shutil.copytree(committed, Path(_WORK.name) / f"{name}-committed"))
    return _graphs(name, place / "model.onnx")


def commit_export(name: str, folder: Path) -> None:
    """Writes what :func:`exported` reads."""
    shutil.copytree(exported_anew(name).assets, folder)
    provenance = {"weights": digest(name), "transformers": transformers.__version__}
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n", "utf-8")


@functools.cache
def exported_anew(name: str) -> GraphSet:
    """The same, exported in this process."""
    feeds = torch.from_numpy(rows(name, 2))
    axes = {0: torch.export.Dim("batch", min=1, max=2**20)}
    if name == "wav2vec2":
        axes[1] = torch.export.Dim("samples", min=100, max=2**20)

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = module(name)

        def forward(self, array):
            return self.model(array).last_hidden_state

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        program = torch.onnx.export(
            Hidden().eval(),
            (feeds,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[_INPUTS[name]],
            output_names=["hidden"],
            dynamic_shapes=(axes,),
            verbose=False,
        )
    clean(program.model, 512)
    path = Path(_WORK.name) / name / "model.onnx"
    path.parent.mkdir()
    save(program.model, path)
    return _graphs(name, path)


def _graphs(name: str, path: Path) -> GraphSet:
    spec = TensorSpec(_INPUTS[name], "float32", ("batch", *_SHAPES[name]))
    signature = Signature(
        "forward", (spec,), (TensorSpec("hidden", "float32", ("batch", "tokens", _SIZE["hidden_size"])),)
    )
    return GraphSet("", "single", (Graph(signature, path, "float32"),), path.parent)


def rows(name: str, count: int, seed: int = 0, size: int | None = None) -> np.ndarray:
    """Smooth images, and sounds of a few tones: neighbours are alike, as they are in what cameras and microphones give."""
    choose = np.random.default_rng(seed)
    if name == "vit":
        coarse = choose.standard_normal((count, 3, 8, 8)).repeat(4, axis=2).repeat(4, axis=3)
        return (coarse + 0.2 * choose.standard_normal(coarse.shape)).astype(np.float32)
    time = np.arange(size or _SHAPES[name][0]) / 16000
    tones = sum(
        choose.uniform(0.2, 1, (count, 1)) * np.sin(2 * np.pi * choose.uniform(100, 4000, (count, 1)) * time)
        for _ in range(4)
    )
    return (tones + 0.1 * choose.standard_normal(tones.shape)).astype(np.float32)


def torch_hidden(name: str, array: np.ndarray) -> np.ndarray:
    """What torch gives for every token: float32 ``[batch, tokens, hidden]``."""
    with torch.inference_mode():
        return module(name)(torch.from_numpy(array)).last_hidden_state.numpy()
