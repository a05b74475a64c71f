"""PhenoSeq begins at ridge regression of a context's mean RNA on its mean image.

What the diffusion's mean adds to it is kept by as much as held-out contexts are found better with.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from cellfuse.data import Contexts, Source
from cellfuse.data.splits import Held
from cellfuse.kernels.alignment import align
from cellfuse.kernels.context_sums import ContextMoments
from cellfuse.model.base.choosing import choose_share
from cellfuse.model.base.joint import fit_ridge, read_blocks, sum_contexts
from cellfuse.model.phenoseq.contexts import mean_batches
from cellfuse.model.phenoseq.draws import PhenoSeqInference
from cellfuse.nn.diffusion import DDIM
from cellfuse.nn.phenoseq import PhenoSeqNetwork

__all__ = ["BeginsAtRidge"]

logger = logging.getLogger("cellfuse")

#: Fewer held-out contexts say nothing, and all that was learnt is kept.
LEAST_CONTEXTS = 5
#: Steps of a draw (paper), and contexts drawn for at a time, where what was learnt is weighed.
N_STEPS, BATCH = 50, 256


class BeginsAtRidge(PhenoSeqInference):
    """The closed form of :class:`cellfuse.PhenoSeq`, ``begin="linear"``."""

    def _begin_at(
        self, source: Source, train_rows: Mapping[str, NDArray[np.bool_]], contexts: Contexts
    ) -> None:
        image, rna = (self._sums(source, role, contexts) for role in ("image", "rna"))
        begin_at_ridge(self.module, image, rna, contexts.shared())

    def _sums(self, source: Source, role: str, contexts: Contexts) -> ContextMoments:
        """Moments of the standardised cells of contexts."""
        scale, reader = self.module.cell(role).scale, source.readers[role]
        blocks = read_blocks(reader, contexts, role, lambda x, _: scale(x), device=self.device)
        return sum_contexts(blocks, contexts, role)

    @torch.inference_mode()
    def _weigh_learnt(self, held_out: Held) -> None:
        """Let the diffusion's mean add to ridge what held-out contexts are found better with."""
        every, rows = self._dealt(held_out)
        held = every.restricted(rows.held_out)
        both = np.flatnonzero(held.shared())
        if len(both) < LEAST_CONTEXTS:
            self.module.learnt_weight.fill_(1.0)
            return
        source, network = self._source(), self.module
        rna = self._sums(source, "rna", held).profiles[both]
        sampler = DDIM(network.diffusion)
        sampler.set_timesteps(min(N_STEPS, network.diffusion.n_steps))
        network.eval()
        network.learnt_weight.fill_(1.0)
        ridge, whole = [], []
        for _, cells, _ in mean_batches(source.readers["image"], held, both, BATCH):
            cells = cells.to(self.device)
            drawn = network.generate(cells, None, sampler=sampler, n_samples=2, seed=self.seed)
            whole.append(network.rna.scale(drawn.mean(dim=1)).cpu().double().numpy())
            ridge.append(network.expected(cells).cpu().double().numpy())
        by = held_out.by
        together = None if by is None else self._labels_of_contexts(by, "validation_by")[both]
        weight = weight_of(np.concatenate(ridge), np.concatenate(whole), rna, together)
        network.learnt_weight.fill_(weight)
        logger.info("held-out contexts leave %d%% of the diffusion's mean", 100 * weight)


def begin_at_ridge(
    network: PhenoSeqNetwork,
    image: ContextMoments,
    rna: ContextMoments,
    both: NDArray[np.bool_],
) -> None:
    """Fit the ridge of a network, and the scale of what it leaves to the diffusion.

    Parameters
    ----------
    network
        Whose ``ridge`` and ``rest`` are set.
    image, rna
        Moments of standardised cells within and between contexts.
    both
        Contexts with cells of both modalities.
    """
    assert network.ridge is not None and network.rest is not None
    # The penalty is chosen by errors on the scale on which the RNA was measured.
    fit_ridge(network.ridge, image, rna, both, unit=network.rna.unit.cpu().double().numpy())
    # What single cells differ by, and what ridge misses of their contexts.
    expected = network.ridge(torch.as_tensor(image.profiles[both], dtype=torch.float32))
    missed = rna.profiles[both] - expected.detach().numpy()
    spread = np.diag(rna.within) + np.square(missed).mean(axis=0)
    sd = torch.as_tensor(np.sqrt(spread), dtype=torch.float32)
    network.rest.set_statistics(torch.zeros_like(sd), sd)


def weight_of(
    ridge: NDArray, whole: NDArray, rna: NDArray, together: NDArray | None = None
) -> float:
    """How much of what was learnt is kept: what finds held-out contexts best, 0 within its error.

    Parameters
    ----------
    ridge, whole
        Standardised RNA of the contexts as ridge expects it, and as opposite draws have it on
        average, ``(contexts, features)``.
    rna
        The same as measured.
    together
        What each context was held out together with, see
        :func:`cellfuse.model.base.choosing.choose_share`.
    """

    def missed(share: float) -> NDArray[np.float64]:
        return align(ridge + share * (whole - ridge), rna).closer.mean(axis=0)

    return choose_share(missed, together)
