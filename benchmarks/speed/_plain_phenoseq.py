"""A plain implementation of PhenoSeq's algorithm, to measure and to test against.

The paper's network from torch's own modules, in which nothing is folded: the context is encoded
anew at every step, and attention is attention even where it is to a single token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.phenoseq import PhenoSeqNetwork


class PlainBlock(nn.Module):
    def __init__(self, width: int, n_heads: int, time_width: int, ratio: int, dropout: float):
        super().__init__()
        self.modulations = nn.ModuleList(
            [nn.Sequential(nn.Mish(), nn.Linear(time_width, 2 * width)) for _ in range(3)]
        )
        self.norm_context = nn.LayerNorm(width)
        self.cross = nn.MultiheadAttention(width, n_heads, dropout=dropout, batch_first=True)
        self.own = nn.MultiheadAttention(width, n_heads, dropout=dropout, batch_first=True)
        self.norm_ff = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * ratio * width)
        self.narrow = nn.Linear(ratio * width, width)
        self.dropout = nn.Dropout(dropout)

    def normed(self, k: int, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulations[k](time)[:, None].chunk(2, dim=-1)
        return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift

    def forward(self, x: Tensor, context: Tensor, time: Tensor) -> Tensor:
        memory = self.norm_context(context)
        x = x + self.cross(self.normed(0, x, time), memory, memory, need_weights=False)[0]
        y = self.normed(1, x, time)
        x = x + self.own(y, y, y, need_weights=False)[0]
        value, gate = self.widen(self.norm_ff(self.normed(2, x, time))).chunk(2, dim=-1)
        return x + self.dropout(self.narrow(self.dropout(value * F.gelu(gate))))


class PlainDenoiser(nn.Module):
    def __init__(
        self,
        image_width: int = 5120,
        rna_width: int = 512,
        *,
        width: int = 1024,
        n_heads: int = 8,
        depth: int = 6,
        encoder_heads: int = 4,
        encoder_depth: int = 2,
        time_width: int = 256,
        ff_ratio: int = 4,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.time_width = time_width
        self.time = nn.Sequential(
            nn.Linear(time_width, 4 * time_width), nn.Mish(), nn.Linear(4 * time_width, time_width)
        )
        self.project_image = nn.Sequential(
            nn.Linear(image_width, width), nn.Mish(), nn.LayerNorm(width), nn.Dropout(dropout)
        )
        self.encoder = nn.ModuleList(
            [
                nn.TransformerEncoderLayer(
                    width,
                    encoder_heads,
                    ff_ratio * width,
                    dropout,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(encoder_depth)
            ]
        )
        self.project_rna = nn.Sequential(
            nn.Linear(rna_width, width), nn.Mish(), nn.LayerNorm(width)
        )
        self.blocks = nn.ModuleList(
            [PlainBlock(width, n_heads, time_width, ff_ratio, dropout) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Mish(), nn.Linear(width, rna_width))

    def forward(self, x: Tensor, images: Tensor, t: Tensor) -> Tensor:
        """`x` (B, rna), `images` (B, N, image), `t` (B,)."""
        half = self.time_width // 2
        frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / half)
        angle = t[:, None].float() * frequency
        time = self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))
        context = self.project_image(images)
        for layer in self.encoder:
            context = layer(context)
        token = self.project_rna(x)[:, None]
        for block in self.blocks:
            token = block(token, context, time)
        return self.out(self.norm(token[:, 0]))


def alpha_bar(n_steps: int = 1000) -> Tensor:
    """Cosine schedule from its definition, with the usual limits on beta."""
    f = [math.cos((t / n_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(n_steps + 1)]
    left, out = 1.0, []
    for t in range(n_steps):
        left *= 1 - min(max(1 - f[t + 1] / f[t], 1e-5), 0.999)
        out.append(left)
    return torch.tensor(out, dtype=torch.float64)


def plain_loss(
    model: PlainDenoiser, x0: Tensor, images: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Algorithm 1, lines 7 to 9: the noise is predicted from what it was added to."""
    ab = alpha_bar().to(x0.device)[t][:, None]
    x_t = ab.sqrt().float() * x0 + (1 - ab).sqrt().float() * noise
    return F.mse_loss(model(x_t, images, t), noise)


@torch.inference_mode()
def plain_sample(model: PlainDenoiser, images: Tensor, x: Tensor, n_steps: int = 50) -> Tensor:
    """DDIM, calling the whole network at every step; `images` (B, 1, D) is the mean cell."""
    ab = alpha_bar().tolist()
    steps = [i * 1000 // n_steps for i in reversed(range(n_steps))]
    for k, t in enumerate(steps):
        after = ab[steps[k + 1]] if k + 1 < n_steps else 1.0
        eps = model(x, images, torch.full((len(x),), t, device=x.device))
        x0 = (x - math.sqrt(1 - ab[t]) * eps) / math.sqrt(ab[t])
        x = math.sqrt(after) * x0 + math.sqrt(1 - after) * eps
    return x


@torch.no_grad()
def take_weights(plain: PlainDenoiser, network: PhenoSeqNetwork) -> None:
    """Give the plain network the weights of ours."""
    denoiser, encoder = network.denoiser, network.encoder
    plain.time.load_state_dict(denoiser.time.state_dict())
    plain.project_image.load_state_dict(encoder.project.state_dict())
    plain.project_rna.load_state_dict(denoiser.project.state_dict())
    plain.norm.load_state_dict(denoiser.norm.state_dict())
    plain.out.load_state_dict(denoiser.out.state_dict())
    for theirs, ours in zip(plain.encoder, encoder.layers, strict=True):
        _attention(theirs.self_attn, ours.attention.query, ours.attention.key_value)
        theirs.self_attn.out_proj.load_state_dict(ours.attention.out.state_dict())
        theirs.linear1.load_state_dict(ours.widen.state_dict())
        theirs.linear2.load_state_dict(ours.narrow.state_dict())
        theirs.norm1.load_state_dict(ours.norm_attention.state_dict())
        theirs.norm2.load_state_dict(ours.norm_ff.state_dict())
    for theirs, ours in zip(plain.blocks, denoiser.stack, strict=True):
        for k, norm in enumerate((ours.norm_cross, ours.norm_self, ours.norm_ff)):
            theirs.modulations[k].load_state_dict(norm.modulation.state_dict())
        theirs.norm_context.load_state_dict(ours.norm_context.state_dict())
        _attention(theirs.cross, ours.cross.query, ours.cross.key_value)
        theirs.cross.out_proj.load_state_dict(ours.cross.out.state_dict())
        _attention(theirs.own, ours.attention.query_key, ours.attention.value)
        theirs.own.out_proj.load_state_dict(ours.attention.out.state_dict())
        theirs.norm_ff.load_state_dict(ours.ff.norm.state_dict())
        theirs.widen.load_state_dict(ours.ff.widen.state_dict())
        theirs.narrow.load_state_dict(ours.ff.narrow.state_dict())


def _attention(theirs: nn.MultiheadAttention, *parts: nn.Linear) -> None:
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
