"""A Hugging Face folder or hub id -> Source. torch and transformers live here, in ``export`` and in ``compress``, and nowhere else.

A model is data here: weights are read from safetensors only, and no code that comes with a model is run.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities import text as _text
from edgekit.modalities.text import fuzz_texts
from edgekit.source import _agreement, _head, _outputs, _tokenizer, _values, _weights
from edgekit.source._folder import TASK, checked_config, locate
from edgekit.source._tokenizer import wrapped
from edgekit.source.stack import WIDTHS, narrow
from edgekit.spec.errors import EdgekitError, ModelError, UsageError, near
from edgekit.spec.parsing import to_json
from edgekit.spec.progress import Progress, silent
from edgekit.tasks.text_classification import Settings

__all__ = ["TASK", "Source", "call", "from_module", "fuzz_texts", "quiet", "read", "wrapped"]

_BATCH = 32


class Source:
    """A fine-tuned model: what it is, its torch module, its tokenizer.

    Attributes:
        model_id: folder name or hub id.
        revision: commit of the hub, or ``local``.
        task: ``text-classification``.
        digest: of every file or tensor that decides what the model computes; None for a module given from Python, whose code has no digest.
        problem_type: what the head is.
        notes: what should be known of how the model was read, a sentence each.
    """

    def __init__(
        self,
        model_id: str,
        revision: str,
        task: str,
        digest: str | None,
        make: Callable[[], tuple[Any, Any]],
        problem_type: str = "single_label_classification",
        notes: Sequence[str] = (),
        folder: Path | None = None,
        questioned: bool = False,
    ) -> None:
        """Keeps a function that makes (module, tokenizer) on first use; :func:`read` and :func:`from_module` are the ways here."""
        self.model_id, self.revision, self.task, self.digest = model_id, revision, task, digest
        self.notes, self.problem_type, self._folder, self._questioned = tuple(notes), problem_type, folder, questioned
        self._make = make

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return self._make()

    @property
    def module(self) -> Any:
        """The torch module, float32, in evaluation mode."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        return self._loaded[1]

    def release(self) -> None:
        """Lets go of the module's memory; it is made anew when it is needed again."""
        self.__dict__.pop("_loaded", None)

    @cached_property
    def settings(self) -> Settings:
        """What the runtime must know of the model.

        Raises:
            ModelError: when the tokenizer cannot be used without Transformers, or the config is not consistent.
        """
        config, tokenizer = getattr(self.module, "config", None), self.tokenizer
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ModelError(
                f"The tokenizer of {self.model_id} has no tokenizer.json form, which the runtime needs. Convert it "
                "once: "
                "AutoTokenizer.from_pretrained(MODEL, use_fast=True).save_pretrained(MODEL)."
            )
        if tokenizer.pad_token_id is None:
            raise ModelError(f"The tokenizer of {self.model_id} has no padding token, which batches need. Set pad_token and save the tokenizer again.")
        labels = _labels(config, self.model_id)
        inputs = tuple(n for n in tokenizer.model_input_names if n in ("input_ids", "attention_mask", "token_type_ids"))
        pads = {"input_ids": int(tokenizer.pad_token_id), "attention_mask": 0, "token_type_ids": int(getattr(tokenizer, "pad_token_type_id", 0))}
        side = getattr(tokenizer, "truncation_side", "right")
        tables = _values.tables(self.module)
        _values.check_tables(self.model_id, tokenizer, tables, pads, inputs)
        limits = {n: tables[n] for n in inputs if n in tables}
        return Settings(
            self.problem_type, labels, _max_length(config, tokenizer), inputs, {n: pads[n] for n in inputs}, side, tables=limits
        )

    def check_texts(self, texts: Sequence[_text.Text]) -> None:
        """Compares tokenizer.json as it lies in the folder with the tokenizer that counts, where none was chosen.

        Raises:
            ModelError: when they give different ids.
        """
        if self._folder is not None:
            _tokenizer.check(self.model_id, self._folder, self.tokenizer, texts, "texts of the samples")

    def tokenizer_json(self) -> str:
        """The tokenizer as the tokenizers library reads it, without padding and truncation: the runtime sets them."""
        data = json.loads(self.tokenizer.backend_tokenizer.to_str())
        data["padding"] = data["truncation"] = None
        return to_json(data, ensure_ascii=False)

    def check_outputs(self, texts: Sequence[_text.Text]) -> None:
        """Refuses outputs of a module from Python that are probabilities already: they would go through a softmax or sigmoid twice.

        Raises:
            ModelError: unless the caller told what they are.
        """
        if self._questioned:
            _outputs.check(self.model_id, self.problem_type, self.logits(self.token_ids(texts)))

    def token_ids(self, texts: Sequence[_text.Text]) -> list[dict[str, list[int]]]:
        """What the Hugging Face tokenizer makes of each text, truncated at the model's length."""
        rows = []
        for text in texts:
            # Lists of one, as in training: given bare, Transformers takes a pair with an empty second text for no pair.
            columns = [[part] for part in (text if isinstance(text, tuple) else (text,))]
            encoded = self.tokenizer(*columns, truncation=True, max_length=self.settings.max_length)
            rows.append({name: list(encoded[name][0]) for name in self.settings.inputs})
        return rows

    def logits(self, rows: Sequence[dict[str, list[int]]], progress: Progress = silent) -> np.ndarray:
        """What the torch module computes, in length-sorted padded batches.

        Args:
            rows: as :meth:`token_ids` gives them.
            progress: told after each batch.

        Returns:
            float32 ``[rows, labels]``, in the order of ``rows``.

        Raises:
            ModelError: when an id of a row is beyond a table of the module.
        """
        import torch

        settings = self.settings
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        parts: dict[int, np.ndarray] = {}
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                chosen = order[start : start + _BATCH]
                longest = max(1, *(len(rows[i]["input_ids"]) for i in chosen))
                feeds = {n: torch.tensor([rows[i][n] + [settings.pads[n]] * (longest - len(rows[i][n])) for i in chosen]) for n in settings.inputs}
                try:
                    output = call(self.module, feeds).float().numpy()
                except IndexError as problem:  # torch's word for an id without a row
                    raise ModelError(
                        f"{self.model_id} looks up what is beyond one of its tables, in rows of up to {longest} tokens ({problem}). "
                        "Correct max_position_embeddings, type_vocab_size or model_max_length, or give rows that it was trained for, e.g. no pairs."
                    ) from problem
                parts.update(zip(chosen, output, strict=True))
                progress("torch reference", min(start + _BATCH, len(order)), len(order))
        return np.stack([parts[i] for i in range(len(rows))])


