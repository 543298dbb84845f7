"""Tiny models of all supported architectures: random weights, real tokenizers, saved as ordinary Hugging Face folders.

Random weights at their usual size (0.02) make a model whose answer hardly depends on its input: every graph agrees with
it. So the weights here are of the size that training gives, and the head is scaled until logits spread over ``SPREAD``.
"""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertTokenizer,
    AutoModelForSequenceClassification,
    BertConfig,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Tokenizer,
    DistilBertConfig,
    DistilBertTokenizer,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizer,
)

import edgekit.source
from edgekit import tasks
from edgekit.export.graphs import export
from edgekit.spec.graph import Graph, GraphSet

ARCHITECTURES = ("albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta")
TOKEN_TYPES = ("bert", "electra")  # those whose tokenizer emits token types and whose model reads them
MAX_LENGTH = 64
TRACED_LENGTH = 12  # of the example that export traces
WINDOW = (
    40  # positions to each side that ModernBERT's local layers see: seen by no short probe, as with the real one's 64
)
SPREAD = 4.0  # of a logit over TEXTS, largest minus smallest

SENTENCES = (
    "turn on the lights in the kitchen, please",
    "a fine film with a strong cast and a weak ending",
    "the plot was dull and the acting was worse",
    "set the thermostat to 21 degrees before seven o'clock",
    "I've never laughed so hard in a cinema!",
    "no",
    "play some quiet music in the living room and dim the lamp next to the sofa",
    "what is the weather going to be like in Berlin tomorrow morning?",
    "it's neither funny nor moving, and at 140 minutes it's far too long for what little it has to say about its subject",
    "lock the front door",
    "the director's earlier work was better; this one feels unfinished",
    "café owners asked for quieter streets",
    "open the garage and start the car at 06:45, then remind me to call my sister about the weekend",
    "great",
    "stop",
    "an unexpected, generous and very human story that stays with you for days after you have seen it",
    "cancel the alarm and wake me an hour later than usual",
    "the battery died after two weeks and nobody answered my letters",
    "why is the heating still on?",
    "one of the best books that I have read in years, though the last chapter could have been shorter",
)
PAIRS = (
    ("the lights are off", "turn on the lights"),
    ("a man plays the piano in a hall", "somebody makes music"),
    ("the film was long and dull, and we left before the end", "they stayed"),
    ("is the door locked?", ""),
)
TEXTS = SENTENCES + PAIRS
torch.set_num_threads(1)  # two threads that wait for each other are ten times slower at these sizes on a busy machine
EXPORTS = Path(__file__).parent / "data" / "exports"
_WORK = tempfile.TemporaryDirectory(prefix="edgekit-tiny-")  # goes with the process

_SIZE = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH,
}
_LABELS = {  # number of labels and problem_type (None: as the config leaves it)
    "albert": (5, "single_label_classification"),
    "bert": (3, None),
    "deberta-v2": (3, "single_label_classification"),
    "distilbert": (4, "multi_label_classification"),
    "electra": (2, None),
    "modernbert": (2, "regression"),
    "mpnet": (3, "multi_label_classification"),
    "roberta": (1, None),
}


def config(name: str, tokenizer):
    """The architecture at its smallest, with what makes each one different left in: windows, buckets, shared layers, offset positions."""
    count, problem_type = _LABELS[name]
    common = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "num_labels": count,
        "problem_type": problem_type,
    }
    size = {**_SIZE, **common}
    offset = {**size, "max_position_embeddings": MAX_LENGTH + tokenizer.pad_token_id + 1}
    return {
        "albert": lambda: AlbertConfig(**size, embedding_size=16),
        "bert": lambda: BertConfig(**size),
        "deberta-v2": lambda: DebertaV2Config(
            **size,
            relative_attention=True,
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            type_vocab_size=0,
            position_biased_input=False,
        ),
        "distilbert": lambda: DistilBertConfig(
            **common, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=MAX_LENGTH
        ),
        "electra": lambda: ElectraConfig(**size, embedding_size=16),
        "modernbert": lambda: ModernBertConfig(
            **{**size, "num_hidden_layers": 3},
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            local_attention=2 * WINDOW,
            global_attn_every_n_layers=3,
        ),
        "mpnet": lambda: MPNetConfig(**offset),
        "roberta": lambda: RobertaConfig(**offset, type_vocab_size=1),
    }[name]()


