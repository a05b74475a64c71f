"""What is read and what cells share: the setup that methods on documents have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from mudata import MuData

from cellfuse._errors import listing
from cellfuse.model.base.checks import one_of
from cellfuse.model.base.screen_model import ScreenModel
from cellfuse.model.base.setup import Found, read_inputs, roles_of

__all__ = ["SetupModel"]

#: What a cell may be, in words.
KINDS = {
    "pixels": "pixels (channels, height, width)",
    "tokens": "tokens (tokens, width)",
    "values": "flat embeddings, one vector per cell (`cf.pp.embed_images` makes one of crops)",
    "counts": "raw counts",
}


class SetupModel(ScreenModel):
    """A model of modalities that are read by role; a subclass may say what a cell must be."""

    #: What a cell may be.
    kinds: ClassVar[tuple[str, ...]] = ("pixels", "tokens", "values", "counts")
    #: Both modalities are needed, in every document.
    joins: ClassVar[bool] = True

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        context_keys: str | Sequence[str],
        image_rep: str | None = None,
        rna_rep: str | None = None,
        rna_layer: str | None = None,
        rna_likelihood: Literal["nb", "mse"] = "nb",
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is read and what cells share.

        Parameters
        ----------
        mdata
            Modalities with different cells. Only ``.uns["cellfuse"]`` (and scvi-tools'
            identifiers in ``.uns``) is written.
        context_keys
            obs column or columns, in every modality, whose joint value is the context: the guide,
            the compound, or the chemical background and the guide. An obsm key of
            :func:`cellfuse.pp.map_contexts` gives cells several contexts; ``"obs_names"`` means
            cells measured in both modalities: `set_size` is then 1, and an epoch shows each cell
            once (PETRI on Perturb-Multi, 4.1 and A.4).
        image_rep
            obsm key of pixels ``(n, C, H, W)``, tokens ``(n, T, D)`` or a flat embedding
            ``(n, D)``; None is X.
        rna_rep
            obsm key of a flat embedding; None is X or `rna_layer`.
        rna_layer
            Layer of raw counts; None is X.
        rna_likelihood
            ``"nb"``: raw counts (negative binomial where expression is rebuilt). ``"mse"``: real
            values. An obsm key is always read as real values.
        modalities
            Name in the MuData of the roles ``"image"`` and ``"rna"``; of models of one modality
            too, one entry alone. Default: both, under their own names.

        Raises
        ------
        KeyError
            A modality, key or layer is missing.
        ValueError
            No counts where counts are needed, NaN, contexts that do not match, colliding names, one
            modality where the model compares two, or cells that the model does not read.
        """
        found = cls._read(
            mdata,
            context_keys=context_keys,
            image_rep=image_rep,
            rna_rep=rna_rep,
            rna_layer=rna_layer,
            rna_likelihood=rna_likelihood,
            modalities=modalities,
        )
        cls._keep_setup(mdata, found)

    @classmethod
    def _read(
        cls,
        mdata: MuData,
        *,
        context_keys: str | Sequence[str],
        image_rep: str | None = None,
        rna_rep: str | None = None,
        rna_layer: str | None = None,
        rna_likelihood: Literal["nb", "mse"] = "mse",
        modalities: Mapping[str, str] | None = None,
    ) -> Found:
        """Find and check what :meth:`setup_mudata` names."""
        roles = roles_of(modalities)
        one_of("rna_likelihood", rna_likelihood, ("nb", "mse"))
        if cls.joins and len(roles) != 2:
            raise ValueError(
                f"{cls.__name__} compares two modalities; `modalities` names {listing(roles)}."
            )
        found = read_inputs(
            cls.__name__,
            mdata,
            roles,
            context_keys=context_keys,
            reps={"image": image_rep, "rna": rna_rep},
            layers={"rna": rna_layer},
            counts=("rna",) if rna_likelihood == "nb" and "counts" in cls.kinds else (),
        )
        for cell_input in found.inputs:
            if cell_input.kind not in cls.kinds:
                wanted = " or ".join(KINDS[kind] for kind in cls.kinds)
                raise ValueError(
                    f"{cell_input.label} has cells of shape {cell_input.shape}; {cls.__name__} "
                    f"reads {wanted}."
                )
        return found
