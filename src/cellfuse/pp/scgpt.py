"""Cells embedded by a pretrained scGPT."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import matrix_of
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import record
from cellfuse.kernels.binning import quantile_bins
from cellfuse.pp._embed import check_target, pick_device

if TYPE_CHECKING:
    import torch

    from cellfuse.data.readers import Reader
    from cellfuse.nn.scgpt import ScGPTCheckpoint

__all__ = ["embed_scgpt"]

logger = logging.getLogger("cellfuse")

#: Share of the genes that must be in the vocabulary.
MIN_SHARE = 0.5
#: Cells read at a time, in batches: within them, cells of like length go together.
WINDOW_BATCHES = 32


def embed_scgpt(
    adata: AnnData,
    checkpoint: str | Path,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    key_added: str = "X_scgpt",
    batch_size: int = 64,
    max_tokens: int = 1200,
    n_bins: int = 51,
    seed: int = 0,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Embed cells by a pretrained scGPT, zero-shot.

    A cell is its non-zero genes that the vocabulary knows, behind ``<cls>`` (with the checkpoint's
    ``pad_value``). Their values are put into `n_bins` - 1 quantile bins of the cell; bin 0 is
    zero's. The embedding is the output at ``<cls>``, divided by its length, as
    scGPT's own ``embed_data`` gives it. There, ties between bin edges are broken, and the genes of
    a long cell drawn, by a generator that runs through the data; here by numbers that depend on
    the cell's name, the gene and `seed` alone, so that a cell has the same embedding (but for
    rounding, of order 1e-6) whatever its neighbours, the order of cells and genes or the batches.

    Parameters
    ----------
    adata
        Cells and genes. Values are raw counts, as in pretraining. Only their order within a cell
        matters, so that library-size normalisation and logarithm change nothing.
    checkpoint
        Folder with ``vocab.json``, ``args.json`` and ``best_model.pt`` (or
        ``best_model.safetensors``), as scGPT's authors hand it out. Read as tensors: nothing in
        it is executed.
    layer
        Layer with the values; None is ``X``. CSR, in memory or in a file, stays CSR up to the
        batch.
    gene_key
        Column of ``var`` with the names that the vocabulary has (gene symbols); None:
        ``var_names``.
    key_added
        obsm key of the result.
    batch_size
        Cells a batch.
    max_tokens
        Longest input with ``<cls>`` (1,200: the length in pretraining). Of a cell with more
        genes, a random part is taken, after binning.
    n_bins
        Number of bins with that of zero; 51 as in pretraining.
    seed
        For ties between bins and for the genes of long cells.
    device
        torch device; None: a GPU where there is one.
    overwrite
        Replace an obsm entry of that name.
    progress
        Show a progress bar.

    Returns
    -------
    None. ``obsm[key_added]``, float32, shape (cells, width of the checkpoint: 512), rows of length
    1. The message (logger ``"cellfuse"``) and the note in ``uns["cellfuse"]`` say what share of
    the genes the vocabulary knows.

    Raises
    ------
    KeyError
        `layer` or `gene_key` is absent.
    FileNotFoundError
        A file of the checkpoint is missing.
    ValueError
        Less than half of the genes are in the vocabulary; negative, NaN or infinite values; a cell
        without any of the known genes; a checkpoint with pickled code or other weights.

    Examples
    --------
    >>> import cellfuse as cf
    >>> cf.pp.embed_scgpt(cells, "scGPT_human", gene_key="symbol")  # doctest: +SKIP
    >>> cells.obsm["X_scgpt"].shape  # doctest: +SKIP
    (20729, 512)
    """
    from cellfuse.nn.scgpt import read_scgpt

    adata = check_target(adata, key_added, verb="embed_scgpt", overwrite=overwrite)
    if batch_size < 1 or max_tokens < 2 or n_bins < 3:
        raise ValueError(
            "expected batch_size >= 1, max_tokens >= 2 and n_bins >= 3, found "
            f"{batch_size}, {max_tokens} and {n_bins}."
        )
    reader, label = _counts(adata, layer)
    names = _gene_names(adata, gene_key)
    model = read_scgpt(checkpoint)
    genes, share = _match(adata, names, model.vocabulary, gene_key)
    _check_cells(adata, reader, genes >= 0, label, batch_size)
    logger.info(
        "embed_scgpt: %d of %d genes (%.1f%%) are in the vocabulary.",
        int((genes >= 0).sum()),
        len(genes),
        100 * share,
    )

    binning = {"n_bins": n_bins, "limit": max_tokens - 1, "seed": seed}
    at = pick_device(device)
    adata.obsm[key_added] = _embed(adata, reader, model, genes, batch_size, at, progress, binning)
    params = {
        "checkpoint": Path(checkpoint).name,
        "layer": layer,
        "gene_key": gene_key,
        "genes_in_vocabulary": int((genes >= 0).sum()),
        "share_in_vocabulary": share,
        "max_tokens": max_tokens,
        "n_bins": n_bins,
        "seed": seed,
    }
    record(adata, key_added, "embed_scgpt", params, past={})


