"""Reconstruction losses on masked entries only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "masked_mean_squared_error",
    "masked_nb_loss",
    "masked_squared_error",
    "moment_dispersion",
    "nb_log_prob",
]


#: Above this dispersion the ratio of gamma functions is taken from Stirling's series.
LARGE_DISPERSION = 32.0


def _log_rising(counts: Tensor, log_dispersion: Tensor) -> Tensor:
    """``lgamma(r + counts) - lgamma(r) - counts * log(r)`` for ``r = exp(log_dispersion)``.

    The two gamma functions are huge and nearly equal where `r` is large: their difference would
    hold no digits in float32.
    """
    r = log_dispersion.exp()
    plain = torch.lgamma(counts + r) - torch.lgamma(r) - counts * log_dispersion
    r = r.clamp_min(1.0)
    tail = (1 / (r + counts) - 1 / r) / 12
    series = (r + counts - 0.5) * torch.log1p(counts / r) - counts + tail
    return torch.where(r > LARGE_DISPERSION, series, plain)


def nb_log_prob(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """Log-probability of counts under a negative binomial.

    The variance is ``mean + mean^2 / dispersion``. Everything stays in logarithms, so that means
    near 0 and dispersions near infinity (the Poisson distribution) keep their digits.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import nb_log_prob
    >>> log_p = nb_log_prob(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0))
    >>> round(float(log_p.exp()), 6)  # mean 1, dispersion 1: (1 / 2) ** 1
    0.5
    """
    # log(dispersion / (dispersion + mean))
    log_rest = F.logsigmoid(log_dispersion - log_mean)
    return (
        _log_rising(counts, log_dispersion)
        - torch.lgamma(counts + 1)
        + (counts + log_dispersion.exp()) * log_rest
        + counts * log_mean
    )


def moment_dispersion(counts: Tensor, mean: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Dispersions of genes by moments, ``(n_genes,)``; the upper bound of Poisson counts.

    Parameters
    ----------
    counts, mean
        Counts of cells and what is expected of them, ``(N, n_genes)``.
    bounds
        Between which they stay.
    """
    excess = ((counts - mean).square() - mean).sum(dim=0)
    found = mean.square().sum(dim=0) / excess
    return torch.where(excess > 0, found, torch.inf).clamp(*bounds)


def masked_nb_loss(counts: Tensor, logits: Tensor, log_dispersion: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood summed over each cell's masked genes, ``(N,)``.

    The mean is the cell's total count times the softmax of `logits` over all genes (PETRI, 3.4).

    Parameters
    ----------
    counts, logits
        ``(N, n_genes)``.
    log_dispersion
        ``(n_genes,)``.
    mask
        ``(N, n_genes)``, True where a gene was hidden.
    """
    counts, logits = counts.float(), logits.float()
    # A cell without a single count has mean 0: a tiny total keeps its logarithm finite.
    log_total = counts.sum(dim=1, keepdim=True).clamp_min(1e-6).log()
    log_mean = logits.log_softmax(dim=1) + log_total
    return -(nb_log_prob(counts, log_mean, log_dispersion.float()) * mask).sum(dim=1)


def masked_squared_error(target: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
    """Squared error summed over each cell's masked features, ``(N,)``; all ``(N, n)``."""
    return ((prediction.float() - target.float()).square() * mask).sum(dim=1)


def masked_mean_squared_error(target: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over each cell's masked tokens, ``(N,)``.

    Parameters
    ----------
    target, prediction
        ``(N, T, D)``.
    mask
        ``(N, T)``, True where a token was hidden.
    """
    error = (prediction.float() - target.float()).square().mean(dim=2)
    return (error * mask).sum(dim=1) / mask.sum(dim=1)
