"""What a run reads, how it trains and what it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Settings"]

Role = Literal["image", "rna"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Choices of one run of :func:`cellfuse.bench.run_screen`.

    Parameters
    ----------
    context_keys
        obs column or columns, in every modality, that cells share: the guide, the compound.
    control
        Label of the control cells in `control_key`. None, which must be written, takes all cells.
    control_key
        obs column that tells the controls, such as ``"gene"``.
    modalities
        Name in the MuData of the roles ``"image"`` and ``"rna"``; one entry alone gives documents
        of that modality. Default: those of the two that the MuData has under these names.
    image_rep, rna_rep, rna_layer, rna_likelihood
        What is read of a cell, as in :meth:`cellfuse.PETRI.setup_mudata`.
    batch_key
        obs column of the batches that are corrected apart, such as the well or plate; or a dict by
        role. None: controls of all cells together.
    background_key
        obs column, constant within a context, of the backgrounds (cell line, chemical background)
        that are corrected, whitened and scored apart and whose scores are averaged. None: one.
    target_key
        obs column, constant within a context, with what a context hits: the gene of a guide, the
        target of a compound. None: no scores.
    edges
        Known pairs of targets: a data frame with ``source``, ``target`` and optionally ``score``.
    score_threshold
        Score above which an edge counts as known (0.95 is this library's); without scores all do.
    colour_key
        obs column that colours the UMAP beside the modality; None is `target_key`.
    drop_missing
        Leave out cells without a context instead of refusing them.
    preset, set_size, crop
        Of :class:`cellfuse.PETRI`: size of the network, cells of each modality in a document,
        centre crop of images in pixels.
    max_epochs, documents_per_context
        Length of the training; 8 and 5, about a thousand steps for 200 contexts, instead of the
        paper's 100 and 30, which take a GPU.
    validation_size
        Share of each context's cells whose losses are followed and not trained on.
    n_boot
        Bootstrap replicates (over genes) for the intervals of the edge scores.
    n_null
        Null sets for the guide consistency.
    accelerator
        Lightning's: ``"auto"``, ``"cpu"``, ``"gpu"``.
    seed
        Seed of everything random in the run.

    Examples
    --------
    >>> import cellfuse.bench
    >>> settings = cellfuse.bench.Settings(context_keys="guide", control=None)
    >>> settings.set_size
    16
    """

    context_keys: str | Sequence[str]
    control: str | None
    control_key: str | None = None
    modalities: Mapping[str, str] | None = None
    image_rep: str | None = None
    rna_rep: str | None = None
    rna_layer: str | None = None
    rna_likelihood: Literal["nb", "mse"] = "nb"
    batch_key: str | None | Mapping[str, str | None] = None
    background_key: str | None = None
    target_key: str | None = None
    edges: pd.DataFrame | None = None
    score_threshold: float = 0.95
    colour_key: str | None = None
    drop_missing: bool = False
    preset: Literal["small", "base"] = "small"
    set_size: int = 16
    crop: int | None = None
    max_epochs: int = 8
    documents_per_context: int = 5
    validation_size: float = 0.1
    n_boot: int = 1000
    n_null: int = 100_000
    accelerator: str = "auto"
    seed: int = 0

    @property
    def contexts(self) -> list[str]:
        """The context keys as a list."""
        return [self.context_keys] if isinstance(self.context_keys, str) else [*self.context_keys]
