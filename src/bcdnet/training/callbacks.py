"""What happens beside the optimiser: averaging, rows of metrics, checkpoints, the progress bar.

Lightning calls callbacks in the order of its list; `callbacks_of` gives the only right one: a checkpoint has to hold
the average and the rows of the iteration that it is of.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from bcdnet.errors import BcdnetError
from bcdnet.evaluation import Evaluation
from bcdnet.training.flips import SignHistory
from bcdnet.training.log import CsvRows
from bcdnet.training.module import Running, StepModule

Snapshot = dict[str, Any]


def iteration_done(module: StepModule, batch: Any) -> bool:
    """Whether the batch that just ended was the last part of an iteration, so that the optimiser has stepped."""
    return bool((batch[2] + 1) % module.config.accumulate == 0)


class AverageUpdate(Callback):
    """Takes the new weights into the moving average."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After every optimiser step."""
        if pl_module.average is not None and iteration_done(pl_module, batch):
            pl_module.average.update(pl_module.model)


class Recorder(Callback):
    """Writes rows to the loggers, and evaluates at the end of an epoch where it is due.

    `evaluate` runs on every process and returns the same on all of them. `seconds` is the training time so far, that of
    earlier processes included and evaluation left out; `evaluation` the newest one, as plain values, made by this
    process after iteration `evaluated_at`. `history` gives the share of binary weights that an epoch has flipped.
    """

    def __init__(
        self,
        log_every: int,
        evaluate_every: int,
        evaluate: Callable[[], Evaluation],
        say: Callable[[str], None],
        seconds: float,
        evaluation: dict[str, Any] | None,
        history: SignHistory,
    ) -> None:
        self.log_every = log_every
        self.evaluate_every = evaluate_every
        self.evaluate = evaluate
        self.say = say
        self.seconds = seconds
        self.evaluation = evaluation
        self.history = history
        self.evaluated_at: int | None = None
        self._resumed_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._resumed_at = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.seconds + time.perf_counter() - self._resumed_at

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A `train` row every `log_every` iterations."""
        iteration = pl_module.iteration
        if iteration_done(pl_module, batch) and iteration % self.log_every == 0:
            loss, top1 = means(trainer, pl_module.interval)
            pl_module.interval.sums.zero_()
            pl_module.shown = {"loss": loss, "top1": top1}
            self._write(trainer, pl_module, {"event": "train", "train_loss": loss, "train_top1": top1})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """An `epoch` row, with an evaluation where it is due and always after the last epoch."""
        self.seconds = self.elapsed()
        plan, iteration = pl_module.plan, pl_module.iteration
        loss, top1 = means(trainer, pl_module.epoch)
        pl_module.epoch.sums.zero_()
        row: dict[str, Any] = {"event": "epoch", "train_loss": loss, "train_top1": top1}
        if (rate := self.history.rate()) is not None:
            row["flip_rate"] = rate
        epoch = -(-iteration // plan.per_epoch)
        if epoch % self.evaluate_every == 0 or iteration == plan.iterations:
            result = self.evaluate()
            self.evaluation, self.evaluated_at = result.to_json(), iteration
            row |= {"val_loss": result.loss, "val_top1": result.top1, "val_top5": result.top5}
        self._resumed_at = time.perf_counter()
        self._write(trainer, pl_module, row)
        self.say(describe(pl_module, epoch, row, self.elapsed()))

    def _write(self, trainer: pl.Trainer, module: StepModule, row: dict[str, Any]) -> None:
        epoch, done = divmod(module.iteration, module.plan.per_epoch)
        place = {
            "epoch": epoch + done / module.plan.per_epoch,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": self.elapsed(),
        }
        scalars = {f"{row['event']}/{key}": value for key, value in {**place, **row}.items() if key != "event"}
        for logger in trainer.loggers:
            rows = isinstance(logger, CsvRows)
            logger.log_metrics({**place, **row} if rows else scalars, step=module.iteration)


class Checkpointer(Callback):
    """Calls `save(snapshot)` on the first process, every `every` iterations, after every evaluation and at the end that
    SIGTERM or Ctrl-C asks for; a second Ctrl-C does not wait for it.
    """

    def __init__(self, every: int, recorder: Recorder, save: Callable[[Snapshot], None]) -> None:
        self.every = every
        self.recorder = recorder
        self.save = save
        self.signal = 0  # what this process was sent: SIGTERM, as by schedulers that take the machine, or SIGINT

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take SIGTERM from Lightning, whose handler waits in it for other processes, and these elsewhere for it.

        And Ctrl-C, unless it is ignored or somebody else's already.
        """
        if threading.current_thread() is threading.main_thread():  # Lightning puts back what was there before it
            signal.signal(signal.SIGTERM, self._receive)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._receive)

    def _receive(self, number: int, _: Any) -> None:
        if number == signal.SIGINT:
            if self.signal:
                raise KeyboardInterrupt
            # Not by print, which a signal may have come in the middle of.
            os.write(2, b"\nstopping after this iteration, with a checkpoint; Ctrl-C again stops at once\n")
        self.signal = number

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Within an epoch; at its end the evaluation comes first, so that a resumed run need not repeat it."""
        iteration = pl_module.iteration
        if iteration_done(pl_module, batch) and not pl_module.plan.epoch_ends_at(iteration):
            self._reach(trainer, pl_module, iteration % self.every == 0, self.recorder.elapsed())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """With the epoch's row and evaluation behind it."""
        # Epochs can be so short, on a GPU, that a checkpoint of each would take a tenth of the training.
        iteration = pl_module.iteration
        due = iteration % self.every == 0 or iteration == self.recorder.evaluated_at
        self._reach(trainer, pl_module, due, self.recorder.seconds)

    def _reach(self, trainer: pl.Trainer, module: StepModule, due: bool, seconds: float) -> None:
        """Save if it is due or a process is to end, which all do then: a signal reaches each in another iteration."""
        received = self.signal
        if trainer.world_size > 1:
            received = int(trainer.strategy.reduce(torch.tensor(received, device=module.device), reduce_op="max"))
        if due or received:
            self._save(trainer, module, seconds)
        if received:
            raise KeyboardInterrupt if received == signal.SIGINT else SIGTERMException

    def _save(self, trainer: pl.Trainer, module: StepModule, seconds: float) -> None:
        # Processes have sums of their own; each gets its share of the whole back when the run is resumed.
        share = 1 / trainer.world_size
        running = {
            name: total(trainer, part).cpu() * share
            for name, part in (("interval", module.interval), ("epoch", module.epoch))
        }
        check_converging(float(running["epoch"][0]))  # else it would take the place of a network that is worth more
        if trainer.is_global_zero:
            self.save(
                {
                    "iteration": module.iteration,
                    "model": module.model.state_dict(),
                    "optimizer": trainer.optimizers[0].state_dict(),
                    "average": None if module.average is None else module.average.state_dict(),
                    "running": running,
                    "seconds": seconds,
                    "evaluation": self.recorder.evaluation,
                    "signs": [signs.cpu() for signs in self.recorder.history.signs],
                }
            )


