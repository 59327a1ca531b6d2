"""Holes: where the prior has mass and no datum has its code.

A sample starts from a draw of p(z), but the decoder has learned from draws of q(z) = E_x q(z | x). Where these differ,
samples come from codes that the decoder has never seen. Rosca, Lakshminarayanan and Mohamed 2018, arXiv:1802.06847.

Looked for in three ways: a classifier that is to tell draws of one from draws of the other (Lopez-Paz and Oquab 2017,
arXiv:1610.06545), the maximum mean discrepancy with a permutation test (Gretton et al. 2012), and how much of the prior
lies farther from the codes of data than these lie from one another.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor

from jensen.core import Model
from jensen.jobs.finding import Finding
from jensen.objectives.kernels import Kernel, several_scales, typical_square
from jensen.objectives.prior import codes, priors

ACCURACY, P_VALUE = 0.6, 1e-3  # of the classifier, from which on the difference is called a hole
FAR = 0.99  # share of codes whose nearest neighbour is nearer than what is called far
PERMUTATIONS = 400
WORST = 16  # draws of the prior that are kept to be looked at
LEAST = 40  # data, below which nothing can be said
MOST = 2000  # data, above which some of them are taken


@dataclass(frozen=True)
class Apart:
    """How far draws of the prior lie from codes of data.

    Attributes:
        accuracy: of the classifier on draws that it did not learn from, n of them; 0.5 by chance.
        p_value: of so high an accuracy where nothing can be told.
        mmd2, mmd_p_value: the maximum mean discrepancy, squared, and how often a random division has a larger one.
        unreached, unreached_stderr: share of the prior's mass that is far from all codes, above what chance makes of
            codes themselves, with its standard error over both.
        worst: draws of the prior that the classifier is surest of, (W, L).
    """

    accuracy: float
    n: int
    p_value: float
    mmd2: float
    mmd_p_value: float
    unreached: float
    unreached_stderr: float
    worst: Tensor


@torch.no_grad()
def holes(model: Model, batch: dict[str, Tensor], settings: Mapping[str, Any] | None = None) -> Finding | None:
    """The aggregated posterior against the prior; None where nothing continuous is hidden, or with too few data.

    A prior that stands on conditions is drawn from under those of the data.

    Args:
        settings: of the run, which tell what would help.
    """
    if len(batch[model.data]) < LEAST:
        return None
    some = torch.randperm(len(batch[model.data]))[:MOST].to(batch[model.data].device)
    batch = {name: value[some] if value.dim() else value for name, value in batch.items()}
    at = {f.name: f.module(*(batch[name] for name in f.parents)) for f in priors(model, model.conditions)}
    names = [name for name, p in at.items() if not p.support.is_discrete]
    if not names:
        return None
    values = codes(model, batch)
    of_data = torch.cat([values[name].flatten(1) for name in names], 1).double().cpu()
    n = len(of_data)
    drawn = [at[name].sample(() if model.p[name].parents else (n,)).flatten(1) for name in names]
    found = apart(of_data, torch.cat(drawn, 1).double().cpu())
    ok = found.accuracy <= ACCURACY or found.p_value >= P_VALUE
    error = math.sqrt(found.accuracy * (1 - found.accuracy) / found.n)
    return Finding(
        "holes",
        ok,
        f"a classifier tells draws of the prior from codes of data with accuracy {found.accuracy:.2f} ± {error:.2f} "
        f"(0.5 by chance, p = {found.p_value:.2g}); MMD² {found.mmd2:.2g} (p = {found.mmd_p_value:.2g}); "
        f"{found.unreached:.0%} ± {found.unreached_stderr:.0%} of the prior's mass is where no datum has its code",
        {
            "accuracy": found.accuracy,
            "accuracy_stderr": error,
            "p_value": found.p_value,
            "mmd2": found.mmd2,
            "mmd_p_value": found.mmd_p_value,
            "prior_mass_unreached": found.unreached,
            "prior_mass_unreached_stderr": found.unreached_stderr,
            "worst": found.worst.tolist(),
        },
        "; or ".join(_remedies((settings or {}).get("objective") or {})),
    )


def _remedies(objective: Mapping[str, Any]) -> list[str]:
    """What to try, of what there is."""
    tries = ["jensen train prior RUN prior=flow, which fits another prior to this model's codes"]
    tries += ["prior=vamp or prior=mixture from the start"]
    if objective.get("beta", 1.0) < 1:
        tries += ["objective.beta=1"]
    if objective.get("name") in ("mmd", "adversarial"):
        tries += [f"objective.weight={2 * objective['weight']:g}, a higher price of the distance to the prior"]
    return tries


def apart(of_data: Tensor, drawn: Tensor) -> Apart:
    """How far draws of the prior, (N, L), lie from codes of as many data, one draw each, (N, L)."""
    accuracy, n, sureness, tested = _classified(of_data, drawn)
    unreached = _beyond(of_data, drawn)
    mmd2, p = mmd_test(of_data, drawn, several_scales("imq", typical_square(drawn)))
    worst = drawn[tested][sureness.argsort(descending=True)[:WORST]]
    correct = round(accuracy * n)
    return Apart(accuracy, n, float(binom.sf(correct - 1, n, 0.5)), mmd2, p, *unreached, worst)


def _classified(of_data: Tensor, drawn: Tensor) -> tuple[float, int, Tensor, Tensor]:
    """Accuracy on the half not learned from, how many those are, and how sure it is of which draws of the prior.

    A small network sees z and z², and learns from the other half.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    def seen(z: Tensor) -> Tensor:
        z = (z - drawn.mean(0)) / drawn.std(0).clamp_min(1e-12)
        return torch.cat([z, (z.square() - 1) / 2], 1).clamp(-20, 20)

    order, half = torch.randperm(len(drawn)), len(drawn) // 2
    learned, tested = order[:half], order[half:]
    x = torch.cat([seen(of_data[learned]), seen(drawn[learned])]).numpy()
    y = [0] * half + [1] * half
    seed = int(torch.randint(1 << 31, ()))
    network = MLPClassifier((64,), alpha=0.1, early_stopping=half >= 300, max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(x, y)
    chances = [torch.tensor(network.predict_proba(seen(z[tested]).numpy()))[:, 1] for z in (of_data, drawn)]
    correct = int((chances[0] < 0.5).sum() + (chances[1] >= 0.5).sum())
    n = 2 * len(tested)
    return correct / n, n, chances[1], tested


def _beyond(of_data: Tensor, drawn: Tensor) -> tuple[float, float]:
    """Share of draws farther from half of the codes than all but 1% of the other half, above that 1%, and its standard
    error: of a share of draws, and of a quantile of the other half.
    """
    order, half = torch.randperm(len(of_data)), len(of_data) // 2
    known = of_data[order[:half]]
    limit = torch.cdist(of_data[order[half:]], known).amin(1).quantile(FAR)
    share = float((torch.cdist(drawn, known).amin(1) > limit).double().mean())
    error = math.sqrt(share * (1 - share) / len(drawn) + FAR * (1 - FAR) / (len(of_data) - half))
    return max(0.0, (share - (1 - FAR)) / FAR), error / FAR


def mmd_test(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[float, float]:
    """The unbiased MMD² of as many rows of each, (N, L), and the share of random divisions with one as large."""
    n = len(x)
    both = torch.cat([x, y])
    k = kernel(both, both).fill_diagonal_(0)
    signs = torch.ones(2 * n, PERMUTATIONS + 1, dtype=k.dtype)
    signs[n:] = -1
    for column in range(1, PERMUTATIONS + 1):
        signs[:, column] = signs[torch.randperm(2 * n), 0]
    ones = (1 + signs) / 2
    among = (ones * (k @ ones)).sum(0), ((1 - ones) * (k @ (1 - ones))).sum(0)
    between = (ones * (k @ (1 - ones))).sum(0)
    found = (among[0] + among[1]) / (n * (n - 1)) - 2 * between / n**2
    larger = int((found[1:] >= found[0]).sum())
    return float(found[0]), (1 + larger) / (1 + PERMUTATIONS)
