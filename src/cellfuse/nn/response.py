"""From a cell's basal state, a drug and a dose to its expression after treatment.

The built-in gene transformer of TIDE where no checkpoint of a foundation model is at hand. The
same network reads a treated profile back into an effect without its dose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cellfuse.nn.blocks import Block
from cellfuse.nn.film import DoseFiLM
from cellfuse.nn.genes import GeneDecoder, GeneEncoder
from cellfuse.nn.standardise import Standardise

__all__ = ["RESPONSE_PRESETS", "ResponseNetwork", "ResponseSizes"]


@dataclass(frozen=True)
class ResponseSizes:
    """Sizes of the gene transformer; the defaults are for a GPU.

    Parameters
    ----------
    width, n_heads
        Of all attention layers.
    n_latents, n_cross, n_self
        Latents of a profile, and the layers that make them (see :class:`GeneEncoder`).
    depth
        Layers in which the state meets the effect.
    hidden
        Of the decoder, and of the fingerprint's MLP.
    """

    width: int = 256
    n_heads: int = 8
    n_latents: int = 8
    n_cross: int = 2
    n_self: int = 2
    depth: int = 4
    hidden: int = 512


RESPONSE_PRESETS = {
    "small": ResponseSizes(64, 4, n_latents=4, n_cross=1, n_self=1, depth=2, hidden=128),
    "base": ResponseSizes(),
}


class ResponseNetwork(Standardise):
    """Basal expression + effect at a dose -> change of expression.

    An effect is a vector without dose. It comes from a drug's fingerprint, or from a treated
    profile and the dose it had; either way one decoder must get the expression back from it, at
    the dose that is asked for. So what is read from a profile is `h_R` of the TIDE teacher, a
    transcriptome without its dose, and what is read from the basal state is `h_C`.

    Parameters
    ----------
    n_genes
        Genes of a profile.
    n_bits
        Bits of a fingerprint.
    sizes
        See :class:`ResponseSizes`.
    linear
        Whether it begins at the mean change of the training drugs, ``mean_change``, rather than at
        "no change": what is learnt then is what a drug does beside it.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import RESPONSE_PRESETS, ResponseNetwork
    >>> net = ResponseNetwork(10, 16, RESPONSE_PRESETS["small"])
    >>> basal, drug, dose = torch.rand(2, 10), torch.ones(2, 16), torch.tensor([0.1, 1.0])
    >>> bool((net.predict(basal, net.effect_of_drug(drug), dose) == basal).all())  # untrained
    True
    """

    #: Of the training drugs, in units of each gene's sd, ``(n_genes,)``.
    mean_change: Tensor | None
    #: Of what is learnt beside it, for drugs whose structure was not seen.
    learnt_weight: Tensor | None

    def __init__(
        self, n_genes: int, n_bits: int, sizes: ResponseSizes, *, linear: bool = False
    ) -> None:
        super().__init__(n_genes)
        width = sizes.width
        self.width = width
        self.encoder = GeneEncoder(
            n_genes,
            width=width,
            n_cross=sizes.n_cross,
            n_self=sizes.n_self,
            n_heads=sizes.n_heads,
            n_latents=sizes.n_latents,
        )
        # A Perceiver takes long to find what a linear map sees at once.
        self.direct = nn.Linear(n_genes, width)
        self.from_drug = nn.Sequential(
            nn.Linear(n_bits, sizes.hidden),
            nn.GELU(),
            nn.Linear(sizes.hidden, width),
            nn.LayerNorm(width),
        )
        # State and treated state in, dose taken off, effect out.
        self.join = nn.Linear(2 * width, width)
        self.take_dose = DoseFiLM(width)
        self.from_profile = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.give_dose = DoseFiLM(width)
        self.blocks = nn.ModuleList([Block(width, sizes.n_heads) for _ in range(sizes.depth)])
        self.norm = nn.LayerNorm(width)
        self.decoder = GeneDecoder(n_genes, latent_width=width, hidden=sizes.hidden)
        last = self.decoder.mlp[-1]
        assert isinstance(last, nn.Linear)
        # "No change" is the first prediction, and what an uninformative drug falls back to.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("mean_change", torch.zeros(n_genes) if linear else None)
        self.register_buffer("learnt_weight", torch.zeros(()) if linear else None)

    def encode(self, expression: Tensor) -> Tensor:
        """Latents of profiles ``(N, n_genes)``, ``(N, n_latents, width)``."""
        values = self.scale(expression)
        return self.encoder(values) + self.direct(values)[:, None]

    def effect_of_drug(self, fingerprint: Tensor) -> Tensor:
        """Effect that chemistry foretells, ``(N, width)``."""
        return self.from_drug(fingerprint.float())

    def effect_and_state(
        self, treated: Tensor, basal: Tensor, dose: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Effect seen in treated profiles, their dose taken off, and the state before it.

        Parameters
        ----------
        treated, basal
            ``(N, n_genes)``.
        dose
            Dose of `treated` in uM, ``(N,)``; None does not take it off.

        Returns
        -------
        `h_R` and `h_C`, ``(N, width)`` each.
        """
        after, before = self.encode(torch.cat([treated, basal])).chunk(2)
        return self._effect(after, before, dose), before.mean(dim=1)

    def _effect(self, treated: Tensor, basal: Tensor, dose: Tensor | None) -> Tensor:
        both = torch.cat([treated.mean(dim=1), basal.mean(dim=1)], dim=1)
        return self.from_profile(self.take_dose(self.join(both), dose))

    def _change(self, basal: Tensor, effect: Tensor, dose: Tensor | None) -> Tensor:
        """Change from the latents of the basal state, in units of each gene's sd."""
        x = torch.cat([basal, self.give_dose(effect, dose)[:, None]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.decoder(self.norm(x))

    def predict(
        self, basal: Tensor, effect: Tensor, dose: Tensor | None, *, weight: Tensor | None = None
    ) -> Tensor:
        """Expression after treatment, ``(N, n_genes)``.

        Parameters
        ----------
        basal, effect, dose
            State ``(N, n_genes)``, effect ``(N, width)`` and dose in uM ``(N,)``.
        weight
            Of what was learnt beside the mean change, ``(N,)``; None: 1.
        """
        change = self._change(self.encode(basal), effect, dose)
        if self.mean_change is not None:
            change = self.mean_change + (change if weight is None else change * weight[:, None])
        return basal.float() + change * self.unit

    def forward(
        self,
        basal: Tensor,
        treated: Tensor,
        fingerprint: Tensor,
        dose: Tensor | None,
        *,
        shown: Tensor | None = None,
        shown_dose: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch: the change from the drug, and from a profile of the same drug.

        Parameters
        ----------
        basal, treated
            Profiles before and after, ``(N, n_genes)``.
        fingerprint
            Of each drug, ``(N, n_bits)``.
        dose
            Of `treated`, in uM, ``(N,)``; None leaves dose out of everything.
        shown, shown_dose
            A profile of the same drug and cell line, at best at another dose, from which the
            effect is read; `treated` itself for None.

        Returns
        -------
        ``loss``, the sum of ``drug_loss`` and ``profile_loss``: mean squared errors of the change
        in units of each gene's standard deviation.
        """
        target = (treated.float() - basal.float()) / self.unit
        if self.mean_change is not None:  # controls, which have no structure, do not change
            target = target - self.mean_change * fingerprint.any(dim=1, keepdim=True)
        if shown is None:
            shown, shown_dose = treated, dose
        latents = self.encode(basal)
        effects = torch.cat(
            [
                self.effect_of_drug(fingerprint),
                self._effect(self.encode(shown), latents, shown_dose),
            ]
        )
        twice = None if dose is None else dose.repeat(2)
        drug, seen = self._change(latents.repeat(2, 1, 1), effects, twice).chunk(2)
        drug_loss = (drug.float() - target).square().mean()
        profile_loss = (seen.float() - target).square().mean()
        return {
            "loss": drug_loss + profile_loss,
            "drug_loss": drug_loss,
            "profile_loss": profile_loss,
        }
