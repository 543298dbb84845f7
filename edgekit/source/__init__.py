"""Sources: fine-tuned models from a local folder, the Hugging Face hub, or a torch module.

Only this package, ``export`` and ``compress`` use torch and transformers. A model is data: weights are read only from
safetensors, and code that comes with a model is not run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit import modalities, tasks
from edgekit.source import _values, _weights, heads
from edgekit.source._folder import class_of, locate, processors_of, read_config
from edgekit.source.modules import copy_for_export, entries, quiet
from edgekit.source.stack import KEPT_SIZES, keep_units
from edgekit.spec.digests import sha256
from edgekit.spec.errors import EdgekitError, ModelError, UsageError, near
from edgekit.spec.head import Head, Told
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Input, Modality, Task

__all__ = ["Source", "check_options", "from_module", "module_options", "options", "processors_of", "read"]


@dataclass(eq=False)
class Source:
    """A fine-tuned model with its torch module and its tokenizer or image processor.

    Users call :func:`read` or :func:`from_module` to make one.

    Attributes:
        model_id: Folder name or hub id.
        revision: Commit of the hub, or ``local``.
        task: Name of the task.
        digest: Digest of every file that affects the outputs of the model; None for a module from Python, since its
            code has no digest.
        make: Function that creates the module and the processor, called on first use.
        kind: Meaning of the outputs, in the form that the head uses.
        notes: Notes about how the model was read, one sentence each.
        folder: Folder whose processor files are compared with the processor in use; None for no comparison.
        questioned: Whether the caller did not state the form of the outputs, so that it is checked.
        onnx_file: ONNX file that takes the place of the export; None for a torch model.
    """

    model_id: str
    revision: str
    task: str
    digest: str | None
    make: Callable[[], tuple[Any, Any]] = field(repr=False)
    kind: Any
    _: KW_ONLY
    notes: Sequence[str] = ()
    folder: Path | None = None
    questioned: bool = False
    onnx_file: Path | None = None

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return self.make()

    @property
    def head(self) -> Head:
        """The part of the task that needs torch."""
        return heads.get(self.task)

    @property
    def modality(self) -> Modality:
        """The modality of the task without a model, which reads inputs."""
        return modalities.get(tasks.get(self.task).MODALITY).UNBOUND

    @property
    def module(self) -> Any:
        """The torch module, float32, in evaluation mode."""
        return self._loaded[0]

    @property
    def processor(self) -> Any:
        """The tokenizer or image processor of Transformers."""
        return self._loaded[1]

    def release(self) -> None:
        """Free the memory of the module; it is loaded again on the next use."""
        self.__dict__.pop("_loaded", None)

    @cached_property
    def settings(self) -> Any:
        """Settings of the task for this model, which a bundle stores.

        Raises:
            ModelError: If the processor cannot be used without Transformers, or the config is not consistent.
        """
        return self.head.settings(self.model_id, self.module, self.processor, self.kind)

    def save_assets(self, assets: Path) -> Task:
        """Write the assets of the task into a folder, and return the task that they describe."""
        self.head.save(self.settings, self.processor, assets)
        return tasks.get(self.task).load(assets)

    def check_inputs(self, inputs: Sequence[Input]) -> None:
        """Compare the processor's files in the folder with the loaded processor, unless the user chose one.

        Raises:
            ModelError: If their arrays differ for one of the inputs.
        """
        if self.folder is not None:
            processors_of(self.task).check_inputs(self.model_id, self.folder, self.processor, inputs)

    def check_outputs(self, inputs: Sequence[Input]) -> None:
        """Check the form of the outputs of a module from Python, unless the caller stated it.

        Raises:
            ModelError: If the outputs are not in the form that the head expects.
        """
        if not self.questioned:
            return
        try:
            self.head.check_outputs(self.model_id, self.kind, self.outputs(self.encode(inputs)))
        except ModelError as problem:
            if self.onnx_file is None:
                raise
            raise problem.reworded(
                f"The outputs of {self.model_id} look like probabilities, "
                "and a bundle applies its own softmax or sigmoid. "
                f"End the graph before them, or pass outputs='{heads.RAW_OUTPUTS}' "
                "if they are raw outputs all the same."
            ) from problem

    def encode(self, inputs: Sequence[Input]) -> list[Arrays]:
        """Return the arrays of each input by the processor of Transformers."""
        return self.head.encode(self.settings, self.processor, inputs)

    def outputs(self, rows: Sequence[Arrays], progress: Progress = silent) -> list[Arrays]:
        """Return the outputs of the torch module for rows, in their order: the reference.

        Args:
            rows: Rows from :meth:`encode`.
            progress: Function called after each batch.

        Raises:
            ModelError: If the module cannot process one of the rows.
        """
        return self.head.outputs(self.model_id, self.module, self.settings, rows, progress)


def read(model: str | Path, revision: str | None = None, **options: Any) -> Source:
    """Read a model from a local folder or the hub.

    Args:
        model: Local folder or hub id.
        revision: Branch, tag or commit of a hub id.
        **options: Options of the head and of the modality's processor, which override the model's files. For example,
            ``tokenizer`` is ``file`` (tokenizer.json as it is) or ``transformers`` (the result of ``AutoTokenizer``)
            where the two differ. None counts as absent.

    Raises:
        ModelError: If the model does not exist, has no config, only pickle weights, an adapter, code of its own, an
            unsupported architecture or task, or files that contradict each other.
        UsageError: If an option is unknown, or its value is not valid.
    """
    options = {option: value for option, value in options.items() if value is not None}
    for name in heads.names():
        processors_of(name).check_told(options)
    origin = locate(str(model), revision)
    config, task = read_config(origin)
    head = heads.get(task)
    processors = processors_of(task)
    check_options(options, (*head.OPTIONS, *processors.OPTIONS), task)
    weights = _weights.survey(origin.model_id, origin.folder, str(config["model_type"]))
    kind, notes = head.survey(origin.model_id, config, origin.folder, weights.shapes, options)
    notes += (*weights.notes, *processors.survey(origin.model_id, origin.folder, config, weights.shapes, options))

    def make() -> tuple[Any, Any]:
        try:
            with quiet():
                module, missing, unexpected = _read_module(head, origin.folder, weights, KEPT_SIZES in config)
                processor = processors.load(origin.model_id, origin.folder, options)
        except EdgekitError:
            raise
        except Exception as problem:  # Transformers raises errors of every class for a damaged folder.
            raise ModelError(
                f"{origin.model_id} (model type '{config['model_type']}') cannot be loaded by Transformers: {problem}. "
                f"Save model and {processors.NOUN} again.",
                code="model-load",
            ) from problem
        if missing:
            others = f", and has {len(unexpected)} with other names ({unexpected[0]} ...)" if unexpected else ""
            raise ModelError(
                f"{origin.model_id} lacks {len(missing)} of its weights ({missing[0]} ...), which Transformers would "
                f"fill with random numbers{others}. Save the fine-tuned model again, with its head.",
                code="weights-missing",
            )
        _weights.check_unexpected(origin.model_id, unexpected)
        _values.check_finite(origin.model_id, module, processor)
        return head.prepare(module.eval(), kind, options), processor

    chosen = any(option in processors.OPTIONS for option in options)
    return Source(
        origin.model_id,
        origin.revision,
        task,
        _digest(origin.folder, options),
        make,
        kind,
        notes=notes,
        folder=None if chosen else origin.folder,
    )


def options() -> dict[str, str]:
    """Return the options of :func:`read` for all tasks: name to help text."""
    known: dict[str, str] = {}
    for task in heads.names():
        known |= {**heads.get(task).OPTIONS, **processors_of(task).OPTIONS}
    return known


def module_options(task: str | None = None) -> set[str]:
    """Return the options of :func:`from_module` for all tasks.

    Args:
        task: Another task, of an installed package, whose options are included.
    """
    names = [*heads.names(), *([task] if task else [])]
    return {option for name in names for option in heads.get(name).MODULE_OPTIONS}


def check_options(options: Told, known: Sequence[str], task: str) -> None:
    """Check that a task has all options.

    Args:
        options: Options of the user.
        known: Names of the task's options.
        task: Name of the task, for the message.

    Raises:
        UsageError: If an option is unknown.
    """
    for option in options:
        if option not in known:
            raise UsageError(
                f"The task {task} has no option '{option}'.{near(option, known)} Known: {', '.join(known)}. "
                "Leave it out, or correct its name.",
                code="task-option-unknown",
            )


def _digest(folder: Path, options: Told) -> str:
    """Return the digest of every file that affects the outputs of the model, and of the user's options."""
    suffixes = (".json", ".txt", ".model", ".safetensors", ".jinja")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in suffixes)
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + bytes.fromhex(sha256(file)))
    for option, value in sorted(options.items(), reverse=True):
        digest.update(f"{option}={value!r}".encode() + b"\0")
    return digest.hexdigest()


