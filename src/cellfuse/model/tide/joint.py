"""The joint training of TIDE: its documents, its losses, and which epoch is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data import Batch, Contexts, DocumentPlan, Draw, Reader, Stream
from cellfuse.data.splits import Rows, few_of_each
from cellfuse.model.base.callbacks import KeepBest, Score
from cellfuse.model.base.neighbours import Neighbours, looks
from cellfuse.model.base.plans import Plans
from cellfuse.model.dino import TeacherSchedule
from cellfuse.model.tide.images import ImageReading
from cellfuse.model.tide.transcriptomes import Transcriptomes
from cellfuse.nn.augment import center_crop, random_affine
from cellfuse.nn.crops import CropSettings, multi_crop
from cellfuse.nn.dino import Dino
from cellfuse.nn.mae import ImageMAE
from cellfuse.nn.tide import TideNetwork
from cellfuse.nn.vit import sample_channels

__all__ = ["JointTraining"]


class JointTraining:
    """One joint training: what it draws, what it descends, what it looks at.

    Parameters
    ----------
    net, data
        Network, and the RNA as it is read.
    images_fields
        ``"dose"``, ``"compound"`` and ``"drug"`` of each image; -1 is none of them.
    images
        How images are read.
    schedule
        Of DINO; None without it.
    rna
        RNA rows that are used.
    held
        Images of each compound that are held out, or which images are.
    evaluate_every
        Epochs between two looks at them, or the epochs that are looked at.
    n_paired
        RNA samples of each drug; 0 leaves the self-supervised term alone.
    channel_dropout
        Whether the student of DINO sees a random choice of the channels.
    seed
        Of what is held out, drawn and changed.
    """

    def __init__(
        self,
        net: TideNetwork,
        data: Transcriptomes,
        images_fields: dict[str, NDArray],
        images: ImageReading,
        schedule: TeacherSchedule | None,
        *,
        rna: NDArray[np.bool_],
        held: int | NDArray[np.bool_],
        evaluate_every: int | Sequence[int] | None,
        n_paired: int | None,
        channel_dropout: bool,
        seed: int,
    ) -> None:
        self.net, self.data, self.images, self.schedule = net, data, images, schedule
        self.image_fields, self.rna, self.seed = images_fields, rna, seed
        self.is_paired, self.channel_dropout = n_paired != 0, channel_dropout
        self.evaluate_every = evaluate_every
        if isinstance(held, int):
            held = few_of_each(images_fields["compound"], held, seed)
        self.held = held
        self.side, self.views = images.side, None
        if isinstance(net.image, Dino):
            assert self.side is not None
            self.views = CropSettings.for_images(self.side, net.image.encoder.patch_size)

    def rows(self) -> Rows:
        """What is trained on and what is held out."""
        return Rows({"image": ~self.held, "rna": self.rna}, {"image": self.held, "rna": ~self.rna})

    def fields(self) -> dict[str, dict[str, NDArray]]:
        """Numbers that go with images and RNA."""
        return {"image": self.image_fields, "rna": dict(self.data.fields)}

    def plans(self, contexts: Contexts, rows: Rows, batch_size: int) -> Plans:
        """Streams of the joint training.

        ``"paired"``: every labelled image once per epoch, with RNA of its drug and cell line,
        whatever the dose, and control RNA of the cell line; for CL(D), which pairs images with
        structures, every image of a drug and no RNA. ``"cells"``: every image once, for the
        self-supervised term.
        """
        plans, images = {}, rows.train["image"]
        if self.is_paired:
            draws = [Draw("image", 1, missing="drop")]
            if self.net.objective != "drug":
                draws += [Draw("rna", 1, missing="drop"), self.data.basal_draw()]
            stream = Stream(tuple(draws), batch_size, over="cells")
            labelled = images & (self.image_fields["drug"] >= 0)
            plans["paired"] = DocumentPlan(
                contexts.restricted({"image": labelled, "rna": rows.train["rna"]}),
                stream,
                seed=self.seed,
                control_key=self.data.compound_key,
                control=self.data.control,
            )
        if isinstance(self.net.image, Dino | ImageMAE):
            plans["cells"] = DocumentPlan(
                contexts.restricted({"image": images}),
                Stream((Draw("image", 1),), batch_size, over="cells"),
                seed=self.seed,
            )
        # The genes' scales are those of the response model's training.
        return Plans(plans, None, {"image": images})

    def never_named(self) -> NDArray[np.bool_]:
        """Images of drugs that neither teacher nor student is told of, ``(n_images,)``."""
        compound = self.image_fields["compound"]
        named = compound[~self.held & (self.image_fields["drug"] >= 0)]
        return (compound >= 0) & ~np.isin(compound, named)

    def callbacks(self, reader: Reader, max_epochs: int) -> list[L.Callback]:
        """DINO's teacher; looks at the held-out images, the best of which is kept."""
        found: list[L.Callback] = [] if self.schedule is None else [self.schedule]
        compound = self.image_fields["compound"]
        score = Neighbours(self.images.features, reader, compound, ~self.held, self.held)
        if score.is_there:
            every = looks(self.evaluate_every, max_epochs)
            found.append(Score(self.net, score, every=every))
            found.append(KeepBest(self.net, "validation_knn_accuracy"))
        return found

    # -- losses -----------------------------------------------------------------------------------

    def losses(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Losses by name of a batch of each stream; ``"loss"`` is the weighted sum."""
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
        raw = batch.x["image"][:, 0]
        images, plain = self.net.scale(raw), self.images.plain(raw)
        if self.side is not None:
            # No change of scale or intensity here: size and brightness name a mechanism too.
            images = random_affine(images[:, None], batch.key, seed=self.seed, crop=self.side)[:, 0]
        of = batch.obs
        if self.net.objective == "drug":
            return self.net(images, None, None, None, None, of["image"]["drug"][:, 0], plain)
        return self.net(
            images,
            of["image"]["dose"][:, 0],
            self.data.values(batch.x["rna"]),
            self.data.values(batch.x["basal"]),
            of["rna"]["dose"][:, 0],
            of["image"]["drug"][:, 0],
            plain,
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
                batch.key, len(self.images.channels), step=self.schedule.step, seed=self.seed
            )
        return self.net.image(
            wide, narrow, teacher_temperature=self.schedule.temperature, kept=kept
        )
