"""Semi-Clipped: expression learns from frozen images of the same perturbations (2505.21317)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from mudata import MuData
from torch import Tensor

from cellfuse.data import Batch, Contexts, DocumentPlan, Draw, Source, Stream
from cellfuse.data.splits import Held, Rows
from cellfuse.kernels.augmentation import Operation, check_operations
from cellfuse.model.base import DocumentModel, Recipe, as_in
from cellfuse.model.base.checks import one_of
from cellfuse.model.base.plans import Plans
from cellfuse.model.base.sizes import input_spec, sizes_of
from cellfuse.model.semi_clipped.checks import (
    check_arguments,
    check_batches,
    check_scratch,
    warn_collapse,
)
from cellfuse.model.semi_clipped.closed_form import BeginsAtRidge
from cellfuse.model.semi_clipped.correction import Correction, mixed_up
from cellfuse.nn import Distillation, perturb_embedding, uniform
from cellfuse.nn.autoencoders import ExpressionEncoder, build
from cellfuse.nn.distill import Objective

__all__ = ["SemiClipped"]


Trained = Literal["adapter", "heads", "scratch"]
#: Hidden layers of the adapters.
HIDDEN = {"base": (1024, 1024), "small": (256, 256)}
#: Share of the contexts that is held out where nothing is said and the model began linear.
HELD_SHARE = 0.1


class SemiClipped(BeginsAtRidge):
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
    begin
        ``"linear"`` (default of ``"small"`` where the adapter alone is trained): the adapter is
        ridge regression of the contexts' mean image embedding on their mean RNA embedding, which
        stays, and layers that join it through gates that begin at 0; held-out contexts say how
        much of them is kept. ``"random"``: the paper's.
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

    #: ``"base"`` is the paper's; on a few thousand wells its learning rate leaves the adapter where
    #: it began, so ``"small"`` is AdamW.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "small": Recipe(50, 256, 1e-3, weight_decay=0.05, warmup=0.0),
        "base": Recipe(50, 1024, 1e-3, weight_decay=1e-4, warmup=0.0, momentum=0.95),
    }
    without = ("documents_per_context", "replace", "missing", "augment")

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
        begin: Literal["linear", "random"] | None = None,
        seed: int = 0,
    ) -> None:
        usual: Literal["linear", "random"] = "random"
        if preset == "small" and trains == "adapter":
            usual = "linear"
        super().__init__(adata, preset=preset, begin=begin or usual, seed=seed)
        if self.begin == "linear" and trains != "adapter":
            raise ValueError(
                f"begin='linear' regresses the teacher on the student's embedding; "
                f"trains={trains!r} changes both. Use trains='adapter', or begin='random'."
            )
        one_of("loss", loss, get_args(Objective))
        one_of("trains", trains, get_args(Trained))
        check_arguments(loss, trains, hidden, noise=noise, dropout=dropout, mixup=mixup)
        self.trains = trains
        self.operations = check_operations(pea, name="pea")
        self.image_correction = check_operations([image_correction], name="image_correction")[0]
        self.noise, self.dropout, self.mixup = noise, dropout, mixup
        n_image, n_rna = (self.inputs[role].shape[0] for role in ("image", "rna"))
        encoder = None
        if trains == "scratch":
            augmented = self.operations != ("none",) or noise or dropout or mixup
            check_scratch(self.inputs["rna"], bool(augmented))
            sizes = sizes_of("small", {})
            spec = input_spec(
                self.inputs["rna"], crop=None, normalize="dataset", patch_size=sizes.patch_size
            )
            encoder, n_rna = ExpressionEncoder(build(spec, sizes)), sizes.width
        self.module = Distillation(
            n_rna,
            n_image,
            hidden=tuple(HIDDEN[preset] if hidden is None else hidden),
            objective=loss,
            teacher_head=trains != "adapter",
            temperature=temperature,
            multi_positive=multi_positive,
            encoder=encoder,
            linear=self.begin == "linear",
        )

    # -- training ---------------------------------------------------------------------------------

    @as_in(DocumentModel.train, without)
    def train(self, max_epochs: int | None = None, **training: Any) -> None:
        """Train the adapter; called again, train it further, on pairs not drawn before.

        Each epoch shows every RNA sample once. The loss on held-out samples is of batches as large
        as those of training (what is left over is not used); corrections are fitted on the held-out
        controls too, as they are at inference.

        Parameters
        ----------
        max_epochs
            Epochs of this call, 50 (paper).
        validation_contexts
            Contexts held out as wholes. With ``begin="linear"`` the layers keep the share (1, .5,
            .25 or none) with which these are aligned best, beyond its error. None: a tenth of 50
            contexts or more is held out for that; ridge is then fitted anew on all of them.

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
        held, begun = training.get("validation_contexts"), self.is_trained_
        ours = self.begin == "linear" and held is None and self._many_contexts()
        if ours:
            held = training["validation_contexts"] = HELD_SHARE
        super().train(max_epochs, **training)
        if self.begin == "linear" and held:
            cells, by = training.get("validation_size", 0.0), training.get("validation_by")
            self._weigh_layers(Held(cells, held, by))
            if ours and not begun:  # nobody asked for them to stay unseen
                contexts, rows = self._dealt(Held(cells))
                self._begin_at(self._source(), rows.train, contexts.restricted(rows.train))
        warn_collapse(self.history, self._batch_size, self.inputs["image"].shape[0])

    def _plans(self, contexts: Contexts, rows: Rows, recipe: Recipe, **_: Any) -> Plans:
        """Every RNA sample once per epoch, each time with a fresh image sample of its context."""
        draws = (Draw("rna", 1, missing="drop"), Draw("image", 1, missing="drop"))
        stream = Stream(draws, recipe.batch_size, over="cells")
        plan = DocumentPlan(contexts.restricted(rows.train), stream, seed=self.seed)
        validation, others = None, contexts.restricted(rows.held_out)
        if others.shared().any():
            # Whole batches only: a loss within a smaller one is another, and devices must hold
            # equal shares of it to compare them.
            validation = DocumentPlan(others, stream, seed=self.seed)
        check_batches(self.module.objective, plan, validation)
        self._batch_size = plan.batch_size
        return Plans(plan, validation, rows.train)

    def _take_statistics(self, source: Source, plans: Plans) -> None:
        rna = {"rna": plans.train_rows["rna"]}  # the teacher stays as it is
        found = self._statistics(source, rna, seed=self.seed)["rna"]
        self.module.cell("rna").set_statistics(*found)

    def _begin_stage(self, stage: int, source: Source) -> None:
        operations = {"image": (self.image_correction,), "rna": self.operations}
        self._fitted = {r: self._correction(None, r, operations[r]) for r in self.inputs}
        for role, correction in self._fitted.items():
            source.fields[role] = {"batch": correction.codes}

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        fitted: dict[str, Correction] = self._fitted
        key = batch.key
        of = {role: correction.to(key.device) for role, correction in fitted.items()}
        codes = {role: batch.obs[role]["batch"][:, 0] for role in fitted}
        teacher = of["image"].apply(batch.x["image"][:, 0].float(), codes["image"])
        student = batch.x["rna"][:, 0]
        if self.trains == "scratch":
            return self.module(student, teacher, batch.context)
        student = self.module.scale(student)
        if not augment:  # corrected as at inference
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
