"""Estimators side by side: variance and bias against cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.core import seeded
from jensen.errors import ConfigError
from jensen.objectives.gradients.estimator import Estimator, Function

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEARNING_STEPS = 300  # in which a learned baseline learns, before anything is measured


@dataclass(frozen=True)
class Measured:
    """One estimator with one number of samples.

    Attributes:
        estimator, samples: which.
        evaluations: of f, for one estimate of the gradient.
        seconds: for one estimate, many being computed at once.
        mean: of the estimates, all parameters in a row.
        stderr: of that mean.
        variance: of one estimate, summed over the parameters.
        bias: Euclidean length of mean − truth; None where the truth was not given.
        declared_biased: what the estimator says of itself.
    """

    estimator: str
    samples: int
    evaluations: float
    seconds: float
    mean: list[float]
    stderr: list[float]
    variance: float
    bias: float | None
    declared_biased: bool


@dataclass(frozen=True)
class Comparison:
    """What `compare` found, a row for each estimator and number of samples."""

    rows: list[Measured]
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        return {"repeats": self.repeats, "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        lines = ["estimator                  samples  evaluations      variance          bias"]
        for row in self.rows:
            bias = "" if row.bias is None else f"{row.bias:12.3g}"
            lines.append(
                f"{row.estimator:26} {row.samples:7,} {row.evaluations:12,.0f} {row.variance:13.4g}  {bias}".rstrip()
            )
        return "\n".join(lines)

    def figure(self) -> Figure:
        """Variance against cost, both on logarithmic axes; biased estimators are dashed."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        self.draw(figure.add_subplot())
        return figure

    def draw(self, axes: Any) -> None:
        """The same on axes of matplotlib."""
        for name in dict.fromkeys(row.estimator for row in self.rows):
            rows = [row for row in self.rows if row.estimator == name and row.variance > 0]
            biased = any(row.declared_biased for row in rows)
            label = f"{name} (biased)" if biased else name
            axes.loglog(
                [row.evaluations for row in rows],
                [row.variance for row in rows],
                "o--" if biased else "o-",
                label=label,
                markersize=4,
            )
        axes.set_xlabel("evaluations of f")
        axes.set_ylabel("variance of the gradient, summed over parameters")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)

    def plot(self, path: str | Path) -> None:
        """Save the figure; the suffix says as what."""
        self.figure().savefig(path, dpi=150)


def compare(
    q: Callable[..., Distribution],
    parameters: Mapping[str, Tensor],
    f: Function,
    estimators: Mapping[str, Estimator],
    *,
    samples: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    repeats: int = 1000,
    truth: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Comparison:
    """Variance, bias and cost of estimators of ∇ E_q[f].

    Args:
        q: from the named parameters, with any leading batch dimensions, to a density with them.
        parameters: where the gradient is taken, each of the shape of one event.
        f: of values `(*, *event)`, giving `(*)`.
        estimators: by the name to show. A baseline that learns is given time to learn first.
        samples: numbers of draws; those that an estimator refuses are left out.
        repeats: independent estimates, computed at once.
        truth: the gradient, by parameter.
        seed: of all draws.

    >>> from torch.distributions import Independent, Normal
    >>> from jensen.objectives.gradients import Pathwise
    >>> found = compare(
    ...     lambda loc: Independent(Normal(loc, 1.0), 1), {"loc": torch.ones(1)},
    ...     lambda z: z.square().sum(-1), {"pathwise": Pathwise()}, samples=[4], repeats=2000,
    ... )
    >>> round(found.rows[0].variance, 1)  # of 2 z, averaged over four: 4 / 4
    1.0
    """
    if repeats < 2:
        raise ValueError(f"repeats: expected at least 2, for a variance, got {repeats}")
    wide = {name: p.detach().expand(repeats, *p.shape).clone().requires_grad_() for name, p in parameters.items()}
    wanted = None if truth is None else torch.cat([truth[name].detach().flatten() for name in parameters])
    rows = []
    for name, estimator in estimators.items():
        with seeded(seed):
            _learn(estimator, q, wide, f, max(samples))
            for count in samples:
                try:
                    rows.append(_measure(name, estimator, q, wide, f, count, wanted))
                except ConfigError:
                    if count > 1:  # not a matter of too few samples
                        raise
    return Comparison(rows, repeats)


def _measure(
    name: str,
    estimator: Estimator,
    q: Callable[..., Distribution],
    wide: Mapping[str, Tensor],
    f: Function,
    samples: int,
    truth: Tensor | None,
) -> Measured:
    repeats, counted = len(next(iter(wide.values()))), 0

    def counting(z: Tensor) -> Tensor:
        nonlocal counted
        value = f(z)
        counted += value.numel()
        return value

    began = time.perf_counter()
    surrogate = estimator(q(**wide), counting, samples)
    gradients = torch.autograd.grad(surrogate.value.sum(), list(wide.values()))
    seconds = time.perf_counter() - began
    estimates = torch.cat([g.reshape(repeats, -1) for g in gradients], 1).double()  # (R, P)
    mean, variance = estimates.mean(0), estimates.var(0)
    return Measured(
        name,
        samples,
        counted / repeats,
        seconds / repeats,
        mean.tolist(),
        (variance / repeats).sqrt().tolist(),
        float(variance.sum()),
        None if truth is None else math.dist(mean.tolist(), truth.tolist()),
        estimator.biased,
    )


def _learn(
    estimator: Estimator, q: Callable[..., Distribution], wide: Mapping[str, Tensor], f: Function, samples: int
) -> None:
    """Let a baseline see f before it is judged."""
    parameters = list(estimator.parameters())
    stateful = parameters or list(estimator.buffers())
    if not stateful:
        return
    optimizer = torch.optim.Adam(parameters) if parameters else None
    few = {name: value[:16].detach() for name, value in wide.items()}
    first = None
    for step in range(LEARNING_STEPS):
        loss = estimator(q(**few), f, samples).baseline_loss
        if optimizer is not None:
            first = first or 0.05 * max(1e-3, float(loss.detach()) ** 0.5)  # in the units of f
            optimizer.param_groups[0]["lr"] = first * (1 - step / LEARNING_STEPS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
