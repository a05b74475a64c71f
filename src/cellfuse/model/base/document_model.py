"""The base of every model: training, resuming and inference, alike for all methods."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from cellfuse._access import Data
from cellfuse.data import Contexts, DocumentDataModule
from cellfuse.data.splits import Held, HeldContexts, Rows, rows_of_contexts, values_of_contexts
from cellfuse.model.base.fitting import Losses, method_callbacks
from cellfuse.model.base.history import n_epochs
from cellfuse.model.base.method import Method
from cellfuse.model.base.training import Training, fit, refuse_unknown
from cellfuse.nn import repeated_layers

__all__ = ["DocumentModel"]


class DocumentModel(Method):
    """A method that learns from documents, sets of cells that share a context.

    What a subclass defines is said in :class:`cellfuse.model.base.method.Method`.
    """

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
        compile_blocks: bool = False,
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
        compile_blocks
            Compile the transformer blocks (``torch.compile``), which takes a minute and then saves
            time in each step of a large network on a GPU. Weights, saves and results are the same.
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
        if compile_blocks:
            self._compile_blocks()
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

    def _labels_of_contexts(self, key: str, name: str) -> NDArray:
        """Value of an obs column in each context, by which contexts are taken together."""
        # By name of the context: where contexts are permuted, cells carry others' values.
        true = self._contexts(None, list(self.inputs))
        adatas = {role: self._modality(None, role) for role in self.inputs}
        return values_of_contexts(true, adatas, key, name=name)

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

    def _compile_blocks(self) -> None:
        """Compile in place: no weight has another name then."""
        blocks = repeated_layers(self.module)
        if not blocks:
            name = type(self).__name__
            raise ValueError(f"compile_blocks=True: {name} has no transformer block to compile.")
        for block in blocks:
            block.compile()

    def _judged(self, contexts: Contexts, rows: Rows) -> Contexts | None:
        """Held-out contexts, where the method has something to say of them."""
        says = type(self)._validate is not Method._validate
        if not says or rows.contexts is None or not rows.contexts.any():
            return None
        return contexts.restricted(rows_of_contexts(contexts, rows.contexts).held_out)

    def _unseen(self, rows: Rows) -> frozenset[str]:
        """Losses of modalities without held-out cells: documents say nothing about them."""
        return frozenset(f"{r}_loss" for r, held in rows.held_out.items() if not held.any())

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
