"""Where a model is: a local folder or the hub; refused by names and config alone, before anything large is read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.spec.errors import ModelError, UsageError, near

ARCHITECTURES = {
    "albert": "ALBERT",
    "bert": "BERT",
    "deberta-v2": "DeBERTa-v2/v3",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "modernbert": "ModernBERT",
    "mpnet": "MPNet",
    "roberta": "RoBERTa",
}
"""``model_type`` of the configs that are supported, each with a test of its own."""

SAME_AS = {"camembert": "roberta", "xlm-roberta": "roberta"}
"""Architectures that compute as a supported one does, under another name."""

TASK = "text-classification"


@dataclass(frozen=True)
class Origin:
    """Where a model came from."""

    model_id: str
    revision: str
    folder: Path


def locate(model: str, revision: str | None) -> Origin:
    folder = Path(model)
    if folder.is_dir():
        if revision is not None:
            raise UsageError(f"{model} is a local folder, which has no revision '{revision}'. Leave --revision out, or give a hub id.")
        return Origin(folder.resolve().name, "local", folder)
    looks_like_path = folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1 or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model)
    if looks_like_path:
        what = "is a file" if folder.exists() else "does not exist"
        expected = "a folder with config.json and model.safetensors, or a hub id such as 'owner/name'"
        raise ModelError(f"Model folder {model} {what}, expected {expected}. Correct the path.")
    return _download(model, revision)


def _download(model: str, revision: str | None) -> Origin:
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    def refused(problem: Exception) -> ModelError:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        remedy = "Check the name, --revision, the connection and HF_TOKEN."
        return ModelError(f"'{model}' is neither a local folder nor a model that the hub gives ({reason}). {remedy}")

    disable_progress_bars()
    patterns = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    try:
        info = hub.HfApi().model_info(model, revision=revision)
        names = [s.rfilename for s in info.siblings or []]
        _check_files(model, names)
        folder = hub.snapshot_download(model, revision=info.sha, allow_patterns=patterns, ignore_patterns=["*/*"])
    except ModelError:
        raise
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as problem:
        raise refused(problem) from problem
    except Exception as problem:  # the hub's client lets errors of its transport library through
        if type(problem).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise refused(problem) from problem
        raise
    return Origin(model, str(info.sha), Path(folder))


def _check_files(model: str, names: Sequence[str]) -> None:
    """Refuses by file names alone, before anything large is read."""
    top = {n for n in names if "/" not in n}
    if "adapter_config.json" in top and "config.json" not in top:
        raise ModelError(f"{model} holds only an adapter (adapter_config.json). Merge it first: model.merge_and_unload().save_pretrained(FOLDER).")
    if "config.json" not in top:
        raise ModelError(f"{model} has no config.json, expected a model saved by save_pretrained(). Save the model again, with its config.")
    if not any(n.endswith(".safetensors") for n in top):
        if any(n.startswith("adapter_model") for n in top):
            raise ModelError(f"{model} holds only an adapter. Merge it first: model.merge_and_unload().save_pretrained(FOLDER).")
        pickles = sorted(n for n in top if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")))
        if pickles:
            raise ModelError(
                f"{model} has its weights in {pickles[0]} only. That is a pickle, which can run code when it is "
                "read; expected safetensors. "
                "Convert it where you trust it: model.save_pretrained(FOLDER, safe_serialization=True)."
            )
        raise ModelError(f"{model} has no weights, expected model.safetensors. Save the model again.")
    adapters = sorted(n for n in top if n.startswith(("adapter_config", "adapter_model", "pytorch_adapter")))
    if all(n.startswith("adapter_model") for n in top if n.endswith(".safetensors")):
        raise ModelError(f"{model} holds only an adapter. Merge it first: model.merge_and_unload().save_pretrained(FOLDER).")
    if adapters:
        raise ModelError(
            f"{model} holds an adapter ({', '.join(adapters)}) beside a whole model: what was trained in the adapter "
            "would not be used. Merge it first: "
            "model.merge_and_unload().save_pretrained(FOLDER). If the whole model is the merged one already, take "
            "the adapter's files away."
        )
    # Transformers makes an empty vocabulary where there is none, and says nothing.
    if not any(n == "tokenizer.json" or n.startswith("vocab.") or n.endswith(".model") for n in top):
        raise ModelError(f"{model} has no tokenizer (tokenizer.json, vocab.txt or the like). Save the model's own there: tokenizer.save_pretrained(FOLDER).")


def checked_config(origin: Origin) -> dict[str, Any]:
    _check_files(origin.model_id, [p.name for p in origin.folder.iterdir()])
    config = _json_object(origin.folder / "config.json")
    tokenizer_config = origin.folder / "tokenizer_config.json"
    for name, entries in (("config.json", config), ("tokenizer_config.json", _json_object(tokenizer_config) if tokenizer_config.is_file() else {})):
        if "auto_map" in entries:
            raise ModelError(
                f"{origin.model_id} brings code of its own ({name} has auto_map), and no code of a model is run. "
                "Pass the module from Python: edgekit.build(module=..., processor=...)."
            )
    kind, known = config.get("model_type"), ", ".join(ARCHITECTURES.values())
    if kind not in ARCHITECTURES:
        raise ModelError(f"{origin.model_id} is of the architecture '{kind}', which is not supported.{_meant(str(kind))} Supported: {known}.")
    heads = config.get("architectures") or []
    if not any(str(h).endswith("ForSequenceClassification") for h in heads):
        named = ", ".join(map(str, heads)) or "no head is named"
        raise ModelError(f"{origin.model_id} is for another task ({named}). Supported: {TASK} (...ForSequenceClassification) of {known}.")
    _check_class(origin.model_id, str(kind), [str(h) for h in heads])
    if isinstance(quantized := config.get("quantization_config"), dict) and quantized:
        how = quantized.get("quant_method") or "an unnamed method"
        raise ModelError(
            f"{origin.model_id} is quantized already ({how}, by quantization_config in config.json), and EdgeKit "
            "quantizes by itself, "
            "with calibration. Give the model as it was trained, in float32 or float16."
        )
    return dict(config)


def _meant(kind: str) -> str:
    """Which supported architecture a misspelled one is; none for one that exists: a suggestion never crosses architectures."""
    if kind in SAME_AS:
        other = SAME_AS[kind]
        return (
            f" Its layers are those of '{other}': in a copy of the folder, set model_type to '{other}' and "
            "architectures to "
            f"['{_class_of(other)}'] in config.json, and give that."
        )
    if kind in _all_kinds():
        return ""
    squeezed = {re.sub(r"[^a-z0-9]", "", k): k for k in ARCHITECTURES}
    return near(squeezed.get(re.sub(r"[^a-z0-9]", "", kind.lower()), kind), ARCHITECTURES)


def _all_kinds() -> set[str]:
    """Every ``model_type`` that Transformers knows."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return set(CONFIG_MAPPING_NAMES)


def _class_of(kind: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSES

    return str(CLASSES[kind])


def _check_class(model_id: str, kind: str, heads: Sequence[str]) -> None:
    """Holds the class that was saved against the one that the model type stands for."""
    expected = _class_of(kind)
    aliases = {_class_of(other) for other, same in SAME_AS.items() if same == kind}
    if not set(heads) & {expected, *aliases}:
        raise ModelError(
            f"{model_id} was saved from the class {', '.join(heads)}, and its model_type '{kind}' is read as "
            f"{expected}: another class may compute something "
            "else. Correct the one that is wrong in config.json, or pass the module from Python: "
            "edgekit.build(module=..., processor=...)."
        )


def _json_object(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ModelError(f"{file} is not valid JSON ({problem}). Save the model again.") from problem
    if not isinstance(data, dict):
        raise ModelError(f"{file} is a {type(data).__name__}, expected an object. Save the model again.")
    return data
