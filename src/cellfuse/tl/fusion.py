"""Late fusion: one map from profiles of several modalities."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import check_finite, check_key, per_modality, representation
from cellfuse._errors import listing, warn_user
from cellfuse._renamed import renamed
from cellfuse.kernels.cca import fit_cca
from cellfuse.tl._similarity import similarity_of
from cellfuse.tl.profiles import _merge

__all__ = ["late_fusion"]

logger = logging.getLogger("cellfuse")

Fusion = Literal["concat", "cca_concat", "cca_mean", "min", "mean", "median", "max"]

#: How several similarity matrices become one.
COMBINED: dict[str, Callable[..., NDArray]] = {
    "min": np.min,
    "mean": np.mean,
    "median": np.median,
    "max": np.max,
}
#: Rows of the fused matrix that are computed together.
ROWS = 256


@renamed(shrinkage="eps")
def late_fusion(
    profiles: Mapping[str, AnnData] | MuData,
    *,
    method: Fusion,
    use_rep: str | None | Mapping[str, str | None] = None,
    n_components: int = 30,
    eps: float = 0.0,
    key_added: str = "cosine",
) -> AnnData:
    """Fuse the profiles of separately embedded modalities (PETRI, A.7 and Table S3).

    - ``"concat"``: the embeddings side by side.
    - ``"cca_concat"``, ``"cca_mean"``: canonical variates of two modalities, side by side or
      averaged. The paper leaves their scale open; here each has unit variance.
    - ``"min"``, ``"mean"``, ``"median"``, ``"max"``: the modalities' cosine matrices, element by
      element (of two, mean and median are the same).

    The result goes into the same metrics: the first three as ``X``, the others by
    ``use_sim="cosine"``, which :func:`edge_classification`, :func:`relationship_recall`,
    :func:`guide_consistency`, :func:`perturbation_consistency` and
    :func:`mean_average_precision` take.

    Parameters
    ----------
    profiles
        Profiles of each modality by name, one row per gene or guide, named alike; or a MuData of
        them. :func:`aggregate` makes them, one modality at a time:
        ``{m: cf.tl.aggregate(mdata[m], by="gene", use_rep=...) for m in mdata.mod}``. The paper's
        were centred, scaled and whitened before.
    method
        See above.
    use_rep
        obsm key of the profiles; None is ``X``. Or a dict per modality.
    n_components
        Canonical variates (the paper's 30).
    eps
        For CCA: share of each covariance replaced by its mean variance times the identity. Without
        it (the paper's), more dimensions than profiles give correlations of 1 whatever the data;
        a warning says so.
    key_added
        obsp key of a fused matrix.

    Returns
    -------
    AnnData with the profiles that every modality has, sorted by name, and the obs columns on which
    they agree. ``X`` is the fused embedding; or ``obsp[key_added]`` the fused matrix, float32, and
    ``X`` is empty. ``uns["late_fusion"]`` keeps the method, and for CCA the canonical correlations.

    Raises
    ------
    KeyError
        A representation is absent.
    ValueError
        Fewer than two modalities (CCA: not two), repeated names, no or too few shared profiles,
        NaN or infinite values, a profile of zeros.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame(index=[f"gene{i}" for i in range(40)])
    >>> genes = {m: ad.AnnData(rng.normal(size=(40, 5)), obs=obs) for m in ("image", "rna")}
    >>> cf.tl.late_fusion(genes, method="concat").shape
    (40, 10)
    >>> fused = cf.tl.late_fusion(genes, method="max")
    >>> pairs = pd.DataFrame({"source": ["gene0"], "target": ["gene1"]})
    >>> recall = cf.tl.relationship_recall(fused, pairs, use_sim="cosine")
    """
    if method not in get_args(Fusion):
        raise ValueError(f"method={method!r} is unknown; choose one of {list(get_args(Fusion))}.")
    check_key(key_added)
    parts, names = _shared(profiles)
    keys = {m: per_modality(use_rep, m, name="use_rep") for m in parts}
    obs = _obs(parts, names)
    params: dict[str, object] = {"method": method, "modalities": list(parts)}
    if method in COMBINED:
        fused = AnnData(obs=obs)
        fused.obsp[key_added] = _combined(parts, keys, names, COMBINED[method])
    else:
        values = [_values(adata, keys[m], names) for m, adata in parts.items()]
        if method != "concat":
            values, correlations = _canonical(values, list(parts), n_components, eps)
            params |= {"correlations": correlations, "eps": eps}
        x = np.mean(values, axis=0) if method == "cca_mean" else np.concatenate(values, axis=1)
        fused = AnnData(x.astype(np.float32), obs=obs)
    fused.uns["late_fusion"] = params
    logger.info("late_fusion: %s of %d profiles.", method, fused.n_obs)
    return fused


def _shared(profiles: Mapping[str, AnnData] | MuData) -> tuple[dict[str, AnnData], pd.Index]:
    mods = profiles.mod if isinstance(profiles, MuData) else profiles
    if not isinstance(mods, Mapping):
        raise TypeError(
            f"expected a dict of profiles by modality or a MuData, found {type(profiles).__name__}."
        )
    parts = {str(m): adata for m, adata in mods.items()}
    if len(parts) < 2:
        raise ValueError(f"late fusion needs two modalities or more, found {listing(parts)}.")
    for m, adata in parts.items():
        if not isinstance(adata, AnnData):
            raise TypeError(f"profiles[{m!r}] is a {type(adata).__name__}, not an AnnData.")
        double = adata.obs_names[adata.obs_names.duplicated()]
        if len(double):
            raise ValueError(
                f"{len(double)} names of modality {m!r} occur twice: {listing(double, 3)}. Give "
                "one profile per gene or guide (`cellfuse.tl.aggregate`)."
            )
    names = pd.Index(sorted(set.intersection(*(set(a.obs_names) for a in parts.values()))))
    if not len(names):
        shown = "; ".join(f"{m}: {listing(a.obs_names, 3)}" for m, a in parts.items())
        raise ValueError(f"no profile is in every modality ({shown}).")
    every = set.union(*(set(a.obs_names) for a in parts.values()))
    if len(every) > len(names):
        warn_user(
            f"{len(every) - len(names)} of {len(every)} profiles are not in every modality and "
            "were left out."
        )
    return parts, names


def _obs(parts: Mapping[str, AnnData], names: pd.Index) -> pd.DataFrame:
    """Columns on which the modalities that have them agree."""
    obs = pd.DataFrame(index=names)
    for column in dict.fromkeys(c for adata in parts.values() for c in adata.obs.columns):
        found = [a.obs[column].reindex(names) for a in parts.values() if column in a.obs.columns]
        merged = found[0] if len(found) == 1 else _merge(found)
        if merged is not None:
            obs[column] = merged
    return obs


def _values(adata: AnnData, use_rep: str | None, names: pd.Index) -> NDArray:
    values = representation(adata, use_rep)
    check_finite(values, "X" if use_rep in (None, "X") else f"obsm[{use_rep!r}]")
    values = values[adata.obs_names.get_indexer(names)]
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    return dense.astype(np.float64)


def _canonical(
    values: list[NDArray], modalities: list[str], n_components: int, eps: float
) -> tuple[list[NDArray], NDArray]:
    if len(values) != 2:
        raise ValueError(f"CCA takes two modalities, found {len(values)}: {listing(modalities)}.")
    if not 0 <= eps < 1:
        raise ValueError(f"eps={eps}: expected a share, 0 <= eps < 1.")
    n = len(values[0])
    most = min(n - 1, *(v.shape[1] for v in values))
    if not 1 <= n_components <= most:
        raise ValueError(
            f"n_components={n_components}: {n} profiles of {values[0].shape[1]} and "
            f"{values[1].shape[1]} dimensions have at most {most} canonical variates."
        )
    fit = fit_cca(*values, n_components=n_components, eps=eps)
    if eps == 0 and fit.rank_x + fit.rank_y > n - 1:
        warn_user(
            f"{n} profiles are fewer than the {fit.rank_x} + {fit.rank_y} dimensions: some "
            "canonical correlations are 1 whatever the data. Give more profiles, fewer dimensions "
            "or an `eps`."
        )
    return list(fit.transform(*values)), fit.correlations


def _combined(
    parts: Mapping[str, AnnData],
    keys: Mapping[str, str | None],
    names: pd.Index,
    combine: Callable[..., NDArray],
) -> NDArray:
    similarities = [
        similarity_of(adata, use_rep=keys[m], rows=adata.obs_names.get_indexer(names))
        for m, adata in parts.items()
    ]
    n = len(names)
    fused = np.empty((n, n), dtype=np.float32)
    for start in range(0, n, ROWS):
        stop = min(start + ROWS, n)
        block = combine([s.block(start, stop) for s in similarities], axis=0)
        fused[start:stop, start:] = block
        fused[start:, start:stop] = block.T
    return fused