def _embed(
    adata: AnnData,
    reader: Reader,
    model: ScGPTCheckpoint,
    genes: NDArray[np.int64],
    batch_size: int,
    at: torch.device,
    progress: bool,
    binning: dict[str, int],
) -> NDArray[np.float32]:
    import torch

    encoder = model.encoder.to(at)
    out = np.empty((adata.n_obs, encoder.width), dtype=np.float32)
    with torch.inference_mode(), _bar(adata.n_obs, progress) as bar:
        for rows, counts in _windows(reader, batch_size):
            cells = _tokens(counts, genes, _name_keys(adata.obs_names[rows]), **binning)
            by_length = np.argsort(np.diff(cells.indptr), kind="stable")
            for start in range(0, len(rows), batch_size):
                batch = by_length[start : start + batch_size]
                tokens, values, padding = (t.to(at) for t in cells.batch(batch, model))
                at_cls = encoder(tokens, values, padding)[:, 0]
                unit = torch.nn.functional.normalize(at_cls, dim=1)
                out[rows[batch]] = unit.cpu().numpy()
                bar.update(len(batch))
    return out


# -- the data -------------------------------------------------------------------------------------


def _counts(adata: AnnData, layer: str | None) -> tuple[Reader, str]:
    from cellfuse.data.readers import make_reader

    stored, name = matrix_of(adata, layer)
    return make_reader(stored), name


def _gene_names(adata: AnnData, gene_key: str | None) -> NDArray:
    if gene_key is None:
        return np.asarray(adata.var_names.astype(str))
    if gene_key not in adata.var.columns:
        raise missing_key(gene_key, list(adata.var.columns), what="var")
    return np.asarray(adata.var[gene_key].astype(object))


def _numbers(names: NDArray, vocabulary: dict[str, int]) -> NDArray[np.int64]:
    return np.array([vocabulary.get(name, -1) for name in names], dtype=np.int64)


def _match(
    adata: AnnData, names: NDArray, vocabulary: dict[str, int], gene_key: str | None
) -> tuple[NDArray[np.int64], float]:
    """Token number of each gene (-1: unknown) and the share of genes that have one."""
    genes = _numbers(names, vocabulary)
    share = float(np.mean(genes >= 0))
    if share >= MIN_SHARE:
        return genes, share
    where = "var_names" if gene_key is None else f"var[{gene_key!r}]"
    known = [name for name in vocabulary if not name.startswith("<")]
    raise ValueError(
        f"{int((genes >= 0).sum())} of {len(genes)} genes ({100 * share:.1f}%) of {where} are in "
        f"the vocabulary of the checkpoint; at least {100 * MIN_SHARE:.0f}% are needed. {where} "
        f"has {listing(names[genes < 0], 3)}, the vocabulary has {listing(known, 3)}."
        f"{_likely_fix(adata, names, vocabulary, gene_key)}"
    )


def _likely_fix(
    adata: AnnData, names: NDArray, vocabulary: dict[str, int], gene_key: str | None
) -> str:
    columns: dict[str | None, NDArray] = {None: np.asarray(adata.var_names.astype(str))}
    columns |= {str(c): np.asarray(adata.var[c].astype(object)) for c in adata.var.columns}
    for column, values in columns.items():
        found = np.mean(_numbers(values, vocabulary) >= 0)
        if column != gene_key and found >= MIN_SHARE:
            return f" Give `gene_key={column!r}`: {100 * found:.0f}% of its names are known."
    text = [str(name) for name in names]
    if np.mean(_numbers(np.array([name.upper() for name in text]), vocabulary) >= 0) >= MIN_SHARE:
        return " In upper case they match: are these mouse genes, and the checkpoint a human one?"
    if np.mean([name.startswith("ENS") for name in text]) >= MIN_SHARE:
        return (
            " These are Ensembl identifiers and the vocabulary has symbols: put the symbols into "
            "a column of var and name it with `gene_key`."
        )
    return ""


def _windows(reader: Reader, batch_size: int) -> Iterator[tuple[NDArray[np.int64], sp.csr_matrix]]:
    """Go through the cells in order, some batches at a time, as CSR."""
    step = max(reader.block_size, batch_size * WINDOW_BATCHES)
    for start in range(0, reader.shape[0], step):
        rows = np.arange(start, min(start + step, reader.shape[0]))
        yield rows, sp.csr_matrix(reader.read(rows))


