"""What a TIDE does with transcriptomes alone: its response model is trained, and foretells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cellfuse._access import Data
from cellfuse.model.base import as_in
from cellfuse.model.tide.inference import TideInference
from cellfuse.model.tide.response import report_frame
from cellfuse.model.tide.setup import field_arrays
from cellfuse.model.tide.stage import ResponseStage, predict_expression
from cellfuse.model.tide.transcriptomes import Transcriptomes

__all__ = ["TideExpression"]


class TideExpression(TideInference):
    """The response model of :class:`cellfuse.TIDE`."""

    n_basal: int

    @as_in(ResponseStage.train)
    def train_response(self, max_epochs: int = 100, **training: Any) -> pd.DataFrame:  # noqa: D102
        found = self._stage().train(max_epochs, **training)
        self.history_ = {**(self.history_ or {}), **found}
        return self.response_report_

    @property
    def response_report_(self) -> pd.DataFrame:
        """What the response model explains; NaN before it was trained. See `train_response`."""
        return report_frame(self.module.response_report)

    @property
    def response_learnt_weight(self) -> float:
        """Weight of what the response model learnt beside the mean change: 0, .25, .5 or 1.

        Chosen on the drugs that :meth:`train_response` holds out, for structures that it has not
        seen; 0 says that the mean change foretells these as well as anything learnt.
        """
        self._check_begun_linear("response_learnt_weight")
        self._check_response()
        weight = self.module.response.learnt_weight
        assert weight is not None
        return float(weight)

    @as_in(predict_expression, ("net", "chemistry", "compounds", "counts", "use_dose"))
    def predict_expression(  # noqa: D102
        self,
        basal: Data,
        smiles: str | Sequence[str],
        dose: ArrayLike | None = None,
        *,
        batch_size: int = 256,
    ) -> NDArray[np.float32]:
        self._check_response()
        return predict_expression(
            self._reader(basal, "rna"),
            smiles,
            dose,
            batch_size=batch_size,
            net=self.module,
            chemistry=self.chemistry,
            compounds=list(self.compounds.values()),
            counts=self._setup["counts"],
            use_dose=self.use_dose,
        )

    def _check_response(self) -> None:
        if self.response_report_.isna().all(axis=None):
            raise RuntimeError("the response model is not trained: call `model.train_response()`.")

    def _stage(self) -> ResponseStage:
        data = self._transcriptomes()
        used = data.used(self.drugs, list(self.compounds), self.n_paired, self.seed)
        return ResponseStage(self.module, data, used, self.use_dose, self.seed)

    def _transcriptomes(self) -> Transcriptomes:
        if self.adata is None:
            raise ValueError("this model was loaded without data: load it with `adata=mdata`.")
        adata, names = self._modality(None, "rna"), list(self.compounds)
        return Transcriptomes(
            self._reader(None, "rna"),
            field_arrays(adata, self._setup, names, modality=self.inputs["rna"].modality),
            self._contexts(None, ["rna"]),
            self.chemistry.bits([self.compounds[name] for name in names]),
            self._setup["counts"],
            self._setup["compound_key"],
            self._setup["control"],
            self.n_basal,
        )
