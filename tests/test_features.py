"""Choice of features, consensus profiles, ranks and plate layouts."""

from __future__ import annotations

from itertools import product

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, rankdata, spearmanr
from sklearn.feature_selection import VarianceThreshold

import cellfuse as cf
from cellfuse.kernels.consensus import modz_weights
from cellfuse.kernels.layout import median_polish, well_positions
from cellfuse.pp.features import BLOCKLIST


def wells(values, **obs):
    values = np.asarray(values, dtype=np.float64)
    names = [f"w{i}" for i in range(len(values))]
    var = pd.DataFrame(index=[f"f{j}" for j in range(values.shape[1])])
    return ad.AnnData(values, obs=pd.DataFrame(obs, index=names), var=var)


def dropped(adata, *operations, **kwargs):
    cf.pp.select_features(adata, operations, **kwargs)
    out = adata.var["selected_out"]
    assert ((out == "") == adata.var["selected"]).all()
    return dict(out[out != ""])


# -- features -------------------------------------------------------------------------------------


def test_a_feature_goes_above_the_share_of_missing_values_and_not_at_it():
    values = np.arange(60.0).reshape(20, 3)
    values[0, 1] = values[:2, 2] = np.nan
    assert dropped(wells(values), "drop_na_columns") == {"f2": "drop_na_columns"}
    assert set(dropped(wells(values), "drop_na_columns", na_cutoff=0)) == {"f1", "f2"}


def test_variance_is_scikit_learns_with_missing_values_aside():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 6)) * [1, 1e-3, 9e-4, 1, 1e-9, 1]
    values[:, 5] = 7.0
    values[:3, 3] = np.nan
    kept = VarianceThreshold(1e-6).fit(values).get_support()
    plate = wells(values)
    cf.pp.select_features(plate, "variance_threshold")
    assert plate.var["selected"].tolist() == kept.tolist()
    assert 0 < kept.sum() < 6


def test_values_that_are_nearly_all_the_same_are_told_by_their_frequency():
    n = 400
    values = np.random.default_rng(0).normal(size=(n, 4))
    values[:, 0] = np.where(np.arange(n) < 380, 1.0, values[:, 0])  # 1 of 380
    values[:, 1] = np.arange(n) % 3  # three different values: 3 / 400 is below .01
    values[:, 2] = np.arange(n) % 4  # 4 / 400 is not
    assert set(dropped(wells(values), "frequency_threshold")) == {"f0", "f1"}


def plainly_redundant(frame, threshold, method):
    """The definition, pair by pair."""
    correlation = frame.corr(method=method)
    order = list(correlation.abs().sum().sort_values().index)
    out = set()
    for i, a in enumerate(frame):
        for b in list(frame)[:i]:
            if correlation.loc[a, b] > threshold:
                out.add(max((a, b), key=order.index))
    return out


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("missing", [False, True])
def test_of_a_redundant_pair_the_one_nearer_to_all_goes(method, missing):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(80, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(80, 12)) / 3
    values[:, 4] = -values[:, 3]  # opposite features are both kept
    if missing:
        values[:7, 1] = values[3:9, 5] = np.nan
    plate = wells(values)
    expected = plainly_redundant(plate.to_df(), 0.7, method)
    found = dropped(plate, "correlation_threshold", corr_threshold=0.7, corr_method=method)
    assert set(found) == expected and expected


def test_each_operation_sees_what_those_before_it_left():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 3))
    values[:, 1] = values[:, 0] + rng.normal(size=50) / 50
    values[0, :2] = 900
    both = dropped(wells(values), "drop_outliers", "correlation_threshold")
    assert both == {"f0": "drop_outliers", "f1": "drop_outliers"}
    first = dropped(wells(values), "correlation_threshold", "drop_outliers")
    assert sorted(first.values()) == ["correlation_threshold", "drop_outliers"]


def test_the_blocklist_is_pycytominers_55_and_ones_own():
    assert len(set(BLOCKLIST)) == 55
    assert {"Nuclei_Correlation_RWC_Mito_ER", "Nuclei_Granularity_16_AGP"} <= set(BLOCKLIST)
    plate = wells(np.eye(3))
    plate.var_names = ["Nuclei_Correlation_Manders_AGP_DNA", "Cells_AreaShape_Area", "mine"]
    assert list(dropped(plate, "blocklist")) == ["Nuclei_Correlation_Manders_AGP_DNA"]
    assert list(dropped(plate, "blocklist", blocklist=["mine"])) == ["mine"]


