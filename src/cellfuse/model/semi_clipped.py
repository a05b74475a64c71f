"""Semi-Clipped: expression learns from frozen images of the same perturbations (2505.21317)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor, nn

from cellfuse._access import Data, per_modality
from cellfuse._batches import Labels, batches_of
from cellfuse.data import (
    Batch,
    DocumentDataModule,
    DocumentPlan,
    Draw,
    Source,
    Stream,
    training_rows,
)
from cellfuse.data.readers import read_dense
from cellfuse.kernels.augmentation import Operation, check_operations
from cellfuse.model._correction import Correction, mixed_up
from cellfuse.model._petri_config import input_spec, sizes_of
from cellfuse.model._probe import gene_probe
from cellfuse.model._scvi import DocumentModel
from cellfuse.model._setup import check_seed, one_of, read_inputs, roles_of
from cellfuse.model._training import Training, fit, seeded
from cellfuse.nn import Distillation, perturb_embedding, uniform
from cellfuse.nn.autoencoders import CellAutoencoder, build
from cellfuse.nn.distill import Objective

__all__ = ["SemiClipped"]

Trained = Literal["adapter", "heads", "scratch"]
#: Hidden layers, rows per batch, optimiser. ``"base"`` is the paper's; on a few thousand wells its
#: learning rate leaves the adapter where it began, so ``"small"`` is AdamW.
PRESETS: dict[str, dict[str, Any]] = {
    "base": {
        "hidden": (1024, 1024),
        "batch_size": 1024,
        "lr": 1e-3,
        "momentum": 0.95,
        "weight_decay": 1e-4,
    },
    "small": {
        "hidden": (256, 256),
        "batch_size": 256,
        "lr": 1e-3,
        "momentum": None,
        "weight_decay": 0.05,
    },
}
#: Spread or effective rank below which the adapted embedding is said to have collapsed.
LEAST_SPREAD, LEAST_RANK = 0.1, 2.0


class _Encoder(nn.Module):
    """Expression to an embedding, for a student that is trained from scratch."""

    def __init__(self, cell: CellAutoencoder) -> None:
        super().__init__()
        self.cell = cell.encoder_only()

    def forward(self, x: Tensor) -> Tensor:
        key = torch.zeros(1, dtype=torch.long, device=x.device)
        prepared = self.cell.prepare(x[None], key, seed=0, augment=False)
        return self.cell.encode(prepared).mean(dim=1)


class SemiClipped(DocumentModel):
    """RNA adapters distilled from frozen image embeddings, batch correction as augmentation.

    The teacher, a batch-corrected image embedding, stays as it is. A small adapter carries the
    RNA embedding of a cell or well to its space, so that samples of the same perturbation and
    cell line meet (CLIP's loss). Perturbation embedding augmentation (PEA) corrects each RNA
    sample by an operation drawn at random, fitted on the controls of the sample's own batch.
    Inference needs RNA alone.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"base"``: the paper's adapter (1024, 1024) and optimiser (SGD, 0.95, batches of 1,024).
        ``"small"``: (256, 256) and AdamW, for some thousand wells on two cores.
    loss
        ``"clip"`` (paper), ``"sigmoid"`` (SigLIP), ``"vicreg"``, ``"kd"`` (the teacher's
        similarities between samples), ``"mse"``.
    trains
        ``"adapter"`` (paper): the RNA side alone. ``"heads"``: an image adapter too. ``"scratch"``:
        an encoder of the expression itself with both adapters; it needs `rna_rep` None.
    pea
        Operations to draw from, see
        :func:`cellfuse.pp.perturbation_embedding_augmentation`; ``("none",)`` is no augmentation.
    image_correction
        Correction of the image embedding, once: ``"tvn"`` (paper), ``"center_scale"``,
        ``"center"``, or ``"none"`` where it is corrected already or has no controls.
    multi_positive
        Samples of one context in a batch are never each other's negatives; False is the plain
        loss.
    temperature
        Start of the learnable temperature, 0.1.
    noise, dropout
        Further augmentation of the RNA embedding: standard deviation of added noise in units of
        each feature's own, and the chance of a feature to be set to its mean.
    mixup
        Beta(mixup, mixup) gives the weight, at least one half, with which a sample is mixed with
        the one before it in its batch; 0 is no mixing.
    hidden
        Hidden layers of the adapters; the preset's by default.
    seed
        Seed of weights, pairs and augmentation.

    Raises
    ------
    ValueError
        An unknown preset, objective or operation; a correction without controls.

    Notes
    -----
    The notes on the paper leave the coordinates of its TVN open. Here it is turned back to the
    axes of the input, which changes no distance, so that the adapter reads the same features
    whatever was drawn. The whole pairing is by context: an epoch shows every RNA sample once, each
    time with a fresh image sample of its context.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=8, seed=0)
    >>> for m in ("image", "rna"):
    ...     mdata[m].obsm["X_emb"] = mdata[m].obsm["latent"]
    >>> cf.SemiClipped.setup_mudata(
    ...     mdata,
    ...     context_keys="guide",
    ...     image_rep="X_emb",
    ...     rna_rep="X_emb",
    ...     control_key="gene",
    ...     control="non-targeting",
    ... )
    >>> model = cf.SemiClipped(mdata, seed=0)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> z = model.get_latent_representation(mdata["rna"])
    >>> z.shape[1] == mdata["image"].obsm["X_emb"].shape[1]
    True
    """

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        loss: Objective = "clip",
        trains: Trained = "adapter",
        pea: Sequence[Operation] = ("none", "center", "center_scale", "tvn"),
        image_correction: Operation = "tvn",
        multi_positive: bool = True,
        temperature: float = 0.1,
        noise: float = 0.0,
        dropout: float = 0.0,
        mixup: float = 0.0,
        hidden: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        self._begin(adata)
        check_seed(seed)
        one_of("preset", preset, tuple(PRESETS))
        one_of("loss", loss, get_args(Objective))
        one_of("trains", trains, get_args(Trained))
        if noise < 0 or not 0 <= dropout < 1 or mixup < 0:
            raise ValueError(
                "expected noise >= 0, 0 <= dropout < 1 and mixup >= 0, found "
                f"{noise}, {dropout} and {mixup}."
            )
        self.preset, self.seed, self.trains = preset, seed, trains
        self.operations = check_operations(pea)
        self.image_correction = check_operations([image_correction])[0]
        self.noise, self.dropout, self.mixup = noise, dropout, mixup
        n_image, n_rna = self._check_inputs()
        encoder = None
        with seeded(seed):
            if trains == "scratch":
                sizes = sizes_of("small", {})
                spec = input_spec(
                    self.inputs["rna"], crop=None, normalize="dataset", patch_size=sizes.patch_size
                )
                encoder, n_rna = _Encoder(build(spec, sizes)), sizes.width
            self.module: Distillation = Distillation(
                n_rna,
                n_image,
                hidden=tuple(PRESETS[preset]["hidden"] if hidden is None else hidden),
                objective=loss,
                teacher_head=trains != "adapter",
                temperature=temperature,
                multi_positive=multi_positive,
                encoder=encoder,
            )
        self._model_summary_string = (
            f"SemiClipped ({preset}): rna {n_rna} to image {n_image}, loss {loss}, trains "
            f"{trains}, PEA {', '.join(self.operations)}"
        )
        self.init_params_ = self._get_init_params(locals())

    def _check_inputs(self) -> tuple[int, int]:
        """Widths of the two embeddings."""
        for role, cell_input in self.inputs.items():
            if len(cell_input.shape) != 1:
                raise ValueError(
                    f"{cell_input.label} has cells of shape {cell_input.shape}; SemiClipped reads "
                    "one vector per cell, an embedding. `cf.pp.embed_images` makes one of crops."
                )
            if role == "rna" and self.trains == "scratch":
                if cell_input.place == "obsm":
                    raise ValueError(
                        "trains='scratch' encodes the expression itself: set up with "
                        "`rna_rep=None` (X or `rna_layer`)."
                    )
                if self.operations != ("none",):
                    raise ValueError(
                        "trains='scratch' has no embedding to correct: give `pea=('none',)`."
                    )
        return self.inputs["image"].shape[0], self.inputs["rna"].shape[0]

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        context_keys: str | Sequence[str],
        image_rep: str | None,
        rna_rep: str | None,
        rna_layer: str | None = None,
        batch_key: Labels | None | Mapping[str, Labels | None] = None,
        control_key: str | None | Mapping[str, str | None] = None,
        control: Labels | None | Mapping[str, Labels | None] = None,
        dose_key: str | None = None,
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is read, what samples share, and which are controls.

        Parameters
        ----------
        mdata
            Modalities with different samples. Only ``.uns["cellfuse"]`` is written.
        context_keys
            obs column or columns, in both modalities, whose joint value says which samples
            belong together, such as ``["compound", "cell_line"]`` (paper).
        image_rep
            obsm key of the frozen image embedding, shape (n, d); None is X.
        rna_rep
            obsm key of the RNA embedding. None is X or `rna_layer`, read as real values: raw counts
            are to be normalised first (`cf.pp.embed_pca`, or log counts for trains="scratch").
        rna_layer
            Layer to read where `rna_rep` is None.
        batch_key
            obs column or columns of the batch on whose controls corrections are fitted, or a dict
            per role. None: one batch.
        control_key, control
            obs column and label or labels of the controls; None: all samples. Or dicts per role.
        dose_key
            obs column of the dose, which then is part of the context; None pairs all doses.
        modalities
            Name in the MuData of the roles ``"image"`` and ``"rna"``.

        Raises
        ------
        KeyError
            A modality, key, layer or control label is missing.
        ValueError
            NaN, contexts that do not match, colliding names, one modality only.
        """
        roles = roles_of(modalities)
        if set(roles) != {"image", "rna"}:
            raise ValueError(
                f"SemiClipped pairs two modalities; `modalities` names only {list(roles)}."
            )
        keys = [context_keys] if isinstance(context_keys, str) else list(context_keys)
        if dose_key is not None:
            keys = [*keys, dose_key]
        found, inputs = read_inputs(
            cls.__name__,
            mdata,
            roles,
            context_keys=keys[0] if len(keys) == 1 else keys,
            reps={"image": image_rep, "rna": rna_rep},
            layers={"rna": rna_layer},
        )
        batches = {}
        for role, name in roles.items():
            chosen: dict[str, Any] = {
                "keys": [per_modality(batch_key, role, name="batch_key")],
                "control_key": per_modality(control_key, role, name="control_key"),
                "control": per_modality(control, role, name="control"),
            }
            # A misspelt column or label is told here, not in the middle of a training.
            if chosen["control"] is not None:
                batches_of(mdata.mod[name], modality=name, at_least=0, **chosen)
            batches[role] = chosen
        setup = {
            "context_keys": found,
            "inputs": [i.to_json() for i in inputs],
            "batches": batches,
        }
        cls._keep_setup(mdata, setup)

    @property
    def _usual_correction(self) -> Operation:
        return "center_scale" if "center_scale" in self.operations else self.operations[-1]

    def _correction(
        self, data: Data | None, role: str, operations: Sequence[Operation]
    ) -> Correction:
        return Correction.fit(
            self._modality(data, role),
            self._reader(data, role),
            operations,
            batches=self._setup["batches"][role],
            prepare=self._prepare(role),
            modality=self.inputs[role].modality,
        )

    def _prepare(self, role: str) -> Callable[[Tensor], Tensor]:
        """What is done to an embedding before it is corrected; the teacher's is left alone."""
        if role == "image" or self.module.encoder is not None:
            return lambda x: x.float()
        return lambda x: self.module.standardise(x.to(self.device))

    # -- training ---------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int = 50,
        *,
        batch_size: int | None = None,
        validation_size: float = 0.0,
        lr: float | None = None,
        weight_decay: float | None = None,
        warmup: float = 0.0,
        num_workers: int = 0,
        accelerator: str = "auto",
        devices: Any = "auto",
        precision: str | None = None,
        callbacks: list[L.Callback] | None = None,
        ckpt_path: str | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the adapter.

        Parameters
        ----------
        max_epochs
            Epochs, 50 (paper); each shows every RNA sample once.
        batch_size
            Pairs per batch over all devices: 256 for ``"small"``, 1,024 for ``"base"`` (paper).
        validation_size
            Share of each context's samples held out; the loss on them is in :attr:`history`.
        lr, weight_decay, warmup
            Cosine schedule from `lr` (1e-3, paper) after a linear warm-up over a share of the
            steps. SGD with momentum 0.95 and weight decay 1e-4 for ``"base"`` (paper), AdamW with
            0.05 for ``"small"``.
        num_workers
            Processes that read ahead.
        accelerator, devices, precision, callbacks, ckpt_path, **trainer_kwargs
            Passed to Lightning's trainer.

        Warns
        -----
        UserWarning
            The adapted embedding collapsed: all samples point the same way, or lie on one line.
        """
        self._check_trainable(max_epochs, trainer_kwargs)
        preset = PRESETS[self.preset]
        contexts = self._contexts(None, list(self.inputs))
        train_rows, held_out = training_rows(contexts, validation_size, self.seed)
        stream = Stream(
            (Draw("rna", 1, missing="drop"), Draw("image", 1, missing="drop")),
            preset["batch_size"] if batch_size is None else batch_size,
            over="cells",
        )
        plan = DocumentPlan(contexts.restricted(train_rows), stream, seed=self.seed)
        validation = None
        if all(mask.any() for mask in held_out.values()):
            validation = DocumentPlan(
                contexts.restricted(held_out), stream, seed=self.seed, drop_last=False
            )
        readers = {role: self._reader(None, role) for role in self.inputs}
        if not self.is_trained_:
            rna = Source({"rna": readers["rna"]})
            found = self._statistics(rna, train_rows, seed=self.seed)["rna"]
            encoder = self.module.encoder
            target = encoder.cell if isinstance(encoder, _Encoder) else self.module
            target.set_statistics(*found)
        operations = {"image": (self.image_correction,), "rna": self.operations}
        fitted = {role: self._correction(None, role, operations[role]) for role in self.inputs}
        source = Source(readers, {role: {"batch": c.codes} for role, c in fitted.items()})
        self.module.train()
        self.history_ = fit(
            Training(
                self.module,
                lambda batch, training: self._losses(batch, fitted, training),
                lr=preset["lr"] if lr is None else lr,
                weight_decay=preset["weight_decay"] if weight_decay is None else weight_decay,
                warmup=warmup,
                momentum=preset["momentum"],
            ),
            DocumentDataModule(plan, source, validation=validation, num_workers=num_workers),
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            callbacks=callbacks,
            ckpt_path=ckpt_path,
            **trainer_kwargs,
        )
        self.module.eval()
        self.is_trained_ = True
        self._warn_collapse()

    def _losses(
        self, batch: Batch, fitted: Mapping[str, Correction], training: bool
    ) -> dict[str, Tensor]:
        key = batch.key
        of = {role: correction.to(key.device) for role, correction in fitted.items()}
        codes = {role: batch.obs[role]["batch"][:, 0] for role in fitted}
        teacher = of["image"].apply(batch.x["image"][:, 0].float(), codes["image"])
        student = batch.x["rna"][:, 0]
        if self.trains == "scratch":
            return self.module(student, teacher, batch.context)
        student = self.module.standardise(student)
        if not training:  # corrected as at inference
            usual = self.operations.index(self._usual_correction)
            student = of["rna"].apply(student, codes["rna"], torch.full_like(key, usual))
            return self.module(student, teacher, batch.context)
        student = perturb_embedding(
            student, key, seed=self.seed, noise=self.noise, dropout=self.dropout
        )
        u = uniform(key, (1,), seed=self.seed, purpose="pea")[:, 0]
        operation = (u * len(self.operations)).long()
        student = of["rna"].apply(student, codes["rna"], operation)
        if self.mixup:
            student = mixed_up(student, key, seed=self.seed, alpha=self.mixup)
        return self.module(student, teacher, batch.context)

    def _warn_collapse(self) -> None:
        spread, rank = (
            self.history[f"train_{name}_epoch"].to_numpy(dtype=float)[-1, 0]
            for name in ("spread", "effective_rank")
        )
        if spread < LEAST_SPREAD or rank < LEAST_RANK:
            warnings.warn(
                f"the adapted embedding has collapsed (spread {spread:.3f}, effective rank "
                f"{rank:.1f}): samples can hardly be told apart. A lower "
                "`lr`, loss='vicreg', or fewer contexts with the same batch layout may help.",
                stacklevel=3,
            )

    # -- what a trained model gives ---------------------------------------------------------------

    @torch.inference_mode()
    def get_latent_representation(  # type: ignore[override]
        self,
        data: Data | None = None,
        *,
        modality: Literal["rna", "image"] = "rna",
        correction: Operation | None = None,
        batch_size: int = 4096,
    ) -> NDArray[np.float32]:
        """Embedding of each RNA sample in the teacher's space.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or the RNA modality's AnnData. Images
            are not needed.
        modality
            ``"rna"``; or ``"image"``, the corrected teacher (through its head, where one was
            trained) to compare with.
        correction
            Correction of the RNA embedding, fitted on the controls of each batch of `data`. None:
            ``"center_scale"`` where the model was trained with it, else the strongest that it was
            trained with. The covariance that TVN inverts needs many more controls per batch than
            features: with fewer it did worse on simulated screens (results page).
        batch_size
            Samples adapted at a time.

        Returns
        -------
        Shape (n, d_image), float32.

        Raises
        ------
        KeyError, ValueError
            The batch column or the controls are missing in `data`: give `correction="none"` where
            it has none.
        """
        self._check_trained()
        self.module.eval()
        role = self._one_role(modality)
        if role == "rna":
            chosen = self._usual_correction if correction is None else correction
            name = check_operations([chosen])[0]
        else:
            name = self.image_correction
        correction_ = self._correction(data, role, (name,)).to(self.device)
        reader, prepare = self._reader(data, role), self._prepare(role)
        out = np.empty((reader.shape[0], self.inputs["image"].shape[0]), np.float32)
        for start in range(0, len(out), batch_size):
            rows = np.arange(start, min(start + batch_size, len(out)))
            x = prepare(read_dense(reader, rows, device=self.device))
            x = correction_.apply(x, torch.as_tensor(correction_.codes[rows]).to(self.device))
            out[rows] = self._head(role, x).float().cpu().numpy()
        return out

    def _head(self, role: str, x: Tensor) -> Tensor:
        if role == "image":
            return x if self.module.teacher_head is None else self.module.teacher_head(x)
        encoder = self.module.encoder
        return self.module.adapter(x if encoder is None else encoder(x))

    def gene_probe(
        self,
        data: Data | None = None,
        *,
        layer: str | None = None,
        log_normalize: bool = False,
        correction: Operation | None = None,
        n_folds: int = 5,
    ) -> pd.DataFrame:
        """How much of each gene's expression is left in the adapted embedding.

        A ridge regression from the embedding to each gene, fitted on some contexts and judged on
        the others: the claim that the adapted embedding stays interpretable, made checkable.

        Parameters
        ----------
        data
            As in :meth:`get_latent_representation`; it must hold the expression too.
        layer
            Layer of the expression; None is X.
        log_normalize
            Take log(1 + counts per 10,000) of raw counts first.
        correction
            As in :meth:`get_latent_representation`, for both embeddings.
        n_folds
            Folds over contexts.

        Returns
        -------
        One row per gene: ``r2_adapted``, ``r2_unadapted`` (the RNA embedding that went into the
        adapter, corrected alike) and their ``difference``, on held-out contexts. An R^2 below 0 is
        worse than the mean of the other contexts.
        """
        self._check_trained()
        adata = self._modality(data, "rna")
        if self.module.encoder is not None:
            raise ValueError("trains='scratch' has no unadapted embedding to compare with.")
        adapted = self.get_latent_representation(data, correction=correction)
        name = self._usual_correction if correction is None else correction
        fitted = self._correction(data, "rna", (name,))
        x = read_dense(self._reader(data, "rna"), np.arange(adata.n_obs))
        with torch.inference_mode():
            x = self._prepare("rna")(x).cpu()
            unadapted = fitted.apply(x, torch.as_tensor(fitted.codes)).numpy()
        return gene_probe(
            adata,
            {"adapted": adapted, "unadapted": unadapted},
            by=self.context_keys,
            layer=layer,
            log_normalize=log_normalize,
            n_folds=n_folds,
            seed=self.seed,
        )
