"""Where results go: never into a folder that is something else."""

from __future__ import annotations

from pathlib import Path

__all__ = ["GO_ON", "MARK", "check_folder"]

#: File by which a results folder is known.
MARK = "benchmark.json"
#: What to do where the disk is full.
GO_ON = "What is done is kept: make room, and the same call goes on after it."


def check_folder(folder: str | Path) -> Path:
    """Refuse a folder whose content would be lost, or mixed with results.

    Raises
    ------
    FileExistsError
        It holds something else than results, or the folder you are in.
    """
    target = Path(folder)
    if Path.cwd().is_relative_to(target.resolve()):
        raise FileExistsError(
            f"{str(folder)!r} is the folder you are in, or holds it; name a new one (--out)."
        )
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{str(target)!r} is a file; name a folder (--out).")
    if target.is_dir() and any(target.iterdir()):
        if not (target / MARK).is_file():
            others = sorted(path.name for path in target.iterdir())
            raise FileExistsError(
                f"the folder {str(target)!r} holds something else than results "
                f"({', '.join(others[:3])}); choose another (--out)."
            )
    return target
