"""What several models fill in, as one: the mixture of them with equal weights.

    p(missing | observed) = 1/K Σ_k p_k(missing | observed)

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


def averaged(found: Sequence[Imputation], seed: int = 0) -> Imputation:
    """One imputation of several of the same data.

    Each draw of a datum is one of a model's, which is picked anew; numbers are filled in by the mean of the models'
    means, names by the one that has most probability, as far as the models' likeliest ones tell, and names with an
    order by the median of medians. Spreads are those of the mixture, in the units of the data; of names that is at most
    the probability of any other.

    Args:
        found: of each model, with as many draws, and the same cells missing.
        seed: of which model each draw is.
    """
    if len(found) == 1:
        return found[0]
    first = found[0]
    cells = np.nonzero(first.missing)
    rows, rng = cells[0], np.random.default_rng([seed, 11])
    picked = rng.integers(len(found), size=(len(first.drawn), len(first.missing)))
    drawn = np.take_along_axis(np.stack([f.drawn for f in found]), picked[None, :, rows], 0)[0]
    points, spreads = (np.stack([getattr(f, name) for f in found]) for name in ("expected", "uncertainty"))
    expected = points.mean(0)
    uncertainty = np.sqrt((spreads**2 + points**2).mean(0).clip(min=expected**2) - expected**2)
    kinds = [] if first.schema.is_array else [field.kind for field in first.schema.fields]
    for j, kind in enumerate(kinds):
        here = cells[1] == j
        if kind == "category":
            expected[here], uncertainty[here] = _vote(points[:, here], 1 - spreads[:, here])
        elif kind == "ordinal":
            expected[here] = np.sort(points[:, here], 0)[(len(found) - 1) // 2]
    sizes = np.stack([f.effective_sample_size for f in found])
    with np.errstate(divide="ignore"):
        size = len(found) ** 2 / (1 / sizes).sum(0)
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


def _vote(names: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the models' likeliest names (K, C) and their probabilities the name with most in all, (C,), and what is left
    for others, which is no less than their probability.
    """
    votes = ((names[:, None] == names[None]) * shares[None]).sum(1)
    best = votes.argmax(0)[None]
    share = np.take_along_axis(votes, best, 0)[0] / len(names)
    return np.take_along_axis(names, best, 0)[0], 1 - share
