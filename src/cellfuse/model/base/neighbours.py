"""How an epoch of an image encoder is judged: by the neighbours of held-out images (TIDE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data import Reader
from cellfuse.data.readers import read_dense
from cellfuse.model.base.checks import check_whole

__all__ = ["Neighbours", "looks", "neighbour_accuracy"]

#: Embeddings that are asked at a time.
BLOCK = 512
#: Images that are read at a time to look at an epoch.
CHUNK = 4096
#: Looks at an epoch where the user names none.
N_LOOKS = 20


def looks(evaluate_every: int | Sequence[int] | None, max_epochs: int) -> int | frozenset[int]:
    """Epochs between two looks, or the epochs (from 1) that are looked at."""
    if evaluate_every is None:
        return max(1, max_epochs // N_LOOKS)
    if isinstance(evaluate_every, Sequence):
        for epoch in evaluate_every:
            check_whole("evaluate_every", epoch)
        return frozenset(int(epoch) for epoch in evaluate_every)
    check_whole("evaluate_every", evaluate_every)
    return int(evaluate_every)


def neighbour_accuracy(
    asked: Tensor,
    asked_label: Tensor,
    bank: Tensor,
    label: Tensor,
    *,
    k: int = 20,
    own: bool = False,
) -> float:
    """Share of embeddings whose label most of their `k` nearest by cosine have.

    With `own` the bank is what is asked, and nobody is its own neighbour.
    """
    unit, n_labels, right = F.normalize(bank, dim=1), int(label.max()) + 1, 0
    k = min(k, len(bank) - own)
    for start in range(0, len(asked), BLOCK):
        part, wanted = asked[start : start + BLOCK], asked_label[start : start + BLOCK]
        cosine = F.normalize(part, dim=1) @ unit.T
        if own:
            at = torch.arange(len(part), device=cosine.device)
            cosine[at, start + at] = -torch.inf
        near = cosine.topk(k, dim=1)
        votes = torch.zeros(len(part), n_labels, device=asked.device)
        # A vote weighs a hair more the nearer it is, so that no tie hangs on the order of labels.
        votes.scatter_add_(1, label[near.indices], 1 + 1e-3 * near.values.float())
        right += int((votes.argmax(dim=1) == wanted).sum())
    return right / len(asked)


class Neighbours:
    """Accuracy of the held-out images' 20 nearest neighbours.

    They are looked for among all training images. Held-out images of a perturbation that no
    training image shows (a split by intervention) are asked among one another.

    Parameters
    ----------
    embed
        From raw images ``(n, ...)`` to embeddings ``(n, width)``.
    reader
        Where they are read.
    label
        Perturbation of each image; those below 0 take no part.
    train, held
        Which images are trained on, and which are held out.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        reader: Reader,
        label: NDArray[np.int64],
        train: NDArray[np.bool_],
        held: NDArray[np.bool_],
    ) -> None:
        self.embed, self.reader, self.label = embed, reader, label
        known = label >= 0
        self.bank = np.flatnonzero(train & known)
        seen = np.isin(label, label[self.bank])
        self.asked = np.flatnonzero(held & known & seen)
        self.new = np.flatnonzero(held & known & ~seen)

    @property
    def is_there(self) -> bool:
        """Whether any image can be asked."""
        return bool(len(self.asked)) or len(self.new) > 1

    def __call__(self) -> dict[str, float]:
        """Read the images in pieces, and embed them."""
        right = 0.0
        if len(self.asked):
            found = [*self._embedded(self.asked), *self._embedded(self.bank)]
            right += len(self.asked) * neighbour_accuracy(*found)
        if len(self.new) > 1:
            among = self._embedded(self.new)
            right += len(self.new) * neighbour_accuracy(*among, *among, own=True)
        n = len(self.asked) + (len(self.new) if len(self.new) > 1 else 0)
        return {"knn_accuracy": right / n}

    def _embedded(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        pieces = (rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK))
        x = torch.cat([self.embed(read_dense(self.reader, piece)) for piece in pieces])
        return x, torch.as_tensor(self.label[rows]).to(x.device)
