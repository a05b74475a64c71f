"""CLIP on documents: the contrastive baselines of PETRI (A.3), GroupCLIP and CellCLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse.data import Batch, DocumentDataModule, Source
from cellfuse.model._petri_config import BATCHES, input_specs, sizes_of
from cellfuse.model._scvi import DocumentModel
from cellfuse.model._sets import plan_sets
from cellfuse.model._setup import check_seed, read_inputs, roles_of
from cellfuse.model._training import Training, fit, seeded
from cellfuse.nn import SetCLIP
from cellfuse.nn.clip import Positives

__all__ = ["CLIP"]


class CLIP(DocumentModel):
    """Contrastive learning between the two modalities of a document.

    PETRI's encoders without its decoders and set transformer (A.3). A batch is compared document
    against document: the images of one must find the expression of the same one among all.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"`` (the paper's encoders).
    set_size
        Cells of each modality in a document, 16 (A.3); 1 compares pairs of cells.
    average
        Average the embeddings of a document's cells before they are compared (A.3). False compares
        the cells themselves.
    positives
        ``"own"``: a document and itself (CLIP). ``"context"``: every pair of one context
        (GroupCLIP). ``"similar"``: pairs weighted by how alike their images are (CellCLIP's
        weighting), for images looking for expression.
    temperature
        Start of the learnable temperature, 0.07 (CLIP).
    crop, normalize
        As in :class:`PETRI`.
    permute_contexts
        Deal cells to contexts at random: the control that fails where the modalities share nothing.
    seed
        Seed of weights, documents and augmentation.
    **sizes
        Single sizes on top of the preset: the fields of :class:`cellfuse.nn.Sizes` that belong to
        encoders.

    Raises
    ------
    ValueError
        No setup, one modality only, an unknown preset or size.

    Notes
    -----
    The paper's batch is 4,096 cells of each modality, 256 documents: many more than PETRI's, since
    every other document of the batch is a negative. A batch is cut to the documents there are.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=8, seed=0)
    >>> cf.CLIP.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    >>> model = cf.CLIP(mdata, set_size=2, seed=0)
    >>> model.train(max_epochs=1, documents_per_context=1, enable_progress_bar=False)
    >>> model.get_latent_representation(modality="rna").shape[1]
    96
    """

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        set_size: int = 16,
        average: bool = True,
        positives: Positives = "own",
        temperature: float = 0.07,
        crop: int | None = None,
        normalize: Literal["dataset", "instance"] = "dataset",
        permute_contexts: bool = False,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        self._begin(adata)
        check_seed(seed)
        if set_size < 1:
            raise ValueError(f"set_size must be at least 1, found {set_size}.")
        if positives not in get_args(Positives):
            raise ValueError(f"positives={positives!r}: expected one of {get_args(Positives)}.")
        self.preset, self.set_size, self.seed = preset, set_size, seed
        self.permute_contexts = permute_contexts
        self.sizes = sizes_of(preset, sizes, model="CLIP")
        specs = input_specs(
            self.inputs, crop=crop, normalize=normalize, patch_size=self.sizes.patch_size
        )
        with seeded(seed):
            self.module: SetCLIP = SetCLIP(
                specs,
                self.sizes,
                average=average,
                positives=positives,
                temperature=temperature,
                seed=seed,
            )
        read = ", ".join(f"{role} {i.kind} {i.shape}" for role, i in self.inputs.items())
        self._model_summary_string = f"CLIP ({preset}): {read}, set size {set_size}"
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        context_keys: str | Sequence[str],
        image_rep: str | None = None,
        rna_rep: str | None = None,
        rna_layer: str | None = None,
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is read and what cells share.

        Parameters
        ----------
        mdata
            Modalities with different cells (or the same: ``context_keys="obs_names"``).
        context_keys, image_rep, rna_rep, rna_layer, modalities
            As in :meth:`PETRI.setup_mudata`. Counts are read as log(1 + count); both modalities
            are needed.

        Raises
        ------
        KeyError
            A modality, key or layer is missing.
        ValueError
            One modality only, NaN, contexts that do not match, colliding names.
        """
        roles = roles_of(modalities)
        if len(roles) != 2:
            raise ValueError(f"CLIP compares two modalities; `modalities` names {list(roles)}.")
        keys, inputs = read_inputs(
            cls.__name__,
            mdata,
            roles,
            context_keys=context_keys,
            reps={"image": image_rep, "rna": rna_rep},
            layers={"rna": rna_layer},
            counts=("rna",),
        )
        cls._keep_setup(mdata, {"context_keys": keys, "inputs": [i.to_json() for i in inputs]})

    def train(
        self,
        max_epochs: int = 100,
        *,
        batch_size: int | None = None,
        documents_per_context: int = 30,
        replace: Literal["if_needed", True] = "if_needed",
        validation_size: float = 0.0,
        lr: float | None = None,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
        augment: bool = True,
        num_workers: int = 0,
        accelerator: str = "auto",
        devices: Any = "auto",
        precision: str | None = None,
        callbacks: list[L.Callback] | None = None,
        ckpt_path: str | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Epochs, 100 in the paper.
        batch_size
            Documents per batch, over all devices: 16 for ``"small"``, 256 for ``"base"`` (A.3).
        documents_per_context, replace, validation_size, lr, weight_decay, warmup, augment
            As in :meth:`PETRI.train`. Contexts that lack a modality are left out; so are held-out
            documents that do not fill a batch, in which a comparison would be an easier one.
        num_workers, accelerator, devices, precision, callbacks, ckpt_path, **trainer_kwargs
            As in :meth:`PETRI.train`.

        Raises
        ------
        ValueError
            A batch of one document, which has nothing to be compared with.
        """
        self._check_trainable(max_epochs, trainer_kwargs)
        plans = plan_sets(
            self._training_contexts(),
            list(self.inputs),
            set_size=self.set_size,
            batch_size={"small": 16, "base": 256}[self.preset]
            if batch_size is None
            else batch_size,
            documents_per_context=documents_per_context,
            replace=replace,
            missing="drop",
            validation_size=validation_size,
            whole_batches=True,
            seed=self.seed,
        )
        if plans.train.batch_size < 2:
            raise ValueError("a batch of one document has no other to be compared with.")
        source = Source({role: self._reader(None, role) for role in self.inputs})
        if not self.is_trained_:
            found = self._statistics(source, plans.train_rows, seed=self.seed)
            for role, (mean, sd) in found.items():
                self.module.cell(role).set_statistics(mean, sd)
        self.module.train()
        self.history_ = fit(
            Training(
                self.module,
                lambda batch, training: self._losses(batch, training and augment),
                lr=BATCHES[self.preset][1] if lr is None else lr,
                weight_decay=weight_decay,
                warmup=warmup,
            ),
            DocumentDataModule(
                plans.train, source, validation=plans.validation, num_workers=num_workers
            ),
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            callbacks=callbacks,
            ckpt_path=ckpt_path,
            **trainer_kwargs,
        )
        self.module.eval()
        self.is_trained_ = True

    def _training_contexts(self) -> Any:
        contexts = self._contexts(None, list(self.inputs))
        return contexts.permuted(self.seed) if self.permute_contexts else contexts

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        return self.module(batch.x, batch.key, batch.context, augment=augment)

    @torch.inference_mode()
    def get_latent_representation(  # type: ignore[override]
        self, data: Data | None = None, *, modality: str | None = None, batch_size: int = 256
    ) -> NDArray[np.float32]:
        """Embedding of every cell of a modality.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or one modality's AnnData.
        modality
            Role: ``"image"`` or ``"rna"``.
        batch_size
            Cells encoded at a time.

        Returns
        -------
        ``(n_cells, width)``: the vectors whose set means training compares.
        """
        self._check_trained()
        role = self._one_role(modality)
        self.module.eval()
        return self._encode(
            data,
            role,
            encode=lambda x: self.module.embed(role, x),
            width=self.sizes.width,
            batch_size=batch_size,
        )
