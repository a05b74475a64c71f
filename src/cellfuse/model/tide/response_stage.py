"""The response model of TIDE: trained before everything else, and useful alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from cellfuse._access import Data
from cellfuse.data.readers import read_dense
from cellfuse.model.base import DocumentModel
from cellfuse.model.base.training import refuse_unknown, seeded
from cellfuse.model.tide.config import log_normalize
from cellfuse.model.tide.response import (
    Transcriptomes,
    fit_response,
    report_frame,
    response_report,
)
from cellfuse.model.tide.setup import field_arrays, fingerprints_of
from cellfuse.model.tide.training import capped
from cellfuse.nn.tide import Objective, TideNetwork

__all__ = ["ResponseStage"]


class ResponseStage(DocumentModel):
    """Its training, its report, its predictions; a part of :class:`cellfuse.TIDE`."""

    module: TideNetwork
    compounds: dict[str, str]
    drugs: list[str]
    objective: Objective
    finetune_response: bool
    use_dose: bool
    n_paired: int | None
    n_basal: int

    def train_response(
        self,
        max_epochs: int = 100,
        *,
        holdout: float = 0.2,
        batch_size: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        **trainer_kwargs: Any,
    ) -> pd.DataFrame:
        """Train the response model: basal expression, drug and dose to treated expression.

        :meth:`train` does this first by itself. It is useful alone: see
        :meth:`predict_expression`.

        Parameters
        ----------
        max_epochs
            Times that every profile is told from its drug.
        holdout
            Share of the compounds with RNA that the training does not see; the report is on them.
        batch_size, lr, weight_decay
            AdamW, 5% linear warm-up, then cosine.
        **trainer_kwargs
            Passed to Lightning's trainer.

        Returns
        -------
        The report, also :attr:`response_report_`: for held-out and training drugs, over all
        contexts and doses, ``r2`` of the predicted change against "no change",
        ``r2_over_mean_change`` of it against the mean change of the training drugs,
        ``mean_change_r2`` of that mean change against "no change", and the ``correlation`` of
        predicted and measured change. R^2 below 0 is worse than what it is compared with.
        """
        refuse_unknown("TIDE.train_response", trainer_kwargs, type(self).train_response)
        if max_epochs < 1 or not 0 <= holdout < 1:
            raise ValueError(
                f"expected max_epochs >= 1 and 0 <= holdout < 1, found {max_epochs} and {holdout}."
            )
        data = self._transcriptomes()
        rows = self._used_rna(data)
        names = np.unique(data.fields["compound"][rows & (data.fields["compound"] >= 0)])
        held = np.random.default_rng([self.seed, 32_452_843]).permutation(names)
        held = held[: int(len(names) * holdout)]
        known = rows & ~np.isin(data.fields["compound"], held)
        response = self.module.response
        response.set_statistics(*data.statistics(np.flatnonzero(known)))
        with seeded(self.seed, 86_028_121):
            self._response_history = fit_response(
                response,
                data,
                known,
                use_dose=self.use_dose,
                max_epochs=max_epochs,
                batch_size=batch_size,
                lr=lr,
                weight_decay=weight_decay,
                seed=self.seed,
                **trainer_kwargs,
            )
        self.module.response_report.copy_(
            response_report(response, data, rows, held.tolist(), use_dose=self.use_dose)
        )
        self.history_ = {**(self.history_ or {}), **self._response_history}
        return self.response_report_

    @property
    def response_report_(self) -> pd.DataFrame:
        """What the response model explains; NaN before it was trained. See `train_response`."""
        return report_frame(self.module.response_report)

    @torch.inference_mode()
    def predict_expression(
        self,
        basal: Data,
        smiles: str | Sequence[str],
        dose: ArrayLike | None = None,
        *,
        batch_size: int = 256,
    ) -> NDArray[np.float32]:
        """Expression after treatment, by the response model.

        Parameters
        ----------
        basal
            RNA of untreated samples, with the genes of training; a MuData's RNA modality.
        smiles
            One structure, or one for each row of `basal`.
        dose
            In uM, one or one for each row; None for a model without doses.
        batch_size
            Samples at a time.

        Returns
        -------
        ``(n, n_genes)``, `n` the longest of the three (each of length 1 or `n`). For a model of
        counts, log(1 + counts per 10,000).

        Raises
        ------
        RuntimeError
            The response model was not trained.
        ValueError
            Lengths that do not fit; SMILES that are not read; negative or missing doses.
        """
        if self.response_report_.isna().all(axis=None):
            raise RuntimeError("the response model is not trained: call `model.train_response()`.")
        texts = [smiles] if isinstance(smiles, str) else [str(text) for text in smiles]
        distinct, which = np.unique(texts, return_inverse=True)
        bits = torch.from_numpy(self._fingerprints(distinct.tolist()))
        doses = self._checked_doses(dose)
        reader = self._reader(basal, "rna")
        lengths = {"basal": reader.shape[0], "smiles": len(texts), "dose": len(doses)}
        n = max(lengths.values())
        if any(length not in (1, n) for length in lengths.values()):
            raise ValueError(f"expected lengths of 1 or {n}, found {lengths}.")
        net = self.module.response.eval()
        out = np.empty((n, reader.shape[1]), np.float32)
        for start in range(0, n, batch_size):
            rows = np.arange(start, min(start + batch_size, n))
            state, drug, at = (np.zeros_like(rows) if k == 1 else rows for k in lengths.values())
            x = log_normalize(read_dense(reader, state), counts=self._setup["counts"])
            effect = net.effect_of_drug(bits[which[drug]].to(self.device))
            given = torch.from_numpy(doses[at]).to(self.device) if self.use_dose else None
            out[rows] = net.predict(x.to(self.device), effect, given).cpu().numpy()
        return out

    def _checked_doses(self, dose: ArrayLike | None) -> NDArray[np.float32]:
        if not self.use_dose:
            if dose is not None:
                raise ValueError("this TIDE knows no doses (use_dose=False): leave `dose` out.")
            return np.zeros(1, np.float32)
        if dose is None:
            raise ValueError("this TIDE knows doses: give `dose`, in uM.")
        try:
            doses = np.atleast_1d(np.asarray(dose, np.float32))
        except (TypeError, ValueError) as error:
            raise ValueError(f"doses are numbers in uM from 0; {error}.") from error
        if doses.ndim > 1:
            raise ValueError(f"expected one dose or one for each row, found shape {doses.shape}.")
        if not np.isfinite(doses).all() or (doses < 0).any():
            raise ValueError("doses are numbers in uM from 0; found missing or negative ones.")
        return doses

    def _first_stage(self, data: Transcriptomes, epochs: int, trainer: dict[str, Any]) -> None:
        """Fine-tune, where that is wanted and was not done; else take the genes' scales alone."""
        if not self.response_report_.isna().all(axis=None):
            return
        if self.finetune_response and self.objective != "drug":
            if epochs < 1:
                raise ValueError(
                    f"response_epochs must be at least 1, found {epochs}; with "
                    "`finetune_response=False` the response model stays as it began."
                )
            self.train_response(epochs, **trainer)
        elif not self.is_trained_:  # a trained teacher knows the scales it was trained with
            rows = np.flatnonzero(self._used_rna(data))
            self.module.response.set_statistics(*data.statistics(rows))

    def _transcriptomes(self) -> Transcriptomes:
        if self.adata is None:
            raise ValueError("this model was loaded without data: load it with `adata=mdata`.")
        adata = self._modality(None, "rna")
        names = list(self.compounds)
        return Transcriptomes(
            self._reader(None, "rna"),
            field_arrays(adata, self._setup, names, modality=self.inputs["rna"].modality),
            self._contexts(None, ["rna"]),
            torch.from_numpy(self._fingerprints([self.compounds[name] for name in names])),
            self._setup["counts"],
            self._setup["compound_key"],
            self._setup["control"],
            self.n_basal,
        )

    def _used_rna(self, data: Transcriptomes) -> NDArray[np.bool_]:
        names = list(self.compounds)
        drugs = [names.index(drug) for drug in self.drugs]
        return capped(data.fields["compound"], drugs, self.n_paired, self.seed)

    def _fingerprints(self, smiles: Sequence[str]) -> NDArray[np.uint8]:
        return fingerprints_of(smiles, self._setup["fingerprint"], self._setup["n_bits"])
