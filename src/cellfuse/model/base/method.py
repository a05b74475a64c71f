"""What a method says of itself: its network, its losses, and where it differs from others.

A method is a class with a network (``module``), losses of a batch of documents (``_losses``) and an
embedding of cells (``_embed``); :class:`cellfuse.model.base.DocumentModel` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar, Literal

import lightning as L
import numpy as np
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse._errors import missing_key
from cellfuse.data import Contexts, Source, held_contexts, training_rows
from cellfuse.data.contexts import PAIRED
from cellfuse.data.splits import Held, Rows, rows_of_contexts
from cellfuse.model.base.checks import check_whole, one_of
from cellfuse.model.base.plans import Plans, plan_sets
from cellfuse.model.base.recipe import Recipe
from cellfuse.model.base.screen_model import Encoder
from cellfuse.model.base.setup_model import SetupModel

__all__ = ["Method"]


class Method(SetupModel):
    """What a method says, and may say; only `_losses` and `_embed` have no default.

    A subclass defines ``__init__``, which hands `seed` and what else it has of this one's arguments
    on and builds ``self.module``; :meth:`_losses`; :meth:`_embed`. Its arguments are kept for
    :meth:`save`, and its weights drawn from `seed`, by themselves. Where the method scales its
    input, ``module.cell(role)`` is a :class:`cellfuse.nn.Standardise`. What a cell may be (`kinds`)
    and whether both modalities are needed (`joins`) are class attributes too.
    """

    #: How it trains where the user does not say, by preset; ``""`` for a method without presets.
    recipes: ClassVar[Mapping[str, Recipe]] = {"": Recipe()}
    #: Documents of a batch are compared: so many at least, in whole batches.
    least_documents: ClassVar[int] = 1
    #: Arguments of :meth:`train` that mean nothing to the method.
    without: ClassVar[tuple[str, ...]] = ()
    #: Trainings one after the other, see :meth:`_begin_stage`.
    n_stages: ClassVar[int] = 1

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: str = "",
        set_size: int = 1,
        permute_contexts: bool = False,
        begin: Literal["linear", "random"] = "random",
        seed: int = 0,
    ) -> None:
        self._take_setup(adata)
        if preset not in self.recipes:
            raise missing_key(preset, list(self.recipes), what="the presets")
        check_whole("set_size", set_size)
        one_of("begin", begin, ("linear", "random"))
        self.preset, self.recipe = preset, self.recipes[preset]
        self.set_size = set_size if not self._paired else self._one_cell(set_size)
        self.permute_contexts = permute_contexts
        self.begin, self.seed = begin, seed

    @property
    def _paired(self) -> bool:
        """Whether each context is one cell that was measured in every modality."""
        return self.context_keys == [PAIRED]

    def _one_cell(self, set_size: int) -> int:
        """1, the only set size of paired cells; another one that was asked for is refused."""
        usual = signature(type(self).__init__).parameters.get("set_size")
        if set_size not in (1, usual.default if usual is not None else 1):
            raise ValueError(
                f"set_size={set_size}: with context_keys={PAIRED!r} each context is one cell; "
                "leave it out."
            )
        return 1

    # -- what a method says -----------------------------------------------------------------------

    def _losses(self, batch: Any, augment: bool) -> dict[str, Tensor]:
        """Losses of a batch (of one of each stream, by name) by name; ``"loss"`` is descended."""
        raise NotImplementedError

    def _embed(self, role: str, x: Tensor) -> Tensor:
        """Cells ``(N, ...)`` of a role as they were read, to ``(N, width)``."""
        raise NotImplementedError

    # -- what a method may say --------------------------------------------------------------------

    def _take_statistics(self, source: Source, plans: Plans) -> None:
        for role, found in self._statistics(source, plans.train_rows, seed=self.seed).items():
            self.module.cell(role).set_statistics(*found)  # type: ignore[operator, union-attr]

    def _begin_at(
        self, source: Source, train_rows: Mapping[str, NDArray[np.bool_]], contexts: Contexts
    ) -> None:
        """Set the weights to the closed form, where ``begin="linear"``; before the first step.

        `contexts` hold the training cells alone.
        """

    def _validate(self, source: Source, trained: Contexts, held: Contexts) -> dict[str, float]:
        """Numbers of held-out contexts at an epoch's end, logged as ``validation_<name>``.

        `trained` and `held` hold the cells of the contexts that are trained on and held out;
        `source` reads them.
        """
        return {}

    def _finish(self, source: Source, trained: Contexts) -> None:
        """What follows from the trained weights in closed form; after the last epoch."""

    def _rows(self, contexts: Contexts, held: Held) -> Rows:
        """What is trained on and what is held out."""
        train, cells = training_rows(contexts, held.cells, self.seed)
        if held.contexts is None:
            return Rows(train, cells)
        adatas = {role: self._modality(None, role) for role in self.inputs}
        chosen = held_contexts(contexts, adatas, held.contexts, by=held.by, seed=self.seed)
        apart = rows_of_contexts(contexts, chosen)
        return Rows(
            {role: train[role] & apart.train[role] for role in train},
            {role: cells[role] | apart.held_out[role] for role in train},
            chosen,
        )

    def _plans(
        self,
        contexts: Contexts,
        rows: Rows,
        recipe: Recipe,
        *,
        replace: Literal["if_needed", True],
        missing: Literal["keep", "drop"],
    ) -> Plans:
        """Documents of training and validation."""
        return plan_sets(
            contexts,
            list(self.inputs),
            rows,
            recipe,
            set_size=self.set_size,
            replace=replace,
            missing=missing,
            whole_batches=self.least_documents > 1,
            seed=self.seed,
        )

    def _encoder(self, data: Data | None, role: str) -> Encoder:
        """What embeds cells of `data`; by default :meth:`_embed`, whatever the data."""
        return lambda x: self._embed(role, x)

    def _source(self) -> Source:
        """Where the cells are read, and the numbers that go with them."""
        return Source({role: self._reader(None, role) for role in self.inputs})

    def _callbacks(self, recipe: Recipe, plans: Plans) -> list[L.Callback]:
        """What else goes on in a training."""
        return []

    def _begin_stage(self, stage: int, source: Source) -> None:
        """Freeze what the stage does not train; fit what its losses need."""

    def _too_few(self, n: int) -> str:
        return f"a batch of {n} documents: one document has no other to be compared with."
