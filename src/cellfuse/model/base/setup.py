"""What `setup_mudata` has to find out, for every model: roles, modalities, arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from mudata import MuData

from cellfuse._access import is_mudata, label_list
from cellfuse._errors import listing, missing_key
from cellfuse.data import CellInput, Contexts, check_values
from cellfuse.data.contexts import PAIRED

__all__ = ["ROLES", "Found", "check_mudata", "read_inputs", "roles_of", "split_labels"]

ROLES = ("image", "rna")
Labels = str | Sequence[str]


@dataclass(frozen=True)
class Found:
    """What a setup found.

    Parameters
    ----------
    context_keys
        As a list.
    inputs
        What is read of each role.
    contexts
        Who shares a context.
    """

    context_keys: list[str]
    inputs: list[CellInput]
    contexts: Contexts

    def to_json(self) -> dict[str, Any]:
        """As it is kept with the data and the model."""
        return {
            "context_keys": self.context_keys,
            "inputs": [i.to_json() for i in self.inputs],
            "n_contexts": len(self.contexts),
        }


def split_labels(given: Labels | None) -> list[str]:
    """Labels of a part of a split; none for None."""
    return [] if given is None else label_list(given)


def roles_of(
    modalities: Mapping[str, str] | None, allowed: Sequence[str] = ROLES
) -> dict[str, str]:
    """Name in the MuData of each role, in the order of `allowed`; by default their own names."""
    if modalities is not None and not isinstance(modalities, Mapping):
        raise TypeError(
            f"`modalities` names the modality of each role, such as {{{allowed[0]!r}: "
            f"{allowed[0]!r}}}; found {modalities!r}."
        )
    given = dict(modalities) if modalities is not None else {role: role for role in allowed}
    unknown = [role for role in given if role not in allowed]
    if unknown or not given:
        raise missing_key(unknown[0] if unknown else "", allowed, what="the roles of `modalities`")
    return {role: given[role] for role in allowed if role in given}


def check_mudata(model: str, mdata: MuData, roles: Mapping[str, str], keys: Sequence[str]) -> None:
    """Refuse what would silently pair unrelated cells."""
    if not is_mudata(mdata):
        raise TypeError(
            f"{model} takes a MuData, found an AnnData; wrap it: `mudata.MuData({{'rna': adata}})`."
        )
    for modality in roles.values():
        if modality not in mdata.mod:
            raise missing_key(
                modality,
                list(mdata.mod),
                what="the MuData's modalities",
                fix="Name them with `modalities={role: name}`.",
            )
    seen: dict[str, pd.Index] = {}
    for modality in roles.values():
        if mdata.mod[modality].n_obs == 0:
            raise ValueError(f"modality {modality!r} has no cells.")
        if mdata.is_view or mdata.mod[modality].is_view:
            raise ValueError(
                f"modality {modality!r} is a view of other data, which a model cannot keep: take "
                "a copy, `mdata = mdata[...].copy()`, or `MuData({name: adata[...].copy()})`."
            )
        names = mdata.mod[modality].obs_names
        if not names.is_unique:
            double = names[names.duplicated()].unique()
            raise ValueError(
                f"obs_names of modality {modality!r} repeat ({listing(double, 3)}); "
                f"`mdata[{modality!r}].obs_names_make_unique()` mends it."
            )
        for other, others in seen.items():
            both = names.intersection(others)
            if len(both) and list(keys) != [PAIRED]:
                raise ValueError(
                    f"{len(both)} obs_names stand in both {other!r} and {modality!r} "
                    f"({listing(both, 3)}), as if the same cells had been measured twice. If "
                    f"they are different cells, prefix the names before the MuData is made: "
                    f"`adata.obs_names = {modality!r} + '-' + adata.obs_names`. If they are "
                    "the same cells, use context_keys='obs_names'."
                )
        seen[modality] = names


def read_inputs(
    model: str,
    mdata: MuData,
    roles: Mapping[str, str],
    *,
    context_keys: str | Sequence[str],
    reps: Mapping[str, str | None],
    layers: Mapping[str, str | None] | None = None,
    counts: Sequence[str] = (),
) -> Found:
    """Check the MuData, its contexts and its values.

    Parameters
    ----------
    model
        Name of the model, for error texts.
    mdata, roles
        Data, and the modality of each role.
    context_keys
        As :meth:`cellfuse.data.Contexts.from_modalities` takes them.
    reps, layers
        obsm key and layer of each role; None is X.
    counts
        Roles that must hold counts, where they are read from X or a layer.

    Returns
    -------
    Context keys, one input per role, and the contexts.
    """
    keys = [context_keys] if isinstance(context_keys, str) else list(context_keys)
    check_mudata(model, mdata, roles, keys)
    adatas = {role: mdata.mod[name] for role, name in roles.items()}
    contexts = Contexts.from_modalities(adatas, context_keys)
    inputs = []
    for role, modality in roles.items():
        adata = mdata.mod[modality]
        found = CellInput.resolve(
            adata,
            role=role,
            modality=modality,
            rep=reps.get(role),
            layer=(layers or {}).get(role),
            counts=role in counts,
        )
        check_values(found.reader(adata), found.kind, found.label, names=adata.obs_names)
        inputs.append(found)
    return Found(keys, inputs, contexts)
