"""What a model hands to a training: its losses by name, and what it looks at after an epoch.

All of it can be pickled, for devices that are spawned, and none of it takes the data along.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import lightning as L
from torch import Tensor

from cellfuse.data import Contexts, Source
from cellfuse.model.base.callbacks import KeepBest, Score

if TYPE_CHECKING:
    from cellfuse.model.base.method import Method

__all__ = ["Losses", "OfModel", "method_callbacks"]


class OfModel:
    """Something of a model that is pickled without the model's data."""

    def __init__(self, model: Method) -> None:
        self.model = model

    def __getstate__(self) -> dict[str, Any]:
        light = copy.copy(self.model)
        light._adata = light._adata_manager = None
        return {**vars(self), "model": light}


class Losses(OfModel):
    """Losses of a model's batches; in validation without those of modalities it does not have."""

    def __init__(self, model: Method, augment: bool, unseen: frozenset[str]) -> None:
        super().__init__(model)
        self.augment, self.unseen = augment, unseen

    def __call__(self, batch: Any, training: bool) -> dict[str, Tensor]:
        """Losses by name."""
        found = self.model._losses(batch, training and self.augment)
        return {name: v for name, v in found.items() if training or name not in self.unseen}


class _Validation(OfModel):
    """What a model says of held-out contexts."""

    def __init__(self, model: Method, source: Source, trained: Contexts, held: Contexts) -> None:
        super().__init__(model)
        self.source, self.trained, self.held = source, trained, held

    def __call__(self) -> dict[str, float]:
        """Numbers by name."""
        return self.model._validate(self.source, self.trained, self.held)


def method_callbacks(
    model: Method,
    source: Source,
    trained: Contexts,
    held: Contexts | None,
    keep_best: str | None,
) -> list[L.Callback]:
    """Look at held-out contexts, then keep what is best; where either is wanted."""
    found: list[L.Callback] = []
    if held is not None:
        found.append(Score(model.module, _Validation(model, source, trained, held)))
    if keep_best is not None:
        found.append(KeepBest(model.module, keep_best))
    return found
