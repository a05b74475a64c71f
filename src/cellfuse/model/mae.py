"""MAE: a masked autoencoder of microscopy images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from anndata import AnnData
from mudata import MuData
from torch import Tensor

from cellfuse.data import Batch
from cellfuse.model.base import Recipe
from cellfuse.model.base.image_model import ROLE, ImageModel
from cellfuse.nn.augment import center_crop, random_affine
from cellfuse.nn.mae import ImageMAE
from cellfuse.nn.standardise import Standardised
from cellfuse.nn.vit import make_vit

__all__ = ["MAE"]

#: Width, depth and heads of the decoder.
DECODERS = {"small": (64, 2, 4), "base": (512, 8, 16)}


class MAE(ImageModel):
    """Learn images by telling their hidden patches from the seen ones.

    75% of the patches are removed before the encoder; a shallow decoder predicts them, and only
    they count. The embedding of an image is the mean of its patches' outputs, with nothing hidden.

    Parameters
    ----------
    adata
        AnnData or MuData on which :meth:`setup_anndata` or :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"`` (ViT-Small, patches of 8 pixels).
    channel_agnostic
        A token per place and channel: any number of channels, by their names.
    crop
        Side in pixels of the centre crop; None takes the whole image.
    normalize
        ``"dataset"`` standardises each channel by the training set, so that intensity stays a
        phenotype; ``"instance"`` each image by itself.
    mask_ratio
        Share of the patches that is hidden, .75.
    normalize_targets
        Normalise the target of each patch (an option of MAE); off, for intensity's sake.
    decoder_width, decoder_depth, decoder_heads
        Sizes of the decoder; 512, 8, 16 for ``"base"`` (MAE's).
    seed
        Seed of weights, order, masks and augmentation.
    **sizes
        Single sizes of the encoder on top of the preset: `width`, `depth`, `n_heads`,
        `patch_size`, `mlp_ratio`.

    Raises
    ------
    ValueError
        No setup, an unknown preset or size, an image side that is no multiple of the patch.

    Examples
    --------
    >>> import cellfuse as cf
    >>> images = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, seed=0)["image"]
    >>> cf.MAE.setup_anndata(images, image_rep="crops")
    >>> model = cf.MAE(images, depth=1)
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> model.get_latent_representation().shape[1]
    96
    """

    #: MAE's 1.5e-4 per 256 images is for batches of thousands; 64 images want about as much.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "small": Recipe(batch_size=64, lr=1e-3),
        "base": Recipe(batch_size=256, lr=1.5e-4),
    }

    def __init__(
        self,
        adata: MuData | AnnData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        channel_agnostic: bool = False,
        crop: int | None = None,
        normalize: Literal["dataset", "instance"] = "dataset",
        mask_ratio: float = 0.75,
        normalize_targets: bool = False,
        decoder_width: int | None = None,
        decoder_depth: int | None = None,
        decoder_heads: int | None = None,
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
        width, depth, heads = DECODERS[preset]
        net = ImageMAE(
            make_vit(self.channels, self.size, channel_agnostic=channel_agnostic),
            decoder_width=width if decoder_width is None else decoder_width,
            decoder_depth=depth if decoder_depth is None else decoder_depth,
            decoder_heads=heads if decoder_heads is None else decoder_heads,
            mask_ratio=mask_ratio,
            normalize_targets=normalize_targets,
            seed=seed,
        )
        self.module = Standardised(net, len(self.channels))

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        images = self._prepare(batch.x[ROLE].flatten(0, 1))
        if augment:
            images = random_affine(images[:, None], batch.key, seed=self.seed, crop=self.side)[:, 0]
        else:
            images = center_crop(images, self.side)
        return self.module.net(images, batch.key)
