"""Variance of gradient estimators against their cost, on two expectations whose gradient is known.

    python examples/gradient_variance.py docs/_static/gradient_variance.png

Left: E (z − 3)² for z ~ N(μ, σ²), 5 of them. Right: E of a crooked function of 5 bits.
"""

from __future__ import annotations

import itertools
import sys

import torch
from matplotlib.figure import Figure
from torch import Tensor

from jensen import gradients
from jensen.distributions import Bernoulli, DiagonalNormal

DIMS, REPEATS = 5, 2000


def distance(z: Tensor) -> Tensor:
    return (z - 3).square().sum(-1)


def crooked(z: Tensor) -> Tensor:
    weight = torch.tensor([1.0, -2.0, 0.5, 1.0, 3.0], dtype=z.dtype)
    return (z * weight).sum(-1).square() + z[..., 0] * z[..., 1]


def of_normals() -> gradients.Comparison:
    loc, scale = torch.ones(DIMS).double(), torch.full((DIMS,), 0.7).double()
    estimators = {
        "pathwise": gradients.Pathwise(),
        "measure-valued": gradients.MeasureValued(),
        "score function": gradients.ScoreFunction("none"),
        "score, running baseline": gradients.ScoreFunction("running"),
        "score, leave-one-out": gradients.ScoreFunction("leave-one-out"),
    }
    truth = {"loc": 2 * (loc - 3), "scale": 2 * scale}
    return gradients.compare(
        DiagonalNormal, {"loc": loc, "scale": scale}, distance, estimators, truth=truth, repeats=REPEATS
    )


def of_bits() -> gradients.Comparison:
    logits = torch.tensor([-1.0, 0.3, 1.0, 0.0, -0.5]).double()
    leaf = logits.clone().requires_grad_()
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=DIMS))).double()
    (truth,) = torch.autograd.grad((Bernoulli(leaf).log_prob(every).exp() * crooked(every)).sum(), leaf)
    estimators = {
        "measure-valued": gradients.MeasureValued(),
        "score function": gradients.ScoreFunction("none"),
        "score, running baseline": gradients.ScoreFunction("running"),
        "score, leave-one-out": gradients.ScoreFunction("leave-one-out"),
        "straight through": gradients.StraightThrough(),
        "Gumbel-softmax, τ = 0.5": gradients.GumbelSoftmax(0.5),
    }
    return gradients.compare(
        Bernoulli, {"logits": logits}, crooked, estimators, truth={"logits": truth}, repeats=REPEATS
    )


def main(path: str) -> None:
    found = {"of five normals": of_normals(), "of five bits": of_bits()}
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (title, comparison) in zip(figure.subplots(1, 2), found.items(), strict=True):
        comparison.draw(axes)
        axes.set_title(title)
        print(f"{title}\n{comparison}\n")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "gradient_variance.png")
