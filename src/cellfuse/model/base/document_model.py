"""The base of every model: what a method says of itself, and what all methods do alike.

A method is a class with a network (``module``), losses of a batch of documents (``_losses``) and an
embedding of cells (``_embed``). Setup, training, resuming, saving and inference are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import numpy as np
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse._errors import missing_key
from cellfuse.data import Contexts, DocumentDataModule, Source, held_contexts, training_rows
from cellfuse.data.contexts import PAIRED
from cellfuse.data.splits import HeldContexts, Rows, rows_of_contexts
from cellfuse.model.base.checks import check_whole, one_of
from cellfuse.model.base.fitting import Held, Losses, method_callbacks
from cellfuse.model.base.history import n_epochs
from cellfuse.model.base.plans import Plans, plan_sets
from cellfuse.model.base.recipe import Recipe
from cellfuse.model.base.screen_model import Encoder
from cellfuse.model.base.setup_model import SetupModel
from cellfuse.model.base.training import Training, fit, refuse_unknown

__all__ = ["DocumentModel"]


class DocumentModel(SetupModel):
    """A method that learns from documents, sets of cells that share a context.

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

    # -- training ---------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int | None = None,
        documents_per_context: int | None = None,
        replace: Literal["if_needed", True] = "if_needed",
        missing: Literal["keep", "drop"] = "keep",
        validation_size: float = 0.0,
        validation_contexts: HeldContexts | None = None,
        validation_by: str | None = None,
        keep_best: str | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        warmup: float | None = None,
        augment: bool = True,
        num_workers: int = 0,
        accelerator: str = "auto",
        devices: Any = "auto",
        precision: str | None = None,
        callbacks: list[L.Callback] | None = None,
        ckpt_path: str | None = None,
        checkpoint: str | Path | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model; called again, train it further, on documents not drawn before.

        What is None is the model's own, ``model.recipe``.

        Parameters
        ----------
        max_epochs
            Epochs of this call.
        batch_size
            Documents per batch, over all devices.
        documents_per_context
            Documents of each context per epoch; 1 where each context is one cell.
        replace
            ``"if_needed"``: a cell stands once in a document where the context has enough cells.
            True: cells are drawn independently.
        missing
            Contexts that one modality lacks: ``"keep"`` makes documents of the other alone,
            ``"drop"`` leaves them out.
        validation_size
            Share of each context's cells held out (of all cells, where each context is one cell);
            losses on them are in :attr:`history`.
        validation_contexts
            Contexts held out as wholes: a share of them, a list of their labels, or the name of a
            boolean obs column. They give no training documents.
        validation_by
            obs column, such as the target gene of guides, whose values the share (or the labels) of
            `validation_contexts` are of: no value then has contexts on both sides.
        keep_best
            Name of a number in :attr:`history`: the weights of the epoch with the best value are
            kept, the lowest of a loss or FOSCTTM, the highest of all else. None keeps the last.
        lr, weight_decay, warmup
            Optimiser, with linear warm-up over `warmup`, a share of the steps, then cosine.
        augment
            Change what is trained on at random, as the method does.
        num_workers
            Processes that read ahead.
        accelerator, devices, precision, callbacks, ckpt_path, **trainer_kwargs
            Passed to Lightning's trainer, such as `strategy`, `num_nodes`, `max_steps`. Precision
            is bf16 on a GPU and float32 elsewhere. `ckpt_path` resumes from a checkpoint, in the
            middle of an epoch too.
        checkpoint
            Folder in which the training is kept: after every epoch, every ten minutes, and when
            Ctrl-C, SIGTERM or SIGUSR1 ends it (the message names the file). The same call, in a
            new process too, goes on from there as if it had not been broken. Without it, only a
            training of more than ten minutes that is told to end leaves a checkpoint, in the
            working directory.

        Raises
        ------
        TypeError, ValueError
            An argument that is unknown, of another type or out of range; fewer documents than are
            compared.
        KeyError
            Contexts or columns that are not there.

        Warns
        -----
        UserWarning
            Contexts with fewer cells than a document; constant features.
        """
        self._refuse(locals(), trainer_kwargs)
        if self._paired and documents_per_context is None:
            documents_per_context = 1
        recipe = self.recipe.given(
            max_epochs=max_epochs,
            batch_size=batch_size,
            documents_per_context=documents_per_context,
            lr=lr,
            weight_decay=weight_decay,
            warmup=warmup,
        )
        contexts, rows = self._dealt(Held(validation_size, validation_contexts, validation_by))
        plans = self._plans(
            contexts, rows, recipe, replace=replace, missing="drop" if self.joins else missing
        )
        if plans.batch_size < self.least_documents:
            raise ValueError(self._too_few(plans.batch_size))
        source, trained = self._source(), contexts.restricted(plans.train_rows)
        if not self.is_trained_:
            self._take_statistics(source, plans)
            if self.begin != "random" and ckpt_path is None:
                self._begin_at(source, plans.train_rows, trained)
        first, max_steps = self.n_epochs_, trainer_kwargs.get("max_steps", -1)
        for stage in range(self.n_stages):
            self._begin_stage(stage, source)
            self.module.train()
            self.history_ = fit(
                Training(
                    self.module,
                    Losses(self, augment, self._unseen(rows)),
                    lr=recipe.lr,
                    betas=recipe.betas,
                    weight_decay=recipe.weight_decay,
                    warmup=recipe.warmup_of(plans.n_epochs(recipe.max_epochs, max_steps)),
                    momentum=recipe.momentum,
                ),
                DocumentDataModule(
                    plans.train,
                    source,
                    validation=plans.validation,
                    num_workers=num_workers,
                    first_epoch=first,
                ),
                max_epochs=recipe.max_epochs,
                accelerator=accelerator,
                devices=devices,
                precision=precision,
                callbacks=[
                    *self._callbacks(recipe, plans),
                    *(callbacks or []),
                    *method_callbacks(
                        self, source, trained, self._judged(contexts, rows), keep_best
                    ),
                ],
                ckpt_path=ckpt_path,
                checkpoint=checkpoint,
                history=self.history_,
                n_before=self.n_epochs_,
                **{"gradient_clip": recipe.gradient_clip, **trainer_kwargs},
            )
            self.n_epochs_ = max(self.n_epochs_, n_epochs(self.history_))
        self.module.eval()
        self._finish(source, trained)
        self.is_trained_ = True

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

    def _dealt(self, held: Held) -> tuple[Contexts, Rows]:
        """Contexts, permuted where they are to be, and what of them is held out.

        Contexts that are held out as wholes stay as they are: the twin is judged on true ones.
        """
        contexts = self._contexts(None, list(self.inputs))
        if self.permute_contexts and held.contexts is None:
            contexts = contexts.permuted(self.seed)
        rows = self._rows(contexts, held)
        if self.permute_contexts and held.contexts is not None:
            contexts = contexts.permuted(self.seed, among=rows.train)
        return contexts, rows

    def _refuse(self, given: Mapping[str, Any], trainer_kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments of :meth:`train` that mean nothing here."""
        name = f"{type(self).__name__}.train"
        refuse_unknown(name, trainer_kwargs, type(self).train)
        usual = signature(DocumentModel.train).parameters
        for argument in self.without:
            if given.get(argument) != usual[argument].default:
                raise TypeError(f"{name}() has no argument {argument!r}.")
        if self.adata is None:
            raise ValueError("this model was loaded without data: load it with `adata=mdata`.")

    def _judged(self, contexts: Contexts, rows: Rows) -> Contexts | None:
        """Held-out contexts, where the method has something to say of them."""
        says = type(self)._validate is not DocumentModel._validate
        if not says or rows.contexts is None or not rows.contexts.any():
            return None
        return contexts.restricted(rows_of_contexts(contexts, rows.contexts).held_out)

    def _unseen(self, rows: Rows) -> frozenset[str]:
        """Losses of modalities without held-out cells: documents say nothing about them."""
        return frozenset(f"{r}_loss" for r, held in rows.held_out.items() if not held.any())

    def _take_statistics(self, source: Source, plans: Plans) -> None:
        for role, found in self._statistics(source, plans.train_rows, seed=self.seed).items():
            self.module.cell(role).set_statistics(*found)  # type: ignore[operator, union-attr]

    # -- inference --------------------------------------------------------------------------------

    @torch.inference_mode()
    def get_latent_representation(  # type: ignore[override]
        self,
        data: Data | None = None,
        *,
        modality: str | None = None,
        batch_size: int = 256,
        out: str | Path | None = None,
    ) -> NDArray[np.float32]:
        """Embedding of every cell of a modality.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or one modality's AnnData.
        modality
            Role: ``"image"`` or ``"rna"``; None where the model embeds one alone.
        batch_size
            Cells encoded at a time.
        out
            Folder of a zarr store into which the embedding is written, batch by batch; a call that
            was killed goes on where it stopped. None: it comes in memory.

        Returns
        -------
        ``(n_cells, width)``, float32; with `out` an array of the store, for obsm, that every verb
        takes.

        Raises
        ------
        KeyError
            A modality, key or gene that is not there.
        RuntimeError
            The model is not trained.
        """
        self._check_trained()
        role = self._role(modality)
        self.module.eval()
        return self._encode(data, role, self._encoder(data, role), batch_size, out)

    # -- what a method says -----------------------------------------------------------------------

    def _losses(self, batch: Any, augment: bool) -> dict[str, Tensor]:
        """Losses of a batch (of one of each stream, by name) by name; ``"loss"`` is descended."""
        raise NotImplementedError

    def _embed(self, role: str, x: Tensor) -> Tensor:
        """Cells ``(N, ...)`` of a role as they were read, to ``(N, width)``."""
        raise NotImplementedError

    # -- what a method may say --------------------------------------------------------------------

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
