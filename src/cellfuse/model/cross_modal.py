"""Cross-modal autoencoder (Yang et al. 2021), the late-fusion baseline of PETRI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from mudata import MuData
from torch import Tensor

from cellfuse._renamed import renamed
from cellfuse.data import Batch, Source
from cellfuse.model.base import DocumentModel, Recipe, as_in
from cellfuse.model.base.checks import check_whole
from cellfuse.model.base.sizes import default_weights, input_specs, sizes_of
from cellfuse.nn import CrossModalAutoencoder

__all__ = ["CrossModalAE"]


class CrossModalAE(DocumentModel):
    """Two variational autoencoders that share a latent space, trained one after the other.

    First the images' autoencoder learns to rebuild images and to tell contexts apart. Then it is
    frozen, and the expression's learns to rebuild expression from a latent that the frozen
    classifier reads as the same context and that a discriminator cannot tell from an image's.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"``: PETRI's encoders and decoders.
    n_latent
        Dimensions of the shared space, 128.
    weight_kl, weight_class, weight_adversary
        Weights of the KL, classifier and discriminator terms: 1e-3, 1 and 1.
    loss_weights
        Weight of each modality's reconstruction, as in :class:`PETRI`.
    crop, normalize
        As in :class:`PETRI`.
    seed
        Seed of weights, batches, noise and augmentation.
    **sizes
        Single sizes on top of the preset.

    Raises
    ------
    ValueError
        No setup, one modality only, an unknown preset or size.

    Notes
    -----
    The authors alternate steps of the discriminator and of the encoder; here one step serves both,
    with the gradient's sign turned between them. Networks are PETRI's, so that the comparison with
    it is one of objectives.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=8, seed=0)
    >>> cf.CrossModalAE.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    >>> model = cf.CrossModalAE(mdata, n_latent=8, seed=0)
    >>> model.train(max_epochs=1, documents_per_context=4, enable_progress_bar=False)
    >>> model.get_latent_representation(modality="rna").shape[1]
    8
    """

    module: CrossModalAutoencoder
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "small": Recipe(batch_size=128, lr=3e-3),
        "base": Recipe(batch_size=128, lr=9e-4),
    }
    without = ("missing", "ckpt_path")
    n_stages = 2

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        n_latent: int = 128,
        weight_kl: float = 1e-3,
        weight_class: float = 1.0,
        weight_adversary: float = 1.0,
        loss_weights: Mapping[str, float] | None = None,
        crop: int | None = None,
        normalize: Literal["dataset", "instance"] = "dataset",
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        super().__init__(adata, preset=preset, seed=seed)
        check_whole("n_latent", n_latent)
        self.sizes = sizes_of(preset, sizes, model="CrossModalAE")
        specs = input_specs(
            self.inputs, crop=crop, normalize=normalize, patch_size=self.sizes.patch_size
        )
        self.module = CrossModalAutoencoder(
            specs,
            self.sizes,
            n_contexts=int(self._setup["n_contexts"]),
            n_latent=n_latent,
            weights=default_weights(self.inputs, loss_weights),
            weight_kl=weight_kl,
            weight_class=weight_class,
            weight_adversary=weight_adversary,
            seed=seed,
        )

    @renamed(cells_per_context="documents_per_context")
    @as_in(DocumentModel.train, without)
    def train(self, max_epochs: int | None = None, **training: Any) -> None:
        """Train the images' autoencoder, then the expression's, for `max_epochs` each.

        Documents are pairs of cells. There is no `ckpt_path`: a checkpoint would hold one stage.

        Raises
        ------
        ValueError
            Data with another number of contexts than the model was set up with.
        """
        if self.adata is not None:
            n, known = len(self._contexts(None, list(self.inputs))), self._setup["n_contexts"]
            if n != known:
                raise ValueError(
                    f"the data has {n} contexts; the model tells {known} apart. Set the data up "
                    "and build a model of its own."
                )
        super().train(max_epochs, **training)
        self.module.requires_grad_(True)

    def _begin_stage(self, stage: int, source: Source) -> None:
        self.module.set_stage(stage)

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        return self.module(batch.x, batch.key, batch.context, augment=augment)

    def _embed(self, role: str, x: Tensor) -> Tensor:
        return self.module.embed(role, x)
