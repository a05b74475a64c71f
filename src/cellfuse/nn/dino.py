"""Self-distillation without labels (DINO): a student follows the mean of its own past."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.vit import ImageEncoder

__all__ = [
    "Dino",
    "DinoHead",
    "cosine_schedule",
    "dino_loss",
    "follow",
    "next_center",
    "teacher_target",
    "warm_up",
]


# -- schedules ------------------------------------------------------------------------------------


def cosine_schedule(step: int, n_steps: int, *, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step ``n_steps - 1``, and `end` after it.

    DINO's teacher momentum goes from .996 to 1, its weight decay from .04 to .4.

    Examples
    --------
    >>> from cellfuse.nn import cosine_schedule
    >>> [round(cosine_schedule(s, 3, start=0.996, end=1.0), 4) for s in (0, 1, 2)]
    [0.996, 0.998, 1.0]
    """
    share = min(step / max(n_steps - 1, 1), 1.0)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))


def warm_up(step: int, n_steps: int, *, start: float, end: float) -> float:
    """Straight line from `start` at step 0 to `end` at `n_steps`, and `end` after it.

    DINO's teacher temperature goes from .04 to .07 over its first 30 epochs.
    """
    return end if step >= n_steps else start + (end - start) * step / n_steps


# -- loss -----------------------------------------------------------------------------------------


@torch.no_grad()
def teacher_target(logits: Tensor, center: Tensor, *, temperature: float = 0.07) -> Tensor:
    """What the teacher answers: a centred and sharpened distribution, ``(..., K)``.

    The centre keeps one output from winning always, the low temperature keeps all from being
    alike: together they keep the outputs from collapsing.
    """
    return ((logits.float() - center) / temperature).softmax(dim=-1)


def dino_loss(student: Tensor, target: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of the student's view under the teacher's other view.

    The mean over images and over all pairs of a teacher's view and a student's view that is not
    the same one.

    Parameters
    ----------
    student
        Logits ``(V, N, K)``; the first views are those the teacher has seen.
    target
        The teacher's answers ``(G, N, K)``, ``G <= V`` (see :func:`teacher_target`).
    temperature
        Of the student, DINO's .1.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import dino_loss, teacher_target
    >>> flat = torch.zeros(2, 1, 8)
    >>> round(float(dino_loss(flat, teacher_target(flat, torch.zeros(8)))), 4)  # log 8
    2.0794
    """
    n_views, n_global = len(student), len(target)
    everyone = target.sum(dim=0)
    total = student.new_zeros((), dtype=torch.float32)
    # View by view: a view's logits stay in the cache. Cross-entropy is linear in its target, so
    # the sum of the targets stands for all pairs.
    for view, logits in enumerate(student):
        other = everyone - target[view] if view < n_global else everyone
        total = total + F.cross_entropy(logits.float() / temperature, other, reduction="sum")
    n_pairs = n_global * n_views - n_global
    return total / (n_pairs * student.shape[1])


@torch.no_grad()
def next_center(center: Tensor, teacher: Tensor, *, momentum: float = 0.9) -> Tensor:
    """Move the centre towards the mean of the teacher's logits ``(..., K)``, over all devices."""
    mean = teacher.flatten(0, -2).float().mean(dim=0)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean /= torch.distributed.get_world_size()
    return center * momentum + mean * (1 - momentum)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, *, momentum: float) -> None:
    """Move the teacher's weights towards the student's: ``t <- m t + (1 - m) s``."""
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.lerp_(theirs, 1 - momentum)


# -- network --------------------------------------------------------------------------------------


