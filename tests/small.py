"""One small model with samples of its own, and hands to build, copy and damage bundles of it.

The weights are random, but of the size that training gives, and the head is turned so that the answers to ``texts``
spread over all labels. Labels of the samples are the model's own answers in torch, a few of them changed on purpose:
so a score says something, and what it must be is known from torch alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LABELS = ("negative", "neutral", "positive")
MAX_LENGTH = 64
CANARY = "zyxcanaryqv"  # in samples' texts only: no file and no output may ever hold it

_WHAT = """
    film movie story plot acting cast ending camera music script dialogue director scene book chapter novel song album concert voice
    band play actor actress hero villain costume picture sound light pace humour joke drama comedy thriller season episode series show
    game
""".split()  # noqa: SIM905
_HOW = """
    fine strong weak dull bright slow quick clever stupid warm cold honest false rich poor deep flat fresh stale loud quiet long short
    funny sad brave shy bold plain lovely ugly gentle rough brilliant terrible decent awful superb boring moving clumsy elegant messy
    neat wild tame
""".split()  # noqa: SIM905
_SUBJECT = ["the", "this", "that", "every", "another", "their", "our", "his", "her", "my"]
_VERB = ["is", "was", "feels", "seems", "looks", "sounds", "stays", "becomes", "remains", "turned"]
_MORE = ["very", "rather", "quite", "too", "never", "always", "hardly", "really", "almost", "so", "not"]
_JOIN = ["and", "but", "while", "because", "although", "though", "until", "unless", "before", "after"]
_TAIL = """
    i laughed we left early nobody cared people cheered she slept he cried they clapped you will see it again in the end for hours at
    home
""".split()  # noqa: SIM905
_MARKS = (".", "!", "?", ",", ";")

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def extras() -> set[str]:
    """Names of the project's extras."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return set(project["optional-dependencies"])


def texts(count: int, seed: int) -> list[str]:
    """Made-up reviews of 3 to about 40 words."""
    choose = random.Random(seed)

    def clause() -> str:
        more = [choose.choice(_MORE)] if choose.random() < 0.6 else []
        return " ".join(
            [choose.choice(_SUBJECT), choose.choice(_WHAT), choose.choice(_VERB), *more, choose.choice(_HOW)]
        )

    made = []
    for _ in range(count):
        parts = [clause()]
        for _ in range(choose.choice((0, 0, 1, 1, 2, 4))):
            parts += [choose.choice(_JOIN), clause()]
        if choose.random() < 0.4:
            parts += choose.sample(_TAIL, choose.randint(1, 6))
        made.append(" ".join(parts) + choose.choice(_MARKS))
    return made


def vocabulary() -> list[str]:
    """Special tokens, the words of ``texts``, characters and their continuations."""
    words = sorted({*_WHAT, *_HOW, *_SUBJECT, *_VERB, *_MORE, *_JOIN, *_TAIL} - set("abcdefghijklmnopqrstuvwxyz"))
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    return [*_SPECIAL, *_MARKS, *letters, *("##" + c for c in letters), *words]


def tokenizer():
    """An uncased WordPiece tokenizer, made with the tokenizers library."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(vocabulary())}
    made = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )


def module(
    seed: int = 0,
    labels: tuple[str, ...] = LABELS,
    problem_type: str | None = None,
    neurons: int = 128,
    outlier: str = "",
):
    """A BERT of 2 layers, 64 wide, whose answers depend on the text.

    Where there is an ``outlier``, one hidden channel is large (40 to 160) for this word and zero for all others: one scale for a
    tensor of activations that holds it leaves the other rows of the tensor a handful of steps.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    size = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": neurons,
        "max_position_embeddings": MAX_LENGTH,
    }
    names = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    config = BertConfig(vocab_size=len(vocabulary()), **size, **names, problem_type=problem_type)
    generator = torch.Generator().manual_seed(seed)
    model = BertForSequenceClassification._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.Embedding):
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * 0.5)
            elif isinstance(part, torch.nn.Linear):
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * 1.2 / part.in_features**0.5)
                part.bias.copy_(torch.randn(part.bias.shape, generator=generator) * 0.1)
        if outlier:
            _enlarge(model, vocabulary().index(outlier))
        # The logits of a few texts become whitened: every label is the answer to some of them, and logits spread over several units.
        x = torch_logits(model, texts(96, seed=17)).astype(np.float64)
        scale = torch.tensor(2.0 / x.std(axis=0), dtype=torch.float32)
        model.classifier.bias.copy_((model.classifier.bias - torch.tensor(x.mean(axis=0), dtype=torch.float32)) * scale)
        model.classifier.weight.mul_(scale[:, None])
    return model


