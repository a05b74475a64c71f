"""Models whose cells' features are joined in closed form: SharedAxes, and PETRI begun linear."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse.data import Contexts, Source
from cellfuse.data.nuisances import Keys, Nuisance, find_nuisances, nuisance_matrix
from cellfuse.data.readers import read_dense
from cellfuse.kernels.context_bases import Method
from cellfuse.kernels.left_out import N_COMPS
from cellfuse.model.base.checks import check_whole
from cellfuse.model.base.document_model import DocumentModel
from cellfuse.model.base.embedding import embed, identity_of_embedding
from cellfuse.model.base.joint import Blocks, alignment_of, fit_joint_space, read_blocks
from cellfuse.nn import JointSpace, PlainFeatures
from cellfuse.nn.count_factors import N_FACTORS
from cellfuse.nn.patch_dictionary import N_PATCHES
from cellfuse.nn.plain_features import power_of

__all__ = ["JointModel"]

logger = logging.getLogger("cellfuse")


class JointModel(DocumentModel):
    """A model with features of single cells (``_features``) and a joint space (``_space``)."""

    method: Method = "within"
    #: Components of each modality at most; None: chosen by contexts left out of the fit.
    n_comps: int | None = None
    #: Factors by which counts are read beside another modality.
    n_factors: int = N_FACTORS
    #: Patches by which pixels are read beside another modality.
    n_patches: int = N_PATCHES
    n_draws: int = 200
    target_key: str | None = None
    #: obs column whose contexts are left out together where left-out contexts choose.
    left_out_by: str | None = None
    #: Features, the last ones, that a network has learnt.
    n_learnt: int = 0

    @classmethod
    def setup_mudata(  # type: ignore[override]  # and what is taken out
        cls,
        mdata: MuData,
        *,
        context_keys: str | Sequence[str],
        image_rep: str | None = None,
        rna_rep: str | None = None,
        rna_layer: str | None = None,
        rna_likelihood: Literal["nb", "mse"] = "nb",
        modalities: Mapping[str, str] | None = None,
        batch_key: str | None | Mapping[str, str | None] = None,
        regress_out: Keys | Mapping[str, Keys] = None,
    ) -> None:
        """Say what is read, what cells share and what is taken out.

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
            ``"nb"``: raw counts (negative binomial where expression is rebuilt). ``"mse"``: real
            values. An obsm key is always read as real values.
        modalities
            Name in the MuData of the roles ``"image"`` and ``"rna"``; one entry alone gives a model
            of that modality. Default: both, under their own names.
        batch_key
            obs column of the batch (well, plate), centred in the joint space; a dict by role where
            they differ, as in ``{"image": "well", "rna": None}``. New cells must be of batches
            that were trained on.
        regress_out
            obs columns or obsm keys (numbers or words) that are regressed out in the joint space,
            such as the logarithm of depth; a dict by role where they differ.

        Raises
        ------
        KeyError
            A modality, key or layer is missing.
        ValueError
            No counts where counts are needed, NaN, contexts that do not match, colliding names.
        """
        found = cls._read(
            mdata,
            context_keys=context_keys,
            image_rep=image_rep,
            rna_rep=rna_rep,
            rna_layer=rna_layer,
            rna_likelihood=rna_likelihood,
            modalities=modalities,
        )
        adatas = {i.role: mdata.mod[i.modality] for i in found.inputs}
        out = find_nuisances(adatas, batch_key=batch_key, regress_out=regress_out)
        for role, each in out.items():
            nuisance_matrix(adatas[role], each, role)  # refuses what cannot be read
        stored = {role: [one.to_json() for one in each] for role, each in out.items()}
        cls._keep_setup(mdata, found, nuisances=stored)

    @property
    def nuisances(self) -> dict[str, list[Nuisance]]:
        """What is taken out of each role's cells."""
        stored = self._setup.get("nuisances", {})
        return {role: [Nuisance.from_json(n) for n in stored.get(role, ())] for role in self.inputs}

    @property
    def _n_nuisances(self) -> dict[str, int]:
        return {role: sum(n.width for n in found) for role, found in self.nuisances.items()}

    @property
    def _second_by_role(self) -> dict[str, int]:
        """Features of the second reading among those of each role."""
        raise NotImplementedError

    def _plain_features(self, crop: int | None) -> dict[str, PlainFeatures]:
        """Plain features of each role; beside another modality counts and pixels are read twice."""
        # Of expression alone nothing is joined: there factors lose what is of one gene.
        joined = len(self.inputs) == 2
        twice = {"n_factors": self.n_factors, "n_patches": self.n_patches} if joined else {}
        return {
            role: PlainFeatures(i.kind, i.shape, crop=crop, **twice)
            for role, i in self.inputs.items()
        }

    @property
    def _space(self) -> JointSpace:
        """The joint space of the network."""
        raise NotImplementedError

    def _features(self, role: str, x: Tensor) -> Tensor:
        """Cells ``(N, ...)`` as they were read, to the features that are joined."""
        raise NotImplementedError

    # -- fitting ----------------------------------------------------------------------------------

    def _fit_joint(self, source: Source, trained: Contexts) -> None:
        """Fit the joint space on the cells of `trained`."""
        labels: dict[str, NDArray | None] = {}
        for name in ("target_key", "left_out_by"):
            key = getattr(self, name)
            labels[name] = None if key is None else self._labels_of_contexts(key, name)
        numbers = fit_joint_space(
            self._space,
            {role: partial(self._blocks, source, role, trained) for role in self.inputs},
            trained,
            n_comps=self.n_comps,
            powers={role: power_of(i.kind) for role, i in self.inputs.items()},
            method=self.method,
            n_second=self._second_by_role,
            n_learnt=self.n_learnt,
            blocks=labels["target_key"],
            left_out=labels["left_out_by"],
            n_draws=self.n_draws,
            seed=self.seed,
        )
        if self.n_comps is None and numbers != (N_COMPS[0],):
            logger.info(
                "%s: %s principal components of each modality%s find contexts that were left out "
                "best, and are kept (`n_comps`).",
                type(self).__name__,
                ", ".join(map(str, sorted(numbers))),
                ", in joint spaces side by side," if len(numbers) > 1 else "",
            )

    def _blocks(self, source: Source, role: str, contexts: Contexts) -> Blocks:
        """Rows, features and nuisances of the cells that have a context, in blocks."""
        return read_blocks(
            source.readers[role],
            contexts,
            role,
            lambda x, _: self._features(role, x),
            nuisances=nuisance_matrix(self._modality(None, role), self.nuisances[role], role),
            device=self.device,
        )

    def _validate(self, source: Source, trained: Contexts, held: Contexts) -> dict[str, float]:
        """Alignment of held-out contexts in the joint space, fitted anew on the others."""
        if len(self.inputs) < 2:
            return {}
        self._fit_joint(source, trained)
        return alignment_of(
            held, {role: self._embedded(source, role, held) for role in self.inputs}
        )

    @torch.inference_mode()
    def _embedded(self, source: Source, role: str, contexts: Contexts) -> Iterator[Any]:
        for rows, features, taken in self._blocks(source, role, contexts):
            z = None if taken is None else torch.as_tensor(taken, device=self.device)
            x = torch.as_tensor(features, device=self.device)
            yield rows, self._space(role, x, z).cpu().numpy()

    # -- inference --------------------------------------------------------------------------------

    @torch.inference_mode()
    def _representation(
        self,
        data: Data | None,
        modality: str | None,
        axes: Literal["joint", "shared"],
        batch_size: int,
        out: str | Path | None = None,
    ) -> NDArray[np.float32]:
        """Coordinates of every cell of a modality."""
        self._check_trained()
        check_whole("batch_size", batch_size)
        role, space = self._role(modality), self._space
        self.module.eval()
        reader = self._reader(data, role)
        taken = nuisance_matrix(self._modality(data, role), self.nuisances[role], role)

        def encoded(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            features = self._features(role, read_dense(reader, rows, device=self.device))
            z = None if taken is None else torch.as_tensor(taken[rows], device=self.device)
            return space(role, features, z, axes).float().cpu().numpy()

        def identity() -> dict[str, Any]:
            more = {"model": type(self).__name__, "role": role, "at": axes}
            return identity_of_embedding(self.module, self._modality(data, role), **more)

        return embed(reader, encoded, batch_size=batch_size, out=out, identity=identity)

    @property
    def axes(self) -> pd.DataFrame:
        """One row per shared axis, the strongest first.

        ``value`` (singular value), ``null_mean`` (of permuted contexts), ``pvalue`` (that so much
        is shared beyond the axes before it) and ``weight`` (0 to 1) in the shared axes.
        """
        self._check_trained()
        values, null, pvalue = self._space.axes.cpu().double().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.sqrt(np.maximum(1 - (null / values) ** 2, 0))
        columns = {"value": values, "null_mean": null, "pvalue": pvalue, "weight": weight}
        return pd.DataFrame(columns, index=pd.RangeIndex(1, len(values) + 1, name="axis"))
