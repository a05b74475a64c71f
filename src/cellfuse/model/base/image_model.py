"""Models of images alone: what DINO and MAE share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import lightning as L
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from torch import Tensor, std_mean

from cellfuse._access import Data, check_tables, is_mudata, obs_column, refuse_view
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import PROVENANCE
from cellfuse._renamed import renamed
from cellfuse.data import Contexts, DocumentPlan, Draw, Reader, Stream
from cellfuse.data.contexts import PAIRED
from cellfuse.data.splits import Held, Rows, labelled_rows, share_of_rows
from cellfuse.model.base.arguments import as_in
from cellfuse.model.base.callbacks import KeepBest, Score
from cellfuse.model.base.channels import channel_names, channel_reader, channels_of
from cellfuse.model.base.document_model import DocumentModel
from cellfuse.model.base.neighbours import Neighbours, looks
from cellfuse.model.base.plans import Plans
from cellfuse.model.base.recipe import Recipe
from cellfuse.model.base.screen_model import Encoder
from cellfuse.model.base.setup import Labels, read_inputs, split_labels
from cellfuse.model.base.sizes import input_spec
from cellfuse.nn.augment import center_crop
from cellfuse.nn.standardise import Standardised
from cellfuse.nn.vit import VIT_PRESETS, ViTSizes

__all__ = ["ImageModel", "vit_sizes"]

ROLE = "image"


def vit_sizes(model: str, preset: str, given: Mapping[str, Any], *, side: int) -> ViTSizes:
    """Sizes of the ViT of a preset, with single ones on top."""
    if preset not in VIT_PRESETS:
        raise missing_key(preset, list(VIT_PRESETS), what="the presets")
    known = [field.name for field in fields(ViTSizes) if field.name != "image_size"]
    for name, value in given.items():
        if name not in known:
            raise TypeError(
                f"{model} has no argument {name!r}; sizes that can be given are {listing(known)}."
            )
        if not value > 0:
            raise ValueError(f"{name} must be positive, found {value}.")
    return replace(VIT_PRESETS[preset], **given, image_size=side)


class ImageModel(DocumentModel):
    """A model of images alone: an AnnData, or one modality of a MuData; no context is needed."""

    module: Standardised
    _looks: tuple[str, int | Sequence[int] | None] | None = None
    kinds = ("pixels",)
    joins = False
    embeds = (ROLE,)
    without: ClassVar[tuple[str, ...]] = (
        "documents_per_context",
        "replace",
        "missing",
        "validation_contexts",
        "validation_by",
    )

    def __init__(
        self,
        adata: MuData | AnnData | None = None,
        *,
        preset: Literal["small", "base"],
        channel_agnostic: bool,
        crop: int | None,
        normalize: Literal["dataset", "instance"],
        sizes: Mapping[str, Any],
        seed: int,
    ) -> None:
        super().__init__(_wrapped(adata), preset=preset, seed=seed)
        found = self.inputs[ROLE]
        self.channels = channel_names(found)
        self.channel_agnostic, self.normalize = channel_agnostic, normalize
        name = type(self).__name__
        known = vit_sizes(name, preset, sizes, side=VIT_PRESETS["base"].image_size)
        spec = input_spec(found, crop=crop, normalize=normalize, patch_size=known.patch_size)
        self.side = spec.crop or spec.shape[1]
        self.size = vit_sizes(name, preset, sizes, side=self.side)

    # -- setup ------------------------------------------------------------------------------------

    @classmethod
    @renamed(validation="val")
    def setup_anndata(  # type: ignore[override]
        cls,
        adata: AnnData,
        *,
        image_rep: str,
        split_key: str | None = None,
        train: Labels = "train",
        val: Labels | None = "val",
    ) -> None:
        """Say what is read.

        Parameters
        ----------
        adata
            One row per image. Only ``.uns["cellfuse"]`` (and scvi-tools' identifiers in ``.uns``)
            is written. Names of the channels are taken from ``.uns["channels"]``.
        image_rep
            obsm key of pixels ``(n, C, H, W)``.
        split_key
            obs column with the split (see :func:`cellfuse.tl.split`): only images with a `train`
            label are trained on. None trains on all.
        train, val
            Label or labels of `split_key`; no validation with None.

        Raises
        ------
        KeyError
            A key, column or label is missing.
        ValueError
            No images, NaN, repeated names of cells.
        """
        if is_mudata(adata):
            raise TypeError(f"found a MuData; use `cf.{cls.__name__}.setup_mudata`.")
        refuse_view(adata)
        wrapped = _wrapped(adata)
        assert wrapped is not None
        cls.setup_mudata(wrapped, image_rep=image_rep, split_key=split_key, train=train, val=val)
        adata.uns[PROVENANCE] = wrapped.uns[PROVENANCE]

    @classmethod
    @renamed(validation="val")
    def setup_mudata(  # type: ignore[override]
        cls,
        mdata: MuData,
        *,
        image_rep: str,
        modality: str = ROLE,
        split_key: str | None = None,
        train: Labels = "train",
        val: Labels | None = "val",
    ) -> None:
        """Say what is read, of a MuData.

        Parameters
        ----------
        mdata
            Only ``.uns["cellfuse"]`` (and scvi-tools' identifiers in ``.uns``) is written.
        image_rep
            obsm key of the images, ``(n, channels, height, width)``.
        modality
            The modality that holds them, ``"image"``; no other is looked at.
        split_key, train, val
            As in :meth:`setup_anndata`.

        Raises
        ------
        KeyError
            The modality, key, column or a label is missing.
        ValueError
            No pixels, NaN, or no image to train on.
        """
        found = read_inputs(
            cls.__name__, mdata, {ROLE: modality}, context_keys=PAIRED, reps={ROLE: image_rep}
        )
        images = found.inputs[0]
        if images.kind != "pixels":
            raise ValueError(
                f"{cls.__name__} needs pixels (n, channels, height, width); {images.label} has "
                f"cells of shape {images.shape}."
            )
        split = None
        if split_key is not None:
            labels = {"train": split_labels(train), "validation": split_labels(val)}
            split = {"key": split_key, **labels}
            labelled_rows(found.contexts, {ROLE: mdata.mod[modality]}, split)
        cls._keep_setup(mdata, found, split=split)

    @classmethod
    def _read_setup(cls, mdata: MuData) -> dict[str, Any]:
        if cls.__name__ not in mdata.uns.get(PROVENANCE, {}).get("setup", {}):
            raise ValueError(
                f"this data is not set up for {cls.__name__}: call "
                f"`cf.{cls.__name__}.setup_anndata(adata, image_rep=...)` first, or `setup_mudata`."
            )
        return super()._read_setup(mdata)

    @classmethod
    def load(cls, dir_path: str | Path, adata: MuData | AnnData | None = None) -> Self:
        """Read a saved model.

        Parameters
        ----------
        dir_path
            Folder that :meth:`save` wrote.
        adata
            AnnData or MuData to attach, with the channels of training; None for inference on data
            passed later.

        Raises
        ------
        FileNotFoundError, ValueError
            No saved model, one of another class, or a damaged one.
        """
        return super().load(dir_path, _wrapped(adata))

    # -- training ---------------------------------------------------------------------------------

    @as_in(DocumentModel.train, without)
    def train(  # type: ignore[override]
        self,
        max_epochs: int | None = None,
        *,
        knn_key: str | None = None,
        evaluate_every: int | Sequence[int] | None = None,
        **training: Any,
    ) -> None:
        """Train the model; called again, train it further. An epoch shows every image once.

        Parameters
        ----------
        max_epochs
            Epochs of this call.
        knn_key
            obs column with the perturbation: the weights kept are those of the look with the
            highest accuracy of the held-out images' 20 nearest neighbours among all training images
            (TIDE's rule, ``history["validation_knn_accuracy"]``); images of perturbations that are
            held out whole are asked among one another. None keeps the last, or `keep_best`.
        evaluate_every
            Epochs between two looks, or a list of the epochs, from 1, that are looked at; None:
            twenty looks.
        """
        if knn_key is None and evaluate_every is not None:
            raise ValueError("evaluate_every says when to look at `knn_key`; name that column.")
        self._looks = None if knn_key is None else (knn_key, evaluate_every)
        super().train(max_epochs, **training)

    def _callbacks(self, recipe: Recipe, plans: Plans) -> list[L.Callback]:
        if self._looks is None:
            return []
        key, evaluate_every = self._looks
        adata = self._modality(None, ROLE)
        label = pd.factorize(obs_column(adata, key, missing=True).astype(object))[0]
        train = plans.train_rows[ROLE]
        held = np.zeros(adata.n_obs, bool)
        if plans.validation is not None:
            held = plans.validation.contexts.of_row(ROLE) >= 0
        embed = self._encoder(None, ROLE)
        device = self.module.parameters
        score = Neighbours(
            lambda x: torch.cat([embed(p.to(next(device()).device)) for p in x.split(256)]).float(),
            self._reader(None, ROLE),
            label.astype(np.int64),
            train,
            held,
        )
        if not score.is_there:
            raise ValueError(
                f"knn_key={key!r} asks held-out images for their neighbours, and none is held out: "
                "give `validation_size`, or a `split_key` at the setup."
            )
        looked = Score(self.module, score, every=looks(evaluate_every, recipe.max_epochs))
        return [looked, KeepBest(self.module, "validation_knn_accuracy")]

    def _rows(self, contexts: Contexts, held: Held) -> Rows:
        split = self._setup["split"]
        if split is None:
            train, cells = share_of_rows(contexts.n_rows[ROLE], held.cells, self.seed)
            return Rows({ROLE: train}, {ROLE: cells})
        if held.cells:
            raise ValueError(
                "`validation_size` and `split_key` both say what is held out; leave one out."
            )
        return Rows(*labelled_rows(contexts, {ROLE: self._modality(None, ROLE)}, split))

    def _plans(self, contexts: Contexts, rows: Rows, recipe: Recipe, **_: Any) -> Plans:
        """Every training image once per epoch."""
        stream = Stream((Draw(ROLE, 1),), recipe.batch_size, over="cells")
        plan = DocumentPlan(contexts.restricted(rows.train), stream, seed=self.seed)
        validation = None
        if rows.held_out[ROLE].any():
            others = contexts.restricted(rows.held_out)
            validation = DocumentPlan(others, stream, seed=self.seed, drop_last=False)
        return Plans(plan, validation, rows.train)

    def _prepare(self, images: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Images ``(N, C, H, W)`` as the network takes them, uncut."""
        if self.normalize == "instance":
            images = images.float()
            sd, mean = std_mean(images, dim=(2, 3), keepdim=True)
            return (images - mean) / (sd + 1e-6)
        names = self.channels if names is None else names
        return self.module.scale(images, [self.channels.index(name) for name in names])

    # -- any of the channels of the training ------------------------------------------------------

    def _encoder(self, data: Data | None, role: str) -> Encoder:
        names = self._channels_of(self._modality(data, role))
        net: Any = self.module.net
        return lambda x: net.embed(center_crop(self._prepare(x, names), self.side), channels=names)

    def _channels_of(self, adata: AnnData) -> list[str]:
        name = type(self).__name__
        return channels_of(adata, self.channels, any_of=self.channel_agnostic, model=name)

    def _reader(self, data: Data | None, role: str) -> Reader:
        adata = self._modality(data, role)
        names = self._channels_of(adata)
        if names == self.channels:
            return super()._reader(data, role)
        return channel_reader(self.inputs[role], adata, names)


def _wrapped(data: Data | None) -> MuData | None:
    """An AnnData as the one modality of a MuData that shares its notes."""
    if data is None or is_mudata(data):
        return data
    check_tables(data, modality=ROLE)  # type: ignore[arg-type]  # no MuData
    wrapped = MuData({ROLE: data})
    if PROVENANCE in data.uns:
        wrapped.uns[PROVENANCE] = data.uns[PROVENANCE]
    return wrapped
