"""Verbs whose result is needed only as profiles: noted, applied to rows as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anndata import AnnData

from cellfuse._access import per_modality, representation, where
from cellfuse._mudata import make_mudata
from cellfuse.data.lazy import LazyMatrix
from cellfuse.pp._matrices import as_lazy

__all__ = ["Verb", "transformed", "verb_name"]

Verb = Callable[..., None]
#: Key under which the verbs find the representation.
KEY = "representation"


def verb_name(verb: Any) -> str:
    """Name of a verb, be it a `functools.partial` of it."""
    return str(getattr(getattr(verb, "func", verb), "__name__", verb))


def transformed(
    mods: Mapping[str, AnnData],
    use_rep: str | None | Mapping[str, str | None],
    verbs: Sequence[Verb],
) -> dict[str, Any]:
    """The representation of every modality after `verbs`, which is nowhere written."""
    light = {}
    for modality, adata in mods.items():
        key = per_modality(use_rep, modality, name="use_rep")
        values = representation(adata, key, modality=modality, on_disk=True)
        name = f"{'X' if key in (None, 'X') else f'obsm[{key!r}]'}{where(modality)}"
        light[modality] = AnnData(obs=adata.obs)
        light[modality].obsm[KEY] = LazyMatrix(values, name=name).as_dask()
    data: Any = light[""] if list(light) == [""] else make_mudata(light)
    for verb in verbs:
        if not callable(verb):
            raise TypeError(
                f"transform: expected verbs such as `functools.partial(cf.pp.whiten, ...)`, found "
                f"{verb!r}."
            )
        verb(data, use_rep=KEY)
    return {modality: as_lazy(adata.obsm[KEY], KEY) for modality, adata in light.items()}
