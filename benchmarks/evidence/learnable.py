"""How much of what can be learnt PETRI's encoders learn, in two minutes and after.

    python benchmarks/evidence/learnable.py [--seeds 0 1 2 3 4] [--minutes 2] [--tiny]

Screens with enough cells, one modality alone (PETRI Omics, PETRI Image), a fifth of the guides held
out. Score: share of the learnable likelihood (counts), or of the learnable variance (pixels), of
hidden tokens of held-out cells: (constant - model) / (constant - linear autoencoder), each cell
rebuilt from itself alone. The linear autoencoder is the closed form (principal components of what
is visible, regression of what is hidden), which no time of training betters. Every model begins
once at it and once at random, and trains for the same time on the clock. Writes
`results/learnable.csv`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import mudata as md
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback

import cellfuse as cf

RESULTS = Path(__file__).resolve().parent / "results" / "learnable.csv"
#: Cells that the linear autoencoder is begun at, and held-out ones that are rebuilt.
N_BEGUN, N_REBUILT = 4096, 2048


class Watch(Callback):
    """Writes the share down at given seconds of training and stops after the last."""

    def __init__(self, share: Any, at: list[float]) -> None:
        self.share, self.left, self.spent = share, list(at), 0.0
        self.rows: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if not self.rows:  # what training begins at
            self._write(trainer, 0.0)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.spent += time.perf_counter() - self._start
        if self.left and self.spent >= self.left[0]:
            self._write(trainer, self.left.pop(0))
            trainer.should_stop = not self.left

    def _write(self, trainer: Any, seconds: float) -> None:
        self.rows.append({"seconds": seconds, "steps": trainer.global_step, "share": self.share()})


def dense(x: Any) -> torch.Tensor:
    return torch.as_tensor(x.toarray() if hasattr(x, "toarray") else np.asarray(x))


def learnt(mdata: md.MuData, role: str, seed: int, at: list[float]) -> list[dict[str, Any]]:
    """Shares over time, begun at the linear autoencoder and at random."""
    adata = mdata[role]
    guides = np.random.default_rng(seed).permutation(adata.obs["guide"].unique())
    held = adata.obs["guide"].isin(guides[: len(guides) // 5]).to_numpy()
    rng = np.random.default_rng(seed)
    x = adata.obsm["crops"] if role == "image" else adata.X
    begun_at, rebuilt = (
        dense(x[np.sort(rng.permutation(np.flatnonzero(rows))[:n])])
        for rows, n in ((~held, N_BEGUN), (held, N_REBUILT))
    )
    rows, linear = [], None
    for begin in ("linear", "random"):
        alone = md.MuData({role: adata[~held].copy()})
        # Without batches: what a well's stain adds is there to be learnt, as the rest is.
        keys = {"image_rep": "crops"} if role == "image" else {}
        cf.PETRI.setup_mudata(alone, context_keys="guide", modalities={role: role}, **keys)
        model = cf.PETRI(alone, begin=begin, seed=seed)

        def share(model: cf.PETRI = model) -> float:
            nonlocal linear
            if linear is None:  # the first model has its channels' statistics by now
                linear = model.module.cell(role).begun(begun_at)
            return float(model.module.share_of_linear(role, rebuilt, linear))

        watch = Watch(share, at)
        model.train(
            max_epochs=10_000, documents_per_context=15, accelerator="cpu",
            enable_progress_bar=False, callbacks=[watch],
        )  # fmt: skip
        rows += [{"role": role, "begin": begin, "seed": seed, **row} for row in watch.rows]
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # a script of its own process
    seconds = 3 if given.tiny else 60 * given.minutes
    rows: list[dict[str, Any]] = []
    for seed in given.seeds[:1] if given.tiny else given.seeds:
        screen = {"cells_per_guide": 20 if given.tiny else 100}
        mdata = cf.datasets.simulated_screen(**screen, seed=seed)
        for role in ("rna", "image"):
            rows += learnt(mdata, role, seed, [seconds / 4, seconds / 2, seconds])
        table = pd.DataFrame(rows)
        print(table.to_string(), flush=True)
        if not given.tiny:
            table.round(4).to_csv(RESULTS, index=False)


if __name__ == "__main__":
    main()