def call(module: Any, feeds: dict[str, Any]) -> Any:
    """Runs a module on keyword inputs and returns its logits, whether it gives them bare, named or first in a tuple."""
    output = module(**feeds)
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, (tuple, list)) else output


def read(
    model: str | Path, revision: str | None = None, *, tokenizer: str | None = None, problem_type: str | None = None
) -> Source:
    """Takes a local folder or a hub id.

    Args:
        model: the folder or the id.
        revision: branch, tag or commit of an id.
        tokenizer: ``file`` (tokenizer.json as it is) or ``transformers`` (what ``AutoTokenizer`` makes of it) where the two differ.
        problem_type: what the head is, in place of what the config says.

    Raises:
        ModelError: when it does not exist, has no config, only pickle weights, an adapter, code of its own, an unsupported
            architecture or task, or files that contradict each other.
        UsageError: for a tokenizer or a problem type that does not exist.
    """
    _tokenizer.check_choice(tokenizer)
    origin = locate(str(model), revision)
    config = checked_config(origin)
    applied = _head.activation(origin.model_id, config, origin.folder)
    kind, notes = _head.problem_type(origin.model_id, config, applied, problem_type)
    _head.check_modules(origin.model_id, origin.folder)
    weights = _weights.survey(origin.model_id, origin.folder, str(config["model_type"]))
    notes += (*_head.check_labels(origin.model_id, config), *weights.notes, *_agreement.check(origin.model_id, origin.folder, config, weights.shapes))
    if tokenizer is not None:
        notes += (f"The tokenizer is that of {'tokenizer.json as it is' if tokenizer == 'file' else 'Transformers'}, as was asked for.",)
    digest = _digest(origin.folder, [f"{tokenizer=}"] * (tokenizer is not None) + [f"{problem_type=}"] * (problem_type is not None))

    def make() -> tuple[Any, Any]:
        try:
            with quiet():
                filled = WIDTHS in config or weights.renamed
                module, missing, beside = _filled(origin.folder, weights) if filled else _whole(origin.folder)
                made = _tokenizer.load(origin.model_id, origin.folder, tokenizer)
        except EdgekitError:
            raise
        except Exception as problem:  # Transformers raises of every kind for a damaged folder
            what = f"{origin.model_id} (model type '{config['model_type']}')"
            raise ModelError(f"{what} cannot be loaded by Transformers: {problem}. Save model and tokenizer again.") from problem
        if missing:
            others = f", and holds {len(beside)} of other names ({beside[0]} ...)" if beside else ""
            raise ModelError(
                f"{origin.model_id} lacks {len(missing)} of its weights ({missing[0]} ...), which Transformers would "
                "fill with random numbers"
                f"{others}. Save the fine-tuned model again, with its head."
            )
        _weights.check_unexpected(origin.model_id, beside)
        _values.check_finite(origin.model_id, module, made)
        module.config.problem_type = kind  # so that a folder made of it says it too
        return module.eval(), made

    return Source(origin.model_id, origin.revision, TASK, digest, make, kind, notes, origin.folder if tokenizer is None else None)


