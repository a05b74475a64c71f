"""Semi-Clipped begins at ridge regression, and keeps of its layers what held-out contexts want."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data import Contexts, Source
from cellfuse.data.splits import Held
from cellfuse.model.base.choosing import choose_share
from cellfuse.model.base.joint import (
    Blocks,
    alignment_of,
    compared,
    fit_ridge,
    read_blocks,
    sum_contexts,
)
from cellfuse.model.semi_clipped.correction import Correction
from cellfuse.model.semi_clipped.inference import ClippedInference

__all__ = ["BeginsAtRidge"]

logger = logging.getLogger("cellfuse")

#: With fewer contexts a tenth of them judges nothing, and none is held out.
LEAST_CONTEXTS = 50


class BeginsAtRidge(ClippedInference):
    """The closed form of :class:`cellfuse.SemiClipped`, ``begin="linear"``."""

    trains: str
    #: Correction of each role, fitted on the data of training.
    _fitted: dict[str, Correction]

    def _begin_at(
        self, source: Source, train_rows: Mapping[str, NDArray[np.bool_]], contexts: Contexts
    ) -> None:
        self._begin_stage(0, source)
        rna, image = (
            sum_contexts(self._corrected(source, role, contexts), contexts, role)
            for role in ("rna", "image")
        )
        ridge: Any = self.module.adapter.ridge
        fit_ridge(ridge, rna, image, contexts.shared())

    def _corrected(self, source: Source, role: str, contexts: Contexts) -> Blocks:
        """Samples that have a context, corrected as at inference, in blocks."""
        correction = self._fitted[role].to(self.device)
        usual = self.operations.index(self._usual_correction)

        def corrected(x: Tensor, rows: NDArray[np.int64]) -> Tensor:
            codes = torch.as_tensor(correction.codes[rows], device=self.device)
            if role == "image":
                return correction.apply(x.float(), codes)
            operation = torch.full_like(codes, usual)
            return correction.apply(self.module.scale(x), codes, operation)

        return read_blocks(source.readers[role], contexts, role, corrected, device=self.device)

    def _validate(self, source: Source, trained: Contexts, held: Contexts) -> dict[str, float]:
        """Alignment of held-out contexts: adapted RNA beside the teacher."""
        if self.trains != "adapter":
            return {}
        return alignment_of(
            held, {role: self._compared(source, role, held) for role in self.inputs}
        )

    @torch.inference_mode()
    def _weigh_layers(self, held_out: Held) -> None:
        """Let the layers add to ridge only what held-out contexts are found better with."""
        held, by = self._judged(*self._dealt(held_out)), held_out.by
        if held is None:
            return
        together = None
        if by is not None:
            together = self._labels_of_contexts(by, "validation_by")[held.shared()]
        source = self._source()
        gate: Tensor = self.module.adapter.gate  # type: ignore[assignment]
        trained = gate.clone()

        def closer(share: float) -> NDArray[np.float64]:
            gate.copy_(share * trained)
            found = compared(held, {r: self._compared(source, r, held) for r in self.inputs})
            return found.closer.mean(axis=0)

        share = choose_share(closer, together)
        gate.copy_(share * trained)
        logger.info("held-out contexts leave %d%% of the trained layers beside ridge", 100 * share)

    def _many_contexts(self) -> bool:
        """Whether a tenth of the contexts is enough to judge by."""
        shared = self._contexts(None, list(self.inputs)).shared()
        return int(shared.sum()) >= LEAST_CONTEXTS

    @torch.inference_mode()
    def _compared(self, source: Source, role: str, contexts: Contexts) -> Any:
        for rows, x, _ in self._corrected(source, role, contexts):
            if role == "rna":
                adapted = self.module.adapter(torch.as_tensor(x, device=self.device))
                x = adapted.float().cpu().numpy()
            yield rows, x
