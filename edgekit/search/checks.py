"""What can be said against a target or samples before any work is done, and what should be known of them afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit import backends, quantize
from edgekit.backends import WrongResultsError
from edgekit.machine.cpu import INSTRUCTIONS, cpu_instructions, lacks_vnni
from edgekit.runtime.stand_in import AS_WRITTEN, STAND_IN, stand_in_for
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
    "LOW_FLOATS",
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
    "runnable",
    "runs_here",
    "saturates_here",
    "settled",
    "without_wrong",
]

_UNLIKELY_EQUAL = 16
FULL_RANGE = ("static", "dynamic")
"""Methods whose INT8 weights are multiplied with INT8 activations on CPUs, where 8 bits saturate without VNNI."""
LOW_FLOATS = ("float16", "bfloat16")


def runs_here(backend: str) -> bool:
    """Whether a build asks a backend itself for answers: one that is installed, and needs no engine of a device that may not be here."""
    return not backends.get(backend).ENGINES and backends.installed_version(backend) is not None


def accuracy_backend(method: str, target: Target) -> tuple[str, str]:
    """The backend that says here what the graphs of a method answer, and its device: the first of the target's that runs here, or the stand-in.

    For a device elsewhere a graph of 16-bit floats is the stand-in's in any case: a CPU here computes it in float32, and the device need not.
    """
    own = next((b for b in target.backends if b in quantize.get(method).BACKENDS and runs_here(b)), None)
    elsewhere = target.choose_on == "device" and set(LOW_FLOATS) & set(quantize.get(method).PRECISIONS)
    return (STAND_IN, AS_WRITTEN) if own is None or elsewhere else (own, target.device)


def runnable(variant: Variant) -> Variant:
    """The variant itself, or the same graphs on the stand-in where its backend does not run here."""
    if runs_here(variant.backend):
        return variant
    return replace(stand_in_for(variant), streams=variant.streams)


def settled(target: Target, keep_float: Sequence[str], use: str | None) -> Target:
    """The target with what was said beside it, and with weights of as many bits as its CPU multiplies without saturating.

    Raises:
        UsageError: for an unknown use or instruction set, or for 8 bits on a CPU where they saturate.
    """
    check_known([] if use is None else [use], USES, "use", listed="Expected one of")
    for name in target.instructions:
        if name not in INSTRUCTIONS:
            raise UsageError(
                f"target '{target.name}': unknown instruction set '{name}'.{near(name, INSTRUCTIONS)} Known: {', '.join(INSTRUCTIONS)}.",
                code="instructions-unknown",
            )
    if target.quantize.weight_bits == 8 and lacks_vnni(instructions(target)) and set(FULL_RANGE) & set(target.methods):
        raise UsageError(
            f"target '{target.name}' asks for weight_bits = 8, and its CPU has no INT8 dot product (VNNI): sums of such products saturate there, and the "
            "bundle would be refused where it is to run. Write weight_bits = 7, or leave it out.",
            code="target-weight-bits",
        )
    bits = target.quantize.weight_bits or (7 if lacks_vnni(instructions(target)) else 8)
    told = replace(
        target.quantize, weight_bits=bits, keep_float=tuple(dict.fromkeys((*target.quantize.keep_float, *keep_float)))
    )
    return replace(target, quantize=told, use=use or target.use)


def instructions(target: Target) -> tuple[str, ...]:
    """Those of the device's CPU: as the target says, else this machine's."""
    return target.instructions or cpu_instructions()


def check_target(target: Target) -> None:
    """Refuses a target whose backends or methods are unknown or missing, before anything is loaded.

    Raises:
        UsageError: when it has no candidate.
        BackendError: when a backend that must race here is not installed, or does not serve the device.
    """
    for method in target.methods:
        quantize.get(method)
    for backend in target.backends:
        backends.get(backend).check_target(target)
        if target.choose_on == "host":
            backends.get(backend).check_here()
    if not any(set(quantize.get(method).BACKENDS) & set(target.backends) for method in target.methods):
        raise UsageError(
            f"Target '{target.name}' has no candidate: none of its methods ({', '.join(target.methods)}) runs on its backends ({', '.join(target.backends)}). "
            "Add a method or a backend.",
            code="target-no-candidate",
        )
    if target.engine is not None:
        for method in target.methods:
            if lacking := [p for p in quantize.get(method).PRECISIONS if p not in target.engine.precisions]:
                raise UsageError(
                    f"The method '{method}' multiplies in {lacking[0]}, which the chip of target '{target.name}' does not have "
                    f"(it has {', '.join(target.engine.precisions)}). Take the method out of the target.",
                    code="target-precision",
                )


def check_here(target: Target) -> None:
    """Refuses a target whose devices this machine does not stand for: there is no clock.

    Raises:
        UsageError: where the device chooses.
    """
    if target.choose_on == "device":
        raise UsageError(
            f"Layers are pruned by the time they take, and this machine is not the device of target '{target.name}'. Prune there, or for cpu.",
            code="prune-other-machine",
        )


def without_wrong(target: Target) -> tuple[Target, list[str]]:
    """The target without the backends that compute wrong results on this machine, and what to know of each that is left out.

    Raises:
        WrongResultsError: when it has no other backend for any of its methods.
    """
    left, said, last = [], list[str](), None
    for backend in target.backends:
        try:
            if runs_here(backend):
                backends.get(backend).open_device(target.device, 1).close()
            left.append(backend)
        except WrongResultsError as problem:
            last = problem
            said.append(f"No candidate ran on '{backend}': {problem}")
    if last is not None and not any(set(quantize.get(method).BACKENDS) & set(left) for method in target.methods):
        raise last
    return replace(target, backends=tuple(left)), said


def check_calibration(task: Task, calibration: Samples, target: Target) -> None:
    """Refuses rows that cannot show the range of activations.

    Raises:
        SamplesError: when there are too few for a method, or all are the same text.
    """
    for method in target.methods:
        needed = quantize.get(method).NEEDS_SAMPLES
        if len(calibration) < needed:
            raise SamplesError(
                f"{calibration.where} has {len(calibration)} rows, the method '{method}' of target '{target.name}' needs at least {needed} "
                "to see the range of activations. Give more samples; labels are not needed.",
                code="calibration-too-few",
            )
        if needed > 1 and _different(task, calibration) == 1:
            raise SamplesError(
                f"All {len(calibration)} rows of {calibration.where} are the same text, so the method '{method}' would see the activations of one text only. "
                "Give samples as varied as what the model will be asked.",
                code="calibration-same",
            )


def check_strict(task: Task, target: Target, evaluation: Samples) -> None:
    """Refuses rows too few to prove a drop within the budget even of a candidate that answers every one as the model does.

    Raises:
        SamplesError: with the rows that it takes at least.
    """
    limit, rows = target.budget.accuracy_drop, _different(task, evaluation)
    if limit is None:
        return
    if limit == 0:
        raise SamplesError(
            "No number of rows proves a drop of nothing at all, which strict with the budget accuracy_drop=0 asks for. Allow some, e.g. 0.005.",
            code="budget-unprovable",
        )
    if rows < (needed := fewest_rows(limit)):
        raise SamplesError(
            f"{evaluation.where} has {rows} rows, and strict asks for the upper end of the drop's interval to be within {limit:g}: it takes at least "
            f"{needed:,} rows, even for a candidate that answers them all as the model does. Give more rows, allow a larger drop, or leave strict out.",
            code="samples-too-few",
        )


def _different(task: Task, samples: Samples) -> int:
    """Number of different inputs."""
    return len(set(samples.contents(task.modality)))


def read_labels(task: Task, samples: Samples) -> Evaluation:
    """The rows of a file with their truth.

    Raises:
        SamplesError: for a row without a label, one that the model does not know, or several rows that all have the same. Of numbers the score itself
            refuses equal ones.
    """
    rows = samples.evaluation(task)
    if isinstance(task, HasLabels) and len(rows) > 1 and len(set(task.describe_truth(rows.truth))) == 1:
        raise SamplesError(
            f"All {len(rows)} rows of {samples.where} have the same label, so a model that always gives that one would be perfect. Give rows of all labels.",
            code="samples-one-label",
        )
    return rows


def check_rows(task: Task, files: Iterable[Samples | None]) -> None:
    """Refuses rows that a session would refuse.

    Raises:
        SamplesError: with the first such row.
    """
    for samples in files:
        if samples is not None:
            task.modality.check(samples.inputs, samples.where)


def cut_notes(task: Task, parts: Mapping[str, Samples]) -> tuple[str, ...]:
    """A sentence with the counts where rows are longer than the model reads.

    Args:
        task: of the model.
        parts: calibration and evaluation rows, by those names.
    """
    cut = {name: sum(row.truncated for row in encode_each(task, samples.inputs)) for name, samples in parts.items()}
    if not any(cut.values()):
        return ()
    counts = " and ".join(f"{cut[name]:,} of {len(samples):,} {name} rows" for name, samples in parts.items())
    return (
        f"{counts} are longer than the {task.max_size:,} tokens that the model reads: what is beyond was not looked at.",
    )


def notes(target: Target, calibration: Samples, lengths: Sequence[int]) -> tuple[str, ...]:
    """What should be known of a build beside its measurements, a sentence each.

    Args:
        target: the target.
        calibration: its rows.
        lengths: of each row, e.g. in tokens; 1 where rows do not vary.
    """
    said = []
    # A length of 1 is that of rows which have none: all have one shape, see ``Modality.size``.
    if len(lengths) >= _UNLIKELY_EQUAL and len(set(lengths)) == 1 and lengths[0] > 1:
        said.append(
            f"All {len(lengths)} calibration rows have {lengths[0]} tokens: ranges, and the shapes that were compiled, hold for that length; "
            "give rows as short and long as those in use."
        )
    labels = [row.label for row in calibration.rows if row.label is not None]
    if len(labels) >= _UNLIKELY_EQUAL and all(label == labels[0] for label in labels):
        said.append(
            f"All {len(labels)} calibration rows have the same label: ranges may be those of one kind of input."
        )
    here, there = set(cpu_instructions()), set(instructions(target))
    if here != there:
        parts = [f"has not {', '.join(sorted(there - here))}"] if there - here else []
        parts += [f"has {', '.join(sorted(here - there))} beside it"] if here - there else []
        said.append(
            f"The target's CPU has {', '.join(sorted(there))}; this machine {' and '.join(parts)}: "
            "times, and how INT8 answers are rounded, are this machine's."
        )
    if target.quantize.weight_bits == 7 and lacks_vnni(tuple(there)):
        said.append(
            "The target's CPU has no INT8 dot product (VNNI), so weights have 7 bits: with 8, sums of products would saturate."
        )
    return tuple(said)


def saturates_here(target: Target) -> str:
    """What to know where candidates are scored by kernels that are wrong here and right on the device; empty where they are not.

    A build for ARM, or for x86 with VNNI, on an x86 machine without it: sums of 8-bit products saturate here alone.
    """
    if (
        target.quantize.weight_bits != 8
        or not set(FULL_RANGE) & set(target.methods)
        or not lacks_vnni(cpu_instructions())
    ):
        return ""
    return (
        "INT8 was scored by kernels that are wrong: sums of 8-bit products saturate on this machine, an x86 without INT8 dot products (VNNI), and do not on "
        "the target's CPU. Scores and the choice among INT8 candidates do not hold there: build on a machine with VNNI or of the target's kind, or with "
        "weight_bits = 7."
    )


@contextlib.contextmanager
def explain_saturation(target: Target) -> Iterator[None]:
    """Adds to the error that no candidate is inside the budget what to know where candidates were scored by kernels that are wrong here."""
    try:
        yield
    except BudgetError as problem:
        if mirrored := saturates_here(target):
            raise BudgetError(f"{problem}\n{mirrored}", code="budget-size") from problem
        raise
