"""Dose as a condition: features are scaled and shifted by it (FiLM)."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["DoseFiLM", "log_dose"]

#: Added to the dose in uM, so that a dose of 0 has a logarithm: 1 nM.
SMALLEST_DOSE = 1e-3


def log_dose(dose: Tensor) -> Tensor:
    """``log10(dose + 1e-3)`` of doses in uM.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import log_dose
    >>> log_dose(torch.tensor([0.0, 10.0])).round(decimals=3).tolist()
    [-3.0, 1.0]
    """
    return (dose.float() + SMALLEST_DOSE).log10()


class DoseFiLM(nn.Module):
    """``h (1 + gamma) + beta``, with gamma and beta from the dose; the identity at the start.

    Parameters
    ----------
    width
        Of the features.
    hidden
        Of the MLP from the logarithm of the dose.
    """

    def __init__(self, width: int, *, hidden: int = 64) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, 2 * width))
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, h: Tensor, dose: Tensor | None) -> Tensor:
        """Condition ``h`` (N, width) on ``dose`` (N,) in uM; None leaves it as it is."""
        if dose is None:
            return h
        gamma, beta = self.mlp(log_dose(dose)[:, None].to(h.dtype)).chunk(2, dim=1)
        return h * (1 + gamma) + beta
