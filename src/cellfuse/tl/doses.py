"""How the effect of a compound grows with its dose."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import f as f_distribution
from scipy.stats import false_discovery_control
from scipy.stats import t as t_distribution

from cellfuse._access import check_key, context_labels, obs_column, one_column, profiles_only
from cellfuse._errors import listing
from cellfuse._provenance import as_json
from cellfuse.tl._labels import control_rows
from cellfuse.tl._rows import dense_rows
from cellfuse.tl._summary import check_level

__all__ = ["dose_response", "hill"]

logger = logging.getLogger("cellfuse")

#: Doses that a curve needs: two make a line.
MIN_DOSES = 3
#: Slopes that are looked for, and how far beyond the doses the middle may lie (factor).
SLOPES, BEYOND = (0.3, 6.0), 10.0
FITTED = ("ec50", "ec50_low", "ec50_high", "slope", "bottom", "top", "r2")


@dataclass(frozen=True)
class _Curve:
    """A fitted curve: its parameters, the error of the middle's logarithm, and the test."""

    bottom: float
    top: float
    log_ec50: float
    slope: float
    error: float
    pvalue: float
    r2: float
    df: int


def hill(
    dose: NDArray,
    bottom: float | NDArray,
    top: float | NDArray,
    log_ec50: float | NDArray,
    slope: float | NDArray,
) -> NDArray:
    """Hill curve (four-parameter log-logistic); `bottom` at dose 0."""
    dose = np.asarray(dose, dtype=float)
    with np.errstate(divide="ignore"):
        exponent = np.clip(slope * (log_ec50 - np.log10(dose)), -50.0, 50.0)
    return bottom + (top - bottom) / (1.0 + 10.0**exponent)


def dose_response(
    adata: AnnData,
    *,
    by: str,
    dose_key: str,
    control: str | list[str],
    value: str | None = None,
    use_rep: str | None = None,
    alpha: float = 0.05,
    key_added: str = "dose_response",
) -> pd.DataFrame:
    """Fit a dose-response curve to each compound.

    ``bottom + (top - bottom) / (1 + (ec50 / dose)^slope)``, by least squares (scipy). The controls
    are in every fit, as dose 0. p is of the F test against a response that does not depend on the
    dose, with Benjamini-Hochberg over compounds; it takes replicates for independent and their
    spread for equal at all doses. The compounds share the controls, so that few of these make all
    p-values too small, or too large, together.

    Parameters
    ----------
    adata
        One row per well, or per profile of a compound at a dose.
    by
        obs column with the compound.
    dose_key
        obs column with the dose, in numbers above 0; what controls have in it is not read.
    control
        Label or labels of the controls in `by`.
    value
        obs column with the response, such as a count of cells. None: how far the row's profile is
        from the mean of the controls, in units of their own mean distance (1 is a control).
    use_rep
        obsm key of the profiles; None is ``X``. Read only without `value`.
    alpha
        Level on q-values.
    key_added
        Key of ``.uns`` under which the table, and the responses, are kept.

    Returns
    -------
    One row per compound: ``ec50`` with its 95% interval ``ec50_low`` and ``ec50_high``, ``slope``,
    ``bottom``, ``top``, ``r2``, ``inside`` (whether the middle of the curve lies within the doses
    that were tried; if not, `ec50` is a guess), ``n`` (rows), ``n_doses``, ``pvalue``, ``qvalue``,
    ``significant``. Compounds with fewer than three doses are not fitted: NaN.

    Raises
    ------
    KeyError
        A column or label is absent.
    ValueError
        Doses that are no numbers above 0, fewer than two controls, NaN, or no compound with
        three doses.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> dose = np.tile(np.repeat([0.01, 0.1, 1.0, 10.0, 100.0], 4), 2)
    >>> drug = np.repeat(["active", "inert"], 20)
    >>> response = np.where(drug == "active", 5 * dose / (1 + dose), 0.0)
    >>> obs = pd.DataFrame({"drug": drug, "dose": dose, "response": response})
    >>> dmso = pd.DataFrame({"drug": "DMSO", "dose": np.nan, "response": np.zeros(20)})
    >>> obs = pd.concat([obs, dmso], ignore_index=True).rename(str)
    >>> obs["response"] += rng.normal(size=60) / 4
    >>> table = cf.tl.dose_response(
    ...     ad.AnnData(obs=obs), by="drug", dose_key="dose", control="DMSO", value="response"
    ... )
    >>> table["significant"].to_dict(), bool(0.5 < table.loc["active", "ec50"] < 2)
    ({'active': True, 'inert': False}, True)
    """
    adata = profiles_only(adata)
    by = one_column(by, name="by")
    check_level(alpha)
    check_key(key_added)
    labels = context_labels(adata, by).to_numpy(str)
    is_control = control_rows(labels, control)
    if is_control.sum() < 2:
        raise ValueError(f"{int(is_control.sum())} control: at least two are needed.")
    dose = _doses(adata, dose_key, is_control)
    response = _responses(adata, value, use_rep, is_control)
    rows = {}
    for name in np.unique(labels[~is_control]).tolist():
        mine = labels == name
        rows[name] = _row(
            np.concatenate([dose[mine], np.zeros(int(is_control.sum()))]),
            np.concatenate([response[mine], response[is_control]]),
            n=int(mine.sum()),
        )
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = by
    known = table["pvalue"].notna()
    if not known.any():
        raise ValueError(
            f"no compound has {MIN_DOSES} doses in obs[{dose_key!r}]: there is no curve to fit."
        )
    table["qvalue"] = np.nan
    table.loc[known, "qvalue"] = false_discovery_control(table.loc[known, "pvalue"].to_numpy())
    table["significant"] = table["qvalue"].lt(alpha)
    responses = pd.DataFrame(
        {"compound": labels, "dose": np.where(is_control, 0.0, dose), "response": response}
    )
    params = {
        "by": by,
        "dose_key": dose_key,
        "control": as_json(control),
        "value": value or "distance to controls",
        "alpha": alpha,
    }
    adata.uns[key_added] = {"table": table.copy(), "responses": responses, "params": params}
    logger.info(
        "dose_response: %d of %d compounds depend on their dose (q < %g).",
        int(table["significant"].sum()),
        int(known.sum()),
        alpha,
    )
    return table


