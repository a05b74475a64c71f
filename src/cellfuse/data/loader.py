"""From plans and readers to batches, and the Lightning data module that serves them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cellfuse.data.blocks import BlockReader
from cellfuse.data.readers import ColumnReader, Reader, SparseRows, gather, moved
from cellfuse.data.streams import DocumentPlan, Indices

__all__ = ["Batch", "DocumentDataModule", "DocumentLoader", "Source"]


@dataclass
class Batch:
    """The documents of one training step; `G` documents, `S` cells of each draw.

    Parameters
    ----------
    key
        Number of each document in the whole training, ``(G,)``: masks and noise hang on it.
    context
        Number of its context, ``(G,)``.
    rows
        Rows of the modality by draw, ``(G, S)``.
    present
        By draw, whether the context has such cells, ``(G,)``, bool.
    x
        What was read, by draw, ``(G, S, ...)``.
    obs
        Numbers that go with the cells (dose, batch), by draw and name, ``(G, S)`` each.

    Examples
    --------
    >>> import cellfuse as cf
    >>> from cellfuse.data import Contexts, DocumentPlan, Draw, Source, Stream, make_reader
    >>> mdata = cf.datasets.simulated_screen(50, n_targets=4, cells_per_guide=4, seed=0)
    >>> contexts = Contexts.from_modalities(mdata.mod, "guide")
    >>> plan = DocumentPlan(contexts, Stream((Draw("rna", 4),), batch_size=8))
    >>> source = Source({"rna": make_reader(mdata["rna"].X)})
    >>> batch = source.read(plan.indices(epoch=0, step=0))
    >>> batch.key.tolist()[:3], batch.rows["rna"].shape
    ([0, 1, 2], torch.Size([8, 4]))
    """

    key: Tensor
    context: Tensor
    rows: dict[str, Tensor]
    present: dict[str, Tensor]
    x: dict[str, Tensor]
    obs: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """Move to a device, as a tensor does; sparse counts become dense there."""

        def move(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: move(item) for name, item in value.items()}
            if isinstance(value, SparseRows):
                return value.to(*args, **kwargs).dense()
            return moved(value, *args, **kwargs)

        return Batch(
            move(self.key),
            move(self.context),
            move(self.rows),
            move(self.present),
            move(self.x),
            move(self.obs),
        )


def _in_threads(
    read: Callable[[tuple[int, int]], Batch], asked: list[tuple[int, int]], n_threads: int
) -> Iterator[Batch]:
    """Batches in order, of which the next few are read while one is used."""
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="cellfuse-reader")
    try:
        coming: deque[Future[Batch]] = deque()
        for at in asked:
            coming.append(pool.submit(read, at))
            if len(coming) > n_threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Source:
    """Where the values of each modality are read.

    Parameters
    ----------
    readers
        Reader of each modality.
    fields
        For each modality, per-cell numbers that go with it (dose, batch, size factor), ``(n,)``.

    Examples
    --------
    >>> import cellfuse as cf
    >>> from cellfuse.data import Contexts, DocumentPlan, Draw, Source, Stream, make_reader
    >>> mdata = cf.datasets.simulated_screen(50, n_targets=4, cells_per_guide=4, seed=0)
    >>> contexts = Contexts.from_modalities(mdata.mod, "guide")
    >>> plan = DocumentPlan(contexts, Stream((Draw("rna", 4),), batch_size=8))
    >>> source = Source({"rna": make_reader(mdata["rna"].X)})
    >>> source.read(plan.indices(epoch=0, step=0)).to("cpu").x["rna"].shape
    torch.Size([8, 4, 50])
    """

    readers: dict[str, Reader]
    fields: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    @property
    def on_disk(self) -> bool:
        """Whether some array is not in memory: threads of this process then read ahead.

        They share one buffer, where each of several processes would have its own, and neither an
        HDF5 file nor dask's scheduler can be handed to another process.
        """
        plain = [r.reader if isinstance(r, ColumnReader) else r for r in self.readers.values()]
        return any(
            isinstance(r, BlockReader) or isinstance(getattr(r, "array", None), np.memmap)
            for r in plain
        )

    def read(self, indices: Indices, modality_of: Mapping[str, str] | None = None) -> Batch:
        """Read the cells of a batch; counts stay sparse until :meth:`Batch.to`."""
        of = modality_of or {}
        x, obs = {}, {}
        for name, rows in indices.rows.items():
            modality = of.get(name, name)
            x[name] = gather(self.readers[modality], rows)
            obs[name] = {
                column: torch.from_numpy(np.ascontiguousarray(values[rows]))
                for column, values in self.fields.get(modality, {}).items()
            }
        return Batch(
            torch.from_numpy(indices.key),
            torch.from_numpy(indices.context),
            {name: torch.from_numpy(rows) for name, rows in indices.rows.items()},
            {name: torch.from_numpy(mask) for name, mask in indices.present.items()},
            x,  # type: ignore[arg-type]  # sparse until it is on its device
            obs,
        )


class _Steps(Dataset):
    """Batches by (epoch, step): what a loader's worker is asked for."""

    def __init__(self, plan: DocumentPlan, source: Source, rank: int, world_size: int) -> None:
        self.plan, self.source = plan, source
        self.rank, self.world_size = rank, world_size
        self.modality_of = {draw.name: draw.modality for draw in plan.stream.draws}

    def __getitem__(self, at: tuple[int, int]) -> Batch:
        # A loss between documents waits for as many of them from every device.
        indices = self.plan.indices(*at).slice(self.rank, self.world_size, even=self.plan.drop_last)
        return self.source.read(indices, self.modality_of)


