"""Ridge regression as a layer: the closed form that a learned map begins at."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["RidgeMap"]

#: Penalties among which leaving one context out chooses.
PENALTIES = np.logspace(-2, 6, 17)


class RidgeMap(nn.Module):
    """A linear map fitted by ridge regression; it is kept with the weights and not descended.

    Parameters
    ----------
    n_in, n_out
        Widths.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from cellfuse.nn import RidgeMap
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> ridge = RidgeMap(3, 1)
    >>> ridge.fit(x, 2 * x[:, :1] + 1)
    >>> round(float(ridge(torch.tensor([[1.0, 0.0, 0.0]]))), 1)
    3.0
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_out, n_in))
        self.register_buffer("bias", torch.zeros(n_out))

    def fit(self, x: NDArray, y: NDArray) -> None:
        """Fit on rows of `x` ``(n, n_in)`` and `y` ``(n, n_out)``, such as means of contexts.

        The penalty is chosen by leaving one row out.
        """
        from sklearn.linear_model import RidgeCV

        found = RidgeCV(PENALTIES).fit(np.asarray(x, np.float64), np.asarray(y, np.float64))
        self.weight.copy_(torch.as_tensor(np.atleast_2d(found.coef_)))
        self.bias.copy_(torch.as_tensor(np.atleast_1d(found.intercept_)))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., n_in)`` to ``(..., n_out)``."""
        return torch.nn.functional.linear(x, self.weight, self.bias)
