"""Semi-Clipped: expression learns from frozen images of the same perturbations (2505.21317)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import lightning as L
import torch
from mudata import MuData
from torch import Tensor, nn

from cellfuse._access import per_modality
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
from cellfuse.kernels.augmentation import Operation, check_operations
from cellfuse.model._correction import Correction, mixed_up
from cellfuse.model._petri_config import input_spec, sizes_of
from cellfuse.model._semi_clipped_checks import check_batches, warn_collapse
from cellfuse.model._semi_clipped_inference import ClippedInference
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


class _Encoder(nn.Module):
    """Expression to an embedding, for a student that is trained from scratch."""

    def __init__(self, cell: CellAutoencoder) -> None:
        super().__init__()
        self.cell = cell.encoder_only()

    def forward(self, x: Tensor) -> Tensor:
        key = torch.zeros(1, dtype=torch.long, device=x.device)
        prepared = self.cell.prepare(x[None], key, seed=0, augment=False)
        return self.cell.encode(prepared).mean(dim=1)


class SemiClipped(ClippedInference):
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
        similarities between samples; only with ``trains="adapter"``), ``"mse"``.
    trains
        ``"adapter"`` (paper): the RNA side alone. ``"heads"``: an image adapter too. ``"scratch"``:
        an encoder of the expression itself with both adapters; it needs `rna_rep` None, and has no
        embedding to augment.
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
        An unknown preset, objective or operation, arguments that exclude each other; a correction
        without controls.

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
        if not (0 <= noise < math.inf and 0 <= dropout < 1 and 0 <= mixup < math.inf):
            raise ValueError(
                "expected finite noise >= 0, 0 <= dropout < 1 and finite mixup >= 0, found "
                f"{noise}, {dropout} and {mixup}."
            )
        if loss == "kd" and trains != "adapter":
            raise ValueError(
                "loss='kd' teaches the relations between the teacher's samples and would leave a "
                f"head of the teacher untrained; trains={trains!r} has one. Use trains='adapter'."
            )
        if hidden is not None and (isinstance(hidden, int) or min(hidden, default=1) < 1):
            raise ValueError(
                f"hidden={hidden!r}: expected the widths of the hidden layers, such as (256, 256)."
            )
        self.preset, self.seed, self.trains = preset, seed, trains
        self.operations = check_operations(pea, name="pea")
        self.image_correction = check_operations([image_correction], name="image_correction")[0]
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
            self.module = Distillation(
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
                if self.operations != ("none",) or self.noise or self.dropout or self.mixup:
                    raise ValueError(
                        "trains='scratch' has no embedding to correct or to augment: give "
                        "`pea=('none',)`, and no noise, dropout or mixup."
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
            NaN, contexts that do not match, colliding names, one modality only, `control_key`
            without `control`.
        """
        roles = roles_of(modalities)
        if set(roles) != {"image", "rna"}:
            raise ValueError(
                f"SemiClipped pairs two modalities; `modalities` names only {list(roles)}."
            )
        keys = [context_keys] if isinstance(context_keys, str) else list(context_keys)
        if dose_key is not None and dose_key not in keys:
            keys = [*keys, dose_key]
        if control is None and isinstance(control_key, str):
            raise ValueError(
                f"control_key={control_key!r} without `control`: name the label of the controls, "
                "or leave both out to correct by all samples."
            )
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
            batches_of(mdata.mod[name], modality=name, at_least=0, **chosen)
            batches[role] = chosen
        setup = {
            "context_keys": found,
            "inputs": [i.to_json() for i in inputs],
            "batches": batches,
        }
        cls._keep_setup(mdata, setup)

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
            Share of each context's samples held out; the loss on them, in batches as large as those
            of training (what is left over is not used), is in :attr:`history`. Corrections are
            fitted on the held-out controls too, as they are at inference.
        lr, weight_decay, warmup
            Cosine schedule from `lr` (1e-3, paper) after a linear warm-up over a share of the
            steps. SGD with momentum 0.95 and weight decay 1e-4 for ``"base"`` (paper), AdamW with
            0.05 for ``"small"``.
        num_workers
            Processes that read ahead.
        accelerator, devices, precision, callbacks, ckpt_path, **trainer_kwargs
            Passed to Lightning's trainer.

        Raises
        ------
        ValueError
            A batch of a single pair, which has nothing to be compared with (``"kd"`` needs three),
            or one with fewer than two controls.

        Warns
        -----
        UserWarning
            The adapted embedding collapsed: all samples point the same way, or lie on one line.
            Controls that span fewer dimensions than TVN is to correct.
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
        validation, others = None, contexts.restricted(held_out)
        if others.shared().any():
            # Whole batches only: a loss within a smaller one is another, and devices must hold
            # equal shares of it to compare them.
            validation = DocumentPlan(others, stream, seed=self.seed)
        check_batches(self.module.objective, plan, validation)
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
        warn_collapse(self.history, plan.batch_size, self.inputs["image"].shape[0])

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
