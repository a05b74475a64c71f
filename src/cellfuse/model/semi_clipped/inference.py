"""What a trained Semi-Clipped gives, from expression alone: the embedding, and a probe of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse.data.readers import read_dense
from cellfuse.kernels.augmentation import Operation, check_operations
from cellfuse.model.base.checks import check_whole
from cellfuse.model.semi_clipped.correction import Correction
from cellfuse.model.semi_clipped.probe import gene_probe
from cellfuse.model.semi_clipped.setup import ClippedSetup
from cellfuse.nn import Distillation

__all__ = ["ClippedInference"]


class ClippedInference(ClippedSetup):
    """Inference of :class:`cellfuse.SemiClipped`; training shares its corrections alone."""

    module: Distillation
    operations: tuple[Operation, ...]
    image_correction: Operation
    seed: int

    @property
    def _usual_correction(self) -> Operation:
        return "center_scale" if "center_scale" in self.operations else self.operations[-1]

    def _chosen(self, correction: Operation | None) -> Operation:
        if correction is None:
            return self._usual_correction
        name = check_operations([correction], name="correction")[0]
        if self.module.encoder is not None and name != "none":
            raise ValueError(
                f"correction={name!r}: trains='scratch' reads expression itself and was trained "
                "without a correction of it."
            )
        return name

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
        return lambda x: self.module.scale(x.to(self.device))

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
            it has none. A `correction` of images, or of a model trained from scratch.
        """
        self._check_trained()
        check_whole("batch_size", batch_size)
        self.module.eval()
        role = self._role(modality)
        if role == "rna":
            name = self._chosen(correction)
        elif correction is not None:
            raise ValueError(
                f"correction={correction!r} is one of the RNA embedding; images are corrected by "
                f"the model's own, {self.image_correction!r}."
            )
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

        Raises
        ------
        KeyError
            The layer, the batch column or the controls are missing.
        TypeError
            Expression that is backed on disk.
        ValueError
            A model trained from scratch; NaN; negative values with `log_normalize`; more folds
            than contexts.
        """
        self._check_trained()
        adata = self._modality(data, "rna")
        if self.module.encoder is not None:
            raise ValueError("trains='scratch' has no unadapted embedding to compare with.")
        adapted = self.get_latent_representation(data, correction=correction)
        fitted = self._correction(data, "rna", (self._chosen(correction),))
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
