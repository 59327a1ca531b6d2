"""MIWAE as its paper has it, in plain PyTorch, to fill in the same cells as this package does.

Mattei and Frellsen, "MIWAE: Deep generative modelling and imputation of incomplete data sets", 2019, arXiv:1812.02633:
three hidden layers of 128 tanh units each way, 10 latents, Student-t columns whose location, scale and degrees of
freedom all follow from the latents, missing numbers set to 0, K = 20 draws in the bound, Adam at 10⁻³, batches of 64,
all rows learned from, and means of 10,000 draws, weighted by importance.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Normal, StudentT
from torch.nn.functional import softplus

LATENTS, HIDDEN, DRAWS, BATCH, LR = 10, 128, 20, 64, 1e-3
LEAST_SCALE, LEAST_DEGREES = 1e-3, 3.0


def fill(x: Tensor, steps: int, particles: int = 10_000, seed: int = 0, rows: int = 2) -> Tensor:
    """Rows with their gaps filled in, (N, D).

    Args:
        x: standardised, float32 (N, D), NaN where missing.
        steps: of training.
        particles: weighted draws of each row.
        rows: at a time when filling in.
    """
    torch.manual_seed(seed)
    seen = ~x.isnan()
    x, mask = x.nan_to_num(), seen.float()
    encoder, decoder = _network(x.shape[1], 2 * LATENTS), _network(LATENTS, 3 * x.shape[1])
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], LR)
    step = 0
    while step < steps:
        for index in torch.randperm(len(x)).split(BATCH):
            _, log_weights = _walk(encoder, decoder, x[index], mask[index], DRAWS)
            loss = -log_weights.logsumexp(0).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            if step == steps:
                break
    filled = []
    with torch.no_grad():
        for own, there in zip(x.split(rows), mask.split(rows), strict=True):
            loc, log_weights = _walk(encoder, decoder, own, there, particles)
            mean = (log_weights.softmax(0)[..., None] * loc).sum(0)
            filled.append(torch.where(there > 0, own, mean))
    return torch.cat(filled)


def _network(inputs: int, outputs: int) -> nn.Sequential:
    sizes = [inputs, HIDDEN, HIDDEN, HIDDEN]
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs))


def _walk(encoder: nn.Module, decoder: nn.Module, x: Tensor, mask: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Means of all columns given each draw of the latents, (K, B, D), and its log-weight, (K, B)."""
    mean, raw = encoder(x * mask).chunk(2, -1)
    q = Normal(mean, softplus(raw))
    z = q.rsample((draws,))
    loc, scale, degrees = decoder(z).chunk(3, -1)
    p = StudentT(softplus(degrees) + LEAST_DEGREES, loc, softplus(scale) + LEAST_SCALE)
    log_p = (p.log_prob(x) * mask).sum(-1)
    return loc, log_p + (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(-1)
