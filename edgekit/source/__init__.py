"""A Hugging Face folder or hub id -> Source. torch and transformers live here, in ``export`` and in ``compress``, and nowhere else.

A model is data here: weights are read from safetensors only, and no code that comes with a model is run.
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
from edgekit.source._folder import checked_config, class_of, locate, processors_of
from edgekit.source.modules import copied, entries, quiet
from edgekit.source.stack import WIDTHS, narrow
from edgekit.spec.digests import sha256
from edgekit.spec.errors import EdgekitError, ModelError, UsageError, near
from edgekit.spec.head import Head, Told
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Input, Modality, Task

__all__ = ["Source", "check_options", "from_module", "module_options", "options", "processors_of", "read"]


@dataclass(eq=False)
class Source:
    """A fine-tuned model: what it is, its torch module, its tokenizer or image processor. :func:`read` and :func:`from_module` make it.

    Attributes:
        model_id: Folder name or hub id.
        revision: Commit of the hub, or ``local``.
        task: Name of its task.
        digest: Digest of every file or tensor that decides what the model computes; None for a module given from Python, whose code has no digest.
        make: Function that makes the module and the processor, called on first use.
        kind: Meaning of the outputs, as the head reads it.
        notes: Notes on how the model was read, a sentence each.
        folder: Folder whose processor files are compared with the processor that counts; None for no comparison.
        questioned: Whether the form of the outputs was not stated by the caller, and is checked.
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

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return self.make()

    @property
    def head(self) -> Head:
        """All of the task that needs torch."""
        return heads.get(self.task)

    @property
    def modality(self) -> Modality:
        """How inputs of the task are read, before any model is loaded."""
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
        """Lets go of the module's memory; it is made anew when it is needed again."""
        self.__dict__.pop("_loaded", None)

    @cached_property
    def settings(self) -> Any:
        """What the runtime must know of the model: the settings of its task.

        Raises:
            ModelError: when the processor cannot be used without Transformers, or the config is not consistent.
        """
        return self.head.settings(self.model_id, self.module, self.processor, self.kind)

    def save_assets(self, assets: Path) -> Task:
        """Writes the assets of the task into a folder, and makes the task of them."""
        self.head.save(self.settings, self.processor, assets)
        made: Task = tasks.get(self.task).load(assets)
        return made

    def check_inputs(self, inputs: Sequence[Input]) -> None:
        """Compares the processor's files in the folder with the processor that counts, where none was chosen.

        Raises:
            ModelError: when they make different arrays of one of the inputs.
        """
        if self.folder is not None:
            processors_of(self.task).check_inputs(self.model_id, self.folder, self.processor, inputs)

    def check_outputs(self, inputs: Sequence[Input]) -> None:
        """Refuses outputs of a module from Python that are not what its head takes, unless the caller said what they are.

        Raises:
            ModelError: with what to do.
        """
        if self.questioned:
            self.head.check_outputs(self.model_id, self.kind, self.outputs(self.encode(inputs)))

    def encode(self, inputs: Sequence[Input]) -> list[Arrays]:
        """What the processor of Transformers makes of each input."""
        return self.head.encode(self.settings, self.processor, inputs)

    def outputs(self, rows: Sequence[Arrays], progress: Progress = silent) -> list[Arrays]:
        """What the torch module computes for rows, in their order: the reference.

        Args:
            rows: as :meth:`encode` gives them.
            progress: told after each batch.

        Raises:
            ModelError: when the module cannot take one of the rows.
        """
        return self.head.outputs(self.model_id, self.module, self.settings, rows, progress)


def read(model: str | Path, revision: str | None = None, **told: Any) -> Source:
    """Takes a local folder or a hub id.

    Args:
        model: the folder or the id.
        revision: branch, tag or commit of an id.
        **told: what the user says of the model in place of its files, options of its head and of its modality's processor, e.g. ``tokenizer``: ``file``
            (tokenizer.json as it is) or ``transformers`` (what ``AutoTokenizer`` makes of it) where the two differ. None is as left out.

    Raises:
        ModelError: when it does not exist, has no config, only pickle weights, an adapter, code of its own, an unsupported
            architecture or task, or files that contradict each other.
        UsageError: for an option that does not exist, or a value that it cannot have.
    """
    told = {option: value for option, value in told.items() if value is not None}
    for name in heads.names():
        processors_of(name).check_told(told)
    origin = locate(str(model), revision)
    config, task = checked_config(origin)
    head, processors = heads.get(task), processors_of(task)
    check_options(told, (*head.OPTIONS, *processors.OPTIONS), task)
    weights = _weights.survey(origin.model_id, origin.folder, str(config["model_type"]))
    kind, notes = head.survey(origin.model_id, config, origin.folder, weights.shapes, told)
    notes += (*weights.notes, *processors.survey(origin.model_id, origin.folder, config, weights.shapes, told))

    def make() -> tuple[Any, Any]:
        try:
            with quiet():
                module, missing, beside = _read_module(head, origin.folder, weights, WIDTHS in config)
                processor = processors.load(origin.model_id, origin.folder, told)
        except EdgekitError:
            raise
        except Exception as problem:  # Transformers raises of every kind for a damaged folder
            what = f"{origin.model_id} (model type '{config['model_type']}')"
            raise ModelError(
                f"{what} cannot be loaded by Transformers: {problem}. Save model and {processors.NOUN} again.",
                code="model-load",
            ) from problem
        if missing:
            others = f", and holds {len(beside)} of other names ({beside[0]} ...)" if beside else ""
            raise ModelError(
                f"{origin.model_id} lacks {len(missing)} of its weights ({missing[0]} ...), which Transformers would "
                "fill with random numbers"
                f"{others}. Save the fine-tuned model again, with its head.",
                code="weights-missing",
            )
        _weights.check_unexpected(origin.model_id, beside)
        _values.check_finite(origin.model_id, module, processor)
        return head.prepare(module.eval(), kind, told), processor

    chosen = any(option in processors.OPTIONS for option in told)
    return Source(
        origin.model_id,
        origin.revision,
        task,
        _digest(origin.folder, told),
        make,
        kind,
        notes=notes,
        folder=None if chosen else origin.folder,
    )


