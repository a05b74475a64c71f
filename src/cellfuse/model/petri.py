"""PETRI: early fusion of unpaired images and counts by joint masked reconstruction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data, is_mudata
from cellfuse._errors import listing
from cellfuse.data import (
    Batch,
    DocumentDataModule,
    Source,
    enumerate_documents,
)
from cellfuse.data.streams import Indices
from cellfuse.model._petri_config import BATCHES, default_weights, input_specs, sizes_of
from cellfuse.model._scvi import DocumentModel
from cellfuse.model._sets import plan_sets
from cellfuse.model._setup import check_seed, check_whole, read_inputs, roles_of
from cellfuse.model._training import Training, fit, seeded
from cellfuse.nn import JointMaskedAutoencoder

__all__ = ["PETRI", "Reconstruction"]

logger = logging.getLogger("cellfuse")


@dataclass(frozen=True)
class Reconstruction:
    """Cells rebuilt from what was left of them.

    Parameters
    ----------
    rows
        Row of each cell in its modality, ``(n,)``; a cell stands there once.
    target, prediction
        On the scale of the data: images ``(n, C, H, W)``, or genes ``(n, n_genes)``.
    mask
        Tokens that were hidden, ``(n, T)``: patches row by row, or genes.
    loss
        Loss of each cell's hidden tokens, as in training, ``(n,)``.
    """

    rows: NDArray[np.int64]
    target: NDArray[np.float32]
    prediction: NDArray[np.float32]
    mask: NDArray[np.bool_]
    loss: NDArray[np.float32]


class PETRI(DocumentModel):
    """Unified cell embeddings from unpaired modalities by joint masked reconstruction.

    Cells that share a context form documents. 75% of each cell's tokens (image patches, genes) are
    removed; each cell's rest is encoded into a few latents; a set transformer lets the latents of
    all cells of the document, of both modalities, attend to each other; decoders rebuild what was
    removed. The embedding of a cell is the mean of its latents *before* the set transformer, with
    nothing removed, so that it needs neither the other modality nor a context.

    The variants of the paper's Table 1 are arguments: one entry in `modalities` of
    :meth:`setup_mudata` gives PETRI Image or PETRI Omics; `n_set_layers=0` gives the ViT MAE or the
    TrP MAE; `permute_contexts=True` gives PETRI on permuted data.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"`` (the paper: 259 M parameters).
    set_size
        Cells of each modality in a document, 16 (paper).
    crop
        Side in pixels of the centre crop of images; None takes the whole image (the paper's crops
        are 80 for HepG2, 64 for Perturb-Multi).
    normalize
        ``"dataset"`` standardises each channel by the training set, so that intensity stays a
        phenotype; ``"instance"`` each image by itself.
    loss_weights
        Weight of each modality's loss. Default: 1 for images and tokens (mean squared error),
        1.8 / n_genes for counts and 2.1 / n_features for values (sums over a cell's hidden
        features), which are the paper's 1e-4 at 18,082 genes and 0.01 at 209.
    permute_contexts
        Deal cells to contexts at random: the control that fails where the modalities teach each
        other anything.
    seed
        Seed of weights, documents, masks and augmentation.
    **sizes
        Single sizes on top of the preset, such as `n_latents`, `n_set_layers`, `mask_ratio`,
        `width`: the fields of :class:`cellfuse.nn.Sizes`.

    Raises
    ------
    ValueError
        No setup, an unknown preset or size, an image side that is no multiple of the patch.

    Notes
    -----
    Where the paper is silent (optimiser, schedule, dispersion, modality embedding) the choices are
    listed in the user guide. Contexts with fewer cells than `set_size` show the same cell more than
    once, differently masked, in one document; a warning counts them.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=8, seed=0)
    >>> cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    >>> model = cf.PETRI(mdata, set_size=2, seed=0)
    >>> model.train(max_epochs=1, documents_per_context=1, enable_progress_bar=False)
    >>> model.get_latent_representation(modality="image").shape[1]
    96
    """

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        set_size: int = 16,
        crop: int | None = None,
        normalize: Literal["dataset", "instance"] = "dataset",
        loss_weights: Mapping[str, float] | None = None,
        permute_contexts: bool = False,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        self._begin(adata)
        if set_size < 1:
            raise ValueError(f"set_size must be at least 1, found {set_size}.")
        check_seed(seed)
        self.preset, self.set_size, self.seed = preset, set_size, seed
        self.permute_contexts = permute_contexts
        self.sizes = sizes_of(preset, sizes)
        specs = input_specs(
            self.inputs, crop=crop, normalize=normalize, patch_size=self.sizes.patch_size
        )
        with seeded(seed):
            self.module: JointMaskedAutoencoder = JointMaskedAutoencoder(
                specs, self.sizes, weights=default_weights(self.inputs, loss_weights), seed=seed
            )
        read = ", ".join(f"{role} {i.kind} {i.shape}" for role, i in self.inputs.items())
        by = ", ".join(self.context_keys)
        self._model_summary_string = (
            f"PETRI ({preset}): {read}, set size {set_size}, contexts by {by}"
        )
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
        rna_likelihood: Literal["nb", "mse"] = "nb",
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is read and what cells share.

        Parameters
        ----------
        mdata
            Modalities with different cells. Only ``.uns["cellfuse"]`` (and scvi-tools'
            identifiers in ``.uns``) is written.
        context_keys
            obs column or columns, in every modality, whose joint value is the context: the guide,
            the compound, or the chemical background and the guide. An obsm key of
            :func:`cellfuse.pp.map_contexts` gives cells several contexts; ``"obs_names"`` means
            cells measured in both modalities.
        image_rep
            obsm key of pixels ``(n, C, H, W)``, tokens ``(n, T, D)`` or a flat embedding
            ``(n, D)``; None is X.
        rna_rep
            obsm key of a flat embedding; None is X or `rna_layer`.
        rna_layer
            Layer of raw counts; None is X.
        rna_likelihood
            ``"nb"``: raw counts, negative binomial. ``"mse"``: real values. An obsm key is always
            read as real values.
        modalities
            Name in the MuData of the roles ``"image"`` and ``"rna"``; one entry alone gives
            documents of that modality. Default: both, under their own names.

        Raises
        ------
        KeyError
            A modality, key or layer is missing.
        ValueError
            No counts where counts are needed, NaN, contexts that do not match, colliding names.
        """
        roles = roles_of(modalities)
        if rna_likelihood not in ("nb", "mse"):
            raise ValueError(f"rna_likelihood={rna_likelihood!r}: expected 'nb' or 'mse'.")
        keys, inputs = read_inputs(
            cls.__name__,
            mdata,
            roles,
            context_keys=context_keys,
            reps={"image": image_rep, "rna": rna_rep},
            layers={"rna": rna_layer},
            counts=("rna",) if rna_likelihood == "nb" else (),
        )
        cls._keep_setup(mdata, {"context_keys": keys, "inputs": [i.to_json() for i in inputs]})

    # -- training ---------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int = 100,
        *,
        batch_size: int | None = None,
        documents_per_context: int = 30,
        replace: Literal["if_needed", True] = "if_needed",
        missing: Literal["keep", "drop"] = "keep",
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
            Documents per batch, over all devices: 8 for ``"small"``, 96 for ``"base"`` (1,536
            cells of each modality in the paper).
        documents_per_context
            Documents of each context per epoch, 30 (paper).
        replace
            ``"if_needed"``: a cell stands once in a document where the context has enough cells.
            True: cells are drawn independently (the paper's).
        missing
            Contexts that one modality lacks: ``"keep"`` makes documents of the other alone,
            ``"drop"`` leaves them out.
        validation_size
            Share of each context's cells held out; losses on them are in :attr:`history`.
        lr, weight_decay, warmup
            AdamW (betas .9, .95), linear warm-up over a share of the steps, then cosine. The
            learning rate is 3e-3 for ``"small"`` and 9e-4 for ``"base"``.
        augment
            Random flips, rotation and 5% translation of pixels (paper).
        num_workers
            Processes that read ahead.
        accelerator, devices, precision, callbacks, ckpt_path, **trainer_kwargs
            Passed to Lightning's trainer, such as `strategy`, `num_nodes`, `max_steps`. Precision
            is bf16 on a GPU and float32 elsewhere. `ckpt_path` resumes from a checkpoint, in the
            middle of an epoch too.
        """
        self._check_trainable(max_epochs, trainer_kwargs)
        default_batch_size, default_lr = BATCHES[self.preset]
        batch_size = default_batch_size if batch_size is None else batch_size
        lr = default_lr if lr is None else lr
        if lr <= 0:
            raise ValueError(f"lr must be positive, found {lr}.")
        contexts = self._contexts(None, list(self.inputs))
        if self.permute_contexts:
            contexts = contexts.permuted(self.seed)
        plans = plan_sets(
            contexts,
            list(self.inputs),
            set_size=self.set_size,
            batch_size=batch_size,
            documents_per_context=documents_per_context,
            replace=replace,
            missing=missing,
            validation_size=validation_size,
            seed=self.seed,
        )
        # Documents without any held-out cell of a modality say nothing about it.
        unseen = {f"{role}_loss" for role, held in plans.held_out.items() if not held.any()}
        source = Source({role: self._reader(None, role) for role in self.inputs})
        if not self.is_trained_:
            found = self._statistics(source, plans.train_rows, seed=self.seed)
            for role, (mean, sd) in found.items():
                self.module.cell(role).set_statistics(mean, sd)
        self.module.train()
        self.history_ = fit(
            Training(
                self.module,
                lambda batch, training: self._losses(
                    batch, training and augment, leave_out=set() if training else unseen
                ),
                lr=lr,
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

    def _losses(self, batch: Batch, augment: bool, leave_out: set[str]) -> dict[str, Tensor]:
        losses = self.module(batch.x, batch.key, batch.present, augment=augment)
        return {name: value for name, value in losses.items() if name not in leave_out}

    # -- what a trained model gives ---------------------------------------------------------------

    @torch.inference_mode()
    def get_latent_representation(  # type: ignore[override]
        self,
        data: Data | None = None,
        *,
        modality: str | None = None,
        layer: Literal["encoder"] | int = "encoder",
        batch_size: int = 256,
    ) -> NDArray[np.float32]:
        """Embedding of every cell of a modality.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or one modality's AnnData.
        modality
            Role: ``"image"`` or ``"rna"``.
        layer
            ``"encoder"``: mean of the cell's latents before the set transformer, nothing masked
            (paper, 4); needs neither contexts nor the other modality. A number from 1: after that
            layer of the set transformer, with documents of all modalities in which every cell
            stands at least once; a cell's several values are averaged (paper, A.6).
        batch_size
            Cells encoded at a time.

        Returns
        -------
        ``(n_cells, width)``.
        """
        self._check_trained()
        role = self._one_role(modality)
        self.module.eval()
        if layer != "encoder":
            return self._layer_representation(data, role, layer, batch_size)
        return self._encode(
            data,
            role,
            encode=lambda cells: self.module.embed(role, cells),
            width=self.sizes.width,
            batch_size=batch_size,
        )

    def _layer_representation(
        self, data: Data | None, role: str, layer: int | str, batch_size: int
    ) -> NDArray[np.float32]:
        is_number = isinstance(layer, Integral) and not isinstance(layer, bool)
        if not is_number or not 1 <= int(layer) <= self.sizes.n_set_layers:
            raise ValueError(
                f"layer={layer!r}: expected 'encoder' or a number from 1 to "
                f"{self.sizes.n_set_layers} (the layers of the set transformer)."
            )
        check_whole("batch_size", batch_size)
        roles = list(self.inputs)
        contexts = self._contexts(data, roles)
        documents = enumerate_documents(contexts, roles, set_size=self.set_size, seed=self.seed)
        source = Source({name: self._reader(data, name) for name in roles})
        total = np.zeros((contexts.n_rows[role], self.sizes.width), np.float64)
        times = np.zeros(contexts.n_rows[role], np.int64)
        for part in _parts(documents, max(1, batch_size // self.set_size)):
            batch = source.read(part).to(self.device)
            latents = {}
            for name, x in batch.x.items():
                encoded = self.module.latents(name, x.flatten(0, 1))
                latents[name] = encoded.view(*x.shape[:2], *encoded.shape[1:])
            fused = self.module.fuse(latents, batch.present)[int(layer)][role].mean(dim=2)
            here = part.present[role]
            np.add.at(total, part.rows[role][here], fused.double().cpu().numpy()[here])
            np.add.at(times, part.rows[role][here], 1)
        # A cell outside every context has no document, and no value.
        return (total / np.where(times, times, np.nan)[:, None]).astype(np.float32)

    @torch.inference_mode()
    def reconstruct(
        self,
        data: Data | None = None,
        *,
        modality: str | None = None,
        using: Sequence[str] | None = None,
        max_documents: int = 64,
        seed: int | None = None,
    ) -> Reconstruction:
        """Hide tokens of cells and rebuild them from the document.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or one modality's AnnData.
        modality
            Role of the cells that are rebuilt.
        using
            Roles whose cells the document holds, that of `modality` among them; default all. With
            and without the other modality is the paper's ablation (4.2, A.11).
        max_documents
            Documents that are rebuilt, drawn at random where there are more.
        seed
            Seed of masks and choice; the model's by default. The same seed gives the same masks
            whatever `using` holds.

        Returns
        -------
        Cells, what was rebuilt, masks and losses.
        """
        self._check_trained()
        role = self._one_role(modality)
        roles = list(self.inputs) if using is None else list(using)
        if role not in roles:
            raise ValueError(
                f"`using` must hold {role!r}, which is rebuilt; found {listing(roles)}."
            )
        self.module.eval()
        seed = self.seed if seed is None else seed
        check_seed(seed)
        # All modalities are laid out, whatever is used: the same cells then meet the same masks.
        whole = self.adata if data is None else data
        mods = whole.mod if whole is not None and is_mudata(whole) else {}
        known = [r for r, i in self.inputs.items() if r in roles or i.modality in mods]
        documents = enumerate_documents(
            self._contexts(data, known), known, set_size=self.set_size, seed=seed
        )
        here = np.flatnonzero(documents.present[role])
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(here)[:max_documents])
        source = Source({name: self._reader(data, name) for name in roles})
        parts = []
        for number in chosen:
            one = _select(documents, np.array([number]), roles)
            batch = source.read(one).to(self.device)
            key = batch.key + (seed << 32)
            x = {name: batch.x[name] for name in roles}
            target, prediction, mask = self.module.reconstruct(x, key, batch.present)[role]
            cell = self.module.cell(role)
            restored = (cell.restore(target, target), cell.restore(target, prediction))
            if self.inputs[role].kind == "counts":
                restored = (target, restored[1])
            parts.append((one.rows[role][0], *restored, mask, cell.loss(target, prediction, mask)))
        rows = np.concatenate([part[0] for part in parts])
        rows, first = np.unique(rows, return_index=True)
        arrays = [torch.cat([p[i] for p in parts]).cpu().numpy()[first] for i in range(1, 5)]
        return Reconstruction(rows, *arrays)


def _select(documents: Indices, which: NDArray[np.int64], roles: Sequence[str]) -> Indices:
    return Indices(
        documents.key[which],
        documents.context[which],
        {role: documents.rows[role][which] for role in roles},
        {role: documents.present[role][which] for role in roles},
    )


def _parts(documents: Indices, size: int) -> list[Indices]:
    n = len(documents.key)
    roles = list(documents.rows)
    return [_select(documents, np.arange(i, min(i + size, n)), roles) for i in range(0, n, size)]
