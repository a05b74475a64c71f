"""What all tests and doctests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close what an example has drawn: matplotlib warns at twenty open figures."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def settings_stay() -> Iterator[None]:
    """Fail what leaves matplotlib's settings changed: the user's next figure would look anew."""
    before = _figure_settings()
    yield
    after = _figure_settings()
    changed = {key for key in before if before[key] != after[key]}
    assert not changed, f"settings of figures were changed and left so: {sorted(changed)}"


def _figure_settings() -> dict[str, object]:
    if "matplotlib" not in sys.modules:
        return {}
    settings = dict.copy(sys.modules["matplotlib"].rcParams)
    settings.pop("backend")  # is found when the first figure is drawn
    return settings
