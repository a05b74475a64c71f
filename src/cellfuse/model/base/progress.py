"""How far a training is and how long it takes: one line, in a terminal, a notebook or a log."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from tqdm import tqdm

from cellfuse._console import duration

__all__ = ["Progress"]

#: Seconds between two lines of a log, and before the first, which has the estimate.
EVERY, FIRST = 30.0, 5.0


class Progress(L.Callback):
    """Shows epochs, the loss and the time that is left; nothing but the main process does.

    In a terminal one line is written over; where the output goes to a file, a line is written
    every half minute, the first after five seconds, so that a long training is known for one
    before it has taken long.
    """

    def __init__(self) -> None:
        self.bar: Any = None
        self.start = self.said = 0.0
        self.first_step = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin; a resumed training begins where it was."""
        self.start, self.first_step = time.perf_counter(), trainer.global_step
        self.said = self.start + FIRST - EVERY
        if trainer.is_global_zero and sys.stderr.isatty():
            self.bar = tqdm(
                total=self._total(trainer),
                initial=trainer.global_step,
                desc="training",
                bar_format="{desc} {percentage:3.0f}% |{bar:20}| {elapsed} gone, {remaining} left",
                leave=False,
            )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """One step more."""
        if not trainer.is_global_zero:
            return
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)
            return
        now = time.perf_counter()
        done = trainer.global_step - self.first_step
        if now - self.said < EVERY or done < 1:
            return
        self.said = now
        text = f"  epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        total = self._total(trainer)
        if total is not None:
            left = (now - self.start) / done * (total - trainer.global_step)
            text += f", about {duration(max(left, 0.0))} left"
        print(text, file=sys.stderr, flush=True)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Show the losses of the epoch."""
        if self.bar is None:
            return
        names = {"train_loss_epoch": "loss", "validation_loss": "validation"}
        shown = [
            f"{label} {float(trainer.callback_metrics[name]):.3g}"
            for name, label in names.items()
            if name in trainer.callback_metrics
        ]
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} {', '.join(shown)}"
        self.bar.set_description_str(text.strip())

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Clear the line."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException
    ) -> None:
        """Clear the line before the error."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    @staticmethod
    def _total(trainer: L.Trainer) -> int | None:
        total = float(trainer.estimated_stepping_batches)
        return int(total) if total < float("inf") else None
