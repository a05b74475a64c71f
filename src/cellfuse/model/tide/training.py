"""How a TIDE is trained: the response model first, then teacher, student and third term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data import Contexts, Source
from cellfuse.data.splits import Held, Rows, marked_rows
from cellfuse.model.base import DocumentModel, Recipe, as_in
from cellfuse.model.base.checks import check_between, check_whole
from cellfuse.model.base.plans import Plans
from cellfuse.model.dino import TeacherSchedule, first_and_last
from cellfuse.model.tide.embedding import begin_plain, image_conditions, join_learnt
from cellfuse.model.tide.expression import TideExpression
from cellfuse.model.tide.joint import JointTraining
from cellfuse.model.tide.setup import field_arrays
from cellfuse.nn.dino import Dino
from cellfuse.nn.plain_features import power_of

__all__ = ["TideTraining"]

#: Weight decay at the first and the last step (DINO).
DECAY = (0.04, 0.4)
#: What of a training's arguments holds for the response model's too.
PLACE = ("accelerator", "devices", "precision", "enable_progress_bar", "num_nodes", "strategy")


class TideTraining(TideExpression):
    """Training of :class:`cellfuse.TIDE`."""

    finetune_response: bool
    channel_dropout: bool
    without = (
        "documents_per_context",
        "replace",
        "missing",
        "validation_size",
        "validation_contexts",
        "validation_by",
        "keep_best",
        "augment",
    )

    @as_in(DocumentModel.train, without)
    def train(  # type: ignore[override]  # weight decay changes, from step to step
        self,
        max_epochs: int | None = None,
        *,
        response_epochs: int = 100,
        validation_images: int | str = 10,
        evaluate_every: int | Sequence[int] | None = None,
        weight_decay: tuple[float, float] | None = None,
        momentum: float = 0.996,
        temperature: tuple[float, float] = (0.04, 0.07),
        temperature_epochs: int = 30,
        freeze_epochs: int = 1,
        **training: Any,
    ) -> None:
        """Train the response model, then teacher, student and self-supervised term together.

        Optimiser and schedule are by default the self-supervised method's.

        Parameters
        ----------
        max_epochs
            Epochs, 400 (paper); each shows every image once to the self-supervised term, and the
            images of paired drugs to the teacher: once where these are all, otherwise again and
            again, with the RNA they were given at first, until all images were seen.
        response_epochs
            Epochs of :meth:`train_response`, which is run first unless it was already, or is not
            wanted (`finetune_response`).
        validation_images
            Images of each compound (at most a fifth of them) that are held out. The weights kept
            are those of the look with the highest accuracy of their 20 nearest neighbours among
            all training images (paper: 10 images); 0 holds none out and keeps the last. Or the name
            of a boolean obs column of the images that says which are held out: images of compounds
            that are held out whole (task 1) are asked among one another. Of a few hundred held-out
            images the accuracy is too noisy to choose by (look at
            ``history["validation_knn_accuracy"]``).
        evaluate_every
            Epochs between two looks at them, or a list of the epochs, from 1, that are looked at;
            None: twenty looks.
        weight_decay
            At the first and last step; it changes in DINO only.
        momentum, temperature, temperature_epochs, freeze_epochs
            Of DINO's teacher.
        """
        held: int | NDArray[np.bool_]
        if isinstance(validation_images, str):
            held = marked_rows(self._modality(None, "image"), validation_images)
        else:
            check_whole("validation_images", validation_images, least=0)
            held = int(validation_images)
        check_between("momentum", momentum, 0, 1)
        decay = None if weight_decay is None else first_and_last("weight_decay", weight_decay)
        schedule = None
        if isinstance(self.module.image, Dino):
            schedule = TeacherSchedule(
                self.module.image,
                momentum=momentum,
                temperature=temperature,
                warmup_epochs=temperature_epochs,
                weight_decay=decay or DECAY,
                freeze_epochs=freeze_epochs,
            )
        self._response = self._stage()
        self._joint = JointTraining(
            self.module,
            self._response.data,
            self._image_fields(),
            self.images,
            schedule,
            rna=self._response.rows,
            held=held,
            evaluate_every=evaluate_every,
            n_paired=self.n_paired,
            channel_dropout=self.channel_dropout,
            seed=self.seed,
        )
        wanted = self.n_paired != 0 and training.get("ckpt_path") is None
        place = {name: training[name] for name in PLACE if name in training}
        self._first = (response_epochs, place) if wanted else None
        super().train(max_epochs, weight_decay=None if decay is None else decay[0], **training)

    def _rows(self, contexts: Contexts, held: Held) -> Rows:
        return self._joint.rows()

    def _plans(self, contexts: Contexts, rows: Rows, recipe: Recipe, **_: Any) -> Plans:
        return self._joint.plans(contexts, rows, recipe.batch_size)

    def _source(self) -> Source:
        readers = {role: self._reader(None, role) for role in self.inputs}
        return Source(readers, self._joint.fields())

    def _begin_stage(self, stage: int, source: Source) -> None:
        """Fine-tune the response model first, where that is wanted and was not done."""
        if self._first is None or self._response.is_done:
            return
        if self.finetune_response and self.objective != "drug":
            epochs, place = self._first
            check_whole("response_epochs", epochs)
            self.train_response(epochs, **place)
        elif not self.is_trained_:  # a trained teacher knows the scales it was trained with
            self._response.take_scales()

    def _begin_at(
        self, source: Source, train_rows: Mapping[str, NDArray[np.bool_]], contexts: Contexts
    ) -> None:
        begin_plain(self.module, source.readers["image"], train_rows["image"], seed=self.seed)

    def _finish(self, source: Source, trained: Contexts) -> None:
        if self.begin != "linear":
            return
        contexts, fields = self._contexts(None, ["image"]), source.fields["image"]
        join_learnt(
            self.images,
            source.readers["image"],
            image_conditions(contexts, fields["dose"]),
            trained=trained.of_row("image") >= 0,
            judges=self._joint.never_named(),
            compound_key=self._setup["compound_key"],
            power=power_of(self.inputs["image"].kind),
            seed=self.seed,
        )

    def _losses(self, batches: Any, augment: bool) -> dict[str, Tensor]:
        return self._joint.losses(batches)

    def _callbacks(self, recipe: Recipe, plans: Plans) -> list[L.Callback]:
        return self._joint.callbacks(self._reader(None, "image"), recipe.max_epochs)

    def _image_fields(self) -> dict[str, NDArray]:
        adata = self._modality(None, "image")
        of = {"modality": self.inputs["image"].modality}
        fields = field_arrays(adata, self._setup, list(self.compounds), **of)
        fields["drug"] = field_arrays(adata, self._setup, self.drugs, **of)["compound"]
        return fields
