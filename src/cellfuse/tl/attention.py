"""Whether one modality attends to the other (PETRI, 4.2, Fig. 4d)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfuse._access import Data
from cellfuse.tl._concepts import keep_table

__all__ = ["attention_blocks"]


def attention_blocks(
    attention: Any, *, data: Data | None = None, key_added: str = "attention_blocks"
) -> pd.DataFrame:
    """Measure the blocks of attention in which one modality asks and the other answers.

    For each head the standard deviation of every row within a cross-modal block, averaged over
    rows and documents (PETRI, Fig. 4d): a head that looks at the other modality's tokens all
    alike, or not at all, has flat rows.

    Parameters
    ----------
    attention
        What :meth:`cellfuse.PETRI.attention` gives; or several by name, such as
        ``{"PETRI": ..., "permuted": ...}``.
    data
        Data in whose ``.uns`` the result is kept, such as the MuData of training; None keeps it
        nowhere, since maps of attention do not know their data.
    key_added
        Key of ``data.uns``.

    Returns
    -------
    One row per head and block: ``model``, ``layer`` (from 1), ``head``, ``block`` (such as
    ``"image -> rna"``: images ask), ``spread`` (mean standard deviation of the rows, times the
    number of tokens, so that 0 is flat and models of other set sizes compare) and ``share`` (of
    the attention that goes to the other modality; its share of the tokens where heads do not tell
    them apart). With several models ``attrs["tests"]`` compares the spread of each with that of
    the last, by Mann-Whitney over heads: a row per block, ``model``, ``against``, ``auc``,
    ``pvalue``. Heads are not independent of one another: take a small p as a description.
    ``uns[key_added]`` keeps it as ``"table"``, the tests as ``"tests"`` (data frame), and
    ``"params"``.

    Raises
    ------
    ValueError
        No attention, or of fewer than two modalities.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> import cellfuse as cf
    >>> maps = np.full((1, 1, 1, 4, 4), 0.25)
    >>> flat = SimpleNamespace(maps=maps, lengths={"image": 2, "rna": 2})
    >>> cf.tl.attention_blocks(flat)[["block", "spread", "share"]].values.tolist()
    [['image -> rna', 0.0, 0.5], ['rna -> image', 0.0, 0.5]]
    """
    named = dict(attention) if isinstance(attention, Mapping) else {"": attention}
    if not named:
        raise ValueError("`attention` is empty; give what `model.attention()` returned.")
    table = pd.concat([_blocks(one, str(name)) for name, one in named.items()], ignore_index=True)
    if len(named) > 1:
        table.attrs["tests"] = _tests(table, [str(name) for name in named])
    if data is not None:
        kept = {"table": table}
        if len(named) > 1:
            kept["tests"] = pd.DataFrame(table.attrs["tests"])
        keep_table(data, key_added, kept, {"models": [str(name) for name in named]})
    return table


def _blocks(one: Any, name: str) -> pd.DataFrame:
    lengths = dict(one.lengths)
    if len(lengths) < 2:
        raise ValueError("the attention is of one modality: it has no cross-modal block.")
    ends = np.cumsum([0, *lengths.values()])
    place = {role: slice(a, b) for role, a, b in zip(lengths, ends[:-1], ends[1:], strict=True)}
    rows = []
    for asks in lengths:
        for answers in lengths:
            if asks == answers:
                continue
            # (documents, layers, heads, rows, columns)
            block: NDArray = one.maps[..., place[asks], place[answers]]
            spread = block.std(axis=-1).mean(axis=(0, 3)) * ends[-1]
            share = block.sum(axis=-1).mean(axis=(0, 3))
            for layer in range(spread.shape[0]):
                for head in range(spread.shape[1]):
                    rows.append(
                        {
                            "model": name,
                            "layer": layer + 1,
                            "head": head,
                            "block": f"{asks} -> {answers}",
                            "spread": float(spread[layer, head]),
                            "share": float(share[layer, head]),
                        }
                    )
    return pd.DataFrame(rows)


def _tests(table: pd.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    from scipy.stats import mannwhitneyu

    found = []
    for block, part in table.groupby("block", sort=False):
        last = part.loc[part["model"] == names[-1], "spread"].to_numpy()
        for name in names[:-1]:
            ours = part.loc[part["model"] == name, "spread"].to_numpy()
            test = mannwhitneyu(ours, last)
            found.append(
                {
                    "block": block,
                    "model": name,
                    "against": names[-1],
                    "auc": float(test.statistic / (len(ours) * len(last))),
                    "pvalue": float(test.pvalue),
                }
            )
    return found
