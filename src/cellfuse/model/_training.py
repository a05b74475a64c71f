"""Training: one Lightning module for every method, its history, its trainer."""

from __future__ import annotations

import hashlib
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import signature
from typing import Any

import lightning as L
import pandas as pd
import torch
from torch import Tensor, nn

from cellfuse.data import Batch, DocumentDataModule

__all__ = ["Averaged", "History", "Training", "fit", "seeded"]

Losses = Callable[[Batch, bool], dict[str, Tensor]]


@contextmanager
def seeded(*numbers: int, device: torch.device | None = None) -> Iterator[None]:
    """Make torch's random numbers a function of `numbers`; the caller's state is put back.

    Parameters
    ----------
    *numbers
        One or several; a single one is the seed as it is.
    device
        GPU whose generator is seeded too; by default the CPU's alone.
    """
    mixed = hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest()
    seed = int(numbers[0]) if len(numbers) == 1 else int.from_bytes(mixed, "little")
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        yield


class Training(L.LightningModule):
    """AdamW or SGD, with linear warm-up and cosine decay, over the losses of a network.

    Parameters
    ----------
    network
        What is trained.
    losses
        From a batch and "is this training" to named losses; ``"loss"`` is the one to descend.
    lr, betas, weight_decay, warmup
        Optimiser and schedule; `warmup` is a share of all steps.
    momentum
        Of SGD, which then stands in for AdamW; None is AdamW.
    """

    def __init__(
        self,
        network: nn.Module,
        losses: Losses,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
        warmup: float = 0.05,
        momentum: float | None = None,
    ) -> None:
        super().__init__()
        self.network, self._losses, self.momentum = network, losses, momentum
        self.lr, self.betas, self.weight_decay, self.warmup = lr, betas, weight_decay, warmup

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch without augmentation."""
        return self._losses(batch, False)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Losses of a training batch."""
        losses = self._losses(batch, True)
        self._log("train", "_epoch", losses, len(batch.key))
        return losses["loss"]

    def validation_step(self, batch: Batch, index: int) -> None:
        """Losses of a validation batch, the same documents and masks at every epoch."""
        self._log("validation", "", self._losses(batch, False), len(batch.key))

    def _log(self, stage: str, suffix: str, losses: dict[str, Tensor], n: int) -> None:
        for name, value in losses.items():
            self.log(
                f"{stage}_{name}{suffix}",
                value.detach(),
                on_step=False,
                on_epoch=True,
                prog_bar=name == "loss",
                batch_size=n,
                sync_dist=True,
            )

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule; biases, norms and other vectors are not decayed."""
        decayed = [p for p in self.network.parameters() if p.requires_grad and p.ndim >= 2]
        free = [p for p in self.network.parameters() if p.requires_grad and p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer
        if self.momentum is None:
            optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas)
        else:
            optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        n_steps = max(1, int(self.trainer.estimated_stepping_batches))
        n_warmup = max(1, round(self.warmup * n_steps))

        def factor(step: int) -> float:
            if step < n_warmup:
                return (step + 1) / n_warmup
            done = (step - n_warmup) / max(1, n_steps - n_warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class History(L.Callback):
    """Keeps every logged number by epoch, as scvi-tools' `history` has it."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, float]] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take down the epoch's means (validation runs before this)."""
        for name, value in trainer.callback_metrics.items():
            self.rows.setdefault(name, {})[trainer.current_epoch] = float(value)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.rows = state["rows"]

    def frames(self) -> dict[str, pd.DataFrame]:
        """One data frame per number, indexed by epoch."""
        return {
            name: pd.DataFrame({name: values}).rename_axis("epoch")
            for name, values in self.rows.items()
        }


class Averaged(L.Callback):
    """Keeps an exponential moving average of the weights, for inference.

    After n optimiser steps the average forgets with ``min(decay, (1 + n) / (10 + n))``: with .9999
    all along, a training of a few thousand steps would hardly have left its first weights.

    Parameters
    ----------
    network
        Whose trained weights are averaged.
    decay
        Limit of the share that is kept at each step.
    monitor
        Logged number, the lowest of which says which epoch's average is given; None, or where it
        was never logged: the last.
    """

    def __init__(
        self, network: nn.Module, *, decay: float = 0.9999, monitor: str | None = None
    ) -> None:
        self._network, self.decay, self.monitor = network, decay, monitor
        self.n_steps, self.lowest = 0, math.inf
        self.average: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}

    def _trained(self) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in self._network.named_parameters() if p.requires_grad}

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin with the weights as they are, or go on from a checkpoint's average."""
        found = self.average or self._trained()
        place = self._trained()
        self.average = {n: found[n].clone().to(place[n].device) for n in place}
        self.n_steps = self.n_steps or trainer.global_step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move towards the new weights, once per step of the optimiser."""
        if trainer.global_step == self.n_steps:
            return
        self.n_steps = trainer.global_step
        decay = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps))
        weights = self._trained()
        torch._foreach_lerp_(list(self.average.values()), list(weights.values()), 1 - decay)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Keep the average of the epoch with the lowest loss."""
        value = trainer.callback_metrics.get(self.monitor or "")
        if not trainer.sanity_checking and value is not None and float(value) < self.lowest:
            self.lowest = float(value)
            self.best = {n: x.clone() for n, x in self.average.items()}

    def put(self) -> None:
        """Give the network its averaged weights."""
        chosen = self.best or self.average
        for name, weight in self._trained().items():
            weight.copy_(chosen[name])

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "n_steps": self.n_steps,
            "lowest": self.lowest,
            "average": self.average,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.n_steps, self.lowest = state["n_steps"], state["lowest"]
        self.average, self.best = state["average"], state["best"]


