"""Vision transformers of microscopy images: one for a fixed set of channels, one for any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse._errors import listing, missing_key
from cellfuse.nn.keyed import uniform
from cellfuse.nn.tokens import patchify, sincos_positions

__all__ = [
    "VIT_PRESETS",
    "ChannelViT",
    "ImageEncoder",
    "PlainViT",
    "ViTSizes",
    "make_vit",
    "sample_channels",
]


@dataclass(frozen=True)
class ViTSizes:
    """Sizes of a vision transformer; the defaults are ViT-Small with patches of 8 pixels.

    Parameters
    ----------
    width, depth, n_heads
        Of the transformer. ViT-Base (TIDE on CPG-12) is 768, 12, 12.
    patch_size
        Side of a patch in pixels.
    image_size
        Side at which the learned positions are kept; other sizes interpolate them.
    mlp_ratio
        Width of the feed-forward layers, relative to `width`.
    """

    width: int = 384
    depth: int = 12
    n_heads: int = 6
    patch_size: int = 8
    image_size: int = 64
    mlp_ratio: float = 4.0


VIT_PRESETS = {"small": ViTSizes(width=96, depth=4, n_heads=3), "base": ViTSizes()}


def sample_channels(
    key: Tensor, n_channels: int, *, step: int, seed: int, purpose: str = "channels"
) -> Tensor:
    """Which channels each image keeps (channel dropout).

    Their number, from 1 to all, is drawn once for the step, so that the tokens of a batch make one
    array; which ones is drawn for each image.

    Parameters
    ----------
    key
        Number of each image, ``(N,)``.
    n_channels
        Channels there are.
    step
        Number of the training step.

    Returns
    -------
    Positions of the kept channels, ascending, ``(N, m)``.
    """
    at = torch.tensor([step], device=key.device)
    share = uniform(at, (1,), seed=seed, purpose=f"{purpose}: how many")
    n_kept = 1 + min(int(share.item() * n_channels), n_channels - 1)
    noise = uniform(key, (n_channels,), seed=seed, purpose=purpose)
    return noise.topk(n_kept, dim=1, largest=False).indices.sort(dim=1).values


class ImageEncoder(nn.Module):
    """A vision transformer whose tokens may be left out before anything is computed of them.

    Layers, class token and positions are those of timm's ``VisionTransformer``, held as `vit`, so
    that its checkpoints fit.

    Parameters
    ----------
    channels
        Names of the channels the network is trained on.
    sizes
        See :class:`ViTSizes`.
    in_chans
        Channels of one patch.
    """

    #: Whether a token is a place in one channel, or in all.
    per_channel = False

    def __init__(self, channels: Sequence[str], sizes: ViTSizes, in_chans: int) -> None:
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.channels = [str(name) for name in channels]
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise ValueError(f"expected distinct channel names, found {listing(self.channels)}.")
        if sizes.width % sizes.n_heads:
            raise ValueError(
                f"width={sizes.width} is no multiple of n_heads={sizes.n_heads}; change one."
            )
        self.width, self.patch_size = sizes.width, sizes.patch_size
        self.grid = (sizes.image_size // sizes.patch_size,) * 2
        vit: Any = VisionTransformer(
            img_size=sizes.image_size,
            patch_size=sizes.patch_size,
            in_chans=in_chans,
            num_classes=0,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.n_heads,
            mlp_ratio=sizes.mlp_ratio,
        )
        # Neighbours are near from the start; the positions are learned from there.
        with torch.no_grad():
            vit.pos_embed[:, 1:].copy_(sincos_positions(self.grid, sizes.width))
        self.vit = vit

    @property
    def token_dim(self) -> int:
        """Pixels of a token."""
        return self.vit.patch_embed.proj.weight[0].numel()

    def patches(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` as tokens of pixels, ``(N, T, token_dim)``."""
        self._check_size(images)
        return patchify(images, self.patch_size)

    def positions(self, images: Tensor, channels: Sequence[str] | Tensor | None) -> Tensor:
        """What tells the tokens apart before their pixels do, ``(1 or N, T, width)``."""
        return self._grid_positions(images)

    def order(self, images: Tensor, channels: Sequence[str] | None) -> Tensor:
        """Check images against the names of their channels; put these in the network's order."""
        raise NotImplementedError

    def pick(
        self, images: Tensor, kept: Tensor, channels: Sequence[str] | None
    ) -> tuple[Tensor, Tensor]:
        """Take channels `kept` (N, m) out of the images; also their positions in `channels`."""
        raise ValueError(
            "this ViT needs all of its channels; channel dropout is for a channel-agnostic ViT."
        )

    def forward(
        self,
        images: Tensor,
        *,
        channels: Sequence[str] | Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Encode images.

        Parameters
        ----------
        images
            ``(N, C, H, W)`` float, sides multiples of the patch size (any size).
        channels
            Names of the channels of `images`; None: those of the training. A
            :class:`ChannelViT` also takes each image's own, as positions ``(N, C)`` (see `pick`).
        keep
            Tokens that are seen, ``(N, K)``; all for None.

        Returns
        -------
        Class token, then the tokens that were kept, ``(N, 1 + K, width)``.
        """
        if not isinstance(channels, Tensor):
            images = self.order(images, channels)
        tokens, positions = self.patches(images), self.positions(images, channels)
        if keep is not None:
            tokens = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
            positions = positions.expand(len(keep), -1, -1)
            positions = positions.gather(1, keep[..., None].expand(-1, -1, self.width))
        project = self.vit.patch_embed.proj  # a convolution with stride = kernel: a matrix product
        x = F.linear(tokens, project.weight.flatten(1), project.bias) + positions
        first = (self.vit.cls_token + self.vit.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first.to(x.dtype), x], dim=1)
        for block in self.vit.blocks:
            x = block(x)
        return self.vit.norm(x)

    def embed(self, images: Tensor, *, channels: Sequence[str] | Tensor | None = None) -> Tensor:
        """Class token of each image, ``(N, width)``."""
        return self(images, channels=channels)[:, 0]

    def _grid_positions(self, images: Tensor) -> Tensor:
        from timm.layers import resample_abs_pos_embed

        size = [side // self.patch_size for side in images.shape[-2:]]
        return resample_abs_pos_embed(
            self.vit.pos_embed[:, 1:], size, list(self.grid), num_prefix_tokens=0
        )

    def _check_size(self, images: Tensor) -> None:
        if any(side % self.patch_size or not side for side in images.shape[-2:]):
            raise ValueError(
                f"images of {tuple(images.shape[-2:])} pixels cannot be cut into patches of "
                f"{self.patch_size}; crop them to a multiple, or choose another `patch_size`."
            )


class PlainViT(ImageEncoder):
    """One token per place: the patches of all channels together."""

    def __init__(self, channels: Sequence[str], sizes: ViTSizes) -> None:
        super().__init__(channels, sizes, len(channels))

    def order(self, images: Tensor, channels: Sequence[str] | None) -> Tensor:
        """Put channels into the order of the training."""
        names = self.channels if channels is None else [str(name) for name in channels]
        _check_count(images, names)
        if sorted(names) != sorted(self.channels):
            raise ValueError(
                f"this ViT was trained on the channels {listing(self.channels)} and needs just "
                f"these; found {listing(names)}. A channel-agnostic ViT takes any of them."
            )
        if names == self.channels:
            return images
        return images[:, [names.index(name) for name in self.channels]]


class ChannelViT(ImageEncoder):
    """One token per place and channel: any number of channels, known by their names.

    The patch embedding and the positions are shared over channels; a learned embedding tells the
    channels apart (channel-agnostic ViT; TIDE).

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import ChannelViT, ViTSizes
    >>> vit = ChannelViT(["DNA", "ER", "RNA"], ViTSizes(width=12, depth=1, n_heads=2))
    >>> tuple(vit(torch.zeros(2, 3, 16, 16)).shape)  # 1 + 3 x 4 tokens
    (2, 13, 12)
    >>> tuple(vit(torch.zeros(2, 1, 16, 16), channels=["ER"]).shape)
    (2, 5, 12)
    """

    per_channel = True

    def __init__(self, channels: Sequence[str], sizes: ViTSizes) -> None:
        super().__init__(channels, sizes, 1)
        self.channel = nn.Parameter(torch.randn(len(self.channels), sizes.width) * 0.02)

    def order(self, images: Tensor, channels: Sequence[str] | None) -> Tensor:
        """Check the names; tokens have no order."""
        names = self.channels if channels is None else [str(name) for name in channels]
        _check_count(images, names)
        self._positions_of(names)
        return images

    def patches(self, images: Tensor) -> Tensor:
        """Tokens channel by channel, ``(N, C * places, patch_size ** 2)``."""
        self._check_size(images)
        n, c, h, w = images.shape
        return patchify(images.reshape(n * c, 1, h, w), self.patch_size).view(
            n, -1, self.patch_size**2
        )

    def positions(self, images: Tensor, channels: Sequence[str] | Tensor | None) -> Tensor:
        """Place plus channel, ``(1 or N, C * places, width)``."""
        if isinstance(channels, Tensor):
            which = channels
        else:
            names = self.channels if channels is None else [str(name) for name in channels]
            which = torch.tensor([self._positions_of(names)], device=images.device)
        of_channel = F.embedding(which, self.channel)  # (1 or N, C, width)
        return (of_channel[:, :, None] + self._grid_positions(images)[:, None]).flatten(1, 2)

    def pick(
        self, images: Tensor, kept: Tensor, channels: Sequence[str] | None
    ) -> tuple[Tensor, Tensor]:
        """Take channels `kept` (N, m) out of the images; also their positions in `channels`."""
        names = self.channels if channels is None else [str(name) for name in channels]
        _check_count(images, names)
        picked = images.gather(1, kept[:, :, None, None].expand(-1, -1, *images.shape[2:]))
        return picked, torch.tensor(self._positions_of(names), device=kept.device)[kept]

    def _positions_of(self, names: Sequence[str]) -> list[int]:
        if not len(names) or len(set(names)) < len(names):
            raise ValueError(f"expected distinct channel names, found {listing(names)}.")
        for name in names:
            if name not in self.channels:
                raise missing_key(
                    name,
                    self.channels,
                    what="the channels this network has seen",
                    fix="Leave the channel out, or train with it.",
                )
        return [self.channels.index(name) for name in names]


def _check_count(images: Tensor, names: Sequence[str]) -> None:
    if images.shape[1] != len(names):
        raise ValueError(
            f"the images have {images.shape[1]} channels, but {len(names)} are named "
            f"({listing(names)}); name the channels of the images with `channels`."
        )


def make_vit(
    channels: Sequence[str], sizes: ViTSizes, *, channel_agnostic: bool = False
) -> ImageEncoder:
    """Make a ViT of either kind."""
    return (ChannelViT if channel_agnostic else PlainViT)(channels, sizes)
