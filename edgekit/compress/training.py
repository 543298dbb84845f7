"""The training loop, on Hugging Face accelerate: one process or many, resumable after each epoch.

Each process takes its share of every batch and weighs it by its number of rows, so that two processes take the very step
that one would: the batch is what the settings say, however many there are.

Why this is not ``transformers.Trainer``, as tried with transformers 5.23.0 and accelerate 1.15.0: with our batches (``get_train_dataloader``) and loss
(``compute_loss``) it trains two processes to the weights of one, and goes on from a whole checkpoint bit by bit. But a checkpoint is written file by file
in its final place: of a run that was killed within a save the next start takes the half one ("Can't find a valid checkpoint", or no
``trainer_state.json``), though a whole one is beside it. And it saves weights under the names of the hub and loads them with
``load_state_dict(strict=False)``: where these are other names than a module's, of ViT, DeiT, BEiT and Swin, no layer is loaded when a run goes on (all 40
tensors of a small ViT differed at its end), nor of the best epoch (32 of 40 were the last one's), and nothing but a warning says so
(huggingface/transformers issues 43701 and 48805). What would be left of it is a loop whose loader, loss, saving and loading are overridden.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgekit.compress._examples import Examples, batches
from edgekit.compress._layers import capture_last_layer
from edgekit.compress._teacher import Targets
from edgekit.compress.objective import Objective, gram, rows_loss
from edgekit.machine.cpu import cpu_instructions
from edgekit.source.batches import lengths, stack_outputs
from edgekit.spec.errors import CompressError
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.progress import Progress
from edgekit.spec.training import PRECISIONS, Training

__all__ = ["PRECISIONS", "Epoch", "Training", "TrainingData", "accelerator", "train"]

_LOG = logging.getLogger(__name__)
_TIMEOUT = timedelta(hours=4)  # other processes wait while the first one asks the teacher
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class TrainingData:
    """What is learnt.

    Attributes:
        examples: rows of an epoch.
        targets: the teacher's answers to all versions of them.
        objective: losses of the task.
        higher_is_better: False where a low score on the evaluation set is a good one.
    """

    examples: Examples
    targets: Targets
    objective: Objective
    higher_is_better: bool = True


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to.

    Attributes:
        loss: mean over its rows.
        score: on the evaluation set, after it.
        seconds: that it took, evaluation included.
    """

    loss: float
    score: float
    seconds: float


def accelerator(precision: str) -> Any:
    """An accelerator of the processes that were launched, or of this one alone."""
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # poolers and masks that this head does not use
    AcceleratorState._reset_state()  # it is one for the whole process, and an earlier run may have had another precision
    if precision == "auto" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        mixed = None  # as the launcher was told
    elif precision == "auto":
        has = (
            torch.cuda.is_bf16_supported()
            if torch.cuda.is_available()
            else bool({"avx512_bf16", "amx_bf16"} & set(cpu_instructions()))
        )
        mixed = "bf16" if has else "no"
    else:
        mixed = "bf16" if precision == "bfloat16" else "no"
    return Accelerator(mixed_precision=mixed, kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT), unused])


