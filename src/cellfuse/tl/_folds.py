"""Which samples of a classifier train, validate and are tested on, in every fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cellfuse._access import label_list
from cellfuse._errors import missing_key

__all__ = ["folds"]


def folds(
    split: NDArray,
    train: str | Sequence[str],
    val: str | Sequence[str],
    cross_validate: Sequence[str] | None,
    split_key: str,
    *,
    test: Mapping[str, str | Sequence[str]] | None = None,
) -> list[dict[str, NDArray]]:
    """Samples of training, validation and each test set, for every fold."""
    found = sorted(set(split))
    learn, check = label_list(train), label_list(val)
    turns = label_list(cross_validate or [], name="cross_validate")
    named = None if test is None else _named(test, found, split_key)
    for label in turns or [*learn, *check]:
        if label not in found:
            raise missing_key(
                label,
                found,
                what=f"the samples' {split_key!r}",
                fix="Name the labels with `train`, `val` or `cross_validate`.",
            )
    if cross_validate is None:
        if both := sorted(set(learn) & set(check)):
            raise ValueError(f"`train` and `val` are both {both[0]!r}; name two labels.")
        used = [*learn, *check]
        tests = _tests(found, used, ("train", "val"), split_key) if named is None else named
        _refuse_seen(tests, used)
        return [_part_rows(split, {"train": learn, "val": check, **tests})]
    if len(turns) < 3 or len(set(turns)) < len(turns):
        raise ValueError(
            f"cross-validation takes turns among at least three replicates, found {turns}."
        )
    others = named
    if others is None:
        others = _tests(found, turns, ("train", "val", "held out"), split_key)
    _refuse_seen(others, turns)
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


def _named(
    test: Mapping[str, str | Sequence[str]], found: Sequence[str], split_key: str
) -> dict[str, list[str]]:
    """Test sets that the user put together."""
    out = {}
    for name, labels in test.items():
        if name in ("train", "val", "held out"):
            raise ValueError(f"test={dict(test)!r}: the name {name!r} stands for another part.")
        out[str(name)] = label_list(labels)
        for label in out[str(name)]:
            if label not in found:
                raise missing_key(
                    label, found, what=f"the samples' {split_key!r}", fix="Mend `test`."
                )
    if not out:
        raise ValueError("test={} names no test set; None tests on every other label.")
    return out


def _refuse_seen(tests: Mapping[str, Sequence[str]], used: Sequence[str]) -> None:
    for name, labels in tests.items():
        if both := sorted(set(labels) & set(used)):
            raise ValueError(
                f"test set {name!r} holds {both[0]!r}, which is for training or validation."
            )


def _part_rows(split: NDArray, parts: Mapping[str, list[str]]) -> dict[str, NDArray]:
    return {name: np.flatnonzero(np.isin(split, labels)) for name, labels in parts.items()}