def _enlarge(model, word: int) -> None:
    parts = model.bert.embeddings
    for table in (parts.word_embeddings, parts.position_embeddings, parts.token_type_embeddings):
        table.weight[:, 0] = table.weight[:, 1:].mean(dim=1)  # LayerNorm takes the mean away: zero
    parts.word_embeddings.weight[word, 0] = 40.0
    parts.LayerNorm.weight[0] = 20.0
    for layer in model.bert.encoder.layer:
        for linear in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
            linear.weight[:, 0] *= 0.01


def logits(answering, inputs, **how) -> np.ndarray:
    """What a session or a worker answers: float32 ``[rows, labels]``."""
    ask = getattr(answering, "outputs", None) or answering.predict
    return np.stack([row["logits"] for row in ask(inputs, **how)])


def run_graph(engine, signature, rows, shapes=()) -> np.ndarray:
    """The first output of rows that share a call: ``[rows, ...]``."""
    from edgekit.runtime.loops import single

    return column(single.run({"forward": engine}, {"forward": signature}, rows, shapes), signature.outputs[0].name)


def named(array: np.ndarray, name: str = "logits") -> list[dict[str, np.ndarray]]:
    """Rows of one output as a session gives them."""
    return [{name: row} for row in array]


def column(rows, name: str = "logits") -> np.ndarray:
    """One output of all rows as an array."""
    return np.stack([row[name] for row in rows])


def torch_logits(model, inputs, max_length: int = MAX_LENGTH) -> np.ndarray:
    """What torch answers, one text at a time with nothing padded: float32 ``[rows, labels]``."""
    import torch

    tokens, threads, rows = tokenizer(), torch.get_num_threads(), []
    torch.set_num_threads(1)  # threads that wait for each other cost more than so small a model
    try:
        for text in inputs:
            columns = [[part] for part in (text if isinstance(text, tuple) else (text,))]
            encoded = tokens(*columns, truncation=True, max_length=max_length, return_tensors="pt")
            with torch.inference_mode():
                rows.append(model(**encoded).logits.float().numpy())
    finally:
        torch.set_num_threads(threads)
    return np.concatenate(rows)


def save(folder: Path, **settings) -> Path:
    """Writes a model folder, as ``save_pretrained`` does."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    module(**settings).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_jsonl(file: Path, rows) -> Path:
    """One JSON object a line."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def labelled(model, inputs: list[str], count: int, wrong: int) -> list[dict[str, str]]:
    """Rows with the model's own answers; of the first ``wrong`` tens, the first row has another label.

    Texts between two labels are left out: on them an INT8 model may rightly answer otherwise.
    """
    logits = torch_logits(model, inputs)
    clear = np.diff(np.sort(logits, axis=1)[:, -2:])[:, 0] > 1.0
    inputs = [text for text, keep in zip(inputs, clear, strict=True) if keep][:count]
    answers = logits.argmax(axis=1)[clear]
    assert len(inputs) == count
    rows = []
    for index, (text, answer) in enumerate(zip(inputs, answers[:count], strict=True)):
        flip = index % 10 == 0 and index // 10 < wrong
        rows.append({"text": text, "label": LABELS[(answer + flip) % len(LABELS)]})
    return rows