def _digest(folder: Path, told: Sequence[str]) -> str:
    """Of every file that decides what the model computes, and of what was chosen beside them."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in (".json", ".txt", ".model", ".safetensors", ".jinja"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    for word in told:
        digest.update(word.encode() + b"\0")
    return digest.hexdigest()


# Eager attention exports as plain products and a Softmax, which every runtime has fused kernels for.
_LOADING: dict[str, Any] = {"attn_implementation": "eager", "trust_remote_code": False}


def _whole(folder: Path) -> tuple[Any, list[str], list[str]]:
    """A module as Transformers loads it, the weights that the folder lacks, and those that the module has no place for."""
    import torch
    from transformers import AutoModelForSequenceClassification

    module, loading = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True, **_LOADING
    )
    return module, sorted(loading["missing_keys"]), sorted(loading["unexpected_keys"])


def _filled(folder: Path, weights: _weights.Weights) -> tuple[Any, list[str], list[str]]:
    """The same of a module that Transformers does not load, of narrower layers than its config's or of other names: made, then filled."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    module = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, **_LOADING)
    if hasattr(config, WIDTHS):
        narrow(module, [(range(heads), range(neurons)) for heads, neurons in getattr(config, WIDTHS)])
    missing, unexpected = module.load_state_dict(weights.load(), strict=False)
    return module, sorted(missing), sorted(unexpected)


def from_module(module: Any, processor: Any, task: str = TASK, outputs: str | None = None) -> Source:
    """Takes a torch module and a Hugging Face tokenizer from Python: a head of one's own.

    Args:
        module: called with the tokenizer's arrays by keyword (``input_ids``, ``attention_mask`` ...); returns logits
            ``[batch, labels]``, bare or as ``.logits``. It needs ``module.config`` with ``id2label`` and, unless single-label, ``problem_type``.
        processor: a fast tokenizer.
        task: the task.
        outputs: ``logits``; or ``probabilities`` where the module ends in a softmax or a sigmoid, which is then undone (a logarithm or
            the logit, exact but for rounding), since a bundle applies its own. None: logits, and what looks like probabilities is refused.

    Raises:
        UsageError: for an unknown task or kind of outputs, or something that is no module.
    """
    import torch

    if task != TASK:
        raise UsageError(f"Unknown task '{task}'.{near(task, [TASK])} Supported: {TASK}.")
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"module is a {type(module).__name__}, expected a torch.nn.Module. Pass the model itself.")
    if processor is None:
        raise UsageError("processor is missing: a module needs the tokenizer that it was trained with. Pass processor=AutoTokenizer...")
    name, config = type(module).__name__, getattr(module, "config", None)
    entries = _entries(config)
    kind, notes = _head.problem_type(name, entries, _head.activation(name, entries), None)
    _outputs.check_kind(outputs, kind)

    def make() -> tuple[Any, Any]:
        ready = _ready(module)
        _values.check_finite(name, ready, processor)
        return _outputs.undone(ready, kind, call) if outputs == "probabilities" else ready, processor

    return Source(name, "python", task, None, make, kind, notes, questioned=outputs is None)


def _entries(config: Any) -> dict[str, Any]:
    """What a config of any kind says."""
    if hasattr(config, "to_dict"):
        return dict(config.to_dict())
    return dict(vars(config)) if hasattr(config, "__dict__") else {}


def _ready(module: Any) -> Any:
    """A copy for export: the caller's module keeps its dtype, device, mode and kind of attention."""
    copied = copy.deepcopy(module).cpu().float().eval()
    if hasattr(copied, "set_attn_implementation"):
        copied.set_attn_implementation("eager")
    return copied


def _labels(config: Any, model_id: str) -> tuple[str, ...]:
    table = getattr(config, "id2label", None)
    if not table:
        raise ModelError(f"{model_id} names no labels: config.id2label is missing. Set it, e.g. {{0: 'negative', 1: 'positive'}}.")
    indices = {int(k): str(v) for k, v in table.items()}
    if sorted(indices) != list(range(len(indices))) or len(set(indices.values())) != len(indices):
        expected = f"the indices 0 to {len(indices) - 1}, each with a name of its own"
        raise ModelError(f"id2label of {model_id} is {table}, expected {expected}. Correct config.json.")
    return tuple(indices[i] for i in range(len(indices)))


def _max_length(config: Any, tokenizer: Any) -> int:
    limits = [int(tokenizer.model_max_length)]
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        offset = int(config.pad_token_id) + 1 if getattr(config, "model_type", "") in _agreement.OFFSET_POSITIONS else 0
        limits.append(int(positions) - offset)
    length = min(limits)
    if length > _agreement.UNLIMITED:
        raise ModelError(
            "Neither the tokenizer (model_max_length) nor the config (max_position_embeddings) says how many tokens "
            "the model takes. Set one of them."
        )
    return length


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the progress bars and notices of the training libraries off the user's terminal."""
    import transformers

    before = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        transformers.logging.set_verbosity(before)
        if bars:
            transformers.logging.enable_progress_bar()
