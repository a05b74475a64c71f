"""A MuData is made, written and read alike by mudata 0.3 and 0.4: columns stay where they are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mudata
from anndata import AnnData
from mudata import MuData

__all__ = ["columns_stay", "make_mudata"]


def columns_stay() -> AbstractContextManager[Any]:
    """Keep mudata 0.3 from copying the modalities' columns; 0.4 has neither habit nor option."""
    options = getattr(mudata, "set_options", None)
    return nullcontext() if options is None else options(pull_on_update=False)


def make_mudata(parts: Mapping[str, AnnData]) -> MuData:
    """Make a MuData of `parts` without copying them."""
    with columns_stay():
        return MuData(dict(parts))
