"""CLIP on documents: the contrastive baselines of PETRI (A.3), GroupCLIP and CellCLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from mudata import MuData
from torch import Tensor

from cellfuse.data import Batch
from cellfuse.model.base import DocumentModel, Recipe
from cellfuse.model.base.checks import one_of
from cellfuse.model.base.sizes import input_specs, sizes_of
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

    module: SetCLIP
    #: 4,096 cells of each modality (A.3); learning rates are PETRI's.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "small": Recipe(batch_size=16, lr=3e-3),
        "base": Recipe(batch_size=256, lr=9e-4),
    }
    least_documents = 2
    without = ("missing",)

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
        super().__init__(
            adata,
            preset=preset,
            set_size=set_size,
            permute_contexts=permute_contexts,
            seed=seed,
        )
        one_of("positives", positives, get_args(Positives))
        self.sizes = sizes_of(preset, sizes, model="CLIP")
        specs = input_specs(
            self.inputs, crop=crop, normalize=normalize, patch_size=self.sizes.patch_size
        )
        self.module = SetCLIP(
            specs,
            self.sizes,
            average=average,
            positives=positives,
            temperature=temperature,
            seed=seed,
        )

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        return self.module(batch.x, batch.key, batch.context, augment=augment)

    def _embed(self, role: str, x: Tensor) -> Tensor:
        return self.module.embed(role, x)
