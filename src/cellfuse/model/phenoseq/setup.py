"""What PhenoSeq reads, and which cells it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mudata import MuData

from cellfuse._renamed import renamed
from cellfuse.model.base import DocumentModel, as_in
from cellfuse.model.base.setup import Labels
from cellfuse.model.phenoseq.split import checked_split

__all__ = ["PhenoSeqSetup"]


class PhenoSeqSetup(DocumentModel):
    """Setup of :class:`cellfuse.PhenoSeq`."""

    kinds = ("values",)

    @classmethod
    @renamed(validation="val")
    @as_in(DocumentModel.setup_mudata, ("rna_layer", "rna_likelihood"))
    def setup_mudata(  # type: ignore[override]
        cls,
        mdata: MuData,
        *,
        context_keys: str | Sequence[str] = "sample",
        image_rep: str | None = "X_vit",
        rna_rep: str | None = "X_scgpt",
        split_key: str | None = None,
        train: Labels = "train",
        val: Labels | None = "val",
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is read, what cells share, and which of them are trained on.

        Parameters
        ----------
        context_keys
            obs column or columns, in both modalities, whose joint value is the context: the
            sample (paper), or the treatment.
        image_rep, rna_rep
            obsm key of an embedding ``(n, D)``; None is X.
        split_key
            obs column, in both modalities, that says which cells are trained on, such as the
            replicate: cells of any other label than those of `train` and `val` are never looked at,
            not for the statistics either. None: all cells are for training, and :meth:`train` holds
            out whole contexts for validation.
        train, val
            Label or labels of `split_key`; no validation with None.

        Raises
        ------
        KeyError
            A modality, key or label is missing.
        ValueError
            No flat embeddings, NaN, contexts that do not match, colliding names, no context with
            training (or validation) cells of both modalities.
        """
        found = cls._read(
            mdata,
            context_keys=context_keys,
            image_rep=image_rep,
            rna_rep=rna_rep,
            modalities=modalities,
        )
        adatas = {i.role: mdata.mod[i.modality] for i in found.inputs}
        split = checked_split(found.contexts, adatas, split_key, train, val)
        cls._keep_setup(mdata, found, split=split)
