"""Semi-Clipped: adapters that carry a student's embedding to a frozen teacher's (2505.21317)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.clip import Temperature
from cellfuse.nn.contrastive import (
    clip_loss,
    from_all_devices,
    relational_distillation,
    same_context,
    sigmoid_loss,
    vicreg_loss,
)
from cellfuse.nn.keyed import normal, uniform
from cellfuse.nn.ridge import RidgeMap
from cellfuse.nn.standardise import Standardise

__all__ = ["Adapter", "Distillation", "Objective", "collapse", "perturb_embedding"]

Objective = Literal["clip", "sigmoid", "vicreg", "kd", "mse"]
#: Rows on which the effective rank of a batch is taken: enough to tell a collapse.
MAX_RANK_ROWS = 64


class Adapter(nn.Sequential):
    """Hidden layers with ReLU, then a linear one.

    Parameters
    ----------
    n_in, n_out
        Width of the input and of the output.
    hidden
        Widths of the hidden layers; none gives one linear map.
    """

    def __init__(self, n_in: int, n_out: int, *, hidden: Sequence[int] = (1024, 1024)) -> None:
        widths = [n_in, *hidden]
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(a, b), nn.ReLU()]
        super().__init__(*layers, nn.Linear(widths[-1], n_out))


class LinearFirstAdapter(nn.Module):
    """Ridge regression, and an adapter that joins it through gates that begin at 0.

    Parameters
    ----------
    n_in, n_out, hidden
        As in :class:`Adapter`.
    """

    def __init__(self, n_in: int, n_out: int, *, hidden: Sequence[int]) -> None:
        super().__init__()
        self.ridge = RidgeMap(n_in, n_out)
        self.deep = Adapter(n_in, n_out, hidden=hidden)
        self.gate = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Adapt ``(G, n_in)``."""
        return self.ridge(x) + self.gate * self.deep(x)


@torch.no_grad()
def collapse(z: Tensor) -> dict[str, Tensor]:
    """How much of the space a batch of embeddings fills.

    Parameters
    ----------
    z
        Shape (G, d).

    Returns
    -------
    ``spread``: root mean squared distance of the unit vectors from their mean, 0 where all are the
    same and near 1 where they point everywhere. ``effective_rank``: exponential of the entropy of
    the covariance's eigenvalues, over `MAX_RANK_ROWS` rows; 1 where all lie on one line.
    """
    unit = F.normalize(z.detach().float(), dim=1)
    centred = unit - unit.mean(dim=0)
    spread = centred.square().sum(dim=1).mean().sqrt()
    rows = centred[:MAX_RANK_ROWS]
    with torch.autocast(z.device.type, enabled=False):
        # Of the smaller of the two products, at a third of a singular value decomposition's time.
        gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    share = torch.linalg.eigvalsh(gram).clamp_min(0)
    share = share / share.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {"spread": spread, "effective_rank": entropy.exp()}


def perturb_embedding(
    x: Tensor, key: Tensor, *, seed: int, noise: float = 0.0, dropout: float = 0.0
) -> Tensor:
    """Add Gaussian noise, then set features to 0; a row's draw hangs on its key alone.

    Parameters
    ----------
    x
        Standardised embeddings, shape (G, d): the noise is in units of a feature's sd.
    key
        Number of each document, shape (G,).
    """
    if noise:
        x = x + noise * normal(key, (x.shape[1],), seed=seed, purpose="embedding noise")
    if dropout:
        kept = uniform(key, (x.shape[1],), seed=seed, purpose="embedding dropout") >= dropout
        x = x * kept
    return x


class Distillation(Standardise):
    """A student's adapter, perhaps a teacher's, and the objective between them.

    Parameters
    ----------
    encoder
        What comes before the student's adapter where the student is trained from scratch:
        cells (G, ...) to (G, n_in). None: the input is an embedding already.
    n_student, n_teacher
        Widths of the two embeddings.
    hidden
        Hidden layers of the adapters.
    objective
        ``"clip"``, ``"sigmoid"`` (SigLIP), ``"vicreg"``, ``"kd"`` (the teacher's relations between
        documents), ``"mse"``.
    teacher_head
        Train an adapter on the teacher's side too.
    temperature
        Start of the learnable temperature of ``"clip"`` and ``"sigmoid"``; fixed for ``"kd"``.
    multi_positive
        Documents of one context are each other's positives; False makes them negatives.
    linear
        Begin the student's adapter at ridge regression, :class:`LinearFirstAdapter`.
    """

    def __init__(
        self,
        n_student: int,
        n_teacher: int,
        *,
        hidden: Sequence[int] = (1024, 1024),
        objective: Objective = "clip",
        teacher_head: bool = False,
        temperature: float = 0.1,
        multi_positive: bool = True,
        encoder: nn.Module | None = None,
        linear: bool = False,
    ) -> None:
        super().__init__(n_student if encoder is None else 0)
        self.objective, self.multi_positive = objective, multi_positive
        self.encoder = encoder
        make = LinearFirstAdapter if linear else Adapter
        self.adapter: nn.Module = make(n_student, n_teacher, hidden=hidden)
        self.teacher_head = Adapter(n_teacher, n_teacher, hidden=hidden) if teacher_head else None
        self.temperature = Temperature(temperature)
        # SigLIP begins where nearly every pair is taken for none.
        self.bias = nn.Parameter(torch.tensor(-10.0))
        self.temperature.requires_grad_(objective in ("clip", "sigmoid"))
        self.bias.requires_grad_(objective == "sigmoid")

    def cell(self, role: str) -> Standardise:
        """What takes the statistics of the student's input."""
        return self if self.encoder is None else self.encoder.cell  # type: ignore[return-value]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in ("mean", "sd"):  # as they were called up to 0.1
            if f"{prefix}student_{name}" in state_dict:
                state_dict[f"{prefix}{name}"] = state_dict.pop(f"{prefix}student_{name}")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, student: Tensor, teacher: Tensor, context: Tensor) -> dict[str, Tensor]:
        """Losses of documents.

        Parameters
        ----------
        student
            Standardised and corrected, (G, n_student); what the encoder takes where there is one.
        teacher
            Frozen and corrected, (G, n_teacher).
        context
            Context of each document, (G,).

        Returns
        -------
        ``loss``, and ``spread`` and ``effective_rank`` of the student's side.
        """
        if self.encoder is not None:
            student = self.encoder(student)
        a = from_all_devices(self.adapter(student).float())
        teacher = teacher.float()
        b = teacher if self.teacher_head is None else self.teacher_head(teacher)
        b = from_all_devices(b)
        return {"loss": self._loss(a, b, from_all_devices(context)), **collapse(a)}

    def _loss(self, a: Tensor, b: Tensor, context: Tensor) -> Tensor:
        if self.objective == "vicreg":
            return vicreg_loss(a, b)
        if self.objective == "mse":
            return F.mse_loss(a, b)
        if self.objective == "kd":
            return relational_distillation(a, b, self.temperature())
        same = same_context(context) if self.multi_positive else None
        if self.objective == "sigmoid":
            return sigmoid_loss(a, b, self.temperature(), self.bias, same=same)
        return clip_loss(a, b, self.temperature(), weight=same)
