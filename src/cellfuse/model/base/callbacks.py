"""Which weights a training leaves: an average of all, or those of the best epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from cellfuse._errors import missing_key

__all__ = ["Averaged", "KeepBest", "Score"]


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
        #: Weights as they are trained, in the order of the average, once steps are made.
        self._now: list[Tensor] = []

    def _trained(self) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in self._network.named_parameters() if p.requires_grad}

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin with the weights as they are, or go on from a checkpoint's average."""
        found = self.average or self._trained()
        place = self._trained()
        self.average = {n: found[n].clone().to(place[n].device) for n in place}
        self.n_steps = self.n_steps or trainer.global_step
        self._now = []

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
        self._now = self._now or list(self._trained().values())
        torch._foreach_lerp_(list(self.average.values()), self._now, 1 - decay)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Keep the average of the epoch with the lowest loss."""
        value = trainer.callback_metrics.get(self.monitor or "")
        if not trainer.sanity_checking and value is not None and float(value) < self.lowest:
            self.lowest = float(value)
            self.best = {n: x.clone() for n, x in self.average.items()}

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Give the network its averaged weights, where it was trained (which may be a fork)."""
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


class Score(L.Callback):
    """Logs what a method finds of its own at an epoch's end, as ``validation_<name>``.

    Parameters
    ----------
    network
        Is in evaluation mode meanwhile.
    score
        Called without gradients; numbers by name.
    every
        Epochs between two looks; the last epoch is always looked at. Or the epochs, from 1, that
        are.
    """

    def __init__(
        self,
        network: nn.Module,
        score: Callable[[], dict[str, float]],
        *,
        every: int | frozenset[int] = 1,
    ) -> None:
        self._network, self._score, self.every = network, score, every
        self._names: list[str] = []
        self._looked = False

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Score the epoch, where it is due."""
        epoch, last = trainer.current_epoch, trainer.current_epoch + 1 == trainer.max_epochs
        for name in self._names:  # Lightning would keep those of the last look
            trainer.callback_metrics.pop(name, None)
        if isinstance(self.every, int):
            due = last or (epoch + 1) % self.every == 0
        else:
            due = epoch + 1 in self.every or (last and not self._looked)
        if not due:
            return
        self._looked = True
        self._network.eval()
        with torch.inference_mode():
            found = {f"validation_{name}": float(value) for name, value in self._score().items()}
        self._network.train()
        self._names = list(found)
        module.log_dict(found, on_step=False, on_epoch=True, sync_dist=True)


#: Ends of the names of numbers of which the lowest is best.
LOW_IS_BEST = ("loss", "foscttm")


class KeepBest(L.Callback):
    """Keeps the weights of the epoch with the best value of a logged number.

    Parameters
    ----------
    network
        Whose weights are kept.
    monitor
        Name of the number in the history. The lowest is best of a loss and of FOSCTTM, the highest
        of everything else.
    """

    def __init__(self, network: nn.Module, monitor: str) -> None:
        self._network, self.monitor = network, monitor
        low = monitor.removesuffix("_epoch").endswith(LOW_IS_BEST)
        self.sign = -1.0 if low else 1.0
        self.value = -math.inf
        self.best: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Keep the weights, where the epoch is better than all before it."""
        found = trainer.callback_metrics.get(self.monitor)
        if found is None:
            if trainer.current_epoch + 1 == trainer.max_epochs and not self.best:
                raise missing_key(
                    self.monitor, sorted(trainer.callback_metrics), what="what is logged"
                )
            return
        if self.sign * float(found) > self.value:
            self.value = self.sign * float(found)
            self.best = {n: x.detach().clone() for n, x in self._network.state_dict().items()}

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Give the network the weights that were kept."""
        if self.best:
            self._network.load_state_dict(self.best)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"value": self.value, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint; those of TIDE up to 0.1 hold all scores."""
        scores = state.get("scores", {})
        self.value = state.get("value", max(scores.values(), default=-math.inf))
        self.best = state["best"]
