"""TIDE: images that learnt from transcriptomes (2604.22832)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from mudata import MuData

from cellfuse._errors import warn_user
from cellfuse.model.base import Recipe, as_in
from cellfuse.model.base.channels import channel_names
from cellfuse.model.tide.compounds import Chemistry
from cellfuse.model.tide.config import (
    RECIPES,
    SSL,
    Begin,
    beginning,
    check_arguments,
    image_side,
    sizes_of,
)
from cellfuse.model.tide.images import ImageReading
from cellfuse.model.tide.networks import make_network
from cellfuse.model.tide.setup import read_screen
from cellfuse.model.tide.training import TideTraining
from cellfuse.nn.tide import Objective

__all__ = ["TIDE"]


class TIDE(TideTraining):
    """Images that learnt what drugs do to transcriptomes, and need none at inference.

    A *teacher* reads an image, a transcriptome of the same drug and cell line (at whatever dose),
    both doses and the basal state of the cell line, and must name the drug: a softmax over
    prototypes that start at the drugs' chemistry and drift to what the drugs do. A *student* reads
    the image alone and must give the teacher's distribution. Both share one image encoder, which a
    self-supervised term trains on every image.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"`` (ViT-Small, patches of 8 pixels).
    ssl
        Self-supervised term: ``"dino"``, ``"mae"`` or None. Flat image features have none.
    objective
        ``"tide"``; ``"drug"`` and ``"rna"`` are the paper's baselines CL(D) and CL(R), CLIP's loss
        of the image against the drug's prototype or against the transcriptome, with the same
        self-supervised term. CL(D) is trained on every drug with images, sequenced or not.
    tau
        Temperature of the softmax over prototypes, .1.
    alpha, beta
        Weights of the teacher's cross-entropy and of the self-supervised term, 1 and 1.
    use_dose
        Tell the doses to teacher and response model.
    finetune_response
        Train the response model on perturbation responses first; without it the transcriptome is
        read by weights that have seen none (the built-in network's first ones, or those of
        `checkpoint`).
    n_paired
        Most RNA samples of each paired drug that are used; None takes all, 0 leaves the
        self-supervised method alone.
    checkpoint
        Folder of a scGPT checkpoint, which then reads the transcriptomes. None: the built-in gene
        transformer.
    channel_agnostic, channel_dropout
        A token per place and channel, and whether DINO's student sees a random choice of channels.
    crop
        Side in pixels of the centre crop; None takes the whole image. Not for flat features.
    n_basal
        Control profiles averaged to a basal state, 8.
    begin
        ``"linear"`` (default of ``"small"``, but for channel-agnostic models and no pairs): the
        response model begins at the mean change of the training drugs, and the embedding at plain
        features of the images (:func:`cellfuse.nn.image_statistics`, or flat features as they
        are), which teacher and student read too. What is learnt joins either with a weight that
        held-out drugs choose: :attr:`learnt_weight`, :attr:`response_learnt_weight`.
        ``"random"``: the paper's.
    seed
        Seed of weights, pairs, views and order.
    **sizes
        Single sizes on top of the preset: `width`, `depth`, `n_heads`, `patch_size`, `mlp_ratio`
        of the ViT; `hidden` of the heads; `codebook_hidden`, `codebook_width`; `flat_width`.

    Raises
    ------
    ValueError
        No setup, an unknown preset or objective, a checkpoint that lacks genes.

    Notes
    -----
    The paper's code is not public; what it leaves open is settled as follows. Prototypes are
    ``norm(MLP(fingerprint) + delta)``, `delta` learned and 0 at the start, so that a compound never
    seen has a place too; they are of the drugs with images and RNA in one context, as only these
    are ever named. The control is none of them: it is the basal state, and its images are in the
    self-supervised term. FiLM on ``log10(dose + 1e-3)``, the identity at the start. The response
    model is trained first and frozen. ``KL(P_t || P_s)`` with `P_t` detached. Paired images are
    turned, mirrored and shifted, never rescaled or brightened. Optimiser and schedule are those of
    the self-supervised method, so that zero pairs are :class:`cellfuse.DINO` or
    :class:`cellfuse.MAE` to the step.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_drugs(n_mechanisms=3, images_per_condition=2, seed=0)
    >>> cf.TIDE.setup_mudata(mdata, context_keys=["compound", "cell_line"], image_rep="crops")
    >>> model = cf.TIDE(mdata, depth=1, width=24, n_heads=2, ssl=None)
    >>> model.train(max_epochs=1, response_epochs=1, enable_progress_bar=False)
    >>> p = model.predict(mdata["image"])
    >>> bool((p.sum(axis=1).round(4) == 1).all())
    True
    """

    recipes: ClassVar[Mapping[str, Recipe]] = RECIPES["dino"]

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        ssl: SSL | None = "dino",
        objective: Objective = "tide",
        tau: float = 0.1,
        alpha: float = 1.0,
        beta: float = 1.0,
        use_dose: bool = True,
        finetune_response: bool = True,
        n_paired: int | None = None,
        checkpoint: str | Path | None = None,
        channel_agnostic: bool = False,
        channel_dropout: bool = True,
        crop: int | None = None,
        n_basal: int = 8,
        begin: Begin | None = None,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        begin = beginning(begin, preset, channel_agnostic=channel_agnostic, n_paired=n_paired)
        super().__init__(adata, preset=preset, begin=begin, seed=seed)
        check_arguments(ssl, objective, alpha, beta, n_paired, n_basal)
        if use_dose and self._setup["dose_key"] is None:
            raise ValueError("there are no doses (`dose_key=None`): give `use_dose=False`.")
        own, vit = sizes_of(preset, sizes)
        image = self.inputs["image"]
        self.side = image_side(image, preset, vit, crop)
        self.ssl = None if self.side is None else ssl
        if n_paired == 0 and self.ssl is None:
            raise ValueError("n_paired=0 leaves the self-supervised term alone, and there is none.")
        self.recipe = RECIPES[self.ssl][preset]
        self.objective, self.use_dose = objective, use_dose
        self.finetune_response = finetune_response
        self.n_paired, self.n_basal = n_paired, n_basal
        self.channels, self.channel_agnostic = channel_names(image), channel_agnostic
        self.channel_dropout = channel_agnostic and channel_dropout
        self.compounds: dict[str, str] = dict(self._setup["compounds"])
        self.drugs: list[str] = list(self._setup["drugs"])
        if objective == "drug":  # what was saved before 0.2 knew only drugs with RNA
            self.drugs = list(self._setup.get("imaged", self.drugs))
        self.chemistry = Chemistry(self._setup["fingerprint"], self._setup["n_bits"])
        self.module, self._setup["scgpt"] = make_network(
            self.inputs,
            self.channels,
            self.chemistry.bits([self.compounds[drug] for drug in self.drugs]),
            preset=preset,
            side=self.side,
            ssl=self.ssl,
            channel_agnostic=channel_agnostic,
            sizes=own,
            vit=vit,
            checkpoint=checkpoint,
            stored=self._setup.get("scgpt") if self._loading is not None else None,
            objective=objective,
            weights={"tau": tau, "alpha": alpha, "beta": beta},
            use_dose=use_dose,
            linear=begin == "linear",
            n_compounds=len(self.compounds),
            seed=seed,
        )
        self.images = ImageReading(self.module, self.channels, self.side, n_paired == 0)

    @classmethod
    @as_in(read_screen)
    def setup_mudata(cls, mdata: MuData, **reading: Any) -> None:  # type: ignore[override] # noqa: D102
        if "rna_counts" in reading:
            warn_user(
                "setup_mudata(rna_counts=...) is now `rna_likelihood`, 'nb' for counts and 'mse' "
                "for values; the old name goes with the next version.",
                FutureWarning,
            )
            reading["rna_likelihood"] = "nb" if reading.pop("rna_counts") else "mse"
        cls._note(mdata, read_screen(mdata, **reading))
