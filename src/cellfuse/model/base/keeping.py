"""A training that is interrupted loses nothing: checkpoints as it goes, and when it is told to end.

A checkpoint is written beside and renamed, so that the last whole one is always there. The same
call of `train` finds it and goes on, in the middle of an epoch too, as if nothing had been.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from torch import nn

from cellfuse.data import DocumentDataModule

__all__ = ["Keeping", "asked_to_end", "identity_of", "read_checkpoint"]

#: Seconds between two checkpoints within an epoch.
EVERY_SECONDS = 600.0
#: Seconds of training after which an interruption leaves a checkpoint, wanted or not.
LONG_SECONDS = 600.0
#: What torch raises of bytes that are no checkpoint.
DAMAGE = (RuntimeError, ValueError, EOFError, TypeError, LookupError, AttributeError)
SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")


def identity_of(network: nn.Module, datamodule: DocumentDataModule) -> str:
    """Fingerprint of what is trained on which documents: a checkpoint of another is refused."""
    plans = datamodule.train if isinstance(datamodule.train, dict) else {"": datamodule.train}
    parts = [f"{name} {tuple(p.shape)}" for name, p in network.named_parameters()]
    parts += [f"{name} {p.n_documents} {p.n_steps} {p.seed}" for name, p in plans.items()]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def read_checkpoint(file: str | Path) -> dict[str, Any]:
    """Read a checkpoint as plain tensors and numbers: nothing in it is executed.

    Raises
    ------
    ValueError
        It is damaged, or none.
    """
    try:
        found = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
        if not {"state_dict", "callbacks"} <= set(found):
            raise ValueError("it holds no training")
    except (*DAMAGE, pickle.UnpicklingError) as error:
        why = str(error).split(". ")[0].split("\n")[0]
        raise ValueError(
            f"the checkpoint {str(file)!r} is damaged, cut short, or none of cellfuse's: {why}. "
            "Copy it again, or remove it to begin anew."
        ) from error
    return found


class Keeping(L.Callback):
    """Writes checkpoints at the end of epochs, every ten minutes, and when a signal asks to end.

    Parameters
    ----------
    file
        Where; None writes only when a training of more than ten minutes is told to end, into the
        working directory.
    identity
        From :func:`identity_of`.
    """

    def __init__(self, file: Path | None, identity: str) -> None:
        self.file, self.identity = file, identity
        self.asked: str | None = None
        self.left: Path | None = None
        self._begun = self._saved = time.monotonic()

    def found(self) -> str | None:
        """The checkpoint to go on with.

        Raises
        ------
        ValueError
            It is of another training, or damaged.
        """
        if self.file is None or not self.file.exists():
            return None
        held = read_checkpoint(self.file)
        if held["callbacks"].get(self.state_key, {}).get("identity") != self.identity:
            raise ValueError(
                f"{str(self.file)!r} is a checkpoint of another training: of another model, other "
                "settings or other data. Give this one a `checkpoint` folder of its own, or remove "
                "that file."
            )
        return str(self.file)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save now and then; save and end, where a signal has asked any of the devices to."""
        if trainer.is_last_batch:
            return  # what closes an epoch would be skipped: its end is near
        self._end_if_asked(trainer)
        due = self.file is not None and time.monotonic() - self._saved > EVERY_SECONDS
        if _any(trainer, due):
            self._save(trainer, self.file)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save what an epoch has come to."""
        if self.file is not None:
            self._save(trainer, self.file)
        self._end_if_asked(trainer)

    def _end_if_asked(self, trainer: L.Trainer) -> None:
        if not _any(trainer, self.asked is not None):
            return
        if self.file is not None or time.monotonic() - self._begun > LONG_SECONDS:
            self._save(trainer, self.file or Path.cwd() / f"interrupted-{os.getpid()}.ckpt")
        raise KeyboardInterrupt

    def _save(self, trainer: L.Trainer, file: Path | None) -> None:
        assert file is not None
        beside = file.with_name(f".{file.name}.new")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(beside)
            if trainer.is_global_zero:
                beside.replace(file)
        except (OSError, RuntimeError) as error:
            beside.unlink(missing_ok=True)
            raise OSError(
                f"the checkpoint {str(file)!r} could not be written: {error}. "
                + ("The one before it is whole." if file.exists() else "")
            ) from error
        self.left, self._saved = file, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"identity": self.identity}

    def message(self, resumes: bool) -> str:
        """What to tell whoever interrupted the training."""
        by = f" by {self.asked}" if self.asked else ""
        if self.left is None:
            return f"training was interrupted{by}" + (
                "; resume it with `ckpt_path`."
                if resumes
                else ", and nothing of it is kept; `checkpoint='folder'` keeps it."
            )
        how = (
            "the same call goes on with it."
            if self.left == self.file
            else f"`ckpt_path={str(self.left)!r}` goes on with it."
        )
        return f"training was interrupted{by}; what is done is in {str(self.left)!r}, and {how}"


def _any(trainer: L.Trainer, here: bool) -> bool:
    """Whether it holds for any of the devices, which have to do the same."""
    if trainer.world_size == 1:
        return here
    return bool(trainer.strategy.reduce_boolean_decision(here, all=False))


@contextmanager
def asked_to_end(keeping: Keeping) -> Iterator[None]:
    """Note SIGINT, SIGTERM and SIGUSR1, for the end of the step; the second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        keeping.asked = signal.Signals(number).name
        signal.signal(number, before[number])

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    for number in numbers:
        before[number] = signal.getsignal(number)
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
