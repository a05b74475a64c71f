"""What TIDE has to know of a screen: structures, doses, cell lines, controls, pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import context_labels, obs_column, where
from cellfuse._errors import listing, missing_key
from cellfuse.data import Reader, check_values
from cellfuse.kernels.fingerprints import MACCS_BITS, Kind
from cellfuse.model.base.checks import one_of
from cellfuse.model.base.setup import check_mudata, read_inputs, roles_of
from cellfuse.model.tide.compounds import read_structures

__all__ = ["check_counts", "field_arrays", "read_doses", "read_screen"]


def read_doses(
    adata: AnnData, dose_key: str | None, treated: NDArray[np.bool_], *, modality: str
) -> NDArray[np.float32]:
    """Dose of each row in uM, ``(n,)``; 0 for the controls, whatever stands there.

    Raises
    ------
    ValueError
        A treated row's dose is missing, negative or no number (a dose with its unit, say).
    """
    out = np.zeros(adata.n_obs, np.float32)
    if dose_key is None:
        return out
    column = obs_column(adata, dose_key, modality=modality, missing=True)
    place = f"obs[{dose_key!r}] of modality {modality!r}"
    text = column.astype(object).where(column.notna(), None)
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(float)
    worded = treated & np.isnan(numbers) & column.notna().to_numpy()
    if worded.any():
        raise ValueError(
            f"{place} must hold numbers, doses in uM; found "
            f"{listing(sorted(set(map(str, column[worded]))), 4)}. Take the unit off and convert "
            "to uM."
        )
    for problem, bad in (
        ("missing or infinite", ~np.isfinite(numbers)),
        ("negative", numbers < 0),
    ):
        rows = adata.obs_names[treated & bad]
        if len(rows):
            raise ValueError(
                f"{place} is {problem} for {len(rows)} treated rows: {listing(rows)}. Doses are "
                "numbers in uM from 0; fill them in, leave the rows out, or do without doses by "
                "`dose_key=None`."
            )
    out[treated] = numbers[treated]
    return out


def check_controls(
    rna: AnnData, context_keys: Sequence[str], *, compound_key: str, control: str, modality: str
) -> NDArray[np.bool_]:
    """Which RNA is of controls; there must be some, and some that treated samples go with."""
    compound = context_labels(rna, compound_key, modality=modality)
    is_control = (compound == control).to_numpy()
    if not is_control.any():
        raise missing_key(
            control,
            sorted(compound.unique()),
            what=f"obs[{compound_key!r}]{where(modality)}",
            fix="Give `control` the label of the untreated samples.",
        )
    others = [key for key in context_keys if key != compound_key]
    if others and not is_control.all():
        label = context_labels(rna, others, modality=modality)
        if not set(label[is_control]) & set(label[~is_control]):
            raise ValueError(
                f"no control ({control!r}) RNA agrees with any treated sample in {others}: the "
                "basal state is unknown. Leave the columns in which controls differ out of "
                "`context_keys`."
            )
    return is_control


def check_cell_lines(
    adatas: Mapping[str, AnnData],
    cell_line_key: str | None,
    is_control: NDArray[np.bool_],
    *,
    context_keys: Sequence[str],
    control: str,
) -> None:
    """Refuse one cell line only, and cell lines whose basal expression was not measured."""
    if cell_line_key is None:
        return
    if cell_line_key not in context_keys:
        raise ValueError(
            f"`cell_line_key` {cell_line_key!r} must be one of the context keys "
            f"{list(context_keys)}: images and RNA pair, and controls count, within a cell line."
        )
    lines = {m: context_labels(a, cell_line_key, modality=m) for m, a in adatas.items()}
    found = sorted({line for column in lines.values() for line in column})
    if len(found) == 1:
        raise ValueError(
            f"obs[{cell_line_key!r}] holds one cell line only, {found[0]!r}; its type tells the "
            "teacher nothing. Give `cell_line_key=None` and leave it out of `context_keys`, or add "
            "other lines."
        )
    bare = sorted(set(lines["rna"][~is_control]) - set(lines["rna"][is_control]))
    if bare:
        raise ValueError(
            f"no control ({control!r}) RNA in cell lines {listing(bare)}: their basal state is "
            "unknown. Add controls, or leave these lines' RNA out."
        )


def paired_drugs(
    adatas: Mapping[str, AnnData], context_keys: Sequence[str], *, compound_key: str, control: str
) -> list[str]:
    """Compounds with images and RNA in one context: those the teacher can learn."""
    contexts = {}
    for name, adata in adatas.items():
        frame = pd.DataFrame(
            {key: context_labels(adata, key, modality=name).to_numpy() for key in context_keys}
        )
        contexts[name] = frame.drop_duplicates()
    both = contexts["image"].merge(contexts["rna"], on=list(context_keys))
    drugs = sorted(set(both[compound_key]) - {control})
    if len(drugs) < 2:
        of = {m: sorted(set(t[compound_key]) - {control})[:3] for m, t in contexts.items()}
        raise ValueError(
            f"{len(drugs)} compounds have images and RNA in one context {list(context_keys)}; at "
            f"least 2 are needed (image: {listing(of['image'])}; rna: {listing(of['rna'])}). Spell "
            "the labels alike in both; for images alone there are `cf.DINO` and `cf.MAE`."
        )
    return drugs


def imaged_drugs(adata: AnnData, *, compound_key: str, control: str) -> list[str]:
    """Compounds with images: each has a structure, which is all that CL(D) needs beside them."""
    return sorted(set(context_labels(adata, compound_key, modality="image")) - {control})


def field_arrays(
    adata: AnnData, setup: Mapping[str, Any], names: Sequence[str], *, modality: str
) -> dict[str, NDArray]:
    """Per-row numbers that a batch carries: dose, and position among `names` (-1: none of them)."""
    labels = context_labels(adata, setup["compound_key"], modality=modality)
    treated = (labels != setup["control"]).to_numpy()
    which = pd.Index(list(names)).get_indexer(pd.Index(labels)).astype(np.int64)
    return {
        "dose": read_doses(adata, setup["dose_key"], treated, modality=modality),
        "compound": which,
    }


def read_screen(
    mdata: MuData,
    *,
    context_keys: str | Sequence[str] = ("compound", "cell_line"),
    image_rep: str | None = "crops",
    rna_layer: str | None = None,
    rna_rep: str | None = None,
    rna_likelihood: Literal["nb", "mse"] = "nb",
    smiles_key: str = "smiles",
    dose_key: str | None = "dose_um",
    cell_line_key: str | None = "cell_line",
    control_key: str | None = None,
    control: str = "DMSO",
    fingerprint: Kind = "fcfp4",
    n_bits: int = 2048,
    modalities: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Say what is read, what images and RNA share, and what the compounds are.

    Parameters
    ----------
    mdata
        Modalities with different samples. Only ``.uns["cellfuse"]`` is written. Images without
        RNA, RNA without images and RNA at other doses than the images are all used.
    context_keys
        obs columns, in both modalities, whose joint value pairs images with RNA: the compound
        and the cell line.
    image_rep
        obsm key of pixels ``(n, C, H, W)`` or of flat features ``(n, D)``; None is X.
    rna_layer, rna_rep
        Layer or obsm key of the expression; X by default.
    rna_likelihood
        ``"nb"``: X or the layer holds raw counts, which are read as log(1 + counts per 10,000).
        ``"mse"`` reads values as they are (L1000); an obsm key always is.
    smiles_key
        obs column with the compounds' SMILES, in one of the modalities at least. Controls need
        none.
    dose_key
        obs column with the dose in uM, in both modalities; None for a screen without.
    cell_line_key
        obs column with the cell line, one of `context_keys`. None: one cell line.
    control_key
        obs column with the compound, one of `context_keys`; by default the first that is not
        the cell line.
    control
        Label of the untreated samples, which must have RNA in every cell line with RNA.
    fingerprint, n_bits
        See :func:`cellfuse.pp.fingerprints`.
    modalities
        Name in the MuData of the roles ``"image"`` and ``"rna"``.

    Raises
    ------
    KeyError
        A modality, key or label is missing.
    ValueError
        SMILES that are not read (checked first), two structures of one compound, missing or
        negative doses, one cell line only, no pairs, NaN, no counts where there should be.

    Warns
    -----
    UserWarning
        Compounds with the same fingerprint.
    """
    one_of("rna_likelihood", rna_likelihood, ("nb", "mse"))
    roles = roles_of(modalities)
    if set(roles) != {"image", "rna"}:
        raise ValueError(f"TIDE needs images and RNA; `modalities` names only {list(roles)}.")
    keys = [context_keys] if isinstance(context_keys, str) else list(context_keys)
    check_mudata("TIDE", mdata, roles, keys)
    compound_key = control_key or next((k for k in keys if k != cell_line_key), "")
    control = str(control)  # labels are compared as text, whatever they are stored as
    if compound_key not in keys:
        raise missing_key(compound_key, keys, what="the context keys (`control_key`)")
    adatas = {role: mdata.mod[name] for role, name in roles.items()}
    compounds = read_structures(
        adatas,
        smiles_key,
        compound_key=compound_key,
        control=control,
        fingerprint=fingerprint,
        n_bits=n_bits,
    )
    is_control = check_controls(
        adatas["rna"], keys, compound_key=compound_key, control=control, modality=roles["rna"]
    )
    check_cell_lines(adatas, cell_line_key, is_control, context_keys=keys, control=control)
    setup = {"compound_key": compound_key, "control": control, "dose_key": dose_key}
    for role, adata in adatas.items():
        field_arrays(adata, setup, [], modality=roles[role])
    found = read_inputs(
        "TIDE",
        mdata,
        roles,
        context_keys=keys[0] if len(keys) == 1 else keys,
        reps={"image": image_rep, "rna": rna_rep},
        layers={"rna": rna_layer},
    )
    counts = rna_likelihood == "nb" and rna_rep is None
    if counts:
        check_counts(found.inputs[1].reader(adatas["rna"]), found.inputs[1].label)
    return {
        **setup,
        **found.to_json(),
        "cell_line_key": cell_line_key,
        "compounds": compounds,
        "drugs": paired_drugs(adatas, keys, compound_key=compound_key, control=control),
        "imaged": imaged_drugs(adatas["image"], compound_key=compound_key, control=control),
        "fingerprint": fingerprint,
        "n_bits": MACCS_BITS if fingerprint == "maccs" else n_bits,
        "counts": counts,
    }


def check_counts(reader: Reader, label: str) -> None:
    """Refuse what holds no raw counts."""
    try:
        check_values(reader, "counts", label)
    except ValueError as error:
        raise ValueError(
            f"{label} holds no raw counts; name their layer with `rna_layer`, or give "
            "`rna_likelihood='mse'` for values that are read as they are (such as L1000's)."
        ) from error
