"""TIDE: images that learnt from transcriptomes (2604.22832)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import numpy as np
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data import Contexts, Source
from cellfuse.data.readers import read_dense
from cellfuse.data.splits import Rows, few_of_each
from cellfuse.kernels.fingerprints import Kind
from cellfuse.model.base import DocumentModel, Recipe, as_in
from cellfuse.model.base.callbacks import KeepBest, Score
from cellfuse.model.base.checks import check_between, check_whole
from cellfuse.model.base.fitting import Held, OfModel
from cellfuse.model.base.plans import Plans
from cellfuse.model.dino import TeacherSchedule, first_and_last
from cellfuse.model.tide.config import (
    RECIPES,
    SSL,
    check_arguments,
    image_side,
    make_image,
    make_response,
    sizes_of,
)
from cellfuse.model.tide.inference import TideInference
from cellfuse.model.tide.response_stage import ResponseStage
from cellfuse.model.tide.setup import field_arrays, read_screen
from cellfuse.model.tide.training import JointLosses, bank_rows, joint_plans, neighbour_accuracy
from cellfuse.nn.codebook import Codebook
from cellfuse.nn.crops import CropSettings
from cellfuse.nn.dino import Dino
from cellfuse.nn.tide import Objective, TideNetwork

__all__ = ["TIDE"]

#: Images that are read at a time to look at an epoch.
CHUNK = 4096
#: Weight decay at the first and the last step (DINO).
DECAY = (0.04, 0.4)
#: What of a training's arguments holds for the response model's too.
PLACE = ("accelerator", "devices", "precision", "enable_progress_bar", "num_nodes", "strategy")


class TIDE(ResponseStage, TideInference):
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
        own, vit = sizes_of(preset, sizes)
        self.objective = objective
        self.n_paired, self.n_basal = n_paired, n_basal
        self.finetune_response = finetune_response
        self.channel_agnostic = channel_agnostic
        self.channel_dropout = channel_agnostic and channel_dropout
        self.use_dose = use_dose
        if use_dose and self._setup["dose_key"] is None:
            raise ValueError("there are no doses (`dose_key=None`): give `use_dose=False`.")
        image = self.inputs["image"]
        self.side = image_side(image, preset, vit, crop)
        self.ssl = None if self.side is None else ssl
        self.recipe = RECIPES[self.ssl][preset]
        if n_paired == 0 and self.ssl is None:
            raise ValueError("n_paired=0 leaves the self-supervised term alone, and there is none.")
        self.channels = list(image.names or (f"channel {i}" for i in range(image.shape[0])))
        self.compounds: dict[str, str] = dict(self._setup["compounds"])
        self.drugs: list[str] = list(self._setup["drugs"])
        self._checkpoint = None if checkpoint is None else str(checkpoint)
        self.module = self._network(own, vit, tau=tau, alpha=alpha, beta=beta)

    def _network(self, own: Any, vit: Mapping[str, Any], **weights: float) -> TideNetwork:
        """Build the network; the image encoder first, so that it starts as DINO's and MAE's do."""
        image = make_image(
            self.inputs["image"],
            self.channels,
            side=self.side,
            preset=self.preset,
            ssl=self.ssl,
            channel_agnostic=self.channel_agnostic,
            sizes=own,
            vit=vit,
            seed=self.seed,
        )
        response, outline = make_response(
            self.inputs["rna"],
            self._setup["n_bits"],
            preset=self.preset,
            checkpoint=self._checkpoint,
            stored=self._setup.get("scgpt") if self._loading is not None else None,
        )
        self._setup["scgpt"] = outline
        codebook = Codebook(
            torch.from_numpy(self._fingerprints([self.compounds[d] for d in self.drugs])),
            width=own.codebook_width,
            hidden=own.codebook_hidden,
            temperature=weights["tau"],
        )
        return TideNetwork(
            image,
            response,
            codebook,
            n_channels=self.inputs["image"].shape[0],
            hidden=own.hidden,
            objective=self.objective,
            alpha=weights["alpha"],
            beta=weights["beta"],
            use_dose=self.use_dose,
        )

    @classmethod
    def setup_mudata(  # type: ignore[override]
        cls,
        mdata: MuData,
        *,
        context_keys: str | Sequence[str] = ("compound", "cell_line"),
        image_rep: str | None = "crops",
        rna_layer: str | None = None,
        rna_rep: str | None = None,
        rna_counts: bool = True,
        smiles_key: str = "smiles",
        dose_key: str | None = "dose_um",
        cell_line_key: str | None = "cell_line",
        control_key: str | None = None,
        control: str = "DMSO",
        fingerprint: Kind = "fcfp4",
        n_bits: int = 2048,
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is read, what images and RNA share, and what the compounds are.

        Parameters
        ----------
        mdata
            Modalities with different samples. Only ``.uns["cellfuse"]`` is written. Images without
            RNA, RNA without images and RNA at other doses than the images are all used.
        context_keys
            obs columns, in both modalities, whose joint value pairs images with RNA: the compound
            and the cell line.
        image_rep
            obsm key of pixels ``(n, C, H, W)`` or of flat features ``(n, D)``; None is X.
        rna_layer, rna_rep
            Layer or obsm key of the expression; X by default.
        rna_counts
            X or the layer holds raw counts, which are read as log(1 + counts per 10,000). False
            reads values as they are (L1000); an obsm key always is.
        smiles_key
            obs column with the compounds' SMILES, in one of the modalities at least. Controls need
            none.
        dose_key
            obs column with the dose in uM, in both modalities; None for a screen without.
        cell_line_key
            obs column with the cell line, one of `context_keys`. None: one cell line.
        control_key
            obs column with the compound, one of `context_keys`; by default the first that is not
            the cell line.
        control
            Label of the untreated samples, which must have RNA in every cell line with RNA.
        fingerprint, n_bits
            See :func:`cellfuse.pp.fingerprints`.
        modalities
            Name in the MuData of the roles ``"image"`` and ``"rna"``.

        Raises
        ------
        KeyError
            A modality, key or label is missing.
        ValueError
            SMILES that are not read (checked first), two structures of one compound, missing or
            negative doses, one cell line only, no pairs, NaN, no counts where there should be.

        Warns
        -----
        UserWarning
            Compounds with the same fingerprint.
        """
        setup = read_screen(
            mdata,
            context_keys=context_keys,
            image_rep=image_rep,
            rna_layer=rna_layer,
            rna_rep=rna_rep,
            rna_counts=rna_counts,
            smiles_key=smiles_key,
            dose_key=dose_key,
            cell_line_key=cell_line_key,
            control_key=control_key,
            control=control,
            fingerprint=fingerprint,
            n_bits=n_bits,
            modalities=modalities,
        )
        cls._note(mdata, setup)

    # -- training ---------------------------------------------------------------------------------

    @as_in(DocumentModel.train, without)
    def train(  # type: ignore[override]  # weight decay changes, from step to step
        self,
        max_epochs: int | None = None,
        *,
        response_epochs: int = 100,
        validation_images: int = 10,
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
            are those of the epoch with the highest accuracy of their 20 nearest neighbours among
            the training images (paper: 10 images); 0 holds none out and keeps the last. Of a few
            hundred held-out images the accuracy is too noisy to choose by (look at
            ``history["validation_knn_accuracy"]``).
        weight_decay
            At the first and last step; it changes in DINO only.
        momentum, temperature, temperature_epochs, freeze_epochs
            Of DINO's teacher.
        """
        check_whole("validation_images", validation_images, least=0)
        check_between("momentum", momentum, 0, 1)
        decay = None if weight_decay is None else first_and_last("weight_decay", weight_decay)
        self._n_held, self._resumes = validation_images, training.get("ckpt_path") is not None
        self._response_run = (response_epochs, {k: training[k] for k in PLACE if k in training})
        self._schedule = None
        if isinstance(self.module.image, Dino):
            self._schedule = TeacherSchedule(
                self.module.image,
                momentum=momentum,
                temperature=temperature,
                warmup_epochs=temperature_epochs,
                weight_decay=DECAY if decay is None else decay,
                freeze_epochs=freeze_epochs,
            )
        super().train(max_epochs, weight_decay=None if decay is None else decay[0], **training)

    def _rows(self, contexts: Contexts, held: Held) -> Rows:
        self._data, self._fields = self._transcriptomes(), self._image_fields()
        images = few_of_each(self._fields["compound"], self._n_held, self.seed)
        rna = self._used_rna(self._data)
        return Rows({"image": ~images, "rna": rna}, {"image": images, "rna": ~rna})

    def _plans(self, contexts: Contexts, rows: Rows, recipe: Recipe, **_: Any) -> Plans:
        plans = joint_plans(
            contexts,
            self._data,
            images=rows.train["image"],
            labelled=self._fields["drug"] >= 0,
            rna=rows.train["rna"],
            paired=self.n_paired != 0,
            ssl=self.ssl is not None,
            batch_size=recipe.batch_size,
            seed=self.seed,
        )
        self._every = max(1, recipe.max_epochs // 20)
        return Plans(plans, None, {"image": rows.train["image"]})

    def _source(self) -> Source:
        readers = {role: self._reader(None, role) for role in self.inputs}
        return Source(readers, {"image": self._fields, "rna": dict(self._data.fields)})

    def _begin_stage(self, stage: int, source: Source) -> None:
        if self.n_paired != 0 and not self._resumes:
            self._first_stage(self._data, *self._response_run)
        views = None
        if isinstance(self.module.image, Dino):
            assert self.side is not None
            views = CropSettings.for_images(self.side, self.module.image.encoder.patch_size)
        self._joint = JointLosses(
            self.module,
            self._data,
            self.channels,
            self.side,
            views,
            self._schedule,
            self.channel_dropout,
            self.seed,
        )

    def _losses(self, batches: Any, augment: bool) -> dict[str, Tensor]:
        return self._joint(batches, augment)

    def _callbacks(self, recipe: Recipe, plans: Plans) -> list[L.Callback]:
        found: list[L.Callback] = [] if self._schedule is None else [self._schedule]
        held = ~plans.train_rows["image"]
        if held.any():
            score = Neighbours(self, self._fields["compound"], held)
            found.append(Score(self.module, score, every=self._every))
            found.append(KeepBest(self.module, "validation_knn_accuracy"))
        return found

    def _image_fields(self) -> dict[str, NDArray]:
        adata = self._modality(None, "image")
        of = {"modality": self.inputs["image"].modality}
        fields = field_arrays(adata, self._setup, list(self.compounds), **of)
        fields["drug"] = field_arrays(adata, self._setup, self.drugs, **of)["compound"]
        return fields


class Neighbours(OfModel):
    """Accuracy of the held-out images' nearest neighbours among the training images."""

    def __init__(self, model: TIDE, compound: NDArray[np.int64], held: NDArray[np.bool_]) -> None:
        super().__init__(model)
        self.asked, self.bank = np.flatnonzero(held), bank_rows(compound, held, model.seed)
        self.compound, self.reader = compound, model._reader(None, "image")

    def __call__(self) -> dict[str, float]:
        """Read the images in pieces, and embed them."""
        found: list[torch.Tensor] = []
        for rows in (self.asked, self.bank):
            pieces = (rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK))
            features = self.model._features
            x = torch.cat([features(read_dense(self.reader, piece)) for piece in pieces])
            found += [x, torch.as_tensor(self.compound[rows]).to(x.device)]
        return {"knn_accuracy": neighbour_accuracy(*found)}
