"""Training of a classifier on samples whose cells are averaged (PhenoSeq, A.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cellfuse.nn.heads import MLP, DualMLP

__all__ = ["Pools", "Setting", "train_head"]

#: Shared by all settings of Table 6.
CLIP = 0.5
#: Examples that are predicted at a time.
BLOCK = 4096


@dataclass(frozen=True)
class Setting:
    """Sizes and optimiser of one row of Table 6."""

    hidden: tuple[int, ...]  # of each input
    depth: int
    lr: float
    weight_decay: float
    width: int = 913  # output of each encoder where there are several inputs


@dataclass
class Pools:
    """The cells of each sample, of one modality, standardised by the training cells.

    Attributes
    ----------
    values
        Shape (cells, d).
    order, start, size
        The cells of sample s are ``order[start[s] : start[s] + size[s]]``.
    sample
        Sample of each example where the examples are cells; None: the examples are the samples.
    own
        Cell of each example; None: one is drawn from its sample.
    """

    values: Tensor
    order: NDArray
    start: NDArray
    size: NDArray
    sample: NDArray | None = None
    own: NDArray | None = None

    def cells(self, sample: int) -> NDArray:
        """Rows of the cells of a sample."""
        return self.order[self.start[sample] : self.start[sample] + self.size[sample]]

    def sample_of(self, examples: NDArray) -> NDArray:
        """Sample of each example."""
        return examples if self.sample is None else self.sample[examples]

    def draw(self, examples: NDArray, n_cells: int | None, rng: np.random.Generator) -> Tensor:
        """One row for each example (examples, d).

        It is the mean of all cells of the sample, or of `n_cells` drawn from it; or the cell that
        the example is, or one drawn from its sample.
        """
        if self.sample is not None:
            if self.own is not None:
                return self.values[torch.from_numpy(self.own[examples])]
            sample = self.sample[examples]
            place = (rng.random(len(sample)) * self.size[sample]).astype(np.int64)
            return self.values[torch.from_numpy(self.order[self.start[sample] + place])]
        sets = [self.cells(s) for s in examples]
        if n_cells is not None:
            sets = [rng.choice(rows, n_cells, replace=len(rows) < n_cells) for rows in sets]
        offsets = np.cumsum([0, *(len(rows) for rows in sets[:-1])])
        return F.embedding_bag(
            torch.from_numpy(np.concatenate(sets)),
            self.values,
            torch.from_numpy(offsets),
            mode="mean",
        )


def _build(pools: Sequence[Pools], n_classes: int, setting: Setting) -> nn.Module:
    widths = [pool.values.shape[1] for pool in pools]
    if len(pools) == 1:
        return MLP(widths[0], n_classes, hidden=setting.hidden[0], depth=setting.depth)
    return DualMLP(
        widths, n_classes, hidden=setting.hidden, depth=setting.depth, width=setting.width
    )


def balanced_accuracy(truth: NDArray, predicted: NDArray) -> float:
    """Mean over the classes that occur of the share found."""
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))


def train_head(
    pools: Sequence[Pools],
    codes: NDArray,
    parts: dict[str, NDArray],
    *,
    n_classes: int,
    setting: Setting,
    n_cells: int | None,
    seed: int,
    batch_size: int,
    max_epochs: int,
    patience: int,
    n_draws: int,
) -> dict[str, NDArray]:
    """Train on one part, stop by another, predict all.

    Parameters
    ----------
    pools
        Cells of each modality.
    codes
        Class of each sample.
    parts
        Samples of ``"train"``, ``"val"`` and each test set.

    Returns
    -------
    Predicted class of every sample of each part, by the weights with the best balanced accuracy
    on validation.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = _build(pools, n_classes, setting)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=setting.lr, weight_decay=setting.weight_decay
    )
    train = np.repeat(parts["train"], n_draws)
    best, waited, kept = -1.0, 0, head.state_dict()
    for _ in range(max_epochs):
        order = rng.permutation(train)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            logits = head(*[pool.draw(batch, n_cells, rng) for pool in pools])
            loss = F.cross_entropy(logits, torch.from_numpy(codes[batch]))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), CLIP)
            optimizer.step()
        found = _predict(head, pools, parts["val"], n_cells, rng)
        score = balanced_accuracy(codes[parts["val"]], found)
        if score > best:
            best, waited = score, 0
            kept = {name: value.clone() for name, value in head.state_dict().items()}
        else:
            waited += 1
            if waited >= patience:
                break
    head.load_state_dict(kept)
    # Cells for the tests are drawn alike, however many epochs there were.
    rng = np.random.default_rng([seed, 1])
    return {name: _predict(head, pools, samples, n_cells, rng) for name, samples in parts.items()}


@torch.no_grad()
def _predict(
    head: nn.Module,
    pools: Sequence[Pools],
    examples: NDArray,
    n_cells: int | None,
    rng: np.random.Generator,
) -> NDArray:
    found = []
    for start in range(0, len(examples), BLOCK):
        block = examples[start : start + BLOCK]
        found.append(head(*[pool.draw(block, n_cells, rng) for pool in pools]).argmax(dim=1))
    return torch.cat(found).numpy()
