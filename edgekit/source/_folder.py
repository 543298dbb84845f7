"""Location of a model, a local folder or the hub, and checks of its file names and config.

The checks come before anything large is read.
"""

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
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")


@dataclass(frozen=True)
class Origin:
    """The place that a model is read from.

    Attributes:
        model_id: Folder name or hub id.
        revision: Commit of the hub, or ``local``.
        folder: Folder with the files.
    """

    model_id: str
    revision: str
    folder: Path


def locate(model: str, revision: str | None) -> Origin:
    """Return the folder of a model; download a hub id.

    Args:
        model: Local folder or hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ModelError: If the model does not exist, or its file names show that it is not supported.
        UsageError: If a revision is given for a local folder.
    """
    folder = Path(model)
    if folder.is_dir():
        if revision is not None:
            raise UsageError(
                f"{model} is a local folder, which has no revision '{revision}'. "
                "Leave --revision out, or give a hub id.",
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
            f"{model} is an ONNX file, and what is asked for needs weights in torch: "
            "a Hugging Face folder or a hub id. Give that; edgekit build alone takes an ONNX file.",
            code="onnx-needs-folder",
        )
    if looks_like_path:
        state = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"Model folder {model} {state}, expected a folder with config.json and model.safetensors, or a hub id such "
            "as 'owner/name'. Correct the path.",
            code="model-not-found",
        )
    return _download(model, revision)


def _download(model: str, revision: str | None) -> Origin:
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    hub_errors = (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
        ValueError,
    )
    disable_progress_bars()
    patterns = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    try:
        info = hub.HfApi().model_info(model, revision=revision)
        names = [sibling.rfilename for sibling in info.siblings or []]
        _check_files(model, names)
        folder = hub.snapshot_download(model, revision=info.sha, allow_patterns=patterns, ignore_patterns=["*/*"])
    except ModelError:
        raise
    except hub_errors as problem:
        raise _download_error(model, problem) from problem
    except Exception as problem:
        # The hub's client passes errors of its transport library on.
        if type(problem).__module__.split(".")[0] in _TRANSPORTS:
            raise _download_error(model, problem) from problem
        raise
    return Origin(model, str(info.sha), Path(folder))


def _download_error(model: str, problem: Exception) -> ModelError:
    text = str(problem).strip()
    reason = text.splitlines()[0] if text else type(problem).__name__
    return ModelError(
        f"'{model}' is neither a local folder nor a model on the hub ({reason}). "
        "Check the name, --revision, the connection and HF_TOKEN.",
        code="model-not-found",
    )


def _check_files(model: str, names: Sequence[str]) -> None:
    """Check the file names of a folder, before anything large is read.

    Raises:
        ModelError: If there is no config, no safetensors weights or no processor, or there is an adapter.
    """
    top = {name for name in names if "/" not in name}
    only_adapter = (
        f"{model} contains only an adapter. Merge it first: model.merge_and_unload().save_pretrained(FOLDER)."
    )
    if "config.json" not in top:
        if "adapter_config.json" in top:
            raise ModelError(only_adapter, code="model-adapter")
        raise ModelError(
            f"{model} has no config.json, expected a model saved by save_pretrained(). "
            "Save the model again, with its config.",
            code="model-no-config",
        )
    weights = [name for name in top if name.endswith(".safetensors")]
    if not weights:
        if any(name.startswith("adapter_model") for name in top):
            raise ModelError(only_adapter, code="model-adapter")
        pickles = sorted(name for name in top if name.endswith(_PICKLES))
        if pickles:
            raise ModelError(
                f"{model} has its weights only in {pickles[0]}, expected safetensors: reading a pickle can run code. "
                "If you trust the file, convert it: model.save_pretrained(FOLDER, safe_serialization=True).",
                code="model-pickle",
            )
        raise ModelError(
            f"{model} has no weights, expected model.safetensors. Save the model again.", code="model-no-weights"
        )
    if all(name.startswith("adapter_model") for name in weights):
        raise ModelError(only_adapter, code="model-adapter")
    adapters = sorted(n for n in top if n.startswith(("adapter_config", "adapter_model", "pytorch_adapter")))
    if adapters:
        raise ModelError(
            f"{model} contains an adapter ({', '.join(adapters)}) beside a whole model, and the adapter would not be "
            "used. Merge it first: model.merge_and_unload().save_pretrained(FOLDER). "
            "If the whole model is already merged, remove the adapter's files.",
            code="model-adapter",
        )
    _check_processor(model, top)


def _check_processor(model: str, names: set[str]) -> None:
    """Check that the files belong to the processor of some modality."""
    problems = []
    for modality in processors.names():
        try:
            return processors.get(modality).check_names(model, names)
        except ModelError as problem:
            problems.append(problem)
    raise problems[-1]