def train(
    student: Any,
    lesson: TrainingData,
    score: Callable[[Any], float],
    training: Training,
    runner: Any,
    work: Path,
    progress: Progress,
) -> list[Epoch]:
    """Trains a student and leaves in it the weights of the epoch with the best score.

    Args:
        student: trained in place.
        lesson: what is learnt.
        score: of a module on the evaluation set.
        training: how.
        runner: of :func:`accelerator`.
        work: folder for what lets a killed run go on; the caller removes it when the student is safe.
        progress: told after each step.

    Raises:
        CompressError: when the loss is not a number any more, or memory does not suffice.
    """
    import torch
    from safetensors.torch import load_model, save_model
    from transformers import get_linear_schedule_with_warmup

    examples, targets = lesson.examples, lesson.targets
    rows = lengths(examples.flat())
    steps = math.ceil(len(examples) / training.batch)
    groups = [
        [p for p in student.parameters() if p.requires_grad and (p.ndim > 1) is decays] for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}],
        training.learning_rate,
        weight_decay=training.weight_decay,
    )
    schedule = get_linear_schedule_with_warmup(
        optimizer, int(training.warmup * steps * training.epochs), steps * training.epochs
    )
    model, optimizer = runner.prepare(student, optimizer)
    runner.register_for_checkpointing(schedule)
    history, best = _resumed(runner, work)
    relation = bool(training.loss.relation) and targets.sizes is not None
    with capture_last_layer(student) if relation else contextlib.nullcontext() as seen, _without_layer_drop(student):
        stepper = _Stepper(runner, model, optimizer, lesson, training, seen)
        for number in range(len(history), training.epochs):
            if len(history) - best >= training.patience:
                break
            began, total = time.perf_counter(), 0.0
            torch.manual_seed(
                training.seed * 100_003 + number * 1009 + runner.process_index
            )  # so that a run that was resumed is the same run
            name = _said(number, training.epochs, history)
            student.train()
            for step, batch in enumerate(
                batches(examples.epoch(number), rows, training.batch, training.seed * 100_003 + number)
            ):
                own = batch[runner.process_index :: runner.num_processes]
                loss = stepper.step(own, len(batch), (number, step))
                schedule.step()
                total += loss
                progress(name, step + 1, steps)
            total = float(runner.reduce(torch.tensor(total, device=runner.device), reduction="sum")) / len(examples)
            student.eval()
            history.append(Epoch(total, score(student), time.perf_counter() - began))
            sign = 1 if lesson.higher_is_better else -1
            if sign * history[-1].score > max((sign * e.score for e in history[:-1]), default=-math.inf):
                best = len(history)
                if runner.is_main_process:
                    save_model(student, str(work / "best.new"))
                    (work / "best.new").replace(work / f"best-{best}.safetensors")
            last = history[-1]
            _LOG.info("epoch %d: loss %.4f, score %.4f, %.1f s", number + 1, last.loss, last.score, last.seconds)
            _keep(runner, work, history, best)
    if runner.is_main_process or (work / f"best-{best}.safetensors").is_file():
        load_model(student, str(work / f"best-{best}.safetensors"))
    student.eval()
    return history


