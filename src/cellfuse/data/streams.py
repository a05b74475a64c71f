"""Streams and draws: which cells of which modality make up the documents of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfuse._errors import missing_key
from cellfuse.data.contexts import Contexts, Ints
from cellfuse.data.drawing import Replace, draw_rows, seeded_rng
from cellfuse.data.passage import Passage, Passing, passages_of
from cellfuse.data.readers import Reader

__all__ = ["Draw", "DocumentPlan", "Indices", "Stream", "enumerate_documents"]

Context = str | Callable[[pd.DataFrame], Sequence[int]]


@dataclass(frozen=True)
class Draw:
    """A set of cells of one modality for one context.

    Parameters
    ----------
    modality
        Where the cells come from.
    size
        Cells per document, `S`.
    context
        ``"own"``: cells of the document's context; ``"control"``: its controls; or a function from
        the context table to the position of another context.
    missing
        What happens to contexts without such cells: ``"keep"`` makes documents in which this draw
        is absent, ``"drop"`` makes none.
    name
        Key of this draw in the batch; the modality unless a stream draws from it twice.

    Raises
    ------
    ValueError
        A size below 1, or another `missing`.

    Examples
    --------
    >>> from cellfuse.data import Draw
    >>> Draw("rna", 1, context="control", name="basal").size
    1
    """

    modality: str
    size: int
    context: Context = "own"
    missing: Literal["keep", "drop"] = "keep"
    name: str = ""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a draw needs at least one cell, found size={self.size}.")
        if self.missing not in ("keep", "drop"):
            raise ValueError(f"missing={self.missing!r}: expected 'keep' or 'drop'.")
        if not self.name:
            object.__setattr__(self, "name", self.modality)


@dataclass(frozen=True)
class Stream:
    """What one training batch draws.

    Parameters
    ----------
    draws
        The sets of a document.
    batch_size
        Documents per batch, over all devices.
    over
        ``"contexts"``: every context gives the same number of documents per epoch.
        ``"cells"``: every cell of the first draw's modality stands in one document per epoch.

    Raises
    ------
    ValueError
        No draw, two of one name, a batch size below 1, or with ``over="cells"`` a first draw of
        more than one cell.

    Examples
    --------
    >>> from cellfuse.data import Draw, Stream
    >>> Stream((Draw("image", 16), Draw("rna", 16)), batch_size=48).over
    'contexts'
    """

    draws: tuple[Draw, ...]
    batch_size: int
    over: Literal["contexts", "cells"] = "contexts"

    def __post_init__(self) -> None:
        names = [draw.name for draw in self.draws]
        if not names:
            raise ValueError("a stream needs at least one draw.")
        if len(set(names)) < len(names):
            raise ValueError(f"two draws share a name: {names}; give one of them `name=`.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {self.batch_size}.")
        if self.over not in ("contexts", "cells"):
            raise ValueError(f"over={self.over!r}: expected 'contexts' or 'cells'.")
        if self.over == "cells" and self.draws[0].size != 1:
            raise ValueError("with over='cells' the first draw is one cell; set its size to 1.")


@dataclass(frozen=True)
class Indices:
    """The documents of one batch, before any cell is read.

    Parameters
    ----------
    key
        Number of each document in the whole training, ``(G,)``.
    context
        Number of its context, ``(G,)``.
    rows
        Rows of the modality by draw, ``(G, S)``; zeros where the draw is absent.
    present
        By draw, whether the context has such cells, ``(G,)``.

    Examples
    --------
    >>> import cellfuse as cf
    >>> from cellfuse.data import Contexts, DocumentPlan, Draw, Stream
    >>> mdata = cf.datasets.simulated_screen(50, n_targets=4, cells_per_guide=4, seed=0)
    >>> contexts = Contexts.from_modalities(mdata.mod, "guide")
    >>> plan = DocumentPlan(contexts, Stream((Draw("rna", 4),), batch_size=8))
    >>> indices = plan.indices(epoch=0, step=0)
    >>> indices.rows["rna"].shape, bool(indices.present["rna"].all())
    ((8, 4), True)
    """

    key: Ints
    context: Ints
    rows: dict[str, Ints]
    present: dict[str, NDArray[np.bool_]]

    def slice(self, rank: int, world_size: int, *, even: bool = False) -> Indices:
        """Every `world_size`-th document, beginning with number `rank`.

        With `even` all devices get as many, and what is over is left out. Otherwise, of fewer
        documents than devices (the rest of a validation set) some see one that another has too: a
        device without any would have no loss to report.
        """
        n = len(self.key)
        if even:
            n -= n % world_size
        part = np.arange(rank % n if n else rank, n, world_size)
        return Indices(
            self.key[part],
            self.context[part],
            {name: rows[part] for name, rows in self.rows.items()},
            {name: mask[part] for name, mask in self.present.items()},
        )


@dataclass
class _Epoch:
    """The documents of one epoch, in order.

    `order` is each one's context or row; `part`, where a modality passes through a buffer, the
    part of the epoch at which it stands; `passing` the cells by draw in the order they pass.
    """

    number: int
    order: Ints
    part: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    passing: dict[int, Passing] = field(default_factory=dict)


@dataclass
class DocumentPlan:
    """Documents of every epoch and step, as a pure function of (seed, epoch, step).

    Parameters
    ----------
    contexts, stream
        What there is, and what is drawn from it.
    documents_per_context
        Documents each context gives per epoch, 30 by default (PETRI, A.4).
    replace
        ``"if_needed"`` or ``True`` (the paper's).
    seed
        Seed of all draws.
    control_key, control
        For draws with ``context="control"``.
    drop_last
        Leave out the documents that do not fill a batch; False for validation.
    passages
        How the blocks of a modality pass that is larger than its buffer, see :meth:`along`.

    Raises
    ------
    KeyError
        A draw's modality is absent, or the controls of ``context="control"`` are.
    ValueError
        Fewer than one document per context, another `replace`, or no document to draw.

    Examples
    --------
    >>> import cellfuse as cf
    >>> from cellfuse.data import Contexts, DocumentPlan, Draw, Stream
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, seed=0)
    >>> contexts = Contexts.from_modalities(mdata.mod, "guide")
    >>> plan = DocumentPlan(contexts, Stream((Draw("image", 4), Draw("rna", 4)), batch_size=8))
    >>> len(contexts), plan.n_documents, plan.n_steps
    (28, 840, 105)
    """

    contexts: Contexts
    stream: Stream
    documents_per_context: int = 30
    replace: Replace = "if_needed"
    seed: int = 0
    control_key: str | None = None
    control: str | None = None
    drop_last: bool = True
    passages: dict[str, Passage] = field(default_factory=dict, repr=False)
    _epoch: _Epoch | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.replace not in ("if_needed", True):
            raise ValueError(f"replace={self.replace!r}: expected 'if_needed' or True.")
        if self.documents_per_context < 1:
            raise ValueError("documents_per_context must be at least 1.")
        self._groups = [
            self.contexts.related(
                draw.modality, draw.context, control_key=self.control_key, control=self.control
            )
            for draw in self.stream.draws
        ]
        has = [
            (groups >= 0) & (members.counts[np.maximum(groups, 0)] > 0)
            for members, groups in self._groups
        ]
        keep = np.logical_or.reduce(has)
        for draw, present in zip(self.stream.draws, has, strict=True):
            if draw.missing == "drop":
                keep &= present
        self._has = has
        if self.stream.over == "cells":
            self._items = self._rows_with_context(keep)
        else:
            self._items = np.flatnonzero(keep)
        if not len(self._items):
            raise ValueError(
                "no document can be drawn: no context has cells in "
                f"{[draw.modality for draw in self.stream.draws]}."
            )

    def _rows_with_context(self, keep: NDArray[np.bool_]) -> Ints:
        self._row_context = self.contexts.of_row(self.stream.draws[0].modality)
        inside = self._row_context >= 0
        return np.flatnonzero(inside & keep[np.maximum(self._row_context, 0)])

    @property
    def n_documents(self) -> int:
        """Documents of one epoch."""
        repeats = self.documents_per_context if self.stream.over == "contexts" else 1
        return len(self._items) * repeats

    @property
    def batch_size(self) -> int:
        """Documents of one batch: as asked for, or all there are."""
        return min(self.stream.batch_size, self.n_documents)

    @property
    def n_steps(self) -> int:
        """Batches of one epoch."""
        full, rest = divmod(self.n_documents, self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def n_scarce(self) -> dict[str, int]:
        """Contexts of each draw with fewer cells than the set size: cells stand there twice."""
        scarce = {}
        for draw, (members, groups), has in zip(
            self.stream.draws, self._groups, self._has, strict=True
        ):
            counts = members.counts[np.maximum(groups, 0)]
            scarce[draw.name] = int((has & (counts < draw.size)).sum())
        return scarce

    def along(self, readers: dict[str, Reader]) -> DocumentPlan:
        """The same documents, drawn as the blocks of what is larger than its buffer pass by.

        Nothing changes where everything is in memory or fits into its reader's buffer.
        """
        passages = passages_of(readers)
        return replace(self, passages=passages) if passages else self

    def order(self, epoch: int) -> Ints:
        """Contexts (or rows) of the epoch's documents, shuffled; the last epoch's is kept."""
        return self._plan(epoch).order

    def _plan(self, epoch: int) -> _Epoch:
        kept = self._epoch
        if kept is None or kept.number != epoch:
            kept = self._epoch = self._shuffled(epoch)
        return kept

    def _shuffled(self, epoch: int) -> _Epoch:
        repeats = self.n_documents // len(self._items)
        rng = seeded_rng(self.seed, epoch, 0, 1)
        order = rng.permutation(np.repeat(self._items, repeats))
        draws = self.stream.draws
        passing = {
            number: Passing(
                self._groups[number][0],
                self.passages[draw.modality],
                seeded_rng(self.seed, epoch, list(self.passages).index(draw.modality), 0),
            )
            for number, draw in enumerate(draws)
            if draw.modality in self.passages
        }
        if not passing:
            return _Epoch(epoch, order)
        # Each document at a moment when one of its cells is there; the order within is random.
        lead = min(passing)
        uniform = rng.random((len(order), 2))
        if self.stream.over == "cells" and lead == 0:
            part = passing[lead].part_of_rows(order, uniform[:, 1])
        else:
            context = self._row_context[order] if self.stream.over == "cells" else order
            groups = np.maximum(self._groups[lead][1][context], 0)
            part = passing[lead].part_of_groups(groups, uniform)
        by_part = np.argsort(part, kind="stable")
        return _Epoch(epoch, order[by_part], part[by_part], passing)

    def indices(self, epoch: int, step: int) -> Indices:
        """Documents of one batch.

        Examples
        --------
        >>> import cellfuse as cf
        >>> from cellfuse.data import Contexts, DocumentPlan, Draw, Stream
        >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, seed=0)
        >>> contexts = Contexts.from_modalities(mdata.mod, "guide")
        >>> plan = DocumentPlan(contexts, Stream((Draw("image", 4), Draw("rna", 4)), batch_size=2))
        >>> plan.indices(epoch=0, step=0).rows["image"].shape
        (2, 4)
        """
        first = step * self.batch_size
        plan = self._plan(epoch)
        items = plan.order[first : first + self.batch_size]
        key = epoch * self.n_documents + np.arange(first, first + len(items), dtype=np.int64)
        context = self._row_context[items] if self.stream.over == "cells" else items
        rows, present = {}, {}
        for number, draw in enumerate(self.stream.draws):
            here = self._has[number][context]
            if self.stream.over == "cells" and number == 0:
                drawn = items[:, None]
            else:
                members, groups = self._groups[number]
                chosen, stretch = groups[context[here]], None
                if number in plan.passing:
                    passing = plan.passing[number]
                    part = plan.part[first : first + self.batch_size][here]
                    members, stretch = passing.members, passing.stretch(chosen, part, draw.size)
                drawn = np.zeros((len(items), draw.size), np.int64)
                # The salt keeps draws and epochs apart; +2 leaves 1 to the order of documents.
                rng = seeded_rng(self.seed, epoch, step, number + 2)
                drawn[here] = draw_rows(
                    members, chosen, draw.size, rng=rng, replace=self.replace, stretch=stretch
                )
            rows[draw.name], present[draw.name] = drawn, here
        return Indices(key, context, rows, present)


def enumerate_documents(
    contexts: Contexts, modalities: Sequence[str], *, set_size: int, seed: int = 0
) -> Indices:
    """Documents in which every cell stands at least once (PETRI, A.6).

    The cells of a context are shuffled, wrapped around to a multiple of the set size and cut into
    sets; a modality with fewer sets is repeated in cycles.

    Parameters
    ----------
    contexts
        Who shares a context.
    modalities
        Modalities of the documents.
    set_size
        Cells of each modality in a document.
    seed
        Seed of the order in which the cells of a context are cut into sets.

    Returns
    -------
    Documents of all contexts, ordered by context.

    Raises
    ------
    KeyError
        There is no such modality.
    ValueError
        A `set_size` below 1.

    Examples
    --------
    >>> import cellfuse as cf
    >>> from cellfuse.data import Contexts, enumerate_documents
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, seed=0)
    >>> contexts = Contexts.from_modalities(mdata.mod, "guide")
    >>> documents = enumerate_documents(contexts, ["image", "rna"], set_size=4)
    >>> len(set(documents.rows["rna"].ravel())) == mdata["rna"].n_obs
    True
    """
    if set_size < 1:
        raise ValueError(f"set_size must be at least 1, found {set_size}.")
    for modality in modalities:
        if modality not in contexts.members:
            raise missing_key(modality, contexts.modalities, what="the modalities")
    n_sets = {m: -(-contexts.members[m].counts // set_size) for m in modalities}
    n_documents = np.max(list(n_sets.values()), axis=0)
    context = np.repeat(np.arange(len(contexts)), n_documents)
    starts = np.cumsum(n_documents) - n_documents
    number = np.arange(len(context)) - starts[context]  # of the document within its context
    rows, present = {}, {}
    for position, modality in enumerate(modalities):
        members = contexts.members[modality]
        shuffle = np.random.default_rng([seed, position]).random(len(members.rows))
        shuffled = members.rows[np.lexsort((shuffle, members.codes))]
        counts = members.counts[context]
        here = counts > 0
        which = number % np.maximum(n_sets[modality][context], 1)
        place = (which[:, None] * set_size + np.arange(set_size)) % np.maximum(counts, 1)[:, None]
        drawn = np.zeros((len(context), set_size), np.int64)
        drawn[here] = shuffled[members.indptr[context[here]][:, None] + place[here]]
        rows[modality], present[modality] = drawn, here
    return Indices(np.arange(len(context), dtype=np.int64), context, rows, present)
