"""ImageRegressor: expression predicted from images (PETRI, A.8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse.data import Batch
from cellfuse.model.base import DocumentModel, Recipe
from cellfuse.model.base.image_model import vit_sizes
from cellfuse.model.base.sizes import input_spec
from cellfuse.nn.augment import center_crop, random_affine
from cellfuse.nn.regression import ImageRegression
from cellfuse.nn.vit import make_vit

__all__ = ["ImageRegressor"]


class ImageRegressor(DocumentModel):
    """Predict the expression of a cell from its image, by a ViT (PETRI, A.8).

    How well this goes bounds what pairs of cells can teach each other: on Perturb-Multi the paper
    finds a mean r2 of .117 over genes. With ``context_keys="obs_names"`` a cell's own expression
    is the target; with another context that of some cell of it, whose mean is learnt.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called, with pixels and
        ``rna_likelihood="mse"`` (normalised expression).
    preset
        ``"small"`` (two CPU cores) or ``"base"`` (a ViT-Small; the paper's ViT-Base is
        ``width=768, n_heads=12`` on top).
    crop
        Side in pixels of the centre crop; None takes the whole image (64 in the paper).
    permute_contexts
        Deal cells to contexts at random: what is then explained is chance.
    seed
        Seed of weights, order and augmentation.
    **sizes
        Single sizes on top of the preset: `width`, `depth`, `n_heads`, `patch_size`, `mlp_ratio`.

    Raises
    ------
    ValueError
        No setup, no pixels, raw counts, an unknown preset, an image side that is no multiple of the
        patch.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(20, n_targets=4, cells_per_guide=4, seed=0)
    >>> cf.ImageRegressor.setup_mudata(
    ...     mdata, context_keys="guide", image_rep="crops", rna_likelihood="mse"
    ... )
    >>> model = cf.ImageRegressor(mdata, depth=1, seed=0)
    >>> model.train(max_epochs=1, documents_per_context=2, enable_progress_bar=False)
    >>> model.predict().shape == (mdata["image"].n_obs, 20)
    True
    """

    module: ImageRegression
    #: PETRI's (A.4) with one cell per document.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "small": Recipe(batch_size=64, lr=1e-3),
        "base": Recipe(batch_size=1536, lr=9e-4),
    }
    kinds = ("pixels", "values", "counts")
    embeds = ("image",)
    without = ("missing",)

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        crop: int | None = None,
        permute_contexts: bool = False,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        super().__init__(adata, preset=preset, permute_contexts=permute_contexts, seed=seed)
        images, genes = self.inputs["image"], self.inputs["rna"]
        if images.kind != "pixels" or genes.kind != "values":
            raise ValueError(
                f"ImageRegressor reads pixels and one vector of values per cell; found "
                f"{images.kind} in {images.label} and {genes.kind} in {genes.label}. Of expression "
                "it takes normalised values: `rna_likelihood='mse'`."
            )
        patch = vit_sizes("ImageRegressor", preset, sizes, side=64).patch_size
        spec = input_spec(images, crop=crop, normalize="dataset", patch_size=patch)
        self.side = spec.crop or spec.shape[1]
        size = vit_sizes("ImageRegressor", preset, sizes, side=self.side)
        names = list(images.names or (f"channel {i}" for i in range(images.shape[0])))
        self.module = ImageRegression(
            make_vit(names, size), n_channels=len(names), n_genes=genes.shape[0]
        )

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        images = self.module.cell("image").scale(batch.x["image"].flatten(0, 1).float())
        if augment:
            images = random_affine(images[:, None], batch.key, seed=self.seed, crop=self.side)[:, 0]
        else:
            images = center_crop(images, self.side)
        target = self.module.cell("rna").scale(batch.x["rna"].flatten(0, 1).float())
        return {"loss": (self.module(images) - target).square().mean()}

    def _embed(self, role: str, x: Tensor) -> Tensor:
        images = self.module.cell("image").scale(x.float())
        return self.module.vit.embed(center_crop(images, self.side))

    @torch.inference_mode()
    def predict(self, data: Data | None = None, *, batch_size: int = 256) -> NDArray[np.float32]:
        """Expression of every imaged cell, on the scale of the data.

        Parameters
        ----------
        data
            The MuData of training (None), another one, or an AnnData of images.
        batch_size
            Cells at a time.

        Returns
        -------
        ``(n_cells, n_genes)``, for :func:`cellfuse.tl.predictability`.

        Raises
        ------
        RuntimeError
            The model is not trained.
        """
        self._check_trained()
        self.module.eval()
        rna = self.module.cell("rna")

        def predicted(x: Tensor) -> Tensor:
            images = self.module.cell("image").scale(x.float())
            return rna.restore(self.module(center_crop(images, self.side)))

        return self._encode(data, self._role("image"), predicted, batch_size)
