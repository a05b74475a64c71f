"""GROOVE: group contrastive and back-translating autoencoders of embeddings (2602.04021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from mudata import MuData
from torch import Tensor, nn

from cellfuse.data import Batch
from cellfuse.model.base import DocumentModel, Recipe
from cellfuse.model.base.checks import check_between, check_whole
from cellfuse.nn import Adapter, Standardise, Temperature, clip_loss, from_all_devices, same_context

__all__ = ["GROOVE"]


class _Cell(Standardise):
    """One modality: into the shared space and back."""

    def __init__(self, n_in: int, n_latent: int, hidden: Sequence[int]) -> None:
        super().__init__(n_in)
        self.encoder = Adapter(n_in, n_latent, hidden=hidden)
        self.decoder = Adapter(n_latent, n_in, hidden=hidden[::-1])


class _Network(nn.Module):
    """Loss = rebuilt + weight_back * back-translated + weight_group * GroupCLIP."""

    def __init__(self, cells: Mapping[str, _Cell], weight_back: float, weight_group: float) -> None:
        super().__init__()
        self.cells, self.temperature = nn.ModuleDict(cells), Temperature(0.07)
        self.weight_back, self.weight_group = weight_back, weight_group

    def cell(self, role: str) -> _Cell:
        return cast("_Cell", self.cells[role])

    def forward(self, cells: Mapping[str, Tensor], context: Tensor) -> dict[str, Tensor]:
        """Losses of documents of one cell of each modality, ``(G, 1, features)`` each."""
        x = {role: self.cell(role).scale(value[:, 0]) for role, value in cells.items()}
        z = {role: self.cell(role).encoder(value) for role, value in x.items()}
        rebuilt = back = torch.zeros((), device=context.device)
        for role, other in zip(x, reversed(x), strict=True):
            here, there = self.cell(role), self.cell(other)
            rebuilt = rebuilt + F.mse_loss(here.decoder(z[role]), x[role])
            with torch.no_grad():  # on the fly: the translation is data
                translated = there.decoder(z[role])
            back = back + F.mse_loss(here.decoder(there.encoder(translated)), x[role])
        a, b, label = (from_all_devices(value) for value in (*z.values(), context))
        group = clip_loss(a, b, self.temperature(), weight=same_context(label))
        loss = rebuilt + self.weight_back * back + self.weight_group * group
        return {"loss": loss, "rebuilt_loss": rebuilt, "back_loss": back, "group_loss": group}


class GROOVE(DocumentModel):
    """Two autoencoders with one space: cells of a context meet, and translations come back.

    Each modality is encoded into a common space and decoded from it. Three losses: what is decoded
    is the cell (rebuilt); so is a cell decoded as the other modality, encoded again and decoded
    back (back-translation, made on the fly and taken as data); and cells of one context are closer
    across modalities than to others (GroupCLIP).

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called; flat embeddings on both sides.
    n_latent
        Width of the common space.
    hidden
        Hidden layers of the encoders; the decoders have them in reverse.
    weight_back, weight_group
        Weights of back-translation and of GroupCLIP beside the rebuilt cells.
    permute_contexts
        Deal cells to contexts at random: the control that fails where nothing is shared.
    seed
        Seed of weights and documents.

    Raises
    ------
    ValueError
        No setup, a modality that is no flat embedding, a negative weight.

    Notes
    -----
    Only the abstract was at hand. Settled here: widths, squared errors of standardised features,
    equal weights, a learnable temperature begun at .07, batches of 256 pairs, AdamW.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(60, n_targets=4, cells_per_guide=8, seed=0)
    >>> cf.GROOVE.setup_mudata(mdata, context_keys="guide", image_rep="latent", rna_rep="latent")
    >>> model = cf.GROOVE(mdata, n_latent=8, seed=0)
    >>> model.train(max_epochs=1, documents_per_context=2, enable_progress_bar=False)
    >>> model.get_latent_representation(modality="rna").shape[1]
    8
    """

    recipes: ClassVar[Mapping[str, Recipe]] = {"": Recipe(50, 256, 1e-3)}
    kinds = ("values",)
    least_documents = 2
    without = ("missing", "augment")

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        n_latent: int = 64,
        hidden: Sequence[int] = (256,),
        weight_back: float = 1.0,
        weight_group: float = 1.0,
        permute_contexts: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(adata, permute_contexts=permute_contexts, seed=seed)
        check_whole("n_latent", n_latent)
        check_between("weight_back", weight_back, 0)
        check_between("weight_group", weight_group, 0)
        cells = {role: _Cell(i.shape[0], n_latent, hidden) for role, i in self.inputs.items()}
        self.module: Any = _Network(cells, weight_back, weight_group)

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        return self.module(batch.x, batch.context)

    def _embed(self, role: str, x: Tensor) -> Tensor:
        cell = self.module.cell(role)
        return cell.encoder(cell.scale(x))
