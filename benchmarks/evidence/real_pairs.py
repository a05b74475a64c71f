"""Real pairs: tissue spots of sections left out, compounds left out; closed forms and PETRI.

    python benchmarks/evidence/real_pairs.py [her2st cdrp jump] [--splits 5] [--tiny]

her2st: the spots of each tile are dealt at random, half to the images, half to the expression, none
to both; the context is the tile; trained on all but one section (genes: the 1,000 with most counts
in those), scored on the section left out by its spots' own pairs: as they come (raw), each side
less its mean over the section (centred), and with log total counts and mean darkness regressed out
of both sides too (out).
cdrp, jump: compounds in five folds, scored on those left out: as they come, each side less its mean
over them (centred), and less its first principal axis too (less first), which is activity. Every
method beside the same on permuted contexts; one PETRI takes minutes, so it has fewer splits.
Components are chosen by what is left out: sections of those trained on, compounds. Writes
`results/real_pairs.csv`: FOSCTTM, chance .5, one row per fold.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import mudata as md
import numpy as np
import pandas as pd

import cellfuse as cf
from cellfuse.kernels.alignment import align

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"


def foscttm(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> float:
    """Of paired rows; columns of `out` regressed out of both sides first."""
    if out is not None:
        a, b = (x - out @ np.linalg.lstsq(out, x, rcond=None)[0] for x in (a, b))
    return float(align(a, b).closer.mean())


def less_first(x: np.ndarray) -> np.ndarray:
    """Centred, without its first principal axis."""
    x = x - x.mean(axis=0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return np.asarray(x - s[0] * np.outer(u[:, 0], vt[0]))


def dealt(obs: pd.DataFrame, rng: np.random.Generator) -> dict[str, bool]:
    """Which spots go to the images: half of each tile, at random; the odd one to either side."""
    found = {}
    for _, spots in obs.groupby("tile", observed=True)["spot"]:
        order = rng.permutation(spots.to_numpy(str))
        n_images = (len(order) + int(rng.integers(2))) // 2
        found |= {spot: number < n_images for number, spot in enumerate(order)}
    return found


def embedded(
    name: str,
    train: md.MuData,
    new: dict,
    setup: dict,
    *,
    permuted: bool,
    seed: int,
    tiny: bool,
    set_size: int = 4,
    left_out_by: str | None = None,
) -> dict[str, np.ndarray]:
    """Train a method on `train` and embed new cells of each modality."""
    if name.startswith("SharedAxes"):
        cf.SharedAxes.setup_mudata(train, **setup)
        how = {"permute_contexts": permuted, "left_out_by": left_out_by, "n_draws": 100}
        model = cf.SharedAxes(train, seed=seed, **how)
        model.train()
        return {
            m: model.get_latent_representation(x, modality=m, axes=name.split()[1])
            for m, x in new.items()
        }
    cf.PETRI.setup_mudata(train, **setup)
    how = {"permute_contexts": permuted, "left_out_by": left_out_by, "set_size": set_size}
    model = cf.PETRI(train, seed=seed, **how)
    epochs = {"max_epochs": 1 if tiny else 4, "documents_per_context": 1 if tiny else 20}
    model.train(**epochs, accelerator="cpu", enable_progress_bar=False)
    return {m: model.get_latent_representation(x, modality=m) for m, x in new.items()}


def methods_of(split: int, petri_splits: int) -> list[str]:
    """PETRI in the first splits only."""
    return ["SharedAxes joint", "SharedAxes shared", *["PETRI"][: split < petri_splits]]


def her2st(splits: int, tiny: bool, petri_splits: int) -> list[dict]:
    """Sections left out in turn."""
    mdata = md.read_h5mu(DATA / "her2st.h5mu")
    counts = np.asarray(mdata["rna"].X.sum(axis=1)).ravel()
    dark = mdata["image"].obsm["crops"].mean(axis=(1, 2, 3))
    rows = []
    for split in range(splits):
        for section in mdata["image"].obs["section"].unique():
            deal = dealt(mdata["image"].obs, np.random.default_rng(split))
            trained_on = mdata["rna"][mdata["rna"].obs["section"] != section]
            most = np.argsort(np.asarray(trained_on.X.mean(axis=0)).ravel())[::-1][:1000]
            genes = mdata["rna"].var_names[most]
            train, new = {}, {}
            for m in ("image", "rna"):
                adata = mdata[m] if m == "image" else mdata[m][:, genes]
                inside = (adata.obs["section"] != section).to_numpy()
                mine = np.array([deal[s] == (m == "image") for s in adata.obs["spot"]])
                train[m] = adata[inside & mine].copy()
                left = adata[~inside].copy()
                new[m] = left[np.argsort(left.obs["spot"].to_numpy(str))].copy()
            spots = [x.obs["spot"].to_numpy(str) for x in new.values()]
            assert (spots[0] == spots[1]).all()
            of = {s: i for i, s in enumerate(mdata["image"].obs["spot"].astype(str))}
            at = {s: i for i, s in enumerate(mdata["rna"].obs["spot"].astype(str))}
            ones = np.ones((len(spots[0]), 1))
            depth, light = counts[[at[s] for s in spots[0]]], dark[[of[s] for s in spots[0]]]
            ways = {
                "raw": None,
                "centred": ones,
                "out": np.column_stack([ones, np.log(depth), light]),
            }
            setup = {"context_keys": "tile", "image_rep": "crops"}
            for name in methods_of(split, petri_splits):
                for permuted in (False, True):
                    z = embedded(
                        name, md.MuData(train), new, setup, permuted=permuted, seed=split,
                        tiny=tiny, left_out_by="section",
                    )  # fmt: skip
                    for what, out in ways.items():
                        rows.append(
                            {"data": "her2st", "what": what, "method": name, "permuted": permuted,
                             "split": split, "fold": section, "foscttm": foscttm(*z.values(), out)}
                        )  # fmt: skip
    return rows


def compounds(which: str, splits: int, tiny: bool, petri_splits: int) -> list[dict]:
    """Compounds in five folds."""
    if which == "cdrp":
        mdata = md.read_h5mu(DATA / "cdrp_bio.h5mu")
        reps = {"image_rep": "X_cp", "rna_rep": "X_l1k"}
        names = dict(zip(("image", "rna"), mdata.mod, strict=True))
        batch = None
    else:
        mdata = md.read_h5mu(DATA / "jump_target1.h5mu")
        names, reps, batch = {"image": "image", "rna": "secretome"}, {}, "plate"
    set_size = 1 if which == "cdrp" else 2  # profiles of a compound
    adatas = {role: mdata[name] for role, name in names.items()}
    both = np.intersect1d(*(a.obs["compound"].astype(str).unique() for a in adatas.values()))
    adatas = {m: a[a.obs["compound"].astype(str).isin(both).to_numpy()].copy()
              for m, a in adatas.items()}  # fmt: skip
    if batch is not None:
        cf.pp.center_scale(
            md.MuData(adatas), use_rep=None, control_key=None, control=None, batch_key=batch,
            key_added="X_plate",
        )  # fmt: skip
        reps = {"image_rep": "X_plate", "rna_rep": "X_plate"}
    rows = []
    for split in range(splits):
        folds = np.random.default_rng(split).permutation(len(both)) % 5
        for fold in range(5):
            held = set(both[folds == fold])
            inside = {m: ~a.obs["compound"].astype(str).isin(held).to_numpy()
                      for m, a in adatas.items()}  # fmt: skip
            train = {m: a[inside[m]].copy() for m, a in adatas.items()}
            new = {m: a[~inside[m]].copy() for m, a in adatas.items()}
            setup = {"context_keys": "compound", **reps}
            for name in methods_of(split, petri_splits):
                for permuted in (False, True):
                    z = embedded(
                        name, md.MuData(train), new, setup, permuted=permuted, seed=split,
                        tiny=tiny, set_size=set_size,
                    )  # fmt: skip
                    means = [
                        pd.DataFrame(z[m]).groupby(new[m].obs["compound"].astype(str).to_numpy())
                        .mean() for m in new
                    ]  # fmt: skip
                    pair = [x.to_numpy() for x in means]
                    ones = np.ones((len(pair[0]), 1))
                    values = {
                        "raw": foscttm(*pair),
                        "centred": foscttm(*pair, ones),
                        "less first": foscttm(*(less_first(x) for x in pair)),
                    }
                    for what, value in values.items():
                        rows.append(
                            {"data": which, "what": what, "method": name, "permuted": permuted,
                             "split": split, "fold": str(fold), "foscttm": value}
                        )  # fmt: skip
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["her2st", "cdrp", "jump"])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--petri", type=int, default=2, help="splits with PETRI")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # a script of its own process
    rows = []
    for name in given.names:
        splits = 1 if given.tiny else given.splits
        rows += (
            her2st(splits, given.tiny, given.petri)
            if name == "her2st"
            else compounds(name, splits, given.tiny, given.petri)
        )
        table = pd.DataFrame(rows)
        keys = ["data", "what", "method", "permuted"]
        print(table.groupby(keys)["foscttm"].agg(["mean", "std", "size"]).round(3), flush=True)
        if not given.tiny:
            kept = HERE / "results" / "real_pairs.csv"
            if kept.exists():  # of other data sets and methods
                before = pd.read_csv(kept)
                done = set(zip(table["data"], table["method"], strict=True))
                other = [
                    pair not in done for pair in zip(before["data"], before["method"], strict=True)
                ]
                table = pd.concat([before[other], table])
            table.round(4).to_csv(kept, index=False)


if __name__ == "__main__":
    main()
