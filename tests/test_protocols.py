"""The chain of a profiling pipeline, as the guide's page of protocols has it, on made-up plates."""

from __future__ import annotations

from itertools import product

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf


@pytest.fixture
def plates(tmp_path):
    """Four randomised plates of 96 wells: eight compounds, of which six do something; edges."""
    rng = np.random.default_rng(0)
    targets = ["A|B", "A", "B|C", "C", "D", "D", "", ""]
    mixing, effects = rng.normal(size=(12, 40)), 3 * rng.normal(size=(4, 12))
    sums = [
        sum((effects["ABCD".index(t)] for t in text.split("|") if t), np.zeros(12))
        for text in targets
    ]
    names = [f"{row}{column:02}" for row, column in product("ABCDEFGH", range(1, 13))]
    edge = np.array([n[0] in "AH" or n[1:] in ("01", "12") for n in names])
    paths = []
    for p in range(4):
        which = rng.permutation(np.repeat([*range(8), 8, 8, 8, 8], 8))
        hidden = rng.normal(size=(96, 12)) + np.array([*sums, np.zeros(12)])[which]
        values = hidden @ mixing + rng.normal(size=(96, 40)) + 8 * edge[:, None] + 5 * p
        table = pd.DataFrame(
            values * np.logspace(-2, 3, 40), columns=[f"Cells_f{j}" for j in range(40)]
        )
        table["Cells_flat"], table["Cells_copy"] = 1.0, table["Cells_f0"] * 2
        compound = np.array([*(f"c{i}" for i in range(8)), "DMSO"])[which]
        table.insert(0, "Metadata_compound", compound)
        table.insert(1, "Metadata_target", np.array([*targets, ""])[which])
        table.insert(2, "Metadata_plate", f"p{p}")
        table.insert(3, "Metadata_well", names)
        paths.append(tmp_path / f"plate{p}.csv")
        table.to_csv(paths[-1], index=False)
    return cf.io.read_profiles(paths, strip_prefix=True)


def test_a_profiling_pipeline_goes_through_from_tables_to_targets(plates):
    given = {"control_key": "compound", "control": "DMSO", "batch_key": "plate"}
    with pytest.warns(UserWarning, match="zero spread"):
        cf.pp.mad_robustize(plates, use_rep=None, **given)
    cf.pp.select_features(plates)
    out = plates.var["selected_out"]
    assert out["Cells_flat"] == "variance_threshold"
    assert "correlation_threshold" in (out["Cells_copy"], out["Cells_f0"])
    plates = plates[:, plates.var["selected"]].copy()
    cf.pp.correct_layout(plates, use_rep=None, batch_key="plate")
    cf.pp.whiten(
        plates, use_rep=None, method="zca-cor", eps="auto", fit_on="DMSO", control_key="compound"
    )
    active = cf.tl.mean_average_precision(
        plates,
        by="compound",
        negatives_by="plate",
        control="DMSO",
        positives_across=["plate", "well"],
        n_boot=0,
    )
    assert active["significant"].to_dict() == {f"c{i}": i < 6 for i in range(8)}
    table = cf.tl.knn_accuracy(
        plates,
        use_rep=None,
        by="compound",
        k=5,
        group_key=["plate", "well"],
        control="DMSO",
        n_boot=0,
    )
    assert table["accuracy"].iloc[0] > 0.6
    compounds = cf.tl.aggregate(plates, by="compound", use_rep=None, statistic="modz")
    compounds = compounds[compounds.obs["target"].notna()].copy()
    by_target = cf.tl.aggregate(compounds, by="target", use_rep=None, sep="|")
    assert by_target.obs_names.tolist() == ["A", "B", "C", "D"]
    found = cf.tl.mean_average_precision(compounds, by="target", sep="|", n_boot=0)
    assert found["n"].to_dict() == {"A": 2, "B": 2, "C": 2, "D": 2}
    assert found["map"].mean() > 0.8


def test_discovery_ranks_targets_among_sampled_genes_and_among_all():
    rng = np.random.default_rng(0)
    genes = ad.AnnData(
        rng.normal(size=(60, 16)), obs=pd.DataFrame(index=[f"g{i}" for i in range(60)])
    )
    x = genes.X[:12] + 2 * rng.normal(size=(12, 16))
    compounds = ad.AnnData(x, obs=pd.DataFrame(index=[f"c{i}" for i in range(12)]))
    known = pd.DataFrame({"source": compounds.obs_names, "target": genes.obs_names[:12]})
    rows = {
        kind: cf.tl.target_discovery(compounds, genes, known, negatives=kind, n_boot=0).loc["all"]
        for kind in ("sampled", "all")
    }
    assert rows["sampled"]["ap"] > rows["all"]["ap"] > rows["all"]["ap_chance"]
    assert rows["sampled"]["ap_chance"] > 2 * rows["all"]["ap_chance"]  # 12 genes, and 60
