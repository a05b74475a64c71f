"""Files from elsewhere: found locally, or fetched once, with a version and a checksum."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cellfuse._errors import listing

__all__ = ["Remote", "cache_folder", "locate", "path_needed"]

logger = logging.getLogger("cellfuse")


@dataclass(frozen=True)
class Remote:
    """A file of one version.

    Parameters
    ----------
    name
        Its name, also in the cache.
    url
        Where this version lies.
    licence
        Under which its source gives it away.
    checksum
        ``"sha256:..."`` or ``"md5:..."``. None: none is known, and the file is fetched
        only with the checksum that the user gives.
    measured
        Without a published checksum: it is measured at the first fetch, kept beside the file, and
        holds for whatever is fetched later.
    """

    name: str
    url: str
    licence: str
    checksum: str | None = None
    measured: bool = False


def cache_folder() -> Path:
    """The user's cache of this library (pooch's ``os_cache``)."""
    import pooch

    return Path(pooch.os_cache("cellfuse"))


def locate(
    remote: Remote,
    path: str | Path | None = None,
    *,
    checksum: str | Mapping[str, str] | None = None,
) -> Path:
    """Path of the file: the user's own, the one in the cache, or a new download.

    Parameters
    ----------
    remote
        The file.
    path
        The user's own copy, taken as it is (but held against `checksum` where one is given).
    checksum
        ``"sha256:..."`` or ``"md5:..."``, or a dict of them by file name, in place of the known
        one.

    Raises
    ------
    FileNotFoundError
        There is no file at `path`; or none is in the cache, and a checksum is neither known nor
        measured.
    ConnectionError
        The download failed; the text names the file and the place for it.
    ValueError
        The file is not the one that was asked for.
    """
    given = checksum.get(remote.name) if isinstance(checksum, Mapping) else checksum
    if path is not None:
        own = Path(path)
        if not own.is_file():
            raise FileNotFoundError(
                f"there is no file {str(own)!r}. {_source(remote)} lies at {remote.url}."
            )
        if given is not None:
            _verify(own, given)
        return own
    known = given or remote.checksum
    if known is None and remote.measured:
        return _fetch_measured(remote)
    if known is None:
        raise FileNotFoundError(
            f"{_source(remote)} is not fetched by itself: no checksum of it is known here. "
            f"Fetch {remote.url} and pass `path`, or pass `checksum={{{remote.name!r}: "
            "'sha256:...'}` of the file that you trust."
        )
    return _fetch(remote, _split(known)[0] + ":" + _split(known)[1])


def path_needed(what: str, *, why: str, where: str, layout: str) -> FileNotFoundError:
    """Build the error of a data set that is never fetched here."""
    return FileNotFoundError(
        f"{what} is not fetched by this function: {why}. Get it from {where}, and pass `path`: "
        f"{layout}."
    )


def _source(remote: Remote) -> str:
    return f"{remote.name!r} ({remote.licence})"


def _split(checksum: str) -> tuple[str, str]:
    kind, _, digits = checksum.rpartition(":")
    kind = kind or "sha256"
    if kind not in hashlib.algorithms_available or not digits:
        raise ValueError(f"expected a checksum such as 'sha256:12ab...', found {checksum!r}.")
    return kind, digits.lower()


def _verify(path: Path, checksum: str) -> None:
    kind, expected = _split(checksum)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != expected:
        raise ValueError(
            f"{str(path)!r} is not the file that was asked for, or is damaged: its {kind} is "
            f"{found}, expected {expected}."
        )


def _fetch_measured(remote: Remote) -> Path:
    """Trust the first fetch, and hold later ones against it."""
    kept = cache_folder() / f"{remote.name}.sha256"
    if kept.is_file():
        return _fetch(remote, f"sha256:{kept.read_text(encoding='ascii').strip()}")
    found = _fetch(remote, None)
    with found.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    beside = kept.with_name(f".{kept.name}-{os.getpid()}")
    beside.write_text(f"{digest}\n", encoding="ascii")
    beside.replace(kept)
    logger.info(
        "%s from %s: no checksum is published; its sha256, %s, is kept in %r and holds from now.",
        _source(remote),
        remote.url,
        digest,
        str(kept),
    )
    return found


def _fetch(remote: Remote, checksum: str | None) -> Path:
    import pooch

    folder = cache_folder()
    place = folder / remote.name
    try:
        return Path(
            pooch.retrieve(
                remote.url, known_hash=checksum, fname=remote.name, path=folder, progressbar=False
            )
        )
    except ValueError as error:  # pooch has removed what it fetched
        raise ValueError(
            f"{remote.url} no longer gives the file that this version of cellfuse knows "
            f"({error}). Pass your own copy as `path`."
        ) from error
    except OSError as error:
        left = listing(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "nothing"
        raise ConnectionError(
            f"{_source(remote)} could not be fetched ({error}). On a machine with internet, fetch "
            f"{remote.url} and put it to {str(place)!r} (there is {left}), or anywhere and pass "
            "its place as `path`."
        ) from error
