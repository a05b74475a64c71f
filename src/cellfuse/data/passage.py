"""Arrays larger than their buffer: in which order their blocks pass through it.

Documents drawn at random from an array on a disk read a block for each of their cells. So the
blocks of an array pass through its buffer, anew in random order at every epoch, and a document is
drawn at a moment when cells of its context are there: a block that is read serves many documents,
and every context meets every other as before. Where too few cells of the context are there, those
that come next are read early; an array whose cells are sorted by context
(:func:`cellfuse.io.write_store`) has them in one or two blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellfuse.data.blocks import BlockReader
from cellfuse.data.contexts import Ints, Members
from cellfuse.data.readers import ColumnReader, Reader

__all__ = ["Passage", "Passing", "passages_of"]

#: Parts into which the buffer is cut; one of them is being filled while the others are drawn from.
PARTS = 8
#: Cells looked at to see how many of a context stand in one block.
LOOKED_AT = 50_000


@dataclass(frozen=True)
class Passage:
    """How the blocks of one array pass.

    Parameters
    ----------
    block
        Block of each row, ``(n_rows,)``.
    n_blocks
        Number of blocks.
    n_phases
        Parts of the epoch; with each, as many blocks enter as the same part of the buffer holds.
    resident
        Phases for which a block stays.
    """

    block: Ints
    n_blocks: int
    n_phases: int
    resident: int = PARTS - 1

    @classmethod
    def of(cls, reader: Reader) -> Passage | None:
        """The passage of what is read block by block and is larger than its buffer."""
        inner = reader.reader if isinstance(reader, ColumnReader) else reader
        if not isinstance(inner, BlockReader) or inner.n_bytes <= inner.cache_bytes:
            return None
        n_phases = int(np.ceil(PARTS * inner.n_bytes / max(1, inner.cache_bytes)))
        rows = np.arange(reader.shape[0], dtype=np.int64)
        return cls(inner.block_of(rows), inner.n_blocks, n_phases)


def passages_of(readers: dict[str, Reader]) -> dict[str, Passage]:
    """Passages of those modalities that need one."""
    found = {modality: Passage.of(reader) for modality, reader in readers.items()}
    return {modality: passage for modality, passage in found.items() if passage is not None}


class Passing:
    """The cells of each group in the order in which they pass in one epoch.

    Parameters
    ----------
    members
        Rows by group.
    passage
        How the blocks of their array pass.
    rng
        Of this epoch: the same for every draw from that array.
    """

    def __init__(self, members: Members, passage: Passage, rng: np.random.Generator) -> None:
        n, self._phases = passage.n_blocks, passage.n_phases
        self._stays = min(passage.resident, passage.n_phases)
        self._enters = (rng.permutation(n) * self._phases // n)[passage.block]
        key = members.codes * self._phases + self._enters[members.rows]
        order = np.argsort(key, kind="stable")
        self.members = Members(members.indptr, members.rows[order])
        self._key = key[order]
        # Cells of a group in one block: where neighbours share a context, a set that is drawn from
        # one block more than it needs meets other cells the next time.
        some = slice(0, LOOKED_AT)
        pairs = np.unique(members.codes[some] * n + passage.block[members.rows[some]])
        self._more = round(len(members.rows[some]) / max(1, len(pairs)))

    def part_of_rows(self, rows: Ints, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """A moment at which each row is in the buffer, as the part of the epoch that is over."""
        return self._moment(self._enters[rows], uniform)

    def part_of_groups(self, groups: Ints, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """A moment at which some cell of each group is there, any of them alike."""
        counts = np.maximum(self.members.counts[groups], 1)
        cell = self.members.indptr[groups] + (uniform[:, 0] * counts).astype(np.int64)
        enters = self._key[np.minimum(cell, len(self._key) - 1)] % self._phases
        return self._moment(enters, uniform[:, 1])

    def _moment(self, enters: Ints, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        phase = (enters + (uniform * self._stays).astype(np.int64)) % self._phases
        return (phase + 0.5) / self._phases

    def stretch(self, groups: Ints, part: NDArray[np.float64], size: int) -> tuple[Ints, Ints]:
        """Which of a group's cells, from where and how many, are there for a set of `size`.

        Counted around the end of the group, as phases are around the end of the epoch.
        """
        indptr, n = self.members.indptr, self.members.counts[groups]
        phase = (part * self._phases).astype(np.int64)
        first = phase - self._stays + 1
        base = groups * self._phases
        start = np.searchsorted(self._key, base + first % self._phases)
        stop = np.searchsorted(self._key, base + phase, side="right")
        count = stop - start + np.where(first < 0, n, 0)
        return start - indptr[groups], np.maximum(count, np.minimum(n, size + self._more))
