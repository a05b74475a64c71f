"""Whether the two profiles of a context lie together in a space that modalities share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import check_key, label_list, per_modality, representation
from cellfuse._counts import whole_counts
from cellfuse._errors import missing_key
from cellfuse._provenance import as_json
from cellfuse.kernels.alignment import Alignment, align, align_blocks, closer_of_all
from cellfuse.kernels.bootstrap import draw_nodes, interval, weighted_means
from cellfuse.kernels.context_sums import ContextSums
from cellfuse.kernels.left_out import added
from cellfuse.kernels.shared_axes import permuted_orders
from cellfuse.tl._context_sums import (
    codes_by_modality,
    labels_of_contexts,
    sums_by_part,
    two_modalities,
)
from cellfuse.tl._similarity import source_name

__all__ = ["alignment"]

#: Obs columns or obsm keys, see :func:`cellfuse.data.nuisances.find_nuisances`.
Keys = str | Sequence[str] | None


@whole_counts
def alignment(
    mdata: MuData,
    by: str | list[str],
    *,
    use_rep: str | None | Mapping[str, str | None],
    contexts: Sequence[str] | None = None,
    target_key: str | None = None,
    regress_out: Keys | Mapping[str, Keys] = None,
    permuted_rep: str | None | Mapping[str, str | None] = None,
    k: int = 10,
    n_boot: int = 1000,
    n_draws: int = 1000,
    key_added: str = "alignment",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare a context's profile in one modality with its own and others' in the other.

    Only contexts that were *held out* of training say anything: a model can learn the contexts it
    sees by heart. Beside the space stand its ceiling (two halves of one modality's cells, which
    have half as many cells each and differ by noise alone) and, where it is given, the same space
    of a model trained on permuted contexts.

    Parameters
    ----------
    mdata
        Two modalities that share a space.
    by
        obs column or columns of the context.
    use_rep
        obsm key of the space; None is ``X``; a dict by modality where it differs.
    contexts
        Contexts that are compared, those held out; None takes all that both modalities have.
    target_key
        obs column, such as the target gene of guides, whose contexts are resampled and permuted
        together: guides of a target are no independent evidence.
    regress_out
        obs columns or obsm keys (numbers or words), by modality where they differ, that are
        regressed out of the cells first: depth and darkness may be all that is shared.
    permuted_rep
        The same space of the permuted twin.
    k
        Length of the list of ``top{k}``.
    n_boot
        Bootstrap replicates over contexts (or targets) for 95% intervals; 0 for none.
    n_draws
        Permutations of the pairing for the p-value.
    key_added
        Key of ``mdata.uns`` under which the table is kept, for :func:`cellfuse.pl.alignment`.
    seed
        Same seed, same halves, intervals and p-values.

    Returns
    -------
    One row per ``space``: ``"embedding"``, ``"permuted"`` where given, ``"halves of <modality>"``.
    Columns ``gap`` (own less mean other cosine, chance 0), ``foscttm`` (share of other contexts
    that are closer than the own one, chance .5), ``mrr``, ``top{k}``, each averaged over contexts
    and both directions, with ``_low`` and ``_high``; ``pvalue`` of the FOSCTTM against permuted
    pairs; ``n_contexts``.

    Raises
    ------
    KeyError
        A column, representation or context is absent.
    ValueError
        Not two modalities, fewer than three contexts in common, different widths, NaN.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(60, n_targets=8, cells_per_guide=6, seed=0)
    >>> found = cf.tl.alignment(mdata, "guide", use_rep="latent", target_key="gene", n_boot=0)
    >>> found.index.tolist()
    ['embedding', 'halves of image', 'halves of rna']
    >>> bool(found.loc["embedding", "foscttm"] < 0.3)
    True
    """
    from cellfuse.data.nuisances import find_nuisances, nuisance_matrix  # brings torch

    check_key(key_added)
    adatas = two_modalities(mdata, "alignment")
    first, second = adatas
    names, codes = codes_by_modality(adatas, by)
    chosen = _chosen(names, contexts, by)
    taken = find_nuisances(adatas, regress_out=regress_out)
    z = {m: nuisance_matrix(adatas[m], taken[m], m) for m in adatas}
    spaces = {"embedding": use_rep} | ({} if permuted_rep is None else {"permuted": permuted_rep})
    rng = np.random.default_rng(seed)
    half = {m: rng.integers(0, 2, len(code)) for m, code in codes.items()}

    def sums(m: str, rep: Any) -> list[ContextSums]:
        key = per_modality(rep, m, name="use_rep")
        array = representation(adatas[m], key, modality=m)
        return sums_by_part(
            array, codes[m], half[m], n_contexts=len(names), n_parts=2,
            name=source_name(key, m), nuisances=z[m],
        )  # fmt: skip

    found, profiles = {}, {}
    for name, rep in spaces.items():
        halves = {m: sums(m, rep) for m in adatas}
        whole = {m: added(parts).moments() for m, parts in halves.items()}
        here = chosen & np.logical_and.reduce([each.counts > 0 for each in whole.values()])
        if here.sum() < 3:
            raise ValueError(
                f"{int(here.sum())} contexts by {by!r} have cells of both modalities"
                + ("" if contexts is None else " and are among `contexts`")
                + "; at least three are needed to compare."
            )
        widths = [each.means.shape[1] for each in whole.values()]
        if widths[0] != widths[1]:
            raise ValueError(
                f"the space has {widths[0]} dimensions in {first!r} and {widths[1]} in {second!r}: "
                "cosines need one shared space."
            )
        means = [each.profiles[here] - _middle(whole) for each in whole.values()]
        found[name], profiles[name] = align(*means), (names[here], means)
        if name == "embedding":
            found |= {
                f"halves of {m}": halves_of
                for m in adatas
                if (halves_of := _halves(halves[m], chosen)) is not None
            }
    blocks = labels_of_contexts(adatas, codes, names, key=target_key, name="target_key")
    table = pd.DataFrame(
        [_row(a, _own(blocks, names, profiles.get(n)), k, n_boot, seed) for n, a in found.items()],
        index=pd.Index(found, name="space"),
    )
    table["pvalue"] = np.nan
    for name, (labels, means) in profiles.items():
        here = None if blocks is None else blocks[names.get_indexer(labels)]
        table.loc[name, "pvalue"] = _pvalue(found[name], means, here, n_draws, seed)
    mdata.uns[key_added] = {
        "table": table.reset_index(),
        "params": {"by": as_json(by), "k": k, "n_boot": n_boot, "seed": seed},
        **{
            f"cosines_{name}": {"own": found[name].own, "other": found[name].other}
            for name in profiles
        },
    }
    return table


