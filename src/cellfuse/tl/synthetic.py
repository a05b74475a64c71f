"""Whether synthetic profiles lie where the real ones of their treatment do (PhenoSeq, A.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import (
    check_finite,
    check_key,
    context_codes,
    context_labels,
    label_list,
    per_side,
    profiles_only,
    representation,
)
from cellfuse._counts import whole_counts
from cellfuse._errors import listing, missing_key, warn_user
from cellfuse._renamed import renamed
from cellfuse.kernels.groups import group_means, group_rows

__all__ = ["fidelity", "real_vs_synthetic"]

SIDES = ("real", "synthetic")
METRICS = ("rank", "specificity", "euclidean", "cosine", "pearson")
#: Cosines that agree to so many decimals are equal.
DECIMALS = 12
#: obs column of draws that share their noise up to its sign.
PAIR = "noise_pair"
#: UMAP begins with eigenvectors, of which fewer rows have too few.
MIN_ROWS = 4
#: Bytes of resampled centroids held at a time.
BOOT_BYTES = 1 << 26


@dataclass(frozen=True)
class _Side:
    """The profiles of one side, grouped by treatment."""

    values: Any
    rows: list[NDArray]  # of each treatment
    names: pd.Index
    units: NDArray | None = None  # of each row; rows of a unit are resampled together

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.array([len(rows) for rows in self.rows])

    def centroids(self) -> NDArray[np.float64]:
        codes = np.full(self.values.shape[0], -1)
        for k, rows in enumerate(self.rows):
            codes[rows] = k
        return group_means(self.values, codes, len(self.rows))

    def resampled(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """Centroids of `n` draws of each treatment's units with replacement: (n, treatments, d)."""
        out = np.empty((n, len(self.rows), self.values.shape[1]))
        for k, rows in enumerate(self.rows):
            part = self.values[rows]
            part = part.toarray() if hasattr(part, "toarray") else np.asarray(part)
            sizes = np.ones(len(rows))
            if self.units is not None:
                unit = np.unique(self.units[rows], return_inverse=True)[1]
                sizes = np.bincount(unit).astype(np.float64)
                part = group_means(part, unit, len(sizes)) * sizes[:, None]
            drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), n)
            out[:, k] = drawn @ part / (drawn @ sizes)[:, None]
        return out