class DinoHead(nn.Module):
    """MLP to a narrow unit vector, compared with unit prototypes: logits are cosines.

    Parameters
    ----------
    width
        Of the embedding.
    n_prototypes
        Outputs; DINO's 65,536 is for a million images.
    hidden, bottleneck
        DINO's 2,048 (three layers) and 256.
    """

    def __init__(
        self, width: int, *, n_prototypes: int = 65_536, hidden: int = 2048, bottleneck: int = 256
    ) -> None:
        super().__init__()
        if min(n_prototypes, hidden, bottleneck) < 1:
            raise ValueError(
                f"n_prototypes={n_prototypes}, hidden={hidden}, bottleneck={bottleneck}: expected "
                "whole numbers from 1."
            )
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.randn(n_prototypes, bottleneck))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(..., n_prototypes)``."""
        return F.linear(F.normalize(self.mlp(x), dim=-1), F.normalize(self.prototypes, dim=-1))


class Dino(nn.Module):
    """A student with a head, and a teacher that follows both.

    Parameters
    ----------
    encoder
        The student's encoder; the teacher starts as a copy.
    n_prototypes, hidden, bottleneck
        See :class:`DinoHead`.
    student_temperature
        DINO's .1.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        n_prototypes: int = 65_536,
        hidden: int = 2048,
        bottleneck: int = 256,
        student_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = DinoHead(
            encoder.width, n_prototypes=n_prototypes, hidden=hidden, bottleneck=bottleneck
        )
        self.teacher = nn.ModuleList([copy.deepcopy(self.encoder), copy.deepcopy(self.head)])
        self.teacher.requires_grad_(False)  # no gradient is ever held for it
        self.student_temperature = student_temperature
        self.center: Tensor
        self.register_buffer("center", torch.zeros(n_prototypes))

    def forward(
        self,
        wide: Tensor,
        narrow: Tensor,
        *,
        teacher_temperature: float = 0.07,
        channels: Sequence[str] | None = None,
        kept: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch; in training the centre moves on.

        Views of one size go through the encoder together. The teacher sees the global views only.

        Parameters
        ----------
        wide, narrow
            Global and local views, ``(V, N, C, S, S)`` (see :func:`multi_crop`).
        teacher_temperature
            Of this step (see :func:`warm_up`).
        channels
            Names of the channels; None: those of the training.
        kept
            Channels that the student sees of each image, ``(N, m)`` (see
            :func:`sample_channels`); the teacher sees all.

        Returns
        -------
        ``loss``, and ``teacher_entropy``, the entropy of the teacher's mean output over that of a
        flat one: near 0 where all images get one output.
        """
        seen = [self._embed(views, channels, kept) for views in (wide, narrow) if len(views)]
        student = self.head(torch.cat(seen)).unflatten(0, (-1, wide.shape[1]))
        with torch.no_grad():
            _, head = self.teacher
            teacher = head(self.embed(wide.flatten(0, 1), channels=channels))
            teacher = teacher.unflatten(0, wide.shape[:2])
            target = teacher_target(teacher, self.center, temperature=teacher_temperature)
            mean = target.mean(dim=(0, 1))
            entropy = torch.special.entr(mean).sum() / math.log(len(mean))
        loss = dino_loss(student, target, temperature=self.student_temperature)
        if self.training:
            self.center.copy_(next_center(self.center, teacher))
        return {"loss": loss, "teacher_entropy": entropy}

    def follow(self, momentum: float) -> None:
        """Let the teacher follow; call it after every step of the optimiser."""
        follow(self.teacher, nn.ModuleList([self.encoder, self.head]), momentum=momentum)

    def hold_last_layer(self) -> None:
        """Keep the prototypes where they are; call it before each step of the first epoch.

        Without a gradient an optimiser skips the weights, weight decay included.
        """
        self.head.prototypes.grad = None

    def embed(self, images: Tensor, *, channels: Sequence[str] | None = None) -> Tensor:
        """Embedding of images by the teacher, the better of the two, ``(N, width)``."""
        encoder = self.teacher[0]
        assert isinstance(encoder, ImageEncoder)
        return encoder.embed(images, channels=channels)

    def _embed(self, views: Tensor, channels: Sequence[str] | None, kept: Tensor | None) -> Tensor:
        flat = views.flatten(0, 1)
        if kept is None:
            return self.encoder.embed(flat, channels=channels)
        picked, which = self.encoder.pick(flat, kept.repeat(len(views), 1), channels)
        return self.encoder.embed(picked, channels=which)
