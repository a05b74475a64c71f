"""SharedAxes: the closed form that every learned method has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor, nn

from cellfuse._access import Data
from cellfuse.data.readers import read_dense
from cellfuse.data.splits import Held, HeldContexts, sample_rows
from cellfuse.kernels.context_bases import Method
from cellfuse.kernels.left_out import N_COMPS
from cellfuse.model.base.checks import check_whole, one_of
from cellfuse.model.base.joint_model import JointModel
from cellfuse.nn import JointSpace, PlainFeatures
from cellfuse.nn.count_factors import N_FACTORS
from cellfuse.nn.patch_dictionary import N_PATCHES

__all__ = ["SharedAxes"]


class _Network(nn.Module):
    """Plain features of each modality, and the space in which they meet."""

    def __init__(self, features: Mapping[str, PlainFeatures], space: JointSpace) -> None:
        super().__init__()
        self.features, self.space = nn.ModuleDict(features), space
        self.n_second = {role: each.n_second for role, each in features.items()}


class SharedAxes(JointModel):
    """Shared and private axes of two modalities in closed form: seconds, and no network.

    Noise within a context is independent between the modalities, so that the cross-covariance of
    their context means is free of it. Each modality's features are whitened by their covariance
    within contexts; the singular vectors of the cross-covariance are the shared axes; singular
    values below those of permuted contexts count for nothing. A cell's embedding is what it tells
    of its context's effect in *all* directions of both modalities, shrunk as far as such cells do
    not tell (empirical Bayes): the mean over both modalities' cells is then a fusion, and a cosine
    between modalities an alignment. Every learned method is to be read beside it.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    n_comps
        Principal components of each modality's (standardised) features. None: the joint spaces of
        50, 20, 10 and 5 stand side by side, which errs less than any one of them; the smallest of
        these are left out where contexts that are left out of the fit in turn are found better
        without them, beyond the error of the comparison. Contexts that are left out together count
        once in that error.
        Shared axes are counted in the fewest components that find left-out contexts as well as the
        best. A line of the log says what was chosen. One modality alone has 50.
    n_factors
        Factors by which counts are read a second time, by their own law
        (:class:`cellfuse.nn.CountFactors`): negative binomial, learnt on the training cells in some
        seconds, half as many as genes at most. Their joint spaces stand beside those of the
        logarithms, which are noise where counts are few; shared axes stay those of the logarithms.
        20 of 5, 10 and 20, on sections and simulated screens that are not reported. 0: logarithms
        alone, as with one modality alone.
    n_patches
        Patches of 6 x 6 pixels by which images are read a second time
        (:class:`cellfuse.nn.PatchDictionary`): how much there is of each, in any turn, in the
        images and in these shrunk twofold; learnt on the training cells in some seconds. They stand
        in the place of the statistics in the second set of joint spaces, as factors do. 24 of 24,
        32, 64 and 100, which are alike on the same sections and screens. 0: statistics alone, as
        with one modality alone.
    method
        ``"within"``: whitened within contexts, as above. ``"cca"``: by the covariance of context
        means (canonical correlations of group means). ``"ibfa"``: not whitened (Tucker's
        inter-battery factor analysis, 1958).
    target_key
        obs column, such as the target gene of guides, whose contexts are permuted together. Guides
        of one target resemble each other: permuted one by one they make p-values too small.
    left_out_by
        obs column whose contexts are left out together where left-out contexts choose `n_comps`:
        what new cells will be new in, such as the donor, the section or the plate. Default:
        `target_key`.
    n_draws
        Permutations of contexts for the null of the singular values.
    crop
        Side in pixels of the centre of images that is read; None is the whole image.
    permute_contexts
        Deal cells to contexts at random: the twin that must fail.
    seed
        Seed of the permutations.

    Raises
    ------
    ValueError
        No setup, unknown method, sizes below 1.

    Notes
    -----
    Features: counts as logarithms of their shares (the 2,000 most variable genes), and as scores on
    factors of these genes; pixels as plain statistics (intensities, rings, textures, extents,
    correlations of channels: :func:`cellfuse.nn.image_statistics`), and as what there is of which
    patch; embeddings as they are. One
    pass over the cells after a look at 20,000 of them; memory is one block of cells and a row per
    context.

    Prior art: inter-battery factor analysis (Tucker 1958), PLS-SVD, CCA on group means, and
    probabilistic linear discriminant analysis, whose shrinkage this is.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(100, n_targets=12, cells_per_guide=8, seed=0)
    >>> cf.SharedAxes.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    >>> model = cf.SharedAxes(mdata, n_comps=10, n_factors=5, n_patches=4, n_draws=20)
    >>> model.train()
    >>> model.get_latent_representation(modality="image").shape[1]
    33
    >>> list(model.axes)
    ['value', 'null_mean', 'pvalue', 'weight']
    """

    module: _Network
    joins = False

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        n_comps: int | None = None,
        n_factors: int = N_FACTORS,
        n_patches: int = N_PATCHES,
        method: Method = "within",
        target_key: str | None = None,
        left_out_by: str | None = None,
        n_draws: int = 200,
        crop: int | None = None,
        permute_contexts: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(adata, permute_contexts=permute_contexts, seed=seed)
        if n_comps is not None:
            check_whole("n_comps", n_comps)
        check_whole("n_draws", n_draws)
        one_of("method", method, ("within", "cca", "ibfa"))
        check_whole("n_factors", n_factors, least=0)
        check_whole("n_patches", n_patches, least=0)
        self.n_comps, self.method, self.n_draws = n_comps, method, n_draws
        self.n_factors, self.n_patches = n_factors, n_patches
        self.target_key, self.left_out_by = target_key, left_out_by
        features = self._plain_features(crop)
        space = JointSpace(
            {role: each.n_features for role, each in features.items()},
            n_comps=n_comps or N_COMPS[0],
            n_second={role: each.n_second for role, each in features.items()},
            n_nuisances=self._n_nuisances,
        )
        self.module = _Network(features, space)

    @property
    def _second_by_role(self) -> dict[str, int]:
        return self.module.n_second

    @property
    def _space(self) -> JointSpace:
        return self.module.space

    def _features(self, role: str, x: Tensor) -> Tensor:
        return self.module.features[role](x)

    def train(  # type: ignore[override]  # nothing is descended
        self,
        *,
        validation_contexts: HeldContexts | None = None,
        validation_by: str | None = None,
    ) -> None:
        """Fit the axes; called again, fit them anew.

        Parameters
        ----------
        validation_contexts, validation_by
            Contexts held out as wholes, as in :meth:`cellfuse.PETRI.train`. Their alignment is in
            :attr:`history`, as ``validation_gap``, ``validation_foscttm``, ``validation_mrr``.

        Raises
        ------
        ValueError
            Fewer than three contexts in common, constant features, nuisances that explain
            everything.

        Warns
        -----
        UserWarning
            A modality with one cell per context.
        """
        if self.adata is None:
            raise ValueError("this model was loaded without data: load it with `adata=mdata`.")
        contexts, rows = self._dealt(Held(0.0, validation_contexts, validation_by))
        source, trained = self._source(), contexts.restricted(rows.train)
        for role, reader in source.readers.items():
            features = cast("PlainFeatures", self.module.features[role])
            if features.looks_first:
                chosen = sample_rows(rows.train[role], seed=self.seed, shape=reader.shape[1:])
                features.fit(read_dense(reader, chosen))
        self.history_ = None
        held = self._judged(contexts, rows)
        if held is None:
            self._fit_joint(source, trained)
        else:
            found = self._validate(source, trained, held)
            self.history_ = {
                name: pd.DataFrame({name: {0: value}}).rename_axis("epoch")
                for name, value in ((f"validation_{k}", v) for k, v in found.items())
            }
        self.is_trained_ = True

    def get_latent_representation(  # type: ignore[override]
        self,
        data: Data | None = None,
        *,
        modality: str | None = None,
        axes: Literal["joint", "shared"] = "joint",
        batch_size: int = 2_048,
    ) -> NDArray[np.float32]:
        """Embedding of every cell of a modality.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or one modality's AnnData.
        modality
            Role: ``"image"`` or ``"rna"``.
        axes
            ``"joint"``: what the cell tells of its context in all directions of both modalities,
            the one with most variance first, strong ones evened out; average it over modalities to
            fuse, and do not scale or whiten it: its lengths are its weights. ``"shared"``:
            coordinates on the axes that both modalities have, weighted by how far they stand above
            permuted contexts; for matching and retrieval.
        batch_size
            Cells read at a time.

        Returns
        -------
        ``(n_cells, width)``, centred at the mean of the training cells, batches taken out.
        """
        one_of("axes", axes, ("joint", "shared"))
        return self._representation(data, modality, axes, batch_size)

    def _embed(self, role: str, x: Tensor) -> Tensor:
        return self._space(role, self._features(role, x))
