"""Perturbation embedding augmentation (PEA)."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from cellfuse._access import Data, context_labels, per_modality, where
from cellfuse._batches import Labels, batches_of
from cellfuse.kernels.augmentation import check_operations, fit_pea, jitter, mixup
from cellfuse.pp._matrices import open_matrices

__all__ = ["perturbation_embedding_augmentation"]

logger = logging.getLogger("cellfuse")

VERB = "perturbation_embedding_augmentation"
#: obs column with the operation that was drawn.
DRAWN = "pea"


def perturbation_embedding_augmentation(
    data: Data,
    *,
    use_rep: str | None | Mapping[str, str | None],
    batch_key: Labels | None | Mapping[str, Labels | None],
    control_key: str | None | Mapping[str, str | None],
    control: Labels | None | Mapping[str, Labels | None],
    key_added: str,
    operations: Sequence[str] = ("none", "center", "center_scale", "tvn"),
    noise: float = 0.0,
    dropout: float = 0.0,
    mixup_alpha: float = 0.0,
    mixup_within: Labels | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Correct each cell for its batch by an operation drawn at random (PEA).

    Batch correction as augmentation: a model that sees the same perturbation raw, centred, scaled
    and TVN-corrected learns what the corrections leave alone. The operations are fitted once, on
    the controls of each batch: ``"center"`` subtracts their mean, ``"center_scale"`` also divides
    by their standard deviation, ``"tvn"`` is ``"center"`` and then :func:`tvn` with
    ``input_axes=True`` (the paper does not say in which axes; turned ones would give a network
    different inputs to learn), whose shared part comes from all controls. The draw is uniform,
    for each cell.

    Noise, dropout and mixup, in this order, come after it, among the cells of one operation: a
    corrected embedding has another scale than a raw one.

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality).
    use_rep
        obsm key of the embedding, shape (cells, d), dense; None is ``X``. Or a dict per modality.
    batch_key, control_key, control
        As in :func:`tvn`.
    key_added
        obsm key to write to. ``obs["pea"]`` gets the name of each cell's operation.
    operations
        Which to draw from; one alone applies it to all.
    noise
        Standard deviation of added Gaussian noise, as a share of each feature's own over the cells
        of the same operation.
    dropout
        Chance of each value to be set to 0.
    mixup_alpha
        Mix each cell with another one of the same operation, the weight from Beta(alpha, alpha)
        and at least one half. 0: no mixing.
    mixup_within
        obs column or columns: partners have the same value, such as the compound. None: any cell.
    seed
        Same seed and order of cells, same result. Draw again with another seed.
    overwrite
        Allow writing over an array that this verb did not write, or augmenting its own output.

    Returns
    -------
    None.

    Raises
    ------
    KeyError
        A key, or the control label, is absent.
    ValueError
        An unknown operation, shares out of range, NaN or infinite values, or a batch with fewer
        than two controls.

    Warns
    -----
    UserWarning
        Controls that do not vary in some directions, which ``"tvn"`` sets to 0.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> obs = pd.DataFrame(
    ...     {"gene": ["NTC", "TP53"] * 50, "plate": ["a"] * 50 + ["b"] * 50},
    ...     index=[f"cell{i}" for i in range(100)],
    ... )
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> cells = ad.AnnData(obs=obs, obsm={"scvi": x})
    >>> cf.pp.perturbation_embedding_augmentation(
    ...     cells,
    ...     use_rep="scvi",
    ...     batch_key="plate",
    ...     control_key="gene",
    ...     control="NTC",
    ...     key_added="scvi_pea",
    ... )
    >>> sorted(cells.obs["pea"].unique())
    ['center', 'center_scale', 'none', 'tvn']
    """
    chosen = check_operations(operations)
    if not (0 <= noise < math.inf and 0 <= dropout < 1 and 0 <= mixup_alpha < math.inf):
        raise ValueError(
            "expected finite noise >= 0, 0 <= dropout < 1 and finite mixup_alpha >= 0, found "
            f"{noise}, {dropout} and {mixup_alpha}."
        )
    matrices = open_matrices(
        data, use_rep=use_rep, key_added=key_added, verb=VERB, overwrite=overwrite
    )
    params = {
        "operations": list(chosen),
        "control": control,
        "batch_key": batch_key,
        "noise": noise,
        "dropout": dropout,
        "mixup_alpha": mixup_alpha,
        "mixup_within": mixup_within,
        "seed": seed,
    }
    prepared = []
    dropped = []
    for matrix in matrices:
        batches = batches_of(
            matrix.adata,
            modality=matrix.modality,
            control_key=per_modality(control_key, matrix.modality, name="control_key"),
            control=per_modality(control, matrix.modality, name="control"),
            keys=[per_modality(batch_key, matrix.modality, name="batch_key")],
            at_least=2,
        )
        groups = np.zeros(matrix.adata.n_obs, dtype=np.intp)
        if mixup_alpha and mixup_within is not None:
            labels = context_labels(matrix.adata, mixup_within, modality=matrix.modality)
            groups = labels.factorize(sort=True)[0]
        prepared.append((matrix, batches, groups))
    streams = np.random.SeedSequence(seed).spawn(len(prepared))
    for (matrix, batches, groups), stream in zip(prepared, streams, strict=True):
        rng = np.random.default_rng(stream)
        dtype = np.float64 if matrix.values.dtype == np.float64 else np.float32
        pea = fit_pea(matrix.values, batches.controls, operations=chosen, dtype=dtype)
        drawn = pea.draw(len(batches.codes), rng)
        out = pea.apply(matrix.values.astype(dtype, copy=False), batches.codes, drawn)
        out = jitter(out, rng, noise=noise, dropout=dropout, groups=drawn)
        if mixup_alpha:
            alike = groups * len(chosen) + drawn
            out = mixup(out, rng, alpha=mixup_alpha, groups=alike)[0]
        if pea.n_dropped:
            dropped.append(f"{matrix.modality or 'the data'}: {pea.n_dropped} of {out.shape[1]}")
        matrix.store(out, VERB, params)
        matrix.adata.obs[DRAWN] = np.array(chosen, dtype=object)[drawn]
        logger.info("%s%s: %s.", VERB, where(matrix.modality), ", ".join(chosen))
    if dropped:
        warnings.warn(
            "directions in which the controls do not vary (fewer controls than dimensions, "
            f"constant or dependent features) are set to 0 by 'tvn': {'; '.join(dropped)}.",
            UserWarning,
            stacklevel=2,
        )
