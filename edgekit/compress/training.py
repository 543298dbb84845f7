"""The training loop, on Hugging Face accelerate: one or several processes, resumable after each epoch.

Each process computes its share of every batch, weighted by its number of rows. So the batch is always that of the
settings, and two processes take the same steps as one.

Why not ``transformers.Trainer`` (tested: transformers 5.23.0, accelerate 1.15.0)? With our batches
(``get_train_dataloader``) and loss (``compute_loss``), it trains two processes to the same weights as one, and it
resumes exactly from a complete checkpoint. It has two defects:

- It writes a checkpoint file by file in its final place. If a run is killed during a save, the next run picks the
  incomplete checkpoint and fails ("Can't find a valid checkpoint", or no ``trainer_state.json``), although a complete
  one is beside it.
- It saves weights under the names of the hub and loads them with ``load_state_dict(strict=False)``. For ViT, DeiT, BEiT
  and Swin these names differ from the module's, so no layer is restored, and only a warning is printed
  (huggingface/transformers issues 43701 and 48805). For a small ViT all 40 tensors differed after a resumed run, and
  32 of 40 tensors of the best epoch were those of the last one.

After overriding loader, loss, saving and loading, only the loop itself would remain.
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
_TIMEOUT = timedelta(hours=4)  # The other processes wait while the main process runs the teacher.
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class TrainingData:
    """Examples, targets and losses of a training run.

    Attributes:
        examples: Rows of an epoch.
        targets: Teacher's answers to all versions of the rows.
        objective: Losses of the task.
        higher_is_better: Whether a higher score on the evaluation set is better.
    """

    examples: Examples
    targets: Targets
    objective: Objective
    higher_is_better: bool = True


@dataclass(frozen=True)
class Epoch:
    """Result of an epoch.

    Attributes:
        loss: Mean loss over the rows.
        score: Score on the evaluation set after the epoch.
        seconds: Duration, evaluation included.
    """

    loss: float
    score: float
    seconds: float


def accelerator(precision: str) -> Any:
    """Return an accelerator for the launched processes, or for this process alone.

    Args:
        precision: One of :data:`PRECISIONS`.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    # Some weights, e.g. a pooler, are not used by every head.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # The state is global in the process, and an earlier run may have set another precision.
    AcceleratorState._reset_state()
    if precision == "auto" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        mixed = None  # The launcher's setting applies.
    elif precision == "auto":
        mixed = "bf16" if _has_bfloat16() else "no"
    else:
        mixed = "bf16" if precision == "bfloat16" else "no"
    return Accelerator(mixed_precision=mixed, kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT), unused])


