"""Dropout by 16 bits a value, against what dropout is."""

from __future__ import annotations

import pytest
import torch

from cellfuse.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
def test_the_share_is_dropped_everywhere_alike_and_the_mean_is_kept(share):
    torch.manual_seed(0)
    ones = torch.ones(200_001)  # no multiple of the four values that share a draw
    found = dropout(ones, share)
    dropped = (found == 0).double()
    width = 4 * (share * (1 - share) / len(ones)) ** 0.5
    assert abs(float(dropped.mean()) - share) < width
    for place in range(4):
        assert abs(float(dropped[place::4].mean()) - share) < 2 * width
    # Neighbours, which come from one draw, are dropped independently of each other.
    assert abs(float((dropped[1:] * dropped[:-1]).mean()) - share**2) < 2 * width
    torch.testing.assert_close(
        found[found > 0].unique(), torch.tensor([1 / (1 - share)]), rtol=2e-4, atol=0
    )


def test_gradients_pass_where_values_do():
    x = torch.randn(31, 7, requires_grad=True)
    found = dropout(x, 0.4)
    found.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), found.detach())


def test_the_same_seed_drops_the_same_and_another_does_not():
    layer, x = Dropout(0.5), torch.ones(1000)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(layer(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("x", [torch.ones(0, 3), torch.ones(5, 1, dtype=torch.bfloat16)])
def test_every_shape_and_type_stays_as_it_is(x):
    found = Dropout(0.5)(x)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)
