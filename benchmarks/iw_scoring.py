"""Importance-weighted log-likelihood, K = 5,000: this package beside the plain loop, in turn, in one run.

    python benchmarks/iw_scoring.py [--images 100] [--rounds 10] [--out benchmarks/results/iw_scoring.json]

Both score the same random binarised pictures under the same weights (784-200-200-50, tanh), untrained: the work does
not depend on the weights. The plain loop is what one writes first: for each picture, 5,000 draws, one pass through
the decoder, `binary_cross_entropy_with_logits`, the two normal log-densities, logsumexp.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import arguments, interleave_processes, keep
from jensen.cli.memory import keep_freed_memory
from jensen.core import Model, seeded
from jensen.data import Schema
from jensen.objectives.estimators import importance
from jensen.registry import build

PARTICLES, LATENTS = 5000, 50


def model() -> Model:
    """784-200-200-50 with tanh, as in Burda et al. 2016."""
    network = {"name": "mlp", "hidden": [200, 200], "activation": "tanh"}
    with seeded(0):
        return build(
            "vae",
            Schema.of_pictures((1, 28, 28), levels=2),
            {"latents": LATENTS, "encoder": network, "decoder": network},
        ).eval()


def plain_network(ours: nn.Module) -> nn.Sequential:
    """The same layers as PyTorch has them."""
    layers = []
    for layer in ours:  # pyright: ignore[reportGeneralTypeIssues]
        if isinstance(layer, nn.Linear):
            plain = nn.Linear(layer.in_features, layer.out_features)
            plain.load_state_dict(layer.state_dict())
            layer = plain
        layers.append(layer)
    return nn.Sequential(*layers)


@torch.no_grad()
def plain_loop(m: Model, x: Tensor) -> Tensor:
    """log p(x) of each picture, (n,), in nats."""
    encoder, decoder = m.q["z"].module, plain_network(m.p["x"].module.network)
    rows = []
    for one in x:
        posterior = encoder(one[None])
        mean, scale = posterior.mean[0], posterior.stddev[0]
        noise = torch.randn(PARTICLES, LATENTS)
        z = mean + scale * noise
        logits = decoder(z).flatten(1)
        target = one.flatten().expand_as(logits)
        log_x = -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
        log_prior = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
        log_q = -0.5 * (noise**2 + math.log(2 * math.pi) + 2 * scale.log()).sum(1)
        rows.append(torch.logsumexp(log_x + log_prior - log_q, 0) - math.log(PARTICLES))
    return torch.stack(rows)


def pictures(n: int) -> Tensor:
    """Random binary pictures, (n, 1, 28, 28)."""
    with seeded(1):
        return (torch.rand(n, 1, 28, 28) < 0.13).float()


def ours(n: int) -> Callable[[], int]:
    """As `jensen score` does it, in a process set up as its own."""
    keep_freed_memory()
    m, x = model(), pictures(n)

    def work() -> int:
        importance(m, {"x": x}, PARTICLES)
        return n

    return work


def plain(n: int) -> Callable[[], int]:
    m, x = model(), pictures(n)

    def work() -> int:
        plain_loop(m, x)
        return n

    return work


def main() -> None:
    options = arguments(__doc__, images=100, rounds=10)
    m, x = model(), pictures(min(options.images, 10))
    scores = {
        "jensen": float(importance(m, {"x": x}, PARTICLES).rows.mean()),
        "plain loop": float(plain_loop(m, x).mean()),
    }
    contestants = {"jensen": (ours, (options.images,)), "plain loop": (plain, (options.images,))}
    table = interleave_processes(contestants, options.rounds, unit="images/s")
    keep(options.out, table, "jensen", {"particles": PARTICLES, "images": options.images, "mean_nats": scores})


if __name__ == "__main__":
    main()
