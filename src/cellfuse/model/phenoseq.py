"""PhenoSeq: transcriptomic embeddings from images by conditional diffusion."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import lightning as L
import numpy as np
from mudata import MuData
from torch import Tensor

from cellfuse._errors import listing
from cellfuse.data import Batch, Contexts, DocumentDataModule, DocumentPlan, Draw, Source, Stream
from cellfuse.model._phenoseq_inference import PhenoSeqInference
from cellfuse.model._phenoseq_network import PREDICTIONS, TRAINING, PhenoSeqNetwork, sizes_of
from cellfuse.model._setup import ROLES, check_seed, read_inputs, roles_of
from cellfuse.model._splits import Labels, by_label, rows_of, split_labels, training_contexts
from cellfuse.model._training import Averaged, Training, fit, seeded
from cellfuse.nn.diffusion import Prediction, Schedule

__all__ = ["PhenoSeq"]

#: Documents of each validation context, and RNA cells of each: the same at every epoch, whatever
#: the training draws, so that losses of different trainings compare.
VALIDATION_DOCUMENTS, VALIDATION_RNA = 4, 8


class PhenoSeq(PhenoSeqInference):
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

    module: PhenoSeqNetwork

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
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        self._begin(adata)
        if set_size < 1:
            raise ValueError(f"set_size must be at least 1, found {set_size}.")
        if not 0 <= context_dropout < 1:
            raise ValueError(f"context_dropout must be in [0, 1), found {context_dropout}.")
        check_seed(seed)
        self.preset, self.set_size, self.seed = preset, set_size, seed
        self.sizes = sizes_of(preset, sizes)
        self.prediction = PREDICTIONS[preset] if prediction is None else prediction
        widths = {role: cell_input.shape[0] for role, cell_input in self.inputs.items()}
        if self.prediction == "noise" and self.sizes.width < widths["rna"]:
            warnings.warn(
                f"a network of width {self.sizes.width} cannot tell noise of {widths['rna']} RNA "
                "features, and what it draws will run away: give a larger `width`, or "
                "prediction='v'.",
                stacklevel=2,
            )
        with seeded(seed):
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
            )
        self._model_summary_string = (
            f"PhenoSeq ({preset}): {widths['rna']} RNA features from {widths['image']} of images, "
            f"set size {set_size}, contexts by {', '.join(self.context_keys)}"
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        context_keys: str | Sequence[str] = "sample",
        image_rep: str | None = "X_vit",
        rna_rep: str | None = "X_scgpt",
        split_key: str | None = None,
        train: Labels = "train",
        validation: Labels | None = "validation",
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is read, what cells share, and which of them are trained on.

        Parameters
        ----------
        mdata
            Modalities with different cells. Only ``.uns["cellfuse"]`` (and scvi-tools'
            identifiers in ``.uns``) is written.
        context_keys
            obs column or columns, in both modalities, whose joint value is the context: the
            sample (paper), or the treatment.
        image_rep, rna_rep
            obsm key of an embedding ``(n, D)``; None is X.
        split_key
            obs column, in both modalities, that says which cells are trained on, such as the
            replicate: cells of any other label than those of `train` and `validation` are never
            looked at, not for the statistics either. None: all cells are for training, and
            :meth:`train` holds out whole contexts for validation.
        train, validation
            Label or labels of `split_key`; no validation with None.
        modalities
            Name in the MuData of the roles ``"image"`` and ``"rna"``; by default those names.

        Raises
        ------
        KeyError
            A modality, key or label is missing.
        ValueError
            No flat embeddings, NaN, contexts that do not match, colliding names, no context with
            training (or validation) cells of both modalities.
        """
        roles = roles_of(modalities)
        if set(roles) != set(ROLES):
            raise ValueError(
                f"PhenoSeq is trained on both roles, {listing(ROLES)}; `modalities` names "
                f"{listing(roles)}. Images alone are enough for `sample`."
            )
        keys, inputs = read_inputs(
            cls.__name__,
            mdata,
            roles,
            context_keys=context_keys,
            reps={"image": image_rep, "rna": rna_rep},
        )
        for cell_input in inputs:
            if cell_input.kind != "values":
                raise ValueError(
                    f"{cell_input.label} holds cells of shape {cell_input.shape}; PhenoSeq reads "
                    "flat embeddings (cells, features), such as those of a pretrained network."
                )
        split = None
        if split_key is not None:
            split = {
                "key": split_key,
                "train": split_labels(train),
                "validation": split_labels(validation),
            }
            both = set(split["train"]) & set(split["validation"])
            if both or not split["train"]:
                raise ValueError(
                    f"`train` needs a label, and shares none with `validation`; found "
                    f"{listing(split['train'])} and {listing(split['validation'])}."
                )
            adatas = {role: mdata.mod[name] for role, name in roles.items()}
            contexts = Contexts.from_modalities(adatas, keys[0] if len(keys) == 1 else keys)
            _, held_out = by_label(contexts, adatas, split)
            if split["validation"] and not contexts.restricted(held_out).shared().any():
                raise ValueError(
                    f"no context has validation cells (obs[{split_key!r}] in "
                    f"{listing(split['validation'])}) of both modalities: nothing says when to "
                    "stop. Name other labels with `validation=`, or None for no validation."
                )
        cls._keep_setup(
            mdata,
            {"context_keys": keys, "inputs": [i.to_json() for i in inputs], "split": split},
        )

    # -- training ---------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int | None = None,
        documents_per_context: int = 30,
        rna_per_document: int = 1,
        replace: Literal["if_needed", True] = "if_needed",
        validation_size: float = 0.1,
        lr: float | None = None,
        weight_decay: float = 1e-5,
        warmup_epochs: int = 5,
        ema_decay: float = 0.9999,
        patience: int = 50,
        num_workers: int = 0,
        accelerator: str = "auto",
        devices: Any = "auto",
        precision: str | None = None,
        callbacks: list[L.Callback] | None = None,
        ckpt_path: str | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Epochs at most: 5,000 for ``"base"`` (paper), 50 for ``"small"``.
        batch_size
            Documents per batch, over all devices: 256 for ``"base"`` (paper), 64 for ``"small"``.
        documents_per_context
            Documents of each context per epoch.
        rna_per_document
            RNA cells, each with its own time and noise, for which one encoded context serves; 1
            in the paper. Most of a step's work is the context: more cells cost little.
        replace
            ``"if_needed"``: a cell stands once in a document where the context has enough cells.
            True: cells are drawn independently.
        validation_size
            Without `split_key` in :meth:`setup_mudata`: share of the contexts held out.
        lr, weight_decay, warmup_epochs
            AdamW (betas .9, .999), linear warm-up over 5 epochs (paper; at most half of the
            training), then cosine. The learning rate is 1e-4 for ``"base"`` (paper), 1e-3 for
            ``"small"``.
        ema_decay
            Limit of the moving average of weights, .9999 (paper), which is what draws; after n
            steps it forgets with ``min(ema_decay, (1 + n) / (10 + n))``.
        patience
            Epochs without a lower validation loss after which training stops, 50 (paper). The
            averaged weights of the epoch with the lowest are kept.
        num_workers
            Processes that read ahead.
        accelerator, devices, precision, callbacks, ckpt_path, **trainer_kwargs
            Passed to Lightning's trainer, such as `strategy`, `num_nodes`, `max_steps`. Precision
            is bf16 on a GPU and float32 elsewhere. `ckpt_path` resumes from a checkpoint, in the
            middle of an epoch too.

        Raises
        ------
        ValueError
            An argument out of range, features that are all constant, or a training that diverged.

        Warns
        -----
        UserWarning
            The validation loss was lowest during warm-up: the weights kept are hardly trained.
        """
        epochs, documents, rate = TRAINING[self.preset]
        max_epochs = epochs if max_epochs is None else max_epochs
        lr = rate if lr is None else lr
        self._check_trainable(max_epochs, trainer_kwargs)
        if not 0 < lr < math.inf:
            raise ValueError(f"lr must be positive, found {lr}.")
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ema_decay must be from 0 to 1, found {ema_decay}.")
        for name, value in (
            ("weight_decay", weight_decay),
            ("warmup_epochs", warmup_epochs),
            ("patience", patience),
        ):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, found {value}.")
        contexts, held_out = self._split(validation_size)
        plan = DocumentPlan(
            contexts,
            self._stream(rna_per_document, documents if batch_size is None else batch_size),
            documents_per_context=documents_per_context,
            replace=replace,
            seed=self.seed,
        )
        validation = None
        if held_out is not None:
            validation = DocumentPlan(
                held_out,
                self._stream(VALIDATION_RNA, plan.stream.batch_size),
                documents_per_context=VALIDATION_DOCUMENTS,
                seed=self.seed,
                drop_last=False,
            )
        source = Source({role: self._reader(None, role) for role in self.inputs})
        if not self.is_trained_:
            found = self._statistics(source, rows_of(contexts), seed=self.seed)
            for role, (mean, sd) in found.items():
                if not bool((sd > 0).any()):
                    raise ValueError(
                        f"all features of {self.inputs[role].label} are constant over the "
                        "training cells: there is nothing to learn from them."
                    )
                getattr(self.module, role).set_statistics(mean, sd)
        # `max_steps` may end the training before its last epoch; a warm-up counts in epochs.
        max_steps = trainer_kwargs.get("max_steps", -1)
        n_epochs = min(max_epochs, max_steps / plan.n_steps) if max_steps > 0 else max_epochs
        monitor = None if validation is None else "validation_loss"
        averaged = Averaged(self.module, decay=ema_decay, monitor=monitor)
        stops = [L.pytorch.callbacks.EarlyStopping(monitor, patience=patience)] if monitor else []
        self.module.train()
        self.history_ = fit(
            Training(
                self.module,
                self._losses,
                lr=lr,
                betas=(0.9, 0.999),
                weight_decay=weight_decay,
                warmup=min(0.5, warmup_epochs / n_epochs),
            ),
            DocumentDataModule(plan, source, validation=validation, num_workers=num_workers),
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            callbacks=[averaged, *stops, *(callbacks or [])],
            ckpt_path=ckpt_path,
            **trainer_kwargs,
        )
        averaged.put()
        self.module.eval()
        self.is_trained_ = all(bool(p.isfinite().all()) for p in self.module.parameters())
        if not self.is_trained_:
            raise ValueError(
                f"the training diverged: weights are NaN or infinite. Build the model anew, and "
                f"train it with a smaller lr than {lr:g}."
            )
        self._warn_hardly_trained(warmup_epochs, n_epochs)

    def _warn_hardly_trained(self, warmup_epochs: int, n_epochs: float) -> None:
        """A validation loss that only rose keeps weights that draw the same for all contexts."""
        frame = self.history.get("validation_loss")
        if frame is None or len(frame) <= warmup_epochs:
            return
        epochs = frame.index.to_numpy(dtype=int)
        best = int(epochs[np.nanargmin(frame["validation_loss"].to_numpy(dtype=float))])
        if best < min(warmup_epochs, n_epochs / 2):
            warnings.warn(
                f"the validation loss was lowest in epoch {best} of {len(frame)}, during warm-up, "
                "and the weights of that epoch were kept: what is drawn hardly depends on the "
                "images. Where whole treatments are held out for validation this says little of "
                "the rest: hold out replicates or cells of the treatments that are trained on "
                "(`split_key`), or train a fixed number of epochs without validation.",
                UserWarning,
                stacklevel=3,
            )

    def _stream(self, n_rna: int, batch_size: int) -> Stream:
        draws = (Draw("image", self.set_size, missing="drop"), Draw("rna", n_rna, missing="drop"))
        return Stream(draws, batch_size)

    def _losses(self, batch: Batch, training: bool) -> dict[str, Tensor]:
        # Dropout hangs on the documents too, so that a resumed training is the same.
        with seeded(self.seed, int(batch.key[0]), device=batch.key.device):
            return {"loss": self.module.loss(batch.x["image"], batch.x["rna"], batch.key)}

    def _split(self, validation_size: float) -> tuple[Contexts, Contexts | None]:
        """Contexts with the cells of training, and those of validation if there are any."""
        return training_contexts(
            self._contexts(None, list(self.inputs)),
            {role: self._modality(None, role) for role in self.inputs},
            self._setup["split"],
            validation_size=validation_size,
            seed=self.seed,
        )