def read_config(origin: Origin) -> tuple[dict[str, Any], str]:
    """Return the entries of config.json, and the task of the head that it names.

    Raises:
        ModelError: If the model has code of its own, is quantized, or has an unsupported architecture, task or class.
    """
    names = {path.name for path in origin.folder.iterdir()}
    _check_files(origin.model_id, sorted(names))
    config = read_object(origin.folder / "config.json")
    configs = {"config.json": config}
    for name in _CONFIGS:
        if name in names:
            configs[name] = read_object(origin.folder / name)
    for name, entries in configs.items():
        if "auto_map" in entries:
            raise ModelError(
                f"{origin.model_id} has code of its own ({name} has auto_map), and EdgeKit runs no code of a model. "
                "Pass the module from Python: edgekit.build(edgekit.TorchModule(module=..., processor=...), ...).",
                code="model-own-code",
            )
    kind = config.get("model_type")
    architectures = [str(name) for name in config.get("architectures") or []]
    task = heads.for_architectures(architectures)
    known = _supported_types(task)
    if kind not in known:
        raise ModelError(
            f"{origin.model_id} has the architecture '{kind}', which is not supported.{_suggest(str(kind), task)} "
            f"Supported: {', '.join(known.values())}.",
            code="model-architecture",
        )
    if task is None:
        head = ", ".join(architectures) or "no head is named"
        raise ModelError(
            f"{origin.model_id} is for another task ({head}). Supported: {_supported_tasks()}.", code="model-task"
        )
    processors_of(task).check_names(origin.model_id, names)
    _check_class(origin.model_id, str(kind), architectures, task)
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict) and quantization:
        method = quantization.get("quant_method") or "an unnamed method"
        raise ModelError(
            f"{origin.model_id} is quantized already ({method}, in quantization_config of config.json), expected "
            "float32 or float16. Give the model as it was trained; EdgeKit quantizes it with calibration.",
            code="model-quantized",
        )
    return dict(config), task


def processors_of(task: str) -> Processors:
    """Return the processors module of a task's modality."""
    return processors.get(tasks.get(task).MODALITY)


def _supported_types(task: str | None) -> dict[str, str]:
    """Return the supported model types of a task (of all tasks if it is None), with their common names."""
    types: dict[str, str] = {}
    for name in [task] if task else heads.names():
        types |= processors_of(name).MODEL_TYPES
    return types


def _supported_tasks() -> str:
    """Return the supported tasks, each with the classes and the architectures it accepts."""
    descriptions = []
    for name in heads.names():
        architectures = ", ".join(processors_of(name).MODEL_TYPES.values())
        descriptions.append(f"{name} (...{heads.get(name).ARCHITECTURES}) of {architectures}")
    return "; ".join(descriptions)


def _suggest(kind: str, task: str | None) -> str:
    """Return a hint about the supported architecture meant by an unsupported model type, or an empty text.

    An existing architecture is never taken for a misspelling of another one.
    """
    for name in [task] if task else heads.names():
        same_as = processors_of(name).SAME_AS
        if kind in same_as:
            other = same_as[kind]
            return (
                f" Its layers are those of '{other}': in a copy of the folder, set model_type to '{other}' and "
                f"architectures to ['{class_of(heads.get(name), other)}'] in config.json, and give that."
            )
    if kind in _all_model_types():
        return ""
    known = list(_supported_types(task))
    by_letters = {_letters(name): name for name in known}
    return near(by_letters.get(_letters(kind), kind), known)


def _letters(kind: str) -> str:
    return re.sub(r"[^a-z0-9]", "", kind.lower())


def _all_model_types() -> set[str]:
    """Return every ``model_type`` that Transformers knows."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return set(CONFIG_MAPPING_NAMES)


def class_of(head: Head, kind: str) -> str:
    """Return the class of Transformers for a model type and a head."""
    from transformers.models.auto import modeling_auto

    # ForCausalLM becomes FOR_CAUSAL_LM.
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", head.AUTO_CLASS.removeprefix("AutoModel")).upper()
    name = getattr(modeling_auto, f"MODEL_{words}_MAPPING_NAMES")[kind]
    # The first of several classes is the base of the others.
    return str(name[0] if isinstance(name, tuple) else name)


def _check_class(model_id: str, kind: str, architectures: Sequence[str], task: str) -> None:
    """Check that the saved class is the one that the model type stands for."""
    expected = class_of(heads.get(task), kind)
    same_as = processors_of(task).SAME_AS
    aliases = {class_of(heads.get(task), other) for other, same in same_as.items() if same == kind}
    if not set(architectures) & {expected, *aliases}:
        raise ModelError(
            f"{model_id} was saved from the class {', '.join(architectures)}, but its model_type '{kind}' is read as "
            f"{expected}, which may compute something else. Correct the wrong one in config.json, or pass the module "
            "from Python: edgekit.build(edgekit.TorchModule(module=..., processor=...), ...).",
            code="model-other-class",
        )
