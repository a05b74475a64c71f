"""How a store is written: in which order, beside its place, and on from where a kill left it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import write_elem
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cellfuse._files import put_in_place
from cellfuse.data.contexts import Contexts
from cellfuse.io._store_arrays import write_csr, write_dense
from cellfuse.io._store_reading import FORMAT, MARK, PLACE, mark_of
from cellfuse.io._store_sources import (
    as_parts,
    concatenated_obs,
    frame_of,
    is_table,
    sources_of,
)

__all__ = ["write"]

logger = logging.getLogger("cellfuse")


def write(
    data: Any,
    target: Path,
    *,
    context_keys: str | list[str],
    chunk_cells: int | None,
    memory: int,
    overwrite: bool,
    seed: int,
) -> None:
    """Write a store, see :func:`cellfuse.io.write_store`."""
    _refuse_existing(target, overwrite=overwrite)
    if memory < 1 << 20:
        raise ValueError(f"memory={memory}: expected bytes, at least {1 << 20:,}.")
    if chunk_cells is not None and chunk_cells < 1:
        raise ValueError(f"chunk_cells={chunk_cells}: expected 1 or more.")
    parts, many = as_parts(data)
    obs = {name: concatenated_obs(found, name) for name, found in parts.items()}
    skeletons = {name: AnnData(obs=frame[[*frame.columns]]) for name, frame in obs.items()}
    contexts = Contexts.from_modalities(skeletons, context_keys)
    orders = {
        name: _order(contexts.of_row(name), len(contexts), [seed, number])
        for number, name in enumerate(parts)
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(
            f"{str(target)!r} cannot be written to: {str(target.parent)!r} can only be read."
        )
    work = target.parent / f".{target.name}-writing"
    try:
        with FileLock(target.parent / f".{target.name}.lock", timeout=0):
            writer = _Writer(work, parts, obs, orders, memory, chunk_cells)
            writer.begin(_identity(parts, obs, orders, context_keys, chunk_cells, memory))
            writer.write(many, context_keys)
            put_in_place(work / "store", target)
            shutil.rmtree(work, ignore_errors=True)
    except Timeout:
        raise OSError(
            f"another process is writing {str(target)!r}; wait for it, or choose another path."
        ) from None
    except OSError as error:
        if str(target.parent) in str(error) or isinstance(error, FileNotFoundError):
            raise
        raise OSError(
            error.errno or 0,
            f"writing {str(target)!r} stopped: {error.strerror or error}. Call it again to go on "
            f"where it stopped (what is done is in {str(work)!r})",
        ) from error


def _refuse_existing(target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{str(target)!r} exists; pass overwrite=True to replace it.")
    if mark_of(target) is None:
        raise FileExistsError(
            f"{str(target)!r} exists and is no store that `write_store` wrote; it is not "
            "overwritten. Choose another path."
        )


def _order(codes: NDArray, n_contexts: int, seed: list[int]) -> NDArray[np.int64]:
    """Rows by context, those of a context in random order, those without one at the end."""
    random = np.random.default_rng(seed).random(len(codes))
    return np.lexsort((random, np.where(codes < 0, n_contexts, codes))).astype(np.int64)


def _identity(
    parts: dict[str, list[AnnData]],
    obs: dict[str, pd.DataFrame],
    orders: dict[str, NDArray],
    *settings: Any,
) -> dict[str, Any]:
    """What must be the same for a killed run to go on."""
    made = hashlib.blake2b(digest_size=16)
    for name, order in orders.items():
        made.update(name.encode())
        made.update(order.tobytes())
        made.update(pd.util.hash_array(obs[name].index.to_numpy(dtype=object)).tobytes())
        for source in sources_of(parts[name], name):
            made.update(f"{source.name} {source.shape} {source.dtype}".encode())
            some = np.arange(min(4, source.shape[0]))
            values = source.readers[0].read(some[some < source.readers[0].shape[0]])
            made.update(np.ascontiguousarray(getattr(values, "data", values)).tobytes())
    return {"format": FORMAT, "settings": json.dumps(settings), "data": made.hexdigest()}


class _Writer:
    """One store being written in the folder `work`."""

    def __init__(
        self,
        work: Path,
        parts: dict[str, list[AnnData]],
        obs: dict[str, pd.DataFrame],
        orders: dict[str, NDArray],
        memory: int,
        chunk_cells: int | None,
    ) -> None:
        self.work, self.parts, self.obs, self.orders = work, parts, obs, orders
        self.memory, self.chunk_cells = memory, chunk_cells

    def begin(self, identity: dict[str, Any]) -> None:
        """Go on with what is there, if it is of the same data, or begin anew."""
        plan = self.work / "plan.json"
        if plan.exists() and json.loads(plan.read_text()) == identity:
            logger.info("write_store: goes on with %s.", self.work)
            return
        shutil.rmtree(self.work, ignore_errors=True)
        (self.work / "done").mkdir(parents=True)
        plan.write_text(json.dumps(identity))

    def write(self, many: bool, context_keys: str | list[str]) -> None:
        """Write all modalities, then the mark that says the store is whole."""
        root = zarr.open_group(str(self.work / "store"), mode="a", zarr_format=3)
        with _small_elements():
            for name in self.parts:
                group = root.require_group(f"mod/{name}") if many else root
                self._write_modality(name, group)
        keys = [context_keys] if isinstance(context_keys, str) else list(context_keys)
        if many:
            mods: Any = root["mod"]
            mods.attrs["mod-order"] = list(self.parts)
            root.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0"})
        root.attrs[MARK] = {"format": FORMAT, "context_keys": keys, "modalities": many}

    def _write_modality(self, name: str, group: zarr.Group) -> None:
        first, order = self.parts[name][0], self.orders[name]
        group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for mapping in ("layers", "obsm"):
            group.require_group(mapping).attrs.update(
                {"encoding-type": "dict", "encoding-version": "0.1.0"}
            )
        for number, source in enumerate(sources_of(self.parts[name], name)):
            done = self.work / "done" / f"{name}-{number}"
            if done.exists():
                continue
            write = write_csr if source.sparse else write_dense
            work = self.work / f"{name}-{number}"
            write(source, group, order, work=work, memory=self.memory, chunk_cells=self.chunk_cells)
            done.touch()
            shutil.rmtree(work, ignore_errors=True)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        write_elem(group, "obs", self.obs[name].iloc[order])
        small = _in_memory(first)
        write_elem(group, "var", small.var)
        write_elem(group, "uns", {**small.uns, PLACE: place})
        for mapping in ("varm", "varp"):
            write_elem(group, mapping, dict(getattr(small, mapping)))
        several = len(self.parts[name]) > 1
        pairs = {} if several else {k: v[order][:, order] for k, v in small.obsp.items()}
        write_elem(group, "obsp", pairs)
        for key, value in first.obsm.items():
            if is_table(value):
                frames = pd.concat([frame_of(adata.obsm[key]) for adata in self.parts[name]])
                write_elem(group["obsm"], key, frames.iloc[order])


def _in_memory(adata: AnnData) -> AnnData:
    """What is small, read if it was left on the disk; no X, no layers, no obsm."""
    bare = AnnData(
        obs=pd.DataFrame(index=adata.obs_names),
        var=frame_of(adata.var),
        uns=dict(adata.uns),
        varm=dict(adata.varm),
        varp=dict(adata.varp),
        obsp=dict(adata.obsp),
    )
    return bare.to_memory()


def _small_elements() -> Any:
    """What anndata writes for us is small; this version asks how it is to be cut into files."""
    settings = anndata.settings
    known = hasattr(settings, "auto_shard_zarr_v3")
    return settings.override(auto_shard_zarr_v3=False) if known else nullcontext()
