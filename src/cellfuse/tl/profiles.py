"""Profiles: one row per perturbation, from its cells in one or all modalities."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import (
    Data,
    check_finite,
    constant_columns,
    context_codes,
    context_labels,
    per_modality,
    representation,
    take_rows,
    where,
)
from cellfuse._access import modalities as modalities_of
from cellfuse._errors import listing
from cellfuse._provenance import as_json
from cellfuse.kernels.consensus import group_modz
from cellfuse.kernels.groups import group_means, group_medians
from cellfuse.pp._matrices import as_lazy
from cellfuse.tl._labels import several_labels

__all__ = ["aggregate"]

logger = logging.getLogger("cellfuse")

Statistic = Literal["mean", "median", "modz"]
OVER_GROUPS = {"mean": group_means, "median": group_medians, "modz": group_modz}


@dataclass(frozen=True)
class _Profiles:
    """One modality's profiles: a row per label, with the cells they come from."""

    labels: pd.Index
    values: NDArray
    n_cells: NDArray
    obs: pd.DataFrame  # columns that are constant within every group
    constant: dict[str, bool]
    var_names: pd.Index | None


def aggregate(
    data: Data,
    *,
    by: str | list[str],
    use_rep: str | None | Mapping[str, str | None],
    within: str | list[str] | None = None,
    statistic: Statistic = "mean",
    min_cells: int | Mapping[str, int] = 1,
    modalities: Literal["all", "any"] = "all",
    sep: str | None = None,
    transform: Sequence[Callable[..., None]] = (),
) -> AnnData:
    """Aggregate cells to one profile per perturbation.

    The profile of a group is the mean (or median) of its cells; with `within`, of the means of
    its subgroups, such as a gene's guides, so that each guide counts the same however many cells
    it has. For a MuData the modalities are aggregated separately and their profiles averaged
    (PETRI, 3.5).

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality). Arguments marked (per modality) also take a dict.
    by
        obs column or columns whose joint value is the group, such as ``"guide"``, or
        ``["background", "gene"]`` for one profile per gene in each background.
    use_rep
        obsm key of the representation, shape (cells, d); None is ``X``. (per modality)
    within
        obs column or columns of subgroups that are averaged first.
    statistic
        ``"mean"`` or ``"median"`` over the cells of a group; with `within` over the subgroups'
        means. ``"modz"``: the mean of replicate profiles weighted by how well each agrees with the
        others (its mean Spearman correlation, at least .01), with pycytominer's and cmapPy's
        numbers; for replicates or subgroups, not for single cells.
    min_cells
        Groups with fewer cells in a modality are absent from it. (per modality)
    modalities
        ``"all"``: groups found in every modality, the others are counted in a warning.
        ``"any"``: all groups; the profile is the mean over the modalities that have the group.
    sep
        What stands between several labels of a cell in the (one) column `by`, such as ``"|"`` in
        ``EGFR|ERBB2``: the cell then counts for each of them. None: the text is one label.
    transform
        Verbs of `pp` that are run on the representation before, such as
        ``[partial(cf.pp.robust_center_scale, control_key="gene", control="NTC"),
        partial(cf.pp.whiten)]`` (`functools.partial`): corrected cells are nowhere written, and
        `data` stays as it is.

    A representation on a disk or of dask is gone through once, in threads or on dask's cluster;
    medians once for each GiB of it.

    Returns
    -------
    AnnData with one row per group, sorted by label. ``X``: profiles, float32, (groups, d).
    ``obs``: the columns of `by`, every other column that is constant within all groups (and the
    same in all modalities), ``n_cells``, and for a MuData ``n_cells_<modality>``. For a MuData
    ``obsm["profile_<modality>"]`` keeps each modality's own profile (NaN where it has none).
    ``uns["aggregate"]`` holds the arguments.

    Raises
    ------
    KeyError
        A column or representation is absent.
    ValueError
        Missing labels, NaN or infinite values, modalities of different width or with group
        columns of different types, or no group left.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> obs = pd.DataFrame(
    ...     {"guide": ["g1", "g1", "g2"], "gene": ["A", "A", "B"]}, index=list("xyz")
    ... )
    >>> cells = ad.AnnData(np.array([[1.0], [3.0], [5.0]]), obs=obs)
    >>> guides = cf.tl.aggregate(cells, by="guide", use_rep=None)
    >>> guides.X.ravel().tolist(), guides.obs["gene"].tolist(), guides.obs["n_cells"].tolist()
    ([2.0, 5.0], ['A', 'B'], [2, 1])
    """
    if statistic not in get_args(Statistic):
        raise ValueError(
            f"statistic={statistic!r} is unknown; choose one of {list(get_args(Statistic))}."
        )
    if modalities not in ("all", "any"):
        raise ValueError(f"modalities={modalities!r} is unknown; choose one of ['all', 'any'].")
    mods = modalities_of(data)
    columns = [by] if isinstance(by, str) else list(by)
    if transform:
        from cellfuse.tl._transform import transformed, verb_name  # they bring torch

        values = transformed(mods, use_rep, transform)
    else:
        values = {
            m: _values(adata, per_modality(use_rep, m, name="use_rep"), m)
            for m, adata in mods.items()
        }
    _check_widths(values)
    parts = {
        m: _profiles(
            adata,
            values[m],
            modality=m,
            by=columns,
            within=within,
            statistic=statistic,
            min_cells=int(per_modality(min_cells, m, name="min_cells")),
            use_rep=per_modality(use_rep, m, name="use_rep"),
            sep=sep,
        )
        for m, adata in mods.items()
    }
    profiles, n_partial = _combine(parts, columns, modalities)
    params = {
        "by": columns,
        "use_rep": use_rep,
        "within": within,
        "statistic": statistic,
        "min_cells": min_cells,
        "modalities": modalities,
        "sep": sep,
    }
    if transform:
        params["transform"] = [verb_name(verb) for verb in transform]
    profiles.uns["aggregate"] = {"params": as_json(params)}
    logger.info("aggregate: %d profiles by %s.", profiles.n_obs, " and ".join(columns))
    if n_partial and modalities == "all":
        warnings.warn(
            f"{n_partial} of {n_partial + profiles.n_obs} groups are not in every modality (with "
            f"min_cells={min_cells!r}) and were left out; `modalities='any'` keeps them, with the "
            "profile of the modalities that have them.",
            UserWarning,
            stacklevel=2,
        )
    return profiles


