"""Whether the two modalities of a screen meet: contexts, or cells that were measured in both."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import context_labels, matrix_of
from cellfuse._errors import missing_key
from cellfuse.bench._embed import input_of
from cellfuse.bench._pairs import pair_rows
from cellfuse.bench._scorers import Scores, Value
from cellfuse.bench._screen import Screen
from cellfuse.bench._views import REP, View
from cellfuse.data.nuisances import find_nuisances, nuisance_matrix
from cellfuse.kernels.alignment import align

__all__ = ["alignment"]

#: What may be regressed out of pairs though no column holds it.
MEASURED = ("log_counts", "brightness")
#: Images that are decoded at a time.
BLOCK = 1024


def alignment(
    view: View,
    *,
    of: Literal["contexts", "pairs"] = "contexts",
    centred: bool = False,
    regress_out: str | Sequence[str] = (),
    less_axes: int = 0,
    k: int = 5,
) -> Scores:
    """Whether a context's two profiles find each other, on contexts that no model saw.

    ``foscttm``: share of other contexts that are closer (0 is perfect, chance .5). ``gap``: cosine
    of a context's own two profiles less that of others. ``mrr``, ``top<k>``: retrieval both ways.

    ``of="pairs"`` compares cells that were measured in both modalities (``pair_key``) instead, in
    contexts that no model saw. ``centred`` takes each side's mean away, ``less_axes`` that many of
    its leading principal axes too (the first is often activity), ``regress_out`` what the pairs
    differ in besides: obs columns or obsm keys of either modality, ``"log_counts"``,
    ``"brightness"``; out of both sides, since both may have it.
    """
    if len(view.own) != 2:
        raise ValueError(f"alignment needs two modalities; this method has {list(view.own)}.")
    if of not in ("contexts", "pairs"):
        raise missing_key(str(of), ["contexts", "pairs"], what="what alignment is of (`of`)")
    if isinstance(less_axes, bool) or not isinstance(less_axes, Integral) or less_axes < 0:
        raise ValueError(f"less_axes={less_axes!r}: expected a whole number of axes from 0.")
    sides = _contexts(view) if of == "contexts" else _pairs(view)
    first, second = sides
    if first.n_vars != second.n_vars:
        raise ValueError(
            f"the modalities have {first.n_vars} and {second.n_vars} dimensions: no shared space."
        )
    n = first.n_obs
    if n < 3:
        raise ValueError(f"{n} {of} of both modalities: too few to find one another.")
    out = _nuisances(view, of, regress_out)
    x, y = (_less(np.asarray(side.X), centred, out, less_axes) for side in sides)
    found = align(x, y)
    chance = {
        "foscttm": 0.5, "gap": 0.0, "mrr": float((1 / np.arange(1, n + 1)).mean()),
        f"top{k}": min(k / n, 1.0),
    }  # fmt: skip
    # Guides of a target, and cells of a context, are not independent: these are what is compared.
    target = view.design.target_key
    if of == "pairs":
        label = context_labels(first, view.design.contexts)
    else:
        label = first.obs_names if target is None else context_labels(first, target)
    units = pd.DataFrame({"foscttm": found.closer.mean(axis=0)}, index=pd.Index(label))
    return Scores(
        {
            name: Value(value, chance=chance[name], n=float(n))
            for name, value in found.summary(k).items()
        },
        units.groupby(level=0, sort=False).mean(),
        "foscttm",
    )


def _contexts(view: View) -> tuple[AnnData, AnnData]:
    first, second = (
        view.unseen(profiles[~view.controls(profiles)].copy()) for profiles in view.own.values()
    )
    return first, second[first.obs_names]


def _pairs(view: View) -> tuple[AnnData, AnnData]:
    if view.paired is None:
        raise ValueError(
            "of='pairs' compares cells that were measured in both modalities: name the obs column "
            "of the pair (`pair_key`)."
        )
    first, second = (
        AnnData(np.asarray(side.obsm[REP]), obs=side.obs) for side in view.paired.values()
    )
    return first, second


def _less(
    x: NDArray[Any], centred: bool, out: NDArray[Any] | None, less_axes: int
) -> NDArray[np.float64]:
    """One side without its mean, what is regressed out, and its leading axes, where asked for."""
    x = x.astype(np.float64)
    if centred or less_axes or out is not None:
        x = x - x.mean(axis=0)
    if out is not None:
        z = out - out.mean(axis=0)
        x = x - z @ np.linalg.lstsq(z, x, rcond=None)[0]
    if less_axes:
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        x = x - (u[:, :less_axes] * s[:less_axes]) @ vt[:less_axes]
    return x


def _nuisances(view: View, of: str, keys: str | Sequence[str]) -> NDArray[np.float64] | None:
    """What is regressed out of the pairs, ``(pairs, columns)``; None where nothing is."""
    names = [keys] if isinstance(keys, str) else list(keys)
    if not names:
        return None
    if of != "pairs" or view.paired is None:
        raise ValueError(
            f"regress_out={names} is taken out of pairs (`of='pairs'`). Of contexts, take it out "
            "in the method (`regress_out` of SharedAxes), or see `cf.tl.alignment`."
        )
    screen, rows = view.screen, pair_rows(view.screen)
    parts = {role: screen.mdata.mod[screen.roles[role]] for role in rows}
    columns: list[NDArray[Any]] = []
    for key in names:
        holders = [r for r, adata in parts.items() if key in adata.obs or key in adata.obsm]
        if not holders and key not in MEASURED:
            known = [k for adata in parts.values() for k in (*adata.obs, *adata.obsm)]
            raise missing_key(key, [*MEASURED, *known], what="obs or obsm of the modalities")
        columns += [_column(parts[role], rows[role], key, role) for role in holders]
        if not holders:
            role = "rna" if key == "log_counts" else "image"
            measure = _log_counts if key == "log_counts" else _brightness
            columns.append(measure(screen, parts[role], rows[role])[:, None])
    return np.column_stack(columns).astype(np.float64)


def _column(adata: AnnData, rows: NDArray[np.intp], key: str, role: str) -> NDArray[np.float32]:
    """An obs column or obsm array of some cells; words one column each but the first."""
    obsm = {} if key in adata.obs else {key: np.asarray(adata.obsm[key])[rows]}
    part = AnnData(obs=adata.obs.iloc[rows], obsm=obsm)
    found = nuisance_matrix(part, find_nuisances({role: part}, regress_out=key)[role], role)
    assert found is not None  # one key was named
    return found


def _log_counts(screen: Screen, adata: AnnData, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Log of the cells' total counts."""
    counts, _ = matrix_of(adata, screen.design.rna_layer, modality=screen.roles["rna"])
    return np.log1p(np.asarray(counts[rows].sum(axis=1), np.float64).ravel())


def _brightness(screen: Screen, adata: AnnData, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Mean of the cells' pixels."""
    found = input_of(adata, "image", screen.roles["image"], screen.design)
    if found.kind != "pixels":
        raise ValueError(
            "'brightness' is the mean of a cell's pixels, and the images of this run are "
            f"{found.kind}. Take it out of `regress_out`, or name an obs column."
        )
    reader = found.reader(adata)
    means = [
        np.asarray(reader.read(part)).reshape(len(part), -1).mean(axis=1)
        for part in np.array_split(rows, max(1, -(-len(rows) // BLOCK)))
    ]
    return np.concatenate(means)
