"""BatchTopK step, rank tests and activations, at the paper's size.

The peer of the step is the plain formula (dense decoder, top-k over the flattened activations,
gradient projection), in the same run. Run: python benchmarks/speed/concepts.py (about ten minutes;
SCALE=0.1 for a tenth of the cells).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import _measure
import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.data.csr import CSRMemory
from cellfuse.kernels.rank_tests import rank_sums, two_sided
from cellfuse.nn import BatchTopK

SCALE = float(os.environ.get("SCALE", "1"))
CELLS, WIDTH, CONCEPTS, K = 1024, 768, 15_360, 500
STEPS = 5
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


class Plain(nn.Module):
    """BatchTopK as its authors write it."""

    def __init__(self) -> None:
        super().__init__()
        rows = F.normalize(torch.randn(CONCEPTS, WIDTH), dim=1)
        self.w_enc, self.w_dec = nn.Parameter(rows.T.clone()), nn.Parameter(rows.clone())
        self.b_enc, self.b_dec = (
            nn.Parameter(torch.zeros(CONCEPTS)),
            nn.Parameter(torch.zeros(WIDTH)),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        acts = F.relu((x - self.b_dec) @ self.w_enc + self.b_enc)
        top = torch.topk(acts.flatten(), K * len(x))
        kept = torch.zeros_like(acts.flatten()).scatter(-1, top.indices, top.values)
        return {"loss": (kept.view_as(acts) @ self.w_dec + self.b_dec - x).pow(2).mean()}

    def project(self) -> None:
        unit = self.w_dec / self.w_dec.norm(dim=-1, keepdim=True)
        self.w_dec.grad -= (self.w_dec.grad * unit).sum(-1, keepdim=True) * unit
        self.w_dec.data = unit


def steps(make: Callable[[], nn.Module]) -> Callable[[], Any]:
    torch.manual_seed(0)
    model, x = make(), torch.randn(CELLS, WIDTH)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4, fused=True)

    def work() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(x)["loss"].backward()
            if isinstance(model, Plain):
                model.project()
            optimizer.step()

    return work


def tests() -> Callable[[], Any]:
    """100,000 cells with 500 of 15,360 concepts, in 2,000 perturbations."""
    n, groups = int(100_000 * SCALE), 2000
    rng = np.random.default_rng(0)
    columns = rng.integers(0, CONCEPTS, (n, K), dtype=np.int32)
    columns.sort(axis=1)
    values = rng.random(n * K, dtype=np.float32)
    matrix = sp.csr_matrix(
        (values, columns.ravel(), np.arange(0, n * K + 1, K)), shape=(n, CONCEPTS)
    )
    codes = rng.integers(0, groups, n)
    codes[rng.random(n) < 0.05] = -1

    def work() -> None:
        found = rank_sums(matrix, codes, groups)
        for start in range(0, groups, 64):
            two_sided(found.shift[start : start + 64], found.variance[start : start + 64])

    return work


def activations() -> Callable[[], Any]:
    """A million cells of width 64, 32 of 1,024 concepts each: the small preset."""
    n, width = int(1_000_000 * SCALE), 64
    x = np.random.default_rng(0).standard_normal((n, width), dtype=np.float32)
    torch.manual_seed(0)
    sae = BatchTopK(width, 1024, 32)
    with torch.no_grad():
        sae(torch.from_numpy(x[:4096]))
    sae.eval()

    @torch.inference_mode()
    def work() -> None:
        sink = CSRMemory(1024)
        for start in range(0, n, 1024):
            value, kept = sae.activations(torch.from_numpy(x[start : start + 1024]))
            counts = torch.bincount(kept.row, minlength=kept.shape[0]).cumsum(0).numpy()
            indptr = np.concatenate([[0], counts])
            indices = kept.column.to(torch.int32).numpy()
            sink.add(sp.csr_matrix((value.numpy(), indices, indptr), shape=kept.shape))
        sink.finish()

    return work


JOBS = {
    "BatchTopK, 5 steps": lambda: steps(lambda: BatchTopK(WIDTH, CONCEPTS, K)),
    "plain formula, 5 steps": lambda: steps(Plain),
    "15,360 concepts x 2,000 perturbations": tests,
    "activations of 1 M cells (small preset)": activations,
}
COMPARISONS = [
    {
        "what": "BatchTopK step over the plain formula",
        "ours": "BatchTopK, 5 steps",
        "peer": "plain formula, 5 steps",
        "at_least": 2,
    },
    {
        "what": "15,360 concepts x 2,000 perturbations tested",
        "ours": "15,360 concepts x 2,000 perturbations",
        "at_most_seconds": 30,
    },
    {
        "what": "activations of 1 M cells, peak memory with its input (2 GB beyond it)",
        "ours": "activations of 1 M cells (small preset)",
        "at_most_memory": 1 + 2e9 / (256e6 * SCALE),
        "input_bytes": 256e6 * SCALE,
    },
]

if __name__ == "__main__":
    _measure.main(__file__, JOBS, COMPARISONS, packages=("torch",))
