"""PhenoSeq's and TIDE's parts of the results page; called by `make_results_page.py`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from _methods import NONE, TIMES, Cell, Table, pivot, read


def many(frame: pd.DataFrame, column: str, noun: str = "") -> str:
    """Count of different values with its noun, such as "1 seed" or "5 seeds"."""
    n = frame[column].nunique()
    return f"{n} {noun or column}" + ("" if n == 1 else "s")


def phenoseq(table: Table, cell: Cell) -> str:
    """PhenoSeq on simulated screens and CPJUMP1."""
    columns = {
        "accuracy_at_1": "rank 1",
        "mrr": "MRR",
        "specificity": "specificity",
        "pearson": "Pearson",
    }
    text = ["### Synthetic profiles on simulated screens\n"]
    frame = read("phenoseq_simulated")
    if frame is None:
        text.append(NONE)
    else:
        chance = "; ".join(
            f"{part['chance_mrr'].mean():.2f} for {name}"
            for name, part in frame.groupby("held_out", sort=False)
        )
        text.append(
            f"{many(frame, 'seed')}; 30 targets, cells dealt to four replicates. The "
            "mean synthetic profile of a treatment ranks the real ones of all held-out samples. "
            f"MRR by chance: {chance}. *Not shared*: both modalities respond, in unrelated ways. "
            "Ten draws are in pairs of opposite noise, the others independent. Intervals over "
            "seeds.\n"
        )
        text.append(table(pivot(frame, ["screen", "held_out", "method"], columns, cell)))
    text.append("### Treatments told from synthetic profiles\n")
    frame = read("phenoseq_classify")
    if frame is None:
        text.append(NONE)
    else:
        text.append(_classified(frame, table, cell))
    text.append("### Images to secretome (CPJUMP1)\n")
    frame = read("phenoseq_jump")
    if frame is None:
        text.append(NONE)
    else:
        # Folds share their compounds: the interval is over seeds of the mean over folds.
        means = frame.groupby(["held_out", "method", "seed"], sort=False).mean(numeric_only=True)
        chance = "; ".join(
            f"{part['chance_mrr'].mean():.3f} among {part['n'].mean():.0f} compounds ({name})"
            for name, part in frame.groupby("held_out", sort=False)
        )
        text.append(
            f"{many(frame, 'seed')} of {frame['fold'].nunique()} folds of compounds, and "
            f"of two halves of the plates. MRR by chance: {chance}.\n"
        )
        names = {"euclidean": "Euclidean"}
        text.append(
            table(pivot(means.reset_index(), ["held_out", "method"], columns | names, cell))
        )
    return "\n".join(text)


def _classified(frame: pd.DataFrame, table: Table, cell: Cell) -> str:
    frame = frame.assign(n_cells=["all" if np.isnan(n) else str(int(n)) for n in frame["n_cells"]])
    columns = {
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        "weighted_f1": "weighted F1",
        "gap_recovered": "gap recovered",
    }
    return (
        f"{many(frame, 'seed', 'screen')}; trained on two replicates, tested on a third "
        f"(chance {frame['chance'].mean():.2f}). *Gap recovered*: of what real RNA adds to images, "
        "the share that synthetic RNA adds. With 32 cells drawn at a time a synthetic profile, "
        "which comes from all images of its sample, has seen more than they have; only *all* "
        "compares like with like.\n\n"
        + table(pivot(frame, ["screen", "n_cells", "input"], columns, cell))
    )


def curves(table: Table, cell: Cell) -> str:
    """Validation loss of PhenoSeq against seconds of training, by RNA cells per document."""
    frame = read("phenoseq_curves", folder=TIMES)
    if frame is None:
        return ""
    ends = frame.groupby(["rna_per_document", "seed"])["seconds"].max()
    whole = float(ends.min())  # all were still training then
    rows = []
    for (m, seed), run in frame.groupby(["rna_per_document", "seed"]):
        row: dict[str, float] = {"m": m, "seed": seed, "epoch": ends[m, seed] / len(run)}
        for share in (0.1, 0.25, 0.5, 1.0):
            done = run[run["seconds"] <= share * whole]["validation_loss"]
            row[f"{share:g}"] = float(done.min()) if len(done) else float("nan")
        row["lowest"] = float(run["validation_loss"].min())
        rows.append(row)
    columns = {"epoch": "seconds per epoch"}
    columns |= {f"{s:g}": f"after {s * whole:.0f} s" for s in (0.1, 0.25, 0.5, 1.0)}
    columns["lowest"] = "at the end"
    found = pivot(pd.DataFrame(rows), ["m"], columns, cell)
    return (
        "`python benchmarks/speed/phenoseq_training.py curves`: lowest validation loss so far, "
        "against "
        "seconds of training (validation not counted); equal data and epochs, "
        f"{many(frame, 'seed')}. m: RNA cells per document.\n\n" + table(found)
    )


def tide(table: Table, cell: Cell) -> str:
    """TIDE and its baselines."""
    text = ["### Simulated drugs: one-shot transfer and target discovery\n"]
    frame = read("tide_simulated")
    more = read("tide_variants")
    if frame is None:
        text.append(NONE)
    else:
        whole = frame if more is None else pd.concat([frame, more], ignore_index=True)
        text.append(_simulated_drugs(whole, table, cell))
    frame = read("tide_begin")
    text.append("### Begun at the closed form\n")
    text.append(NONE if frame is None else _begun(frame, table, cell))
    for name, head, part in (
        ("tide_pairs", "Simulated drugs: profiles per drug", _pairs),
        ("tide_jump", "Compounds against knock-outs of their targets (CPJUMP1)", _jump),
        ("tide_l1000", "Response model, held-out drugs and doses (L1000)", _l1000),
        ("tide_cellpainting", "Dose in the conditioned embedding (LINCS)", _cellpainting),
    ):
        frame = read(name)
        text.append(f"### {head}\n")
        text.append(NONE if frame is None else part(frame, table, cell))
    return "\n".join(text)


TASKS = {
    "one_shot_genes_top1_accuracy": "genes, top 1",
    "one_shot_genes_top5_accuracy": "top 5",
    "one_shot_unseen_compounds_top1_accuracy": "unseen compounds, top 1",
    "targets_all_ap": "targets, AP",
    "targets_all_auc": "AUC",
    "targets_all_hit": "Hit@5",
    "targets_unseen_ap": "AP, unseen compounds",
}


def _simulated_drugs(frame: pd.DataFrame, table: Table, cell: Cell) -> str:
    pieces = [
        f"{many(frame, 'seed')}; 48 drugs of 12 mechanisms, a quarter of each "
        "mechanism's held out before training; knock-outs were never trained on. One-shot "
        "transfer: the nearest of one labelled image per perturbation (chance "
        f"{frame['one_shot_genes_top1_chance'].mean():.3f} and "
        f"{frame['one_shot_genes_top5_chance'].mean():.2f} for genes, "
        f"{frame['one_shot_unseen_compounds_top1_chance'].mean():.3f} for compounds). Targets: "
        f"knock-outs ranked by likeness (chance {frame['targets_all_ap_chance'].mean():.2f} AP, "
        f".5 AUC, {frame['targets_all_hit_chance'].mean():.2f} Hit@5). *True latent* is what the "
        "images were rendered from: a ceiling.\n",
        table(pivot(frame, ["method"], TASKS, cell)),
    ]
    key = "same_mechanism_auc_prototype"
    own = frame[frame[key].notna()] if key in frame else frame[:0]  # a run that is not done yet
    if len(own):
        names = {
            "same_mechanism_auc_fingerprint": "fingerprints",
            "same_mechanism_auc_initial_prototype": "prototypes at the start",
            "same_mechanism_auc_prototype": "prototypes at the end",
            "response_held-out_r2": "response model: R² on held-out drugs",
            "response_held-out_r2_over_mean_change": "over the mean change",
        }
        pieces.append(
            "Are drugs of one mechanism nearer than others (AUC over pairs), and what does the "
            "response model explain of drugs it did not see?\n"
        )
        pieces.append(table(pivot(own, ["method"], names, cell)))
    return "\n".join(pieces)


def _begun(frame: pd.DataFrame, table: Table, cell: Cell) -> str:
    """TIDE begun linear and at random beside the closed form of the images alone."""
    own = frame[frame["method"] == "TIDE, begin linear"]
    without = int((own["learnt_weight"] == 0).sum())
    response = own["response_held-out_r2"] - own["response_held-out_mean_change_r2"]
    return (
        f"`benchmarks/evidence/tide_begin.py`: {many(frame, 'seed')} of the same screens, eight "
        "epochs without a self-supervised term; settings were fixed on seed 100. *Closed form*: "
        "shared axes of the images by drug, cell line and dose, without expression and without a "
        "network. Drugs that were never named gave the encoder no weight on "
        f"{without} of {len(own)} seeds. The response model explains "
        f"{own['response_held-out_r2'].mean():.2f} of the change of held-out drugs, by seed "
        f"{' '.join(f'{d:+.2f}' for d in response)} over the mean change.\n\n"
        + table(pivot(frame, ["method"], TASKS, cell))
    )


def _pairs(frame: pd.DataFrame, table: Table, cell: Cell) -> str:
    wide = frame.assign(tuned=frame["fine_tuned"].map({True: "yes", False: "no"}))
    wide = wide.rename(columns={"n_paired": "profiles per drug", "cell_line": "cell line"})
    by = ["cell line", "profiles per drug", "tuned"]
    return f"{many(frame, 'seed')}; running mean of the encoder.\n\n" + table(
        pivot(wide.sort_values(by), by, TASKS, cell)
    )


def _jump(frame: pd.DataFrame, table: Table, cell: Cell) -> str:
    columns = {
        "ap": "AP",
        "ap_chance": "AP by chance",
        "auc": "AUC",
        "hit": "Hit@5",
        "hit_chance": "Hit@5 by chance",
        "other_plate_top1_accuracy": "one shot, other plate",
        "other_well_top1_accuracy": "other well",
        "other_well_top1_chance": "by chance",
        "replicates_gene": "replicates, genes",
        "replicates_compound": "replicates, compounds",
    }
    lows = frame.groupby(["cell_line", "hours_compound", "hours_gene"])[["auc_low", "auc_high"]]
    shown = "; ".join(
        f"{line}, {a:g} and {b:g} h: {low:.2f} to {high:.2f}"
        for (line, a, b), (low, high) in lows.mean().iterrows()
    )
    return (
        "Nothing is trained: 15 phenotype probabilities. Intervals of the AUC over compounds: "
        f"{shown}. One shot (top 1): the reference is on another plate, where "
        "the same guide has the same well, or in another well. *Replicates*: "
        "median correlation of a feature between two plates of one layout.\n\n"
        + table(pivot(frame, ["cell_line", "hours_compound", "hours_gene"], columns, cell))
    )


def _l1000(frame: pd.DataFrame, table: Table, cell: Cell) -> str:
    columns = {
        "r2": "R² of the change",
        "r2_over_mean_change": "over the mean change",
        "mean_change_r2": "R² of the mean change",
        "correlation": "correlation",
    }
    frame = frame.assign(dose=frame["use_dose"].map({True: "told", False: "not told"}))
    n = int(frame["n_drugs"].max())
    head = (
        f"{many(frame, 'seed')}; A375, six doses; a fifth of the drugs, or two of the "
        f"doses (of {n} drugs), held out.\n\n"
    )
    return head + table(pivot(frame, ["task", "dose"], columns, cell))


def _cellpainting(frame: pd.DataFrame, table: Table, cell: Cell) -> str:
    frame = frame.assign(dose=frame["film"].map({True: "told (FiLM)", False: "not told"}))
    columns = {"dose_rank_correlation": "rank correlation of dose and distance from DMSO"}
    return (
        f"{many(frame, 'seed')}, {int(frame['n_drugs'].max())} drugs of one plate; the "
        "teacher's image branch alone, trained to name the drug. An embedding whose dose is peeled "
        "should not tell it.\n\n" + table(pivot(frame, ["dose", "view"], columns, cell))
    )