def test_features_that_differ_between_replicates_are_noise():
    rng = np.random.default_rng(0)
    drug = np.repeat(np.arange(10), 4)
    values = np.stack([drug + rng.normal(size=40) / 5, rng.normal(size=40)], axis=1)
    plate = wells(values, drug=drug.astype(str))
    spread = plate.to_df().groupby(drug).std(ddof=0).mean()
    assert spread.iloc[0] < 0.5 < spread.iloc[1]
    given = {"noise_by": "drug", "noise_cutoff": 0.5}
    assert list(dropped(plate, "noise_removal", **given)) == ["f1"]


def test_features_may_be_judged_by_some_wells_only():
    values = np.random.default_rng(0).normal(size=(20, 2))
    values[:10, 1] = 0
    plate = wells(values, split=["train"] * 10 + ["test"] * 10)
    assert dropped(plate, "variance_threshold") == {}
    assert list(dropped(plate, "variance_threshold", fit_on="train", control_key="split")) == ["f1"]


@pytest.mark.parametrize(
    ("operations", "kwargs", "error", "text"),
    [
        (["variance"], {}, KeyError, "Did you mean 'variance_threshold'"),
        ([], {}, ValueError, "no operation"),
        (["noise_removal"], {}, ValueError, "noise_by"),
        (["drop_outliers"], {"outlier_cutoff": 0.0}, ValueError, "no feature is left.*2"),
        (["drop_outliers"], {"layer": "norm"}, KeyError, "layers"),
        (["correlation_threshold"], {"corr_method": "kendall"}, ValueError, "pearson"),
    ],
)
def test_what_cannot_be_selected_is_refused(operations, kwargs, error, text):
    with pytest.raises(error, match=text):
        cf.pp.select_features(wells([[1.0, 2], [3, 4]]), operations, **kwargs)


def test_infinite_values_are_named_by_their_features():
    with pytest.raises(ValueError, match="1 features .'f1'.; write them as NaN"):
        cf.pp.select_features(wells([[1.0, np.inf], [3, 4]]))


# -- consensus ------------------------------------------------------------------------------------


def test_modz_weighs_replicates_by_their_agreement():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=50) + rng.normal(size=(4, 50)) * [[0.3], [0.4], [0.5], [9.0]]
    correlation = spearmanr(rows.T).statistic
    np.fill_diagonal(correlation, np.nan)
    weight = np.maximum(np.nanmean(np.maximum(correlation, 0), axis=1), 0.01)
    weight = np.round(weight / weight.sum(), 4)
    np.testing.assert_allclose(modz_weights(rows), weight, atol=1e-12)
    plate = wells(np.vstack([rows, rows[:1]]), drug=["a"] * 4 + ["b"])
    profiles = cf.tl.aggregate(plate, by="drug", use_rep=None, statistic="modz")
    np.testing.assert_allclose(profiles["a"].X[0], weight @ rows, rtol=1e-5)
    np.testing.assert_allclose(profiles["b"].X[0], rows[0], rtol=1e-6)  # one alone is itself


def test_a_well_with_two_targets_counts_for_both():
    plate = wells([[1.0], [3.0], [5.0], [9.0]], target=["EGFR|ERBB2", "EGFR", "ERBB2 | ERBB2", "|"])
    profiles = cf.tl.aggregate(plate, by="target", use_rep=None, sep="|")
    assert profiles.obs_names.tolist() == ["EGFR", "ERBB2"]
    assert profiles.X.ravel().tolist() == [2.0, 3.0]
    assert profiles.obs["target"].tolist() == ["EGFR", "ERBB2"]
    assert profiles.obs["n_cells"].tolist() == [2, 2]
    whole = cf.tl.aggregate(plate, by="target", use_rep=None)
    assert whole.n_obs == 4


def test_subgroups_are_averaged_within_each_of_several_targets():
    plate = wells([[0.0], [2.0], [9.0]], target=["A|B", "A|B", "A"], guide=["g1", "g1", "g2"])
    profiles = cf.tl.aggregate(plate, by="target", use_rep=None, within="guide", sep="|")
    assert profiles.X.ravel().tolist() == [5.0, 1.0]


