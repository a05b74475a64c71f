"""The joint training of TIDE: its batches, its losses, and how an epoch is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data import Batch, Contexts, DocumentPlan, Draw, Stream
from cellfuse.data.splits import rank_within
from cellfuse.model.dino import TeacherSchedule
from cellfuse.model.tide.response import Transcriptomes
from cellfuse.nn.augment import center_crop, random_affine
from cellfuse.nn.crops import CropSettings, multi_crop
from cellfuse.nn.dino import Dino
from cellfuse.nn.mae import ImageMAE
from cellfuse.nn.tide import TideNetwork
from cellfuse.nn.vit import sample_channels

__all__ = ["JointLosses", "bank_rows", "capped", "joint_plans", "neighbour_accuracy"]

#: Images of a compound that neighbours are looked for among.
BANK = 20
#: Embeddings that are asked at a time.
BLOCK = 512


def capped(
    compound: NDArray[np.int64], drugs: Sequence[int], n_paired: int | None, seed: int
) -> NDArray[np.bool_]:
    """RNA rows that are used: at most `n_paired` of each of `drugs`, all others."""
    if n_paired is None:
        return np.ones(len(compound), bool)
    order = np.random.default_rng([seed, 15_485_863]).permutation(len(compound))
    return (rank_within(compound, order) < n_paired) | ~np.isin(compound, drugs)


def joint_plans(
    contexts: Contexts,
    data: Transcriptomes,
    *,
    images: NDArray[np.bool_],
    labelled: NDArray[np.bool_],
    rna: NDArray[np.bool_],
    paired: bool,
    ssl: bool,
    batch_size: int,
    seed: int,
) -> dict[str, DocumentPlan]:
    """Plan the streams of the joint training.

    ``"paired"``: every labelled image once per epoch, with RNA of its drug and cell line, whatever
    the dose, and control RNA of the cell line. ``"cells"``: every image once, for the
    self-supervised term.
    """
    plans = {}
    if paired:
        stream = Stream(
            (Draw("image", 1, missing="drop"), Draw("rna", 1, missing="drop"), data.basal_draw()),
            batch_size,
            over="cells",
        )
        plans["paired"] = DocumentPlan(
            contexts.restricted({"image": images & labelled, "rna": rna}),
            stream,
            seed=seed,
            control_key=data.compound_key,
            control=data.control,
        )
    if ssl:
        plans["cells"] = DocumentPlan(
            contexts.restricted({"image": images}),
            Stream((Draw("image", 1),), batch_size, over="cells"),
            seed=seed,
        )
    return plans


@dataclass
class JointLosses:
    """From batches of the streams to the losses of TIDE.

    Parameters
    ----------
    net, data
        Network, and the RNA as it is read.
    channels
        Names of the channels of the images.
    side
        Side of the images in pixels; None for flat features.
    views
        How DINO's views are cut.
    schedule
        Of DINO; None without it.
    channel_dropout
        Whether the student of DINO sees a random choice of the channels.
    seed
        Of augmentation.
    """

    net: TideNetwork
    data: Transcriptomes
    channels: Sequence[str]
    side: int | None
    views: CropSettings | None
    schedule: TeacherSchedule | None
    channel_dropout: bool
    seed: int

    def __call__(self, batches: Mapping[str, Batch], training: bool) -> dict[str, Tensor]:
        """Losses by name; ``"loss"`` is the weighted sum."""
        losses: dict[str, Tensor] = {}
        if "paired" in batches:
            losses = self.paired(batches["paired"])
        if "cells" in batches:
            found = self.self_supervised(batches["cells"])
            ssl = found.pop("loss")
            total = self.net.beta * ssl
            losses = {**losses, **found, "ssl_loss": ssl, "loss": losses.get("loss", 0.0) + total}
        return losses

    def paired(self, batch: Batch) -> dict[str, Tensor]:
        """Teacher, student and their distillation."""
        images = self.net.scale(batch.x["image"][:, 0])
        if self.side is not None:
            # No change of scale or intensity here: size and brightness name a mechanism too.
            images = random_affine(images[:, None], batch.key, seed=self.seed, crop=self.side)[:, 0]
        of = batch.obs
        return self.net(
            images,
            of["image"]["dose"][:, 0],
            self.data.values(batch.x["rna"]),
            self.data.values(batch.x["basal"]),
            of["rna"]["dose"][:, 0],
            of["image"]["drug"][:, 0],
        )

    def self_supervised(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of DINO or MAE, as `cf.DINO` and `cf.MAE` have it."""
        assert self.side is not None
        images = self.net.scale(batch.x["image"].flatten(0, 1))
        if isinstance(self.net.image, ImageMAE):
            images = random_affine(images[:, None], batch.key, seed=self.seed, crop=self.side)[:, 0]
            return self.net.image(images, batch.key)
        assert isinstance(self.net.image, Dino)
        assert self.schedule is not None
        wide, narrow = multi_crop(
            center_crop(images, self.side), batch.key, seed=self.seed, settings=self.views
        )
        kept = None
        if self.channel_dropout:
            kept = sample_channels(
                batch.key, len(self.channels), step=self.schedule.step, seed=self.seed
            )
        return self.net.image(
            wide, narrow, teacher_temperature=self.schedule.temperature, kept=kept
        )


def neighbour_accuracy(
    asked: Tensor, asked_label: Tensor, bank: Tensor, label: Tensor, *, k: int = 20
) -> float:
    """Share of embeddings whose label most of their `k` nearest by cosine have."""
    unit, n_labels, right = F.normalize(bank, dim=1), int(label.max()) + 1, 0
    for part, wanted in zip(asked.split(BLOCK), asked_label.split(BLOCK), strict=True):
        near = (F.normalize(part, dim=1) @ unit.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(part), n_labels, device=asked.device)
        # A vote weighs a hair more the nearer it is, so that no tie hangs on the order of labels.
        votes.scatter_add_(1, label[near.indices], 1 + 1e-3 * near.values.float())
        right += int((votes.argmax(dim=1) == wanted).sum())
    return right / len(asked)


def bank_rows(compound: NDArray[np.int64], held: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Training images that neighbours are looked for among: some of each compound."""
    order = np.random.default_rng([seed, 1_299_709]).permutation(len(compound))
    label = np.where(held, -1, compound)
    return np.flatnonzero((label >= 0) & (rank_within(label, order) < BANK))
