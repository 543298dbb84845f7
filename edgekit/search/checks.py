"""What can be said against a target or samples before any work is done, and what should be known of them afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgekit import backends, quantize
from edgekit.backends import WrongResultsError
from edgekit.machine.cpu import INSTRUCTIONS, cpu_instructions, cpus, lacks_vnni
from edgekit.modalities.limits import check_rows
from edgekit.samples import Samples
from edgekit.spec.errors import SamplesError, UsageError, near
from edgekit.spec.manifest import MAX_TOKENS, Variant
from edgekit.spec.target import USES, Target
from edgekit.stats.paired import fewest_rows
from edgekit.tasks.text_classification import TextClassification

_UNLIKELY_EQUAL = 16
FULL_RANGE = ("static", "dynamic")
"""Methods whose INT8 weights are multiplied with INT8 activations on CPUs, where 8 bits saturate without VNNI."""
STAND_IN = "onnxruntime"
"""Answers for a backend that this machine cannot run: accuracy is the graph's."""
AS_WRITTEN = "reference"  # its device that computes a graph as ONNX defines it
LOW_FLOATS = ("float16", "bfloat16")


def runs_here(backend: str) -> bool:
    """Whether a build asks a backend itself for answers: one that is installed, and needs no engine of a device that may not be here."""
    return not backends.get(backend).ENGINES and backends.installed_version(backend) is not None


def answers_for(method: str, aim: Target) -> tuple[str, str]:
    """The backend that says here what the graphs of a method answer, and its device: the first of the target's that runs here, or the stand-in.

    For a device elsewhere a graph of 16-bit floats is the stand-in's in any case: a CPU here computes it in float32, and the device need not.
    """
    own = next((b for b in aim.backends if b in quantize.get(method).BACKENDS and runs_here(b)), None)
    elsewhere = aim.choose_on == "device" and set(LOW_FLOATS) & set(quantize.get(method).PRECISIONS)
    return (STAND_IN, AS_WRITTEN) if own is None or elsewhere else (own, aim.device)


def runnable(variant: Variant) -> Variant:
    """The variant itself, or the same graphs on the stand-in where its backend does not run here."""
    if runs_here(variant.backend):
        return variant
    return replace(variant, backend=STAND_IN, device=AS_WRITTEN, threads=cpus(), shapes=(), engine=None, engines={}, max_tokens=MAX_TOKENS)


def settled(aim: Target, keep_float: Sequence[str], use: str | None) -> Target:
    """The target with what was said beside it, and with weights of as many bits as its CPU multiplies without saturating.

    Raises:
        UsageError: for an unknown use or instruction set, or for 8 bits on a CPU where they saturate.
    """
    if use is not None and use not in USES:
        raise UsageError(f"Unknown use '{use}'.{near(use, USES)} Expected one of: {', '.join(USES)}.")
    for name in aim.instructions:
        if name not in INSTRUCTIONS:
            raise UsageError(f"target '{aim.name}': unknown instruction set '{name}'.{near(name, INSTRUCTIONS)} Known: {', '.join(INSTRUCTIONS)}.")
    if aim.quantize.weight_bits == 8 and lacks_vnni(instructions(aim)) and set(FULL_RANGE) & set(aim.methods):
        raise UsageError(
            f"target '{aim.name}' asks for weight_bits = 8, and its CPU has no INT8 dot product (VNNI): sums of such products saturate there, and the bundle "
            "would be refused where it is to run. Write weight_bits = 7, or leave it out."
        )
    bits = aim.quantize.weight_bits or (7 if lacks_vnni(instructions(aim)) else 8)
    told = replace(aim.quantize, weight_bits=bits, keep_float=tuple(dict.fromkeys((*aim.quantize.keep_float, *keep_float))))
    return replace(aim, quantize=told, use=use or aim.use)


def instructions(aim: Target) -> tuple[str, ...]:
    """Those of the device's CPU: as the target says, else this machine's."""
    return aim.instructions or cpu_instructions()


def check_target(aim: Target) -> None:
    """Refuses a target whose backends or methods are unknown or missing, before anything is loaded.

    Raises:
        UsageError: when it has no candidate.
        BackendError: when a backend that must race here is not installed, or does not serve the device.
    """
    for method in aim.methods:
        quantize.get(method)
    for backend in aim.backends:
        backends.get(backend).check_target(aim)
        if aim.choose_on == "host":
            backends.get(backend).check_here()
    if not any(set(quantize.get(method).BACKENDS) & set(aim.backends) for method in aim.methods):
        raise UsageError(
            f"Target '{aim.name}' has no candidate: none of its methods ({', '.join(aim.methods)}) runs on its backends ({', '.join(aim.backends)}). "
            "Add a method or a backend."
        )
    if aim.engine is not None:
        for method in aim.methods:
            if lacking := [p for p in quantize.get(method).PRECISIONS if p not in aim.engine.precisions]:
                raise UsageError(
                    f"The method '{method}' multiplies in {lacking[0]}, which the chip of target '{aim.name}' does not have "
                    f"(it has {', '.join(aim.engine.precisions)}). Take the method out of the target."
                )


def without_wrong(aim: Target) -> tuple[Target, list[str]]:
    """The target without the backends that compute wrong results on this machine, and what to know of each that is left out.

    Raises:
        WrongResultsError: when it has no other backend for any of its methods.
    """
    left, said, last = [], list[str](), None
    for backend in aim.backends:
        try:
            if runs_here(backend):
                backends.get(backend).open_device(aim.device, 1).close()
            left.append(backend)
        except WrongResultsError as problem:
            last = problem
            said.append(f"No candidate ran on '{backend}': {problem}")
    if last is not None and not any(set(quantize.get(method).BACKENDS) & set(left) for method in aim.methods):
        raise last
    return replace(aim, backends=tuple(left)), said


