"""Pairs of genes that are known to belong together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cellfuse._errors import listing, missing_key
from cellfuse.datasets._fetch import Remote, locate
from cellfuse.io._tables import read_table

__all__ = ["humap", "pairs_of", "reactome", "stringdb", "undirected"]

logger = logging.getLogger("cellfuse")

STRING_VERSION = "12.0"
STRING_URL = "https://stringdb-downloads.org/download"
#: Pairs as the EFAAR benchmark lists them, at a fixed commit of its repository.
EFAAR = (
    "https://raw.githubusercontent.com/recursionpharma/EFAAR_benchmarking/"
    "104143a065e6208e738e88df4ac65a0c423b8271/efaar_benchmarking/benchmark_annotations"
)
REACTOME = Remote(
    "Reactome.txt",
    f"{EFAAR}/Reactome.txt",
    "CC0 1.0",
    "sha256:ed3cd0fc32d2fe3510f167e9df39668bc9637348d78787615d3f970b2b862e70",
)
HUMAP = Remote(
    "HuMAP.txt",
    f"{EFAAR}/HuMAP.txt",
    "CC BY 4.0",
    "sha256:6d08074df77f1a7274e754bc6e5e29aa438004bec0a13cbfb934c2c81328f3c4",
)


def stringdb(
    *,
    physical: bool = True,
    species: int = 9606,
    score: float | None = 0.95,
    path: str | Path | None = None,
    checksum: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """STRING: pairs of genes whose proteins interact (version 12.0, CC BY 4.0).

    Two files are needed, the links and the names of the proteins, some 60 MB for human. They are
    fetched once, from stringdb-downloads.org. STRING publishes no checksums: they are measured at
    the first fetch, kept beside the files in the cache, and hold for whatever is fetched later.

    Parameters
    ----------
    physical
        The physical network (PETRI, 3.5), where proteins share a complex; False: the functional
        one.
    species
        NCBI taxonomy number; 9606 is human.
    score
        Combined score, from 0 to 1 (the files hold it times 1,000), above which a pair is taken; a
        pair at exactly 0.95 is not, here as in :func:`cellfuse.tl.edge_classification`. PETRI (3.5)
        names the physical network and no cut; 0.95 is this library's. None: all that are listed,
        which is what ``edge_classification`` wants: it takes the strong pairs for positives and
        leaves the weak ones out, whereas pairs that were cut off here count as negatives there.
    path
        Folder with both files, the file of links with that of names beside it, or a table with
        ``source``, ``target`` and perhaps ``score`` (csv, plain or compressed).
    checksum
        Checksums by file name, such as ``{"9606.protein.info.v12.0.txt.gz": "sha256:..."}``, in
        place of the measured ones.

    Returns
    -------
    Data frame with ``source``, ``target`` (gene symbols) and, where there is one, ``score``: each
    pair once, in alphabetical order within the pair, without pairs of a gene with itself.

    Raises
    ------
    FileNotFoundError
        A file is missing in `path`; the text says which, and where it is to be had.
    ConnectionError
        A download failed; the text names the file and the place for it.
    ValueError
        The file is no network, is another one than at the first fetch, or has no scores to hold
        against `score`.

    Examples
    --------
    >>> import cellfuse as cf
    >>> edges = cf.datasets.stringdb(path="downloads", score=None)  # doctest: +SKIP
    >>> cf.tl.edge_classification(genes, edges)  # doctest: +SKIP
    """
    if score is not None and not 0 <= score <= 1:
        raise ValueError(f"expected a score from 0 to 1 (STRING's by 1,000), found {score}.")
    links, info = _string_files(physical, species)
    own = None if path is None else Path(path)
    if own is not None and not own.exists():
        raise FileNotFoundError(
            f"there is no file or folder {str(own)!r}; it should hold {links.name!r} and "
            f"{info.name!r}, which lie at {links.url} and {info.url}."
        )
    if own is not None and own.is_file() and ".links." not in own.name:
        return pairs_of(own, "StringDB", score=score)
    folder = own if own is None or own.is_dir() else own.parent
    found = []
    for remote in (links, info):
        here = None if folder is None else folder / remote.name
        if own is not None and own.is_file() and remote is links:
            here = own
        found.append(locate(remote, here, checksum=checksum))
    return _string_table(found[0], found[1], score)


def reactome(*, path: str | Path | None = None) -> pd.DataFrame:
    """Reactome: pairs of genes that share a reaction, as EFAAR lists them (CC0 1.0).

    Parameters
    ----------
    path
        Your own copy: a table with ``source`` and ``target`` (or EFAAR's ``entity1``,
        ``entity2``). None: fetched once, of a fixed version and checksum, into the user's cache.

    Returns
    -------
    Data frame with ``source`` and ``target``, each pair once.

    Raises
    ------
    ConnectionError
        The download failed; the text names the file and the place for it.

    Examples
    --------
    >>> import cellfuse as cf
    >>> pairs = cf.datasets.reactome()  # doctest: +SKIP
    >>> cf.tl.relationship_recall(genes, pairs)  # doctest: +SKIP
    """
    return pairs_of(locate(REACTOME, path), "Reactome")


def humap(*, path: str | Path | None = None) -> pd.DataFrame:
    """hu.MAP 2.0: pairs of genes that share a complex, as EFAAR lists them (CC BY 4.0).

    Parameters
    ----------
    path
        As in :func:`reactome`.

    Returns
    -------
    Data frame with ``source`` and ``target``, each pair once.

    Raises
    ------
    ConnectionError
        The download failed; the text names the file and the place for it.

    Examples
    --------
    >>> import cellfuse as cf
    >>> pairs = cf.datasets.humap()  # doctest: +SKIP
    """
    return pairs_of(locate(HUMAP, path), "HuMAP")


def _string_files(physical: bool, species: int) -> tuple[Remote, Remote]:
    def remote(kind: str) -> Remote:
        release = f"{kind}.v{STRING_VERSION}"
        name = f"{species}.{release}.txt.gz"
        return Remote(name, f"{STRING_URL}/{release}/{name}", "CC BY 4.0", measured=True)

    links = "protein.physical.links" if physical else "protein.links"
    return remote(links), remote("protein.info")


def _string_table(links: Path, info: Path, score: float | None) -> pd.DataFrame:
    table = read_table(links, sep=" ", numeric=lambda name: name == "combined_score", quoted=False)
    _need(table, ["protein1", "protein2", "combined_score"], links)
    names = read_table(info, sep="\t", quoted=False)
    if "preferred_name" not in names.columns:
        raise missing_key("preferred_name", list(names.columns), what=f"the columns of {info.name}")
    if score is not None:
        table = table[table["combined_score"] > round(1000 * score)]
    symbols = names.set_index(names.columns[0])["preferred_name"]
    edges = pd.DataFrame(
        {
            "source": table["protein1"].map(symbols),
            "target": table["protein2"].map(symbols),
            "score": table["combined_score"] / 1000,
        }
    )
    lost = edges["source"].isna() | edges["target"].isna()
    if lost.all() and len(edges):
        raise ValueError(
            f"no protein of {links.name} is named in {info.name}; are both of one species?"
        )
    if lost.any():
        logger.info("stringdb: %d links of proteins without a name are left out.", lost.sum())
    return undirected(edges[~lost], "StringDB")


def pairs_of(path: Path, name: str, *, score: float | None = None) -> pd.DataFrame:
    """Read a table of pairs under any of the names that it is handed out with."""
    table = read_table(path, numeric=lambda column: column == "score")
    table = table.rename(columns={"entity1": "source", "entity2": "target"})
    _need(table, ["source", "target"], path)
    kept = ["source", "target"] + (["score"] if "score" in table.columns else [])
    edges = table[kept].copy()
    if "score" in edges.columns and not pd.api.types.is_numeric_dtype(edges["score"]):
        raise ValueError(f"the scores of {str(path)!r} are no numbers: {listing(edges['score'])}.")
    if score is not None:
        if "score" not in edges.columns:
            raise ValueError(
                f"{str(path)!r} lists pairs without a score, so that score={score} cannot be "
                "asked of them; pass score=None to take them all."
            )
        edges = edges[edges["score"] > score]
    named = (edges["source"] != "") & (edges["target"] != "")
    return undirected(edges[named], name)


def undirected(edges: pd.DataFrame, name: str) -> pd.DataFrame:
    """Each pair once, whichever way round and however often it was listed; the best score."""
    ends = np.sort(edges[["source", "target"]].to_numpy(dtype=object).astype(str), axis=1)
    out = edges.assign(source=ends[:, 0], target=ends[:, 1])
    out = out[out["source"] != out["target"]]
    if "score" in out.columns:
        out = out.sort_values("score", ascending=False, kind="stable")
    out = out.drop_duplicates(["source", "target"]).sort_values(["source", "target"])
    logger.info("%s: %d pairs of %d genes.", name, len(out), len(pd.unique(ends.ravel())))
    return out.reset_index(drop=True)


def _need(table: pd.DataFrame, columns: list[str], path: Path) -> None:
    lacking = [column for column in columns if column not in table.columns]
    if lacking:
        raise ValueError(
            f"{str(path)!r} is no table of pairs: it lacks {listing(lacking)}; its columns are "
            f"{listing(table.columns)}."
        )
