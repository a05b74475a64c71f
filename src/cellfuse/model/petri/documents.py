"""What cells are in their documents: after a layer of the set transformer, rebuilt, attended to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray

from cellfuse._access import Data, is_mudata
from cellfuse._errors import listing, missing_key
from cellfuse.data import Source, enumerate_documents
from cellfuse.data.streams import Indices
from cellfuse.model.base import DocumentModel
from cellfuse.model.base.checks import check_seed, check_whole
from cellfuse.nn import JointMaskedAutoencoder, Sizes
from cellfuse.nn.attention_maps import attention_maps

__all__ = ["Attention", "InDocuments", "Reconstruction"]


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

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(20, n_targets=4, cells_per_guide=8, seed=0)
    >>> cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    >>> model = cf.PETRI(mdata, set_size=1, width=16, n_heads=2, begin="random", seed=0)
    >>> model.train(max_epochs=1, documents_per_context=1, enable_progress_bar=False)
    >>> found = model.reconstruct(modality="rna")
    >>> found.prediction.shape == (len(found.rows), 20)
    True
    """

    rows: NDArray[np.int64]
    target: NDArray[np.float32]
    prediction: NDArray[np.float32]
    mask: NDArray[np.bool_]
    loss: NDArray[np.float32]


@dataclass(frozen=True)
class Attention:
    """Attention of documents.

    Parameters
    ----------
    maps
        ``(documents, layers, heads, T, T)``; rows ask, columns answer, rows add up to 1.
    lengths
        Tokens of each modality, in their order along `T`.
    context
        Context of each document.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(20, n_targets=4, cells_per_guide=8, seed=0)
    >>> cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    >>> model = cf.PETRI(mdata, set_size=1, width=16, n_heads=2, begin="random", seed=0)
    >>> model.train(max_epochs=1, documents_per_context=1, enable_progress_bar=False)
    >>> found = model.attention()
    >>> found.maps.shape[-1] == sum(found.lengths.values())
    True
    """

    maps: NDArray[np.float32]
    lengths: dict[str, int]
    context: list[str]


class InDocuments(DocumentModel):
    """The methods of a model of masked reconstruction that lay cells out in documents."""

    module: JointMaskedAutoencoder
    sizes: Sizes

    @torch.inference_mode()
    def _after_layer(
        self, data: Data | None, role: str, at: int | str, batch_size: int
    ) -> NDArray[np.float32]:
        is_number = isinstance(at, Integral) and not isinstance(at, bool)
        if not is_number or not 1 <= int(at) <= self.sizes.n_set_layers:
            raise ValueError(
                f"at={at!r}: expected 'joint', 'shared', 'encoder' or a number from 1 to "
                f"{self.sizes.n_set_layers} (the layers of the set transformer)."
            )
        check_whole("batch_size", batch_size)
        self.module.eval()
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
            fused = self.module.fuse(latents, batch.present)[int(at)][role].mean(dim=2)
            here = part.present[role]
            np.add.at(total, part.rows[role][here], fused.cpu().double().numpy()[here])
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
            Roles whose cells the document holds, that of `modality` among them; default all.
            What the other modality adds is asked with :meth:`cross_modal_gain`.
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
        role = self._role(modality)
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
            restored = (cell.rebuilt(target, target), cell.rebuilt(target, prediction))
            if self.inputs[role].kind == "counts":
                restored = (target, restored[1])
            parts.append((one.rows[role][0], *restored, mask, cell.loss(target, prediction, mask)))
        rows = np.concatenate([part[0] for part in parts])
        rows, first = np.unique(rows, return_index=True)
        arrays = [torch.cat([p[i] for p in parts]).cpu().numpy()[first] for i in range(1, 5)]
        return Reconstruction(rows, *arrays)

    @torch.inference_mode()
    def attention(
        self, data: Data | None = None, *, max_documents: int = 8, seed: int | None = None
    ) -> Attention:
        """Attention of every head of the set transformer, documents of both modalities (Fig. 4c).

        Parameters
        ----------
        data
            The MuData of training (None) or another one.
        max_documents
            Documents, drawn at random among those that hold every modality; 48 heads of 256
            tokens (the paper's) take 12 MB a document.
        seed
            Of the choice; the model's by default.

        Returns
        -------
        The maps, for :func:`cellfuse.tl.attention_blocks` and :func:`cellfuse.pl.attention`.

        Raises
        ------
        ValueError
            One modality alone, a model without a set transformer, no document of both.
        RuntimeError
            The model is not trained.
        """
        self._check_trained()
        check_whole("max_documents", max_documents)
        seed = self.seed if seed is None else seed
        check_seed(seed)
        self._two_roles(next(iter(self.inputs)))
        self.module.eval()
        roles = list(self.inputs)
        known = self._contexts(data, roles)
        documents = enumerate_documents(known, roles, set_size=self.set_size, seed=seed)
        whole = np.flatnonzero(np.all([documents.present[role] for role in roles], axis=0))
        if not len(whole):
            raise ValueError("no context has cells of every modality: no document to look at.")
        chosen = np.sort(np.random.default_rng(seed).permutation(whole)[:max_documents])
        source = Source({role: self._reader(data, role) for role in roles})
        maps = []
        transformer = self.module.documents
        assert transformer is not None
        for number in chosen:
            batch = source.read(documents.slice(int(number), len(documents.key))).to(self.device)
            latents = {}
            for role in roles:
                encoded = self.module.latents(role, batch.x[role].flatten(0, 1))
                latents[role] = encoded.view(1, -1, *encoded.shape[1:])
            maps.append(attention_maps(transformer, latents, batch.present).float().cpu())
        lengths = {role: latents[role].shape[1] * latents[role].shape[2] for role in roles}
        labels = known.table.index.astype(str).to_numpy()[documents.context[chosen]]
        return Attention(torch.cat(maps).numpy(), lengths, labels.tolist())

    def _two_roles(self, modality: str) -> tuple[str, str]:
        roles = list(self.inputs)
        if modality not in roles:
            raise missing_key(modality, roles, what="the modalities of the model")
        if len(roles) < 2 or self.module.documents is None:
            raise ValueError(
                "this model has no other modality to gain from: it was set up on one, or with "
                "`n_set_layers=0`."
            )
        return modality, next(name for name in roles if name != modality)

    # -- cells with holes -------------------------------------------------------------------------


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
