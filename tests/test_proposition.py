"""Proposition 3.1 of TIDE on a world that is known in full.

A teacher T(D | I, R, C) that is averaged over R has a log-loss of at most
H(D | I, C) + E KL(P(D | I, R, C) || T(D | I, R, C)).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cellfuse.nn.codebook import Codebook, distillation_loss

N_IMAGES, N_RNA, N_CELLS, N_DRUGS = 3, 4, 2, 5


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def world(seed: int, sharpness: float) -> Tensor:
    """P(I, R, C, D), as (I, R, C, D)."""
    logits = sharpness * torch.randn(
        N_IMAGES, N_RNA, N_CELLS, N_DRUGS, generator=generator(seed), dtype=torch.float64
    )
    return logits.flatten().softmax(0).view(logits.shape)


def risk_and_bound(joint: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Log-loss of the teacher averaged over R, and what the proposition allows it."""
    given_all = joint / joint.sum(3, keepdim=True)  # P(D | I, R, C)
    of_rna = joint.sum(3) / joint.sum((1, 3))[:, None]  # P(R | I, C)
    marginal = (of_rna[..., None] * teacher).sum(1)  # S_T(D | I, C)
    image_drug = joint.sum(1)  # P(I, C, D)
    risk = -(image_drug * marginal.log()).sum()
    given_image = image_drug / image_drug.sum(2, keepdim=True)
    entropy = -(image_drug * given_image.log()).sum()
    divergence = (joint * (given_all / teacher).log()).sum()
    return risk, entropy + divergence


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0])
def test_no_teacher_is_above_the_bound(seed, sharpness):
    joint = world(seed, sharpness)
    noise = torch.randn(joint.shape, generator=generator(seed + 1000), dtype=torch.float64)
    teachers = {
        "any": (sharpness * noise).softmax(3),
        "near the truth": ((joint / joint.sum(3, keepdim=True)).log() + 0.1 * noise).softmax(3),
        "blind to RNA": (sharpness * noise[:, :1]).softmax(3).expand(joint.shape),
    }
    for teacher in teachers.values():
        risk, bound = risk_and_bound(joint, teacher)
        assert risk <= bound + 1e-12
    # It is reached by the true teacher, whose average is the true P(D | I, C).
    risk, bound = risk_and_bound(joint, joint / joint.sum(3, keepdim=True))
    assert risk.item() == pytest.approx(bound.item(), abs=1e-12)


class Teacher(nn.Module):
    """Image, RNA and cell line to the codebook, as TIDE has it; the inputs are one-hot."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            nn.Linear(N_IMAGES + N_RNA + N_CELLS, 32), nn.GELU(), nn.Linear(32, 8)
        )
        self.codebook = Codebook(torch.eye(N_DRUGS), width=8, hidden=16, temperature=0.2)

    def table(self) -> Tensor:
        """Log T(D | I, R, C) of every input, ``(I, R, C, D)``."""
        place = torch.cartesian_prod(*(torch.arange(n) for n in (N_IMAGES, N_RNA, N_CELLS)))
        hot = [
            nn.functional.one_hot(column, n).float()
            for column, n in zip(place.T, (N_IMAGES, N_RNA, N_CELLS), strict=True)
        ]
        out = self.codebook.log_probabilities(self.fuse(torch.cat(hot, dim=1)))
        return out.view(N_IMAGES, N_RNA, N_CELLS, N_DRUGS)


def test_a_trained_teacher_stays_below_it_and_its_student_finds_the_average():
    joint = world(3, 2.0)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        teacher = Teacher()
    student = nn.Parameter(torch.zeros(N_IMAGES, N_CELLS, N_DRUGS))
    optimizer = torch.optim.Adam([*teacher.parameters(), student], lr=0.02)
    weight = joint.sum(3).float()  # P(I, R, C)
    gaps = []
    for step in range(400):
        log_t = teacher.table()
        loss = -(joint.float() * log_t).sum()  # cross-entropy with the drugs
        log_s = student.log_softmax(2)[:, None].expand(log_t.shape)
        # One term per triple, by its probability; distillation_loss is a mean over rows.
        rows = (
            [
                w * distillation_loss(s[None], t[None])
                for w, s, t in zip(
                    weight.flatten(), log_s.flatten(0, 2), log_t.flatten(0, 2), strict=True
                )
            ]
            if step % 50 == 0
            else []
        )
        divergence = (weight[..., None] * log_t.detach().exp() * (log_t.detach() - log_s)).sum()
        if rows:
            torch.testing.assert_close(torch.stack(rows).sum(), divergence)
            risk, bound = risk_and_bound(joint, log_t.detach().double().exp())
            assert risk <= bound + 1e-6
            gaps.append((bound - risk).item())
        optimizer.zero_grad()
        (loss + divergence).backward()
        optimizer.step()
    table = teacher.table().detach().double().exp()
    risk, bound = risk_and_bound(joint, table)
    assert risk <= bound + 1e-6
    of_rna = joint.sum(3) / joint.sum((1, 3))[:, None]
    average = (of_rna[..., None] * table).sum(1)
    torch.testing.assert_close(student.detach().softmax(2).double(), average, rtol=0, atol=0.02)
    measured = -(joint.sum(1) * student.detach().log_softmax(2)).sum()
    assert measured <= bound + 1e-3
    assert (bound - risk).item() < gaps[0]  # and training tightens it
