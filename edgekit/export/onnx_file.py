"""An ONNX file as the model of a build: the file takes the place of the export from torch.

Config, labels and processor come from a Hugging Face folder that belongs to the file. The unchanged file, run by ONNX
Runtime in float32, is the reference. The graph of the bundle is made from the same file and compared with that
reference.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit import backends, tasks
from edgekit.export import _onnx_checks
from edgekit.machine.cpu import cpus
from edgekit.runtime import loops
from edgekit.source import Source, check_options, heads, processors_of
from edgekit.source.modules import quiet, read_object
from edgekit.spec.digests import sha256
from edgekit.spec.errors import EdgekitError, ModelError, UsageError
from edgekit.spec.registry import version_of
from edgekit.spec.tensor import Signature, TensorSpec

__all__ = ["SUFFIX", "is_onnx", "read"]

SUFFIX = ".onnx"
_CONFIG_SUFFIXES = (".json", ".txt", ".model", ".jinja")


def is_onnx(model: object) -> bool:
    """Return whether a model argument names an ONNX file, by its suffix."""
    return isinstance(model, (str, os.PathLike)) and os.fspath(model).lower().endswith(SUFFIX)


def read(
    model: str | Path, processor: Any, task: str | None = None, outputs: str | None = None, **options: Any
) -> Source:
    """Read an ONNX file and the folder of its config and processor.

    Args:
        model: ONNX file. Its inputs have the names of the processor's arrays; its output holds the raw score of each
            label, float32. External data is in the folder of the file.
        processor: Hugging Face folder with ``config.json`` (``id2label``) and the tokenizer or image processor. Weights
            in it are not read.
        task: Name of the task; None for the one that ``architectures`` of the config name.
        outputs: Form of the outputs: ``heads.RAW_OUTPUTS`` to accept what looks like probabilities; None to refuse it.
        **options: Model options that replace statements of the files, as for :func:`edgekit.source.read`.

    Returns:
        The model. Its module runs the file in ONNX Runtime.

    Raises:
        ModelError: If the file is no ONNX graph of the task, or the folder lacks something.
        UsageError: If an argument is missing or unknown.
    """
    file = Path(model)
    folder = _check_folder(file, processor)
    graph = _onnx_checks.open_graph(file)
    config = _read_config(folder)
    task = _find_task(file, config, task)
    head = heads.get(task)
    processors = processors_of(task)
    if len(loops.get(tasks.get(task).LOOP).SIGNATURES) != 1:
        raise UsageError(
            f"A model of the task '{task}' has several graphs, and {file.name} is one. Give the Hugging Face folder.",
            code="onnx-task",
        )
    if outputs not in (None, heads.RAW_OUTPUTS):
        raise UsageError(
            f"outputs='{outputs}' is for a torch module. End the graph of {file.name} before its softmax or sigmoid, "
            f"or pass outputs='{heads.RAW_OUTPUTS}'.",
            code="onnx-outputs-option",
        )
    options = {option: value for option, value in options.items() if value is not None}
    check_options(options, (*head.OPTIONS, *processors.OPTIONS), task)
    processors.check_told(options)
    processors.check_names(str(folder), {p.name for p in folder.iterdir()})
    kind, notes = head.survey(file.name, config, folder, {}, options)
    notes += processors.survey(file.name, folder, config, {}, options)
    runtime = f"ONNX Runtime {version_of('onnxruntime') or ''}".strip()

    def make() -> tuple[Any, Any]:
        try:
            with quiet():
                tokenizer = processors.load(file.name, folder, options)
                settings_of = _load_config(folder, config)
        except EdgekitError:
            raise
        except Exception as problem:  # Transformers raises of every kind for a damaged folder
            raise ModelError(
                f"Config and {processors.NOUN} in {folder} cannot be loaded by Transformers: {problem}. "
                "Save them again with save_pretrained().",
                code="model-load",
            ) from problem
        _onnx_checks.match_inputs(graph, tokenizer)
        module = _make_module(file, settings_of, _onnx_checks.embedding_rows(graph))
        signature = head.signature(head.settings(file.name, module, tokenizer, kind))
        output = _onnx_checks.check_signature(graph, signature)
        module.open(signature, output)
        return head.prepare(module, kind, options), tokenizer

    replaces_processor = any(option in processors.OPTIONS for option in options)
    return Source(
        file.name,
        "local",
        task,
        _digest(file, _onnx_checks.external_files(graph), folder, options),
        make,
        kind,
        notes=(
            f"The reference is {file.name} as it is, run by {runtime} in float32, in place of a torch model.",
            *notes,
        ),
        folder=None if replaces_processor else folder,
        questioned=outputs is None,
        onnx_file=file,
    )


def _check_folder(file: Path, processor: Any) -> Path:
    if not file.is_file():
        what = "is no file" if file.exists() else "does not exist"
        raise ModelError(f"The model {file} {what}, expected an ONNX file. Correct the path.", code="model-not-found")
    if processor is None:
        raise UsageError(
            f"{file.name} is an ONNX graph, which has no labels and no tokenizer. "
            "Give the Hugging Face folder that it was exported from: processor=FOLDER (--processor FOLDER).",
            code="processor-missing",
        )
    if not isinstance(processor, (str, os.PathLike)) or not Path(processor).is_dir():
        what = str(processor) if isinstance(processor, (str, os.PathLike)) else f"a {type(processor).__name__}"
        raise UsageError(
            f"processor is {what}, expected an existing folder with config.json and the tokenizer or image processor. "
            "Correct the path.",
            code="processor-not-folder",
        )
    return Path(processor)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} has no config.json, which names the labels. Save it there: config.save_pretrained(FOLDER).",
            code="model-no-config",
        )
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if "auto_map" in read_object(folder / name):
            raise ModelError(
                f"{folder} brings code of its own ({name} has auto_map), and no code of a model is run. "
                "Take auto_map out of a copy.",
                code="model-own-code",
            )
    return read_object(folder / "config.json")


def _find_task(file: Path, config: Mapping[str, Any], task: str | None) -> str:
    if task is not None:
        heads.get(task)  # an unknown name is refused with the known ones
        return task
    architectures = [str(name) for name in config.get("architectures") or []]
    named = heads.for_architectures(architectures)
    if named is None:
        raise UsageError(
            f"The config beside {file.name} names no supported task "
            f"({', '.join(architectures) or 'no architectures'}). "
            f"Give it: task=NAME (--task NAME), one of: {', '.join(heads.names())}.",
            code="task-missing",
        )
    return named


def _load_config(folder: Path, entries: Mapping[str, Any]) -> Any:
    """Return the config of Transformers; for an unknown architecture, a plain one with the same entries."""
    from transformers import AutoConfig, PretrainedConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ValueError:
        return PretrainedConfig.from_dict(dict(entries))


def _make_module(file: Path, config: Any, rows: Mapping[str, int]) -> Any:
    """Return a torch module that runs the file in ONNX Runtime, in the place of a model of Transformers.

    Args:
        file: ONNX file.
        config: Config of the model.
        rows: Input name to the rows of the embedding table that its ids are looked up in.
    """
    import torch

    class OnnxModule(torch.nn.Module):  # type: ignore[misc]
        embedding_rows = rows
        reference_name = "ONNX Runtime reference"

        def __init__(self) -> None:
            super().__init__()
            self.config = config

        def open(self, signature: Signature, output: str) -> None:
            """Load the file.

            Args:
                signature: Inputs and outputs that the task expects.
                output: Name of the output with the scores of the labels in the file.
            """
            self._signature = signature
            self._output = output
            scores = signature.outputs[0]
            file_signature = Signature(
                signature.name, signature.inputs, (TensorSpec(output, scores.dtype, scores.shape),)
            )
            self._engine = backends.get("onnxruntime").open_device("cpu", cpus()).load(file, file_signature)

        def forward(self, **feeds: Any) -> Any:
            outputs = self._engine.run({name: tensor.numpy() for name, tensor in feeds.items()})
            scores = outputs[self._output]
            _onnx_checks.check_scores(file, self._signature, scores.shape, str(scores.dtype))
            return torch.from_numpy(scores)

    return OnnxModule().eval()


def _digest(file: Path, external: list[Path], folder: Path, options: Mapping[str, Any]) -> str:
    """Return the sha256 over the graph, its external data, the config and processor files, and the options."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in _CONFIG_SUFFIXES)
    digest = hashlib.sha256(b"onnx\0")
    for path in (file, *external, *files):
        digest.update(path.name.encode() + b"\0" + bytes.fromhex(sha256(path)))
    for option, value in sorted(options.items()):
        digest.update(f"{option}={value!r}".encode() + b"\0")
    return digest.hexdigest()
