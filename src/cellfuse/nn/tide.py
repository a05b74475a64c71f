"""TIDE: a teacher of images and transcriptomes, a student of images (2604.22832)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.clip import Temperature
from cellfuse.nn.codebook import Codebook, distillation_loss
from cellfuse.nn.contrastive import clip_loss, from_all_devices, same_context
from cellfuse.nn.dino import Dino
from cellfuse.nn.film import DoseFiLM
from cellfuse.nn.joint_space import JointFeatures
from cellfuse.nn.mae import ImageMAE
from cellfuse.nn.response import ResponseNetwork
from cellfuse.nn.standardise import Standardise
from cellfuse.nn.vit import ImageEncoder

__all__ = ["FlatEncoder", "Objective", "TideNetwork"]

Objective = Literal["tide", "drug", "rna"]


class FlatEncoder(nn.Module):
    """A vector of image features through an MLP, in the place of a ViT.

    Parameters
    ----------
    n_in
        Features.
    width
        Of the embedding.
    hidden
        Of the hidden layer.
    """

    def __init__(self, n_in: int, *, width: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(
            nn.Linear(n_in, hidden), nn.GELU(), nn.Linear(hidden, width), nn.LayerNorm(width)
        )

    def embed(self, images: Tensor, *, channels: Sequence[str] | None = None) -> Tensor:
        """Embedding of features ``(N, n_in)``, ``(N, width)``."""
        return self.mlp(images)


#: What encodes an image: with a self-supervised term around it, or bare.
ImageSide: TypeAlias = Dino | ImageMAE | ImageEncoder | FlatEncoder


class TideNetwork(Standardise):
    """Shared image encoder; teacher over image, RNA, doses and cell type; image-only student.

    The teacher sees no structure of a drug: it names the drug from what the cells did, and the
    codebook ties that name to chemistry. The student must give the teacher's distribution from the
    image alone. The transcriptome is read by a response network that is not trained any further.

    Parameters
    ----------
    image
        Image encoder, bare or inside DINO or MAE, whose loss then is the self-supervised term.
    response
        Reads the transcriptome without its dose, `h_R`, and the basal state, `h_C`.
    codebook
        Prototypes of the drugs.
    n_channels
        Channels (or features) that are standardised.
    hidden
        Of the heads of teacher and student, MLPs with one hidden layer.
    objective
        ``"tide"``; ``"drug"`` and ``"rna"`` are the paper's baselines CL(D) and CL(R): CLIP's loss
        between the image and the drug's prototype, or between the image and `h_R`.
    alpha, beta
        Weights of the teacher's cross-entropy and of the self-supervised term.
    use_dose
        Whether the teacher is told the doses.
    n_plain
        Plain features of an image that teacher and student read beside the encoder's; 0: none.
    n_compounds
        Structures that the response model may see, where it weighs the others'.
    """

    response_report: Tensor
    #: Structures that the response model was trained on, ``(n_compounds,)``.
    response_seen: Tensor | None

    def __init__(
        self,
        image: ImageSide,
        response: ResponseNetwork,
        codebook: Codebook,
        *,
        n_channels: int,
        hidden: int = 512,
        objective: Objective = "tide",
        alpha: float = 1.0,
        beta: float = 1.0,
        use_dose: bool = True,
        n_plain: int = 0,
        n_compounds: int = 0,
    ) -> None:
        super().__init__(n_channels)
        self.image, self.response, self.codebook = image, response, codebook
        self.objective: Objective = objective
        self.alpha, self.beta, self.use_dose = alpha, beta, use_dose
        # What the response model explains, kept with its weights (NaN: it was not fine-tuned).
        self.register_buffer("response_report", torch.full((2, 6), torch.nan))
        self.plain_scale = Standardise(n_plain) if n_plain else None
        width, out = n_plain + self.encoder.width, codebook.delta.shape[1]
        self.student = _head(width, hidden, out)
        self.dose = DoseFiLM(width)
        parts = (width, response.width, response.width)
        self.norms = nn.ModuleList([nn.LayerNorm(part) for part in parts])
        self.fuse = _head(sum(parts), hidden, out)
        self.rna_head = _head(response.width, hidden, out) if objective == "rna" else None
        self.temperature = Temperature(codebook.temperature) if objective != "tide" else None
        #: Where plain features of the images and learnt ones are joined; None: nowhere.
        self.joint: JointFeatures | None = None
        seen = torch.zeros(n_compounds, dtype=torch.bool)
        self.register_buffer("response_seen", None if response.mean_change is None else seen)
        response.requires_grad_(False)

    @property
    def encoder(self) -> ImageEncoder | FlatEncoder:
        """The image encoder that teacher and student share."""
        if isinstance(self.image, Dino | ImageMAE):
            return self.image.encoder
        return self.image

    def cell(self, role: str) -> Standardise:
        """What takes the statistics of a modality."""
        return self if role == "image" else self.response

    def note_seen(self, compounds: Sequence[int]) -> None:
        """Note on whose structures the response model was trained."""
        assert self.response_seen is not None
        self.response_seen.zero_()
        self.response_seen[list(compounds)] = True

    # -- what is read off -------------------------------------------------------------------------

    def features(self, images: Tensor, *, channels: Sequence[str] | None = None) -> Tensor:
        """Embedding of standardised images, ``(N, width)``."""
        if isinstance(self.image, ImageMAE):  # the class token takes no part in its loss
            return self.image.embed(images, channels=channels)
        return self.encoder.embed(images, channels=channels)

    def beside(self, plain: Tensor | None, features: Tensor) -> Tensor:
        """What teacher and student read: plain features, where there are, and the encoder's."""
        if self.plain_scale is None or plain is None:
            return features
        return torch.cat([self.plain_scale.scale(plain), features], dim=1)

    @torch.no_grad()
    def transcriptome(
        self, rna: Tensor, basal: Tensor, dose: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`h_R` and `h_C` of profiles and their basal states, ``(N, n_genes)`` each."""
        # It is trained no further: what it does in training (dropout) is over.
        self.response.eval()
        dose = dose if self.use_dose else None
        return self.response.effect_and_state(rna, basal, dose)

    def condition(self, features: Tensor, dose: Tensor | None) -> Tensor:
        """`h_I`: image features from which their dose is peeled."""
        return self.dose(features, dose if self.use_dose else None)

    def teach(
        self, features: Tensor, image_dose: Tensor | None, effect: Tensor, state: Tensor
    ) -> Tensor:
        """`h_t = f_t([h_I, h_R, h_C])`, ``(N, codebook width)``."""
        parts = (self.condition(features, image_dose), effect, state)
        normed = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        return self.fuse(torch.cat(normed, dim=1))

    # -- losses -----------------------------------------------------------------------------------

    def forward(
        self,
        images: Tensor,
        image_dose: Tensor | None,
        rna: Tensor | None,
        basal: Tensor | None,
        rna_dose: Tensor | None,
        drug: Tensor,
        plain: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of images with a transcriptome of the same drug and cell line.

        Parameters
        ----------
        images
            Standardised, ``(N, C, H, W)`` or ``(N, D)``.
        image_dose, rna_dose
            In uM, ``(N,)``; None leaves dose out.
        rna, basal
            Treated profiles, and the basal state of their cell line, ``(N, n_genes)``; None for
            CL(D), which reads none.
        drug
            Position of each drug in the codebook, ``(N,)``.
        plain
            Plain features of the images, ``(N, n_plain)``.

        Returns
        -------
        ``loss`` without the self-supervised term, its parts, and accuracies.
        """
        features = self.beside(plain, self.features(images))
        prototypes, h_s = self.codebook(), self.student(features)
        if self.objective == "drug":
            return self._align(h_s, prototypes[drug], drug)
        assert rna is not None
        assert basal is not None
        effect, state = self.transcriptome(rna, basal, rna_dose)
        if self.rna_head is not None:
            return self._align(h_s, self.rna_head(effect), drug)
        student = self.codebook.log_probabilities(h_s, prototypes)
        teacher = self.codebook.log_probabilities(
            self.teach(features, image_dose, effect, state), prototypes
        )
        distill = distillation_loss(student, teacher)
        label = F.nll_loss(teacher, drug)
        return {
            "loss": distill + self.alpha * label,
            "distillation_loss": distill,
            "teacher_loss": label,
            "teacher_accuracy": (teacher.argmax(dim=1) == drug).float().mean(),
            "student_accuracy": (student.argmax(dim=1) == drug).float().mean(),
        }

    def _align(self, h_s: Tensor, other: Tensor, drug: Tensor) -> dict[str, Tensor]:
        """CL(D) and CL(R); images of one drug are never each other's negatives."""
        assert self.temperature is not None
        a, b, label = (from_all_devices(x) for x in (h_s.float(), other.float(), drug))
        loss = clip_loss(a, b, self.temperature(), weight=same_context(label))
        return {"loss": loss, "alignment_loss": loss}


def _head(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.GELU(), nn.Linear(hidden, n_out))