def _words():
    return Counter(re.findall(r"[^\W\d_]+|\d|[^\w\s]", " ".join(SENTENCES).lower()))


def _word_pieces(first):
    """Special tokens, characters, characters inside words, common words and endings."""
    words = _words()
    letters = sorted(set("".join(words)) | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    whole = sorted(w for w, n in words.items() if len(w) > 1 and n > 1)
    pieces = dict.fromkeys([*first, *letters, *("##" + c for c in letters), *whole, "##ing", "##ed", "##er"])
    return {token: i for i, token in enumerate(pieces)}


def _unigram_pieces(first):
    """Special tokens, then pieces with their log probabilities, as SentencePiece's unigram model has them."""
    counts = Counter({"▁": 40})
    for word, number in _words().items():
        counts["▁" + word] += number
        for size in (1, 2, 3):
            for start in range(len(word) - size + 1):
                counts[word[start : start + size]] += 1
    kept = sorted((p for p, n in counts.items() if n > 1 or len(p) == 1), key=lambda p: (-counts[p], p))
    total = sum(counts.values())
    return [(token, 0.0) for token in first] + [(piece, math.log(counts[piece] / total)) for piece in kept]


def _byte_pairs(first, normalizer=None):
    """A byte-level BPE trained on SENTENCES."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(first), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def tokenizer(name: str):
    """The architecture's own kind of fast tokenizer, with a vocabulary made of SENTENCES."""
    bert_like = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    if name in ("bert", "electra", "distilbert"):
        kind = DistilBertTokenizer if name == "distilbert" else BertTokenizer
        # A tokenizer that says nothing of the length (electra here) leaves it to the config.
        return kind(vocab=_word_pieces(bert_like), **({} if name == "electra" else {"model_max_length": MAX_LENGTH}))
    if name == "mpnet":
        return MPNetTokenizer(vocab=_word_pieces(("<s>", "<pad>", "</s>", "[UNK]", "<mask>")))
    if name == "albert":
        return AlbertTokenizer(
            vocab=_unigram_pieces(("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")), model_max_length=MAX_LENGTH
        )
    if name == "deberta-v2":
        return DebertaV2Tokenizer(vocab=_unigram_pieces(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")), unk_id=3)
    if name == "roberta":
        model = _byte_pairs(("<s>", "<pad>", "</s>", "<unk>", "<mask>")).model
        data = models_json(model)
        return RobertaTokenizer(
            vocab=data["vocab"], merges=[tuple(m) for m in data["merges"]], model_max_length=MAX_LENGTH
        )
    pairs = _byte_pairs(bert_like, normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex("\u2028"), " ")]))
    pairs.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(t, pairs.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pairs,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=MAX_LENGTH,
    )


def models_json(model):
    """A tokenizers model as its JSON form."""
    return json.loads(Tokenizer(model).to_str())["model"]


