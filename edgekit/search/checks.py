"""Checks of a target and of samples before a build starts, and notes on both for its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit import backends, quantize
from edgekit.backends import WrongResultsError
from edgekit.machine.cpu import INSTRUCTIONS, cpu_instructions, lacks_vnni
from edgekit.runtime.stand_in import AS_WRITTEN, STAND_IN, stand_in_for
from edgekit.search.outputs import LOW_FLOATS
from edgekit.spec.errors import BudgetError, SamplesError, UsageError, check_known, near
from edgekit.spec.manifest import Variant
from edgekit.spec.options import CALIBRATION_ROWS
from edgekit.spec.protocols import HasLabels, Task
from edgekit.spec.rows import encode_each
from edgekit.spec.target import USES, Target
from edgekit.stats.paired import fewest_rows

if TYPE_CHECKING:
    from edgekit.samples import Samples
    from edgekit.samples.evaluation import Evaluation

__all__ = [
    "AS_WRITTEN",
    "CALIBRATION_ROWS",
    "FULL_RANGE",
    "STAND_IN",
    "accuracy_backend",
    "check_calibration",
    "check_here",
    "check_rows",
    "check_strict",
    "check_target",
    "cut_notes",
    "explain_saturation",
    "instructions",
    "notes",
    "read_labels",
    "resolve_target",
    "runnable",
    "runs_here",
    "saturates_here",
    "without_wrong",
]

_MIN_ROWS_TO_NOTE = 16  # Fewer calibration rows may have one length or one label by chance.
FULL_RANGE = ("static", "dynamic")
"""Methods that multiply INT8 weights with INT8 activations on CPUs. With 8 bits, sums saturate without VNNI."""


def runs_here(backend: str) -> bool:
    """Return whether a build can run a backend on this machine.

    The backend must be installed, and must not need an engine of a device that may be absent.

    Args:
        backend: Name of the backend.
    """
    return not backends.get(backend).ENGINES and backends.installed_version(backend) is not None


def accuracy_backend(method: str, target: Target) -> tuple[str, str]:
    """Return the backend that scores the graphs of a method on this machine, and its device.

    It is the target's first backend that runs here, or the stand-in. Graphs in 16-bit floats for another device always
    run on the stand-in: a CPU backend computes them in float32, and the device may not.

    Args:
        method: Name of the quantization method.
        target: Device class.
    """
    backend = next((b for b in target.backends if b in quantize.get(method).BACKENDS and runs_here(b)), None)
    has_low_floats = bool(set(LOW_FLOATS) & set(quantize.get(method).PRECISIONS))
    if backend is None or (target.choose_on == "device" and has_low_floats):
        return STAND_IN, AS_WRITTEN
    return backend, target.device


def runnable(variant: Variant) -> Variant:
    """Return the variant itself, or its graphs on the stand-in if its backend does not run here."""
    if runs_here(variant.backend):
        return variant
    return replace(stand_in_for(variant), streams=variant.streams)


def resolve_target(target: Target, keep_float: Sequence[str], use: str | None) -> Target:
    """Return the target with the options of the build and with the number of bits of its INT8 weights.

    Weights have 7 bits on a CPU where the sums of 8-bit products saturate, and 8 bits on all others.

    Args:
        target: Device class.
        keep_float: Layers that stay in float, in addition to those of the target.
        use: ``latency`` or ``throughput``; None for the target's own.

    Raises:
        UsageError: If a use or an instruction set is unknown, or 8 bits are requested on a CPU where they saturate.
    """
    check_known([] if use is None else [use], USES, "use", listed="Expected one of")
    for name in target.instructions:
        if name not in INSTRUCTIONS:
            raise UsageError(
                f"Target '{target.name}' has the unknown instruction set '{name}'.{near(name, INSTRUCTIONS)} "
                f"Known: {', '.join(INSTRUCTIONS)}.",
                code="instructions-unknown",
            )
    saturates = lacks_vnni(instructions(target))
    if target.quantize.weight_bits == 8 and saturates and set(FULL_RANGE) & set(target.methods):
        raise UsageError(
            f"Target '{target.name}' sets weight_bits = 8, but its CPU has no INT8 dot product (VNNI): sums of 8-bit "
            "products saturate, and the device would refuse the bundle. Set weight_bits = 7, or leave it out.",
            code="target-weight-bits",
        )
    default_bits = 7 if saturates else 8
    settings = replace(
        target.quantize,
        weight_bits=target.quantize.weight_bits or default_bits,
        keep_float=tuple(dict.fromkeys((*target.quantize.keep_float, *keep_float))),
    )
    return replace(target, quantize=settings, use=use or target.use)


def instructions(target: Target) -> tuple[str, ...]:
    """Return the instruction sets of the device's CPU: those that the target names, or else this machine's."""
    return target.instructions or cpu_instructions()


def check_target(target: Target) -> None:
    """Check the backends and methods of a target before anything is loaded.

    Raises:
        UsageError: If a backend or method is unknown, or the target has no candidate.
        BackendError: If a backend that must race here, or write its graphs here, is not installed, or does not serve
            the device.
    """
    for method in target.methods:
        quantize.get(method)
    for backend in target.backends:
        backends.get(backend).check_target(target)
        if backends.is_needed_to_build(backend, target):
            backends.get(backend).check_here()
    if not any(set(quantize.get(method).BACKENDS) & set(target.backends) for method in target.methods):
        raise UsageError(
            f"Target '{target.name}' has no candidate: none of its methods ({', '.join(target.methods)}) runs on its "
            f"backends ({', '.join(target.backends)}). Add a method or a backend.",
            code="target-no-candidate",
        )
    if target.engine is None:
        return
    for method in target.methods:
        missing = [p for p in quantize.get(method).PRECISIONS if p not in target.engine.precisions]
        if missing:
            raise UsageError(
                f"The method '{method}' computes in {missing[0]}, which the chip of target '{target.name}' does not "
                f"support (supported: {', '.join(target.engine.precisions)}). Remove the method from the target.",
                code="target-precision",
            )


def check_here(target: Target) -> None:
    """Check that this machine can time models for a target.

    Raises:
        UsageError: If candidates for the target are timed on the device only.
    """
    if target.choose_on == "device":
        raise UsageError(
            f"Layers are pruned by their measured latency, and this machine is not the device of target "
            f"'{target.name}'. Prune on the device, or for the target cpu.",
            code="prune-other-machine",
        )


def without_wrong(target: Target) -> tuple[Target, list[str]]:
    """Remove the backends that compute wrong results on this machine from a target.

    Returns:
        The target with the other backends, and a note on each removed one.

    Raises:
        WrongResultsError: If no other backend is left for any of its methods.
    """
    usable: list[str] = []
    sentences: list[str] = []
    last_error: WrongResultsError | None = None
    for backend in target.backends:
        try:
            if runs_here(backend):
                backends.get(backend).open_device(target.device, 1).close()
            usable.append(backend)
        except WrongResultsError as error:
            last_error = error
            sentences.append(f"No candidate ran on '{backend}': {error}")
    if last_error is None:
        return target, []
    if not any(set(quantize.get(method).BACKENDS) & set(usable) for method in target.methods):
        raise last_error
    return replace(target, backends=tuple(usable)), sentences


def check_calibration(task: Task, calibration: Samples, target: Target) -> None:
    """Check that the calibration rows show the range of activations.

    Args:
        task: Task of the model.
        calibration: Calibration rows.
        target: Device class.

    Raises:
        SamplesError: If a method needs more rows, or all rows have the same input.
    """
    for method in target.methods:
        needed = quantize.get(method).NEEDS_SAMPLES
        if len(calibration) < needed:
            raise SamplesError(
                f"{calibration.where} has {len(calibration)} rows. The method '{method}' of target '{target.name}' "
                f"needs at least {needed} to measure the range of activations. Add samples; they need no labels.",
                code="calibration-too-few",
            )
        if needed > 1 and _count_different(task, calibration) == 1:
            raise SamplesError(
                f"All {len(calibration)} rows of {calibration.where} have the same input, so the method '{method}' "
                "would measure the activations of one input only. Give samples as varied as real inputs.",
                code="calibration-same",
            )


def check_strict(task: Task, target: Target, evaluation: Samples) -> None:
    """Check that the rows are enough for ``strict``: a candidate without any changed answer must be able to pass.

    Args:
        task: Task of the model.
        target: Device class with its budget.
        evaluation: Labelled rows.

    Raises:
        SamplesError: If there are too few rows, with the number that is needed.
    """
    limit = target.budget.accuracy_drop
    rows = _count_different(task, evaluation)
    if limit is None:
        return
    if limit == 0:
        raise SamplesError(
            "strict with the budget accuracy_drop=0 cannot be met: no number of rows proves a drop of exactly 0. "
            "Allow a small drop, e.g. 0.005.",
            code="budget-unprovable",
        )
    needed = fewest_rows(limit)
    if rows < needed:
        raise SamplesError(
            f"{evaluation.where} has {rows} different rows. To prove a drop of at most {limit:g} with strict takes at "
            f"least {needed:,} rows, even without any wrong answer. Add rows, allow a larger drop, or omit strict.",
            code="samples-too-few",
        )


def _count_different(task: Task, samples: Samples) -> int:
    """Return the number of different inputs."""
    return len(set(samples.contents(task.modality)))


def read_labels(task: Task, samples: Samples) -> Evaluation:
    """Read the rows of a file with their labels.

    Args:
        task: Task of the model.
        samples: Labelled rows.

    Raises:
        SamplesError: If a row has no label, or one that the model does not know, or if all rows have the same label.
            The score itself refuses equal labels that are numbers.
    """
    rows = samples.evaluation(task)
    if isinstance(task, HasLabels) and len(rows) > 1 and len(set(task.describe_truth(rows.truth))) == 1:
        raise SamplesError(
            f"All {len(rows)} rows of {samples.where} have the same label, so a model that always predicts it would be "
            "perfect. Give rows of all labels.",
            code="samples-one-label",
        )
    return rows


def check_rows(task: Task, files: Iterable[Samples | None]) -> None:
    """Check that a session would accept the rows of sample files.

    Args:
        task: Task of the model.
        files: Sample files; None is skipped.

    Raises:
        SamplesError: If it would not, with the first such row.
    """
    for samples in files:
        if samples is not None:
            task.modality.check(samples.inputs, samples.where)


def cut_notes(task: Task, parts: Mapping[str, Samples]) -> tuple[str, ...]:
    """Return a note on rows that are longer than the model's limit, if there are any.

    Args:
        task: Task of the model.
        parts: Calibration and evaluation rows by these names.
    """
    cut: dict[str, int] = {}
    for name, samples in parts.items():
        cut[name] = sum(row.truncated for row in encode_each(task, samples.inputs))
    if not any(cut.values()):
        return ()
    counts = " and ".join(f"{cut[name]:,} of {len(samples):,} {name} rows" for name, samples in parts.items())
    return (f"{counts} are longer than the model's limit of {task.max_size:,} tokens and were truncated.",)


def notes(target: Target, calibration: Samples, lengths: Sequence[int]) -> tuple[str, ...]:
    """Return notes on the conditions of a build, one sentence each.

    Args:
        target: Device class.
        calibration: Calibration rows.
        lengths: Size of each calibration row, e.g. in tokens; 1 if all rows have one shape.
    """
    sentences = []
    # Rows without a length, e.g. images, all have the length 1, see ``Modality.size``.
    if len(lengths) >= _MIN_ROWS_TO_NOTE and len(set(lengths)) == 1 and lengths[0] > 1:
        sentences.append(
            f"All {len(lengths)} calibration rows have {lengths[0]} tokens: activation ranges and compiled shapes hold "
            "for that length only. Give rows with the lengths of real inputs."
        )
    labels = [row.label for row in calibration.rows if row.label is not None]
    if len(labels) >= _MIN_ROWS_TO_NOTE and all(label == labels[0] for label in labels):
        sentences.append(
            f"All {len(labels)} calibration rows have the same label: activation ranges may not hold for other inputs."
        )
    host = set(cpu_instructions())
    device = set(instructions(target))
    if host != device:
        parts = []
        if device - host:
            parts.append(f"lacks {', '.join(sorted(device - host))}")
        if host - device:
            parts.append(f"additionally has {', '.join(sorted(host - device))}")
        sentences.append(
            f"The target's CPU has {', '.join(sorted(device))}; this machine {' and '.join(parts)}. "
            "Latencies and the rounding of INT8 answers were measured on this machine."
        )
    if target.quantize.weight_bits == 7 and lacks_vnni(tuple(device)):
        sentences.append(
            "The target's CPU has no INT8 dot product (VNNI), so weights have 7 bits: sums of 8-bit products saturate."
        )
    return tuple(sentences)


def saturates_here(target: Target) -> str:
    """Return a note if INT8 candidates saturate on this machine but not on the device; empty otherwise.

    This is the case for a build for ARM, or for x86 with VNNI, on an x86 machine without VNNI.
    """
    is_full_range = target.quantize.weight_bits == 8 and bool(set(FULL_RANGE) & set(target.methods))
    if not is_full_range or not lacks_vnni(cpu_instructions()):
        return ""
    return (
        "INT8 was scored with wrong kernels: this x86 machine has no INT8 dot products (VNNI), so sums of 8-bit "
        "products saturate here, and they do not on the target's CPU. Scores and the choice among INT8 candidates do "
        "not hold there. Build on a machine with VNNI or of the target's kind, or with weight_bits = 7."
    )


@contextlib.contextmanager
def explain_saturation(target: Target) -> Iterator[None]:
    """Append the note of :func:`saturates_here`, if any, to a :class:`BudgetError`.

    Raises:
        BudgetError: If the block raises one.
    """
    try:
        yield
    except BudgetError as error:
        note = saturates_here(target)
        if note:
            raise error.reworded(f"{error}\n{note}") from error
        raise
