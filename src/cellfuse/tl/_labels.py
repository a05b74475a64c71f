"""Labels of profiles: the controls among them, and their order by name."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import label_list
from cellfuse._errors import missing_key

__all__ = ["by_name", "control_rows"]


def control_rows(names: NDArray, control: str | list[str]) -> NDArray[np.bool_]:
    """Mask of the profiles with a control label; an absent label is an error."""
    labels = label_list(control)
    for label in labels:
        if label not in names:
            raise missing_key(label, np.unique(names).tolist(), what="the profiles' genes")
    return np.isin(names, labels)


def by_name(adata: AnnData, rows: NDArray) -> NDArray:
    """Order rows by their names, so that no draw hangs on the order in which they came."""
    return rows[np.argsort(adata.obs_names.to_numpy(str)[rows], kind="stable")]
