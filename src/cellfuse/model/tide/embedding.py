"""TIDE's embedding of images: plain features, and what was learnt where it finds drugs better."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cellfuse.data import Contexts, Members, Reader
from cellfuse.data.readers import read_dense
from cellfuse.data.splits import rank_within, sample_rows
from cellfuse.kernels.context_bases import Basis, fit_basis
from cellfuse.kernels.context_sums import ContextMoments
from cellfuse.kernels.left_out import added, align_left_out, missed
from cellfuse.model.base.choosing import choose_share
from cellfuse.model.base.joint import Blocks, fit_joint_space, sum_parts
from cellfuse.model.tide.images import ImageReading
from cellfuse.nn.tide import TideNetwork

__all__ = ["begin_plain", "image_conditions", "join_learnt"]

#: Drugs that were never named; fewer judge nothing, and what was learnt is left out.
LEAST_JUDGES = 5
#: Images read at a time.
BLOCK = 2_048


def image_conditions(contexts: Contexts, dose: NDArray[np.float32]) -> Contexts:
    """Contexts of the images, each dose by itself: what a drug does grows with it."""
    of_row = contexts.of_row("image")
    known = of_row >= 0
    pairs = np.column_stack([of_row[known], dose[known]])
    found, code = np.unique(pairs, axis=0, return_inverse=True)
    codes = np.full(len(of_row), -1, np.int64)
    codes[known] = code.ravel()
    return Contexts(
        contexts.table.iloc[found[:, 0].astype(np.int64)],
        {"image": Members.from_codes(codes, len(found))},
        {"image": len(of_row)},
    )


def begin_plain(net: TideNetwork, reader: Reader, rows: NDArray[np.bool_], *, seed: int) -> None:
    """Let plain features look at images of `rows`, and take their scales."""
    assert net.joint is not None
    assert net.plain_scale is not None
    images = read_dense(reader, sample_rows(rows, seed=seed, shape=reader.shape[1:]))
    net.joint.fit_plain("image", images)
    plain = net.joint.plain["image"](images)
    net.plain_scale.set_statistics(plain.mean(dim=0), plain.std(dim=0, correction=0))


@torch.inference_mode()
def join_learnt(
    images: ImageReading,
    reader: Reader,
    conditions: Contexts,
    *,
    trained: NDArray[np.bool_],
    judges: NDArray[np.bool_],
    compound_key: str,
    power: float,
    seed: int,
) -> None:
    """Choose what learnt features weigh beside plain ones, and fit the space of both.

    Parameters
    ----------
    images
        How images are read; holds the network.
    reader
        Where they are.
    conditions
        All images by context and dose, see :func:`image_conditions`.
    trained
        Images that are trained on, ``(n,)``: the space is fitted on them.
    judges
        Images of drugs that were never named in training, ``(n,)``, by which the weight is chosen:
        of drugs that were, an encoder knows more than it will of new ones.
    compound_key
        Column of the contexts with the drug.
    power
        See :func:`cellfuse.nn.plain_features.power_of`.
    seed
        Of the halves of each condition's images.
    """
    net = images.net
    assert net.joint is not None
    net.eval()
    n_learnt, n_comps = net.encoder.width, net.joint.space.width

    def basis_of(moments: list[ContextMoments], weight: float) -> list[Basis]:
        of = moments[0]
        return [fit_basis(of, n_comps=n_comps, power=power, n_one_scale=n_learnt, weight=weight)]

    def blocks(rows: NDArray[np.bool_]) -> Blocks:
        every = np.flatnonzero(rows & (conditions.of_row("image") >= 0))
        for start in range(0, len(every), BLOCK):
            at = every[start : start + BLOCK]
            x = read_dense(reader, at)
            yield at, images.joined(x, images.features(x)).float().cpu().numpy(), None

    either = conditions.restricted({"image": trained | judges})
    weight = _weight(
        blocks(trained | judges),
        either,
        either.restricted({"image": judges}).members["image"].counts > 0,
        drug=conditions.table[compound_key].to_numpy(),
        basis_of=basis_of,
        seed=seed,
    )
    fit_joint_space(
        net.joint.space,
        {"image": lambda: blocks(trained)},
        conditions.restricted({"image": trained}),
        n_comps=n_comps,
        powers={"image": power},
        n_learnt=n_learnt,
        weight=weight,
        seed=seed,
    )


def _weight(
    blocks: Blocks,
    conditions: Contexts,
    is_judge: NDArray[np.bool_],
    *,
    drug: NDArray,
    basis_of: Callable[[list[ContextMoments], float], list[Basis]],
    seed: int,
) -> float:
    """Weight with which judges are found best in other images of theirs; 0 within its error.

    Each condition of a judge is looked for among all of them, in a space that was fitted on the
    other drugs, and the errors of a drug's conditions are averaged: they are no replicates.
    """
    counts, of_row = conditions.members["image"].counts, conditions.of_row("image")
    asked = is_judge & (counts > 1)
    if len(np.unique(drug[asked].astype(str))) < LEAST_JUDGES:
        return 0.0
    order = np.random.default_rng([seed, 15_487_469]).permutation(len(of_row))
    half = np.where(of_row >= 0, rank_within(of_row, order) % 2, 0)
    halves = sum_parts(
        blocks, conditions, "image", fold=is_judge.astype(np.int64), half=half.astype(np.int64)
    )
    parts = [added(both) for both in zip(*halves, strict=True)]

    def missed_by_drug(weight: float) -> NDArray[np.float64]:
        found = align_left_out(
            [parts],
            lambda moments: basis_of(moments, weight),
            profiles=halves,
            folds=[1],
            seed=seed,
        )
        return missed(found, drug)

    return choose_share(missed_by_drug)