def options() -> dict[str, str]:
    """What may be said of model folders, for any task: option of :func:`read` to a sentence of help."""
    known: dict[str, str] = {}
    for task in heads.names():
        known |= {**heads.get(task).OPTIONS, **processors_of(task).OPTIONS}
    return known


def module_options(task: str | None = None) -> set[str]:
    """What may be said of modules from Python, for any task of EdgeKit, and for this one, which an installed package may bring."""
    return {option for name in (*heads.names(), *filter(None, [task])) for option in heads.get(name).MODULE_OPTIONS}


def check_options(told: Told, known: Sequence[str], task: str) -> None:
    """Refuses options that a task does not have.

    Raises:
        UsageError: with the known ones.
    """
    for option in told:
        if option not in known:
            raise UsageError(
                f"'{option}' is no option of {task}.{near(option, known)} Known: {', '.join(known)}. Leave it out.",
                code="task-option-unknown",
            )


def _digest(folder: Path, told: Told) -> str:
    """Of every file that decides what the model computes, and of what was chosen beside them."""
    files = sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix in (".json", ".txt", ".model", ".safetensors", ".jinja")
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + bytes.fromhex(sha256(file)))
    for option, value in sorted(told.items(), reverse=True):
        digest.update(f"{option}={value!r}".encode() + b"\0")
    return digest.hexdigest()


# Eager attention exports as plain products and a Softmax, which every runtime has fused kernels for.
_LOADING: dict[str, Any] = {"attn_implementation": "eager", "trust_remote_code": False}


def _read_module(head: Head, folder: Path, weights: _weights.Weights, pruned: bool) -> tuple[Any, list[str], list[str]]:
    """The module of a folder, the weights that the folder lacks, and those that the module has no place for."""
    import torch
    import transformers

    auto, loading = getattr(transformers, head.AUTO_CLASS), {**_LOADING, "dtype": torch.float32}
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    if pruned:  # Transformers knows no layers of several widths, so the module is made, narrowed and filled
        module = auto.from_config(config, **loading)
        narrow(module, [(range(h), range(n)) for h, n in getattr(config, WIDTHS)])
        missing, unexpected = module.load_state_dict(weights.load(), strict=False)
        return module, sorted(missing), sorted(unexpected)
    if weights.renamed:
        made = getattr(transformers, class_of(head, config.model_type))
        module, report = made.from_pretrained(
            None, config=config, state_dict=weights.load(), output_loading_info=True, **loading
        )
    else:
        module, report = auto.from_pretrained(
            folder, config=config, use_safetensors=True, local_files_only=True, output_loading_info=True, **loading
        )
    return module, sorted(report["missing_keys"]), sorted(report["unexpected_keys"])


def from_module(
    module: Any, processor: Any, task: str | None = None, outputs: str | None = None, **told: Any
) -> Source:
    """Takes a torch module and a processor of Transformers from Python: a head of one's own.

    Args:
        module: called with the processor's arrays by keyword (``input_ids``, ``attention_mask`` ...); returns what models of its task return, or the
            outputs bare. It needs a ``module.config`` that says what they mean (for labels ``id2label``).
        processor: a fast tokenizer, or an image processor.
        task: the task; by default the one that the class's name ends in.
        outputs: what the module returns, where its head takes that in several forms, e.g. ``probabilities`` of a module that ends in a softmax or a
            sigmoid, which is then undone (exact but for rounding), since a bundle applies its own. None: what looks like another form is refused.
        **told: other options of the head.

    Raises:
        UsageError: for an unknown task or option, or something that is no module.
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
    told = {option: value for option, value in {"outputs": outputs, **told}.items() if value is not None}
    check_options(told, head.MODULE_OPTIONS, task)
    kind, notes = head.survey(name, entries(getattr(module, "config", None)), None, {}, told)

    def make() -> tuple[Any, Any]:
        ready = copied(module)
        _values.check_finite(name, ready, processor)
        return head.prepare(ready, kind, told), processor

    return Source(name, "python", task, None, make, kind, notes=notes, questioned=outputs is None)
