"""``cellfuse embed``: the embeddings of a saved model, into a copy of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import cellfuse as cf
from cellfuse._errors import listing
from cellfuse.cli import _options as o
from cellfuse.cli._header import Header, read_header
from cellfuse.cli._run import check_file, loading, verbosity

__all__ = ["embed", "saved_class"]


def embed(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="MuData (.h5mu), or one modality (.h5ad).")
    ],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a saved model (`cellfuse train`).")
    ],
    out: Annotated[
        str, typer.Option(metavar="FILE", help="File to write: the data with the embedding.")
    ] = "embedded.h5mu",
    key_added: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="obsm key of the embedding. Default: X_ and the model."),
    ] = None,
    modality: o.Modality = None,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Embed the cells of a file with a saved model.

    cellfuse embed screen.h5mu petri --out embedded.h5mu
    """
    target = check_file(out, overwrite=overwrite, suffixes=(".h5mu",))
    name = saved_class(model)
    key = key_added or f"X_{name.lower()}"
    role = modality.value if modality is not None else None
    _check_modalities(read_header(data, modality=role), model)
    with verbosity(quiet):
        loading(quiet)
        from cellfuse._console import Steps
        from cellfuse._mudata import write_file
        from cellfuse.bench import read_screen

        steps = Steps(None if quiet else lambda text: print(text, flush=True))
        with steps("reading"):
            mdata = read_screen(data, modality=role)
            loaded: Any = getattr(cf, name).load(model)
        with steps(f"embedding with {name}"):
            for part, own in _roles(loaded, mdata).items():
                z = loaded.get_latent_representation(mdata.mod[own], modality=part)
                mdata.mod[own].obsm[key] = z
        with steps("writing"):
            write_file(mdata, target)
        steps.say(f"obsm[{key!r}] is in {out}")


def saved_class(folder: str) -> str:
    """Class of a saved model, from its description."""
    description = Path(folder) / "cellfuse.json"
    if not description.is_file():
        what = "holds no saved model" if Path(folder).is_dir() else "is no folder"
        raise FileNotFoundError(f"{folder!r} (MODEL) {what}; `cellfuse train` makes one.")
    try:
        name = json.loads(description.read_text(encoding="utf-8")).get("model", "")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(description)!r} could not be read: {error}") from error
    if name not in cf._MODELS:
        raise ValueError(f"{str(description)!r} was written by no model of this version: {name!r}.")
    return str(name)


def _check_modalities(header: Header, folder: str) -> None:
    """Refuse a file that has none of the modalities a model was trained on, under their names."""
    setup = json.loads((Path(folder) / "cellfuse.json").read_text(encoding="utf-8")).get("setup")
    names = [one["modality"] for one in (setup or {}).get("inputs", ())]
    if names and not set(names) & set(header.parts):
        raise ValueError(
            f"{str(header.path)!r} (DATA) has the modalities {listing(header.parts)}; the model in "
            f"{folder!r} (MODEL) was trained on {listing(names)}. Rename them: "
            "`MuData({name: mdata[own], ...})`."
        )


def _roles(model: Any, mdata: Any) -> dict[str, str]:
    """Modality of each role that the model embeds and the file has."""
    inputs = {role: one.modality for role, one in model.inputs.items() if role in model.embeds}
    found = {role: name for role, name in inputs.items() if name in mdata.mod}
    if not found:
        raise ValueError(
            f"{type(model).__name__} embeds {listing(inputs.values())}; the file has "
            f"{listing(mdata.mod)}."
        )
    return found
