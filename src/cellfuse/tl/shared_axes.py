"""Is there anything to fuse on this screen? In seconds, before anybody trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import check_key, per_modality, representation
from cellfuse._counts import whole_counts
from cellfuse._provenance import as_json
from cellfuse.kernels.context_bases import bases_of_sides
from cellfuse.kernels.left_out import (
    MANY_CONTEXTS,
    N_COMPS,
    added,
    align_left_out_each,
    choose_n_comps,
    folds_of,
)
from cellfuse.kernels.shared_axes import axes_test
from cellfuse.tl._context_sums import (
    codes_by_modality,
    labels_of_contexts,
    sums_by_part,
    two_modalities,
)
from cellfuse.tl._similarity import source_name

__all__ = ["shared_axes_test"]

Keys = str | Sequence[str] | None
N_FOLDS = 5
#: Cells from which depth and variable genes are taken.
SAMPLE = 5_000


@whole_counts
def shared_axes_test(
    mdata: MuData,
    by: str | list[str],
    *,
    use_rep: str | None | Mapping[str, str | None] = None,
    target_key: str | None = None,
    left_out_by: str | None = None,
    batch_key: str | None | Mapping[str, str | None] = None,
    regress_out: Keys | Mapping[str, Keys] = None,
    n_comps: int | None = None,
    n_draws: int = 200,
    alpha: float = 0.05,
    key_added: str = "shared_axes_test",
    seed: int = 0,
) -> pd.DataFrame:
    """Test how many axes the two modalities of a screen share, and whether new contexts follow.

    The closed form of :class:`cellfuse.SharedAxes`, with nothing trained (counts are read as
    logarithms and pixels as statistics, without the factors and patches that a model learns): two
    passes over the cells. Five times a fifth of the contexts (or targets) is left out of the fit
    and aligned.

    Parameters
    ----------
    mdata
        Two modalities.
    by
        obs column or columns of the context.
    use_rep
        obsm key of pixels, tokens or an embedding, by modality where it differs; None is ``X``,
        whose whole numbers are read as counts.
    target_key
        obs column, such as the target gene of guides, whose contexts are permuted and left out
        together: guides of a target are no independent evidence.
    left_out_by
        obs column whose contexts are left out together in place of `target_key`'s: what new cells
        will be new in, such as the donor, the section or the plate.
    batch_key
        obs column of the batch that is centred, by modality where it differs.
    regress_out
        obs columns or obsm keys that are regressed out, by modality where they differ, such as
        depth: what both readouts share need not be biology.
    n_comps
        Principal components of each modality. None: ``foscttm`` is that of joint spaces of several
        numbers of them side by side, as :class:`cellfuse.SharedAxes` chooses them, and axes are
        tested in the fewest that find left-out contexts as well as the best. Choosing flatters
        ``foscttm`` (.47 instead of .50 where nothing was shared, over 160 simulations of 80
        contexts), and ``foscttm_permuted``, whose fits choose too, by as much: compare the two. The
        first axis was below .05 in .03 to .09 of those.
    n_draws
        Permutations of contexts.
    alpha
        Level below which an axis counts as shared.
    key_added
        Key of ``mdata.uns`` under which the table is kept.
    seed
        Seed of permutations and folds.

    Returns
    -------
    One row per axis: ``value``, ``null_mean``, ``pvalue``, ``shared``. Its ``attrs`` (and ``uns``)
    hold ``n_axes``, ``foscttm`` of contexts left out and ``foscttm_permuted`` of fits on permuted
    contexts, ``n_comps``, and ``verdict``, a sentence.

    Raises
    ------
    KeyError
        A column or representation is absent.
    ValueError
        Not two modalities, too few contexts in common, NaN, constant features.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(100, n_targets=20, cells_per_guide=12, seed=0)
    >>> table = cf.tl.shared_axes_test(
    ...     mdata, "guide", use_rep={"image": "crops", "rna": None}, target_key="gene", n_draws=50
    ... )
    >>> table.attrs["n_axes"] > 0
    True
    """
    from cellfuse.data.nuisances import find_nuisances, nuisance_matrix  # brings torch

    check_key(key_added)
    adatas = two_modalities(mdata, "shared_axes_test")
    names, codes = codes_by_modality(adatas, by)
    blocks, left_out = (
        labels_of_contexts(adatas, codes, names, key=key, name=name)
        for key, name in ((target_key, "target_key"), (left_out_by, "left_out_by"))
    )
    labels = next(x for x in (left_out, blocks, names.to_numpy(str)) if x is not None)
    fold = folds_of(labels, N_FOLDS, seed)
    taken = find_nuisances(adatas, batch_key=batch_key, regress_out=regress_out)
    parts, powers = {}, []
    for m, adata in adatas.items():
        key = per_modality(use_rep, m, name="use_rep")
        array = _cells(adata, key, m)
        features, power = _plain(adata, array, key, seed)
        powers.append(power)
        parts[m] = sums_by_part(
            array,
            codes[m],
            fold[codes[m]],
            n_contexts=len(names),
            n_parts=int(fold.max()) + 1,
            name=source_name(key, m),
            features=features,
            nuisances=nuisance_matrix(adata, taken[m], m),
        )

    moments = [added(each).moments() for each in parts.values()]
    here = (moments[0].counts > 0) & (moments[1].counts > 0)
    if here.sum() < 10:
        raise ValueError(
            f"{int(here.sum())} contexts by {by!r} have cells of both modalities: at least ten are "
            "needed to test anything."
        )
    chooses = n_comps is None and len(names) <= MANY_CONTEXTS
    n_axes_in = n_comps or N_COMPS[0]
    sums, bases_of = list(parts.values()), partial(bases_of_sides, powers=powers)
    one = partial(bases_of_sides, n_comps=[n_axes_in], powers=powers)
    held = {}
    for name, permute in (("foscttm_permuted", True), ("foscttm", False)):
        how: dict[str, Any] = {"blocks": blocks, "permute": permute, "seed": seed}
        if chooses:
            chosen = choose_n_comps(sums, bases_of, labels=labels, **how)
            n_axes_in, aligned = chosen.axes, chosen.left_out
        else:
            (aligned,) = align_left_out_each(sums, one, **how)
        held[name] = float(np.mean([fold.closer.mean() for fold in aligned] or [np.nan]))
    held = {name: held[name] for name in ("foscttm", "foscttm_permuted")}
    bases = bases_of(moments, [n_axes_in])[0]
    test = axes_test(*bases, blocks=blocks, n_draws=n_draws, seed=seed)
    table = pd.DataFrame(
        {"value": test.values, "null_mean": test.null_mean, "pvalue": test.pvalue},
        index=pd.RangeIndex(1, len(test.values) + 1, name="axis"),
    )
    table["shared"] = table["pvalue"] < alpha
    n_axes = int(table["shared"].sum())
    found: dict[str, Any] = {"n_axes": n_axes, **held, "n_comps": n_axes_in}
    found["verdict"] = _verdict(n_axes, held, int(here.sum()))
    table.attrs.update(found)
    mdata.uns[key_added] = {
        "table": table.reset_index().assign(shared=table["shared"].to_numpy()),
        "params": {"by": as_json(by), "n_draws": n_draws, "seed": seed},
        **found,
    }
    return table


def _cells(adata: AnnData, key: str | None, modality: str) -> Any:
    """Pixels, tokens or an embedding at an obsm key, or X."""
    if key is not None and key in adata.obsm and len(np.shape(adata.obsm[key])) > 2:
        return adata.obsm[key]
    return representation(adata, key, modality=modality)


def _dense(cells: Any) -> NDArray:
    return cells.toarray() if sp.issparse(cells) else np.asarray(cells)


def _plain(
    adata: AnnData, array: Any, key: str | None, seed: int
) -> tuple[Callable[[NDArray], NDArray], float]:
    """Plain features of a block of cells, as SharedAxes has them, and the power of their scale."""
    import torch

    from cellfuse.data.readers import make_reader
    from cellfuse.nn import PlainFeatures

    reader = make_reader(array)
    n = reader.shape[0]
    rows = np.sort(np.random.default_rng(seed).permutation(n)[: min(n, SAMPLE)])
    sample = _dense(reader.read(rows))
    kind = {2: "values", 3: "tokens", 4: "pixels"}.get(len(reader.shape), "values")
    whole = kind == "values" and key is None and (sample >= 0).all()
    if whole and (sample == np.floor(sample)).all():
        kind = "counts"
    features = PlainFeatures(kind, tuple(reader.shape[1:]))
    if kind != "pixels":
        features.fit(torch.as_tensor(sample))
    return lambda x: features(torch.as_tensor(np.ascontiguousarray(x))).numpy(), features.power


def _verdict(n_axes: int, held: Mapping[str, float], n_contexts: int) -> str:
    where = (
        f"Over {n_contexts} contexts, of those left out of the fit a share of {held['foscttm']:.2f}"
        f" of others is closer than the true one (chance .50, permuted "
        f"{held['foscttm_permuted']:.2f})."
    )
    if n_axes == 0:
        return f"No axis is shared beyond what permuted contexts show: nothing to fuse. {where}"
    axes = "one axis is" if n_axes == 1 else f"{n_axes} axes are"
    text = f"{axes} shared beyond what permuted contexts show. {where}"
    return text[0].upper() + text[1:]
