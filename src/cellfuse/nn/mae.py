"""Masked autoencoder of an image: hidden patches are told from the seen ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cellfuse.nn.blocks import Block, init_weights
from cellfuse.nn.masking import random_mask
from cellfuse.nn.tokens import sincos_positions
from cellfuse.nn.vit import ImageEncoder

__all__ = ["ImageMAE", "normalize_patches"]


def normalize_patches(patches: Tensor) -> Tensor:
    """Each patch with mean 0 and unbiased variance 1 (1e-6 is added to the variance)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * (variance + 1e-6).rsqrt()


class ImageMAE(nn.Module):
    """Encoder on the patches that are seen, a shallow decoder on all, loss on the hidden ones.

    Parameters
    ----------
    encoder
        A ViT; hidden patches are never embedded.
    decoder_width, decoder_depth, decoder_heads
        Sizes of the decoder; 512, 8, 16 in MAE.
    mask_ratio
        Share of patches hidden; .75 in MAE.
    normalize_targets
        Normalise the target of each patch. Off by default: intensity is a phenotype.
    seed
        Seed of the masks.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import ImageMAE, PlainViT, ViTSizes
    >>> vit = PlainViT(["DNA", "ER"], ViTSizes(width=16, depth=1, n_heads=2))
    >>> mae = ImageMAE(vit, decoder_width=16, decoder_depth=1, decoder_heads=2)
    >>> losses = mae(torch.zeros(2, 2, 64, 64), torch.arange(2))
    >>> sorted(losses)
    ['loss']
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mask_ratio: float = 0.75,
        normalize_targets: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio={mask_ratio}: expected a share between 0 and 1.")
        if min(decoder_width, decoder_depth, decoder_heads) < 1:
            raise ValueError(
                f"decoder_width={decoder_width}, decoder_depth={decoder_depth}, "
                f"decoder_heads={decoder_heads}: expected whole numbers from 1."
            )
        self.encoder = encoder
        self.mask_ratio, self.normalize_targets = mask_ratio, normalize_targets
        self.seed = seed
        self.embed_tokens = nn.Linear(encoder.width, decoder_width)
        self.mask_token = nn.Parameter(torch.randn(decoder_width) * 0.02)
        self.blocks = nn.ModuleList(
            [Block(decoder_width, decoder_heads) for _ in range(decoder_depth)]
        )
        self.norm = nn.LayerNorm(decoder_width)
        self.out = nn.Linear(decoder_width, encoder.token_dim)
        for module in (self.embed_tokens, self.blocks, self.out):
            module.apply(init_weights)
        self.channel: nn.Parameter | None = None
        if encoder.per_channel:
            self.channel = nn.Parameter(torch.randn(len(encoder.channels), decoder_width) * 0.02)

    def forward(
        self, images: Tensor, key: Tensor, *, channels: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Loss of a batch of images.

        Parameters
        ----------
        images
            ``(N, C, H, W)`` float, standardised per channel.
        key
            Number of each image, ``(N,)``: its mask does not hang on its batch.
        channels
            Names of the channels; None: those of the training.
        """
        images = self.encoder.order(images, channels)
        target = self.encoder.patches(images)  # (N, T, D)
        keep, mask = random_mask(
            key, 1, target.shape[1], ratio=self.mask_ratio, seed=self.seed, purpose="image patches"
        )
        hidden = mask.nonzero()[:, 1].view(len(mask), -1)  # (N, T - K), ascending
        prediction = self.reconstruct(images, keep, hidden, channels=channels)
        target = target.gather(1, hidden[..., None].expand(-1, -1, target.shape[-1]))
        if self.normalize_targets:
            target = normalize_patches(target)
        return {"loss": (prediction.float() - target.float()).square().mean()}

    def reconstruct(
        self,
        images: Tensor,
        keep: Tensor,
        hidden: Tensor,
        *,
        channels: Sequence[str] | None = None,
    ) -> Tensor:
        """Predict the patches `hidden` (N, M) from those that are kept (N, K).

        `images` are in the encoder's order (see :meth:`ImageEncoder.order`). Returns
        ``(N, M, token_dim)``.
        """
        names = channels if self.channel is not None else None
        encoded = self.embed_tokens(self.encoder(images, channels=names, keep=keep))
        positions = self._positions(images, names).to(encoded.dtype)  # (T, width)
        asked = (self.mask_token.to(encoded.dtype) + positions)[hidden]
        seen = encoded[:, 1:] + positions[keep]
        x = torch.cat([encoded[:, :1], seen, asked], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x[:, -hidden.shape[1] :]))

    def embed(self, images: Tensor, *, channels: Sequence[str] | None = None) -> Tensor:
        """Embedding of images with nothing hidden: mean of the patch tokens, ``(N, width)``.

        The class token takes no part in any loss.
        """
        return self.encoder(images, channels=channels)[:, 1:].mean(dim=1)

    def _positions(self, images: Tensor, channels: Sequence[str] | None) -> Tensor:
        grid = tuple(side // self.encoder.patch_size for side in images.shape[-2:])
        places = sincos_positions(grid, self.mask_token.shape[0]).to(images.device)
        if self.channel is None:
            return places
        names = self.encoder.channels if channels is None else [str(c) for c in channels]
        which = self.channel[[self.encoder.channels.index(name) for name in names]]
        return (which[:, None] + places).flatten(0, 1)
