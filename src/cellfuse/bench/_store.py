"""The results folder: one file per cell of the table, found again by what made it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse import __version__
from cellfuse._access import layers_of, stored_x
from cellfuse._files import put_in_place
from cellfuse._mudata import write_file
from cellfuse.bench._folder import MARK, check_folder

__all__ = [
    "MARK",
    "SourceFailed",
    "Store",
    "check_results",
    "digest_of",
    "fingerprint_of",
    "key_of",
]

#: Rows of each array that tell one data set from another.
N_WITNESSES = 32


def check_results(folder: str | Path) -> Path:
    """Make a results folder, or take one up again; refuse a folder that is none."""
    target = check_folder(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / MARK).touch()
    return target


def key_of(parts: Mapping[str, Any]) -> str:
    """A short name for all that made a result; another version of the library is another result."""
    text = json.dumps({"version": __version__, **parts}, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint_of(mdata: MuData, keys: Mapping[str, list[str]]) -> dict[str, str]:
    """A digest of each modality: its obs columns `keys`, and witnesses of every array."""
    found = {name: _digest(adata, keys[name]) for name, adata in mdata.mod.items()}
    for name, table in mdata.uns.items():
        if isinstance(table, pd.DataFrame):
            content = pd.util.hash_pandas_object(table.astype(str)).to_numpy().tobytes()
            found[f"uns:{name}"] = hashlib.sha256(content).hexdigest()[:16]
    return found


def digest_of(obs: pd.DataFrame, keys: list[str]) -> str:
    """A digest of those of some columns that are there."""
    columns = obs[[key for key in keys if key in obs]].astype(str)
    content = pd.util.hash_pandas_object(columns).to_numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _digest(adata: AnnData, keys: list[str]) -> str:
    found = hashlib.sha256(str(adata.shape).encode())
    found.update(digest_of(adata.obs, keys).encode())
    rows = np.unique(np.linspace(0, adata.n_obs - 1, N_WITNESSES).astype(int))
    arrays = {"X": stored_x(adata), **layers_of(adata), **dict(adata.obsm.items())}
    for name, array in sorted(arrays.items()):
        if array is None:
            continue
        part = array.iloc[rows].to_numpy() if isinstance(array, pd.DataFrame) else array[rows]
        dense = part.toarray() if hasattr(part, "toarray") else np.asarray(part)
        found.update(f"{name} {getattr(array, 'shape', '')}".encode())
        found.update(np.ascontiguousarray(dense).tobytes())
    return found.hexdigest()[:16]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:60]


class SourceFailed(RuntimeError):
    """A source left no embedding; the text is what it raised."""


@dataclass(frozen=True)
class Store:
    """A folder of results.

    ``embeddings/`` has one folder per source and seed, ``cells/`` one file per method and seed.
    Everything is written beside and renamed: what is there is whole.
    """

    folder: Path

    # -- embeddings ------------------------------------------------------------------------------

    def embedding_folder(self, label: str, seed: int, key: str) -> Path:
        """Where the embeddings of a source are."""
        return self.folder / "embeddings" / f"{_slug(label)}_seed-{seed}_{key}"

    def write_embedding(
        self,
        target: Path,
        arrays: Mapping[str, NDArray[np.float32]],
        *,
        synthetic: AnnData | None,
        about: Mapping[str, Any],
        model: Any = None,
    ) -> None:
        """Keep embeddings by role, drawn profiles, the model where it is wanted, and notes."""
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            beside.chmod(0o755)
            for role, array in arrays.items():
                np.save(beside / f"{role}.npy", array, allow_pickle=False)
            if synthetic is not None:
                write_file(synthetic, beside / "synthetic.h5ad")
            if model is not None:
                model.save(beside / "model")
            _write_json(beside / "about.json", about)
            put_in_place(beside, target)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def read_embedding(self, source: Path) -> tuple[dict[str, NDArray], AnnData | None]:
        """Embeddings by role, and drawn profiles; why there are none, if so."""
        about = self.about(source)
        if about.get("why"):
            raise SourceFailed(about["why"])
        arrays = {p.stem: np.load(p, allow_pickle=False) for p in sorted(source.glob("*.npy"))}
        drawn = source / "synthetic.h5ad"
        return arrays, ad.read_h5ad(drawn) if drawn.is_file() else None

    def about(self, source: Path) -> dict[str, Any]:
        """Notes on an embedding: seconds, losses by epoch, warnings."""
        return json.loads((source / "about.json").read_text())

    # -- cells -----------------------------------------------------------------------------------

    def cell_file(self, label: str, seed: int, key: str) -> Path:
        """Where the scores of a method and seed are."""
        return self.folder / "cells" / f"{_slug(label)}_seed-{seed}_{key}.json"

    def write_cell(
        self, target: Path, content: Mapping[str, Any], units: Mapping[str, pd.DataFrame]
    ) -> None:
        """Keep scores, and the tables behind them."""
        target.parent.mkdir(parents=True, exist_ok=True)
        for name, table in units.items():
            place = target.with_name(f"{target.stem}.{_slug(name)}.csv")
            beside = place.with_suffix(".tmp")
            table.to_csv(beside)
            beside.replace(place)
        _write_json(target, content)

    def read_cell(self, source: Path) -> dict[str, Any]:
        """Scores as they were written."""
        return json.loads(source.read_text())

    def read_units(self, source: Path, name: str) -> pd.DataFrame | None:
        """The table behind a score, if it was kept."""
        place = source.with_name(f"{source.stem}.{_slug(name)}.csv")
        return (
            pd.read_csv(place, index_col=0, keep_default_na=False, na_values=["", "nan"])
            if (place.is_file())
            else None
        )


def _write_json(target: Path, content: Mapping[str, Any]) -> None:
    beside = target.with_name(f".{target.name}.tmp")
    beside.write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")
    beside.replace(target)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
