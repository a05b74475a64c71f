"""Batch correction as augmentation (PEA), and noise, dropout and mixup of embeddings.

What is drawn is kept apart from what is applied: a model draws by its own keyed generators and
applies to tensors, a verb draws by a numpy generator and applies to arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.moments import grouped_mean_sd
from cellfuse.kernels.tvn import fit_tvn

__all__ = ["PEA", "Operation", "check_operations", "fit_pea", "jitter", "mixup"]

Operation = Literal["none", "center", "center_scale", "tvn"]


@dataclass(frozen=True)
class PEA:
    """The corrections of each batch, fitted once, as affine maps.

    A row x of batch b under operation o becomes ``(x - shift[b, o]) * gain[b, o]``, and under
    ``"tvn"`` this times ``matrices[b]``. The arrays may be tensors (see :meth:`convert`).

    Attributes
    ----------
    operations
        Names, in the order of the second axis.
    shift, gain
        Shape (batches, operations, d).
    matrices
        Shape (batches, d, d); (0, d, d) without ``"tvn"``.
    n_dropped
        Directions in which the controls do not vary, which ``"tvn"`` sets to 0.
    """

    operations: tuple[Operation, ...]
    shift: Any
    gain: Any
    matrices: Any
    n_dropped: int = 0

    def convert(self, convert: Callable[[Any], Any]) -> PEA:
        """Convert all arrays, such as by ``torch.as_tensor``."""
        return replace(
            self,
            shift=convert(self.shift),
            gain=convert(self.gain),
            matrices=convert(self.matrices),
        )

    def draw(self, n: int, rng: np.random.Generator) -> NDArray:
        """Draw an operation for each of `n` rows, all equally likely."""
        return rng.integers(len(self.operations), size=n)

    def apply(self, x: Any, batch: Any, operation: Any) -> Any:
        """Correct each row of `x` by the operation drawn for it.

        Parameters
        ----------
        x
            Shape (n, d); array or tensor, as the fit is. It is not changed.
        batch, operation
            Number of the batch and of the operation of each row, shape (n,).
        """
        out = (x - self.shift[batch, operation]) * self.gain[batch, operation]
        if "tvn" in self.operations:
            turned = operation == self.operations.index("tvn")
            for b in sorted(set(batch[turned].tolist())):
                rows = turned & (batch == b)
                out[rows] = out[rows] @ self.matrices[b]
        return out


def check_operations(
    operations: Sequence[str], *, name: str = "operations"
) -> tuple[Operation, ...]:
    """Refuse an empty list, unknown names and repeats; `name` is the user's argument."""
    known = get_args(Operation)
    alone = operations is None or isinstance(operations, str)
    given = [operations] if alone else list(operations)
    if not given or any(o not in known for o in given) or len(set(given)) < len(given):
        raise ValueError(f"{name}={operations!r}: expected different ones of {known}.")
    return tuple(o for o in known if o in given)


def fit_pea(
    values: NDArray,
    controls: Sequence[NDArray],
    *,
    operations: Sequence[str] = get_args(Operation),
    eps: float = 0.5,
    dtype: type = np.float32,
) -> PEA:
    """Fit every operation on the controls of each batch.

    ``"tvn"`` is fitted on batches that were centred on their own controls, since the typical
    variation of a batch leaves its mean where it is. It is turned back to the axes of the input
    (see :func:`fit_tvn`), so that one network reads the same coordinates whatever was drawn.

    Parameters
    ----------
    values
        Shape (n, d).
    controls
        Row numbers of each batch's controls, at least two each.
    operations
        Some of ``"none"``, ``"center"``, ``"center_scale"`` and ``"tvn"``; kept in that order.
    eps
        See :func:`fit_tvn`.
    """
    chosen = check_operations(operations)
    mean, sd = grouped_mean_sd(values, list(controls))
    inverse = 1.0 / np.where(sd > 0, sd, 1.0)
    none = np.zeros_like(mean), np.ones_like(mean)
    matrices = np.empty((0, mean.shape[1], mean.shape[1]))
    n_dropped = 0
    parts = {
        "none": none,
        "center": (mean, none[1]),
        "center_scale": (mean, inverse),
        "tvn": none,
    }
    if "tvn" in chosen:
        centred = [values[own] - m for own, m in zip(controls, mean, strict=True)]
        ends = np.cumsum([len(own) for own in controls])
        rows = np.split(np.arange(ends[-1]), ends[:-1])
        fit = fit_tvn(np.concatenate(centred), rows, eps=eps, turned_back=True)
        matrices, n_dropped = fit.matrices, fit.n_dropped
        parts["tvn"] = mean, none[1]
    return PEA(
        chosen,
        np.stack([parts[o][0] for o in chosen], axis=1).astype(dtype),
        np.stack([parts[o][1] for o in chosen], axis=1).astype(dtype),
        matrices.astype(dtype),
        n_dropped,
    )


def jitter(
    x: NDArray,
    rng: np.random.Generator,
    *,
    noise: float = 0.0,
    dropout: float = 0.0,
    groups: NDArray | None = None,
) -> NDArray:
    """Add Gaussian noise, then set features to 0.

    Parameters
    ----------
    x
        Shape (n, d). It is not changed.
    noise
        Standard deviation of the noise, in units of each feature's standard deviation over the
        rows of the same group.
    dropout
        Chance of each value to be set to 0. What is left is not scaled up.
    groups
        Group of each row; None: one group.
    """
    if noise:
        codes = np.zeros(len(x), dtype=np.intp) if groups is None else groups
        found, code = np.unique(codes, return_inverse=True)
        sd = np.stack([x[code == g].std(axis=0) for g in range(len(found))])
        x = x + (noise * sd[code] * rng.standard_normal(x.shape)).astype(x.dtype)
    if dropout:
        x = np.where(rng.random(x.shape) < dropout, x.dtype.type(0), x)
    return x


def mixup(
    x: NDArray, rng: np.random.Generator, *, alpha: float, groups: NDArray | None = None
) -> tuple[NDArray, NDArray, NDArray]:
    """Mix each row with another one, ``w x + (1 - w) x[partner]``, w from Beta(alpha, alpha).

    Parameters
    ----------
    x
        Shape (n, d). It is not changed.
    groups
        Group of each row: partners come from the same one. None: any row.

    Returns
    -------
    The mixed rows, the partner's number and the weight w of each row, w at least one half: a row
    keeps its label.
    """
    order = np.arange(len(x))
    if groups is None:
        partner = rng.permutation(len(x))
    else:
        shuffled = order[np.lexsort((rng.random(len(x)), groups))]
        partner = np.empty_like(order)
        partner[np.argsort(groups, kind="stable")] = shuffled
    weight = rng.beta(alpha, alpha, size=len(x))
    weight = np.maximum(weight, 1.0 - weight).astype(x.dtype)
    mixed = weight[:, None] * x + (1 - weight)[:, None] * x[partner]
    return mixed, partner, weight