def _has_bfloat16() -> bool:
    """Return whether the GPU, or without one the CPU, has bfloat16 instructions."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool({"avx512_bf16", "amx_bf16"} & set(cpu_instructions()))


def train(
    student: Any,
    data: TrainingData,
    score: Callable[[Any], float],
    training: Training,
    runner: Any,
    work: Path,
    progress: Progress,
) -> list[Epoch]:
    """Train a student in place; it ends with the weights of the epoch with the best score.

    Args:
        student: Torch module to train.
        data: Examples, targets and losses.
        score: Function that returns the score of a module on the evaluation set.
        training: Settings.
        runner: Accelerator from :func:`accelerator`.
        work: Folder for the state after each epoch, from which a killed run is resumed. The caller removes it once the
            student is saved.
        progress: Function that is called after each step.

    Returns:
        The epochs in order, those of an interrupted run included.

    Raises:
        CompressError: If the loss is no longer finite, or memory is insufficient.
    """
    import torch
    from safetensors.torch import load_model, save_model
    from transformers import get_linear_schedule_with_warmup

    examples = data.examples
    row_lengths = lengths(examples.flat())
    steps = math.ceil(len(examples) / training.batch)
    optimizer = _make_optimizer(student, training)
    schedule = get_linear_schedule_with_warmup(
        optimizer, int(training.warmup * steps * training.epochs), steps * training.epochs
    )
    model, optimizer = runner.prepare(student, optimizer)
    runner.register_for_checkpointing(schedule)
    history, best = _load_state(runner, work)
    has_relations = bool(training.loss.relation) and data.targets.sizes is not None
    capture = capture_last_layer(student) if has_relations else contextlib.nullcontext()
    with capture as captured, _disable_layer_drop(student):
        stepper = _Stepper(runner, model, optimizer, data, training, captured)
        for number in range(len(history), training.epochs):
            if len(history) - best >= training.patience:
                break
            start = time.perf_counter()
            total = 0.0
            epoch_seed = training.seed * 100_003 + number
            # A seed per epoch and process makes a resumed run equal to an uninterrupted one.
            torch.manual_seed(training.seed * 100_003 + number * 1009 + runner.process_index)
            label = _progress_label(number, training.epochs, history)
            student.train()
            for step, batch in enumerate(batches(examples.epoch(number), row_lengths, training.batch, epoch_seed)):
                share = batch[runner.process_index :: runner.num_processes]
                loss = stepper.step(share, len(batch), (number, step))
                schedule.step()
                total += loss
                progress(label, step + 1, steps)
            total = float(runner.reduce(torch.tensor(total, device=runner.device), reduction="sum")) / len(examples)
            student.eval()
            history.append(Epoch(total, score(student), time.perf_counter() - start))
            sign = 1 if data.higher_is_better else -1
            if sign * history[-1].score > max((sign * e.score for e in history[:-1]), default=-math.inf):
                best = len(history)
                if runner.is_main_process:
                    save_model(student, str(work / "best.new"))
                    (work / "best.new").replace(work / f"best-{best}.safetensors")
            last = history[-1]
            _LOG.info("epoch %d: loss %.4f, score %.4f, %.1f s", number + 1, last.loss, last.score, last.seconds)
            _save_state(runner, work, history, best)
    if runner.is_main_process or (work / f"best-{best}.safetensors").is_file():
        load_model(student, str(work / f"best-{best}.safetensors"))
    student.eval()
    return history


def _make_optimizer(student: Any, training: Training) -> Any:
    """Return an AdamW optimizer; biases and norms have no weight decay."""
    import torch

    trainable = [p for p in student.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim > 1]
    vectors = [p for p in trainable if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        training.learning_rate,
        weight_decay=training.weight_decay,
    )


@dataclass(frozen=True)
class _Stepper:
    """The training steps of this process.

    Attributes:
        runner: Accelerator from :func:`accelerator`.
        model: Student as wrapped by the accelerator.
        optimizer: Optimizer of its parameters.
        data: Examples, targets and losses.
        training: Settings.
        captured: Output of the student's last layer, from :func:`edgekit.compress._layers.capture_last_layer`; None
            without relations.
    """

    runner: Any
    model: Any
    optimizer: Any
    data: TrainingData
    training: Training
    captured: list[Any] | None

    def step(self, share: Sequence[int], batch_rows: int, place: tuple[int, int]) -> float:
        """Take one step on this process's share of a batch.

        Args:
            share: Flat indices of the rows of the share.
            batch_rows: Rows of the whole batch.
            place: Index of the epoch and of the step in it, for messages.

        Returns:
            Sum of the loss over the share.
        """
        import torch

        # A batch may have fewer rows than there are processes. A process without a row computes any row with weight 0,
        # because the others wait for it when gradients are averaged.
        indices = share or [0]
        weight = 1.0 if share else 0.0
        processes = self.runner.num_processes
        with _explain_no_memory(lambda count: self._loss(indices[:count]).backward(), len(indices), processes):
            loss = self._loss(indices) * weight
            if not torch.isfinite(loss):
                raise CompressError(
                    f"Training diverged: the loss became {loss.item()} at step {place[1] + 1} of epoch {place[0] + 1}. "
                    f"Try a learning rate of a third of {self.training.learning_rate:g}, a longer warm-up, or float32 "
                    "precision.",
                    code="training-diverged",
                )
            # Gradients are averaged over the processes; this factor makes them the mean over the batch.
            self.runner.backward(loss * processes / batch_rows)
            self.runner.clip_grad_norm_(self.model.parameters(), self.training.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(loss.detach())

    def _loss(self, indices: Sequence[int]) -> Any:
        """Return the sum of the loss over some rows."""
        examples = self.data.examples
        targets = self.data.targets
        device = self.runner.device
        feeds = {name: tensor.to(device) for name, tensor in examples.feeds(indices).items()}
        student = self.data.objective.forward(self.model, feeds)
        relation = None
        if self.captured is not None:
            teacher_cosines, mask = targets.relation(indices)
            relation = gram(self.captured[0]), teacher_cosines.to(device), mask.to(device)
        stacked = stack_outputs([targets.outputs[i] for i in indices])
        teacher = {name: tensor.to(device) for name, tensor in stacked.items()}
        # A label belongs to the original row only; the target of an altered version is the teacher's answer.
        truth: list[Any] = []
        for index in indices:
            truth.append(examples.truth[index] if index < len(examples) else None)
        return rows_loss(self.training.loss, self.data.objective, feeds, student, teacher, truth, relation).sum()


@contextlib.contextmanager
def _disable_layer_drop(student: Any) -> Iterator[None]:
    """Disable LayerDrop, by which wav2vec 2.0 and similar models skip random layers in training.

    A student has few layers and needs all of them.
    """
    owners = [owner for owner in (student.config, *student.modules()) if getattr(owner, "layerdrop", 0)]
    before = [owner.layerdrop for owner in owners]
    for owner in owners:
        owner.layerdrop = 0.0
    try:
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.layerdrop = value


@contextlib.contextmanager
def _explain_no_memory(attempt: Callable[[int], None], rows: int, processes: int) -> Iterator[None]:
    """Turn a failed allocation into an error with the batch size that fits, determined by trial.

    Args:
        attempt: Function that runs a step on some of the rows.
        rows: Rows of this process.
        processes: Number of processes.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        message = str(problem).lower()
        if not isinstance(problem, MemoryError) and not any(text in message for text in _NO_MEMORY):
            raise
        fitting_rows = rows // 2
        while fitting_rows:
            try:
                attempt(fitting_rows)
                break
            except (RuntimeError, MemoryError):
                fitting_rows //= 2
        if fitting_rows:
            advice = f"A batch of {fitting_rows * processes} fits: --batch {fitting_rows * processes}."
        else:
            advice = "Not even one row fits: use a machine with more memory."
        raise CompressError(
            f"Memory is insufficient for a training step of {rows * processes} rows. {advice}", code="training-memory"
        ) from problem


