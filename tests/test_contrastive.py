"""The contrastive family against hand-worked values and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellfuse.nn import (
    clip_loss,
    from_all_devices,
    relational_distillation,
    same_context,
    sigmoid_loss,
    vicreg_loss,
)


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator), torch.randn(6, 5, generator=generator)


def cosines(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


def test_clip_is_the_mean_of_two_cross_entropies(pairs):
    logits = 7.0 * cosines(*pairs)
    n = len(logits)
    forward = np.mean([math.log(np.exp(row).sum()) - row[i] for i, row in enumerate(logits)])
    back = np.mean([math.log(np.exp(logits[:, i]).sum()) - logits[i, i] for i in range(n)])
    assert float(clip_loss(*pairs, 7.0)) == pytest.approx((forward + back) / 2, rel=1e-5)


def test_pairs_of_one_context_are_shared_targets(pairs):
    context = torch.tensor([4, 4, 9, 9, 9, 1])
    logits = 7.0 * cosines(*pairs)
    n = len(logits)
    total = 0.0
    for matrix in (logits, logits.T):
        for i in range(n):
            log_p = matrix[i] - math.log(np.exp(matrix[i]).sum())
            mine = [j for j in range(n) if context[j] == context[i]]
            total -= np.mean([log_p[j] for j in mine]) / n
    found = clip_loss(*pairs, 7.0, weight=same_context(context))
    assert float(found) == pytest.approx(total / 2, rel=1e-5)


def test_cells_of_one_context_do_not_push_each_other_apart():
    # Two documents of one context: plain CLIP wants them apart, shared targets do not.
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    b = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    grads = {}
    for name, weight in (("plain", None), ("shared", same_context(torch.zeros(2)))):
        (grads[name],) = torch.autograd.grad(clip_loss(a, b, 10.0, weight=weight), a)
    assert grads["plain"][0, 1] > 0 > grads["plain"][1, 1]  # pushed to different sides
    assert torch.allclose(grads["shared"][0], grads["shared"][1])


def test_the_weights_of_the_way_back_may_differ(pairs):
    eye = torch.eye(6)
    one = clip_loss(*pairs, 3.0, weight=torch.ones(6, 6), weight_back=eye)
    logits = 3.0 * torch.as_tensor(cosines(*pairs))
    forward = -(logits.log_softmax(1) / 6).sum(1).mean()
    back = F.cross_entropy(logits.T, torch.arange(6))
    assert float(one) == pytest.approx(float(forward + back) / 2, rel=1e-5)


def test_clip_looks_at_directions_only(pairs):
    a, b = pairs
    assert float(clip_loss(a * 9, b, 2.0)) == pytest.approx(float(clip_loss(a, b, 2.0)), rel=1e-6)


def test_sigmoid_judges_each_pair_by_itself(pairs):
    logits = 5.0 * cosines(*pairs) - 2.0
    same = same_context(torch.tensor([0, 0, 1, 2, 3, 4])).numpy()
    sign = 2 * same - 1
    wanted = np.log1p(np.exp(-sign * logits)).sum() / len(logits)
    found = sigmoid_loss(*pairs, 5.0, -2.0, same=torch.as_tensor(same))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    plain = np.log1p(np.exp(-(2 * np.eye(6) - 1) * logits)).sum() / len(logits)
    assert float(sigmoid_loss(*pairs, 5.0, -2.0)) == pytest.approx(plain, rel=1e-5)


def test_vicreg_by_hand():
    a = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # a: sd sqrt(2) in both dimensions, covariance 2 off the diagonal (twice); b: a collapse.
    invariance = np.mean([1, 0, 1, 4])
    variance = (1 - math.sqrt(1e-4)) / 2
    covariance = 2 * 2.0**2 / 2
    wanted = 25 * invariance + 25 * variance + 1 * covariance
    assert float(vicreg_loss(a, b)) == pytest.approx(wanted, rel=1e-5)


def test_relations_of_a_teacher_turned_round_are_its_own(pairs):
    a, _ = pairs
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    assert float(relational_distillation(a @ turn, a, 5.0)) == pytest.approx(0, abs=1e-5)


def test_relations_by_hand_and_without_a_gradient_into_the_teacher(pairs):
    student, teacher = (x.clone().requires_grad_() for x in pairs)
    n, wanted = 6, 0.0
    s, t = (5.0 * cosines(x.detach(), x.detach()) for x in pairs)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        p = np.exp(t[i, others]) / np.exp(t[i, others]).sum()
        q = np.exp(s[i, others]) / np.exp(s[i, others]).sum()
        wanted += (p * np.log(p / q)).sum() / n
    loss = relational_distillation(student, teacher, 5.0)
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="at least three"):
        relational_distillation(student[:2], teacher[:2], 5.0)


def test_one_device_gathers_nothing(pairs):
    assert from_all_devices(pairs[0]) is pairs[0]