def check_calibration(calibration: Samples, aim: Target) -> None:
    """Refuses rows that cannot show the range of activations.

    Raises:
        SamplesError: when there are too few for a method, or all are the same text.
    """
    for method in aim.methods:
        needed = quantize.get(method).NEEDS_SAMPLES
        if len(calibration) < needed:
            raise SamplesError(
                f"{calibration.where} has {len(calibration)} rows, the method '{method}' of target '{aim.name}' needs at least {needed} "
                "to see the range of activations. Give more samples; labels are not needed."
            )
        if needed > 1 and len({row.inputs for row in calibration.rows}) == 1:
            raise SamplesError(
                f"All {len(calibration)} rows of {calibration.where} are the same text, so the method '{method}' would see the activations of one text only. "
                "Give samples as varied as what the model will be asked."
            )


def check_strict(aim: Target, evaluation: Samples) -> None:
    """Refuses rows too few to prove a drop within the budget even of a candidate that answers every one as the model does.

    Raises:
        SamplesError: with the rows that it takes at least.
    """
    limit, rows = aim.budget.accuracy_drop, len({row.inputs for row in evaluation.rows})
    if limit is None:
        return
    if limit == 0:
        raise SamplesError("No number of rows proves a drop of nothing at all, which strict with the budget accuracy_drop=0 asks for. Allow some, e.g. 0.005.")
    if rows < (needed := fewest_rows(limit)):
        raise SamplesError(
            f"{evaluation.where} has {rows} rows, and strict asks for the upper end of the drop's interval to be within {limit:g}: it takes at least "
            f"{needed:,} rows, even for a candidate that answers them all as the model does. Give more rows, allow a larger drop, or leave strict out."
        )


def check_labels(truth: np.ndarray, where: str) -> None:
    """Refuses labels that say nothing.

    Raises:
        SamplesError: when there are several rows and all have the same label.
    """
    if len(truth) > 1 and truth.dtype != np.float64 and (truth == truth[0]).all():  # numbers: the score itself refuses equal ones
        raise SamplesError(
            f"All {len(truth)} rows of {where} have the same label, so a model that always gives that one would be perfect. Give rows of all labels."
        )


def check_lengths(files: Iterable[Samples | None], max_length: int) -> None:
    """Refuses rows that a session would refuse.

    Raises:
        SamplesError: for a text beyond the default limit of characters, with its row.
    """
    for samples in files:
        if samples is not None:
            check_rows([row.inputs for row in samples.rows], max_length, samples.where)


def cut_notes(task: TextClassification, parts: Mapping[str, Samples]) -> tuple[str, ...]:
    """A sentence with the counts where rows are longer than the model reads.

    Args:
        task: with the encoder of the model.
        parts: calibration and evaluation rows, by those names.
    """
    cut = {name: sum(t.truncated for t in task.preprocess([row.inputs for row in rows.rows])) for name, rows in parts.items()}
    if not any(cut.values()):
        return ()
    counts = " and ".join(f"{cut[name]:,} of {len(rows):,} {name} rows" for name, rows in parts.items())
    limit = task.settings.max_length
    return (f"{counts} are longer than the {limit:,} tokens that the model reads: what is beyond was not looked at.",)


def notes(aim: Target, calibration: Samples, lengths: Sequence[int]) -> tuple[str, ...]:
    """What should be known of a build beside its measurements, a sentence each.

    Args:
        aim: the target.
        calibration: its rows.
        lengths: tokens of each row.
    """
    said = []
    if len(lengths) >= _UNLIKELY_EQUAL and len(set(lengths)) == 1:
        said.append(
            f"All {len(lengths)} calibration rows have {lengths[0]} tokens: ranges, and the shapes that were compiled, hold for that length; "
            "give rows as short and long as those in use."
        )
    labels = [row.label for row in calibration.rows if row.label is not None]
    if len(labels) >= _UNLIKELY_EQUAL and all(label == labels[0] for label in labels):
        said.append(f"All {len(labels)} calibration rows have the same label: ranges may be those of one kind of text.")
    here, there = set(cpu_instructions()), set(instructions(aim))
    if here != there:
        parts = [f"has not {', '.join(sorted(there - here))}"] if there - here else []
        parts += [f"has {', '.join(sorted(here - there))} beside it"] if here - there else []
        said.append(
            f"The target's CPU has {', '.join(sorted(there))}; this machine {' and '.join(parts)}: "
            "times, and how INT8 answers are rounded, are this machine's."
        )
    if aim.quantize.weight_bits == 7 and lacks_vnni(tuple(there)):
        said.append("The target's CPU has no INT8 dot product (VNNI), so weights have 7 bits: with 8, sums of products would saturate.")
    return tuple(said)


def saturates_here(aim: Target) -> str:
    """What to know where candidates are scored by kernels that are wrong here and right on the device; empty where they are not.

    A build for ARM, or for x86 with VNNI, on an x86 machine without it: sums of 8-bit products saturate here alone.
    """
    if aim.quantize.weight_bits != 8 or not set(FULL_RANGE) & set(aim.methods) or not lacks_vnni(cpu_instructions()):
        return ""
    return (
        "INT8 was scored by kernels that are wrong: sums of 8-bit products saturate on this machine, an x86 without INT8 dot products (VNNI), and do not on "
        "the target's CPU. Scores and the choice among INT8 candidates do not hold there: build on a machine with VNNI or of the target's kind, or with "
        "weight_bits = 7."
    )