# -- ranks ----------------------------------------------------------------------------------------


def test_ranks_become_normal_quantiles_within_each_batch():
    values = np.random.default_rng(0).integers(0, 6, size=(31, 2)).astype(float)
    plate = wells(values, plate=["a"] * 11 + ["b"] * 20)
    cf.pp.inverse_normal(plate, use_rep=None, batch_key="plate")
    for rows in (slice(0, 11), slice(11, 31)):
        n = rows.stop - rows.start
        expected = norm.ppf((rankdata(values[rows], axis=0) - 3 / 8) / (n + 0.25))
        np.testing.assert_allclose(plate.X[rows], expected)
    with pytest.raises(ValueError, match="offset=1"):
        cf.pp.inverse_normal(plate, use_rep=None, offset=1)


# -- layouts --------------------------------------------------------------------------------------


def plate_384(n_features=3, seed=0):
    """Wells of noise with strong effects in some wells, and what row and column add."""
    rng = np.random.default_rng(seed)
    names = [f"{row}{column:02}" for row, column in product("ABCDEFGHIJKLMNOP", range(1, 25))]
    noise = rng.normal(size=(384, n_features)) / 10
    noise[rng.choice(384, 40, replace=False)] += 5
    row, column = rng.normal(size=(16, n_features)), rng.normal(size=(24, n_features))
    added = np.repeat(row, 24, axis=0) + np.tile(column, (16, 1))
    return names, noise, added


def test_rows_and_columns_are_taken_away_and_strong_wells_stay():
    names, noise, added = plate_384()
    plate = wells(noise + added + 7, well=names)
    cf.pp.correct_layout(plate, use_rep=None, batch_key=None)
    off = plate.X - noise
    assert (off - np.median(off, axis=0)).std() < 0.1 < 1 < added.std()
    np.testing.assert_allclose(
        np.median(plate.X, axis=0), np.median(noise + added + 7, axis=0), atol=0.3
    )


def test_the_polish_is_tukeys_by_hand():
    table = np.array([[13.0, 17, 26, 18], [42, 48, 57, 41], [34, 31, 36, 22]])
    row, column = np.divmod(np.arange(12), 4)
    by_row, by_column = median_polish(table.reshape(-1, 1), row, column)
    rest = table - by_row - by_column.T
    for axis in (0, 1):
        middle = np.median(rest, axis=axis)
        np.testing.assert_allclose(middle, np.median(middle), atol=0.51)
    assert np.abs(rest - np.median(rest)).sum() < np.abs(table - np.median(table)).sum() / 3


def test_plates_are_corrected_apart_and_cells_by_their_wells():
    names, noise, added = plate_384()
    cells = wells(
        np.vstack([noise + added, noise - added, noise - added]),
        well=names * 3,
        plate=["p1"] * 384 + ["p2"] * 768,
    )
    cf.pp.correct_layout(cells, use_rep=None, batch_key="plate")
    for part in np.split(cells.X, 3):
        off = part - noise
        assert (off - np.median(off, axis=0)).std() < 0.1
    np.testing.assert_array_equal(cells.X[384:768], cells.X[768:])


def test_the_names_of_wells_are_read_as_they_come():
    row, column = well_positions(["A01", "b7", "P24", "AF48", " C-03", "H_12"])
    assert row.tolist() == [0, 1, 15, 31, 2, 7]
    assert column.tolist() == [0, 6, 23, 47, 2, 11]


def test_what_has_no_layout_is_refused():
    plate = wells(np.eye(4), well=["A1", "A2", "well 3", "?"])
    with pytest.raises(ValueError, match="'well 3', '.'; expected"):
        cf.pp.correct_layout(plate, use_rep=None, batch_key=None)
    plate.obs["well"] = ["A1", "A2", "A3", "A4"]
    with pytest.raises(ValueError, match="1 rows and 4 columns"):
        cf.pp.correct_layout(plate, use_rep=None, batch_key=None)
    plate.obs["well"] = ["A1", "A2", "B1", "B2"]
    with pytest.warns(UserWarning, match="fewer than 6 wells"):
        cf.pp.correct_layout(plate, use_rep=None, batch_key=None)
