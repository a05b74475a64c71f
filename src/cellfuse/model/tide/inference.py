"""What a trained TIDE gives: from images alone, and from structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse._renamed import renamed
from cellfuse.data import Reader
from cellfuse.model.base import DocumentModel
from cellfuse.model.base.channels import channel_reader, channels_of
from cellfuse.model.base.checks import one_of
from cellfuse.model.tide.codebook import codebook_adata
from cellfuse.model.tide.compounds import Chemistry
from cellfuse.model.tide.config import SSL
from cellfuse.model.tide.images import ImageReading
from cellfuse.model.tide.setup import check_counts, field_arrays
from cellfuse.nn.dino import Dino
from cellfuse.nn.tide import Objective, TideNetwork

__all__ = ["TideInference"]


class TideInference(DocumentModel):
    """Inference of :class:`cellfuse.TIDE` on images: all that needs no training."""

    module: TideNetwork
    images: ImageReading
    chemistry: Chemistry
    compounds: dict[str, str]
    drugs: list[str]
    channels: list[str]
    channel_agnostic: bool
    ssl: SSL | None
    objective: Objective
    n_paired: int | None
    use_dose: bool
    embeds = ("image",)

    @property
    def learnt_weight(self) -> float:
        """Weight of the encoder's features beside plain ones in the embedding: 0, .25, .5 or 1.

        Chosen by drugs that have images and were never named to teacher and student: those without
        RNA, and those held out as wholes (``train(validation_images="column")``). It is the weight
        with which their conditions are found best in other images of theirs, and 0 where no gain is
        beyond its error, or where there are fewer than five such drugs: plain features alone.
        """
        self._check_begun_linear("learnt_weight")
        self._check_trained()
        joint = self.module.joint
        assert joint is not None
        return float(joint.space.learnt_weight)

    @property
    def codebook(self) -> AnnData:
        """The drugs with images and RNA (of CL(D) all with images): where they began and are.

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
        p = self._images(data, "drugs", batch_size=batch_size)
        return pd.DataFrame(p, self._modality(data, "image").obs_names, self.drugs)

    @renamed(layer="at")
    @torch.inference_mode()
    def get_latent_representation(  # type: ignore[override]
        self,
        data: Data | None = None,
        *,
        modality: str | None = None,
        at: Literal["joint", "encoder", "average", "student"] | None = None,
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
            None is ``"joint"`` where the model began linear, else ``"encoder"``. ``"joint"``: plain
            features of the image, joined by the encoder's with the weight :attr:`learnt_weight`;
            centred and shrunk: neither scale nor whiten it. ``"encoder"``: the image encoder.
            ``"average"``: its running mean, which DINO keeps as
            its teacher; without pairs this is what ``"encoder"`` gives too, as in
            :class:`cellfuse.DINO`. ``"student"``: the student's head, in the space of the
            prototypes and of :meth:`embed_compounds`, of length 1.
        batch_size
            Images at a time.

        Returns
        -------
        ``(n_images, width)``.
        """
        at = at or ("joint" if self.begin == "linear" else "encoder")
        one_of("at", at, ("joint", "encoder", "average", "student"))
        self._role(modality)
        if at == "joint":
            self._check_begun_linear("at='joint'")
        if at == "student":
            self._check_student()
        self._check_trained()
        average = at == "average"
        if average and not isinstance(self.module.image, Dino):
            raise ValueError(f"only DINO keeps a running mean; this TIDE has ssl={self.ssl!r}.")
        return self._images(data, at, batch_size=batch_size, average=average)

    @torch.inference_mode()
    def dose_conditioned_representation(
        self, data: Data | None = None, *, dose_key: str | None = None, batch_size: int = 256
    ) -> NDArray[np.float32]:
        """Embedding of images from which the teacher peels the dose, `h_I`, ``(n_images, width)``.

        Where the model began linear, plain features of the image come first in it.

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
        h = torch.from_numpy(self._images(data, "heads", batch_size=batch_size))
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
        bits = self.chemistry.bits(texts).to(self.device)
        return self.module.codebook.embed(bits).float().cpu().numpy()

    def _check_begun_linear(self, what: str) -> None:
        if self.begin != "linear":
            raise ValueError(f"{what} is of models that begin linear; this began at random.")

    def _check_student(self) -> None:
        self._check_trained()
        if self.n_paired == 0:
            raise RuntimeError(
                "this TIDE saw no pairs (n_paired=0): it has an embedding of images, and no drugs."
            )
        if self.objective == "rna":
            raise RuntimeError("objective='rna' aligns images with RNA: there is no codebook.")

    def _images(
        self, data: Data | None, at: str, *, batch_size: int, average: bool = False
    ) -> NDArray[np.float32]:
        self.module.eval()
        names, head = self._channels_of(self._modality(data, "image")), self.images.head(at)
        joint = self.module.joint if at == "joint" else None

        def encode(x: Tensor) -> Tensor:
            h = self.images.features(x, names, batch_size=batch_size, average=average)
            if joint is not None:
                return joint.space("image", self.images.joined(x, h))
            if at not in ("encoder", "average"):  # what teacher and student read
                h = self.module.beside(self.images.plain(x), h)
            return head(h)

        return self._encode(data, "image", encode, batch_size)

    def _channels_of(self, adata: AnnData) -> list[str]:
        return channels_of(adata, self.channels, any_of=self.channel_agnostic, model="TIDE")

    def _reader(self, data: Data | None, role: str) -> Reader:
        if role == "image":
            names = self._channels_of(self._modality(data, role))
            if names != self.channels:
                return channel_reader(self.inputs[role], self._modality(data, role), names)
        reader = super()._reader(data, role)
        if role == "rna" and self._setup["counts"] and data is not None and data is not self.adata:
            check_counts(reader, self.inputs[role].label)
        return reader
