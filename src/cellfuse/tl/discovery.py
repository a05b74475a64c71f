"""Whether a compound's profile points at the genes of its targets."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import (
    check_key,
    context_labels,
    label_text,
    pair_labels,
    per_side,
    profile_labels,
    profiles_only,
)
from cellfuse._counts import whole_counts
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import as_json
from cellfuse._renamed import renamed
from cellfuse.tl._intervals import crossed_intervals, mean_present
from cellfuse.tl._labels import control_rows
from cellfuse.tl._ranking import SCORES, chance_scores, draw_negatives, rank_scores
from cellfuse.tl._units import unit_profiles

__all__ = ["target_discovery"]

logger = logging.getLogger("cellfuse")

Negatives = Literal["sampled", "all"]
#: Negatives of a compound: twice its targets, and at least this many (RxRx3-core).
MIN_NEGATIVES = 20
#: Decimals of a cosine: below this, rounding would break ties by the order of the input.
DECIMALS = 12
#: Scores of negatives that exist at a time.
BLOCK_CELLS = 1 << 21


@dataclass(frozen=True)
class _Task:
    """Compounds with known targets, sorted by name, and the genes they are ranked among."""

    compounds: NDArray  # names, sorted
    rows: list[NDArray]  # rows of adata_compounds of each, in the order of their doses
    targets: list[NDArray]  # positions in `genes` of each compound's targets, ascending
    genes: NDArray  # names, sorted
    gene_rows: NDArray


@renamed(n_seeds="n_draws")
@whole_counts
def target_discovery(
    adata_compounds: AnnData,
    adata_genes: AnnData,
    targets: pd.DataFrame,
    *,
    n_draws: int = 100,
    k: int = 5,
    dose_key: str | None = None,
    compound_key: str | None = None,
    gene_key: str | None = None,
    use_rep: str | None | Mapping[str, str | None] | tuple[str | None, str | None] = None,
    control: str | list[str] | None = None,
    negatives: Negatives = "sampled",
    n_boot: int = 1000,
    key_added: str = "target_discovery",
    seed: int = 0,
) -> pd.DataFrame:
    """Rank genes by how similar their knock-out is to a compound, without any training.

    The score of a gene is ``|cos|`` of the compound's profile (at a dose) and the gene's: an
    inhibitor may look like the knock-out or like its opposite. A compound's known targets are
    ranked against negatives, drawn without replacement from the targets of other compounds: twice
    as many as it has targets, at least 20, or all there are (the compound-gene ranking of
    RxRx3-core; TIDE, task 2). Negatives of a compound are the same at all its doses. Scores are
    worked out per compound and averaged over compounds; the dose average takes each compound's
    mean over its doses first. Genes of equal score are never told apart by their order: average
    precision as scikit-learn's, half a win each in the AUC, the expectation in Hit@k.

    Parameters
    ----------
    adata_compounds
        Profiles, one row per compound, or per compound and dose.
    adata_genes
        Profiles in the same space, one row per gene.
    targets
        Known targets: columns ``source`` (compound) and ``target`` (gene). Pairs outside the
        profiles do not count.
    n_draws
        Draws of negatives, 100 as in the paper.
    k
        Length of the list in which Hit@k looks for any of the targets.
    dose_key
        obs column of `adata_compounds` with the dose; None scores each compound once.
    compound_key, gene_key
        obs columns with the names; None is obs_names.
    use_rep
        obsm key of both; None is ``X``. Or a pair of keys, or a dict with ``"compounds"`` and
        ``"genes"``.
    control
        Label or labels among the genes to leave out.
    negatives
        ``"sampled"`` as above; ``"all"`` ranks the targets among every gene of `adata_genes`, once.
    n_boot
        Bootstrap replicates, over compounds and draws, of the 95% intervals; 0 for none.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same table, whatever the order of the rows.

    Returns
    -------
    One row per dose (index ``dose``, ascending), and a last row ``"mean"``, the dose average; a
    single row ``"all"`` without `dose_key`. Columns ``ap``, ``auc``, ``hit``, each with ``_low``,
    ``_high`` and ``_chance`` (the expectation under a random ranking), and ``n_compounds``.

    ``adata_compounds.uns[key_added]`` keeps it as ``"table"``, beside ``"compounds"`` (one
    row per compound and dose) and ``"params"``.

    Raises
    ------
    KeyError
        A column or the control label is absent.
    ValueError
        Features that do not match, NaN or infinite values, a profile of zeros, several rows for
        one gene or for one compound at one dose, or no usable pair.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> genes = ad.AnnData(np.eye(3), obs=pd.DataFrame(index=["A", "B", "C"]))
    >>> x = np.array([[0.9, 0.1, 0.0], [0.0, 0.2, -0.8]])  # an opposite profile counts as well
    >>> compounds = ad.AnnData(x, obs=pd.DataFrame(index=["one", "two"]))
    >>> known = pd.DataFrame({"source": ["one", "two"], "target": ["A", "C"]})
    >>> table = cf.tl.target_discovery(compounds, genes, known, k=1)
    >>> table.loc["all", ["ap", "auc", "hit", "hit_chance"]].tolist()
    [1.0, 1.0, 1.0, 0.5]
    """
    compounds, genes = profiles_only(adata_compounds), profiles_only(adata_genes)
    check_key(key_added)
    if negatives not in get_args(Negatives):
        raise ValueError(f"negatives={negatives!r}: choose one of {list(get_args(Negatives))}.")
    if not isinstance(targets, pd.DataFrame):
        raise TypeError(
            "`targets` is a data frame with columns 'source' (compound) and 'target' (gene), found "
            f"{type(targets).__name__}."
        )
    doses = _doses(compounds, dose_key)
    task = _task(compounds, genes, targets, doses, compound_key, gene_key, control, negatives)
    order = np.concatenate(task.rows)
    reps = per_side(use_rep, ("compounds", "genes"), name="use_rep")
    a = unit_profiles(compounds, reps[0], order, dtype=np.float64)
    b = unit_profiles(genes, reps[1], task.gene_rows, dtype=np.float64)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"compounds have {a.shape[1]} features and genes {b.shape[1]}: take both from one "
            "embedding (`use_rep`)."
        )
    turns = n_draws if negatives == "sampled" else 1
    scores, chance = _score(task, a, b, turns, k, negatives, seed)
    codes = np.repeat(np.arange(len(task.compounds)), [len(r) for r in task.rows])
    dose = doses[order]
    table = _summary(scores, chance, codes, dose, len(task.compounds), dose_key, n_boot, seed)
    compounds.uns[key_added] = {
        "table": table.copy(),
        "compounds": _by_compound(task, scores, codes, dose, dose_key),
        "params": {
            "n_draws": n_draws,
            "k": k,
            "dose_key": dose_key or "",
            "use_rep": [rep or "X" for rep in reps],
            "control": as_json(control),
            "negatives": negatives,
            "n_boot": n_boot,
            "seed": seed,
        },
    }
    last = table.iloc[-1]
    logger.info(
        "target_discovery: AP %.3f (chance %.3f), AUC %.3f, Hit@%d %.3f (chance %.3f); %d "
        "compounds, %d genes.",
        last["ap"],
        last["ap_chance"],
        last["auc"],
        k,
        last["hit"],
        last["hit_chance"],
        len(task.compounds),
        len(task.genes),
    )
    return table


# -- who is ranked against whom -------------------------------------------------------------------


def _doses(compounds: AnnData, dose_key: str | None) -> NDArray:
    """Doses as numbers where all of them are, otherwise as text."""
    if dose_key is None:
        return np.zeros(compounds.n_obs)
    text = context_labels(compounds, dose_key)
    numbers = pd.to_numeric(text, errors="coerce")
    return text.to_numpy(str) if numbers.isna().any() else numbers.to_numpy(float)


def _task(
    compounds: AnnData,
    genes: AnnData,
    targets: pd.DataFrame,
    doses: NDArray,
    compound_key: str | None,
    gene_key: str | None,
    control: str | list[str] | None,
    negatives: Negatives,
) -> _Task:
    for column in ("source", "target"):
        if column not in targets.columns:
            raise missing_key(column, list(targets.columns), what="the columns of `targets`")
    compound_names, gene_names = (
        profile_labels(compounds, compound_key),
        profile_labels(genes, gene_key),
    )
    gene_rows = np.argsort(gene_names)
    if control is not None:
        gene_rows = gene_rows[~control_rows(gene_names[gene_rows], control)]
    gene_names = gene_names[gene_rows]
    double = np.unique(gene_names[1:][gene_names[1:] == gene_names[:-1]])
    if len(double):
        raise ValueError(
            f"{len(double)} genes have several profiles: {listing(double)}. Aggregate to one row "
            "per gene with `cf.tl.aggregate`."
        )
    _refuse_double(compound_names, doses)
    pairs = pair_labels(targets).dropna().drop_duplicates()
    pairs = pairs[pairs["source"].isin(compound_names) & pairs["target"].isin(gene_names)]
    if pairs.empty:
        raise ValueError(
            "no known target joins a compound and a gene of the profiles: `targets` is like "
            f"{listing(targets['source'].unique(), 3)} -> "
            f"{listing(targets['target'].unique(), 3)}, the compounds like "
            f"{listing(np.unique(compound_names), 3)}, the genes like {listing(gene_names, 3)}. "
            "`compound_key` and `gene_key` name the obs columns with the names."
        )
    if negatives == "sampled":
        chosen = np.isin(gene_names, pairs["target"].to_numpy(str))
        gene_rows, gene_names = gene_rows[chosen], gene_names[chosen]
    places = {
        str(compound): np.sort(np.searchsorted(gene_names, found.to_numpy(str)))
        for compound, found in pairs.groupby("source")["target"]
    }
    names = sorted(name for name, place in places.items() if len(place) < len(gene_names))
    if not names:
        raise ValueError(
            f"every compound targets all of the {len(gene_names)} genes: no negatives are left."
        )
    order = np.lexsort((doses, compound_names))
    ends = np.searchsorted(compound_names[order], names, side="right")
    starts = np.searchsorted(compound_names[order], names, side="left")
    rows = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    return _Task(np.array(names), rows, [places[n] for n in names], gene_names, gene_rows)


def _refuse_double(names: NDArray, doses: NDArray) -> None:
    double = pd.DataFrame({"compound": names, "dose": doses}).duplicated()
    if double.any():
        raise ValueError(
            f"{int(double.sum())} rows repeat a compound at the same dose: "
            f"{listing(np.unique(names[double.to_numpy()]))}. Aggregate with "
            "`cf.tl.aggregate(adata, by=[compound, dose], ...)`, name the dose by `dose_key`, or "
            "score cell lines and time points apart."
        )


# -- scores ---------------------------------------------------------------------------------------


def _score(
    task: _Task,
    compounds: NDArray,
    genes: NDArray,
    n_draws: int,
    k: int,
    negatives: Negatives,
    seed: int,
) -> tuple[NDArray, NDArray]:
    """Scores ``(3, draws, rows)`` and their expectation by chance ``(3, rows)``."""
    n_rows = np.array([len(r) for r in task.rows])
    first = np.cumsum(n_rows) - n_rows
    scores = np.empty((len(SCORES), n_draws, len(compounds)))
    chance = np.empty((len(SCORES), len(compounds)))
    rng = np.random.default_rng(seed)
    for part, n_targets, n_negative in _parts(task, n_rows, n_draws, negatives):
        actives = np.stack([task.targets[c] for c in part])
        drawn = draw_negatives(actives, len(task.genes), n_negative, n_draws, rng)
        rows = np.concatenate([np.arange(first[c], first[c] + n_rows[c]) for c in part])
        local = np.repeat(np.arange(len(part)), n_rows[part])
        similarity = np.abs(np.round(compounds[rows] @ genes.T, DECIMALS))
        positive = np.take_along_axis(similarity, actives[local], axis=1)
        flat = drawn[local].reshape(len(rows), -1)
        negative = np.take_along_axis(similarity, flat, axis=1)
        negative = negative.reshape(len(rows), n_draws, n_negative)
        scores[:, :, rows] = rank_scores(positive, negative, k)
        chance[:, rows] = chance_scores(n_targets, n_negative, k)[:, None]
    return scores, chance


def _parts(
    task: _Task, n_rows: NDArray, n_draws: int, negatives: Negatives
) -> Iterator[tuple[NDArray, int, int]]:
    """Compounds with equally many targets, cut into parts that fit the memory."""
    n_targets = np.array([len(t) for t in task.targets])
    for number in np.unique(n_targets):
        wanted = len(task.genes) if negatives == "all" else max(2 * number, MIN_NEGATIVES)
        n_negative = int(min(wanted, len(task.genes) - number))
        same = np.flatnonzero(n_targets == number)
        size = n_rows[same] * (n_draws * n_negative + len(task.genes))
        part = np.cumsum(size) // BLOCK_CELLS
        for value in np.unique(part):
            yield same[part == value], int(number), n_negative


# -- tables ---------------------------------------------------------------------------------------


def _summary(
    scores: NDArray,
    chance: NDArray,
    codes: NDArray,
    dose: NDArray,
    n_compounds: int,
    dose_key: str | None,
    n_boot: int,
    seed: int,
) -> pd.DataFrame:
    levels = np.unique(dose)
    rows = {}
    if dose_key is not None:
        labels = label_text(pd.Index(levels))
        for label, level in zip(labels, levels, strict=True):
            at = dose == level
            rows[label] = _row(scores[:, :, at], chance[:, at], n_boot, seed)
    n_doses = np.bincount(codes, minlength=n_compounds)
    starts = np.cumsum(n_doses) - n_doses
    means = np.add.reduceat(scores, starts, axis=2) / n_doses
    expected = np.add.reduceat(chance, starts, axis=1) / n_doses
    rows["all" if dose_key is None else "mean"] = _row(means, expected, n_boot, seed)
    table = pd.DataFrame(rows).T
    table["n_compounds"] = table["n_compounds"].astype(int)
    table.index.name = "dose"
    return table


def _row(values: NDArray, chance: NDArray, n_boot: int, seed: int) -> dict[str, float]:
    row: dict[str, float] = {}
    ends = crossed_intervals(values, n_boot=n_boot, seed=seed)
    for name, score, expected, (low, high) in zip(SCORES, values, chance, ends, strict=True):
        row[name] = mean_present(score)
        row[f"{name}_low"], row[f"{name}_high"] = float(low), float(high)
        row[f"{name}_chance"] = float(expected.mean())
    row["n_compounds"] = values.shape[2]
    return row


def _by_compound(
    task: _Task, scores: NDArray, codes: NDArray, dose: NDArray, dose_key: str | None
) -> pd.DataFrame:
    table = pd.DataFrame(dict(zip(SCORES, scores.mean(axis=1), strict=True)))
    table["n_targets"] = np.array([len(t) for t in task.targets])[codes]
    table.insert(0, "compound", task.compounds[codes].astype(object))
    if dose_key is not None:
        table.insert(1, "dose", dose)
    table.index = table.index.astype(str)
    return table
