"""What the verbs that write an embedding share: their target, their device, their check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anndata import AnnData

from cellfuse._access import check_key, is_mudata, refuse_view
from cellfuse._errors import listing

if TYPE_CHECKING:
    import torch

__all__ = ["check_target", "pick_device"]


def check_target(data: object, key_added: str, *, verb: str, overwrite: bool) -> AnnData:
    """Refuse what cannot be written to, before anything is computed."""
    if is_mudata(data):
        raise TypeError(
            f"{verb} embeds one modality, found a MuData; give it the AnnData, such as "
            f"`{verb}(mdata[{next(iter(data.mod), 'image')!r}], ...)`."  # type: ignore[attr-defined]
        )
    assert isinstance(data, AnnData)
    refuse_view(data)
    check_key(key_added)
    if data.n_obs == 0:
        raise ValueError("the AnnData has no cells.")
    if key_added in data.obsm and not overwrite:
        raise ValueError(
            f"obsm[{key_added!r}] exists (there are {listing(data.obsm)}); choose another "
            "`key_added`, or pass `overwrite=True`."
        )
    return data


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, else a GPU where there is one, else the CPU."""
    import torch

    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
