"""Where a model is: a local folder or the hub; refused by names and config alone, before anything large is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import tasks
from edgekit.source import heads, processors
from edgekit.source.modules import read_object
from edgekit.spec.errors import ModelError, UsageError, near
from edgekit.spec.head import Head, Processors

_CONFIGS = ("tokenizer_config.json", "preprocessor_config.json")


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
            raise UsageError(
                f"{model} is a local folder, which has no revision '{revision}'. Leave --revision out, or give a hub id.",
                code="revision-of-folder",
            )
        return Origin(folder.resolve().name, "local", folder)
    looks_like_path = (
        folder.exists()
        or model.startswith((".", "/", "~"))
        or model.count("/") > 1
        or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model)
    )
    if folder.suffix.lower() == ".onnx":
        raise ModelError(
            f"{model} is an ONNX file, and what is asked for needs weights in torch: a Hugging Face folder or a hub id. "
            "Give that; edgekit build alone takes an ONNX file.",
            code="onnx-needs-folder",
        )
    if looks_like_path:
        what = "is a file" if folder.exists() else "does not exist"
        expected = "a folder with config.json and model.safetensors, or a hub id such as 'owner/name'"
        raise ModelError(f"Model folder {model} {what}, expected {expected}. Correct the path.", code="model-not-found")
    return _download(model, revision)


def _download(model: str, revision: str | None) -> Origin:
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    def refused(problem: Exception) -> ModelError:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        remedy = "Check the name, --revision, the connection and HF_TOKEN."
        return ModelError(
            f"'{model}' is neither a local folder nor a model that the hub gives ({reason}). {remedy}",
            code="model-not-found",
        )

    disable_progress_bars()
    patterns = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    try:
        info = hub.HfApi().model_info(model, revision=revision)
        names = [s.rfilename for s in info.siblings or []]
        _check_files(model, names)
        folder = hub.snapshot_download(model, revision=info.sha, allow_patterns=patterns, ignore_patterns=["*/*"])
    except ModelError:
        raise
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
        ValueError,
    ) as problem:
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
        raise ModelError(
            f"{model} holds only an adapter (adapter_config.json). Merge it first: model.merge_and_unload().save_pretrained(FOLDER).",
            code="model-adapter",
        )
    if "config.json" not in top:
        raise ModelError(
            f"{model} has no config.json, expected a model saved by save_pretrained(). Save the model again, with its config.",
            code="model-no-config",
        )
    if not any(n.endswith(".safetensors") for n in top):
        if any(n.startswith("adapter_model") for n in top):
            raise ModelError(
                f"{model} holds only an adapter. Merge it first: model.merge_and_unload().save_pretrained(FOLDER).",
                code="model-adapter",
            )
        pickles = sorted(n for n in top if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")))
        if pickles:
            raise ModelError(
                f"{model} has its weights in {pickles[0]} only. That is a pickle, which can run code when it is "
                "read; expected safetensors. "
                "Convert it where you trust it: model.save_pretrained(FOLDER, safe_serialization=True).",
                code="model-pickle",
            )
        raise ModelError(
            f"{model} has no weights, expected model.safetensors. Save the model again.", code="model-no-weights"
        )
    adapters = sorted(n for n in top if n.startswith(("adapter_config", "adapter_model", "pytorch_adapter")))
    if all(n.startswith("adapter_model") for n in top if n.endswith(".safetensors")):
        raise ModelError(
            f"{model} holds only an adapter. Merge it first: model.merge_and_unload().save_pretrained(FOLDER).",
            code="model-adapter",
        )
    if adapters:
        raise ModelError(
            f"{model} holds an adapter ({', '.join(adapters)}) beside a whole model: what was trained in the adapter "
            "would not be used. Merge it first: "
            "model.merge_and_unload().save_pretrained(FOLDER). If the whole model is the merged one already, take "
            "the adapter's files away.",
            code="model-adapter",
        )
    _check_processor(model, top)


def _check_processor(model: str, names: set[str]) -> None:
    """Refuses files that are the processor of no modality."""
    problems = []
    for modality in processors.names():
        try:
            return processors.get(modality).check_names(model, names)
        except ModelError as problem:
            problems.append(problem)
    raise problems[-1]


def checked_config(origin: Origin) -> tuple[dict[str, Any], str]:
    """The entries of config.json, and the task whose head it names."""
    names = {p.name for p in origin.folder.iterdir()}
    _check_files(origin.model_id, sorted(names))
    config = read_object(origin.folder / "config.json")
    others = [name for name in _CONFIGS if name in names]
    for name, entries in (("config.json", config), *((name, read_object(origin.folder / name)) for name in others)):
        if "auto_map" in entries:
            raise ModelError(
                f"{origin.model_id} brings code of its own ({name} has auto_map), and no code of a model is run. "
                "Pass the module from Python: edgekit.build(module=..., processor=...).",
                code="model-own-code",
            )
    kind, architectures = config.get("model_type"), [str(a) for a in config.get("architectures") or []]
    task = heads.for_architectures(architectures)
    known = {
        k: name for found in ([task] if task else heads.names()) for k, name in processors_of(found).MODEL_TYPES.items()
    }
    if kind not in known:
        supported = ", ".join(known.values())
        raise ModelError(
            f"{origin.model_id} is of the architecture '{kind}', which is not supported.{_meant(str(kind), task)} Supported: {supported}.",
            code="model-architecture",
        )
    if task is None:
        named = ", ".join(architectures) or "no head is named"
        raise ModelError(
            f"{origin.model_id} is for another task ({named}). Supported: {_supported()}.", code="model-task"
        )
    processors_of(task).check_names(origin.model_id, names)
    _check_class(origin.model_id, str(kind), architectures, task)
    if isinstance(quantized := config.get("quantization_config"), dict) and quantized:
        how = quantized.get("quant_method") or "an unnamed method"
        raise ModelError(
            f"{origin.model_id} is quantized already ({how}, by quantization_config in config.json), and EdgeKit "
            "quantizes by itself, "
            "with calibration. Give the model as it was trained, in float32 or float16.",
            code="model-quantized",
        )
    return dict(config), task


def processors_of(task: str) -> Processors:
    return processors.get(tasks.get(task).MODALITY)


def _supported() -> str:
    """Tasks, each with the classes and the architectures that it takes."""
    return "; ".join(
        f"{n} (...{heads.get(n).ARCHITECTURES}) of {', '.join(processors_of(n).MODEL_TYPES.values())}"
        for n in heads.names()
    )


def _meant(kind: str, task: str | None) -> str:
    """Which supported architecture a misspelled one is; none for one that exists: a suggestion never crosses architectures."""
    for found in [task] if task else heads.names():
        if kind in (same := processors_of(found).SAME_AS):
            other = same[kind]
            return (
                f" Its layers are those of '{other}': in a copy of the folder, set model_type to '{other}' and "
                "architectures to "
                f"['{class_of(heads.get(found), other)}'] in config.json, and give that."
            )
    if kind in _all_kinds():
        return ""
    known = [k for found in ([task] if task else heads.names()) for k in processors_of(found).MODEL_TYPES]
    squeezed = {re.sub(r"[^a-z0-9]", "", k): k for k in known}
    return near(squeezed.get(re.sub(r"[^a-z0-9]", "", kind.lower()), kind), known)


def _all_kinds() -> set[str]:
    """Every ``model_type`` that Transformers knows."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return set(CONFIG_MAPPING_NAMES)


def class_of(head: Head, kind: str) -> str:
    """The class of Transformers that a model type stands for under a head."""
    from transformers.models.auto import modeling_auto

    words = re.sub(
        r"(?<=[a-z])(?=[A-Z])", "_", head.AUTO_CLASS.removeprefix("AutoModel")
    ).upper()  # ForCausalLM: FOR_CAUSAL_LM
    found = getattr(modeling_auto, f"MODEL_{words}_MAPPING_NAMES")[kind]
    return str(found[0] if isinstance(found, tuple) else found)  # of several the first is what the others vary


def _check_class(model_id: str, kind: str, architectures: Sequence[str], task: str) -> None:
    """Holds the class that was saved against the one that the model type stands for."""
    head = heads.get(task)
    expected = class_of(head, kind)
    aliases = {class_of(head, other) for other, same in processors_of(task).SAME_AS.items() if same == kind}
    if not set(architectures) & {expected, *aliases}:
        raise ModelError(
            f"{model_id} was saved from the class {', '.join(architectures)}, and its model_type '{kind}' is read as "
            f"{expected}: another class may compute something "
            "else. Correct the one that is wrong in config.json, or pass the module from Python: "
            "edgekit.build(module=..., processor=...).",
            code="model-other-class",
        )
