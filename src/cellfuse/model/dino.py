"""DINO: self-distillation of microscopy images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import lightning as L
import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from torch import Tensor

from cellfuse.data import Batch
from cellfuse.model.base import Recipe, as_in
from cellfuse.model.base.image_model import ROLE, ImageModel
from cellfuse.model.base.plans import Plans
from cellfuse.nn.augment import center_crop
from cellfuse.nn.crops import CropSettings, multi_crop
from cellfuse.nn.dino import Dino, cosine_schedule, warm_up
from cellfuse.nn.standardise import Standardised
from cellfuse.nn.vit import make_vit, sample_channels

__all__ = ["DINO", "TeacherSchedule", "first_and_last"]

#: Prototypes, hidden width and bottleneck of the head; ``"base"`` is DINO's.
HEADS = {"small": (1024, 256, 64), "base": (65_536, 2048, 256)}


def first_and_last(name: str, value: Any) -> tuple[float, float]:
    """Two numbers from 0, between which something goes in training."""
    if np.shape(value) != (2,) or not min(value) >= 0:
        raise ValueError(f"{name}={value!r}: expected two numbers from 0, the first and the last.")
    first, last = value
    return float(first), float(last)


class TeacherSchedule(L.Callback):
    """What changes from step to step beside the learning rate, and the teacher that follows.

    Parameters
    ----------
    net
        The network whose teacher follows.
    momentum
        Of the teacher at the first step; it ends at 1, by a cosine.
    temperature
        Of the teacher at the first step, and after `warmup_epochs`.
    weight_decay
        At the first and the last step, by a cosine.
    freeze_epochs
        Epochs in which the last layer is held.
    """

    def __init__(
        self,
        net: Dino,
        *,
        momentum: float,
        temperature: tuple[float, float],
        warmup_epochs: int,
        weight_decay: tuple[float, float],
        freeze_epochs: int,
    ) -> None:
        self._net, self.start = net, momentum
        self.temperatures = first_and_last("temperature", temperature)
        self.decays = first_and_last("weight_decay", weight_decay)
        self.warmup_epochs, self.freeze_epochs = warmup_epochs, freeze_epochs
        self.step, self.temperature = 0, temperature[0]

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set temperature and weight decay of this step."""
        self.step = trainer.global_step
        low, high = self.temperatures
        n_warm = self.warmup_epochs * int(trainer.num_training_batches)
        self.temperature = warm_up(self.step, n_warm, start=low, end=high)
        first, last = self.decays
        # The first group holds the matrices; vectors are not decayed.
        trainer.optimizers[0].param_groups[0]["weight_decay"] = cosine_schedule(
            self.step, self._n_steps(trainer), start=first, end=last
        )

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Hold the last layer in the first epochs."""
        if trainer.current_epoch < self.freeze_epochs:
            self._net.hold_last_layer()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Let the teacher follow, once per step of the optimiser."""
        if trainer.global_step > self.step:
            n_steps = self._n_steps(trainer)
            self._net.follow(cosine_schedule(self.step, n_steps, start=self.start, end=1.0))

    @staticmethod
    def _n_steps(trainer: L.Trainer) -> int:
        return max(1, int(trainer.estimated_stepping_batches))


