"""How far a perturbation moves cells away from the controls."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import false_discovery_control

from cellfuse._access import (
    check_finite,
    check_key,
    context_codes,
    context_labels,
    label_list,
    profiles_only,
    representation,
)
from cellfuse._counts import whole_counts
from cellfuse._errors import listing
from cellfuse._provenance import as_json
from cellfuse.kernels.chunks import in_threads
from cellfuse.kernels.energy import Energy, distances, energy_test
from cellfuse.kernels.groups import group_means, group_rows
from cellfuse.tl._labels import by_name, control_rows
from cellfuse.tl._similarity import source_name
from cellfuse.tl._summary import check_level, mean_with_interval, share_with_interval

__all__ = ["perturbation_magnitude"]

logger = logging.getLogger("cellfuse")

#: Fewer rows have no spread.
MIN_ROWS = 2


@whole_counts
def perturbation_magnitude(
    adata: AnnData,
    *,
    by: str | list[str],
    control: str | list[str],
    batch_key: str | list[str] | None = None,
    min_replicates: int = 5,
    max_rows: int = 1000,
    n_null: int = 1000,
    alpha: float = 0.05,
    use_rep: str | None = None,
    n_boot: int = 1000,
    key_added: str = "perturbation_magnitude",
    seed: int = 0,
) -> pd.DataFrame:
    """Energy distance of each perturbation to the controls, tested by permutation (EFAAR).

    ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` with Euclidean distances over all pairs of rows, a row
    with itself included: 0 for equal distributions, else positive. The null permutes the labels of
    the perturbation's and the controls' rows, ``p = (k + 1) / (B + 1)``; with `batch_key` within
    batches, against the controls of those batches only, so that a plate's shift is in the null
    as well. Benjamini-Hochberg over perturbations.

    Parameters
    ----------
    adata
        One row per cell or well.
    by
        obs column or columns with the perturbation.
    control
        Label or labels of the controls among them.
    batch_key
        obs column or columns of the batch. None: all controls, permuted freely.
    min_replicates
        A perturbation with fewer rows is not tested (5 in EFAAR); at least 2.
    max_rows
        Rows that are drawn of each perturbation and of the controls (evenly over the batches that
        it stands in), where there are more. Time and memory grow with its square.
    n_null
        Permutations. The smallest p-value is ``1 / (n_null + 1)``: for q-values below `alpha`
        among thousands of perturbations give 10,000 and more.
    alpha
        Level on q-values.
    use_rep
        obsm key; None is ``X``.
    n_boot
        Bootstrap replicates over perturbations for the intervals of the two figures in ``attrs``.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same table, in whatever order the (differently named) rows come; a
        perturbation's numbers do not depend on which others there are.

    Returns
    -------
    One row per perturbation: ``energy``, ``n`` (rows), ``n_controls``, ``null_mean``, ``pvalue``,
    ``qvalue``, ``significant``. ``attrs["share_significant"]`` and ``attrs["mean_energy"]``, with
    `n_boot` each with a ``_low`` and a ``_high``. Kept in ``adata.uns[key_added]``.

    Raises
    ------
    KeyError
        A column or label is absent.
    ValueError
        NaN or infinite values; a batch of a perturbation without controls; no perturbation with
        enough rows.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"gene": ["NTC"] * 40 + ["A"] * 20 + ["B"] * 20})
    >>> x = rng.normal(size=(80, 4)) + 2.0 * (obs["gene"] == "A").to_numpy()[:, None]
    >>> cells = ad.AnnData(x, obs=obs.rename(str))
    >>> table = cf.tl.perturbation_magnitude(cells, by="gene", control="NTC")
    >>> table["significant"].to_dict()
    {'A': True, 'B': False}
    """
    adata = profiles_only(adata)
    check_key(key_added)
    if min_replicates < MIN_ROWS or max_rows < MIN_ROWS or n_null < 1:
        raise ValueError(
            f"expected min_replicates >= {MIN_ROWS}, max_rows >= {MIN_ROWS} and n_null >= 1, found "
            f"{min_replicates}, {max_rows} and {n_null}."
        )
    check_level(alpha)
    values = representation(adata, use_rep)
    check_finite(values, source_name(use_rep, None))
    values = sparse.csr_array(values) if sparse.issparse(values) else np.asarray(values)
    labels = context_labels(adata, by).to_numpy(str)
    if control is None or not label_list(control):
        raise ValueError(f"control={control!r}: the distance is one to controls; name their label.")
    is_control = control_rows(labels, control)
    batch = np.zeros(len(labels), dtype=np.intp)
    names = np.array(["all rows"])
    if batch_key is not None:
        batch, found = context_codes(adata, batch_key)
        names = np.asarray(found, dtype=str)
    order = by_name(adata, np.arange(len(labels)))
    controls, others = order[is_control[order]], order[~is_control[order]]
    test = _Test(values, controls, batch, names, max_rows, n_null, seed)
    codes, perturbations = pd.factorize(labels[others], sort=True)
    rows = [others[r] for r in group_rows(codes, len(perturbations))]
    n_rows = np.array([len(r) for r in rows])
    enough = n_rows >= min_replicates
    if not enough.any():
        raise ValueError(
            f"no perturbation has min_replicates={min_replicates} rows; the largest of "
            f"{len(rows)} has {int(n_rows.max(initial=0))}. Give one row per cell or well."
        )
    jobs = [(str(perturbations[i]), rows[i]) for i in np.flatnonzero(enough)]
    test.check(jobs)
    table = _table(perturbations, n_rows, enough, in_threads(test, jobs), alpha)
    tested = {"": table[enough]}
    figures = {
        **share_with_interval(tested, alpha, n_boot, seed),
        **mean_with_interval("mean_energy", tested, "energy", n_boot, seed),
    }
    table.attrs.update(figures)
    params: dict[str, Any] = {
        "by": as_json(by),
        "control": as_json(control),
        "batch_key": as_json(batch_key),
        "min_replicates": min_replicates,
        "max_rows": max_rows,
        "n_null": n_null,
        "alpha": alpha,
        "use_rep": source_name(use_rep, None),
        "n_boot": n_boot,
        "seed": seed,
        **figures,
    }
    adata.uns[key_added] = {"table": table.copy(), "params": params}
    logger.info(
        "perturbation_magnitude: %.1f%% of %d perturbations are significant (q < %g).",
        100 * figures["share_significant"],
        int(enough.sum()),
        alpha,
    )
    return table


class _Test:
    """The controls of each batch, and the test of one perturbation against them."""

    def __init__(
        self,
        values: Any,
        controls: NDArray,
        batch: NDArray,
        names: NDArray,
        max_rows: int,
        n_null: int,
        seed: int,
    ) -> None:
        self.values, self.batch, self.names = values, batch, names
        self.max_rows, self.n_null, self.seed = max_rows, n_null, seed
        # A stream of the batch's own: the same controls in whatever company.
        self.controls = [
            np.random.default_rng([seed, 0, *name.encode()]).permutation(controls[rows])[:max_rows]
            for name, rows in zip(
                names.tolist(), group_rows(batch[controls], len(names)), strict=True
            )
        ]
        # Centred, so that distances far from the origin keep their digits.
        code = np.full(len(batch), -1)
        code[controls] = 0
        self.centre = group_means(values, code, 1)

    def check(self, jobs: list[tuple[str, NDArray]]) -> None:
        """Refuse a perturbation in a batch without controls."""
        used = np.unique(np.concatenate([self.batch[rows] for _, rows in jobs]))
        bare = [self.names[b] for b in used if not len(self.controls[b])]
        if bare:
            raise ValueError(
                f"{len(bare)} of {len(used)} batches hold no control rows: {listing(bare)}. Drop "
                "those rows, take a coarser `batch_key`, or None: all controls together."
            )

    def __call__(self, job: tuple[str, NDArray]) -> tuple[Energy, int]:
        label, rows = job
        # A stream of the label's own: the same numbers in whatever company.
        stream = np.random.SeedSequence([self.seed, 1, *label.encode()])
        draw, permute = stream.spawn(2)
        rows = _some(rows, self.max_rows, np.random.default_rng(draw))
        batches = np.unique(self.batch[rows])
        most = -(-self.max_rows // len(batches))
        controls = np.concatenate([self.controls[b][:most] for b in batches])
        both = np.concatenate([rows, controls])
        part = self.values[both]
        part = part.toarray() if sparse.issparse(part) else part
        part = part.astype(np.float64) - self.centre
        energy = energy_test(
            distances(part, part),
            len(rows),
            self.batch[both],
            n_permutations=self.n_null,
            seed=permute,
        )
        return energy, len(controls)


def _some(rows: NDArray, most: int, rng: np.random.Generator) -> NDArray:
    return rows if len(rows) <= most else rng.choice(rows, most, replace=False)


def _table(
    perturbations: NDArray,
    n_rows: NDArray,
    enough: NDArray,
    results: list[tuple[Energy, int]],
    alpha: float,
) -> pd.DataFrame:
    table = pd.DataFrame(
        {name: np.full(len(n_rows), np.nan) for name in ("energy", "null_mean", "pvalue")},
        index=pd.Index(np.asarray(perturbations, dtype=object), name="perturbation"),
    )
    table.insert(1, "n", n_rows)
    table.insert(2, "n_controls", 0)
    table.loc[enough, "energy"] = [energy.distance for energy, _ in results]
    table.loc[enough, "null_mean"] = [energy.null_mean for energy, _ in results]
    table.loc[enough, "pvalue"] = [energy.pvalue for energy, _ in results]
    table.loc[enough, "n_controls"] = [count for _, count in results]
    table["qvalue"] = np.nan
    table.loc[enough, "qvalue"] = false_discovery_control(table.loc[enough, "pvalue"].to_numpy())
    table["significant"] = enough & (table["qvalue"].to_numpy() < alpha)
    return table
