"""Tiny classifiers of ten architectures: four layers, random weights, and rows that they answer differently."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import transformers as t

LAYERS, LABELS = 4, 3
TEXT = ("bert", "roberta", "distilbert", "electra", "mpnet")
OTHER = ("vit", "deit", "wav2vec2", "hubert", "whisper")
ARCHITECTURES = (*TEXT, *OTHER)

_SIZE = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 64}
_TEXT = {"vocab_size": 60, "max_position_embeddings": 40, "pad_token_id": 1}
_SOUND = {
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
}
_SOUND |= {"num_conv_pos_embedding_groups": 4, "classifier_proj_size": 32, "mask_time_prob": 0.0}
_IMAGE = {"image_size": 16, "patch_size": 8}
_WHISPER = {
    "d_model": 32,
    "encoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_ffn_dim": 64,
}
_WHISPER |= {
    "decoder_attention_heads": 4,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "vocab_size": 60,
    "pad_token_id": 1,
    "classifier_proj_size": 32,
}
_WHISPER |= {
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 2,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}

_MADE = {
    "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**_SIZE, **_TEXT, num_labels=LABELS)),
    "roberta": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**_SIZE, **_TEXT, num_labels=LABELS)),
    "distilbert": lambda: t.DistilBertForSequenceClassification(
        t.DistilBertConfig(dim=32, n_layers=LAYERS, n_heads=4, hidden_dim=64, **_TEXT, num_labels=LABELS)
    ),
    "electra": lambda: t.ElectraForSequenceClassification(
        t.ElectraConfig(embedding_size=16, **_SIZE, **_TEXT, num_labels=LABELS)
    ),
    "mpnet": lambda: t.MPNetForSequenceClassification(t.MPNetConfig(**_SIZE, **_TEXT, num_labels=LABELS)),
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**_SIZE, **_IMAGE, num_labels=LABELS)),
    "deit": lambda: t.DeiTForImageClassification(t.DeiTConfig(**_SIZE, **_IMAGE, num_labels=LABELS)),
    "wav2vec2": lambda: t.Wav2Vec2ForSequenceClassification(t.Wav2Vec2Config(**_SIZE, **_SOUND, num_labels=LABELS)),
    # Layer norms in the front end make all of its convolutions one class: a list that is as long as the encoder.
    "hubert": lambda: t.HubertForSequenceClassification(
        t.HubertConfig(**_SIZE, **_SOUND, feat_extract_norm="layer", use_weighted_layer_sum=True, num_labels=LABELS)
    ),
    "whisper": lambda: t.WhisperForAudioClassification(t.WhisperConfig(**_WHISPER, num_labels=LABELS)),
}


@functools.cache
def teacher(name: str):
    """In evaluation mode. Do not change it."""
    torch.manual_seed(0)
    model = _MADE[name]().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(
                part, torch.nn.Linear
            ):  # of the size that training gives: with 0.02 no answer depends on its input
                part.weight.copy_(
                    torch.randn(part.weight.shape, generator=generator) * 1.2 / math.sqrt(part.in_features)
                )
            elif isinstance(part, torch.nn.Embedding):
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * 0.5)
    head = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == LABELS][-1]
    with torch.no_grad():
        scale = 2.0 / logits(model, rows(name, 40)).std(axis=0)
        head.weight.mul_(torch.tensor(scale, dtype=torch.float32)[:, None])
        head.bias.zero_()
        head.bias.copy_(-torch.tensor(logits(model, rows(name, 40)).mean(axis=0)))
    return model


def rows(name: str, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random inputs, texts of several lengths."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        if name in TEXT:
            length = int(random.integers(3, 20))
            made.append({"input_ids": random.integers(4, 60, length), "attention_mask": np.ones(length, np.int64)})
        elif name in ("vit", "deit"):
            made.append({"pixel_values": random.standard_normal((3, 16, 16)).astype(np.float32)})
        elif name == "whisper":
            made.append({"input_features": random.standard_normal((8, 40)).astype(np.float32)})
        else:
            made.append({"input_values": random.standard_normal(800).astype(np.float32)})
    return made


def logits(model, given) -> np.ndarray:
    """What a model answers, a row at a time with nothing padded: float32 ``[rows, labels]``."""
    with torch.inference_mode():
        return np.concatenate(
            [model(**{n: torch.from_numpy(a)[None] for n, a in row.items()}).logits.numpy() for row in given]
        )


def accuracy(outputs, labels) -> float:
    """Share of rows whose largest logit is that of their label."""
    return float(np.mean([row["logits"].argmax() == label for row, label in zip(outputs, labels, strict=True)]))


PADS = {"input_ids": 1, "attention_mask": 0}
