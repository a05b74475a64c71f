"""Writes go beside, then take the place of what was there."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["put_in_place"]


def put_in_place(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`, which comes back if that fails."""
    old = new.with_name(f"{new.name}-old")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