class DocumentLoader:
    """Batches of an epoch in order; can begin in the middle of one.

    Parameters
    ----------
    plan, source
        What to draw and where to read it.
    epoch
        Called when an epoch begins: its number.
    num_workers
        Processes that read ahead; 0 reads in the training process. Arrays on a disk are read ahead
        by as many threads, at least one.
    rank, world_size
        Which slice of each batch is this device's.

    Raises
    ------
    ValueError
        A batch that cannot be dealt to the devices evenly.

    Examples
    --------
    >>> import cellfuse as cf
    >>> from cellfuse.data import Contexts, DocumentLoader, DocumentPlan, Draw, Source, Stream
    >>> from cellfuse.data import make_reader
    >>> mdata = cf.datasets.simulated_screen(50, n_targets=4, cells_per_guide=4, seed=0)
    >>> contexts = Contexts.from_modalities(mdata.mod, "guide")
    >>> plan = DocumentPlan(contexts, Stream((Draw("rna", 4),), batch_size=8))
    >>> source = Source({"rna": make_reader(mdata["rna"].X)})
    >>> loader = DocumentLoader(plan, source, epoch=lambda: 0)
    >>> len(loader) == plan.n_steps, next(iter(loader)).rows["rna"].shape
    (True, torch.Size([8, 4]))
    """

    def __init__(
        self,
        plan: DocumentPlan,
        source: Source,
        *,
        epoch: Callable[[], int],
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        # Fewer documents than a batch, as in a small validation set, are dealt as they are.
        few = world_size <= plan.batch_size < plan.stream.batch_size
        if plan.batch_size % world_size and not few:
            raise ValueError(
                f"a batch of {plan.batch_size} documents cannot be dealt to {world_size} devices "
                "evenly; choose a batch_size that is a multiple of their number."
            )
        self.plan, self.source = plan, source
        self._epoch = epoch
        self._num_workers = num_workers
        self._steps = _Steps(plan, source, rank, world_size)
        self._begun = (0, 0)  # epoch and the steps of it that were handed out
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.plan.n_steps

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._epoch(), 0
        if self._resume is not None and self._resume[0] == epoch:
            first = self._resume[1]
        self._resume = None
        asked = [(epoch, step) for step in range(first, len(self))]
        batches: Iterator[Batch] | DataLoader
        if self.source.on_disk:
            batches = _in_threads(self._steps.__getitem__, asked, max(1, self._num_workers))
        elif self._num_workers:
            batches = DataLoader(
                self._steps,
                sampler=asked,
                batch_size=None,
                num_workers=self._num_workers,
                generator=torch.Generator(),  # the loader would move the caller's random state
            )
        else:
            batches = (self._steps[at] for at in asked)
        self._begun = (epoch, first)
        for batch in batches:
            self._begun = (epoch, self._begun[1] + 1)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the place in the epoch, for a checkpoint."""
        return {"epoch": self._begun[0], "step": self._begun[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a checkpoint's place."""
        self._resume = (state["epoch"], state["step"])


class DocumentDataModule(L.LightningDataModule):
    """The one data module of the library.

    Parameters
    ----------
    train, validation
        Plans; several training plans by name are drawn side by side (Lightning's
        `CombinedLoader`), the shorter ones again and again.
    source
        Where to read.
    num_workers
        Processes that read ahead; threads, at least one, where an array is on a disk.
    first_epoch
        Number of the first epoch: what an earlier training has seen is not drawn again.

    Examples
    --------
    >>> import cellfuse as cf
    >>> from cellfuse.data import Contexts, DocumentDataModule, DocumentPlan, Draw, Source
    >>> from cellfuse.data import Stream, make_reader
    >>> mdata = cf.datasets.simulated_screen(50, n_targets=4, cells_per_guide=4, seed=0)
    >>> contexts = Contexts.from_modalities(mdata.mod, "guide")
    >>> plan = DocumentPlan(contexts, Stream((Draw("rna", 4),), batch_size=8))
    >>> source = Source({"rna": make_reader(mdata["rna"].X)})
    >>> module = DocumentDataModule(plan, source)
    >>> module.validation is None
    True
    """

    def __init__(
        self,
        train: DocumentPlan | dict[str, DocumentPlan],
        source: Source,
        *,
        validation: DocumentPlan | None = None,
        num_workers: int = 0,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        # What is larger than its reader's buffer is drawn as its blocks pass through that.
        self.source = source
        self.train = (
            train.along(source.readers)
            if isinstance(train, DocumentPlan)
            else {name: plan.along(source.readers) for name, plan in train.items()}
        )
        self.validation = None if validation is None else validation.along(source.readers)
        self.num_workers, self.first_epoch = num_workers, first_epoch
        self._train_loaders: list[DocumentLoader] = []
        self._resume: list[dict[str, int]] = []

    def _loader(self, plan: DocumentPlan, epoch: Callable[[], int]) -> DocumentLoader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return DocumentLoader(
            plan,
            self.source,
            epoch=epoch,
            num_workers=self.num_workers,
            rank=rank,
            world_size=world_size,
        )

    def _current_epoch(self) -> int:
        return self.first_epoch + (self.trainer.current_epoch if self.trainer else 0)

    def train_dataloader(self) -> Any:
        """One loader, or a `CombinedLoader` of several."""
        plans = {"": self.train} if isinstance(self.train, DocumentPlan) else self.train
        loaders = {name: self._loader(p, self._current_epoch) for name, p in plans.items()}
        self._train_loaders = list(loaders.values())
        for loader, state in zip(self._train_loaders, self._resume, strict=False):
            loader.load_state_dict(state)
        if isinstance(self.train, DocumentPlan):
            return loaders[""]
        from lightning.pytorch.utilities import CombinedLoader

        return CombinedLoader(loaders, mode="max_size_cycle")

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch, for a checkpoint.

        Lightning asks the loaders themselves too, but hands that to no loader which exists before
        the checkpoint is read, as one does where the optimiser asks for the number of steps.
        """
        return {
            "train": [loader.state_dict() for loader in self._train_loaders],
            "first_epoch": self.first_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's place."""
        self._resume = state_dict["train"]
        self.first_epoch = state_dict.get("first_epoch", 0)  # older checkpoints have none

    def val_dataloader(self) -> Any:
        """The same documents at every epoch."""
        if self.validation is None:
            return []
        return self._loader(self.validation, lambda: 0)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Keep bytes bytes on the way; counts become dense on the device."""
        if isinstance(batch, dict):
            return {name: part.to(device) for name, part in batch.items()}
        return batch.to(device)
