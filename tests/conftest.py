"""Fixtures of the screens in `screens.py`."""

from __future__ import annotations

from collections.abc import Callable

import mudata as md
import pytest
from screens import SHORT, TINY, make_screen


@pytest.fixture
def screen() -> Callable[..., md.MuData]:
    """Builder of small screens."""
    return make_screen


@pytest.fixture
def tiny() -> dict[str, int]:
    """Sizes of a tiny PETRI."""
    return dict(TINY)


@pytest.fixture
def short() -> dict[str, object]:
    """Arguments of a short training."""
    return dict(SHORT)
