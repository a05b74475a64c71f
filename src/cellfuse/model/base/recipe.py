"""How a method trains where the user does not say, and what is refused where the user does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from cellfuse.model.base.checks import check_between, check_positive, check_whole, plain

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How a method trains where the user does not say.

    Parameters
    ----------
    max_epochs
        Times that the documents of an epoch are drawn.
    batch_size
        Documents per batch, over all devices.
    lr, betas, weight_decay, warmup
        AdamW; linear warm-up over a share of all steps, then cosine.
    momentum
        Of SGD, which then stands in for AdamW.
    gradient_clip
        Norm that gradients are cut to.
    documents_per_context
        Documents of each context per epoch, 30 (PETRI, A.4).
    warmup_epochs
        Epochs of warm-up, at most half of them all, where the user gives no `warmup`.
    """

    max_epochs: int = 100
    batch_size: int = 256
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    warmup: float = 0.05
    momentum: float | None = None
    gradient_clip: float = 1.0
    documents_per_context: int = 30
    warmup_epochs: float | None = None

    def given(self, **values: Any) -> Self:
        """Return the recipe with what the user gave (not None) in its place, checked."""
        found = replace(self, **{name: plain(v) for name, v in values.items() if v is not None})
        for name in ("max_epochs", "batch_size", "documents_per_context"):
            check_whole(name, getattr(found, name))
        check_positive("lr", found.lr)
        check_between("weight_decay", found.weight_decay, 0)
        check_between("warmup", found.warmup, 0, 1)
        return found if values.get("warmup") is None else replace(found, warmup_epochs=None)

    def warmup_of(self, n_epochs: float) -> float:
        """Share of the steps of so many epochs that are warm-up."""
        if self.warmup_epochs is None:
            return self.warmup
        return min(0.5, self.warmup_epochs / n_epochs)
