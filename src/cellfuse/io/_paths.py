"""What readers take for a path."""

from __future__ import annotations

import os

__all__ = ["PathLike"]

PathLike = str | os.PathLike[str]
