"""The drug space of TIDE: prototypes that start from chemistry and drift to mechanism."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Codebook", "distillation_loss"]


class Codebook(nn.Module):
    """A unit prototype for each drug, from its fingerprint, and a distribution over them.

    ``V_k = norm(MLP(fingerprint_k) + delta_k)``: the MLP is shared, so a compound never seen has
    a place too; `delta` is learned and 0 at the start, so a drug may leave the place of its
    chemistry (TIDE, 1; what the paper leaves open is settled so).

    Parameters
    ----------
    fingerprints
        One row per training drug, ``(K, bits)``; TIDE takes FCFP, 2,048 bits are this library's.
    width
        Of the prototypes, and of the embeddings compared with them.
    hidden
        Of the MLP.
    temperature
        Of the softmax over cosines, .1.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import Codebook
    >>> book = Codebook(torch.eye(3), width=4, hidden=8)
    >>> bool(torch.allclose(book(), book.initial))  # nothing has drifted yet
    True
    >>> round(book.log_probabilities(torch.randn(1, 4)).exp().sum().item(), 4)
    1.0
    """

    fingerprints: Tensor
    initial: Tensor

    def __init__(
        self,
        fingerprints: Tensor,
        *,
        width: int = 256,
        hidden: int = 512,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if fingerprints.ndim != 2 or not fingerprints.numel():
            raise ValueError(
                f"expected fingerprints of shape (drugs, bits), found {tuple(fingerprints.shape)}."
            )
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: expected a positive number.")
        n_drugs, n_bits = fingerprints.shape
        self.temperature = temperature
        self.register_buffer("fingerprints", fingerprints.float())
        self.mlp = nn.Sequential(nn.Linear(n_bits, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.delta = nn.Parameter(torch.zeros(n_drugs, width))
        with torch.no_grad():
            self.register_buffer("initial", self())

    def forward(self) -> Tensor:
        """Prototypes as they are now, ``(K, width)``, of length 1."""
        return F.normalize(self.mlp(self.fingerprints) + self.delta, dim=1)

    def embed(self, fingerprints: Tensor) -> Tensor:
        """Places of any compounds ``(n, bits)`` by their chemistry alone, ``(n, width)``."""
        return F.normalize(self.mlp(fingerprints.float()), dim=1)

    def log_probabilities(self, embedding: Tensor, prototypes: Tensor | None = None) -> Tensor:
        """Logarithm of the distribution over the drugs of each embedding.

        Parameters
        ----------
        embedding
            ``(N, width)``; its length does not matter.
        prototypes
            ``(K, width)`` where they are at hand; worked out for None.

        Returns
        -------
        ``(N, K)`` float32.
        """
        prototypes = self() if prototypes is None else prototypes
        cosine = F.normalize(embedding.float(), dim=1) @ prototypes.float().T
        return (cosine / self.temperature).log_softmax(dim=1)


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """``KL(P_teacher || P_student)``, mean over rows; no gradient reaches the teacher.

    Where the teacher saw what the student does not, the best student is the teacher's mean over
    it: this is how TIDE marginalises over RNA (Proposition 3.1).

    Parameters
    ----------
    student, teacher
        Log-probabilities ``(N, K)``.
    """
    return F.kl_div(student, teacher.detach(), reduction="batchmean", log_target=True)