def _chosen(
    names: pd.Index, contexts: Sequence[str] | None, by: str | list[str]
) -> NDArray[np.bool_]:
    if contexts is None:
        return np.ones(len(names), bool)
    wanted = label_list(contexts)
    for label in wanted:
        if label not in names:
            raise missing_key(label, list(names), what=f"the contexts by {by!r}")
    return names.isin(wanted)


def _middle(whole: Mapping[str, Any]) -> NDArray[np.float64]:
    """Origin of the cosines: half way between the modalities' means, as the space has it.

    Each modality for itself would hide that two clouds lie apart; none at all would let a common
    offset make every cosine large.
    """
    return np.mean([each.offset for each in whole.values()], axis=0)


def _halves(parts: list[ContextSums], chosen: NDArray[np.bool_]) -> Alignment | None:
    """Two halves of one modality's cells, or None where fewer than three contexts have both."""
    moments = [part.moments() for part in parts]
    here = chosen & (moments[0].counts > 0) & (moments[1].counts > 0)
    if here.sum() < 3:
        return None
    return align(*(each.means[here] for each in moments))


def _own(blocks: NDArray | None, names: pd.Index, profile: tuple | None) -> NDArray | None:
    """Blocks of the contexts of a profile."""
    if blocks is None or profile is None:
        return None
    return blocks[names.get_indexer(profile[0])]


def _row(
    found: Alignment, blocks: NDArray | None, k: int, n_boot: int, seed: int
) -> dict[str, float]:
    per_context = {
        "gap": found.own - found.other,
        "foscttm": found.closer.mean(axis=0),
        "mrr": (1 / found.place).mean(axis=0),
        f"top{k}": (found.place <= k).mean(axis=0),
    }
    row: dict[str, float] = {}
    block = align_blocks(found, blocks)
    drawn = draw_nodes(int(block.max()) + 1, n_boot, seed)[block] if n_boot else None
    for name, values in per_context.items():
        row[name] = float(values.mean())
        if drawn is not None:
            row[f"{name}_low"], row[f"{name}_high"] = interval(weighted_means(values, drawn))
    return row | {"n_contexts": len(found.own)}


def _pvalue(
    found: Alignment, means: list[NDArray], blocks: NDArray | None, n_draws: int, seed: int
) -> float:
    n = len(means[0])
    rows, columns = closer_of_all(*means)
    observed = found.closer.mean() + 1e-9
    orders = permuted_orders(np.ones(n, bool), blocks, n_draws=n_draws, seed=seed)
    here = np.arange(n)
    as_good = sum((rows[here, o] + columns[here, o]).mean() / 2 <= observed for o in orders)
    return float((as_good + 1) / (n_draws + 1))
