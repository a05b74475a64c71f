"""Images with any of the channels of the training, by their names in ``.uns["channels"]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anndata import AnnData

from cellfuse._errors import missing_key
from cellfuse.data import CellInput, Reader, check_values

__all__ = ["channel_names", "channel_reader", "channels_of"]


def channel_names(cell_input: CellInput) -> list[str]:
    """Names of the channels that were set up; numbers where nobody named them."""
    return list(cell_input.names or (f"channel {i}" for i in range(cell_input.shape[0])))


def channels_of(adata: AnnData, known: Sequence[str], *, any_of: bool, model: str) -> list[str]:
    """Names of the channels of some data.

    Parameters
    ----------
    adata, known
        Data, and the channels of the training.
    any_of
        Whether the network reads any of them (channel-agnostic), or all in their order.
    model
        Name of the model, for the error.

    Raises
    ------
    KeyError
        A channel that was not seen in training.
    """
    named = [str(name) for name in adata.uns.get("channels", ())]
    if not any_of or not named:
        return list(known)
    for name in named:
        if name not in known:
            raise missing_key(
                name,
                list(known),
                what=f"the channels this {model} has seen",
                fix="Leave the channel out, or train with it.",
            )
    return named


def channel_reader(cell_input: CellInput, adata: AnnData, names: Sequence[str]) -> Reader:
    """Reader of images with these channels, checked."""
    shape = (len(names), *cell_input.shape[1:])
    other = replace(cell_input, names=tuple(names), shape=shape)
    reader = other.reader(adata)
    check_values(reader, other.kind, other.label, names=adata.obs_names)
    return reader
