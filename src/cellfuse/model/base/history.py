"""What is logged in a training, epoch by epoch: over several trainings, resumes and processes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import Tensor

__all__ = ["Frames", "History", "n_epochs"]

Frames = dict[str, pd.DataFrame]


def n_epochs(history: Mapping[str, pd.DataFrame]) -> int:
    """Epochs of training that a history holds."""
    frame = history.get("train_loss_epoch")
    return 0 if frame is None or frame.empty else int(frame.index.max()) + 1


class History(L.Callback):
    """Keeps every logged number by epoch, as scvi-tools' `history` has it.

    Means over an epoch are its own: their running sums are in the checkpoints, so that the mean of
    an epoch that was resumed in its middle covers all of it.

    Parameters
    ----------
    before
        History of earlier trainings, which is gone on with.
    first_epoch
        Number of this training's first epoch.
    file
        Where rows are written by a process other than this one (devices that are forked or
        spawned), for this one to read.
    """

    def __init__(
        self,
        before: Mapping[str, pd.DataFrame] | None = None,
        *,
        first_epoch: int = 0,
        file: Path | None = None,
    ) -> None:
        self.rows: dict[str, dict[int, float]] = {
            name: dict(zip(map(int, frame.index), map(float, frame[name]), strict=True))
            for name, frame in (before or {}).items()
        }
        self.first_epoch = first_epoch
        self._file, self._home = file, os.getpid()
        self._trainer: L.Trainer | None = None
        #: Sum and number of documents of each mean: of this device, and of the part of the epoch
        #: that a checkpoint held (of all devices).
        self._sums: dict[str, Tensor] = {}
        self._held: dict[str, list[float]] = {}
        self._epoch = first_epoch

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Know who can add up over devices."""
        self._trainer = trainer

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the batch's losses up."""
        epoch = self.first_epoch + trainer.current_epoch
        if epoch != self._epoch:  # a checkpoint at an epoch's last step: its end was not reached
            self.take_means()
            self._epoch = epoch
        losses, n = module.latest  # type: ignore[misc]
        for name, value in losses.items():  # type: ignore[union-attr]
            term = torch.stack([value.float() * n, value.new_tensor(n, dtype=torch.float32)])
            self._sums[name] = self._sums[name] + term if name in self._sums else term

    def means(self) -> L.Callback:
        """What logs the epoch's means before any other callback looks at what is logged."""
        return _Means(self)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take down all that is logged (validation runs before this)."""
        epoch = self.first_epoch + trainer.current_epoch
        for name, value in trainer.callback_metrics.items():
            self.rows.setdefault(name, {})[epoch] = float(value)

    def take_means(self) -> dict[str, float]:
        """Take down the epoch's means over all devices, and begin anew."""
        found = {}
        for name, (total, n) in self._totals().items():
            mean = found[f"train_{name}_epoch"] = float(np.float32(total) / np.float32(n))
            self.rows.setdefault(f"train_{name}_epoch", {})[self._epoch] = mean
        self._sums, self._held = {}, {}
        return found

    def _totals(self) -> dict[str, list[float]]:
        """Sum and number of documents of each mean, over all devices."""
        names = sorted({*self._sums, *self._held})
        if not names or self._trainer is None:
            return {}
        zero = torch.zeros(2, device=next(iter(self._sums.values())).device) if self._sums else None
        here = [self._sums.get(name, zero) for name in names]
        found = torch.stack([x if x is not None else torch.zeros(2) for x in here])
        found = self._trainer.strategy.reduce(found, reduce_op="sum")
        held = torch.tensor([self._held.get(name, [0.0, 0.0]) for name in names])
        return dict(zip(names, (found.cpu() + held).tolist(), strict=True))

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Hand the rows to the process that will go on without this one."""
        self.take_means()
        if self._file is not None and os.getpid() != self._home and trainer.is_global_zero:
            self._file.write_text(json.dumps({n: list(r.items()) for n, r in self.rows.items()}))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, which is taken by all devices together."""
        return {
            "rows": self.rows,
            "first_epoch": self.first_epoch,
            "epoch": self._epoch,
            "sums": self._totals(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint; older ones hold rows alone."""
        self.rows = state["rows"]
        self.first_epoch = state.get("first_epoch", 0)
        self._epoch = state.get("epoch", self.first_epoch)
        self._sums, self._held = {}, state.get("sums", {})

    def frames(self) -> Frames:
        """One data frame per number, indexed by epoch."""
        rows = self.rows
        if self._file is not None and self._file.exists():
            rows = {n: dict(found) for n, found in json.loads(self._file.read_text()).items()}
        return {
            name: pd.DataFrame({name: values}).rename_axis("epoch") for name, values in rows.items()
        }


class _Means(L.Callback):
    """Logs what the history has of an epoch's training, for whoever stops or keeps by it."""

    def __init__(self, history: History) -> None:
        self._history = history

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Log the means, which are of all devices already."""
        for name, mean in self._history.take_means().items():
            shown = name == "train_loss_epoch"
            module.log(name, mean, prog_bar=shown, batch_size=1, sync_dist=True)
