"""How much the trained layers add to the ridge map that a Semi-Clipped began at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["HELD_SHARE", "LEAST_CONTEXTS", "choose_share"]

#: Share of the contexts that is held out where nothing is said and the model began linear.
HELD_SHARE = 0.1
#: With fewer contexts a tenth of them judges nothing, and none is held out.
LEAST_CONTEXTS = 50
#: Shares of the layers that are tried beside none.
SHARES = (0.25, 0.5, 1.0)


def choose_share(closer: Callable[[float], NDArray[np.float64]]) -> float:
    """Share of the layers with which held-out contexts are found best; 0 within its error.

    Parameters
    ----------
    closer
        Gives, for a share, the FOSCTTM of each held-out context, ``(contexts,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.model.semi_clipped.layers import choose_share
    >>> of = np.array([0.3, 0.4, 0.5, 0.4])
    >>> choose_share(lambda share: of - 0.1 * share), choose_share(lambda share: of + 0.1 * share)
    (1.0, 0.0)
    """
    without, best, chosen = closer(0.0), 0.0, 0.0
    for share in SHARES:
        gain = without - closer(share)
        error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
        if gain.mean() > max(best, error):
            best, chosen = float(gain.mean()), share
    return chosen
