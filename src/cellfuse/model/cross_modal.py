"""Cross-modal autoencoder (Yang et al. 2021), the late-fusion baseline of PETRI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import lightning as L
import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse.data import Batch, DocumentDataModule, Source
from cellfuse.model._petri_config import BATCHES, default_weights, input_specs, sizes_of
from cellfuse.model._scvi import DocumentModel
from cellfuse.model._sets import plan_sets
from cellfuse.model._setup import check_seed, read_inputs, roles_of
from cellfuse.model._training import Training, fit, seeded
from cellfuse.nn import CrossModalAutoencoder

__all__ = ["CrossModalAE"]


class CrossModalAE(DocumentModel):
    """Two variational autoencoders that share a latent space, trained one after the other.

    First the images' autoencoder learns to rebuild images and to tell contexts apart. Then it is
    frozen, and the expression's learns to rebuild expression from a latent that the frozen
    classifier reads as the same context and that a discriminator cannot tell from an image's.

    Parameters
    ----------
    adata
        MuData on which :meth:`setup_mudata` was called.
    preset
        ``"small"`` (two CPU cores) or ``"base"``: PETRI's encoders and decoders.
    n_latent
        Dimensions of the shared space, 128.
    weight_kl, weight_class, weight_adversary
        Weights of the KL, classifier and discriminator terms: 1e-3, 1 and 1.
    loss_weights
        Weight of each modality's reconstruction, as in :class:`PETRI`.
    crop, normalize
        As in :class:`PETRI`.
    seed
        Seed of weights, batches, noise and augmentation.
    **sizes
        Single sizes on top of the preset.

    Raises
    ------
    ValueError
        No setup, one modality only, an unknown preset or size.

    Notes
    -----
    The authors alternate steps of the discriminator and of the encoder; here one step serves both,
    with the gradient's sign turned between them. Networks are PETRI's, so that the comparison with
    it is one of objectives.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=8, seed=0)
    >>> cf.CrossModalAE.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    >>> model = cf.CrossModalAE(mdata, n_latent=8, seed=0)
    >>> model.train(max_epochs=1, cells_per_context=4, enable_progress_bar=False)
    >>> model.get_latent_representation(modality="rna").shape[1]
    8
    """

    def __init__(
        self,
        adata: MuData | None = None,
        *,
        preset: Literal["small", "base"] = "small",
        n_latent: int = 128,
        weight_kl: float = 1e-3,
        weight_class: float = 1.0,
        weight_adversary: float = 1.0,
        loss_weights: Mapping[str, float] | None = None,
        crop: int | None = None,
        normalize: Literal["dataset", "instance"] = "dataset",
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        self._begin(adata)
        check_seed(seed)
        if n_latent < 1:
            raise ValueError(f"n_latent must be at least 1, found {n_latent}.")
        self.preset, self.n_latent, self.seed = preset, n_latent, seed
        self.sizes = sizes_of(preset, sizes, model="CrossModalAE")
        specs = input_specs(
            self.inputs, crop=crop, normalize=normalize, patch_size=self.sizes.patch_size
        )
        with seeded(seed):
            self.module: CrossModalAutoencoder = CrossModalAutoencoder(
                specs,
                self.sizes,
                n_contexts=int(self._setup["n_contexts"]),
                n_latent=n_latent,
                weights=default_weights(self.inputs, loss_weights),
                weight_kl=weight_kl,
                weight_class=weight_class,
                weight_adversary=weight_adversary,
                seed=seed,
            )
        read = ", ".join(f"{role} {i.kind} {i.shape}" for role, i in self.inputs.items())
        self._model_summary_string = f"CrossModalAE ({preset}): {read}, latent {n_latent}"
        self.init_params_ = self._get_init_params(locals())

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
            Modalities with different cells.
        context_keys, image_rep, rna_rep, rna_layer, rna_likelihood, modalities
            As in :meth:`PETRI.setup_mudata`; both modalities are needed.

        Raises
        ------
        KeyError
            A modality, key or layer is missing.
        ValueError
            One modality only, no counts where counts are needed, NaN, contexts that do not match,
            colliding names.
        """
        roles = roles_of(modalities)
        if len(roles) != 2:
            raise ValueError(
                f"CrossModalAE joins two modalities; `modalities` names {list(roles)}."
            )
        if rna_likelihood not in ("nb", "mse"):
            raise ValueError(f"rna_likelihood={rna_likelihood!r}: expected 'nb' or 'mse'.")
        keys, inputs = read_inputs(
            cls.__name__,
            mdata,
            roles,
            context_keys=context_keys,
            reps={"image": image_rep, "rna": rna_rep},
            layers={"rna": rna_layer},
            counts=("rna",) if rna_likelihood == "nb" else (),
        )
        from cellfuse.data import Contexts

        contexts = Contexts.from_modalities(
            {role: mdata.mod[name] for role, name in roles.items()},
            keys[0] if len(keys) == 1 else keys,
        )
        setup = {
            "context_keys": keys,
            "inputs": [i.to_json() for i in inputs],
            "n_contexts": len(contexts),
        }
        cls._keep_setup(mdata, setup)

    def train(
        self,
        max_epochs: int = 100,
        *,
        batch_size: int = 128,
        cells_per_context: int = 30,
        lr: float | None = None,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
        augment: bool = True,
        num_workers: int = 0,
        accelerator: str = "auto",
        devices: Any = "auto",
        precision: str | None = None,
        callbacks: list[L.Callback] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the images' autoencoder, then the expression's.

        Parameters
        ----------
        max_epochs
            Epochs of each of the two stages.
        batch_size
            Cells of each modality per batch, over all devices.
        cells_per_context
            Cells of each context per epoch. Contexts that lack a modality are left out.
        lr, weight_decay, warmup, augment
            As in :meth:`PETRI.train`.
        num_workers, accelerator, devices, precision, callbacks, **trainer_kwargs
            As in :meth:`PETRI.train`. There is no `ckpt_path`: a checkpoint would hold one stage.

        Raises
        ------
        ValueError
            Data with another number of contexts than the model was set up with.
        """
        self._check_trainable(max_epochs, trainer_kwargs)
        if "ckpt_path" in trainer_kwargs:
            raise TypeError(
                "CrossModalAE.train() has no argument 'ckpt_path': a checkpoint would hold one of "
                "its two stages."
            )
        contexts = self._contexts(None, list(self.inputs))
        if len(contexts) != self._setup["n_contexts"]:
            raise ValueError(
                f"the data has {len(contexts)} contexts; the model tells "
                f"{self._setup['n_contexts']} apart. Set the data up and build a model of its own."
            )
        plans = plan_sets(
            contexts,
            list(self.inputs),
            set_size=1,
            batch_size=batch_size,
            documents_per_context=cells_per_context,
            missing="drop",
            seed=self.seed,
        )
        source = Source({role: self._reader(None, role) for role in self.inputs})
        if not self.is_trained_:
            found = self._statistics(source, plans.train_rows, seed=self.seed)
            for role, (mean, sd) in found.items():
                self.module.cell(role).set_statistics(mean, sd)
        histories = []
        for stage in range(2):
            self.module.train()
            self.module.set_stage(stage)
            histories.append(
                fit(
                    Training(
                        self.module,
                        lambda batch, training: self._losses(batch, training and augment),
                        lr=BATCHES[self.preset][1] if lr is None else lr,
                        weight_decay=weight_decay,
                        warmup=warmup,
                    ),
                    DocumentDataModule(plans.train, source, num_workers=num_workers),
                    max_epochs=max_epochs,
                    accelerator=accelerator,
                    devices=devices,
                    precision=precision,
                    callbacks=callbacks,
                    **trainer_kwargs,
                )
            )
        self.module.requires_grad_(True)
        self.history_ = _joined(histories)
        self.module.eval()
        self.is_trained_ = True

    def _losses(self, batch: Batch, augment: bool) -> dict[str, Tensor]:
        return self.module(batch.x, batch.key, batch.context, augment=augment)

    @torch.inference_mode()
    def get_latent_representation(  # type: ignore[override]
        self, data: Data | None = None, *, modality: str | None = None, batch_size: int = 256
    ) -> NDArray[np.float32]:
        """Mean of each cell's distribution in the shared space.

        Parameters
        ----------
        data
            The MuData of training (None), another MuData, or one modality's AnnData.
        modality
            Role: ``"image"`` or ``"rna"``.
        batch_size
            Cells encoded at a time.

        Returns
        -------
        ``(n_cells, n_latent)``.
        """
        self._check_trained()
        role = self._one_role(modality)
        self.module.eval()
        return self._encode(
            data,
            role,
            encode=lambda x: self.module.embed(role, x),
            width=self.n_latent,
            batch_size=batch_size,
        )


def _joined(histories: Sequence[dict[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """One history: the second stage's epochs are counted on from the first's."""
    joined: dict[str, list[pd.DataFrame]] = {}
    first = 0
    for history in histories:
        for name, frame in history.items():
            joined.setdefault(name, []).append(frame.set_axis(frame.index + first))
        first += max((len(frame) for frame in history.values()), default=0)
    return {name: pd.concat(frames).rename_axis("epoch") for name, frames in joined.items()}