@dataclass(frozen=True)
class _Stepper:
    """Takes the steps of this process.

    Attributes:
        runner: of :func:`accelerator`.
        model: the student as the runner wrapped it.
        optimizer: of its parameters.
        lesson: what is learnt.
        training: how.
        seen: what the student's last layer gave, see :func:`edgekit.compress._layers.capture_last_layer`; None where relations are not learnt.
    """

    runner: Any
    model: Any
    optimizer: Any
    lesson: TrainingData
    training: Training
    seen: list[Any] | None

    def step(self, own: Sequence[int], of: int, place: tuple[int, int]) -> float:
        """One step on this process's share of a batch.

        Args:
            own: the share.
            of: rows of the whole batch.
            place: number of the epoch and of the step in it, for messages.

        Returns:
            The sum of the loss over the share.
        """
        import torch

        # A batch of fewer rows than there are processes: one without a row of its own takes part with nothing, so that none waits for it.
        indices = own or [0]
        with _enough_memory(
            lambda count: self._loss(indices[:count]).backward(), len(indices), self.runner.num_processes
        ):
            loss = self._loss(indices) * (1.0 if own else 0.0)
            if not torch.isfinite(loss):
                raise CompressError(
                    f"The loss became {loss.item()} at step {place[1] + 1} of epoch {place[0] + 1}: training diverged. "
                    f"Try a lower learning rate than {self.training.learning_rate:g} (a third of it), a longer warm-up, or float32 precision.",
                    code="training-diverged",
                )
            # Gradients are averaged over processes: this makes it the mean over the batch.
            self.runner.backward(loss * self.runner.num_processes / of)
            self.runner.clip_grad_norm_(self.model.parameters(), self.training.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(loss.detach())

    def _loss(self, indices: Sequence[int]) -> Any:
        """The sum of the loss over some rows."""
        examples, targets, device = self.lesson.examples, self.lesson.targets, self.runner.device
        feeds = {n: t.to(device) for n, t in examples.feeds(indices).items()}
        student = self.lesson.objective.forward(self.model, feeds)
        relation = None
        if self.seen is not None:
            theirs, real = targets.relation(indices)
            relation = gram(self.seen[0]), theirs.to(device), real.to(device)
        teacher = {n: t.to(device) for n, t in stack_outputs([targets.outputs[i] for i in indices]).items()}
        # A label is of the row as it is: what an altered one means is for the teacher to say.
        truth = [examples.truth[i] if i < len(examples) else None for i in indices]
        return rows_loss(self.training.loss, self.lesson.objective, feeds, student, teacher, truth, relation).sum()


@contextlib.contextmanager
def _without_layer_drop(student: Any) -> Iterator[None]:
    """wav2vec 2.0 and its kin leave layers out at random in training; a student has few, and each is needed for what is asked of it."""
    owners = [o for o in (student.config, *student.modules()) if getattr(o, "layerdrop", 0)]
    before = [o.layerdrop for o in owners]
    for owner in owners:
        owner.layerdrop = 0.0
    try:
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.layerdrop = value


@contextlib.contextmanager
def _enough_memory(attempt: Callable[[int], None], rows: int, processes: int) -> Iterator[None]:
    """Turns an allocation that failed into an error that says which batch would fit, which is tried out."""
    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        if not isinstance(problem, MemoryError) and not any(said in str(problem).lower() for said in _NO_MEMORY):
            raise
        fits = rows // 2
        while fits:
            try:
                attempt(fits)
                break
            except (RuntimeError, MemoryError):
                fits //= 2
        advice = (
            f"A batch of {fits * processes} would fit: --batch {fits * processes}."
            if fits
            else "Not even a batch of 1 fits: use a machine with more."
        )
        raise CompressError(
            f"Memory does not suffice for a training step of {rows * processes} rows. {advice}", code="training-memory"
        ) from problem


def _said(number: int, epochs: int, history: Sequence[Epoch]) -> str:
    """What a bar says of an epoch: where training is, what the last one came to, and how long the rest takes."""
    if not history:
        return f"epoch 1/{epochs}"
    left = (epochs - number) * sum(e.seconds for e in history) / len(history)
    return f"epoch {number + 1}/{epochs} (loss {history[-1].loss:.3f}, score {history[-1].score:.4f}, at most {left / 60:.0f} min left)"


def _keep(runner: Any, work: Path, history: Sequence[Epoch], best: int) -> None:
    """Puts the state after an epoch in place of the one before; a run that is killed in between finds one of the two whole."""
    new, final = work / "state.new", work / f"state-{len(history)}"
    if runner.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    runner.wait_for_everyone()
    runner.save_state(str(new))
    if runner.is_main_process:
        (new / "history.json").write_text(to_json({"epochs": plain(tuple(history)), "best": best}), "utf-8")
        new.rename(final)
        for old in (*work.glob("state-*"), *work.glob("best-*")):
            if old not in (final, work / f"best-{best}.safetensors"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    runner.wait_for_everyone()


def _resumed(runner: Any, work: Path) -> tuple[list[Epoch], int]:
    """The epochs that were done before, and which was the best; the state after them is loaded."""
    states = sorted(work.glob("state-*"), key=lambda p: int(p.name.partition("-")[2]))
    if not states:
        return [], 0
    runner.load_state(str(states[-1]))
    found = json.loads((states[-1] / "history.json").read_text("utf-8"))
    return [Epoch(**e) for e in found["epochs"]], int(found["best"])
