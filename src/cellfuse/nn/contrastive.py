"""Losses that compare two sets of embeddings, row by row: the contrastive family."""

from __future__ import annotations

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "clip_loss",
    "from_all_devices",
    "relational_distillation",
    "same_context",
    "sigmoid_loss",
    "vicreg_loss",
]


def from_all_devices(x: Tensor) -> Tensor:
    """Rows of every device, so that the negatives of a batch do not hang on how it was dealt.

    Gradients flow back to the rows' own device. Every device then computes the whole loss, and the
    mean of the gradients that DDP takes is that of one process with the whole batch.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    if torch.distributed.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))


def same_context(context: Tensor) -> Tensor:
    """Whether two documents share their context, ``(G, G)`` float."""
    return (context[:, None] == context[None]).float()


def _soft_cross_entropy(logits: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    target = weight / weight.sum(dim=1, keepdim=True)
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()


def clip_loss(
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    *,
    weight: Tensor | None = None,
    weight_back: Tensor | None = None,
) -> Tensor:
    """Half the cross-entropy of finding `b` from `a`, half that of finding `a` from `b`.

    Parameters
    ----------
    a, b
        Embeddings ``(G, d)``; row i of one belongs to row i of the other. Their lengths do not
        matter: cosines are compared.
    scale
        Inverse temperature.
    weight
        How much pair (i, j) counts as a match, ``(G, G)``, not negative and with a positive entry
        in each row: :func:`same_context` makes every pair of one context a positive (GroupCLIP,
        and `multi_positive` of Semi-Clipped), similarities of one side give CellCLIP's weighting.
        None: only row i itself (plain CLIP).
    weight_back
        The same for finding `a` from `b`; the transpose of `weight` by default.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import clip_loss
    >>> x = torch.eye(2)
    >>> round(float(clip_loss(x, x, 1.0)), 4)  # log(1 + exp(-1))
    0.3133
    """
    logits = scale * F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T
    if weight_back is None and weight is not None:
        weight_back = weight.T
    return (_soft_cross_entropy(logits, weight) + _soft_cross_entropy(logits.T, weight_back)) / 2


def sigmoid_loss(
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    *,
    same: Tensor | None = None,
) -> Tensor:
    """Every pair by itself is a match or none (SigLIP); summed over pairs, mean over documents.

    Parameters
    ----------
    a, b
        Embeddings ``(G, d)``.
    scale, bias
        Inverse temperature and offset of the logit.
    same
        Which pairs match, ``(G, G)``; the diagonal by default.
    """
    logits = scale * F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T + bias
    same = torch.eye(len(a), device=a.device) if same is None else same
    return -F.logsigmoid((2 * same - 1) * logits).sum() / len(a)


def vicreg_loss(
    a: Tensor,
    b: Tensor,
    *,
    weights: tuple[float, float, float] = (25.0, 25.0, 1.0),
    eps: float = 1e-4,
) -> Tensor:
    """Invariance, variance and covariance (VICReg), with its published weights.

    The variance term keeps every dimension's standard deviation at 1 or more, the covariance term
    keeps dimensions apart: no negatives are needed, and a collapse costs.
    """
    a, b = a.float(), b.float()
    invariance = F.mse_loss(a, b)
    variance = torch.zeros((), device=a.device)
    covariance = torch.zeros((), device=a.device)
    for x in (a, b):
        centred = x - x.mean(dim=0)
        sd = (centred.square().sum(dim=0) / max(1, len(x) - 1) + eps).sqrt()
        variance = variance + F.relu(1 - sd).mean() / 2
        cov = centred.T @ centred / max(1, len(x) - 1)
        off = cov.square().sum() - cov.diagonal().square().sum()
        covariance = covariance + off / x.shape[1]
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariance


def relational_distillation(student: Tensor, teacher: Tensor, scale: Tensor | float) -> Tensor:
    """KL between the teacher's and the student's distribution over the other documents.

    Each document's cosines to all others, through a softmax, are what the teacher knows of it; the
    document itself, whose cosine is 1 on both sides, is left out.

    Parameters
    ----------
    student, teacher
        Embeddings ``(G, d)`` and ``(G, e)``; no gradient flows into the teacher.
    scale
        Inverse temperature of both.
    """
    if len(student) < 3:
        raise ValueError("relations need at least three documents in a batch.")
    off = ~torch.eye(len(student), dtype=torch.bool, device=student.device)

    def relations(x: Tensor) -> Tensor:
        x = F.normalize(x.float(), dim=1)
        return (scale * x @ x.T)[off].view(len(x), -1).log_softmax(dim=1)

    return F.kl_div(
        relations(student), relations(teacher).detach(), log_target=True, reduction="batchmean"
    )
