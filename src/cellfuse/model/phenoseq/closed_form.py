"""PhenoSeq begins at ridge regression of a context's mean RNA on its mean image.

What the diffusion's mean adds to it is kept by as much as held-out contexts are found better with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from cellfuse.data import Contexts, Source
from cellfuse.data.splits import Held, HeldContexts
from cellfuse.kernels.alignment import align
from cellfuse.kernels.context_sums import ContextMoments
from cellfuse.model.base.choosing import choose_share
from cellfuse.model.base.joint import read_blocks, sum_contexts
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
    def _weigh_learnt(self, contexts: HeldContexts | None) -> None:
        """Let the diffusion's mean add to ridge what held-out contexts are found better with."""
        every, rows = self._dealt(Held(0.0, contexts))
        held = every.restricted(rows.held_out)
        both = np.flatnonzero(held.shared())
        if len(both) < LEAST_CONTEXTS:
            self.module.learnt_weight.fill_(1.0)
            return
        source = self._source()
        rna = self._sums(source, "rna", held)
        sampler = DDIM(self.module.diffusion)
        sampler.set_timesteps(N_STEPS)
        self.module.eval()

        def predict() -> NDArray[np.float32]:
            drawn = [
                self.module.generate(
                    cells.to(self.device), None, sampler=sampler, n_samples=2, seed=self.seed
                ).mean(dim=1)
                for _, cells, _ in mean_batches(source.readers["image"], held, both, BATCH)
            ]
            return torch.cat(drawn).float().cpu().numpy()

        weight = weigh_learnt(self.module, predict, (rna.means + rna.offset)[both])
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
    images, profiles = (part.means[both] + part.offset for part in (image, rna))
    counts = [part.counts[both] for part in (image, rna)]
    # The penalty is chosen by errors on the scale on which the RNA was measured.
    unit = network.rna.unit.cpu().double().numpy()
    network.ridge.fit(
        images,
        profiles * unit,
        within=image.within,
        n=counts[0] * counts[1] / (counts[0] + counts[1]),
    )
    network.ridge.rescale(1 / unit)
    # What single cells differ by, and what ridge misses of their contexts.
    expected = network.ridge(torch.as_tensor(images, dtype=torch.float32))
    missed = profiles - expected.detach().numpy()
    spread = np.diag(rna.within) + np.square(missed).mean(axis=0)
    sd = torch.as_tensor(np.sqrt(spread), dtype=torch.float32)
    network.rest.set_statistics(torch.zeros_like(sd), sd)


def weigh_learnt(
    network: PhenoSeqNetwork, predict: Callable[[], NDArray], rna: NDArray[np.float64]
) -> float:
    """Set how much of the diffusion's mean is kept, by held-out contexts.

    Parameters
    ----------
    network
        Whose ``learnt_weight`` is set.
    predict
        Mean of opposite draws for each context, ``(contexts, features)``, by the network as it is:
        with a weight of 0 that is ridge.
    rna
        Standardised mean RNA of the same contexts.

    Returns
    -------
    The weight.
    """
    ends = []
    for weight in (0.0, 1.0):
        network.learnt_weight.fill_(weight)
        drawn = torch.as_tensor(predict(), device=network.rna.mean.device)
        ends.append(network.rna.scale(drawn).cpu().double().numpy())
    ridge, whole = ends
    weight = choose_share(
        lambda share: align(ridge + share * (whole - ridge), rna).closer.mean(axis=0)
    )
    network.learnt_weight.fill_(weight)
    return weight
