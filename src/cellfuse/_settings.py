"""How much cellfuse says: `cf.settings.verbosity`."""

from __future__ import annotations

import logging
import sys
from typing import Any

from cellfuse._errors import listing

__all__ = ["LEVELS", "Settings", "settings"]

#: Names of the levels, in scanpy's order.
LEVELS = ("error", "warning", "info", "debug")
LOGGER = logging.getLogger("cellfuse")


class _ToStandardError(logging.StreamHandler):
    """Writes where standard error is now: a notebook and a test put another one there."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


class Settings:
    """Settings of the session: ``cellfuse.settings``. None of them changes a number.

    ``verbosity`` is one of

    - ``"error"`` (0): nothing but errors, no progress;
    - ``"warning"`` (1, the default): progress of trainings, and warnings as Python shows them;
    - ``"info"`` (2): besides, one line for each verb: what came out;
    - ``"debug"`` (3): besides, what Lightning and other libraries say of themselves.

    Examples
    --------
    >>> import cellfuse as cf
    >>> cf.settings.verbosity
    'warning'
    >>> cf.settings.verbosity = "info"
    >>> cf.settings.verbosity = 1  # a number, as in scanpy
    """

    def __init__(self) -> None:
        self._verbosity = "warning"
        self._handler = _ToStandardError()

    @property
    def verbosity(self) -> str:
        """How much is said: ``"error"``, ``"warning"``, ``"info"`` or ``"debug"``."""
        return self._verbosity

    @verbosity.setter
    def verbosity(self, value: str | int) -> None:
        name = LEVELS[value] if isinstance(value, int) and 0 <= value < len(LEVELS) else value
        if name not in LEVELS:
            raise ValueError(
                f"verbosity={value!r}: expected one of {listing(LEVELS)}, or a number, 0 to 3."
            )
        self._verbosity = str(name)
        LOGGER.setLevel(getattr(logging, self._verbosity.upper()))
        if self.at_least("info"):
            LOGGER.addHandler(self._handler)
        else:
            LOGGER.removeHandler(self._handler)

    def at_least(self, level: str) -> bool:
        """Whether so much is said."""
        return LEVELS.index(self._verbosity) >= LEVELS.index(level)

    def __repr__(self) -> str:
        return f"cellfuse.settings: verbosity={self._verbosity!r}"


settings = Settings()
