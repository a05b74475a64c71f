"""PhenoSeq begins at ridge regression of a context's mean RNA on its mean image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cellfuse.kernels.context_sums import ContextMoments
from cellfuse.nn.phenoseq import PhenoSeqNetwork

__all__ = ["begin_at_ridge"]


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
