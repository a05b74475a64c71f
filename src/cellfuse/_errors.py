"""Error texts: what was looked for, what was found, and the likely fix; warnings at the call."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

__all__ = ["MissingKeyError", "listing", "missing_key", "mixed_contexts", "warn_user"]

#: Frames of files in here are the library's own.
PACKAGE = str(Path(__file__).parent) + os.sep


class MissingKeyError(KeyError):
    """A `KeyError` whose text is printed as written (a plain one shows its `repr`)."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def listing(values: Iterable[object], limit: int = 8) -> str:
    """Join `values` for a message, cut after `limit` with the number left out."""
    shown = [repr(str(value)) for value in values]
    if not shown:
        return "none"
    rest = len(shown) - limit
    return ", ".join(shown[:limit]) + (f" and {rest} more" if rest > 0 else "")


def missing_key(
    key: object, available: Sequence[object], *, what: str, fix: str = ""
) -> MissingKeyError:
    """Build the error for a key that is not there.

    Parameters
    ----------
    key
        What the user asked for.
    available
        What there is.
    what
        What was searched, in the user's words, such as ``"obs of modality 'image'"``.
    fix
        One sentence with the likely mend; a close spelling is added by itself.
    """
    names = [str(name) for name in available]
    text = f"{str(key)!r} is not in {what}; found: {listing(names)}."
    plain = {name.casefold(): name for name in names}  # "dmso" is meant for "DMSO"
    close = get_close_matches(str(key).casefold(), list(plain), n=1, cutoff=0.6)
    if close:
        text += f" Did you mean {plain[close[0]]!r}?"
    if fix:
        text += f" {fix}"
    return MissingKeyError(text)


def mixed_contexts(key: str, contexts: Iterable[object], *, name: str, modality: str) -> ValueError:
    """What to raise where an obs column, given as the argument `name`, varies within contexts."""
    found = list(contexts)
    return ValueError(
        f"obs[{key!r}] varies within {len(found)} contexts of modality {modality!r} "
        f"({listing(found, 3)}); `{name}` needs a column that a context has one value of."
    )


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's call, however deep in the library the reason is found."""
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, category, stacklevel=depth)
