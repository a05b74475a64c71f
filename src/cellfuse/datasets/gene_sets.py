"""Genes that belong together by annotation: complexes, signalling, pathways."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import pandas as pd

from cellfuse._errors import listing
from cellfuse.datasets._fetch import Remote, locate, path_needed
from cellfuse.datasets.networks import EFAAR, pairs_of, undirected
from cellfuse.io._layout import column_names
from cellfuse.io._tables import read_table
from cellfuse.io._text import read_text

__all__ = ["corum", "pathways", "signor"]

logger = logging.getLogger("cellfuse")

CORUM = Remote("CORUM.txt", f"{EFAAR}/CORUM.txt", "CC BY-NC 4.0")
SIGNOR = Remote("SIGNOR.txt", f"{EFAAR}/SIGNOR.txt", "CC BY-NC 4.0")
#: Columns of CORUM's own files, as releases up to 4 and from 5 on call them.
SUBUNITS = ("subunits(Gene name)", "subunits_gene_name")
ORGANISM = ("Organism", "organism")


def corum(
    *,
    path: str | Path | None = None,
    organism: str = "Human",
    checksum: str | Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """CORUM: pairs of genes that are subunits of one complex.

    Parameters
    ----------
    path
        Your own copy: CORUM's file of complexes (``allComplexes.txt``, ``coreComplexes.txt``,
        ``corum_allComplexes.txt``; as they come, zipped too), every pair of subunits of a complex
        is taken; or a table of pairs with ``source`` and ``target`` (or EFAAR's ``entity1``,
        ``entity2``).
    organism
        Complexes of which organism, in CORUM's words; of a table of pairs all are taken.
    checksum
        Of EFAAR's table, which is fetched with it alone: none is known here.

    Returns
    -------
    Data frame with ``source`` and ``target``, each pair once.

    Raises
    ------
    FileNotFoundError
        There is no file; the text says where it is to be had.
    ValueError
        The file is neither, or holds no complex of the organism.

    Examples
    --------
    >>> import cellfuse as cf
    >>> pairs = cf.datasets.corum(path="allComplexes.txt.zip")  # doctest: +SKIP
    >>> cf.tl.relationship_recall(genes, {"CORUM": pairs})  # doctest: +SKIP
    """
    file = locate(CORUM, path, checksum=checksum)
    header = column_names(file)
    genes = next((name for name in SUBUNITS if name in header), None)
    if genes is None:
        return pairs_of(file, "CORUM")
    table = read_table(file, sep="\t", quoted=False)
    kind = next((name for name in ORGANISM if name in table.columns), None)
    if kind is not None:
        own = table[kind].map(_bare).str.lower() == organism.lower()
        if not own.any():
            raise ValueError(
                f"{str(file)!r} holds no complex of {organism!r}; its organisms are "
                f"{listing(sorted(set(table[kind].map(_bare))))}."
            )
        table = table[own]
    pairs = {
        pair
        for text in table[genes].map(_bare)
        for pair in combinations(sorted(_subunits(text)), 2)
    }
    return undirected(pd.DataFrame(sorted(pairs), columns=["source", "target"]), "CORUM")


def signor(
    *,
    path: str | Path | None = None,
    checksum: str | Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """SIGNOR: pairs of genes, one of whose proteins acts on the other's.

    Parameters
    ----------
    path
        Your own copy: SIGNOR's table of interactions (tsv with ``ENTITYA``, ``TYPEA``,
        ``ENTITYB``, ``TYPEB``), of which those between two proteins are taken; or a table of pairs
        with ``source`` and ``target`` (or EFAAR's ``entity1``, ``entity2``).
    checksum
        Of EFAAR's table, which is fetched with it alone: none is known here.

    Returns
    -------
    Data frame with ``source`` and ``target``, each pair once, without direction and sign.

    Raises
    ------
    FileNotFoundError
        There is no file; the text says where it is to be had.
    ValueError
        The file is neither.

    Examples
    --------
    >>> import cellfuse as cf
    >>> pairs = cf.datasets.signor(path="all_data.tsv")  # doctest: +SKIP
    """
    file = locate(SIGNOR, path, checksum=checksum)
    if "ENTITYA" not in column_names(file):
        return pairs_of(file, "SIGNOR")
    try:
        table = read_table(file, sep="\t", quoted=False)
    except ValueError:  # sentences in quotes, with line ends in them
        table = read_table(file, sep="\t")
    lacking = [c for c in ("ENTITYA", "TYPEA", "ENTITYB", "TYPEB") if c not in table.columns]
    if lacking:
        raise ValueError(
            f"{str(file)!r} is no table of SIGNOR: it lacks {listing(lacking)}; its columns are "
            f"{listing(table.columns)}."
        )
    table = table[["ENTITYA", "TYPEA", "ENTITYB", "TYPEB"]].map(_bare)
    proteins = table[(table["TYPEA"] == "protein") & (table["TYPEB"] == "protein")]
    edges = proteins.rename(columns={"ENTITYA": "source", "ENTITYB": "target"})
    named = (edges["source"] != "") & (edges["target"] != "")
    return undirected(edges.loc[named, ["source", "target"]], "SIGNOR")


def pathways(*, path: str | Path | None = None, min_genes: int = 1) -> pd.DataFrame:
    r"""Pathways and their genes, of a GMT file (Reactome, MSigDB, WikiPathways).

    Parameters
    ----------
    path
        GMT file, plain, gzip or zip: a line for each pathway, with its name, a description and its
        genes. It is not fetched: such files change every few months.
    min_genes
        Leave out pathways of fewer genes.

    Returns
    -------
    Data frame with one row per pathway and gene: ``pathway``, ``gene`` (as the file spells them)
    and ``description``. A gene may stand in several pathways:
    ``table.groupby("gene")["pathway"].agg("|".join)`` gives one label for each.

    Raises
    ------
    FileNotFoundError
        `path` is not given, or there is no such file.
    ValueError
        A line has no gene, or a pathway stands twice.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import cellfuse as cf
    >>> file = Path(tempfile.mkdtemp()) / "small.gmt"
    >>> _ = file.write_text("Apoptosis\tR-HSA-109581\tTP53\tBAX\nCell cycle\t\tTP53\n")
    >>> cf.datasets.pathways(path=file)[["pathway", "gene"]].values.tolist()
    [['Apoptosis', 'TP53'], ['Apoptosis', 'BAX'], ['Cell cycle', 'TP53']]
    """
    if path is None:
        raise path_needed(
            "A file of pathways",
            why="such files change every few months",
            where="https://reactome.org/download/current/ReactomePathways.gmt.zip, for one",
            layout="a GMT file",
        )
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(file)!r}.")
    rows: list[tuple[str, str, str]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_text(file, "a GMT").split("\n"), start=1):
        if not line.strip():
            continue
        name, *rest = (_bare(part) for part in line.split("\t"))
        genes = list(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name or not genes:
            raise ValueError(
                f"line {number} of {str(file)!r} is no pathway: expected a name, a description and "
                f"genes with tabs between them, found {line[:60]!r}."
            )
        if name in seen:
            raise ValueError(
                f"{str(file)!r} names the pathway {name!r} twice, in lines {seen[name]} and "
                f"{number}."
            )
        seen[name] = number
        if len(genes) >= min_genes:
            rows += [(name, gene, rest[0]) for gene in genes]
    table = pd.DataFrame(rows, columns=["pathway", "gene", "description"])
    n_pathways, n_genes = table["pathway"].nunique(), table["gene"].nunique()
    logger.info("pathways: %d pathways of %d genes.", n_pathways, n_genes)
    return table


def _bare(text: str) -> str:
    return text.strip().strip('"').strip()


def _subunits(text: str) -> set[str]:
    """Genes of a complex; CORUM writes None for a subunit without one."""
    return {gene.strip() for gene in text.split(";")} - {"", "None"}
