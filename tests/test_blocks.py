"""Attention that asks little of many tokens, against attention that makes every key and value."""

from __future__ import annotations

import pytest
import torch

from cellfuse.nn.blocks import Attention, Block, CrossBlock, MeanTokens


def both(module, *given, monkeypatch):
    """Output and gradients of a module, its few questions folded into the context and not."""
    found = []
    for folded in (True, False):
        if not folded:
            monkeypatch.setattr(Attention, "_asks_little", lambda *_: False)
        leaves = [x.detach().clone().requires_grad_() for x in given]
        out = module(*leaves)
        weights = list(module.parameters())
        gradients = torch.autograd.grad(out.square().sum(), [*leaves, *weights])
        found.append([out, *gradients])
    return found


@pytest.mark.parametrize(("n_heads", "asked"), [(1, 1), (4, 3), (2, 6)])
def test_a_few_questions_get_the_same_answers_and_teach_the_same(n_heads, asked, monkeypatch):
    torch.manual_seed(0)
    module = CrossBlock(24, n_heads).double()
    module.attention.key_value.bias.data.normal_()
    x, context = torch.randn(5, asked, 24).double(), torch.randn(5, 40, 24).double()
    assert module.attention._asks_little(x, context)
    for folded, plain in zip(*both(module, x, context, monkeypatch=monkeypatch), strict=True):
        torch.testing.assert_close(folded, plain)


def test_the_gradient_of_mean_tokens_is_the_one_of_their_formula():
    torch.manual_seed(0)
    leaves = [torch.randn(2, n, 5, dtype=torch.double, requires_grad=True) for n in (3, 7)]
    assert torch.autograd.gradcheck(MeanTokens.apply, leaves)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_gradients_of_mean_tokens_are_of_the_precision_of_the_forward_pass(dtype, error):
    torch.manual_seed(0)
    leaves = [torch.randn(8, n, 16, requires_grad=True) for n in (12, 40)]
    questions, tokens = leaves
    with torch.autocast("cpu", dtype):
        mixed = MeanTokens.apply(questions, tokens)
    assert mixed.dtype == dtype
    plain = (questions @ tokens.transpose(1, 2)).softmax(dim=-1) @ tokens
    weight = torch.randn_like(plain)
    found, exact = (
        torch.autograd.grad((out.float() * weight).sum(), leaves) for out in (mixed, plain)
    )
    for x, y in zip(found, exact, strict=True):
        assert x.dtype == torch.float32
        assert error / 20 < (x - y).norm() / y.norm() < error


def test_many_questions_and_masks_take_the_plain_way(monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(Attention, "_asked", never)
    block, cross = Block(8, 2), CrossBlock(8, 2)
    x = torch.randn(2, 6, 8)
    block(x, torch.ones(2, 1, 1, 6, dtype=torch.bool))
    cross(x, torch.randn(2, 40, 8))  # 12 questions over both heads, of 8 numbers each
    block(x[:, :2])  # the context is no longer than what is asked of it
    monkeypatch.setattr(Attention, "_asks_little", lambda *_: True)
    with pytest.raises(AssertionError):
        cross(x, x)
    block(x, torch.ones(2, 1, 1, 6, dtype=torch.bool))  # a mask is heeded