def build(model=None, *, samples, eval, out, target="cpu", progress=None, **options):
    """``edgekit.build`` with its options by name; ``module``, ``processor``, ``task`` and ``outputs`` are those of a module from Python."""
    import dataclasses

    import edgekit

    if "module" in options:
        parts = {name: options.pop(name) for name in ("module", "processor", "task", "outputs") if name in options}
        model = edgekit.TorchModule(**parts)
    known = {field.name for field in dataclasses.fields(edgekit.BuildOptions)}
    of_model = {name: options.pop(name) for name in set(options) - known}
    if of_model:
        options["model_options"] = of_model
    more = {} if progress is None else {"progress": progress}
    chosen = edgekit.BuildOptions(**{name: value for name, value in options.items() if value is not None})
    return edgekit.build(model, samples=samples, eval=eval, out=out, target=target, options=chosen, **more)


def distill(teacher, *, samples, eval, out, progress=None, **options):
    """``edgekit.distill`` with its options by name."""
    import edgekit

    more = {} if progress is None else {"progress": progress}
    chosen = edgekit.DistillOptions(**options)
    return edgekit.distill(teacher, samples=samples, eval=eval, out=out, options=chosen, **more)


def target(file: Path, methods=("float32",), backends=("onnxruntime",), extra: str = "") -> Path:
    """Writes a target of one's own."""
    text = f'name = "{file.stem}"\ndescription = "for a test"\nbackends = {list(backends)}\nmethods = {list(methods)}\n{extra}\n'
    file.write_text(text.replace("'", '"'), "utf-8")
    return file


def sign(bundle: Path, **changes) -> None:
    """Writes the manifest anew with the digests of what lies there now: after it, only what a bundle computes can tell."""
    file = bundle / "manifest.json"
    data = {**json.loads(file.read_text("utf-8")), **changes}
    data["files"] = {
        p.relative_to(bundle).as_posix(): {
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            "size": p.stat().st_size,
        }
        for p in sorted(bundle.rglob("*"))
        if p.is_file() and p != file and p.name != "model.sig"
    }
    file.write_text(json.dumps(data), "utf-8")


def copy(bundle: Path, place: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(bundle, place))


def run(
    *command, cwd: Path | None = None, stdin: bytes | None = None, timeout: float = 120, **environment
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end; output is bytes."""
    return subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


def python(code: str, *arguments, **options) -> subprocess.CompletedProcess[bytes]:
    """Runs Python code in a process of its own."""
    return run(sys.executable, "-c", code, *arguments, **options)


def without_steps(text: str) -> str:
    """Standard error of a verb without the lines of its steps, e.g. ``load: 0.1 s``."""
    return re.sub(r"^.+: \d+\.\d s\n", "", text, flags=re.MULTILINE)


def edgekit(*arguments, **options) -> subprocess.CompletedProcess[bytes]:
    """Runs the command line in a process of its own."""
    return run(sys.executable, "-m", "edgekit", *arguments, **options)


@contextlib.contextmanager
def started(*command, seconds: float = 90, **options):
    """A program at work. It ends with the block, or after some time, so that a test that waits for it in vain fails."""
    with subprocess.Popen([str(c) for c in command], **options) as child:
        limit = threading.Timer(seconds, child.kill)
        limit.start()
        try:
            yield child
        finally:
            limit.cancel()
            child.kill()


@contextlib.contextmanager
def all_output(file: Path):
    """Sends everything that this process and its children write to the two streams into a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with file.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, kept in zip((1, 2), saved, strict=True):
                os.dup2(kept, number)
                os.close(kept)


@contextlib.contextmanager
def tiny_disk(size: str = "256k"):
    """A file system of a given size, or a skip with the reason where mounting is not permitted."""
    import pytest

    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    try:
        mounted = run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    except FileNotFoundError:
        mounted = None
    if mounted is None or mounted.returncode:
        folder.rmdir()
        pytest.skip(
            f"mounting a tmpfs is not permitted here: {mounted.stderr.decode().strip() if mounted else 'no mount command'}"
        )
    try:
        yield folder
    finally:
        run("umount", "-l", folder)
        with contextlib.suppress(OSError):
            folder.rmdir()


def plain_words(text: str) -> str:
    """Text without the terminal's escapes; equal to the text where there are none."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
