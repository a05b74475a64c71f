"""How much of what was learnt is kept beside the closed form that a training began at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.choosing import better_beyond_error, mean_of_each

__all__ = ["SHARES", "choose_share"]

#: Shares of what was learnt that are tried beside none.
SHARES = (0.25, 0.5, 1.0)


def choose_share(
    missed: Callable[[float], NDArray[np.float64]], together: NDArray | None = None
) -> float:
    """Share of what was learnt with which what was held out is missed least; 0 within its error.

    Parameters
    ----------
    missed
        By share, as for :func:`cellfuse.kernels.choosing.better_beyond_error`.
    together
        Label of each number, such as its donor: those of one label were held out together and count
        once. None, or one label alone: each counts.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.model.base.choosing import choose_share
    >>> of = np.array([0.3, 0.4, 0.5, 0.4])
    >>> choose_share(lambda share: of - 0.1 * share), choose_share(lambda share: of + 0.1 * share)
    (1.0, 0.0)
    """
    if together is None or len(set(together.astype(str))) < 2:
        return better_beyond_error(missed, 0.0, SHARES)
    labels = together
    return better_beyond_error(lambda share: mean_of_each(missed(share), labels), 0.0, SHARES)