class StepProgress(RichProgressBar):
    """Lightning's bar, told the step's name, epoch and length, which Lightning does not know of a resumed run."""

    def __init__(self, module: StepModule) -> None:
        super().__init__(refresh_rate=4, leave=False)
        self.module = module

    @property
    def total_train_batches(self) -> int:
        """Parts left in the present epoch when it began in this process."""
        plan, done = self.module.plan, self.module.iteration
        left = min(plan.per_epoch - done % plan.per_epoch, plan.iterations - done)
        return left * self.module.config.accumulate

    def _get_train_description(self, current_epoch: int) -> str:
        plan = self.module.plan
        return f"{self.module.step.name} epoch {self.module.iteration // plan.per_epoch + 1}/{plan.epochs}"

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        """The newest row's figures."""
        return dict(pl_module.shown)


def total(trainer: pl.Trainer, running: Running) -> Tensor:
    """The sums over all processes."""
    summed = trainer.strategy.reduce(running.sums.clone(), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return summed


def check_converging(loss: float) -> None:
    """Raise BcdnetError for a loss, or a sum of some, that is NaN or infinite: no later one will be finite again."""
    if not math.isfinite(loss):
        raise BcdnetError(
            "the loss is not a finite number any more: this training has diverged. A lower lr, a longer warm-up or "
            "clip_norm may help; begin in a new run_dir"
        )


def means(trainer: pl.Trainer, running: Running) -> tuple[float, float]:
    """Mean loss, and top-1 in percent, of all images since the sums were cleared; see `check_converging`."""
    loss, hits, images = total(trainer, running).tolist()
    check_converging(loss)
    return loss / max(images, 1), 100 * hits / max(images, 1)


def describe(module: StepModule, epoch: int, row: dict[str, Any], seconds: float) -> str:
    """One line for a run's log."""
    validation = f", val loss {row['val_loss']:.4f} top-1 {row['val_top1']:.2f} %" if "val_top1" in row else ""
    return (
        f"{module.step.name} epoch {epoch}/{module.plan.epochs}: loss {row['train_loss']:.4f} "
        f"top-1 {row['train_top1']:.2f} %{validation}, {seconds:.0f} s"
    )


def callbacks_of(recorder: Recorder, checkpointer: Checkpointer, module: StepModule) -> list[Callback]:
    """The callbacks in the order that makes a checkpoint hold all that belongs to its iteration.

    There is a progress bar where a person watches; a run's log has one line per epoch either way.
    """
    callbacks: list[Callback] = [AverageUpdate(), recorder, checkpointer]
    return [*callbacks, StepProgress(module)] if sys.stdout.isatty() else callbacks
