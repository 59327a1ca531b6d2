"""What several models fill in, as one: the mixture of them.

    p(missing | observed) = Σ_k s_k p_k(missing | observed),    s_k = 1/K unless told

Its mean has no more squared error than theirs have on average, and less by what they differ: Krogh and Vedelsby,
"Neural network ensembles, cross validation, and active learning", 1995; of deep networks with other seeds,
Lakshminarayanan, Pritzel and Blundell 2017, arXiv:1612.01474.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jensen.errors import ConfigError
from jensen.jobs.ensembles import strangers
from jensen.jobs.imputation import Imputation
from jensen.jobs.run import Run


def check_same_cells(runs: Sequence[Run]) -> None:
    """Raises `ConfigError` naming each run that fills in other cells than the first one, or with other values."""
    first, problems = runs[0].schema, strangers(runs)
    if not problems and not first.is_array:
        problems = [
            f"--ensemble: {other.name} learned of other columns than {runs[0].name} that they are empty"
            for other in runs[1:]
            if (other.schema.unknown != first.unknown).any()
        ]
    if problems:
        raise ConfigError(problems)


def averaged(found: Sequence[Imputation], seed: int = 0, shares: Sequence[float] | None = None) -> Imputation:
    """One imputation of several of the same data.

    Each draw of a datum is one of a model's, which is picked anew; numbers are filled in by the mean of the models'
    means, names by the one that has most probability, as far as the models' likeliest ones tell, and names with an
    order by the median of medians. Spreads are those of the mixture, in the units of the data; of names that is at most
    the probability of any other.

    Args:
        found: of each model, with as many draws, and the same cells missing.
        seed: of which model each draw is.
        shares: of each model in the mixture, which add up to 1; equal by default.
    """
    if len(found) == 1:
        return found[0]
    first, share = found[0], np.full(len(found), 1 / len(found)) if shares is None else np.asarray(shares, float)
    cells = np.nonzero(first.missing)
    rows, rng = cells[0], np.random.default_rng([seed, 11])
    picked = rng.choice(len(found), size=(len(first.drawn), len(first.missing)), p=share)
    drawn = np.take_along_axis(np.stack([f.drawn for f in found]), picked[None, :, rows], 0)[0]
    points, spreads = (np.stack([getattr(f, name) for f in found]) for name in ("expected", "uncertainty"))
    expected = share @ points
    uncertainty = np.sqrt(share @ (spreads**2 + (points - expected) ** 2))
    kinds = [] if first.schema.is_array else [field.kind for field in first.schema.fields]
    for j, kind in enumerate(kinds):
        here = cells[1] == j
        if kind == "category":
            expected[here], uncertainty[here] = _vote(points[:, here], 1 - spreads[:, here], share)
        elif kind == "ordinal":
            expected[here] = _median(points[:, here], share)
    sizes = np.stack([f.effective_sample_size for f in found])
    with np.errstate(divide="ignore"):
        size = 1 / (share**2 @ (1 / sizes))
    r_hat = np.fmax.reduce([f.r_hat for f in found])
    method = np.where(first.method == "none", "none", "ensemble")
    return replace(
        first,
        drawn=drawn,
        expected=expected,
        uncertainty=uncertainty,
        method=method,
        effective_sample_size=size,
        r_hat=r_hat,
    )


def _vote(names: np.ndarray, probs: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the models' likeliest names (K, C) and their probabilities the name with most in all, (C,), and what is left
    for others, which is no less than their probability.
    """
    votes = ((names[:, None] == names[None]) * (share[:, None] * probs)[None]).sum(1)
    best = votes.argmax(0)[None]
    most = np.take_along_axis(votes, best, 0)[0]
    return np.take_along_axis(names, best, 0)[0], 1 - most


def _median(points: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The least of the points (K, C) that with those below it has half of the shares, (C,)."""
    order = points.argsort(0)
    reached = share[order].cumsum(0) >= 0.5 - 1e-9
    return np.take_along_axis(points, np.take_along_axis(order, reached.argmax(0)[None], 0), 0)[0]
