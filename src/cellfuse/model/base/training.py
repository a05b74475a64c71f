"""Training: one Lightning module for every method, and its trainer."""

from __future__ import annotations

import hashlib
import math
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from cellfuse._console import quiet, shows_progress
from cellfuse._memory import keep_freed
from cellfuse.data import Batch, DocumentDataModule
from cellfuse.model.base.checks import plain
from cellfuse.model.base.history import Frames, History
from cellfuse.model.base.keeping import (
    Keeping,
    asked_to_end,
    identity_of,
    read_checkpoint,
)
from cellfuse.model.base.progress import Progress

__all__ = ["Training", "fit", "refuse_unknown", "seeded"]

#: From a batch (or one of each stream, by name) and "is this training" to named losses.
Losses = Callable[[Any, bool], dict[str, Tensor]]


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
        #: Losses and number of documents of the last training batch, for the history, which logs
        #: their means at an epoch's end: Lightning's own means cost a millisecond a step.
        self.latest: tuple[dict[str, Tensor], int] = ({}, 0)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch without augmentation."""
        return self._losses(batch, False)

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Losses of a training batch, or of one of every stream."""
        losses = self._losses(batch, True)
        n = len((batch if isinstance(batch, Batch) else next(iter(batch.values()))).key)
        self.latest = ({name: value.detach() for name, value in losses.items()}, n)
        return losses["loss"]

    def validation_step(self, batch: Batch, index: int) -> None:
        """Losses of a validation batch, the same documents and masks at every epoch."""
        for name, value in self._losses(batch, False).items():
            self.log(
                f"validation_{name}",
                value,
                on_step=False,
                on_epoch=True,
                prog_bar=name == "loss",
                batch_size=len(batch.key),
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
            # One pass over the weights; in mixed precision Lightning cannot clip beside it.
            fused = True if self.trainer.precision == "32-true" else None
            optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=fused)
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


def default_precision(accelerator: str, precision: str | None) -> str:
    """bf16 on a GPU, float32 elsewhere, unless said otherwise."""
    if precision is not None:
        return precision
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu else "32-true"


def refuse_unknown(name: str, trainer_kwargs: Mapping[str, Any], known: Callable[..., Any]) -> None:
    """Refuse arguments that neither a `train` nor Lightning's trainer has, before any work."""
    passed = {*signature(L.Trainer).parameters, *signature(fit).parameters} - {"history"}
    for given in trainer_kwargs:
        if given not in passed:
            text = f"{name}() has no argument {given!r}, nor has lightning.Trainer."
            close = get_close_matches(given, sorted({*signature(known).parameters, *passed}), n=1)
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
    checkpoint: str | Path | None = None,
    callbacks: list[L.Callback] | None = None,
    history: Frames | None = None,
    n_before: int = 0,
    **trainer_kwargs: Any,
) -> Frames:
    """Run Lightning's trainer; everything it takes passes through.

    Parameters
    ----------
    checkpoint
        Folder in which the training is kept, and from which the same call goes on.
    history, n_before
        What was logged before, in so many epochs: it is gone on with.

    Returns
    -------
    The history, one data frame per logged number.
    """
    file = None if checkpoint is None else Path(checkpoint) / f"from-epoch-{n_before}.ckpt"
    keeping = Keeping(file, identity_of(training.network, datamodule))
    if ckpt_path is not None and Path(ckpt_path).is_file():  # else Lightning knows what it means
        read_checkpoint(ckpt_path)
    with tempfile.TemporaryDirectory() as folder:
        kept = History(history, first_epoch=n_before, file=Path(folder) / "history.json")
        _run(
            training,
            datamodule,
            keeping,
            ckpt_path=ckpt_path or keeping.found(),
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            precision=default_precision(accelerator, precision),
            gradient_clip_val=gradient_clip,
            callbacks=[kept.means(), *(callbacks or []), kept],
            **trainer_kwargs,
        )
        return kept.frames()


def _run(
    training: Training,
    datamodule: DocumentDataModule,
    keeping: Keeping,
    *,
    ckpt_path: str | None,
    **trainer_kwargs: Any,
) -> None:
    settings: dict[str, Any] = {"logger": False, "enable_model_summary": False}
    checkpoint = L.pytorch.callbacks.Checkpoint
    keeps = any(isinstance(callback, checkpoint) for callback in trainer_kwargs["callbacks"])
    settings["enable_checkpointing"] = keeps
    trainer_kwargs["callbacks"] = [*trainer_kwargs["callbacks"], keeping]
    if datamodule.validation is None:
        settings["limit_val_batches"] = 0
    settings |= {name: plain(value) for name, value in trainer_kwargs.items()}
    theirs = L.pytorch.callbacks.ProgressBar
    if not any(isinstance(callback, theirs) for callback in settings["callbacks"]):
        if settings.get("enable_progress_bar", True) and shows_progress():
            settings["callbacks"] = [*settings["callbacks"], Progress()]
        settings["enable_progress_bar"] = False
    keep_freed()
    with quiet():
        _fit(L.Trainer(**settings), training, datamodule, keeping, ckpt_path, keeps)


def _fit(
    trainer: L.Trainer,
    training: Training,
    datamodule: DocumentDataModule,
    keeping: Keeping,
    ckpt_path: str | None,
    keeps: bool,
) -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        # A checkpoint is read as plain tensors and numbers: nothing in it is executed.
        with asked_to_end(keeping):
            trainer.fit(training, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        kept = f" The same call goes on with {str(keeping.left)!r}." if keeping.left else ""
        raise RuntimeError(
            "a process that loads batches was killed, as happens where memory runs out; fewer "
            f"`num_workers` take less of it ({error}).{kept}"
        ) from error
    except SystemExit:
        if not trainer.interrupted:
            raise
        # On Ctrl-C Lightning ends the process, and switches Ctrl-C off for what may be left of it.
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt(keeping.message(resumes=keeps)) from None
