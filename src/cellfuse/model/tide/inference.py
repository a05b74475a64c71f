"""What a trained TIDE gives: from images alone, from structures, from basal expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse._errors import missing_key
from cellfuse._renamed import renamed
from cellfuse.data import Reader, check_values
from cellfuse.model.base import DocumentModel
from cellfuse.model.base.checks import one_of
from cellfuse.model.tide.codebook import codebook_adata
from cellfuse.model.tide.config import SSL
from cellfuse.model.tide.setup import check_counts, field_arrays, fingerprints_of
from cellfuse.nn.augment import center_crop
from cellfuse.nn.dino import Dino
from cellfuse.nn.tide import Objective, TideNetwork

__all__ = ["TideInference"]


class TideInference(DocumentModel):
    """Inference of :class:`cellfuse.TIDE`; a file of its own, as training needs none of it."""

    module: TideNetwork
    compounds: dict[str, str]
    drugs: list[str]
    channels: list[str]
    side: int | None
    ssl: SSL | None
    objective: Objective
    n_paired: int | None
    use_dose: bool
    channel_agnostic: bool
    embeds = ("image",)

    # -- what a trained model gives ---------------------------------------------------------------

    @property
    def codebook(self) -> AnnData:
        """The drugs with images and RNA: where they began and where they are.

        ``obs``: ``smiles``, ``drift`` (1 - cosine of prototype and initial prototype); ``obsm``:
        ``fingerprint``, ``prototype``, ``initial_prototype``, and the first two principal
        components of fingerprints and prototypes, ``fingerprint_map`` and ``prototype_map``;
        ``uns["pairs"]``: the pairs that came nearest to each other. :func:`cellfuse.pl.codebook`
        draws it.
        """
        book = self.module.codebook
        with torch.inference_mode():
            return codebook_adata(
                self.drugs,
                self.compounds,
                fingerprints=book.fingerprints,
                prototypes=book(),
                initial=book.initial,
            )

    @torch.inference_mode()
    def predict(self, data: Data | None = None, *, batch_size: int = 256) -> pd.DataFrame:
        """Distribution of the student over the drugs, from images alone.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or images as an AnnData. Neither RNA nor
            dose nor cell line is read.
        batch_size
            Images at a time.

        Returns
        -------
        Rows are images (obs_names), columns drugs; rows sum to 1.
        """
        self._check_student()
        net = self.module
        p = self._images(
            data,
            lambda h: net.codebook.log_probabilities(net.student(h)).exp(),
            batch_size=batch_size,
        )
        return pd.DataFrame(p, self._modality(data, "image").obs_names, self.drugs)

    @renamed(layer="at")
    @torch.inference_mode()
    def get_latent_representation(  # type: ignore[override]
        self,
        data: Data | None = None,
        *,
        modality: str | None = None,
        at: Literal["encoder", "average", "student"] = "encoder",
        batch_size: int = 256,
    ) -> NDArray[np.float32]:
        """Embedding of every image, from the image alone.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or images as an AnnData. A
            channel-agnostic model takes any of the channels it has seen, by ``uns["channels"]``.
        modality
            ``"image"``, which alone is embedded.
        at
            ``"encoder"``: the image encoder. ``"average"``: its running mean, which DINO keeps as
            its teacher; without pairs this is what ``"encoder"`` gives too, as in
            :class:`cellfuse.DINO`. ``"student"``: the student's head, in the space of the
            prototypes and of :meth:`embed_compounds`, of length 1.
        batch_size
            Images at a time.

        Returns
        -------
        ``(n_images, width)``.
        """
        one_of("at", at, ("encoder", "average", "student"))
        self._role(modality)
        net = self.module
        if at != "student":
            self._check_trained()
            if at == "average" and not isinstance(net.image, Dino):
                raise ValueError(f"only DINO keeps a running mean; this TIDE has ssl={self.ssl!r}.")
            return self._images(data, lambda h: h, batch_size=batch_size, average=at == "average")
        self._check_student()
        return self._images(
            data,
            lambda h: torch.nn.functional.normalize(net.student(h), dim=1),
            batch_size=batch_size,
        )

    @torch.inference_mode()
    def dose_conditioned_representation(
        self, data: Data | None = None, *, dose_key: str | None = None, batch_size: int = 256
    ) -> NDArray[np.float32]:
        """Embedding of images from which the teacher peels the dose, `h_I`, ``(n_images, width)``.

        Parameters
        ----------
        data
            As in :meth:`get_latent_representation`, with doses and compounds in obs.
        dose_key
            obs column with the dose in uM; that of the setup by default.
        batch_size
            Images at a time.
        """
        self._check_student()
        if not self.use_dose:
            raise ValueError("this TIDE knows no doses (use_dose=False).")
        adata = self._modality(data, "image")
        setup = {**self._setup, "dose_key": dose_key or self._setup["dose_key"]}
        modality = self.inputs["image"].modality
        dose = torch.from_numpy(field_arrays(adata, setup, [], modality=modality)["dose"])
        h = torch.from_numpy(self.get_latent_representation(data, batch_size=batch_size))
        parts = [
            self.module.condition(x.to(self.device), d.to(self.device)).float().cpu()
            for x, d in zip(h.split(batch_size), dose.split(batch_size), strict=True)
        ]
        return torch.cat(parts).numpy()

    @torch.inference_mode()
    def embed_compounds(self, smiles: str | Sequence[str]) -> NDArray[np.float32]:
        """Places of compounds by their chemistry, ``(n, codebook width)``, of length 1.

        Any compound has one, seen or not; that of a training drug's prototype, which has drifted,
        is in :attr:`codebook`.

        Parameters
        ----------
        smiles
            One SMILES or several.

        Returns
        -------
        A row per SMILES, float32.

        Raises
        ------
        ValueError
            SMILES that RDKit does not read.
        """
        self._check_student()
        self.module.eval()
        texts = [smiles] if isinstance(smiles, str) else [str(text) for text in smiles]
        bits = torch.from_numpy(
            fingerprints_of(texts, self._setup["fingerprint"], self._setup["n_bits"])
        ).to(self.device)
        return self.module.codebook.embed(bits).float().cpu().numpy()

    def _check_student(self) -> None:
        self._check_trained()
        if self.n_paired == 0:
            raise RuntimeError(
                "this TIDE saw no pairs (n_paired=0): it has an embedding of images, and no drugs."
            )
        if self.objective == "rna":
            raise RuntimeError("objective='rna' aligns images with RNA: there is no codebook.")

    def _features(
        self,
        images: Tensor,
        names: Sequence[str] | None = None,
        *,
        batch_size: int = 256,
        average: bool = False,
    ) -> Tensor:
        """Embedding of raw images."""
        net, parts = self.module, []
        names = self.channels if names is None else names
        for part in images.split(batch_size):
            x = part.to(self.device)
            if self.side is None:
                parts.append(net.features(net.scale(x)).float())
                continue
            x = net.scale(x, [self.channels.index(name) for name in names])
            x = center_crop(x, self.side)
            # Without pairs the self-supervised method stands alone, with its own embedding.
            by_mean = (average or self.n_paired == 0) and isinstance(net.image, Dino)
            embed = net.image.embed if by_mean else net.features  # type: ignore[union-attr]
            parts.append(embed(x, channels=names).float())
        return torch.cat(parts)

    def _images(
        self, data: Data | None, head: Any, *, batch_size: int, average: bool = False
    ) -> NDArray:
        self.module.eval()
        names = self._channels_of(self._modality(data, "image"))
        return self._encode(
            data,
            "image",
            lambda x: head(self._features(x, names, batch_size=batch_size, average=average)),
            batch_size,
        )

    # -- any of the channels of the training ------------------------------------------------------

    def _channels_of(self, adata: AnnData) -> list[str]:
        named = [str(name) for name in adata.uns.get("channels", ())]
        if not self.channel_agnostic or not named:
            return self.channels
        for name in named:
            if name not in self.channels:
                raise missing_key(name, self.channels, what="the channels this TIDE has seen")
        return named

    def _reader(self, data: Data | None, role: str) -> Reader:
        if role != "image":
            reader = super()._reader(data, role)
            if self._setup["counts"] and data is not None and data is not self.adata:
                check_counts(reader, self.inputs[role].label)
            return reader
        adata = self._modality(data, role)
        names = self._channels_of(adata)
        if names == self.channels:
            return super()._reader(data, role)
        shape = (len(names), *self.inputs[role].shape[1:])
        other = replace(self.inputs[role], names=tuple(names), shape=shape)
        reader = other.reader(adata)
        check_values(reader, other.kind, other.label)
        return reader