def _progress_label(number: int, epochs: int, history: Sequence[Epoch]) -> str:
    """Return the label of the progress bar in an epoch: its number, the last result, and the time left at most."""
    if not history:
        return f"epoch 1/{epochs}"
    seconds_left = (epochs - number) * sum(e.seconds for e in history) / len(history)
    last = f"loss {history[-1].loss:.3f}, score {history[-1].score:.4f}"
    return f"epoch {number + 1}/{epochs} ({last}, at most {seconds_left / 60:.0f} min left)"


def _save_state(runner: Any, work: Path, history: Sequence[Epoch], best: int) -> None:
    """Save the state after an epoch, then remove the state before it; a killed run leaves at least one complete."""
    unfinished = work / "state.new"
    state = work / f"state-{len(history)}"
    if runner.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    runner.wait_for_everyone()
    runner.save_state(str(unfinished))
    if runner.is_main_process:
        (unfinished / "history.json").write_text(to_json({"epochs": plain(tuple(history)), "best": best}), "utf-8")
        unfinished.rename(state)
        for path in (*work.glob("state-*"), *work.glob("best-*")):
            if path in (state, work / f"best-{best}.safetensors"):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    runner.wait_for_everyone()


def _load_state(runner: Any, work: Path) -> tuple[list[Epoch], int]:
    """Load the last saved state, if there is one.

    Returns:
        The completed epochs, and the number of the best one, from 1; 0 if there is none.
    """
    states = sorted(work.glob("state-*"), key=lambda path: int(path.name.partition("-")[2]))
    if not states:
        return [], 0
    runner.load_state(str(states[-1]))
    record = json.loads((states[-1] / "history.json").read_text("utf-8"))
    return [Epoch(**epoch) for epoch in record["epochs"]], int(record["best"])
