"""PhenoSeq: transcriptomic embeddings from images by conditional diffusion."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import lightning as L
from mudata import MuData
from torch import Tensor

from cellfuse._errors import warn_user
from cellfuse._renamed import renamed
from cellfuse.data import Batch, Contexts, Source
from cellfuse.data.splits import Held, HeldContexts, Rows
from cellfuse.model.base import DocumentModel, Recipe, as_in
from cellfuse.model.base.callbacks import Averaged
from cellfuse.model.base.checks import check_between, check_whole
from cellfuse.model.base.plans import Plans
from cellfuse.model.base.training import seeded
from cellfuse.model.phenoseq.closed_form import BeginsAtRidge
from cellfuse.model.phenoseq.plans import set_and_cells, warn_hardly_trained
from cellfuse.model.phenoseq.sizes import PREDICTIONS, sizes_of
from cellfuse.model.phenoseq.split import training_rows
from cellfuse.nn.diffusion import Prediction, Schedule
from cellfuse.nn.phenoseq import PhenoSeqNetwork

__all__ = ["PhenoSeq"]

logger = logging.getLogger("cellfuse")

#: Share of the contexts held out where nothing is said.
HELD_SHARE = 0.1


class PhenoSeq(BeginsAtRidge):
    """Synthetic RNA embeddings for image samples, by diffusion conditioned on image embeddings.

    A document holds 16 image cells and one RNA cell of a context. The image cells are encoded as a
    set; a denoiser attends to them and learns to tell the noise that was added to the RNA
    embedding. Drawing begins with noise and takes it away in 50 steps, given the images of a
    sample alone: neither RNA nor a known treatment is needed.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"`` (the paper: 168.5 M parameters at its widths).
    set_size
        Image cells in a document, 16 (paper).
    n_diffusion_steps
        Steps of the forward process, 1,000 (paper).
    schedule
        ``"cosine"`` (paper) or ``"linear"``.
    prediction
        What the network predicts: ``"noise"`` (paper), ``"x0"`` or ``"v"``. By default the
        paper's for ``"base"`` and ``"v"`` for ``"small"``: a network cannot tell noise of more
        dimensions than it is wide, and draws then run away.
    context_dropout
        Share of training documents whose context is left out; .1 is usual where `guidance` is to
        be used in :meth:`sample`. Default 0 (paper).
    begin
        ``"linear"`` (default of ``"small"``): ridge regression from the mean image embedding of a
        context to that of its RNA is taken off first and put back on what is drawn, so that the
        diffusion models what is left, its mean and its spread. Held-out contexts say how much of
        that mean is kept (:attr:`learnt_weight`). ``"random"``: the paper's.
    seed
        Seed of weights, documents, times, noise and dropout.
    **sizes
        Single sizes on top of the preset, such as `width`, `depth`, `dropout`: the fields of
        ``cellfuse.nn.denoiser.DenoiserSizes``.

    Raises
    ------
    ValueError
        No setup, an unknown preset or size.

    Notes
    -----
    Where the paper and its authors' code differ, or both are silent, the choices are listed in
    the user guide.

    Examples
    --------
    >>> import anndata as ad, mudata as md, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> def cells(name, width):
    ...     obs = pd.DataFrame({"sample": np.repeat(["a", "b", "c"], 8)})
    ...     obs.index = [f"{name}-{i}" for i in range(24)]
    ...     return ad.AnnData(obs=obs, obsm={f"X_{name}": rng.normal(size=(24, width))})
    >>> mdata = md.MuData({"image": cells("image", 6), "rna": cells("rna", 4)})
    >>> cf.PhenoSeq.setup_mudata(mdata, image_rep="X_image", rna_rep="X_rna")
    >>> model = cf.PhenoSeq(mdata, set_size=4, width=16, depth=1, seed=0)
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> model.sample(n_steps=5).shape
    (3, 4)
    """

    #: The paper's (Table 5), and ten times its learning rate for the small network.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "small": Recipe(50, 64, 1e-3, (0.9, 0.999), 1e-5, warmup_epochs=5),
        "base": Recipe(5000, 256, 1e-4, (0.9, 0.999), 1e-5, warmup_epochs=5),
    }
    without = ("missing", "validation_size", "keep_best", "augment")

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        set_size: int = 16,
        n_diffusion_steps: int = 1000,
        schedule: Schedule = "cosine",
        prediction: Prediction | None = None,
        context_dropout: float = 0.0,
        begin: Literal["linear", "random"] | None = None,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        super().__init__(
            adata,
            preset=preset,
            set_size=set_size,
            begin=begin or ("linear" if preset == "small" else "random"),
            seed=seed,
        )
        if not 0 <= context_dropout < 1:
            raise ValueError(f"context_dropout must be in [0, 1), found {context_dropout}.")
        self.sizes = sizes_of(preset, sizes)
        self.prediction = PREDICTIONS[preset] if prediction is None else prediction
        widths = {role: cell_input.shape[0] for role, cell_input in self.inputs.items()}
        if self.prediction == "noise" and self.sizes.width < widths["rna"]:
            warn_user(
                f"a network of width {self.sizes.width} cannot tell noise of {widths['rna']} RNA "
                "features, and what it draws will run away: give a larger `width`, or "
                "prediction='v'."
            )
        self.module = PhenoSeqNetwork(
            widths["image"],
            widths["rna"],
            self.sizes,
            diffusion={
                "n_steps": n_diffusion_steps,
                "schedule": schedule,
                "prediction": self.prediction,
            },
            context_dropout=context_dropout,
            seed=seed,
            linear=self.begin == "linear",
        )

    # -- training ---------------------------------------------------------------------------------

    @renamed(validation_size="validation_contexts")
    @as_in(DocumentModel.train, without)
    def train(
        self,
        max_epochs: int | None = None,
        *,
        rna_per_document: int = 1,
        validation_contexts: HeldContexts | None = None,
        warmup: float | None = None,
        ema_decay: float = 0.9999,
        patience: int = 50,
        **training: Any,
    ) -> None:
        """Train the model; called again, train it further, on documents not drawn before.

        What is None is the model's own, ``model.recipe``.

        Parameters
        ----------
        max_epochs
            Epochs at most: 5,000 for ``"base"`` (paper), 50 for ``"small"``.
        rna_per_document
            RNA cells, each with its own time and noise, for which one encoded context serves; 1
            in the paper. Most of a step's work is the context: more cells cost little.
        validation_contexts
            Without `split_key` in :meth:`setup_mudata`: contexts that are held out, a share of
            them, .1 by default, their labels, or a boolean obs column. 0 holds none out.
        warmup
            Share of the steps. None: 5 epochs (paper; at most half of the training).
        ema_decay
            Limit of the moving average of weights, .9999 (paper), which is what draws; after n
            steps it forgets with ``min(ema_decay, (1 + n) / (10 + n))``.
        patience
            Epochs without a lower validation loss after which training stops, 50 (paper). The
            averaged weights of the epoch with the lowest are kept.

        Raises
        ------
        ValueError
            An argument out of range, features that are all constant, or a training that diverged.

        Warns
        -----
        UserWarning
            The validation loss was lowest during warm-up: the weights kept are hardly trained.
        """
        check_whole("rna_per_document", rna_per_document)
        check_whole("patience", patience, least=0)
        check_between("ema_decay", ema_decay, 0, 1)
        self._n_rna, self._ema_decay, self._patience = rna_per_document, ema_decay, patience
        if "warmup_epochs" in training:
            warn_user(
                "train(warmup_epochs=...) is now `warmup`, a share of the steps; the old name goes "
                "with the next version.",
                FutureWarning,
            )
            check_between("warmup_epochs", training["warmup_epochs"], 0)
            n_epochs = self.recipe.given(max_epochs=max_epochs).max_epochs
            warmup = min(0.5, training.pop("warmup_epochs") / n_epochs)
        n_before = self.n_epochs_
        super().train(
            max_epochs, validation_contexts=validation_contexts, warmup=warmup, **training
        )
        self.is_trained_ = all(bool(p.isfinite().all()) for p in self.module.parameters())
        if not self.is_trained_:
            raise ValueError(
                "the training diverged: weights are NaN or infinite. Build the model anew, and "
                f"train it with a smaller lr than {training.get('lr') or self.recipe.lr:g}."
            )
        if self.begin == "linear":
            self._weigh_learnt(Held(contexts=validation_contexts, by=training.get("validation_by")))
        recipe = self.recipe.given(max_epochs=max_epochs, warmup=warmup)
        warn_hardly_trained(self.history, n_before, recipe)

    def _rows(self, contexts: Contexts, held: Held) -> Rows:
        if self._setup["split"] is None and held.contexts is None:
            held = replace(held, contexts=HELD_SHARE)
        adatas = {role: self._modality(None, role) for role in self.inputs}
        return training_rows(contexts, adatas, self._setup["split"], held, seed=self.seed)

    def _plans(
        self,
        contexts: Contexts,
        rows: Rows,
        recipe: Recipe,
        *,
        replace: Literal["if_needed", True],
        missing: Literal["keep", "drop"],
    ) -> Plans:
        return set_and_cells(
            contexts,
            rows,
            recipe,
            set_size=self.set_size,
            n_rna=self._n_rna,
            replace=replace,
            seed=self.seed,
        )

    def _take_statistics(self, source: Source, plans: Plans) -> None:
        super()._take_statistics(source, plans)
        for role, cell_input in self.inputs.items():
            if not bool((self.module.cell(role).sd > 0).any()):
                raise ValueError(
                    f"all features of {cell_input.label} are constant over the training cells: "
                    "there is nothing to learn from them."
                )

    def _callbacks(self, recipe: Recipe, plans: Plans) -> list[L.Callback]:
        monitor = None if plans.validation is None else "validation_loss"
        averaged = Averaged(self.module, decay=self._ema_decay, monitor=monitor)
        if monitor is None:
            return [averaged]
        return [averaged, L.pytorch.callbacks.EarlyStopping(monitor, patience=self._patience)]

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        # Dropout hangs on the documents too, so that a resumed training is the same.
        with seeded(self.seed, int(batch.key[0]), device=batch.key.device):
            return {"loss": self.module.loss(batch.x["image"], batch.x["rna"], batch.key)}