@renamed(second_of={"synthetic_rep": "use_rep"})
@whole_counts
def fidelity(
    real: AnnData,
    synthetic: AnnData,
    by: str | list[str],
    *,
    use_rep: str | None | Mapping[str, str | None] | tuple[str | None, str | None] = None,
    unit_key: str | None = None,
    n_boot: int = 1000,
    key_added: str = "fidelity",
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the mean synthetic profile of each treatment with the real ones of all.

    Each synthetic centroid ranks all real centroids by cosine similarity; the rank of its own
    treatment's is 1 where it is the nearest (ties count against it). Where real centroids are all
    alike (cosines near .999 for scGPT), ranks and specificity still tell treatments apart, and
    the cosine does not.

    Parameters
    ----------
    real
        Real profiles or cells. Treatments without synthetic ones are ranked too.
    synthetic
        Synthetic ones, such as :meth:`cellfuse.PhenoSeq.sample` gives.
    by
        obs column (or columns) of the treatment, in both.
    use_rep
        obsm key of the profiles; None is ``X``. Where the sides differ, a pair, or a dict with
        ``"real"`` and ``"synthetic"``: ``("X_scgpt", None)`` compares with the ``X`` of
        :meth:`cellfuse.PhenoSeq.sample`.
    unit_key
        obs column of the real data whose rows are resampled together, such as the well: cells of
        one well are not independent. None: each row by itself.
    n_boot
        Draws of each treatment's rows, on both sides, for the intervals; 0 for none. Synthetic
        rows with the same ``obs["noise_pair"]``, which :meth:`cellfuse.PhenoSeq.sample` gives,
        are drawn together. A treatment with a single synthetic row or pair varies through its
        real cells alone. Centroids of drawn rows are noisier than those of all rows: the intervals
        lie towards the worse side, most where there are few rows.
    level
        Coverage of the intervals.
    key_added
        Key of ``synthetic.uns`` under which the table is kept.
    seed
        Same seed, same intervals.

    Returns
    -------
    One row per treatment with synthetic profiles, index ``treatment``, the best first: ``rank``,
    ``specificity`` (cosine to its own real centroid less the mean cosine to the others; Eq. 9),
    ``euclidean``, ``cosine`` and ``pearson`` to its own, ``n_real`` and ``n_synthetic`` rows, and
    with `n_boot` the ends ``<metric>_low`` and ``<metric>_high``. ``attrs["summary"]`` holds
    ``accuracy_at_1`` and ``mrr`` (mean of 1 / rank), with ends from drawing treatments, what
    chance gives (``chance_accuracy_at_1``, ``chance_mrr``), ``n_ranked`` real centroids.

    The table is kept as ``synthetic.uns[key_added]["table"]``, beside ``"summary"`` and
    ``"params"``.

    Raises
    ------
    KeyError
        A column is missing, or a synthetic treatment has no real profile.
    ValueError
        Widths or the order of features differ, NaN, a single real treatment, a profile without
        direction.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> obs = pd.DataFrame({"drug": ["a", "b", "c"]}, index=list("xyz"))
    >>> real = ad.AnnData(np.eye(3), obs=obs)
    >>> synthetic = ad.AnnData(np.array([[1, 0, 0], [0, 1, 0.2], [0, 0.9, 0.4]]), obs=obs.copy())
    >>> cf.tl.fidelity(real, synthetic, "drug", n_boot=0)["rank"].to_dict()
    {'a': 1, 'b': 1, 'c': 2}
    """
    check_key(key_added)
    reps = _reps(synthetic, use_rep)
    left, right = _sides(real, synthetic, by, reps, unit_key)
    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a share between 0 and 1.")
    own = left.names.get_indexer(right.names)
    found = _metrics(left.centroids()[None], right.centroids()[None], own)
    table = pd.DataFrame({name: found[name][0] for name in METRICS}, index=right.names)
    table["rank"] = table["rank"].astype(int)
    table["n_real"], table["n_synthetic"] = left.counts[own], right.counts
    if n_boot:
        drawn = list(_resampled_metrics(left, right, own, n_boot, seed))
        tails = [(1 - level) / 2, (1 + level) / 2]
        for name in METRICS:
            ends = np.quantile(np.concatenate([part[name] for part in drawn]), tails, axis=0)
            table[f"{name}_low"], table[f"{name}_high"] = ends
    table.index.name = "treatment"
    order = np.lexsort((-table["specificity"].to_numpy(), table["rank"].to_numpy()))
    table = table.iloc[order]
    summary = retrieval(
        table["rank"].to_numpy(), len(left.names), n_boot=n_boot, level=level, seed=seed
    )
    kept = {"by": by, "unit_key": unit_key or "", "n_boot": n_boot, "level": level, "seed": seed}
    synthetic.uns[key_added] = {"table": table.copy(), "summary": summary, "params": kept}
    table.attrs["summary"] = summary
    return table


@whole_counts
def retrieval(
    ranks: Sequence[int] | NDArray,
    n_ranked: int,
    *,
    n_boot: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy@1 and mean reciprocal rank (A.3), with ends from drawing treatments, and chance."""
    rank = np.asarray(ranks, dtype=np.float64)
    scores = {"accuracy_at_1": (rank == 1).astype(float), "mrr": 1 / rank}
    out = {name: float(score.mean()) for name, score in scores.items()}
    if n_boot:
        # Another stream than that of the cells.
        rng = np.random.default_rng([seed, 1])
        picks = rng.integers(len(rank), size=(n_boot, len(rank)))
        tails = [(1 - level) / 2, (1 + level) / 2]
        for name, score in scores.items():
            low, high = np.quantile(score[picks].mean(axis=1), tails)
            out[f"{name}_low"], out[f"{name}_high"] = float(low), float(high)
    out["chance_accuracy_at_1"] = 1 / n_ranked
    out["chance_mrr"] = float((1 / np.arange(1, n_ranked + 1)).mean())
    return {**out, "n_treatments": float(len(rank)), "n_ranked": float(n_ranked)}


def _reps(synthetic: AnnData, use_rep: Any) -> tuple[str | None, str | None]:
    """Keys of the real and of the synthetic profiles."""
    reps = per_side(use_rep, SIDES, name="use_rep")
    if isinstance(use_rep, str) and use_rep not in ("X", *profiles_only(synthetic).obsm):
        warn_user(
            f"use_rep={use_rep!r} is no obsm key of the synthetic data, whose X is taken. Say so: "
            f"use_rep=({use_rep!r}, None); with the next version one key is for both sides.",
            FutureWarning,
        )
        return use_rep, None
    return reps


def _sides(
    real: AnnData,
    synthetic: AnnData,
    by: str | list[str],
    reps: tuple[str | None, str | None],
    unit_key: str | None,
) -> tuple[_Side, _Side]:
    pair = PAIR if PAIR in profiles_only(synthetic).obs else None
    left, right = (
        _side(profiles_only(adata), by, rep, name, unit)
        for adata, rep, name, unit in (
            (real, reps[0], "the real data", unit_key),
            (synthetic, reps[1], "the synthetic data", pair),
        )
    )
    widths = left.values.shape[1], right.values.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(
            f"the real profiles have {widths[0]} features, the synthetic ones {widths[1]}; name "
            "the embedding that the model was trained on with `use_rep`."
        )
    if all(rep in (None, "X") for rep in reps):
        names = [pd.Index(adata.var_names) for adata in (real, synthetic)]
        if not names[0].equals(names[1]) and not len(names[0].symmetric_difference(names[1])):
            raise ValueError(
                "real and synthetic profiles have the same features in another order; put them "
                "into one: `synthetic = synthetic[:, real.var_names].copy()`."
            )
    absent = right.names[~right.names.isin(left.names)]
    if len(absent):
        raise missing_key(
            absent[0],
            list(left.names),
            what=f"the real data's {by!r}",
            fix=f"{len(absent)} synthetic treatments have no real profile to compare with: "
            f"{listing(absent, 5)}. Leave them out.",
        )
    if len(left.names) < 2:
        raise ValueError(f"ranks need at least two real treatments, found {listing(left.names)}.")
    return left, right


def _side(
    adata: AnnData, by: str | list[str], rep: str | None, name: str, unit: str | None
) -> _Side:
    if adata.n_obs == 0:
        raise ValueError(f"{name} hold no rows.")
    values = representation(adata, rep)
    check_finite(values, "X" if rep is None else f"obsm[{rep!r}]")
    codes, names = context_codes(adata, by)
    units = None if unit is None else pd.factorize(context_labels(adata, unit))[0]
    return _Side(values, group_rows(codes, len(names)), pd.Index(names, dtype=object), units)


def _metrics(real: NDArray, synthetic: NDArray, own: NDArray) -> dict[str, NDArray]:
    """All metrics from centroids (n, treatments, d); `own` is each synthetic one's real place."""
    cosine = np.round(_units(synthetic) @ _units(real).transpose(0, 2, 1), DECIMALS)
    mine = np.take_along_axis(cosine, own[None, :, None], axis=2)
    n_real = real.shape[1]
    others = (cosine.sum(axis=2) - mine[..., 0]) / (n_real - 1)
    pair = real[:, own]
    centred = [x - x.mean(axis=2, keepdims=True) for x in (pair, synthetic)]
    with np.errstate(invalid="ignore", divide="ignore"):
        product = (centred[0] * centred[1]).sum(axis=2)
        pearson = product / np.sqrt((centred[0] ** 2).sum(axis=2) * (centred[1] ** 2).sum(axis=2))
    return {
        "rank": (cosine >= mine).sum(axis=2),
        "specificity": mine[..., 0] - others,
        "euclidean": np.linalg.norm(pair - synthetic, axis=2),
        "cosine": mine[..., 0],
        "pearson": pearson,
    }


def _units(x: NDArray) -> NDArray:
    length = np.linalg.norm(x, axis=2, keepdims=True)
    if not np.all(length > 0):
        raise ValueError("the mean profile of a treatment is all zeros: it has no direction.")
    return x / length


def _resampled_metrics(
    left: _Side, right: _Side, own: NDArray, n_boot: int, seed: int
) -> Iterator[dict[str, NDArray]]:
    rng = np.random.default_rng([seed, 0])
    centroids = left.values.shape[1] * (len(left.rows) + len(right.rows))
    largest = max(left.counts.max(), right.counts.max())  # each of its rows is drawn so many times
    step = int(max(1, BOOT_BYTES // (8 * max(centroids, largest))))
    for start in range(0, n_boot, step):
        n = min(step, n_boot - start)
        yield _metrics(left.resampled(rng, n), right.resampled(rng, n), own)


@renamed(second_of={"synthetic_rep": "use_rep"})
def real_vs_synthetic(
    real: AnnData,
    synthetic: AnnData,
    by: str,
    *,
    use_rep: str | None | Mapping[str, str | None] | tuple[str | None, str | None] = None,
    treatments: str | Sequence[str] | int = 8,
    max_cells: int = 500,
    key_added: str = "real_vs_synthetic",
    seed: int = 0,
) -> AnnData:
    """Lay real and synthetic profiles out together by UMAP (PhenoSeq, Fig. 2).

    Parameters
    ----------
    real, synthetic, use_rep
        As in :func:`fidelity`.
    by
        obs column of the treatment, in both.
    treatments
        Which are shown, or how many of the best by rank and specificity (8 in the paper).
    max_cells
        Rows of each treatment and side at most, drawn at random.
    key_added
        Key of ``.uns`` of what is kept for the plot.
    seed
        Of the draw and of UMAP.

    Returns
    -------
    AnnData of the rows that are shown: ``X``, ``obs[by]``, ``obs["source"]`` (``"real"`` or
    ``"synthetic"``), ``obsm["X_umap"]``; ``uns[key_added]`` holds ``by``, the ``best``
    treatment and the ``centroids`` (mean place of each treatment and source), for
    :func:`cellfuse.pl.real_vs_synthetic`.

    Raises
    ------
    KeyError
        A column or treatment is missing.
    ValueError
        As in :func:`fidelity`; nothing, or too little, is left to lay out.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> def cells(name):
    ...     obs = pd.DataFrame({"drug": np.repeat(["a", "b"], 10)})
    ...     obs.index = [f"{name}-{i}" for i in range(20)]
    ...     values = rng.normal(size=(20, 4)) + 3 * np.repeat(np.eye(2, 4), 10, axis=0)
    ...     return ad.AnnData(values, obs=obs)
    >>> joint = cf.tl.real_vs_synthetic(cells("real"), cells("synthetic"), "drug")
    >>> joint.obsm["X_umap"].shape, joint.obs["source"].unique().tolist()
    ((40, 2), ['real', 'synthetic'])
    """
    import scanpy as sc

    if not isinstance(by, str):
        raise TypeError(f"`by` names one obs column; found {by!r}.")
    if max_cells < 1:
        raise ValueError(f"max_cells must be at least 1, found {max_cells}.")
    check_key(key_added)
    reps = _reps(synthetic, use_rep)
    table = fidelity(real, synthetic.copy(), by, use_rep=reps, n_boot=0)
    names = _shown(table, treatments)
    rng = np.random.default_rng(seed)
    parts = []
    for source, adata, rep in zip(SIDES, (real, synthetic), reps, strict=True):
        labels = context_labels(adata, by).to_numpy()
        rows = [rng.permutation(np.flatnonzero(labels == name))[:max_cells] for name in names]
        at = np.sort(np.concatenate(rows))
        values = representation(adata, rep)[at]
        values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
        obs = pd.DataFrame({by: labels[at], "source": source})
        obs.index = [f"{source}-{name}" for name in adata.obs_names[at]]
        parts.append((values.astype(np.float32), obs))
    joint = AnnData(
        np.concatenate([values for values, _ in parts]), obs=pd.concat([obs for _, obs in parts])
    )
    if joint.n_obs < MIN_ROWS:
        raise ValueError(
            f"{joint.n_obs} rows are too few for a UMAP; show more treatments, or cells of them."
        )
    n_neighbors = min(15, joint.n_obs - 1)
    sc.pp.neighbors(joint, n_neighbors=n_neighbors, use_rep="X", random_state=seed)
    sc.tl.umap(joint, random_state=seed)
    place = pd.DataFrame(joint.obsm["X_umap"], columns=["x", "y"], index=joint.obs_names)
    centroids = place.groupby([joint.obs[by].to_numpy(), joint.obs["source"].to_numpy()]).mean()
    centroids.index.names = [by, "source"]
    joint.uns[key_added] = {
        "by": by,
        "best": table.index[table.index.isin(names)][0],
        "centroids": centroids.reset_index(),
    }
    return joint


def _shown(table: pd.DataFrame, treatments: str | Sequence[str] | int) -> list[str]:
    """Names of the treatments to show: those given, or so many of the best."""
    if isinstance(treatments, int | np.integer):
        given = list(table.index[: max(0, treatments)])
    else:
        given = label_list(treatments)
    for name in given:
        if name not in table.index:
            raise missing_key(name, list(table.index), what="the synthetic treatments")
    if not given:
        raise ValueError("no treatment is left to show.")
    return given