def _values(adata: AnnData, use_rep: str | None, modality: str) -> Any:
    values = representation(adata, use_rep, modality=modality, on_disk=True)
    name = f"{'X' if use_rep in (None, 'X') else f'obsm[{use_rep!r}]'}{where(modality)}"
    values = as_lazy(values, name)
    if isinstance(values, np.ndarray) or hasattr(values, "tocsr"):
        check_finite(values, name)  # what is not in memory is looked at as it is read
    return values


def _check_widths(values: Mapping[str, Any]) -> None:
    """Refuse modalities whose profiles cannot be averaged."""
    widths = {m: int(v.shape[1]) for m, v in values.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"the representations have different widths: {widths}. Their profiles are averaged, "
            "which needs one shared space; give such a `use_rep`, or aggregate one modality at a "
            "time (`aggregate(mdata['image'], ...)`) and concatenate."
        )


def _profiles(
    adata: AnnData,
    values: Any,
    *,
    modality: str,
    by: list[str],
    within: str | list[str] | None,
    statistic: Statistic,
    min_cells: int,
    use_rep: str | None,
    sep: str | None,
) -> _Profiles:
    obs_of, member = adata.obs, None
    if sep is None:
        codes, names = context_codes(adata, by, modality=modality)
    else:
        member, joint = several_labels(context_labels(adata, by, modality=modality), sep, by)
        values, obs_of = take_rows(values, member), obs_of.iloc[member].copy()
        obs_of[by[0]] = joint.to_numpy()
        codes, names = pd.factorize(joint.to_numpy(object), sort=True)
    labels = pd.Index(names, dtype=object)
    n_cells = np.bincount(codes, minlength=len(labels))
    kept = n_cells >= min_cells
    if not kept.any():
        raise ValueError(
            f"none of {len(labels)} groups{where(modality)} has min_cells={min_cells} cells; the "
            f"largest has {int(n_cells.max())}."
        )
    new_code = np.where(kept, np.cumsum(kept) - 1, -1)
    codes, labels, n_cells = new_code[codes], labels[kept], n_cells[kept]
    over_groups = OVER_GROUPS[statistic]
    if within is None:
        rows = over_groups(values, codes, len(labels))
    else:
        inner = [within] if isinstance(within, str) else list(within)
        inside, of_inside = context_codes(adata, inner, modality=modality)
        inside = inside if member is None else inside[member]
        sub, found = pd.factorize(codes * len(of_inside) + inside)
        sub = np.where(codes >= 0, sub, -1)
        group_of = np.full(len(found), -1)
        group_of[sub[sub >= 0]] = codes[sub >= 0]
        rows = over_groups(group_means(values, sub, len(found)), group_of, len(labels))
    obs, constant = constant_columns(obs_of, codes, len(labels))
    for column in by:
        if not constant[column]:
            raise ValueError(
                f"two groups by {by} share a joint label (one of their labels holds ' | '); "
                "rename those labels."
            )
    var_names = adata.var_names if use_rep in (None, "X") else None
    return _Profiles(labels, rows, n_cells, obs.set_axis(labels), constant, var_names)


