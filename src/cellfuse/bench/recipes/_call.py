"""What all recipes share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["Options", "call"]

Options: TypeAlias = Mapping[str, Any]


def call(
    methods: dict[str, Any], metrics: dict[str, Any], design: Options, **more: Any
) -> dict[str, Any]:
    """Arguments of one call, those of the screen last: they may be any of it."""
    return {"methods": methods, "metrics": metrics, **more, **design}
