"""BatchTopK sparse autoencoder (Bussmann et al. 2024): concepts of an embedding (PETRI, 4.3).

Of the ``B x n_concepts`` activations of a batch ``B x k`` are kept, some 3% in the paper. They are
therefore held as (row, column, value): the decoder sums the rows of its weights that are needed,
and the backward pass touches nothing else. Only the encoder is a dense product.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.keyed import uniform

__all__ = ["BatchTopK", "Kept", "largest"]

#: Numbers of a dense block that is made and thrown away, small enough to stay in the cache.
BLOCK = 1 << 21
#: Share by which the first guess of the bound is generous.
SLACK = 1.15
#: Length at which a unit begins anew, of that of the living (Bricken et al. 2023): in an embedding
#: of few dimensions many begin along one of them, and at full length would all be kept at once.
NEWBORN = 0.2


@dataclass(frozen=True)
class Kept:
    """Where the activations of a batch are that are not zero, row by row.

    Parameters
    ----------
    row, column
        Cell and concept of each, ``(nnz,)``, in ascending order of ``row * n_columns + column``.
    shape
        Cells and concepts.
    """

    row: Tensor
    column: Tensor
    shape: tuple[int, int]

    @classmethod
    def from_flat(cls, flat: Tensor, shape: tuple[int, int]) -> Kept:
        """Make it from ascending places in the flattened array."""
        row = torch.div(flat, shape[1], rounding_mode="floor")
        return cls(row, flat - row * shape[1], shape)

    def by_row(self, values: Tensor, table: Tensor) -> Tensor:
        """Sum of the rows of `table` at the columns, weighted: ``(cells, width)``."""
        starts = _starts(self.row, self.shape[0])
        return _weighted_sums(starts, self.column, values, table)

    def by_column(self, values: Tensor, table: Tensor) -> Tensor:
        """Sum of the rows of `table` at the rows, weighted: ``(concepts, width)``."""
        order, row, starts = self._columns
        return _weighted_sums(starts, row, values[order], table)

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """Order of the columns, the rows in it, and where each column starts."""
        order = torch.argsort(self.column, stable=True)
        return order, self.row[order], _starts(self.column[order], self.shape[1])

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """Product of ``left[row]`` and ``right[column]``, ``(nnz,)``.

        Where there is no routine for it, a dense product in blocks: at a few percent of the places
        that is faster than gathering rows.
        """
        if left.device.type == "cpu" and torch.backends.mkl.is_available():
            return _sampled(self, left, right)
        out = left.new_empty(len(self.row))
        step = max(1, BLOCK // self.shape[1])
        edges = torch.arange(0, self.shape[0] + step, step, device=left.device)
        ends = torch.searchsorted(self.row, edges).tolist()
        flat = self.row * self.shape[1] + self.column
        for i, (a, b) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
            block = left[i * step : (i + 1) * step] @ right.T
            out[a:b] = block.view(-1)[flat[a:b] - i * step * self.shape[1]]
        return out


def _sampled(kept: Kept, left: Tensor, right: Tensor) -> Tensor:
    """The same by MKL, which computes these places alone."""
    ends = _starts(kept.row, kept.shape[0] + 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        places = torch.sparse_csr_tensor(
            ends, kept.column, left.new_zeros(len(kept.row)), kept.shape, check_invariants=False
        )
    return torch.sparse.sampled_addmm(places, left, right.T, beta=0.0).values()


def _starts(ascending: Tensor, n: int) -> Tensor:
    return torch.searchsorted(ascending, torch.arange(n, device=ascending.device))


def _weighted_sums(starts: Tensor, which: Tensor, values: Tensor, table: Tensor) -> Tensor:
    """Sums of ``values * table[which]`` from each start to the next, ``(len(starts), width)``."""
    return F.embedding_bag(which, table, starts, per_sample_weights=values, mode="sum")


class _Encode(torch.autograd.Function):
    """Activations that were kept; their gradient reaches only the weights that made them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, centre: Tensor, weight: Tensor, bias: Tensor, pre: Tensor, kept: Kept
    ) -> Tensor:
        ctx.save_for_backward(x, centre, weight)
        ctx.kept = kept
        return pre.view(-1)[kept.row * kept.shape[1] + kept.column]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, centre, weight = ctx.saved_tensors
        kept: Kept = ctx.kept
        of_bias = grad.new_zeros(kept.shape[1]).index_add_(0, kept.column, grad)
        of_weight = kept.by_column(grad, x).addr_(of_bias, centre, alpha=-1)
        return None, -(of_bias @ weight), of_weight, of_bias, None, None


