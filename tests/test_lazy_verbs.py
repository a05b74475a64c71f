"""Verbs on what is not in memory: as in memory, piece by piece, each block read once a pass."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import cellfuse as cf
from cellfuse._mudata import make_mudata
from cellfuse.data import lazy
from cellfuse.data.lazy import LazyMatrix
from cellfuse.kernels.groups import group_means
from cellfuse.kernels.steps import AffineStep
from cellfuse.kernels.whitening import mean_and_covariance

da = pytest.importorskip("dask.array")

N, D = 600, 6
CONTROLS = {"control_key": "gene", "control": "NTC"}
VERBS = {
    "robust_center_scale": partial(cf.pp.robust_center_scale, **CONTROLS, batch_key="plate"),
    "mad": partial(cf.pp.robust_center_scale, **CONTROLS, scale="mad"),
    "center_scale": partial(cf.pp.center_scale, **CONTROLS, batch_key="plate"),
    "mad_robustize": partial(cf.pp.mad_robustize, control_key=None, control=None),
    "tvn": partial(cf.pp.tvn, **CONTROLS, batch_key="plate"),
    "sphere": partial(cf.pp.sphere, **CONTROLS, batch_key="plate"),
    "sphere auto": partial(cf.pp.sphere, control_key=None, control=None, eps="auto"),
    "whiten": cf.pp.whiten,
    "whiten within": partial(cf.pp.whiten, within="plate", method="pca"),
    "whiten controls": partial(cf.pp.whiten, fit_on="NTC", control_key="gene", eps="auto"),
}


def cells(seed: int = 0, prefix: str = "c") -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "gene": rng.choice(["NTC", "NTC", "A", "B", "C"], N),
            "plate": rng.choice(["p1", "p2", "p3"], N),
        },
        index=[f"{prefix}{i}" for i in range(N)],
    )
    x = rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) + rng.normal(size=D)
    return ad.AnnData(obs=obs, obsm={"emb": x.astype("f4")})


def laid_down(adata: ad.AnnData, kind: str, folder) -> ad.AnnData:
    """The same cells with their embedding on the disk, or of dask."""
    x = adata.obsm["emb"]
    if kind == "store":
        return cf.io.write_store(adata, folder / "s.zarr", context_keys="gene", chunk_cells=16)
    made = ad.AnnData(obs=adata.obs)
    if kind == "dask":
        made.obsm["emb"] = da.from_array(x, chunks=(77, 2))
    elif kind == "h5":
        with h5py.File(folder / "x.h5", "w") as file:
            file.create_dataset("x", data=x, chunks=(32, D))
        made.obsm["emb"] = h5py.File(folder / "x.h5", "r")["x"]
    else:
        array = zarr.create_array(folder / "x.zarr", shape=x.shape, chunks=(50, D), dtype="f4")
        array[:] = x
        made.obsm["emb"] = array
    return made


@pytest.fixture
def small_pieces(monkeypatch):
    """Several pieces of several blocks."""
    monkeypatch.setattr(lazy, "PIECE_BYTES", 64 * D * 4)


@pytest.mark.parametrize("kind", ["zarr", "h5", "dask", "store"])
def test_every_verb_gives_what_it_gives_in_memory(kind, tmp_path, small_pieces):
    original, there = cells(), laid_down(cells(), kind, tmp_path)
    before = np.asarray(there.obsm["emb"][:])
    for name, verb in VERBS.items():
        expected, found = original.copy(), there.copy() if kind == "store" else there
        verb(expected, use_rep="emb", key_added=name)
        verb(found, use_rep="emb", key_added=name)
        result = found.obsm[name]
        assert isinstance(result, da.Array), name
        values = np.asarray(result)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected.obsm[name], rtol=2e-5, atol=2e-5, err_msg=name)
    assert np.array_equal(before, np.asarray(there.obsm["emb"][:]))


@pytest.mark.parametrize("verb", [n for n in VERBS if n not in ("sphere auto", "mad_robustize")])
def test_controls_that_cannot_be_held_are_gone_through_in_passes(
    verb, tmp_path, small_pieces, monkeypatch
):
    monkeypatch.setattr(lazy, "HELD_BYTES", 2 * 4 * N // 3)
    expected, found = cells(), laid_down(cells(), "zarr", tmp_path)
    VERBS[verb](expected, use_rep="emb")
    VERBS[verb](found, use_rep="emb")
    np.testing.assert_allclose(
        np.asarray(found.obsm["emb"]), expected.obsm["emb"], rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize("kind", ["zarr", "h5", "dask", "store"])
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_profiles_are_those_of_memory(kind, statistic, tmp_path, small_pieces):
    made = partial(cf.tl.aggregate, by="gene", use_rep="emb", statistic=statistic)
    expected, found = made(cells()), made(laid_down(cells(), kind, tmp_path))
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-6, atol=1e-7)


def test_profiles_of_sparse_counts_in_a_store(tmp_path):
    adata = cells()
    adata = ad.AnnData(sp.random(N, 9, 0.3, "csr", "f4", rng=0), obs=adata.obs)
    stored = cf.io.write_store(adata, tmp_path / "s.zarr", context_keys="gene")
    made = partial(cf.tl.aggregate, by=["gene", "plate"], use_rep=None)
    np.testing.assert_allclose(made(stored).X, made(adata).X, rtol=1e-6)
    assert made(stored).var_names.tolist() == adata.var_names.tolist()


CHAIN = [VERBS["robust_center_scale"], VERBS["whiten"]]


@pytest.mark.parametrize("kind", ["memory", "zarr"])
def test_profiles_of_corrected_cells_without_writing_these(kind, tmp_path, small_pieces):
    adata = cells()
    corrected = adata.copy()
    for verb in CHAIN:
        verb(corrected, use_rep="emb")
    given = adata if kind == "memory" else laid_down(adata, kind, tmp_path)
    before = np.asarray(given.obsm["emb"][:]).copy()
    found = cf.tl.aggregate(given, by="gene", use_rep="emb", transform=CHAIN)
    expected = cf.tl.aggregate(corrected, by="gene", use_rep="emb")
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-4, atol=2e-5)
    assert list(given.obsm) == ["emb"]
    assert "cellfuse" not in given.uns
    assert np.array_equal(np.asarray(given.obsm["emb"][:]), before)
    assert '"transform": ["robust_center_scale", "whiten"]' in found.uns["aggregate"]["params"]


def test_affine_steps_are_taken_of_means_and_not_of_rows(tmp_path, small_pieces, monkeypatch):
    there = laid_down(cells(), "zarr", tmp_path)
    chain = [
        partial(cf.pp.robust_center_scale, batch_key="plate", control_key="gene", control="NTC"),
        cf.pp.whiten,
        VERBS["tvn"],
    ]
    made = partial(cf.tl.aggregate, by="gene", use_rep="emb", transform=chain)
    found = made(there)
    n_rows, step = [], AffineStep.__call__
    monkeypatch.setattr(
        AffineStep, "__call__", lambda s, v, rows: n_rows.append(len(rows)) or step(s, v, rows)
    )
    made(there)
    of_means = n_rows[-1]
    assert of_means < 200  # (gene, plate) pairs
    monkeypatch.setattr("cellfuse.kernels.groups.MEANS_BYTES", 0)
    np.testing.assert_allclose(found.X, made(there).X, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_a_covariance_is_read_once_unless_its_first_pieces_were_far_off(offset, monkeypatch):
    monkeypatch.setattr(lazy, "PIECE_BYTES", 40 * D * 4)
    x = np.tile(cells().obsm["emb"], (10, 1))
    x[:20] -= np.float32(offset)
    source = Counted(zarr.array(x, chunks=(20, D)))
    monkeypatch.setattr("cellfuse.kernels.whitening.N_NEAR", 1)
    mean, covariance = mean_and_covariance(LazyMatrix(source), dtype=np.float32)
    np.testing.assert_allclose(mean, x.mean(0, dtype="f8"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(x.T.astype("f8")), rtol=2e-4, atol=1e-4)
    once = len(x) // 20 + 5
    assert len(source.reads) <= once if offset == 0 else once < len(source.reads) <= 2 * once


def test_a_transform_takes_all_modalities_together():
    both = make_mudata({"image": cells(0), "rna": cells(1, "r")})
    verbs = [partial(cf.pp.whiten, joint=True)]
    found = cf.tl.aggregate(both, by="gene", use_rep="emb", transform=verbs)
    for verb in verbs:
        verb(both, use_rep="emb")
    expected = cf.tl.aggregate(both, by="gene", use_rep="emb")
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="expected verbs such as"):
        cf.tl.aggregate(both, by="gene", use_rep="emb", transform=["whiten"])


def test_a_corrected_matrix_is_not_corrected_twice_and_can_be_corrected_further(tmp_path):
    found, expected = laid_down(cells(), "zarr", tmp_path), cells()
    for adata in (found, expected):
        VERBS["robust_center_scale"](adata, use_rep="emb")
        with pytest.raises(ValueError, match="has already been run"):
            VERBS["robust_center_scale"](adata, use_rep="emb")
        cf.pp.whiten(adata, use_rep="emb")
    np.testing.assert_allclose(
        np.asarray(found.obsm["emb"]), expected.obsm["emb"], rtol=1e-4, atol=2e-5
    )


class Counted:
    """A zarr array that notes what is read of it."""

    def __init__(self, array) -> None:
        self.array, self.reads = array, []
        self.shape, self.dtype, self.chunks = array.shape, array.dtype, array.chunks

    def __getitem__(self, rows):
        self.reads.append(rows.start // self.chunks[0])
        return self.array[rows]


@pytest.mark.parametrize("piece", [1, 70 * D * 4, 1 << 20])
def test_each_block_is_read_once_in_a_pass(piece, monkeypatch):
    monkeypatch.setattr(lazy, "PIECE_BYTES", piece)
    x = cells().obsm["emb"]
    source = Counted(zarr.array(x, chunks=(50, D)))
    matrix = LazyMatrix(source)
    codes = np.random.default_rng(0).integers(0, 40, N)
    np.testing.assert_allclose(group_means(matrix, codes, 40), group_means(x, codes, 40))
    assert sorted(source.reads) == list(range(12))
    source.reads.clear()
    held, groups = matrix.hold([np.arange(0, N, 2), np.arange(1, N, 2)])
    assert np.array_equal(held[groups[1]], x[1::2])
    assert len(source.reads) == len(set(source.reads))  # the last blocks may be there still


def test_a_pass_is_a_few_pieces_ahead_of_what_is_taken_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lazy, "PIECE_BYTES", 64)
    matrix = LazyMatrix(laid_down(cells(), "zarr", tmp_path).obsm["emb"])
    asked = []
    monkeypatch.setattr(matrix._reader, "ahead", lambda rows: asked.append(int(rows[0])))
    pieces = matrix.pieces()
    assert len(pieces) > 4 * lazy.n_threads()
    found = matrix.run(lambda piece: int(piece[0]), pieces)
    first = [next(found)]
    assert len(asked) <= 2 * lazy.n_threads()  # none is handed out before it is asked for
    assert [*first, *found] == [int(piece[0]) for piece in pieces]
    assert asked == [int(piece[0]) for piece in pieces[1:]]


def test_nan_is_named_with_its_row_when_it_is_read(tmp_path):
    adata = cells()
    adata.obsm["emb"][123, 2] = np.nan
    there = laid_down(adata, "zarr", tmp_path)
    with pytest.raises(ValueError, match=r"obsm\['emb'\] holds NaN .* \(first in row 123\)"):
        cf.tl.aggregate(there, by="gene", use_rep="emb")
    with pytest.raises(ValueError, match=r"obsm\['emb'\] holds NaN"):
        cf.pp.whiten(there, use_rep="emb")


def test_a_sparse_matrix_is_still_refused(tmp_path):
    adata = ad.AnnData(sp.random(N, 9, 0.3, "csr", "f4", rng=0), obs=cells().obs)
    stored = cf.io.write_store(adata, tmp_path / "s.zarr", context_keys="gene")
    with pytest.raises(TypeError, match="sparse"):
        cf.pp.whiten(stored, use_rep=None)


@pytest.fixture(scope="module")
def cluster_of_two():
    """A client that is asked only where a test says so."""
    distributed = pytest.importorskip("distributed")
    two = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(**two) as made,
        distributed.Client(made, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zarr", "h5", "dask", "store"])
def test_a_cluster_of_two_workers_gives_the_same(
    kind, tmp_path, small_pieces, cluster_of_two, monkeypatch
):
    asked, over_cluster = [], lazy._on_cluster
    monkeypatch.setattr(lazy, "_on_cluster", lambda c, *a: asked.append(c) or over_cluster(c, *a))
    for name in ("t", "c"):
        (tmp_path / name).mkdir()
    threads, cluster = (laid_down(cells(), kind, tmp_path / name) for name in ("t", "c"))
    verbs = [VERBS["robust_center_scale"], VERBS["whiten"]]

    def run(adata):
        for verb in verbs:
            verb(adata, use_rep="emb")
        profiles = cf.tl.aggregate(adata, by="gene", use_rep="emb")
        return profiles.X, np.asarray(adata.obsm["emb"])

    expected = run(threads)
    with cluster_of_two.as_current():
        found = run(cluster)
    assert asked and all(client is cluster_of_two for client in asked)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_what_a_lost_worker_had_is_handed_out_again_and_a_fault_of_the_job_is_not(monkeypatch):
    """A client of a cluster, as far as it is asked, whose first two answers are lost."""
    lost = type("CommClosedError", (OSError,), {})
    monkeypatch.setitem(sys.modules, "distributed.comm", SimpleNamespace(CommClosedError=lost))
    tried = []

    class Client:
        def scheduler_info(self, n_workers):
            return {"workers": ["one"]}

        def scatter(self, values, **_):
            return values

        def map(self, call, jobs, *, function, pure):
            return [lambda job=job: call(job, function) for job in jobs]

        def gather(self, futures):
            tried.append(len(futures))
            if len(tried) in (1, 3):
                raise lost
            return [future() for future in futures]

        def wait_for_workers(self, n, timeout):
            assert n == 1

    found = list(lazy._on_cluster(Client(), lambda x: 10 * x, range(6)))
    assert found == [0, 10, 20, 30, 40, 50]
    assert tried == [4, 4, 2, 2]
    with pytest.raises(ZeroDivisionError):
        list(lazy._on_cluster(Client(), lambda x: 1 // x, range(6)))
    assert len(tried) == 5
