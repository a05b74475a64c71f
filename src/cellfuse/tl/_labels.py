"""Labels of profiles: the controls among them, and their order by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import control_labels, label_list
from cellfuse._errors import missing_key

__all__ = ["apart_from_control", "by_name", "control_rows", "require_labels", "several_labels"]


def control_rows(names: NDArray, control: str | list[str]) -> NDArray[np.bool_]:
    """Mask of the profiles with a control label; an absent label is an error."""
    labels = control_labels(control)
    for label in labels:
        if label not in names:
            raise missing_key(label, np.unique(names).tolist(), what="the profiles' genes")
    return np.isin(names, labels)


def require_labels(labels: NDArray, rows: NDArray[np.bool_], key: str) -> None:
    """Refuse rows without a label, where a control may lack one and nobody else."""
    n_missing = int(pd.isna(labels[rows]).sum())
    if n_missing:
        raise ValueError(
            f"obs[{key!r}] is missing (NaN) for {n_missing} of {int(rows.sum())} cells that are no "
            "controls. Drop them or fill them in."
        )


def by_name(adata: AnnData, rows: NDArray) -> NDArray:
    """Order rows by their names, so that no draw hangs on the order in which they came."""
    return rows[np.argsort(adata.obs_names.to_numpy(str)[rows], kind="stable")]


def apart_from_control(labels: NDArray, sep: str | None, control: object) -> NDArray:
    """Labels without the control that stands beside another: ``A|ctrl`` is of A alone.

    Parameters
    ----------
    labels
        Texts, ``(n,)``; missing ones stay.
    sep
        What stands between two labels of a text; None: each is one label.
    control
        Labels of the controls, or None. A text of nothing else becomes the first of them it holds.
    """
    if sep is None or control is None or not sep:
        return labels
    controls = label_list(control)

    def others(text: object) -> object:
        if not isinstance(text, str) or sep not in text:
            return text
        parts = [part for part in map(str.strip, text.split(sep)) if part]
        kept = [part for part in parts if part not in controls]
        return text if len(kept) == len(parts) else sep.join(kept or parts[:1])

    codes, distinct = pd.factorize(np.asarray(labels, dtype=object), use_na_sentinel=False)
    return np.array([others(text) for text in distinct], dtype=object)[codes]


def several_labels(
    labels: pd.Series, sep: str, by: str | Sequence[str]
) -> tuple[NDArray, pd.Series]:
    """Rows and their single labels, where one text may hold several between `sep`.

    A label that stands twice in a text counts once, blanks around it do not count; a row without
    any label is in none of the groups.

    Raises
    ------
    ValueError
        An empty `sep`, several columns, or no text that holds any label.
    """
    if not sep:
        raise ValueError("sep='': expected what stands between two labels, such as '|'.")
    if not isinstance(by, str) and len(by) > 1:
        raise ValueError(f"`sep` splits the labels of one column; `by` names several: {list(by)}.")
    parts = [
        list(dict.fromkeys(part for part in map(str.strip, str(text).split(sep)) if part))
        for text in labels
    ]
    rows = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    if not len(rows):
        raise ValueError(f"none of the labels by {by!r} holds a name beside {sep!r}.")
    return rows, pd.Series([name for part in parts for name in part], dtype=object)