def module(name: str, tokens, seed: int = 0):
    """The model with weights of the size that training gives."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor, size):
        return torch.randn(tensor.shape, generator=generator) * size

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config(name, tokens), attn_implementation="eager").eval()
    with torch.no_grad():
        for part_name, part in model.named_modules():
            if isinstance(part, torch.nn.Embedding):
                part.weight.copy_(noise(part.weight, 0.5))
            elif isinstance(part, torch.nn.LayerNorm):
                part.weight.copy_(1 + noise(part.weight, 0.1))
                if part.bias is not None:
                    part.bias.copy_(noise(part.bias, 0.1))
            elif isinstance(part, torch.nn.Linear):
                gain = 1.6 if re.search(r"query|key|q_lin|k_lin|attn\.[qk]\b|Wqkv", part_name) else 1.2
                part.weight.copy_(noise(part.weight, gain / math.sqrt(part.in_features)))
                if part.bias is not None:
                    part.bias.copy_(noise(part.bias, 0.1))
        head = next(
            part for part_name, part in reversed(list(model.named_modules())) if isinstance(part, torch.nn.Linear)
        )
        encoded = [
            tokens(*(t if isinstance(t, tuple) else (t,)), return_tensors="pt", truncation=True, max_length=MAX_LENGTH)
            for t in TEXTS
        ]
        answers = torch.cat([model(**row).logits for row in encoded])
        # Between texts: what sets one label apart from another whatever the text is proves nothing.
        head.weight.mul_(SPREAD / (answers.amax(dim=0) - answers.amin(dim=0)).max())
    return model


def save(name: str, folder: Path, seed: int = 0) -> Path:
    """Writes a model folder, as ``save_pretrained`` does."""
    tokens = tokenizer(name)
    module(name, tokens, seed).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


@functools.cache
def folder(name: str) -> Path:
    """The model folder of an architecture, made once a process. Read only: tests that change it copy it first."""
    return save(name, Path(_WORK.name) / name / "model")


@functools.cache
def source(name: str):
    """The Source of an architecture."""
    return edgekit.source.read(folder(name))


@functools.cache
def exported(name: str) -> GraphSet:
    """The float32 graphs of an architecture: the committed export, or a new one where Transformers or torch make another model.

    ``tests/export/test_architectures.py`` compares the committed export with a new one.
    """
    committed, model = EXPORTS / name, source(name)
    provenance = json.loads((committed / "provenance.json").read_text("utf-8"))
    if provenance["model_digest"] != model.digest:
        return exported_anew(name)
    place = Path(shutil.copytree(committed, Path(_WORK.name) / name / "committed"))
    graph = Graph(model.head.signature(model.settings), place / "model.onnx", "float32")
    return GraphSet(model.task, tasks.get(model.task).LOOP, (graph,), place / "assets", provenance)


@functools.cache
def exported_anew(name: str) -> GraphSet:
    """The same, exported in this process: for tests of the export, 4 to 7 seconds each."""
    return export(source(name), Path(_WORK.name) / name / "graphs", TEXTS)


def commit_export(name: str, folder: Path) -> None:
    """Writes what :func:`exported` reads."""
    graphs = exported_anew(name)
    shutil.copytree(graphs.assets.parent, folder)
    (folder / "provenance.json").write_text(json.dumps(dict(graphs.provenance), indent=1) + "\n", "utf-8")


def rows(source, texts=TEXTS):
    """Token ids of texts as arrays, one dictionary a text."""
    return list(source.encode(texts))


def ids(source, texts=TEXTS):
    """The same as lists, which can be compared."""
    return [{name: array.tolist() for name, array in row.items()} for row in source.encode(texts)]


def logits(source, given, *progress):
    """What the torch module of a source answers to rows: float32 ``[rows, labels]``."""
    return np.stack([row["logits"] for row in source.outputs(given, *progress)])


def random_rows(source, lengths, seed: int = 0):
    """Raw token ids of given lengths, with a second segment where the model has token types; no special tokens."""
    choose = np.random.default_rng(seed)
    special = set(source.processor.all_special_ids)
    ids = np.array([i for i in range(len(source.processor)) if i not in special])
    made = []
    for length in lengths:
        row = {"input_ids": choose.choice(ids, length), "attention_mask": np.ones(length, np.int64)}
        if "token_type_ids" in source.settings.inputs:
            row["token_type_ids"] = (np.arange(length) >= (length + 1) // 2).astype(np.int64)
        made.append({name: row[name] for name in source.settings.inputs})
    return made


def torch_logits(source, feeds):
    """What the torch module answers to padded arrays, run as they are: float32 ``[batch, labels]``."""
    with torch.inference_mode():
        output = source.module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    return (output.logits if hasattr(output, "logits") else output).float().numpy()
