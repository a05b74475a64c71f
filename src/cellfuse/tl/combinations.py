"""Whether two perturbations together do what they do alone, added up."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from cellfuse._access import check_key, context_labels, one_column, profiles_only
from cellfuse._counts import whole_counts
from cellfuse._errors import listing
from cellfuse._provenance import as_json
from cellfuse.tl._labels import by_name, control_rows
from cellfuse.tl._rows import dense_rows
from cellfuse.tl._summary import check_level

__all__ = ["combinations"]

logger = logging.getLogger("cellfuse")

#: Signs drawn at a time.
BLOCK = 1 << 22


@whole_counts
def combinations(
    adata: AnnData,
    *,
    by: str,
    control: str | list[str],
    sep: str = "+",
    min_cells: int = 3,
    n_null: int = 1000,
    alpha: float = 0.05,
    use_rep: str | None = None,
    key_added: str = "combinations",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each combination's profile with the sum of its parts'.

    The effect of a perturbation is its mean, less the controls' mean. Without an interaction the
    effect of ``A+B`` is that of A and that of B added up. What is left is the interaction; its
    length is tested against what sampling alone leaves: the rows of the four groups, each about
    its own mean, with random signs (wild bootstrap), ``p = (b + 1) / (n_null + 1)``, with
    Benjamini-Hochberg over combinations. Additivity holds in one space and not in another: counts
    need a logarithm first, and the answer is one about that space.

    Parameters
    ----------
    adata
        One row per cell or well.
    by
        obs column with the perturbation; a combination is written ``A+B``, in any order.
    control
        Label or labels of the controls in it.
    sep
        What stands between the names of a combination.
    min_cells
        Rows that a combination, its two parts and the controls must have.
    n_null
        Draws of signs.
    alpha
        Level on q-values.
    use_rep
        obsm key; None is ``X``.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same table, whatever the order of the (differently named) rows.

    Returns
    -------
    One row per combination of two: ``first``, ``second``, ``n``, ``observed`` and ``expected``
    (lengths of the effects), ``similarity`` (cosine of the two), ``epistasis`` (share by which the
    observed effect is longer along the expected one: above 0 synergy, below 0 buffering),
    ``interaction`` (length of what is left), ``null_mean``, ``pvalue``, ``qvalue``,
    ``significant``. One whose parts were not measured alone, or too small, is NaN. Kept in
    ``.uns[key_added]``.

    Raises
    ------
    KeyError
        A column or label is absent.
    ValueError
        NaN or infinite values, no combination of two perturbations that were measured alone.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> effect = {"ctrl": [0, 0], "A": [2, 0], "B": [0, 2], "C": [1, 1]}
    >>> effect |= {"A+B": [2, 2], "A+C": [0, 0]}  # the first additive, the second not
    >>> guide = np.repeat(list(effect), 50)
    >>> x = np.array([effect[name] for name in guide]) + rng.normal(size=(300, 2))
    >>> cells = ad.AnnData(x, obs=pd.DataFrame({"guide": guide}).rename(str))
    >>> table = cf.tl.combinations(cells, by="guide", control="ctrl")
    >>> table["significant"].to_dict(), bool(table.loc["A+C", "epistasis"] < -0.5)
    ({'A+B': False, 'A+C': True}, True)
    """
    adata = profiles_only(adata)
    by = one_column(by, name="by")
    check_level(alpha)
    check_key(key_added)
    if not sep:
        raise ValueError("sep='': expected what stands between two names, such as '+'.")
    if n_null < 1 or min_cells < 2:
        raise ValueError(
            f"expected n_null >= 1 and min_cells >= 2, found {n_null} and {min_cells}."
        )
    values = dense_rows(adata, use_rep)
    labels = context_labels(adata, by).to_numpy(str)
    is_control = control_rows(labels, control)
    groups = {
        str(name): by_name(adata, np.flatnonzero((labels == name) & ~is_control))
        for name in np.unique(labels[~is_control])
    }
    controls = by_name(adata, np.flatnonzero(is_control))
    pairs = {
        name: tuple(part.strip() for part in name.split(sep))
        for name in groups
        if name.count(sep) == 1
    }
    known = {n: p for n, p in pairs.items() if p[0] in groups and p[1] in groups and p[0] != p[1]}
    if not known:
        raise ValueError(
            f"no combination with {sep!r} of two perturbations that were measured alone: "
            f"obs[{by!r}] is like {listing(groups, 4)}."
        )
    draw = _Draws(values, n_null, seed)
    rows = {}
    for name in sorted(pairs):
        parts = [groups[name], *(groups.get(part, np.array([], int)) for part in pairs[name])]
        enough = name in known and min(map(len, [*parts, controls])) >= min_cells
        rows[name] = _row(draw, parts, controls, pairs[name], name) if enough else {
            "first": pairs[name][0], "second": pairs[name][1], "n": len(parts[0]),
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = by
    if "pvalue" not in table:
        raise ValueError(f"no combination and its parts have min_cells={min_cells} rows.")
    tested = table["pvalue"].notna()
    table["qvalue"] = np.nan
    table.loc[tested, "qvalue"] = false_discovery_control(table.loc[tested, "pvalue"].to_numpy())
    table["significant"] = table["qvalue"].lt(alpha)
    params = {
        "by": by,
        "control": as_json(control),
        "sep": sep,
        "n_null": n_null,
        "alpha": alpha,
        "use_rep": use_rep or "X",
        "seed": seed,
    }
    adata.uns[key_added] = {"table": table.copy(), "params": params}
    logger.info(
        "combinations: %d of %d are not additive (q < %g).",
        int(table["significant"].sum()),
        int(tested.sum()),
        alpha,
    )
    return table


class _Draws:
    """Means of a group of rows about their mean, under random signs."""

    def __init__(self, values: NDArray, n_null: int, seed: int) -> None:
        self.values, self.n_null, self.seed = values, n_null, seed
        self._kept: dict[str, NDArray] = {}

    def mean(self, rows: NDArray) -> NDArray:
        return self.values[rows].mean(axis=0)

    def null(self, rows: NDArray, name: str) -> NDArray:
        """``(n_null, features)``; the same for the same name, in whatever combination."""
        if name in self._kept:
            return self._kept[name]
        # Of n rows about their own mean, the spread is short by (n - 1) / n.
        centred = (self.values[rows] - self.mean(rows)) * np.sqrt(len(rows) / (len(rows) - 1))
        rng = np.random.default_rng([self.seed, *name.encode()])
        out = np.empty((self.n_null, centred.shape[1]))
        step = max(1, BLOCK // len(rows))
        for start in range(0, self.n_null, step):
            n = min(step, self.n_null - start)
            signs = rng.integers(0, 2, size=(n, len(rows))) * 2.0 - 1.0
            out[start : start + n] = signs @ centred / len(rows)
        self._kept[name] = out
        return out


def _row(
    draw: _Draws, parts: list[NDArray], controls: NDArray, names: tuple[str, ...], name: str
) -> dict[str, float | int | str]:
    zero = draw.mean(controls)
    both, first, second = (draw.mean(rows) - zero for rows in parts)
    expected = first + second
    left = both - expected
    null = draw.null(parts[0], name) + draw.null(controls, "\0controls")
    for rows, part in zip(parts[1:], names, strict=True):
        null = null - draw.null(rows, part)
    lengths = np.linalg.norm(null, axis=1)
    length = float(np.linalg.norm(left))
    sizes = float(np.linalg.norm(both)), float(np.linalg.norm(expected))
    along = float(both @ expected)
    return {
        "first": names[0],
        "second": names[1],
        "n": len(parts[0]),
        "observed": float(sizes[0]),
        "expected": float(sizes[1]),
        "similarity": along / (sizes[0] * sizes[1]) if sizes[0] * sizes[1] > 0 else np.nan,
        "epistasis": along / sizes[1] ** 2 - 1.0 if sizes[1] > 0 else np.nan,
        "interaction": length,
        "null_mean": float(lengths.mean()),
        "pvalue": (int((lengths >= length).sum()) + 1.0) / (len(lengths) + 1.0),
    }
