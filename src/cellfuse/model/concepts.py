"""Concepts of embeddings by a BatchTopK sparse autoencoder (PETRI, 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data, per_modality
from cellfuse._errors import missing_key
from cellfuse.data import (
    Batch,
    CellInput,
    Contexts,
    DocumentPlan,
    Draw,
    Members,
    Source,
    Stream,
    check_values,
    training_rows,
)
from cellfuse.data.contexts import PAIRED
from cellfuse.data.csr import CSRFolder, CSRMemory
from cellfuse.data.readers import Reader, read_dense
from cellfuse.data.splits import Held, Rows
from cellfuse.model.base import DocumentModel, Recipe, as_in
from cellfuse.model.base.checks import check_whole
from cellfuse.model.base.plans import Plans
from cellfuse.model.base.setup import Found, check_mudata, roles_of
from cellfuse.nn.topk import BatchTopK

__all__ = ["Concepts"]

#: Units and activations per cell.
SIZES = {"small": (1024, 32), "base": (15_360, 500)}
#: Cells on which the fit is noted, and looked at again before other cells are read.
N_CHECKED = 2048
#: Share of the variance explained in training that other cells must reach; the factor by which
#: their spread may differ, and cells from which on a spread means something.
MIN_FIT, MAX_RATIO, MIN_SPREAD = 0.5, 2.0, 30


class Concepts(DocumentModel):
    """Sparse concepts of the embeddings of one or both modalities (PETRI, 4.3).

    A BatchTopK autoencoder writes each embedding as a sum of few of many directions. Embeddings of
    both modalities are fitted by one dictionary, so that a direction which cells of both use is a
    concept that both have (:func:`cellfuse.tl.multimodal_concepts`). Batches hold as many cells of
    one modality as of the other, whatever their numbers.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"base"``: 15,360 concepts, of which a cell has 500 on average (paper). ``"small"``: 1,024
        and 32, for two CPU cores.
    n_concepts, k
        On top of the preset.
    k_aux
        Dead concepts that help to rebuild a cell in the auxiliary loss; None: half the width.
    aux_weight
        Weight of the auxiliary loss, 1/32.
    seed
        Of weights and batches.

    Raises
    ------
    ValueError
        No setup, an unknown preset, `k` above `n_concepts`.

    Notes
    -----
    The paper gives 15,360 and 500 and no more. Settled here: one dictionary for both modalities;
    the embedding less its mean, over one scale for all dimensions; Adam at 1e-3 (small) or 3e-4
    (base), linear warm-up, then cosine; a concept that no cell of an epoch had is dead, and helped
    by the auxiliary loss; after another epoch it begins anew at what is left over of some cell.
    ``history`` has ``train_variance_explained_epoch``, ``train_n_dead_epoch`` and the losses.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=8, seed=0)
    >>> cf.Concepts.setup_mudata(mdata, use_rep="latent")
    >>> model = cf.Concepts(mdata, n_concepts=64, k=4, seed=0)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> for name in ("image", "rna"):
    ...     mdata[name].obsm["X_concepts"] = model.get_activations(modality=name)
    >>> mdata["rna"].obsm["X_concepts"].shape[1], mdata["rna"].obsm["X_concepts"].format
    (64, 'csr')
    """

    module: BatchTopK
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "small": Recipe(max_epochs=20, batch_size=1024, lr=1e-3, betas=(0.9, 0.99), weight_decay=0),
        "base": Recipe(max_epochs=20, batch_size=4096, lr=3e-4, betas=(0.9, 0.99), weight_decay=0),
    }
    kinds = ("values",)
    joins = False
    without = (
        "documents_per_context",
        "replace",
        "missing",
        "validation_contexts",
        "validation_by",
        "augment",
    )

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        n_concepts: int | None = None,
        k: int | None = None,
        k_aux: int | None = None,
        aux_weight: float = 1 / 32,
        seed: int = 0,
    ) -> None:
        super().__init__(adata, preset=preset, seed=seed)
        usual = SIZES[preset]
        n_concepts = usual[0] if n_concepts is None else n_concepts
        k = usual[1] if k is None else k
        check_whole("n_concepts", n_concepts)
        check_whole("k", k)
        width = next(iter(self.inputs.values())).shape[0]
        self.module = BatchTopK(width, n_concepts, k, k_aux=k_aux, aux_weight=aux_weight)
        for role in self.inputs:
            # Variance explained, and standard deviation of the standardised embedding.
            self.module.register_buffer(f"fit_{role}", torch.full((2,), torch.nan))

    @classmethod
    def setup_mudata(  # type: ignore[override]  # no context is needed
        cls,
        mdata: MuData,
        *,
        use_rep: str | Mapping[str, str],
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """Say which embeddings are read.

        Parameters
        ----------
        mdata
            Only ``.uns["cellfuse"]`` (and scvi-tools' identifiers in ``.uns``) is written.
        use_rep
            obsm key of the embedding ``(n, width)``, or one for each role. Both modalities must
            have come from one model: their widths agree.
        modalities
            Name in the MuData of the roles ``"image"`` and ``"rna"``; one entry alone fits one
            modality. Default: both, under their own names.

        Raises
        ------
        KeyError
            A modality or key is missing.
        ValueError
            NaN, no flat embedding, embeddings of different widths.
        """
        roles = roles_of(modalities)
        check_mudata(cls.__name__, mdata, roles, [PAIRED])
        inputs = []
        for role, name in roles.items():
            rep = per_modality(use_rep, role, name="use_rep")
            if rep not in mdata.mod[name].obsm:
                raise missing_key(rep, list(mdata.mod[name].obsm), what=f"obsm of {name!r}")
            found = CellInput.resolve(mdata.mod[name], role=role, modality=name, rep=rep)
            if found.kind not in cls.kinds:
                raise ValueError(
                    f"{found.label} has cells of shape {found.shape}; Concepts reads flat "
                    "embeddings, one vector per cell."
                )
            adata = mdata.mod[name]
            check_values(found.reader(adata), found.kind, found.label, names=adata.obs_names)
            inputs.append(found)
        widths = {found.label: found.shape[0] for found in inputs}
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"one dictionary needs embeddings of one width, found {widths}: they did not come "
                "from one model. Fit each modality alone with `modalities`."
            )
        counts = {found.role: mdata.mod[found.modality].n_obs for found in inputs}
        cls._keep_setup(mdata, Found([PAIRED], inputs, _by_modality(counts)))

    # -- training ---------------------------------------------------------------------------------

    @as_in(DocumentModel.train, without)
    def train(self, max_epochs: int | None = None, **training: Any) -> None:
        """Fit the dictionary; called again, fit it further.

        An epoch shows every cell of the larger modality once; a batch holds as many cells of one
        modality as of the other.

        Parameters
        ----------
        max_epochs
            Epochs of this call, 20.
        """
        super().train(max_epochs, **training)
        self.module.normalise()
        for role in self.inputs:
            reader = self._reader(None, role)
            error, spread = self._fit_of(reader)
            found = torch.tensor([1 - error / spread**2, spread])
            getattr(self.module, f"fit_{role}").copy_(found)

    def _contexts(self, data: Data | None, roles: Any) -> Contexts:
        return _by_modality({role: self._modality(data, role).n_obs for role in roles})

    def _rows(self, contexts: Contexts, held: Held) -> Rows:
        return Rows(*training_rows(contexts, held.cells, self.seed))

    def _plans(self, contexts: Contexts, rows: Rows, recipe: Recipe, **_: Any) -> Plans:
        """Streams of cells, one per modality, in equal parts."""
        size = max(1, recipe.batch_size // len(self.inputs))
        train = contexts.restricted(rows.train)
        plans = {
            role: DocumentPlan(
                train, Stream((Draw(role, 1),), size, over="cells"), seed=self.seed + number
            )
            for number, role in enumerate(self.inputs)
        }
        longest = max(plan.n_steps * plan.batch_size for plan in plans.values())
        self.module.dead_after = longest * len(plans)
        n_held = max(int(held.sum()) for held in rows.held_out.values())
        validation = None
        if n_held:  # as many cells of each modality
            validation = DocumentPlan(
                contexts.restricted(rows.held_out),
                Stream(tuple(Draw(role, 1) for role in self.inputs), recipe.batch_size),
                documents_per_context=n_held,
                seed=self.seed,
                drop_last=False,
            )
        return Plans(plans, validation, rows.train)

    def _take_statistics(self, source: Source, plans: Plans) -> None:
        """One mean and one scale for both modalities, each of which counts alike."""
        found = self._statistics(source, plans.train_rows, seed=self.seed)
        means = torch.stack([mean for mean, _ in found.values()])
        sds = torch.stack([sd for _, sd in found.values()])
        mean = means.mean(dim=0)
        spread = sds.square().mean(dim=0) + (means - mean).square().mean(dim=0)
        self.module.set_statistics(mean, spread.sqrt())

    def _losses(self, batch: Batch | dict[str, Batch], augment: bool) -> dict[str, Tensor]:
        parts = [batch] if isinstance(batch, Batch) else list(batch.values())
        cells = [x[part.present[role]][:, 0] for part in parts for role, x in part.x.items()]
        return self.module(torch.cat(cells))

    # -- what a trained model gives ---------------------------------------------------------------

    @torch.inference_mode()
    def get_activations(
        self,
        data: Data | None = None,
        *,
        modality: str | None = None,
        batch_size: int = 1024,
        path: str | Path | None = None,
        overwrite: bool = False,
        check: bool = True,
    ) -> Any:
        """Concepts of every cell, sparse.

        A concept is active above a threshold that was learnt in training, so that a cell's
        concepts do not hang on the other cells. Only a block of cells is ever dense.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or one modality's AnnData.
        modality
            Role: ``"image"`` or ``"rna"``; None where the model reads one alone.
        batch_size
            Cells of a block.
        path
            Folder (zarr, as AnnData writes sparse matrices) that the blocks are appended to, for
            more cells than memory holds; it is written beside and renamed at the end.
        overwrite
            Replace such a folder.
        check
            Refuse embeddings that are not of the kind the model was fitted on: those that it
            rebuilds less than half as well, or whose spread differs by more than a factor of 2.
            False takes them.

        Returns
        -------
        CSR ``(n_cells, n_concepts)`` float32, for ``obsm``; with `path` AnnData's CSR dataset,
        whose ``to_memory()`` reads it.

        Raises
        ------
        ValueError
            Embeddings of another width, layer or scale.
        FileExistsError
            The folder exists.
        RuntimeError
            The model is not trained.
        """
        self._check_trained()
        check_whole("batch_size", batch_size)
        role = self._role(modality)
        self.module.eval()
        reader = self._reader(data, role)
        if check:
            self._check_fit(reader, role)
        n, width = reader.shape[0], self.module.n_concepts
        sink = CSRMemory(width) if path is None else CSRFolder(path, width, overwrite=overwrite)
        try:
            for start in range(0, n, batch_size):
                rows = np.arange(start, min(start + batch_size, n))
                sink.add(self._block(read_dense(reader, rows, device=self.device)))
            return sink.finish()
        except BaseException:
            sink.discard()
            raise

    def get_latent_representation(  # type: ignore[override]  # sparse
        self, data: Data | None = None, *, modality: str | None = None, batch_size: int = 1024
    ) -> sp.csr_matrix:
        """Concepts of every cell, as :meth:`get_activations` gives them."""
        return self.get_activations(data, modality=modality, batch_size=batch_size)

    @torch.inference_mode()
    def get_directions(self) -> NDArray[np.float32]:
        """Direction of each concept in the space of the embedding, length 1.

        Returns
        -------
        ``(n_concepts, width)``.
        """
        self._check_trained()
        return self.module.decoder.cpu().numpy().copy()

    def _block(self, x: Tensor) -> sp.csr_matrix:
        values, kept = self.module.activations(x)
        counts = torch.bincount(kept.row, minlength=len(x)).cumsum(0).cpu().numpy()
        indptr = np.concatenate([np.zeros(1, np.int64), counts])
        indices = kept.column.to(torch.int32).cpu().numpy()
        return sp.csr_matrix((values.cpu().numpy(), indices, indptr), shape=kept.shape)

    @torch.inference_mode()
    def _fit_of(self, reader: Reader) -> tuple[float, float]:
        """Mean squared error, and standard deviation, of some standardised embeddings."""
        self.module.eval()
        n = reader.shape[0]
        rows = np.unique(np.linspace(0, n - 1, min(n, N_CHECKED)).astype(np.int64))
        x = read_dense(reader, rows, device=self.device).float()
        z = self.module.standardise(x)
        error = self.module.standardise(self.module.rebuild(*self.module.activations(x))) - z
        spread = (z - z.mean(dim=0)).square().mean().sqrt().clamp_min(1e-6)
        return float(error.square().mean()), float(spread)

    def _check_fit(self, reader: Reader, role: str) -> None:
        error, spread = self._fit_of(reader)
        usual, usual_spread = getattr(self.module, f"fit_{role}").tolist()
        # Against the variance of the training: these cells may be few and alike.
        explained = 1 - error / usual_spread**2
        ratio = spread / usual_spread if reader.shape[0] >= MIN_SPREAD else 1.0
        least = usual - MIN_FIT * max(abs(usual), MIN_FIT)
        if not (explained >= least and 1 / MAX_RATIO <= ratio <= MAX_RATIO):
            raise ValueError(
                f"{self.inputs[role].label}: these embeddings are not of the kind this model was "
                f"fitted on: it explains {explained:.0%} of them ({usual:.0%} in training), and "
                f"their spread is {ratio:.2g} times that of the training. Are they of another "
                "model, layer or normalisation? `check=False` takes them all the same."
            )


def _by_modality(counts: Mapping[str, int]) -> Contexts:
    """Contexts of cells that need none: each modality is one."""
    table = pd.DataFrame(index=pd.Index(list(counts), name="context"))
    members = {
        role: Members.from_codes(np.full(n, number, np.int64), len(counts))
        for number, (role, n) in enumerate(counts.items())
    }
    return Contexts(table, members, dict(counts))