def default_precision(accelerator: str, precision: str | None) -> str:
    """bf16 on a GPU, float32 elsewhere, unless said otherwise."""
    if precision is not None:
        return precision
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu else "32-true"


def refuse_unknown(trainer_kwargs: Mapping[str, Any], train: Callable[..., Any]) -> None:
    """Refuse arguments that neither `train` nor Lightning's trainer has, before any work."""
    passed = {*signature(L.Trainer).parameters, *signature(fit).parameters}
    own = set(signature(train).parameters)
    for name in trainer_kwargs:
        if name not in passed:
            text = f"{train.__qualname__}() has no argument {name!r}, nor has lightning.Trainer."
            close = get_close_matches(name, sorted(own | passed), n=1)
            raise TypeError(text + (f" Did you mean {close[0]!r}?" if close else ""))


def fit(
    training: Training,
    datamodule: DocumentDataModule,
    *,
    max_epochs: int,
    accelerator: str = "auto",
    devices: Any = "auto",
    precision: str | None = None,
    gradient_clip: float = 1.0,
    ckpt_path: str | None = None,
    callbacks: list[L.Callback] | None = None,
    **trainer_kwargs: Any,
) -> dict[str, pd.DataFrame]:
    """Run Lightning's trainer; everything it takes passes through.

    Returns
    -------
    The history, one data frame per logged number.
    """
    history = History()
    settings: dict[str, Any] = {"logger": False, "enable_model_summary": False}
    given = callbacks or []
    keeps = any(isinstance(callback, L.pytorch.callbacks.Checkpoint) for callback in given)
    settings["enable_checkpointing"] = keeps
    if datamodule.validation is None:
        settings["limit_val_batches"] = 0
    settings.update(trainer_kwargs)
    trainer = L.Trainer(
        max_epochs=max_epochs,
        accelerator=accelerator,
        devices=devices,
        precision=default_precision(accelerator, precision),  # type: ignore[arg-type]
        gradient_clip_val=gradient_clip,
        callbacks=[history, *given],
        **settings,
    )
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        # A checkpoint is read as plain tensors and numbers: nothing in it is executed.
        trainer.fit(training, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    except SystemExit:
        if not trainer.interrupted:
            raise
        # On Ctrl-C Lightning ends the process, and switches Ctrl-C off for what may be left of it.
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt("training was interrupted; resume it with `ckpt_path`.") from None
    return history.frames()