class _Decode(torch.autograd.Function):
    """Sum of the decoder's rows, weighted by the activations."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, kept: Kept) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.kept = kept
        return kept.by_row(values, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        values, weight = ctx.saved_tensors
        kept: Kept = ctx.kept
        return kept.dots(grad, weight), kept.by_column(values, grad), None


def largest(values: Tensor, n: int) -> Tensor:
    """Places of the `n` largest positive entries of a flat tensor, ascending (fewer if there are).

    A bound that leaves a little more than `n` is taken from a sample; only what is above it is
    looked at closely. Ties at the bound are decided by place.
    """
    if n >= len(values):
        return (values > 0).nonzero()[:, 0]
    sample = values[:: max(1, len(values) // 100_000)]
    share = min(1.0, n / len(values) * SLACK)
    bound = sample.kthvalue(max(1, int(len(sample) * (1 - share)))).values.clamp_min(0)
    flat = (values > bound).nonzero()[:, 0]
    if len(flat) < n and bound > 0:  # an unlucky sample
        flat = (values > 0).nonzero()[:, 0]
    if len(flat) <= n:
        return flat
    candidates = values[flat]
    last = candidates.kthvalue(len(flat) - n + 1).values
    above = candidates > last
    tied = (candidates == last).nonzero()[: n - int(above.sum()), 0]
    above[tied] = True
    return flat[above]


class BatchTopK(nn.Module):
    """Sparse autoencoder that keeps the largest activations of a whole batch.

    ``f = relu((z - b_dec) W_enc + b_enc)`` with z the standardised embedding; over the B cells of a
    batch the ``B x k`` largest stay; ``z' = f W_dec + b_dec``. The loss is the mean squared error
    plus ``aux_weight`` times that of the auxiliary task: dead units rebuild what is left over,
    which is taken as given (detached), so that the living are not bent towards it. A unit that
    this does not wake for as long again begins anew at what is left over of a cell that is rebuilt
    badly (Bricken et al. 2023).

    Parameters
    ----------
    n_inputs
        Width of the embedding.
    n_concepts
        Units.
    k
        Activations kept for each cell, on average over a batch.
    k_aux
        Dead units that may help to rebuild a cell; half the width (dictionary_learning).
    aux_weight
        Weight of the auxiliary loss, 1/32.
    dead_after
        Cells after which a unit that none of them activated is dead.
    memory
        Steps over which the threshold is averaged in a long training, 1,000 (momentum .999); in
        a short one, a tenth of the steps so far.

    Attributes
    ----------
    threshold
        Activation above which a unit is active when cells are looked at one by one: the running
        mean of the smallest one that was kept in training, so that the concepts of a cell do not
        hang on the cells beside it.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import BatchTopK
    >>> sae = BatchTopK(n_inputs=8, n_concepts=32, k=4)
    >>> losses = sae(torch.randn(64, 8))
    >>> losses["n_active"].item()  # on average; one cell may have more, another fewer
    4.0
    """

    mean: Tensor
    scale: Tensor
    threshold: Tensor
    steps: Tensor
    idle: Tensor
    revived: Tensor

    def __init__(
        self,
        n_inputs: int,
        n_concepts: int,
        k: int,
        *,
        k_aux: int | None = None,
        aux_weight: float = 1 / 32,
        dead_after: int = 50_000,
        memory: int = 1000,
    ) -> None:
        super().__init__()
        if not 1 <= k <= n_concepts:
            raise ValueError(f"k={k}: expected a number from 1 to n_concepts={n_concepts}.")
        self.k, self.k_aux = k, max(1, n_inputs // 2) if k_aux is None else k_aux
        self.aux_weight, self.dead_after, self.memory = aux_weight, dead_after, memory
        # The encoder begins as the decoder's transpose.
        rows = F.normalize(torch.randn(n_concepts, n_inputs), dim=1)
        self.encoder = nn.Parameter(rows.clone())
        self.bias = nn.Parameter(torch.zeros(n_concepts))
        self.decoder = nn.Parameter(rows)
        self.centre = nn.Parameter(torch.zeros(n_inputs))
        self.decoder.register_post_accumulate_grad_hook(_project)
        self.register_buffer("mean", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("idle", torch.zeros(n_concepts, dtype=torch.long))
        self.register_buffer("revived", torch.zeros((), dtype=torch.long))

    @property
    def n_concepts(self) -> int:
        """Number of units."""
        return len(self.bias)

    @property
    def dead(self) -> Tensor:
        """Units that none of the last ``dead_after`` cells activated, ``(n_concepts,)``."""
        return self.idle >= self.dead_after

    def set_statistics(self, mean: Tensor, sd: Tensor) -> None:
        """Take the training set's mean, and one scale for all dimensions.

        After it the mean squared length of an embedding is its width. Dimensions keep their
        proportions, which are a part of what the embedding says.
        """
        self.mean.copy_(mean)
        total = sd.square().mean().sqrt()
        self.scale.copy_(total if total > 0 else torch.ones_like(total))

    def standardise(self, x: Tensor) -> Tensor:
        """Embeddings as the network's input."""
        return (x.float() - self.mean) / self.scale

    def activations(self, x: Tensor) -> tuple[Tensor, Kept]:
        """Concepts of cells looked at one by one: values above the threshold, and their places."""
        pre = self._encode(self.standardise(x))
        flat = (pre.view(-1) > self.threshold).nonzero()[:, 0]
        return pre.view(-1)[flat], Kept.from_flat(flat, (len(x), self.n_concepts))

    def rebuild(self, values: Tensor, kept: Kept) -> Tensor:
        """Embeddings, on the scale of the data, from concepts."""
        return (kept.by_row(values, self.decoder) + self.centre) * self.scale + self.mean

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Losses of a batch of embeddings ``(B, n_inputs)``.

        Returns
        -------
        ``loss``; ``reconstruction_loss`` and ``auxiliary_loss``, mean squared errors; and
        ``variance_explained``, ``n_dead`` and ``n_active`` (per cell), which have no gradient.
        """
        # Sums of many small terms, and selection by size: not for half precision.
        with torch.autocast(x.device.type, enabled=False):
            z = self.standardise(x)
            with torch.no_grad():
                if self.training:
                    self.normalise()
                    self._begin_anew(z)
                pre, kept = self._choose(z)
            values = self._values(z, pre, kept)
            rebuilt = _Decode.apply(values, self.decoder, kept) + self.centre
            error = rebuilt - z
            main = error.square().mean()
            if self.training:
                self._count(values.detach(), kept, len(x))
            auxiliary = self._auxiliary_loss(z, pre, error.detach())
            with torch.no_grad():
                spread = (z - z.mean(dim=0)).square().mean().clamp_min(1e-12)
                explained = 1 - main / spread
        return {
            "loss": main + self.aux_weight * auxiliary,
            "reconstruction_loss": main,
            "auxiliary_loss": auxiliary,
            "variance_explained": explained,
            "n_dead": self.dead.sum().float(),
            "n_active": main.new_tensor(len(kept.row) / max(1, len(x))),
        }

    @torch.no_grad()
    def normalise(self) -> None:
        """Give the decoder's rows length 1."""
        length = torch.linalg.vector_norm(self.decoder, dim=1, keepdim=True)
        self.decoder.div_(length.clamp_min(1e-12))

    def _encode(self, z: Tensor) -> Tensor:
        return ((z - self.centre) @ self.encoder.T).add_(self.bias)

    def _choose(self, z: Tensor) -> tuple[Tensor, Kept]:
        """All activations before the rectifier, and where the ``B x k`` largest are."""
        pre = self._encode(z)
        flat = largest(pre.view(-1), self.k * len(z))
        return pre, Kept.from_flat(flat, (len(z), self.n_concepts))

    def _values(self, z: Tensor, pre: Tensor, kept: Kept) -> Tensor:
        return _Encode.apply(z, self.centre, self.encoder, self.bias, pre, kept)

    def _auxiliary_loss(self, z: Tensor, pre: Tensor, error: Tensor) -> Tensor:
        """Mean squared error of what is left over, rebuilt by dead units."""
        dead = self.dead.nonzero()[:, 0]
        if not self.training or not len(dead):
            return z.new_zeros(())
        with torch.no_grad():
            top = pre[:, dead].topk(min(self.k_aux, len(dead)), dim=1, sorted=False)
            first = torch.arange(len(z), device=z.device)[:, None] * self.n_concepts
            place = dead[top.indices] + first
            flat = place[top.values > 0].sort().values
            kept = Kept.from_flat(flat, (len(z), self.n_concepts))
        values = self._values(z, pre, kept)
        return (_Decode.apply(values, self.decoder, kept) + error).square().mean()

    @torch.no_grad()
    def _begin_anew(self, z: Tensor) -> None:
        """Turn units that stayed dead towards what is left over of cells, the worst most often."""
        due = (self.idle >= 2 * self.dead_after).nonzero()[:, 0]
        if not len(due):
            return
        pre, kept = self._choose(z)
        values = pre.view(-1)[kept.row * self.n_concepts + kept.column]
        error = z - kept.by_row(values, self.decoder) - self.centre
        share = error.square().sum(dim=1).cumsum(dim=0)
        drawn = uniform(self.steps.view(1), (len(due),), seed=0, purpose="begin anew")[0]
        cells = torch.searchsorted(share, drawn * share[-1]).clamp_max(len(z) - 1)
        rows = F.normalize(error[cells], dim=1)
        length = torch.linalg.vector_norm(self.encoder[~self.dead], dim=1).mean().nan_to_num(1.0)
        self.decoder[due], self.bias[due] = rows, 0.0
        self.encoder[due] = rows * length * NEWBORN
        self.idle[due] = 0
        self.revived += len(due)

    @torch.no_grad()
    def _count(self, values: Tensor, kept: Kept, n_cells: int) -> None:
        """Note which units were active, and the smallest activation that was kept."""
        self.idle += n_cells
        self.idle[kept.column] = 0
        if len(values):
            share = max(10 / (int(self.steps) + 10), 1 / self.memory)
            self.threshold.lerp_(values.min(), share)
            self.steps += 1


@torch.no_grad()
def _project(decoder: Tensor) -> None:
    """Take out of a row's gradient the part along the row, which would only change its length."""
    assert decoder.grad is not None
    along = torch.einsum("ij,ij->i", decoder.grad, decoder)
    decoder.grad.addcmul_(along[:, None], decoder, value=-1)