def _check_cells(
    adata: AnnData, reader: Reader, known: NDArray, label: str, batch_size: int
) -> None:
    empty: list[str] = []
    for rows, counts in _windows(reader, batch_size):
        bad = ~np.isfinite(counts.data) | (counts.data < 0)
        if bad.any():
            row = rows[np.searchsorted(counts.indptr, np.flatnonzero(bad)[0], side="right") - 1]
            raise ValueError(
                f"{label} must hold counts from 0; found {counts.data[bad][0]:g} in cell "
                f"{str(adata.obs_names[row])!r} (row {row}). Name the layer of raw counts with "
                "`layer`."
            )
        present = counts.data > 0
        n_known = np.add.reduceat(
            np.append(present & known[counts.indices], False), counts.indptr[:-1], dtype=np.int64
        )
        # An empty row of reduceat gives its neighbour's first element.
        n_known[np.diff(counts.indptr) == 0] = 0
        empty += [str(name) for name in adata.obs_names[rows[n_known == 0]]]
    if empty:
        raise ValueError(
            f"{len(empty)} of {adata.n_obs} cells have no count in any gene of the vocabulary: "
            f"{listing(empty, 4)}. Leave them out (`sc.pp.filter_cells(adata, min_genes=1)`)."
        )


# -- tokens ---------------------------------------------------------------------------------------


def _name_keys(names: pd.Index) -> NDArray[np.int64]:
    """A number per name, the same in every run and on every machine."""
    digests = b"".join(
        hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names
    )
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


@dataclass(frozen=True)
class _Cells:
    """Genes and bins of some cells, one after another."""

    indptr: NDArray[np.int64]
    genes: NDArray[np.int64]
    bins: NDArray[np.int64]

    def batch(self, cells: NDArray, model: ScGPTCheckpoint) -> tuple[torch.Tensor, ...]:
        """Tokens, values and padding mask of some of the cells, ``<cls>`` first."""
        import torch

        sizes = (self.indptr[1:] - self.indptr[:-1])[cells]
        shape = (len(cells), int(sizes.max()) + 1)
        row = np.repeat(np.arange(len(cells)), sizes)
        place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        source = np.repeat(self.indptr[cells], sizes) + place
        tokens = np.full(shape, model.pad, dtype=np.int64)
        values = np.full(shape, model.pad_value, dtype=np.float32)
        tokens[:, 0] = model.cls
        tokens[row, place + 1] = self.genes[source]
        values[row, place + 1] = self.bins[source]
        padding = np.arange(shape[1])[None, :] > sizes[:, None]
        return torch.from_numpy(tokens), torch.from_numpy(values), torch.from_numpy(padding)


def _tokens(
    counts: sp.csr_matrix,
    genes: NDArray[np.int64],
    keys: NDArray[np.int64],
    *,
    n_bins: int,
    limit: int,
    seed: int,
) -> _Cells:
    """Bin the known non-zero genes of each cell and keep at most `limit` of them."""
    # Genes in the order of the vocabulary: the sum over them then rounds alike in any data.
    by_token = np.argsort(genes, kind="stable")
    by_token = by_token[genes[by_token] >= 0]
    known = sp.csr_matrix(counts[:, by_token])
    known.eliminate_zeros()
    known.sort_indices()
    indptr, token = known.indptr.astype(np.int64), genes[by_token][known.indices]
    pair = np.repeat(keys, np.diff(indptr)) + token  # it may run over, which is no harm
    noise = _uniform(pair, seed, "scgpt bins")
    bins = quantile_bins(known.data, indptr, n_bins=n_bins, noise=noise)
    sizes = np.diff(indptr)
    if sizes.max(initial=0) <= limit:
        return _Cells(indptr, token, bins)
    lot, chosen = _uniform(pair, seed, "scgpt genes"), np.ones(len(token), dtype=bool)
    for cell in np.flatnonzero(sizes > limit):
        part = slice(indptr[cell], indptr[cell + 1])
        chosen[part][np.argsort(lot[part], kind="stable")[limit:]] = False
    indptr = np.append(0, np.cumsum(np.minimum(sizes, limit)))
    return _Cells(indptr, token[chosen], bins[chosen])


def _uniform(pair: NDArray[np.int64], seed: int, purpose: str) -> NDArray[np.float32]:
    import torch

    from cellfuse.nn.keyed import uniform

    return uniform(torch.from_numpy(pair), (1,), seed=seed, purpose=purpose)[:, 0].numpy()


def _bar(total: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="cell", desc="scGPT", disable=not progress)
