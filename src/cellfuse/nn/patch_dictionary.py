"""Textures of an image: how often which patches occur, by a dictionary learnt on other images."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["N_PATCHES", "PatchDictionary"]

#: Patches of a dictionary, each in all eight turns and mirrorings.
N_PATCHES = 24
#: Side of a patch in pixels, and by how much an image is shrunk before patches are looked for.
SIDE, SCALES = 6, (1, 2)
#: Patches that a dictionary is learnt on at most, of one image and of all; rounds of learning.
N_OF_IMAGE, N_SAMPLES, N_ROUNDS = 160, 40_000, 12
#: Share of their mean that is added to the variances of patches before these are whitened.
RIDGE = 0.1
#: Response from which on a patch is there; of whitened patches a standard deviation is about 1.
THRESHOLD = 1.5
#: Pixels between the places that are looked at, at least; larger images are looked at as often.
STRIDE, N_PLACES = 2, 32
#: Numbers held at once while images are read.
BLOCK = 2**24


class PatchDictionary(nn.Module):
    """How much there is of each patch of a dictionary, over all places and turns of it.

    Patches of 6 x 6 pixels of all channels, from the images and from these shrunk twofold, are
    whitened, and `n_patches` of unit length learnt that one each explains them best, in any of the
    eight turns and mirrorings of a square (spherical k-means). A number of an image is the root of
    the mean, over places and turns, of what the response to a patch is beyond 1.5 standard
    deviations. Kin: k-means features (Coates, Ng and Lee 2011, whose encoder this is), with orbits.

    Parameters
    ----------
    n_channels
        Channels of an image.
    side
        Shorter side of the images in pixels; shrunk ones of fewer than 8 are left out.
    n_patches
        Patches of each of the two dictionaries.
    """

    def __init__(self, n_channels: int, side: int, n_patches: int = N_PATCHES) -> None:
        super().__init__()
        self.scales = [scale for scale in SCALES if side // scale >= SIDE + STRIDE]
        self.dictionaries = nn.ModuleList(_Dictionary(n_channels, n_patches) for _ in self.scales)
        #: Length of what :meth:`forward` gives of an image.
        self.n_features = n_patches * len(self.scales)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Learn the dictionaries on images ``(N, C, H, W)``."""
        for scale, dictionary in zip(self.scales, self.dictionaries, strict=True):
            cast("_Dictionary", dictionary).fit(images, scale)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Numbers of images ``(N, C, H, W)``, ``(N, n_features)``."""
        with torch.autocast(images.device.type, enabled=False):
            found = [
                cast("_Dictionary", dictionary)(images, scale)
                for scale, dictionary in zip(self.scales, self.dictionaries, strict=True)
            ]
        return torch.cat(found, dim=1)


class _Dictionary(nn.Module):
    """Patches of one scale in all turns, as filters of images as they were read."""

    filters: Tensor
    offset: Tensor

    def __init__(self, n_channels: int, n_patches: int) -> None:
        super().__init__()
        self.n_patches = n_patches
        self.register_buffer("filters", torch.zeros(8 * n_patches, n_channels, SIDE, SIDE))
        self.register_buffer("offset", torch.zeros(8 * n_patches))

    def fit(self, images: Tensor, scale: int) -> None:
        generator = torch.Generator().manual_seed(0)
        patches = _some_patches(images, scale, generator)
        unit = patches.std(dim=(0, 2, 3), keepdim=True)
        # A channel of one value has nothing to be learnt of, and is left as dark as it is.
        unit = torch.where(unit > 0, unit, torch.inf)
        shape, n = patches.shape[1:], patches[0].numel()
        x = (patches / unit).reshape(len(patches), n)
        # Mean and covariance over all turns of the patches: images have no upper side.
        turn = _turns(torch.arange(n, device=x.device).reshape(1, *shape)).reshape(8, n)
        center = x.mean(dim=0)[turn].mean(dim=0)
        x = x - center
        square = (x.T @ x).double() / len(x)
        values, vectors = torch.linalg.eigh(square[turn[:, :, None], turn[:, None, :]].mean(dim=0))
        ridge = RIDGE * values.clamp_min(0).mean()
        length = torch.where(ridge > 0, (values.clamp_min(0) + ridge) ** -0.5, 0.0)
        whiten = ((vectors * length) @ vectors.T).float()
        atoms = torch.randn(self.n_patches, n, generator=generator).to(x.device)
        atoms = _learnt(x @ whiten, functional.normalize(atoms, dim=1).reshape(-1, *shape))
        filters = _turns(atoms).transpose(0, 1).reshape(8 * self.n_patches, n) @ whiten
        self.offset.copy_(-(filters @ center))
        self.filters.copy_(filters.reshape(-1, *shape) / unit)

    def forward(self, images: Tensor, scale: int) -> Tensor:
        short = min(images.shape[2:]) // scale
        stride = max(STRIDE, short // N_PLACES)
        n_at_once = max(1, BLOCK * stride**2 // (len(self.filters) * short**2))
        found = []
        for some in images.split(n_at_once):
            at = functional.conv2d(_shrunk(some, scale), self.filters, self.offset, stride=stride)
            there = (at.abs_() - THRESHOLD).clamp_min_(0).mean(dim=(2, 3))
            found.append(there.reshape(len(some), self.n_patches, 8).mean(dim=2).sqrt())
        return torch.cat(found) if found else images.new_zeros((0, self.n_patches)).float()


def _shrunk(images: Tensor, scale: int) -> Tensor:
    images = images.float()
    return images if scale == 1 else functional.avg_pool2d(images, scale)


def _some_patches(images: Tensor, scale: int, generator: torch.Generator) -> Tensor:
    """Patches from random places of random images, ``(n, C, side, side)``."""
    height, width = (size // scale * scale for size in images.shape[2:])
    wide, n_drawn = SIDE * scale, min(N_SAMPLES, N_OF_IMAGE * len(images))

    def drawn(n: int) -> Tensor:
        return torch.randint(n, (n_drawn, 1, 1), generator=generator).to(images.device)

    image, top, left = drawn(len(images)), drawn(height - wide + 1), drawn(width - wide + 1)
    across = torch.arange(wide, device=images.device)
    found = images[image, :, top + across[:, None], left + across]
    return _shrunk(found.permute(0, 3, 1, 2), scale)


def _turns(patches: Tensor) -> Tensor:
    """All eight turns and mirrorings of ``(n, C, side, side)``, ``(8, n, C, side, side)``."""
    turned = [patches.rot90(k, (2, 3)) for k in range(4)]
    return torch.stack([*turned, *(each.flip(3) for each in turned)])


def _back(turns: Tensor) -> Tensor:
    """The mean of ``(8, n, C, side, side)``, each turned back; :func:`_turns` undone."""
    turned = [turns[k].rot90(-k, (2, 3)) for k in range(4)]
    mirrored = [turns[4 + k].flip(3).rot90(-k, (2, 3)) for k in range(4)]
    return torch.stack([*turned, *mirrored]).mean(dim=0)


def _learnt(x: Tensor, atoms: Tensor) -> Tensor:
    """Spherical k-means of whitened patches ``(N, d)``, up to sign and turns.

    From `atoms` ``(n, C, side, side)`` on; one that explains no patch stays where it is.
    """
    n, shape = len(atoms), atoms.shape[1:]
    for _ in range(N_ROUNDS):
        response = x @ _turns(atoms).reshape(8 * n, -1).T
        best = response.abs().argmax(dim=1)
        amount = response.gather(1, best[:, None])
        total = torch.zeros(8 * n, x.shape[1], device=x.device).index_add_(0, best, x * amount)
        total = _back(total.reshape(8, n, *shape)).flatten(1)
        found = functional.normalize(total + 1e-6 * atoms.flatten(1), dim=1)
        atoms = found.reshape(n, *shape)
    return atoms
