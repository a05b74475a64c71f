"""PETRI: early fusion of unpaired images and counts by joint masked reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse._renamed import renamed
from cellfuse.data import Batch, Contexts, Source
from cellfuse.data.readers import read_dense
from cellfuse.data.splits import sample_rows
from cellfuse.kernels.left_out import N_COMPS
from cellfuse.model.base import Recipe
from cellfuse.model.base.joint_model import JointModel
from cellfuse.model.base.sizes import default_weights, input_specs, sizes_of
from cellfuse.model.petri.evidence import CrossModalEvidence
from cellfuse.nn import JointFeatures, JointMaskedAutoencoder, JointSpace

__all__ = ["PETRI"]

#: Held-out cells of each modality whose hidden tokens are rebuilt after an epoch.
N_REBUILT = 512


class PETRI(CrossModalEvidence, JointModel):
    """Unified cell embeddings from unpaired modalities by joint masked reconstruction.

    Cells that share a context form documents. 75% of each cell's tokens (image patches, genes) are
    removed; each cell's rest is encoded into a few latents; a set transformer lets the latents of
    all cells of the document, of both modalities, attend to each other; decoders rebuild what was
    removed. The embedding of a cell is the mean of its latents *before* the set transformer, with
    nothing removed, so that it needs neither the other modality nor a context.

    With ``begin="linear"`` each encoder begins at a linear autoencoder (principal components of
    what is visible), which depth joins through gates that begin at 0; and the cells' latents,
    beside the plain features of :class:`SharedAxes`, go through its closed form, fitted on the
    training cells when training ends: learnt within each modality, where cells are many, joined by
    what a thousand contexts can support. How much the latents weigh is chosen by contexts left out
    of that fit (:attr:`learnt_weight`); 0 is the closed form itself.
    ``begin="random"`` is the paper's.

    The variants of the paper's Table 1 are arguments: one entry in `modalities` of
    :meth:`setup_mudata` gives PETRI Image or PETRI Omics; `n_set_layers=0` gives the ViT MAE or the
    TrP MAE; `permute_contexts=True` gives PETRI on permuted data.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"`` (the paper's sizes: 256.3 M parameters with its
        18,082 genes; the paper counts 259).
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
    begin
        ``"linear"`` (default of ``"small"``) or ``"random"`` (the paper's, default of ``"base"``).
    target_key
        With ``begin="linear"``: obs column, such as the target gene of guides, whose contexts are
        permuted together for the null of the shared axes; see :class:`SharedAxes`.
    left_out_by
        With ``begin="linear"``: obs column whose contexts are left out together where left-out
        contexts choose the number of components and the weight of what was learnt; see
        :class:`SharedAxes`.
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
    >>> model.get_latent_representation(modality="image", at="encoder").shape[1]
    96
    """

    module: JointMaskedAutoencoder
    #: The paper's batch is 1,536 cells of each modality, in sets of 16; its learning rate is not
    #: given: 1.5e-4 x 1,536 / 256 (MAE's rule). The small preset's: 3e-3 learns faster than 1e-3;
    #: 1e-2 lowers the loss further, but the RNA profiles of the one simulated screen it was tried
    #: on (seed 0, 600 steps) were worse.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "small": Recipe(batch_size=8, lr=3e-3),
        "base": Recipe(batch_size=96, lr=9e-4),
    }
    joins = False

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        set_size: int = 16,
        crop: int | None = None,
        normalize: Literal["dataset", "instance"] = "dataset",
        loss_weights: Mapping[str, float] | None = None,
        begin: Literal["linear", "random"] | None = None,
        target_key: str | None = None,
        left_out_by: str | None = None,
        permute_contexts: bool = False,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        super().__init__(
            adata,
            preset=preset,
            set_size=set_size,
            permute_contexts=permute_contexts,
            begin=begin or ("linear" if preset == "small" else "random"),
            seed=seed,
        )
        self.target_key, self.left_out_by = target_key, left_out_by
        self.sizes = sizes_of(preset, sizes)
        self.n_learnt = self.sizes.width
        specs = input_specs(
            self.inputs, crop=crop, normalize=normalize, patch_size=self.sizes.patch_size
        )
        self.module = JointMaskedAutoencoder(
            specs,
            self.sizes,
            weights=default_weights(self.inputs, loss_weights),
            seed=seed,
            linear=self.begin == "linear",
        )
        if self.begin == "linear":
            self.module.joint = JointFeatures(
                self._plain_features(crop),
                n_learnt=self.sizes.width,
                n_comps=self.n_comps or N_COMPS[0],
                n_nuisances=self._n_nuisances,
            )

    def _begin_at(
        self, source: Source, train_rows: Mapping[str, NDArray[np.bool_]], contexts: Contexts
    ) -> None:
        assert self.module.joint is not None
        if len(self.inputs) == 2 and contexts.shared().sum() < 3:
            raise ValueError(
                f"{int(contexts.shared().sum())} contexts have training cells of both modalities; "
                "begin='linear' joins them in closed form, which needs three at least. Give "
                "begin='random'."
            )
        for role, reader in source.readers.items():
            rows = sample_rows(train_rows[role], seed=self.seed, shape=reader.shape[1:])
            cells = read_dense(reader, rows)
            self.module.cell(role).begin_at(cells)  # type: ignore[operator]  # linear first
            self.module.joint.fit_plain(role, cells)

    @property
    def _second_by_role(self) -> dict[str, int]:
        assert self.module.joint is not None
        return self.module.joint.n_second

    @property
    def _space(self) -> JointSpace:
        assert self.module.joint is not None
        return self.module.joint.space

    @property
    def learnt_weight(self) -> float:
        """Weight of learnt latents beside plain features in the joint space: 0, .5 or 1.

        Chosen by how well contexts that were left out of the closed form are found: across the
        modalities, or in other cells of one modality alone. 0 says that the latents add nothing to
        the plain features on this screen.
        """
        self._check_trained()
        if self.begin != "linear":
            raise ValueError(
                "`learnt_weight` is of models that begin linear; this began at random."
            )
        return float(self._space.learnt_weight)

    def _features(self, role: str, x: Tensor) -> Tensor:
        assert self.module.joint is not None
        return self.module.joint.features(role, x, self.module.embed(role, x))

    def _finish(self, source: Source, trained: Contexts) -> None:
        if self.begin == "linear":
            self._fit_joint(source, trained)

    def _validate(self, source: Source, trained: Contexts, held: Contexts) -> dict[str, float]:
        # A model begun at random is judged by its losses alone.
        if self.begin != "linear":
            return {}
        found = super()._validate(source, trained, held)
        return found | {
            f"{role}_share": self._share(source, role, trained, held) for role in source.readers
        }

    def _share(self, source: Source, role: str, trained: Contexts, held: Contexts) -> float:
        """Share of what the linear autoencoder rebuilds, on cells of held-out contexts."""
        cells = []
        for contexts in (trained, held):
            rows = contexts.of_row(role) >= 0
            chosen = sample_rows(rows, seed=self.seed, shape=source.readers[role].shape[1:])
            if contexts is held:
                chosen = chosen[:N_REBUILT]
            cells.append(read_dense(source.readers[role], chosen, device=self.device))
        begun = self.module.cell(role).begun(cells[0])  # type: ignore[operator]  # linear first
        return self.module.share_of_linear(role, cells[1], begun)

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        return self.module(batch.x, batch.key, batch.present, augment=augment)

    def _embed(self, role: str, x: Tensor) -> Tensor:
        return self.module.embed(role, x)

    # -- what a trained model gives ---------------------------------------------------------------

    @renamed(layer="at")
    def get_latent_representation(  # type: ignore[override]
        self,
        data: Data | None = None,
        *,
        modality: str | None = None,
        at: Literal["joint", "shared", "encoder"] | int | None = None,
        batch_size: int = 256,
        out: str | Path | None = None,
    ) -> NDArray[np.float32]:
        """Embedding of every cell of a modality.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or one modality's AnnData.
        modality
            Role: ``"image"`` or ``"rna"``.
        at
            None is ``"joint"`` where the model began linear and ``"encoder"`` else. ``"joint"``:
            what the cell tells of its context in all directions of both modalities, and
            ``"shared"``: its coordinates on the axes that both have, as :class:`SharedAxes` has
            them; not to be scaled or whitened. ``"encoder"``: mean of the cell's latents before
            the set transformer, nothing masked (paper, 4); needs neither contexts nor
            the other modality. A number from 1: after that layer of the set transformer,
            with documents of all modalities in which every cell
            stands at least once; a cell's several values are averaged (paper, A.6).
        batch_size
            Cells encoded at a time.
        out
            Folder of a zarr store into which the embedding is written, batch by batch; a call that
            was killed goes on where it stopped. None: it comes in memory.

        Returns
        -------
        ``(n_cells, width)``; with `out` an array of the store, for obsm, that every verb takes.
        """
        self._check_trained()
        if out is not None and at not in (None, "joint", "shared", "encoder"):
            raise ValueError(
                f"`out` is not for at={at!r}, which goes by documents and not by cells."
            )
        if at in ("joint", "shared") and self.begin != "linear":
            raise ValueError(f"at={at!r} is of models that begin linear; this one began at random.")
        if at is None:
            at = "joint" if self.begin == "linear" else "encoder"
        if at == "joint" or at == "shared":
            return self._representation(data, modality, at, batch_size, out)
        if at == "encoder":
            return super().get_latent_representation(
                data, modality=modality, batch_size=batch_size, out=out
            )
        return self._after_layer(data, self._role(modality), at, batch_size)