# Eager attention is exported as products and a Softmax, for which every runtime has fused kernels.
_LOADING: dict[str, Any] = {"attn_implementation": "eager", "trust_remote_code": False}


def _read_module(head: Head, folder: Path, weights: _weights.Weights, pruned: bool) -> tuple[Any, list[str], list[str]]:
    """Return the module of a folder, its missing weights, and the weights without a place in it."""
    import torch
    import transformers

    auto = getattr(transformers, head.AUTO_CLASS)
    loading = {**_LOADING, "dtype": torch.float32}
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    if pruned:
        # Transformers cannot load layers of different widths, so the module is created, pruned and then filled.
        module = auto.from_config(config, **loading)
        keep_units(module, [(range(h), range(n)) for h, n in getattr(config, KEPT_SIZES)])
        missing, unexpected = module.load_state_dict(weights.load(), strict=False)
        return module, sorted(missing), sorted(unexpected)
    if weights.renamed:
        model_class = getattr(transformers, class_of(head, config.model_type))
        module, report = model_class.from_pretrained(
            None, config=config, state_dict=weights.load(), output_loading_info=True, **loading
        )
    else:
        module, report = auto.from_pretrained(
            folder, config=config, use_safetensors=True, local_files_only=True, output_loading_info=True, **loading
        )
    return module, sorted(report["missing_keys"]), sorted(report["unexpected_keys"])


