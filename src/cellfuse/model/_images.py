"""Models of images alone: what DINO and MAE share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import lightning as L
import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor, nn

from cellfuse._access import PROVENANCE, Data, is_mudata, refuse_view
from cellfuse._errors import listing, missing_key
from cellfuse.data import (
    Batch,
    CellInput,
    Contexts,
    DocumentDataModule,
    DocumentPlan,
    Draw,
    Reader,
    Source,
    Stream,
    check_values,
)
from cellfuse.data.contexts import PAIRED
from cellfuse.model._petri_config import input_spec
from cellfuse.model._scvi import DocumentModel
from cellfuse.model._setup import read_inputs
from cellfuse.model._splits import Labels, by_label, split_labels
from cellfuse.model._training import Training, fit
from cellfuse.nn.augment import center_crop
from cellfuse.nn.vit import VIT_PRESETS, ViTSizes

__all__ = ["ImageModel", "Standardised", "vit_sizes"]

ROLE = "image"


class Standardised(nn.Module):
    """A network, with the mean and standard deviation of each channel of the training set."""

    mean: Tensor
    sd: Tensor

    def __init__(self, net: nn.Module, n_channels: int) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.zeros(n_channels))
        self.register_buffer("sd", torch.ones(n_channels))

    def set_statistics(self, mean: Tensor, sd: Tensor) -> None:
        """Take them; a constant channel keeps scale 1."""
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd > 0, sd, torch.ones_like(sd)))

    def scale(self, images: Tensor, channels: Sequence[int]) -> Tensor:
        """Standardise ``(N, C, H, W)``, whose channels have these positions in the training."""
        at = list(channels)
        return (images.float() - self.mean[at, None, None]) / self.sd[at, None, None]


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
    channel_agnostic: bool
    #: Images per batch and learning rate of each preset.
    defaults: ClassVar[dict[str, tuple[int, float]]]

    # -- setup ------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(  # type: ignore[override]
        cls,
        adata: AnnData,
        *,
        image_rep: str,
        split_key: str | None = None,
        train: Labels = "train",
        validation: Labels | None = "val",
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
        train, validation
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
        wrapped = MuData({ROLE: adata})
        cls.setup_mudata(
            wrapped, image_rep=image_rep, split_key=split_key, train=train, validation=validation
        )
        adata.uns[PROVENANCE] = {
            **adata.uns.get(PROVENANCE, {}),
            "setup": wrapped.uns[PROVENANCE]["setup"],
        }

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        image_rep: str,
        modality: str = ROLE,
        split_key: str | None = None,
        train: Labels = "train",
        validation: Labels | None = "val",
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
        split_key, train, validation
            As in :meth:`setup_anndata`.

        Raises
        ------
        KeyError
            The modality, key, column or a label is missing.
        ValueError
            No pixels, NaN, or no image to train on.
        """
        keys, inputs = read_inputs(
            cls.__name__, mdata, {ROLE: modality}, context_keys=PAIRED, reps={ROLE: image_rep}
        )
        if inputs[0].kind != "pixels":
            raise ValueError(
                f"{cls.__name__} needs pixels (n, channels, height, width); {inputs[0].label} has "
                f"cells of shape {inputs[0].shape}."
            )
        split = None
        if split_key is not None:
            split = {
                "key": split_key,
                "train": split_labels(train),
                "validation": split_labels(validation),
            }
            adatas = {ROLE: mdata.mod[modality]}
            by_label(Contexts.from_modalities(adatas, PAIRED), adatas, split)
        cls._keep_setup(
            mdata,
            {"context_keys": keys, "inputs": [i.to_json() for i in inputs], "split": split},
        )

    @classmethod
    def _read_setup(cls, mdata: MuData) -> dict[str, Any]:
        if cls.__name__ not in mdata.uns.get(PROVENANCE, {}).get("setup", {}):
            raise ValueError(
                f"this data is not set up for {cls.__name__}: call "
                f"`cf.{cls.__name__}.setup_anndata(adata, image_rep=...)` first, or `setup_mudata`."
            )
        return super()._read_setup(mdata)

    def _begin(self, mdata: MuData | AnnData | None) -> None:
        super()._begin(_wrapped(mdata))
        found = self.inputs[ROLE]
        self.channels = list(found.names or (f"channel {i}" for i in range(found.shape[0])))

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

    def _crop(
        self, crop: int | None, normalize: Literal["dataset", "instance"], patch_size: int
    ) -> int:
        """Check the images' size and give the side of what is cut out of them."""
        spec = input_spec(self.inputs[ROLE], crop=crop, normalize=normalize, patch_size=patch_size)
        self.normalize = normalize
        return spec.crop or spec.shape[1]

    # -- training ---------------------------------------------------------------------------------

    def _plans(
        self, batch_size: int, validation_size: float, seed: int
    ) -> tuple[DocumentPlan, DocumentPlan | None, NDArray[np.bool_]]:
        """Every training image once per epoch; validation images; which are trained on."""
        contexts = self._contexts(None, [ROLE])
        split = self._setup["split"]
        if split is not None:
            if validation_size:
                raise ValueError(
                    "`validation_size` and `split_key` both say what is held out; leave one out."
                )
            train, held = by_label(contexts, {ROLE: self._modality(None, ROLE)}, split)
        else:
            if not 0 <= validation_size < 1:
                raise ValueError(f"validation_size must be in [0, 1), found {validation_size}.")
            n = contexts.n_rows[ROLE]
            is_held = np.zeros(n, bool)
            order = np.random.default_rng([seed, 104_729]).permutation(n)
            is_held[order[: int(n * validation_size)]] = True
            train, held = {ROLE: ~is_held}, {ROLE: is_held}
        stream = Stream((Draw(ROLE, 1),), batch_size, over="cells")
        plan = DocumentPlan(contexts.restricted(train), stream, seed=seed)
        validation = None
        if held[ROLE].any():
            validation = DocumentPlan(contexts.restricted(held), stream, seed=seed, drop_last=False)
        return plan, validation, train[ROLE]

    def _fit(
        self,
        max_epochs: int,
        *,
        seed: int,
        batch_size: int,
        validation_size: float,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        warmup: float,
        callbacks: list[L.Callback],
        num_workers: int,
        **trainer: Any,
    ) -> None:
        self._check_trainable(max_epochs, trainer)
        if lr <= 0:
            raise ValueError(f"lr must be positive, found {lr}.")
        plan, validation, rows = self._plans(batch_size, validation_size, seed)
        source = Source({ROLE: self._reader(None, ROLE)})
        if not self.is_trained_:
            self.module.set_statistics(*self._statistics(source, {ROLE: rows}, seed=seed)[ROLE])
        self.module.train()
        self.history_ = fit(
            Training(
                self.module,
                self._losses,
                lr=lr,
                betas=betas,
                weight_decay=weight_decay,
                warmup=warmup,
            ),
            DocumentDataModule(plan, source, validation=validation, num_workers=num_workers),
            max_epochs=max_epochs,
            callbacks=callbacks,
            **trainer,
        )
        self.module.eval()
        self.is_trained_ = True

    def _losses(self, batch: Batch, training: bool) -> dict[str, Tensor]:
        raise NotImplementedError

    def _prepare(self, images: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Images ``(N, C, H, W)`` as the network takes them, uncut."""
        if self.normalize == "instance":
            images = images.float()
            sd, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
            return (images - mean) / (sd + 1e-6)
        names = self.channels if names is None else names
        return self.module.scale(images, [self.channels.index(name) for name in names])

    # -- what a trained model gives ---------------------------------------------------------------

    @torch.inference_mode()
    def get_latent_representation(  # type: ignore[override]
        self, data: Data | None = None, *, batch_size: int = 256
    ) -> NDArray[np.float32]:
        """Embedding of every image.

        Parameters
        ----------
        data
            The data of training (None), another AnnData, or a MuData. A channel-agnostic model
            takes images with any of the channels it has seen, named in ``.uns["channels"]``.
        batch_size
            Images encoded at a time.

        Returns
        -------
        ``(n_images, width)``.

        Raises
        ------
        KeyError
            A channel that was not seen in training.
        """
        self._check_trained()
        self.module.eval()
        names = self._channels_of(self._modality(data, ROLE))
        net: Any = self.module.net
        return self._encode(
            data,
            ROLE,
            encode=lambda x: net.embed(
                center_crop(self._prepare(x, names), self.side), channels=names
            ),
            width=net.encoder.width,
            batch_size=batch_size,
        )

    def _channels_of(self, adata: AnnData) -> list[str]:
        """Names of the channels of some data, which the network must know."""
        named = [str(name) for name in adata.uns.get("channels", ())]
        if not self.channel_agnostic or not named:
            return self.channels
        for name in named:
            if name not in self.channels:
                raise missing_key(
                    name,
                    self.channels,
                    what=f"the channels this {type(self).__name__} has seen",
                    fix="Leave the channel out, or train with it.",
                )
        return named

    def _reader(self, data: Data | None, role: str) -> Reader:
        adata = self._modality(data, role)
        names = tuple(self._channels_of(adata))
        if names == tuple(self.channels):
            return super()._reader(data, role)
        stored = self.inputs[role]
        other: CellInput = replace(stored, names=names, shape=(len(names), *stored.shape[1:]))
        reader = other.reader(adata)
        check_values(reader, other.kind, other.label)
        return reader


def _wrapped(data: Data | None) -> MuData | None:
    """An AnnData as the one modality of a MuData that shares its notes."""
    if data is None or is_mudata(data):
        return data
    wrapped = MuData({ROLE: data})
    if PROVENANCE in data.uns:
        wrapped.uns[PROVENANCE] = data.uns[PROVENANCE]
    return wrapped