def _doses(adata: AnnData, key: str, is_control: NDArray) -> NDArray:
    column = obs_column(adata, key, missing=True)
    dose = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(float)
    wrong = ~is_control & ~(dose > 0)
    if wrong.any():
        raise ValueError(
            f"obs[{key!r}] holds {int(wrong.sum())} doses that are no numbers above 0: "
            f"{listing(column[wrong].astype(str).unique(), 4)}."
        )
    return dose


def _responses(
    adata: AnnData, value: str | None, use_rep: str | None, is_control: NDArray
) -> NDArray:
    if value is not None:
        response = pd.to_numeric(obs_column(adata, value), errors="coerce").to_numpy(float)
        if not np.isfinite(response).all():
            raise ValueError(f"obs[{value!r}] holds values that are no finite numbers.")
        return response
    profiles = dense_rows(adata, use_rep)
    controls = profiles[is_control]
    n = len(controls)
    distance = np.linalg.norm(profiles - controls.mean(axis=0), axis=1)
    # A control is in the mean it is compared with: without it, it lies further away.
    distance[is_control] *= n / (n - 1)
    return distance / (distance[is_control].mean() or 1.0)


def _row(dose: NDArray, response: NDArray, *, n: int) -> dict[str, float | bool | int]:
    tried = np.unique(dose[dose > 0])
    row: dict[str, float | bool | int] = dict.fromkeys(
        ("ec50", "ec50_low", "ec50_high", "slope", "bottom", "top", "r2"), np.nan
    )
    row |= {"inside": False, "n": n, "n_doses": len(tried), "pvalue": np.nan}
    curve = _fit(dose, response, tried) if len(tried) >= MIN_DOSES else None
    if curve is None:
        return row
    half = float(t_distribution.ppf(0.975, curve.df)) * curve.error
    row |= {
        "ec50": 10.0**curve.log_ec50,
        "ec50_low": 10.0 ** max(curve.log_ec50 - half, -300.0),
        "ec50_high": 10.0 ** min(curve.log_ec50 + half, 300.0),
        "slope": curve.slope,
        "bottom": curve.bottom,
        "top": curve.top,
        "r2": curve.r2,
        "inside": bool(tried[0] <= 10.0**curve.log_ec50 <= tried[-1]),
        "pvalue": curve.pvalue,
    }
    return row


def _fit(dose: NDArray, response: NDArray, tried: NDArray) -> _Curve | None:
    """Best curve by least squares: over a grid of middles and slopes, then from its best point.

    With the two fixed, bottom and top are a linear fit: the grid sees every valley, where a search
    from one start may end in a wrong one.
    """
    n, total = len(dose), float(((response - response.mean()) ** 2).sum())
    df = n - 4
    if df < 1 or total == 0:
        return None
    low, high = np.log10(tried[0] / BEYOND), np.log10(tried[-1] * BEYOND)
    middles, slopes = (
        part.ravel() for part in np.meshgrid(np.linspace(low, high, 41), np.geomspace(*SLOPES, 9))
    )
    share = hill(dose, 0.0, 1.0, middles[:, None], slopes[:, None])
    centred, mine = share - share.mean(axis=1, keepdims=True), response - response.mean()
    size = (centred**2).sum(axis=1)
    rise = np.divide(centred @ mine, size, out=np.zeros_like(size), where=size > 1e-9)
    best = int(np.argmin(total - rise**2 * size))
    bottom = float(response.mean() - rise[best] * share[best].mean())
    start = np.array([bottom, bottom + rise[best], middles[best], slopes[best]])
    step = np.array([np.inf, np.inf, high - low, SLOPES[1]])
    found = least_squares(
        lambda x: hill(dose, *x) - response,
        start,
        lambda x: _slopes_of(dose, x),
        bounds=(
            np.maximum(start - step, [-np.inf, -np.inf, low - 1e-9, SLOPES[0] - 1e-9]),
            np.minimum(start + step, [np.inf, np.inf, high + 1e-9, SLOPES[1] + 1e-9]),
        ),
        x_scale="jac",
        max_nfev=100,
    )
    left = float((found.fun**2).sum())
    # The three parameters beyond a constant.
    ratio = ((total - left) / 3) / max(left / df, 1e-12 * total)
    covariance = np.linalg.pinv(found.jac.T @ found.jac) * left / df
    low_end, high_end, log_ec50, slope = map(float, found.x)
    return _Curve(
        bottom=low_end,
        top=high_end,
        log_ec50=log_ec50,
        slope=slope,
        error=float(np.sqrt(max(covariance[2, 2], 0.0))),
        pvalue=float(f_distribution.sf(max(ratio, 0.0), 3, df)),
        r2=1.0 - left / total,
        df=df,
    )


def _slopes_of(dose: NDArray, x: NDArray) -> NDArray:
    """Derivatives of :func:`hill` by its four parameters, ``(doses, 4)``."""
    bottom, top, log_ec50, slope = x
    share = hill(dose, 0.0, 1.0, log_ec50, slope)
    steep = (top - bottom) * share * (1.0 - share) * np.log(10.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(dose > 0, log_ec50 - np.log10(dose), 0.0)
    return np.stack([1.0 - share, share, -steep * slope, -steep * distance], axis=1)