def from_module(
    module: Any, processor: Any, task: str | None = None, outputs: str | None = None, **options: Any
) -> Source:
    """Return the source for a torch module, e.g. with a custom head, and a processor of Transformers.

    Args:
        module: Torch module that is called with the processor's arrays by keyword (``input_ids``, ``attention_mask``
            ...) and returns an output object of Transformers or the output tensor itself. Its ``module.config`` gives
            the meaning of the outputs (for labels, ``id2label``).
        processor: Fast tokenizer, or image processor.
        task: Name of the task; by default the one that the class's name ends in.
        outputs: Form of the outputs, if the head supports several. For example, ``probabilities`` means that the module
            ends in a softmax or a sigmoid, which is then inverted (exact except for rounding), since a bundle applies
            its own. With None, outputs that look like another form are refused.
        **options: Other options of the head.

    Raises:
        UsageError: If the task or an option is unknown, or ``module`` is not a torch module.
    """
    import torch

    name = type(module).__name__
    task = task or heads.for_architectures([name]) or heads.DEFAULT
    head = heads.get(task)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"module is a {name}, expected a torch.nn.Module. Pass the model itself.", code="module-type")
    if processor is None:
        noun = processors_of(task).NOUN
        raise UsageError(
            f"processor is missing: a module needs the {noun} that it was trained with. Pass processor=...",
            code="processor-missing",
        )
    all_options = {"outputs": outputs, **options}
    options = {option: value for option, value in all_options.items() if value is not None}
    check_options(options, head.MODULE_OPTIONS, task)
    kind, notes = head.survey(name, entries(getattr(module, "config", None)), None, {}, options)

    def make() -> tuple[Any, Any]:
        ready = copy_for_export(module)
        _values.check_finite(name, ready, processor)
        return head.prepare(ready, kind, options), processor

    return Source(name, "python", task, None, make, kind, notes=notes, questioned=outputs is None)
