"""Counts read by their own law: factors that are learnt on some cells and read off every cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cellfuse.nn.linear_first import principal_components
from cellfuse.nn.losses import moment_dispersion

__all__ = ["N_FACTORS", "CountFactors"]

#: Factors; their standard normal prior takes back those that the counts do not need.
N_FACTORS = 20
#: Cells on which they are learnt at most.
MAX_CELLS = 8_192
#: Rounds of learning, and the ones after which dispersions are estimated anew.
N_ROUNDS, DISPERSION_AFTER = 10, (2, 5, 8)
#: Steps of Fisher scoring by which a cell's scores are found.
N_STEPS = 6
#: Longest change of a loading or level, and of a score, in one step.
STEP, SCORE_STEP = 0.5, 2.0
#: Bounds of the logarithm of a share, and of a dispersion (infinite of Poisson counts).
LOG_SHARE, DISPERSION = (-20.0, 2.0), (0.2, 50.0)


class CountFactors(nn.Module):
    """Scores of cells on factors of the logarithms of their expected counts.

    A count of gene g in cell i is negative binomial around ``depth_i exp(level_g + z_i v_g)``. Its
    scores z have a standard normal prior, and are their most likely values given the cell's counts:
    a gene of few counts says little, a cell of few counts stays near 0. The mean of logarithms of
    shares, which has no law of counts, knows neither. Kin: GLM-PCA (Townes, Hicks, Aryee and
    Irizarry 2019), with dispersions and a prior.

    Parameters
    ----------
    n_genes
        Genes that are read.
    n_factors
        Factors.
    """

    loadings: Tensor
    level: Tensor
    dispersion: Tensor

    def __init__(self, n_genes: int, n_factors: int = N_FACTORS) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.register_buffer("loadings", torch.zeros(n_factors, n_genes))
        self.register_buffer("level", torch.zeros(n_genes))
        self.register_buffer("dispersion", torch.ones(n_genes))
        first, second = torch.triu_indices(n_factors, n_factors)
        self._first, self._second = first.tolist(), second.tolist()

    @torch.no_grad()
    def fit(self, counts: Tensor) -> None:
        """Learn levels, loadings and dispersions on cells ``(N, n_genes)``, in turn with scores.

        Each round is one step of Fisher scoring for every gene, and one for every cell. Evenly
        spread cells are taken where there are more than 8,192.
        """
        every = max(1, -(-len(counts) // MAX_CELLS))
        counts = counts[::every].to(self.level.device, torch.float32)
        depth = _depth(counts)
        self.level.copy_(((counts.sum(dim=0) + 0.5) / depth.sum()).log())
        self.dispersion.fill_(4.0)
        self.loadings.zero_()
        z = _first_scores(counts / depth, self.n_factors)
        for number in range(N_ROUNDS):
            weight, slope = self._towards(counts, depth, z)
            fisher = self._square((self._products(z).T @ weight).T)
            step = torch.linalg.solve(fisher, (z.T @ slope - self.loadings).T)
            self.loadings += step.clamp(-STEP, STEP).T
            weight, slope = self._towards(counts, depth, z)
            self.level += (slope.sum(dim=0) / (weight.sum(dim=0) + 1)).clamp(-STEP, STEP)
            if number in DISPERSION_AFTER:
                self.dispersion.copy_(moment_dispersion(counts, self._mean(depth, z), DISPERSION))
            z, fisher = self._scored(counts, depth, z)
            z = self._standardised(z, fisher)

    @torch.no_grad()
    def forward(self, counts: Tensor) -> Tensor:
        """Scores of cells ``(N, n_genes)``, ``(N, n_factors)``."""
        with torch.autocast(counts.device.type, enabled=False):
            counts = counts.float()
            depth = _depth(counts)
            z = counts.new_zeros(len(counts), self.n_factors)
            for _ in range(N_STEPS):
                z, _ = self._scored(counts, depth, z)
        return z

    def _mean(self, depth: Tensor, z: Tensor) -> Tensor:
        return depth * (self.level + z @ self.loadings).clamp(*LOG_SHARE).exp()

    def _towards(self, counts: Tensor, depth: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Information on the logarithm of every mean, and the slope of the likelihood along it."""
        mean, size = self._mean(depth, z), self.dispersion
        weight = size / (mean + size)
        return mean * weight, (counts - mean) * weight

    def _scored(self, counts: Tensor, depth: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Scores a step on, and the precision of each cell's, ``(N, factors, factors)``."""
        weight, slope = self._towards(counts, depth, z)
        fisher = self._square(weight @ self._products(self.loadings.T))
        step = torch.linalg.solve(fisher, slope @ self.loadings.T - z)
        return z + step.clamp(-SCORE_STEP, SCORE_STEP), fisher

    def _standardised(self, z: Tensor, fisher: Tensor) -> Tensor:
        """Scores of mean 0 and, with what is not known of them, covariance 1; means stay."""
        center = z.mean(dim=0)
        self.level += center @ self.loadings
        z = z - center
        unknown = torch.linalg.inv(fisher).mean(dim=0)
        root = torch.linalg.cholesky(z.T @ z / len(z) + unknown)
        self.loadings.copy_(root.T @ self.loadings)
        return torch.linalg.solve_triangular(root, z.T, upper=False).T

    def _products(self, x: Tensor) -> Tensor:
        """Products of every two columns of ``(n, factors)``, each pair once."""
        return x[:, self._first] * x[:, self._second]

    def _square(self, products: Tensor) -> Tensor:
        """Sums of such products as symmetric matrices, with the prior's 1 on the diagonal."""
        out = products.new_empty(len(products), self.n_factors, self.n_factors)
        out[:, self._first, self._second] = products
        out[:, self._second, self._first] = products
        return out + torch.eye(self.n_factors, device=out.device)


def _depth(counts: Tensor) -> Tensor:
    return counts.sum(dim=1, keepdim=True).clamp_min(1.0)


def _first_scores(shares: Tensor, n: int) -> Tensor:
    """Principal components of the logarithms of shares, of variance 1; columns of 0 beyond them."""
    features = (shares / shares.mean(dim=1, keepdim=True).mean().clamp_min(1e-12)).log1p()
    features = features - features.mean(dim=0)
    features /= features.std(dim=0).clamp_min(1e-3).sqrt()
    _, directions = principal_components(features, n)
    out = features.new_zeros(len(features), n)
    out[:, : directions.shape[1]] = features @ directions
    return out / out.std(dim=0).clamp_min(1e-6)
