"""Brings decoupler, an optional package, without the settings that its import changes."""

from __future__ import annotations

from types import ModuleType

__all__ = ["import_decoupler"]


def import_decoupler() -> ModuleType:
    """Import decoupler; the user's figures look afterwards as they did before.

    Raises
    ------
    ImportError
        It is not installed.

    Notes
    -----
    What decoupler draws with sets matplotlib's legends anew when it is imported.
    """
    import matplotlib

    try:
        with matplotlib.rc_context():
            import decoupler
    except ImportError as error:
        raise ImportError(
            "gene sets are tested by decoupler, which is not installed: "
            "`pip install 'cellfuse[enrichment]'`."
        ) from error
    return decoupler  # type: ignore[no-any-return]
