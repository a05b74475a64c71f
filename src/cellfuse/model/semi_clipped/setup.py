"""What Semi-Clipped reads, and which samples are controls of which batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mudata import MuData

from cellfuse._batches import Labels
from cellfuse.model.base import DocumentModel, as_in
from cellfuse.model.semi_clipped.checks import batches_by_role

__all__ = ["ClippedSetup"]


class ClippedSetup(DocumentModel):
    """Setup of :class:`cellfuse.SemiClipped`."""

    kinds = ("values",)

    @classmethod
    @as_in(DocumentModel.setup_mudata, ("rna_likelihood",))
    def setup_mudata(  # type: ignore[override]
        cls,
        mdata: MuData,
        *,
        context_keys: str | Sequence[str],
        image_rep: str | None,
        rna_rep: str | None,
        rna_layer: str | None = None,
        batch_key: Labels | None | Mapping[str, Labels | None] = None,
        control_key: str | None | Mapping[str, str | None] = None,
        control: Labels | None | Mapping[str, Labels | None] = None,
        dose_key: str | None = None,
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is read, what samples share, and which are controls.

        Parameters
        ----------
        context_keys
            obs column or columns, in both modalities, whose joint value says which samples
            belong together, such as ``["compound", "cell_line"]`` (paper).
        image_rep
            obsm key of the frozen image embedding, shape (n, d); None is X.
        rna_rep
            obsm key of the RNA embedding. None is X or `rna_layer`, read as real values: raw counts
            are to be normalised first (`cf.pp.embed_pca`, or log counts for trains="scratch").
        rna_layer
            Layer to read where `rna_rep` is None.
        batch_key
            obs column or columns of the batch on whose controls corrections are fitted, or a dict
            per role. None: one batch.
        control_key, control
            obs column and label or labels of the controls; None: all samples. Or dicts per role.
        dose_key
            obs column of the dose, which then is part of the context; None pairs all doses.

        Raises
        ------
        KeyError
            A modality, key, layer or control label is missing.
        ValueError
            NaN, contexts that do not match, colliding names, one modality only, `control_key`
            without `control`.
        """
        keys = [context_keys] if isinstance(context_keys, str) else list(context_keys)
        if dose_key is not None and dose_key not in keys:
            keys = [*keys, dose_key]
        if control is None and isinstance(control_key, str):
            raise ValueError(
                f"control_key={control_key!r} without `control`: name the label of the controls, "
                "or leave both out to correct by all samples."
            )
        found = cls._read(
            mdata,
            context_keys=keys[0] if len(keys) == 1 else keys,
            image_rep=image_rep,
            rna_rep=rna_rep,
            rna_layer=rna_layer,
            modalities=modalities,
        )
        batches = batches_by_role(
            mdata, found.inputs, batch_key=batch_key, control_key=control_key, control=control
        )
        cls._keep_setup(mdata, found, batches=batches)
