"""Both modalities as one AnnData, for tools that know a single one."""

from __future__ import annotations

from collections.abc import Mapping

import anndata as ad
import numpy as np
from anndata import AnnData
from mudata import MuData

from cellfuse._access import modalities, per_modality, representation
from cellfuse._errors import listing

__all__ = ["concat"]


def concat(mdata: MuData, use_rep: str | Mapping[str, str], *, label: str = "modality") -> AnnData:
    """Put the cells of all modalities below each other, in the space that they share.

    For tools that take one AnnData: scanpy's neighbours and UMAP, pertpy's distances, scib-metrics.

    Parameters
    ----------
    mdata
        Modalities with an embedding in one space, as a joint model gives them.
    use_rep
        obsm key of the embedding, or one for each modality.
    label
        obs column that says of which modality a cell is.

    Returns
    -------
    AnnData
        All cells; X and ``obsm["X_joint"]`` (or the key, where it is one for all) are the
        embedding, obs has `label` (a category) and the columns of every modality, missing where a
        modality lacks one.

    Raises
    ------
    KeyError
        A modality has no such embedding.
    ValueError
        The embeddings differ in their dimensions, `label` is an obs column, or two cells of
        different modalities have one name.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(50, n_targets=4, complex_size=2, cells_per_guide=4)
    >>> cells = cf.io.concat(mdata, use_rep="latent")
    >>> cells.obs["modality"].cat.categories.tolist()
    ['image', 'rna']
    """
    parts = {}
    for name, adata in modalities(mdata).items():
        if label in adata.obs:
            raise ValueError(
                f"obs[{label!r}] exists in modality {name!r}; give the new column another `label`."
            )
        rep = per_modality(use_rep, name, name="use_rep")
        values = np.asarray(representation(adata, rep, modality=name))
        parts[name] = AnnData(values, obs=adata.obs.copy())
    widths = {name: part.n_vars for name, part in parts.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"the embeddings are of different dimensions ({widths}): they are no joint space. "
            "Train a joint model (`cf.SharedAxes`, `cf.PETRI`) and give its embedding."
        )
    names = np.concatenate([part.obs_names for part in parts.values()])
    found, times = np.unique(names, return_counts=True)
    if (times > 1).any():
        twice = found[times > 1]
        raise ValueError(
            f"{len(twice)} obs names stand in several modalities ({listing(twice[:3])}); give each "
            "modality its own: `cf.io.join(..., prefix_names=True)`."
        )
    joined = ad.concat(parts, join="outer", label=label)
    joined.var_names = [f"dimension {i}" for i in range(joined.n_vars)]
    joined.obsm[use_rep if isinstance(use_rep, str) else "X_joint"] = joined.X
    return joined
