"""TIDE: images that learnt from transcriptomes (2604.22832)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._errors import warn_user
from cellfuse.data import Contexts, Source
from cellfuse.data.splits import Rows, marked_rows
from cellfuse.model.base import DocumentModel, Recipe, as_in
from cellfuse.model.base.channels import channel_names
from cellfuse.model.base.checks import check_between, check_whole
from cellfuse.model.base.fitting import Held
from cellfuse.model.base.plans import Plans
from cellfuse.model.dino import TeacherSchedule, first_and_last
from cellfuse.model.tide.compounds import Chemistry
from cellfuse.model.tide.config import (
    RECIPES,
    SSL,
    check_arguments,
    image_side,
    make_network,
    sizes_of,
)
from cellfuse.model.tide.images import ImageReading
from cellfuse.model.tide.inference import TideInference
from cellfuse.model.tide.joint import JointTraining
from cellfuse.model.tide.response import Transcriptomes
from cellfuse.model.tide.setup import field_arrays, read_screen
from cellfuse.model.tide.stage import ResponseStage
from cellfuse.nn.dino import Dino
from cellfuse.nn.tide import Objective

__all__ = ["TIDE"]

#: Weight decay at the first and the last step (DINO).
DECAY = (0.04, 0.4)
#: What of a training's arguments holds for the response model's too.
PLACE = ("accelerator", "devices", "precision", "enable_progress_bar", "num_nodes", "strategy")


class TIDE(TideInference):
    """Images that learnt what drugs do to transcriptomes, and need none at inference.

    A *teacher* reads an image, a transcriptome of the same drug and cell line (at whatever dose),
    both doses and the basal state of the cell line, and must name the drug: a softmax over
    prototypes that start at the drugs' chemistry and drift to what the drugs do. A *student* reads
    the image alone and must give the teacher's distribution. Both share one image encoder, which a
    self-supervised term trains on every image.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"`` (ViT-Small, patches of 8 pixels).
    ssl
        Self-supervised term: ``"dino"``, ``"mae"`` or None. Flat image features have none.
    objective
        ``"tide"``; ``"drug"`` and ``"rna"`` are the paper's baselines CL(D) and CL(R), CLIP's loss
        of the image against the drug's prototype or against the transcriptome, on the same
        batches and with the same self-supervised term.
    tau
        Temperature of the softmax over prototypes, .1.
    alpha, beta
        Weights of the teacher's cross-entropy and of the self-supervised term, 1 and 1.
    use_dose
        Tell the doses to teacher and response model.
    finetune_response
        Train the response model on perturbation responses first; without it the transcriptome is
        read by weights that have seen none (the built-in network's first ones, or those of
        `checkpoint`).
    n_paired
        Most RNA samples of each paired drug that are used; None takes all, 0 leaves the
        self-supervised method alone.
    checkpoint
        Folder of a scGPT checkpoint, which then reads the transcriptomes. None: the built-in gene
        transformer.
    channel_agnostic, channel_dropout
        A token per place and channel, and whether DINO's student sees a random choice of channels.
    crop
        Side in pixels of the centre crop; None takes the whole image. Not for flat features.
    n_basal
        Control profiles averaged to a basal state, 8.
    seed
        Seed of weights, pairs, views and order.
    **sizes
        Single sizes on top of the preset: `width`, `depth`, `n_heads`, `patch_size`, `mlp_ratio`
        of the ViT; `hidden` of the heads; `codebook_hidden`, `codebook_width`; `flat_width`.

    Raises
    ------
    ValueError
        No setup, an unknown preset or objective, a checkpoint that lacks genes.

    Notes
    -----
    The paper's code is not public; what it leaves open is settled as follows. Prototypes are
    ``norm(MLP(fingerprint) + delta)``, `delta` learned and 0 at the start, so that a compound never
    seen has a place too; they are of the drugs with images and RNA in one context, as only these
    are ever named. The control is none of them: it is the basal state, and its images are in the
    self-supervised term. FiLM on ``log10(dose + 1e-3)``, the identity at the start. The response
    model is trained first and frozen. ``KL(P_t || P_s)`` with `P_t` detached. Paired images are
    turned, mirrored and shifted, never rescaled or brightened. Optimiser and schedule are those of
    the self-supervised method, so that zero pairs are :class:`cellfuse.DINO` or
    :class:`cellfuse.MAE` to the step.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_drugs(n_mechanisms=3, images_per_condition=2, seed=0)
    >>> cf.TIDE.setup_mudata(mdata, context_keys=["compound", "cell_line"], image_rep="crops")
    >>> model = cf.TIDE(mdata, depth=1, width=24, n_heads=2, ssl=None)
    >>> model.train(max_epochs=1, response_epochs=1, enable_progress_bar=False)
    >>> p = model.predict(mdata["image"])
    >>> bool((p.sum(axis=1).round(4) == 1).all())
    True
    """

    recipes: ClassVar[Mapping[str, Recipe]] = RECIPES["dino"]
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

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        ssl: SSL | None = "dino",
        objective: Objective = "tide",
        tau: float = 0.1,
        alpha: float = 1.0,
        beta: float = 1.0,
        use_dose: bool = True,
        finetune_response: bool = True,
        n_paired: int | None = None,
        checkpoint: str | Path | None = None,
        channel_agnostic: bool = False,
        channel_dropout: bool = True,
        crop: int | None = None,
        n_basal: int = 8,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        super().__init__(adata, preset=preset, seed=seed)
        check_arguments(ssl, objective, alpha, beta, n_paired, n_basal)
        if use_dose and self._setup["dose_key"] is None:
            raise ValueError("there are no doses (`dose_key=None`): give `use_dose=False`.")
        own, vit = sizes_of(preset, sizes)
        image = self.inputs["image"]
        self.side = image_side(image, preset, vit, crop)
        self.ssl = None if self.side is None else ssl
        if n_paired == 0 and self.ssl is None:
            raise ValueError("n_paired=0 leaves the self-supervised term alone, and there is none.")
        self.recipe = RECIPES[self.ssl][preset]
        self.objective, self.use_dose, self.finetune_response = (
            objective,
            use_dose,
            finetune_response,
        )
        self.n_paired, self.n_basal = n_paired, n_basal
        self.channels, self.channel_agnostic = channel_names(image), channel_agnostic
        self.channel_dropout = channel_agnostic and channel_dropout
        self.compounds: dict[str, str] = dict(self._setup["compounds"])
        self.drugs: list[str] = list(self._setup["drugs"])
        self.chemistry = Chemistry(self._setup["fingerprint"], self._setup["n_bits"])
        self.module, self._setup["scgpt"] = make_network(
            self.inputs,
            self.channels,
            self.chemistry.bits([self.compounds[drug] for drug in self.drugs]),
            preset=preset,
            side=self.side,
            ssl=self.ssl,
            channel_agnostic=channel_agnostic,
            sizes=own,
            vit=vit,
            checkpoint=checkpoint,
            stored=self._setup.get("scgpt") if self._loading is not None else None,
            objective=objective,
            weights={"tau": tau, "alpha": alpha, "beta": beta},
            use_dose=use_dose,
            seed=seed,
        )
        self.images = ImageReading(self.module, self.channels, self.side, n_paired == 0)

    @classmethod
    @as_in(read_screen)
    def setup_mudata(cls, mdata: MuData, **reading: Any) -> None:  # type: ignore[override] # noqa: D102
        if "rna_counts" in reading:
            warn_user(
                "setup_mudata(rna_counts=...) is now `rna_likelihood`, 'nb' for counts and 'mse' "
                "for values; the old name goes with the next version.",
                FutureWarning,
            )
            reading["rna_likelihood"] = "nb" if reading.pop("rna_counts") else "mse"
        cls._note(mdata, read_screen(mdata, **reading))

    # -- training ---------------------------------------------------------------------------------

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

    # -- the response model -----------------------------------------------------------------------

    @as_in(ResponseStage.train)
    def train_response(self, max_epochs: int = 100, **training: Any) -> pd.DataFrame:  # noqa: D102
        found = self._stage().train(max_epochs, **training)
        self.history_ = {**(self.history_ or {}), **found}
        return self.response_report_

    def _stage(self) -> ResponseStage:
        data = self._transcriptomes()
        used = data.used(self.drugs, list(self.compounds), self.n_paired, self.seed)
        return ResponseStage(self.module, data, used, self.use_dose, self.seed)

    def _transcriptomes(self) -> Transcriptomes:
        if self.adata is None:
            raise ValueError("this model was loaded without data: load it with `adata=mdata`.")
        adata, names = self._modality(None, "rna"), list(self.compounds)
        return Transcriptomes(
            self._reader(None, "rna"),
            field_arrays(adata, self._setup, names, modality=self.inputs["rna"].modality),
            self._contexts(None, ["rna"]),
            self.chemistry.bits([self.compounds[name] for name in names]),
            self._setup["counts"],
            self._setup["compound_key"],
            self._setup["control"],
            self.n_basal,
        )
