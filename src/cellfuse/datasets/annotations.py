"""What is known of compounds."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from cellfuse._errors import listing
from cellfuse.datasets._fetch import Remote, locate
from cellfuse.io._tables import read_table

__all__ = ["drug_targets"]

logger = logging.getLogger("cellfuse")

REPURPOSING_HUB = Remote(
    "repurposing_drugs_20200324.txt",
    "https://s3.amazonaws.com/data.clue.io/repurposing/downloads/repurposing_drugs_20200324.txt",
    "Drug Repurposing Hub, Broad Institute",
    "md5:b4b3233dad28d20a522c0200cc4123d1",
)


def drug_targets(*, path: str | Path | None = None, targets_only: bool = True) -> pd.DataFrame:
    """Drugs and their target genes, of the Drug Repurposing Hub (Corsello et al. 2017).

    Parameters
    ----------
    path
        Your own copy: the hub's drug table (tab separated, ``!`` before comments) or a csv with
        ``pert_iname`` and ``target``; what else it has (``smiles``, ``InChIKey``, ``broad_id``)
        is kept. None: the hub's table of 24 March 2020, which has no structures, fetched once and
        held against its checksum.
    targets_only
        Leave out drugs without a known target; False keeps each in one row, its target missing.

    Returns
    -------
    Data frame with one row per drug and target: ``drug``, ``target`` (gene symbol), and the other
    columns of the file (``moa``, ``clinical_phase``, ...).

    Raises
    ------
    ConnectionError
        The download failed; the text names the file and the place for it.
    ValueError
        The file is no table of drugs.

    Examples
    --------
    >>> import cellfuse as cf
    >>> cf.datasets.drug_targets()[["drug", "target"]].head(2)  # doctest: +SKIP
    """
    source = locate(REPURPOSING_HUB, path)
    table = read_table(source, comment="!", quoted=not _is_hubs_own(source))
    table = table.rename(columns={"pert_iname": "drug"})
    lacking = [column for column in ("drug", "target") if column not in table.columns]
    if lacking:
        raise ValueError(
            f"{str(source)!r} is no table of drugs: it lacks "
            f"{listing(['pert_iname' if c == 'drug' else c for c in lacking])}; its columns are "
            f"{listing(table.columns)}."
        )
    # Nothing is missing; "NA" and "nan" are names, of drugs and of genes.
    table["target"] = table["target"].str.split("|")
    out = table.explode("target", ignore_index=True)
    out["target"] = out["target"].str.strip()
    out = out.mask(out == "")
    without = out["target"].isna()
    logger.info(
        "drug_targets: %d drugs, %d of them with a known target.",
        out["drug"].nunique(),
        out.loc[~without, "drug"].nunique(),
    )
    if targets_only:
        out = out[~without]
    first = ["drug", "target"]
    return out[first + [c for c in out.columns if c not in first]].reset_index(drop=True)


def _is_hubs_own(path: Path) -> bool:
    """The hub's own table has quotes that are letters (5'-...), in a text with tabs."""
    return path.name.removesuffix(".gz").endswith(".txt")