class DINO(ImageModel):
    """Learn images by agreeing, over several views, with the mean of one's own past.

    A student sees 2 global and 4 local views of each image; a teacher, an average of earlier
    students, sees the global ones. The student must give the teacher's answer to another view of
    the same image. The embedding is the teacher's class token of the whole image.

    Parameters
    ----------
    adata
        AnnData or MuData on which :meth:`setup_anndata` or :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"`` (ViT-Small, patches of 8 pixels, DINO's head).
    channel_agnostic
        A token per place and channel: any number of channels, by their names.
    channel_dropout
        With `channel_agnostic`: the student sees a random choice of the channels.
    crop
        Side in pixels of the centre crop that views are cut from; None takes the whole image.
    normalize
        ``"dataset"`` standardises each channel by the training set, so that intensity stays a
        phenotype; ``"instance"`` each image by itself.
    views
        How views are cut and changed: fields of :class:`cellfuse.nn.CropSettings` that differ from
        its defaults. Sizes are by default the image's side, and half of it.
    n_prototypes
        Outputs of the head; 1,024 for ``"small"``, 65,536 for ``"base"`` (DINO's).
    seed
        Seed of weights, order and views.
    **sizes
        Single sizes of the encoder on top of the preset: `width`, `depth`, `n_heads`,
        `patch_size`, `mlp_ratio`.

    Raises
    ------
    ValueError
        No setup, an unknown preset or size, a side that is no multiple of the patch.

    Examples
    --------
    >>> import cellfuse as cf
    >>> images = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, seed=0)["image"]
    >>> cf.DINO.setup_anndata(images, image_rep="crops")
    >>> model = cf.DINO(images, depth=1)
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> model.get_latent_representation().shape[1]
    96
    """

    #: DINO's 5e-4 per 256 images; gradients are cut at 3 (DINO).
    recipes: ClassVar[Mapping[str, Recipe]] = {
        preset: Recipe(
            batch_size=batch_size,
            lr=5e-4,
            betas=(0.9, 0.999),
            weight_decay=0.04,
            warmup=0.1,
            gradient_clip=3.0,
        )
        for preset, batch_size in (("small", 64), ("base", 256))
    }
    without = (*ImageModel.without, "augment")

    def __init__(
        self,
        adata: MuData | AnnData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        channel_agnostic: bool = False,
        channel_dropout: bool = True,
        crop: int | None = None,
        normalize: Literal["dataset", "instance"] = "dataset",
        views: dict[str, Any] | None = None,
        n_prototypes: int | None = None,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        super().__init__(
            adata,
            preset=preset,
            channel_agnostic=channel_agnostic,
            crop=crop,
            normalize=normalize,
            sizes=sizes,
            seed=seed,
        )
        self.channel_dropout = channel_agnostic and channel_dropout
        self.views = CropSettings.for_images(self.side, self.size.patch_size, **(views or {}))
        default_prototypes, hidden, bottleneck = HEADS[preset]
        net = Dino(
            make_vit(self.channels, self.size, channel_agnostic=channel_agnostic),
            n_prototypes=default_prototypes if n_prototypes is None else n_prototypes,
            hidden=hidden,
            bottleneck=bottleneck,
        )
        self.module = Standardised(net, len(self.channels))
        self._schedule: TeacherSchedule | None = None

    @as_in(ImageModel.train, without)
    def train(  # type: ignore[override]  # weight decay changes, from step to step
        self,
        max_epochs: int | None = None,
        *,
        weight_decay: tuple[float, float] = (0.04, 0.4),
        momentum: float = 0.996,
        temperature: tuple[float, float] = (0.04, 0.07),
        temperature_epochs: int = 30,
        freeze_epochs: int = 1,
        **training: Any,
    ) -> None:
        """Train the model; called again, train it further. An epoch shows every image once.

        Parameters
        ----------
        max_epochs
            Epochs of this call, 100.
        weight_decay
            At the first and the last step, .04 and .4 (DINO), by a cosine.
        momentum
            Of the teacher at the first step, .996 (DINO); it ends at 1. A few hundred steps want a
            faster teacher, such as .95.
        temperature, temperature_epochs
            Of the teacher at the first step and after these epochs, .04 and .07 (DINO).
        freeze_epochs
            Epochs in which the last layer of the head is held, 1 (DINO).
        """
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum={momentum}: expected a share from 0 to 1.")
        net = self.module.net
        assert isinstance(net, Dino)
        self._schedule = TeacherSchedule(
            net,
            momentum=momentum,
            temperature=temperature,
            warmup_epochs=temperature_epochs,
            weight_decay=weight_decay,
            freeze_epochs=freeze_epochs,
        )
        super().train(max_epochs, weight_decay=self._schedule.decays[0], **training)

    def _callbacks(self, recipe: Recipe, plans: Plans) -> list[L.Callback]:
        schedule = [] if self._schedule is None else [self._schedule]
        return [*schedule, *super()._callbacks(recipe, plans)]

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        schedule = self._schedule
        assert schedule is not None
        images = center_crop(self._prepare(batch.x[ROLE].flatten(0, 1)), self.side)
        wide, narrow = multi_crop(images, batch.key, seed=self.seed, settings=self.views)
        kept = None
        if augment and self.channel_dropout:
            kept = sample_channels(
                batch.key, len(self.channels), step=schedule.step, seed=self.seed
            )
        return self.module.net(wide, narrow, teacher_temperature=schedule.temperature, kept=kept)