def _combine(parts: Mapping[str, _Profiles], by: list[str], keep: str) -> tuple[AnnData, int]:
    """Average the modalities' profiles; also the number of groups that some modality lacks."""
    many = len(parts) > 1 or "" not in parts
    every = pd.Index(sorted(set().union(*(p.labels for p in parts.values()))), dtype=object)
    row = {m: p.labels.get_indexer(every) for m, p in parts.items()}
    present = np.stack([r >= 0 for r in row.values()])
    chosen = present.all(axis=0) if keep == "all" else present.any(axis=0)
    n_partial = int((~present.all(axis=0)).sum())
    if not chosen.any():
        shown = "; ".join(f"{m}: {listing(p.labels, 3)}" for m, p in parts.items())
        raise ValueError(f"no group by {by} is in every modality ({shown}).")
    labels = every[chosen]
    width = next(iter(parts.values())).values.shape[1]
    total, count = np.zeros((len(labels), width)), np.zeros(len(labels))
    n_cells, own = {}, {}
    for m, part in parts.items():
        at = row[m][chosen]
        has = at >= 0
        own[m] = np.full((len(labels), width), np.nan, dtype=np.float32)
        own[m][has] = part.values[at[has]]
        total[has] += part.values[at[has]]
        count += has
        n_cells[m] = np.where(has, part.n_cells[at], 0)
    obs = _shared_columns(parts, labels)
    obs["n_cells"] = np.sum(list(n_cells.values()), axis=0)
    names = [p.var_names for p in parts.values()]
    profiles = AnnData((total / count[:, None]).astype(np.float32), obs=obs)
    if names[0] is not None and all(n is not None and n.equals(names[0]) for n in names):
        profiles.var_names = names[0]
    if many:
        for m in parts:
            profiles.obs[f"n_cells_{m}"] = n_cells[m]
            profiles.obsm[f"profile_{m}"] = own[m]
    return profiles, n_partial


def _shared_columns(parts: Mapping[str, _Profiles], labels: pd.Index) -> pd.DataFrame:
    """Constant columns of all modalities; one that two modalities disagree on is left out."""
    out = pd.DataFrame(index=labels.astype(str))
    varying = {name for p in parts.values() for name, same in p.constant.items() if not same}
    for name in dict.fromkeys(str(c) for p in parts.values() for c in p.obs.columns):
        if name in varying:
            continue
        columns = [p.obs[name].reindex(labels) for p in parts.values() if name in p.obs.columns]
        merged = columns[0] if len(columns) == 1 else _merge(columns)
        if merged is not None:
            out[name] = merged.to_numpy() if not hasattr(merged, "cat") else merged.values
    return out


def _merge(columns: list[pd.Series]) -> pd.Series | None:
    merged = columns[0].astype(object)
    for other in columns[1:]:
        other = other.astype(object)
        both = merged.notna() & other.notna()
        if not (merged[both] == other[both]).all():
            return None
        merged = merged.where(merged.notna(), other)
    if any(hasattr(column, "cat") for column in columns):
        return merged.astype("category")
    return merged.infer_objects()
