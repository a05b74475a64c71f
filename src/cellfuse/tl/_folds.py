"""Which samples of a classifier train, validate and are tested on, in every fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cellfuse._errors import missing_key

__all__ = ["folds"]


def folds(
    split: NDArray,
    train: str,
    val: str,
    cross_validate: Sequence[str] | None,
    split_key: str,
) -> list[dict[str, NDArray]]:
    """Samples of training, validation and each test set, for every fold."""
    found = sorted(set(split))
    train, val = str(train), str(val)
    turns = [str(label) for label in cross_validate or ()]
    for label in turns or (train, val):
        if label not in found:
            raise missing_key(
                label,
                found,
                what=f"the samples' {split_key!r}",
                fix="Name the labels with `train`, `val` or `cross_validate`.",
            )
    if cross_validate is None:
        if train == val:
            raise ValueError(f"`train` and `val` are both {train!r}; name two labels.")
        tests = _tests(found, [train, val], ("train", "val"), split_key)
        return [_part_rows(split, {"train": [train], "val": [val], **tests})]
    if len(turns) < 3 or len(set(turns)) < len(turns):
        raise ValueError(
            f"cross-validation takes turns among at least three replicates, found {turns}."
        )
    others = _tests(found, turns, ("train", "val", "held out"), split_key)
    out = []
    for k in range(len(turns)):
        # As in the paper's table: the fold's first replicate trains, the next is tested on.
        held, checked = turns[(k + 1) % len(turns)], turns[(k + 2) % len(turns)]
        rest = [label for label in turns if label not in (held, checked)]
        out.append(
            _part_rows(split, {"train": rest, "val": [checked], "held out": [held], **others})
        )
    return out


def _tests(
    found: Sequence[str], used: Sequence[str], taken: Sequence[str], split_key: str
) -> dict[str, list[str]]:
    """Test sets: every label that has no other part; none may go by the name of one."""
    for label in found:
        if label not in used and label in taken:
            raise ValueError(
                f"obs[{split_key!r}] has samples {label!r} that would be tested on; the name "
                "stands for another part here. Rename the label, or leave those samples out."
            )
    return {label: [label] for label in found if label not in used}


def _part_rows(split: NDArray, parts: Mapping[str, list[str]]) -> dict[str, NDArray]:
    return {name: np.flatnonzero(np.isin(split, labels)) for name, labels in parts.items()}
