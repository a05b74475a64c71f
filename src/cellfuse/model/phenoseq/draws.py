"""What a trained PhenoSeq gives: RNA embeddings drawn for images, and the images' own tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from cellfuse._access import Data, is_mudata
from cellfuse._errors import listing
from cellfuse.data import Contexts
from cellfuse.model.base.checks import check_seed, check_whole
from cellfuse.model.phenoseq.contexts import (
    chosen_contexts,
    mean_batches,
    profile_obs,
    set_batches,
)
from cellfuse.model.phenoseq.setup import PhenoSeqSetup
from cellfuse.nn.denoiser import DenoiserSizes
from cellfuse.nn.diffusion import DDIM
from cellfuse.nn.phenoseq import PhenoSeqNetwork

__all__ = ["PhenoSeqInference"]

logger = logging.getLogger("cellfuse")


class PhenoSeqInference(PhenoSeqSetup):
    """Inference of :class:`cellfuse.PhenoSeq`; a file of its own, as training needs none of it."""

    module: PhenoSeqNetwork
    sizes: DenoiserSizes
    embeds = ("image",)

    @property
    def learnt_weight(self) -> float:
        """How much of what the diffusion adds to ridge's mean is kept: 0, .25, .5 or 1.

        Chosen at the end of training by contexts that were held out (five at least, else 1): 0
        where no more is beyond its error. The spread of draws about their mean is kept whole. With
        ``begin="random"``, 1.
        """
        return float(self.module.learnt_weight)

    # -- what a trained model gives ---------------------------------------------------------------

    @torch.inference_mode()
    def sample(
        self,
        mdata: Data | None = None,
        *,
        n_steps: int = 50,
        n_samples: int = 1,
        conditioning: Literal["mean", "set"] = "mean",
        eta: float = 0.0,
        guidance: float = 1.0,
        antithetic: bool = True,
        by: str | Sequence[str] | None = None,
        contexts: Sequence[str] | None = None,
        batch_size: int = 256,
        seed: int = 0,
    ) -> AnnData:
        """Draw synthetic RNA embeddings for image samples.

        Parameters
        ----------
        mdata
            The MuData of training (None), another MuData, or an AnnData of images; of the
            modalities only the images are read, and treatments may be new.
        n_steps
            Steps of DDIM, 50 (paper), from 1 to the steps of the diffusion. Fewer than about ten
            are rough: the first of n begins at step T - T / n, on pure noise.
        n_samples
            Draws for each context.
        conditioning
            ``"mean"``: the mean of all image cells of the context is its one token (paper).
            ``"set"``: all its cells are encoded as a set, as in training.
        eta
            Share of fresh noise in each step: 0 is DDIM (paper), 1 is DDPM.
        guidance
            Weight of the context against no context; 1 is the model as it is (paper). Other
            values need a model with `context_dropout`, and twice the time.
        antithetic
            Every second draw has the noise of the one before it, with its sign turned. Each draw
            by itself is the same as ever; in a mean of draws nearly all of the noise cancels (two
            such draws were as good as several hundred independent ones, see the user guide).
            False: all draws are independent.
        by
            obs column or columns whose joint value makes a row; the context keys by default.
            A model of treatments can be asked for every well.
        contexts
            Names of the contexts to draw for; all that have images by default.
        batch_size
            Contexts drawn at a time. It changes nothing but memory.
        seed
            Seed of the noise.

        Returns
        -------
        AnnData with one row per context, or per context and draw. ``X``: embeddings on the
        original scale, float32. ``obs``: the context keys, every other column of the images that
        is constant within all contexts, ``n_cells`` (images), ``draw`` and, of several antithetic
        draws, ``noise_pair``. ``uns["phenoseq"]``: the arguments. The data are not changed.

        Raises
        ------
        KeyError
            A key is missing, or a named context has no images.
        ValueError
            NaN, embeddings of another width than trained, `n_steps` out of range.

        Notes
        -----
        The noise of a draw is the same for every context. A profile is thus a function of its
        images, the seed and the number of its draw, as in the paper, whatever stands beside it;
        and contexts are compared under like noise, with no trace of their name or place in it.
        Draws 0 and 1, 2 and 3, ... of a context are a pair of opposite noise, and the pairs are
        independent of each other; give an even `n_samples` for a mean, or ``antithetic=False``
        for draws that are all independent.
        """
        self._check_trained()
        sampler = DDIM(self.module.diffusion, eta=eta)
        sampler.set_timesteps(n_steps)
        self._check_draws(n_samples, conditioning, guidance, batch_size)
        check_seed(seed)
        reader = self._reader(mdata, "image")
        adata = self._modality(mdata, "image")
        if by is None:
            found = self._contexts(mdata, ["image"])
        else:
            found = Contexts.from_modalities({"image": adata}, by)
        chosen = chosen_contexts(found, contexts)
        if contexts is None and by is None:
            self._tell_absent(mdata, found)
        self.module.eval()
        batches = mean_batches if conditioning == "mean" else set_batches
        values = np.empty((len(found), n_samples, self.inputs["rna"].shape[0]), np.float32)
        size = max(1, batch_size // n_samples)
        for part, cells, mask in batches(reader, found, chosen, size):
            drawn = self.module.generate(
                cells.to(self.device),
                None if mask is None else mask.to(self.device),
                sampler=sampler,
                n_samples=n_samples,
                seed=seed,
                guidance=guidance,
                antithetic=antithetic,
            )
            values[part] = drawn.float().cpu().numpy()
        out = AnnData(
            values[chosen].reshape(len(chosen) * n_samples, -1),
            obs=profile_obs(adata.obs, found, chosen, n_samples, antithetic=antithetic),
        )
        if self.inputs["rna"].names:
            out.var_names = list(self.inputs["rna"].names)
        out.uns["phenoseq"] = {
            "n_steps": n_steps,
            "n_samples": n_samples,
            "conditioning": conditioning,
            "eta": eta,
            "guidance": guidance,
            "antithetic": antithetic,
            "seed": seed,
        }
        return out

    def _check_draws(
        self, n_samples: int, conditioning: str, guidance: float, batch_size: int
    ) -> None:
        if conditioning not in ("mean", "set"):
            raise ValueError(f"conditioning={conditioning!r}: expected 'mean' or 'set'.")
        for name, value in (("n_samples", n_samples), ("batch_size", batch_size)):
            check_whole(name, value)
        if not np.isfinite(guidance):
            raise ValueError(f"guidance must be finite, found {guidance}.")
        if guidance != 1 and not self.module.context_dropout:
            raise ValueError(
                f"guidance={guidance} needs a model that has seen documents without context: "
                "train one with `cf.PhenoSeq(mdata, context_dropout=0.1)`."
            )

    def _tell_absent(self, data: Data | None, found: Contexts) -> None:
        """Contexts of the RNA without images get no row: say so."""
        whole = self.adata if data is None else data
        name = self.inputs["rna"].modality
        if whole is None or not is_mudata(whole) or name not in whole.mod:
            return
        adata, keys = whole.mod[name], list(found.table.columns)
        if not all(key in adata.obs for key in keys):
            return
        # The RNA is not read: cells of it without a label are no reason to draw nothing.
        labelled = adata.obs[keys].notna().all(axis=1).to_numpy()
        if not labelled.any():
            return
        rna = Contexts.from_modalities({"rna": adata[labelled]}, keys).names
        absent = rna[~rna.isin(found.names)]
        if len(absent):
            logger.warning(
                "%d contexts of the RNA have no images, and get no synthetic profile: %s.",
                len(absent),
                listing(absent, 5),
            )

    def _embed(self, role: str, x: Tensor) -> Tensor:
        """Context token of every image cell, encoded as a set of its own."""
        return self.module.context(x[:, None])[:, 0]
