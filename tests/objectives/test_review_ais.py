"""Annealed importance sampling: its weights average to the evidence, also with few chains on a narrow posterior."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jensen.core import Joint, Model
from jensen.distributions import DiagonalNormal, StandardNormal
from jensen.objectives.estimators import annealed

SCALE = 0.1


class Prior(nn.Module):
    def forward(self):
        return StandardNormal(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))


class Narrow(nn.Module):
    def forward(self, z):
        return DiagonalNormal(z, torch.full((1,), SCALE, dtype=torch.float64))


@pytest.mark.parametrize("chains", [1, 4])
def test_mean_weight_is_the_evidence(chains):
    """E[w] = p(x): x | z ~ N(z, 0.1²) has marginal N(0, 1 + 0.1²); within four standard errors of 2,000 repeats."""
    model = Model(Joint({"z": Prior(), "x | z": Narrow()}), Joint({"z | x": Narrow()}))
    x = torch.full((2000, 1), 0.7, dtype=torch.float64)
    rows = annealed(model, {"x": x}, chains, rows=10**6, temperatures=60, leapfrog=5).rows
    truth = -0.5 * 0.7**2 / (1 + SCALE**2) - 0.5 * math.log(2 * math.pi * (1 + SCALE**2))
    ratio = torch.exp(rows - truth)
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(len(ratio))
