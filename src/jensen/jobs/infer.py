"""Variational inference for any density that can be computed up to a constant.

    q* = argmax_q E_q[log p̃(z) − log q(z)] = argmin_q KL(q ‖ p)

Where the target does not live on the whole real line, q lives on R^D and a fixed map carries it there. The gradient is
followed at a falling step size; each stands until a moving window of bounds no longer rises, and what is kept is the
average of the parameters in its last window. Then importance weights say how far q can be trusted, and draws from a
wider density whether q misses mass.

Kucukelbir, Tran, Ranganath, Gelman and Blei, "Automatic differentiation variational inference", 2017, arXiv:1603.00788;
the start: Zhang, Carpenter, Gelman and Vehtari, "Pathfinder", 2022, arXiv:2108.03782; stopping and averaging: Dhaka,
Catalina, Andersen, Magnusson, Huggins and Vehtari, "Robust, accurate stochastic optimization for variational
inference", 2020, arXiv:2009.00666; k̂: see `objectives.pareto`; the wider density: see `objectives.defensive`.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from torch import Tensor, nn

from jensen.conditionals.flows import Flow
from jensen.core import seeded
from jensen.errors import ConfigError, DataError, InferenceWarning, IntegrityError, did_you_mean
from jensen.objectives.defensive import SecondLook, look_again
from jensen.objectives.pareto import smooth, trustworthy
from jensen.objectives.variational import Gradient, Target, bound, walk
from jensen.registry import Choice, Component, configure, find, names
from jensen.training.adam import LeanAdam
from jensen.training.folder import load_tensors, save_tensors, write_atomically
from jensen.transforms import Affine, Columns, Composed, Exp, Transform, Triangular, interval

FORMAT = 1
FALL, LEVELS = 0.25, 5  # the step size falls by this factor, so many times in all
PATIENCE = 2  # windows in a row that do not rise, before it falls
TOLERANCE = 1e-3  # nats: a rise that matters
PATH, NEARBY = 30, 20  # points of the ascent that are candidates for a start, and draws that judge each
SCALES = 1e-4, 1e4  # a first guess of a scale is within
LARGEST_CURVATURE = 300  # dimensions, above which no matrix of second derivatives is made
RUNAWAY = 1e6  # first guesses, beyond which a scale has no end
BLOCK = 2000  # draws walked at once in judging q
FAR = 30.0, 300.0  # standard deviations at which a target is asked whether it falls off
Bounds = tuple[float | None, float | None]


@dataclass(frozen=True)
class Progress:
    """What a listener is told after every window: steps done, the window's mean bound, its standard error, in nats."""

    step: int
    elbo: float
    stderr: float
    step_size: float


@dataclass
class Inference:
    """A fitted q, and how good it is. All numbers are in nats and in the target's own coordinates.

    Attributes:
        mean, std: of q, (D,), float64: exact for families on the real line that know them, else from the draws.
        weighted_mean, weighted_std: of the target, by smoothed importance weights, (D,).
        elbo, elbo_stderr: lower bound on log Z, and its Monte Carlo error.
        log_evidence, log_evidence_stderr: log Z by importance weights; low on average, which the error does not cover.
        kind: of `log_evidence`.
        defensive_log_evidence, defensive_log_evidence_stderr: log Z by draws of q and as many of a wider density with
            heavy tails; see `misses_mass`.
        k_hat, k_hat_stderr: shape of the tail of the weights, and its error; see `verdict`.
        effective_sample_size: of the weights, in 1..N.
        draws: from q, (N, D).
        log_weights: of the draws, smoothed and normalised, (N,).
        resampled: as many draws, drawn again by their weights, (N, D).
        converged: whether the bound stopped rising before the limit of steps.
        steps, seconds: of the fit.
        warnings: what makes the answer doubtful, in sentences.
    """

    family: str
    settings: dict[str, Any]
    dim: int
    support: list[Bounds]
    gradient: str
    seed: int
    target: str
    mean: Tensor
    std: Tensor
    weighted_mean: Tensor
    weighted_std: Tensor
    elbo: float
    elbo_stderr: float
    log_evidence: float
    log_evidence_stderr: float
    k_hat: float
    k_hat_stderr: float
    effective_sample_size: float
    draws: Tensor
    log_weights: Tensor
    resampled: Tensor
    converged: bool
    steps: int
    seconds: float
    warnings: list[str]
    q: nn.Module = field(repr=False)
    transform: Transform = field(repr=False)
    kind: str = "estimate"
    defensive_log_evidence: float = math.nan
    defensive_log_evidence_stderr: float = math.nan

    @property
    def misses_mass(self) -> bool:
        """Whether a wider density finds significantly more of the target than q's own draws do."""
        found = SecondLook(self.defensive_log_evidence, self.defensive_log_evidence_stderr)
        return found.misses(self.log_evidence, self.log_evidence_stderr)

    @property
    def missed_mass(self) -> float:
        """Share of the target's mass where q hardly ever draws, in 0..1; an estimate, 0 where q does not miss any."""
        return -math.expm1(self.log_evidence - self.defensive_log_evidence) if self.misses_mass else 0.0

    @property
    def trustworthy(self) -> bool:
        """Whether means by weighted draws can be trusted: k̂, with its error added, is low, and q misses no mass."""
        return _low(self.k_hat, self.k_hat_stderr, len(self.draws)) and not self.misses_mass

    @property
    def verdict(self) -> str:
        """What k̂ and the wider density say, in a sentence or two."""
        if not self.misses_mass:
            return verdict(self.k_hat, self.k_hat_stderr, len(self.draws))
        missing = (
            f"q misses mass: draws from a wider density put log Z at {self.defensive_log_evidence:.3f} ± "
            f"{self.defensive_log_evidence_stderr:.3f}, those of q alone at {self.log_evidence:.3f} ± "
            f"{self.log_evidence_stderr:.3f}, so about {self.missed_mass:.0%} of the target's mass lies where q hardly "
            f"ever draws. Trust neither q nor the weighted draws to stand for the target; try a richer or another "
            f"family (mixture, for several modes), another start, or other coordinates."
        )
        if _low(self.k_hat, self.k_hat_stderr, len(self.draws)):
            return f"k̂ = {self.k_hat:.2f} ± {self.k_hat_stderr:.2f} would do, but {missing}"
        return f"{verdict(self.k_hat, self.k_hat_stderr, len(self.draws))} And {missing}"

    @torch.no_grad()
    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """Draws from q, (n, D), in the target's coordinates."""
        if seed is not None:
            with seeded(seed):
                return self.sample(n)
        return self.transform.forward(self.q().sample((n,)))

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x) in nats, (N,), for rows x, (N, D): the normalised density that stands for the target."""
        u, ladj = self.transform.inverse_and_ladj(x.to(self.mean))
        return self.q().log_prob(u) + ladj

    def to_dict(self) -> dict[str, Any]:
        """What was found, without the draws."""
        numbers = ("elbo", "elbo_stderr", "log_evidence", "log_evidence_stderr", "kind", "k_hat",
            "k_hat_stderr", "defensive_log_evidence",
            "defensive_log_evidence_stderr", "misses_mass", "missed_mass", "trustworthy",
                   "verdict", "effective_sample_size", "converged", "steps", "seconds", "warnings")  # fmt: skip
        return {
            "target": self.target,
            "dim": self.dim,
            "family": self.family,
            "settings": self.settings,
            "support": [list(b) for b in self.support],
            "gradient": self.gradient,
            "seed": self.seed,
            "draws": len(self.draws),
            **{name: getattr(self, name) for name in numbers},
            **{n: getattr(self, n).tolist() for n in ("mean", "std", "weighted_mean", "weighted_std")},
        }

    def __str__(self) -> str:
        ended = f"converged after {self.steps:,} steps" if self.converged else f"stopped after {self.steps:,} steps"
        lines = [
            f"{self.family} q of {self.dim} dimensions, {ended}, {self.seconds:.1f} s",
            f"elbo {self.elbo:.3f} ± {self.elbo_stderr:.3f} nats, a lower bound on log Z",
            f"log Z {self.log_evidence:.3f} ± {self.log_evidence_stderr:.3f} nats, by {len(self.draws):,} draws",
            f"effective sample size {self.effective_sample_size:,.0f} of {len(self.draws):,}",
            self.verdict if self.trustworthy else f"warning: {self.verdict}",
        ]
        shown = min(self.dim, 12)
        lines.append("    dimension          mean       std     weighted mean       std")
        for d in range(shown):
            lines.append(
                f"    {d:9}  {self.mean[d]:12.4g} {self.std[d]:9.3g}      {self.weighted_mean[d]:12.4g} "
                f"{self.weighted_std[d]:9.3g}"
            )
        if shown < self.dim:
            lines.append(f"    ... {self.dim - shown:,} more")
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings if text != self.verdict])

    def save(self, path: str | Path) -> None:
        """Write a folder: inference.yaml, and q and its draws as tensors. No code and no pickle; see `open_inference`.

        Raises:
            ConfigError: something stands there that is no folder of this kind.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--out: {folder} exists; name a new folder")
        tensors = {f"q.{name}": value for name, value in self.q.state_dict().items()}
        tensors |= {f"transform.{name}": value for name, value in self.transform.state_dict().items()}
        tensors |= {name: getattr(self, name) for name in _TENSORS}
        save_tensors(folder / "q.safetensors", tensors)
        write_atomically(
            folder / "inference.yaml", yaml.safe_dump({**self.to_dict(), "format": FORMAT}, sort_keys=False)
        )


_TENSORS = ("mean", "std", "weighted_mean", "weighted_std", "draws", "log_weights", "resampled")


def verdict(k_hat: float, stderr: float, draws: int) -> str:
    """What k̂ means, in a sentence. An error that reaches beyond the limit counts as beyond it.

    >>> verdict(0.3, 0.06, 20_000).partition(":")[0]
    'k̂ = 0.30 ± 0.06, below 0.70'
    """
    if k_hat == -math.inf:
        return "k̂ = -inf: all weights are equal, q is the target as far as its draws can tell."
    said, limit = f"k̂ = {k_hat:.2f} ± {stderr:.2f}", trustworthy(draws)
    if _low(k_hat, stderr, draws):
        return (
            f"{said}, below {limit:.2f}: q is close enough to the target for weighted draws to make up for the rest, "
            f"as far as draws of q can tell; of a mode that q never visits they know nothing."
        )
    if k_hat < 1:
        return (
            f"{said}, not safely below {limit:.2f}: q misses part of the target, and few draws carry much of its "
            f"weight. Do not trust its spread or tails, nor the weighted draws; try a richer family."
        )
    return (
        f"{said}, 1 or more: q misses so much of the target's tails that the weights may have no finite mean. Trust "
        f"neither q nor the weighted draws to stand for the target; try a richer family, or other coordinates."
    )


def _low(k_hat: float, stderr: float, draws: int) -> bool:
    return k_hat + stderr <= trustworthy(draws)


def infer(
    log_density: Callable[[Tensor], Any],
    dim: int,
    *,
    family: str = "full",
    support: Any = None,
    start: Sequence[float] | Tensor | None = None,
    gradient: Gradient = "auto",
    samples: int = 16,
    draws: int = 20_000,
    window: int = 100,
    max_steps: int = 20_000,
    step_size: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    out: str | Path | None = None,
    target: str = "",
    listener: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Inference:
    """Fit q to a density known up to a constant.

    Args:
        log_density: log p̃(x) in nats, written in torch: of rows (N, D), giving (N,), or of one point (D,), giving ().
        dim: D.
        family: "mean-field", "full", "low-rank", "mixture", or a flow's name, as "iaf" or "spline".
        support: where the target lives: None for R^D; "positive", or (low, high) with None for no end, for all
            dimensions; a list of these, one a dimension; or a mapping from dimensions to these.
        start: a point of the support from which the first guess is sought; by default the origin, or the middle.
        gradient: see `objectives.variational.bound`; "auto" is "sticking-the-landing", and "pathwise" for flows, whose
            density at a given point may be slow.
        samples: S, draws of q a step.
        draws: N, of the fitted q, by which it is judged.
        window: steps in a moving window.
        max_steps: a limit, not a plan: the fit ends where the bound stops rising.
        step_size: at the beginning; by default 0.05, and 0.005 for flows.
        seed: of everything random.
        dtype: of what log_density is given.
        out: a folder to write, see `Inference.save`.
        target: how to call the target in what is written.
        listener: told after every window.
        settings: of the family, as `rank=3`.

    Raises:
        ConfigError: an argument does not exist or does not fit, or log_density does not give a number a row.
        DataError: log_density is NaN or infinite where q has mass, or nothing bounds the scale of q.

    Warns:
        InferenceWarning: each of `Inference.warnings`.

    >>> found = infer(lambda z: -0.5 * ((z - 3) / 2).square().sum(-1), 1, family="mean-field", draws=1000)
    >>> round(float(found.mean), 3), round(float(found.std), 3), round(found.log_evidence, 3)  # log √(2π 4)
    (3.0, 2.0, 1.612)
    """
    component, chosen = _family(family, settings)
    problems = [
        f"{name}: expected at least {least}, got {value}"
        for name, value, least in (
            ("dim", dim, 1), ("samples", samples, 2), ("draws", draws, 100), ("window", window, 10),
            ("max_steps", max_steps, 1),
        )
        if value < least
    ]  # fmt: skip
    if gradient not in get_args(Gradient):
        problems.append(f"gradient: {gradient!r} is none{did_you_mean(gradient, get_args(Gradient))}")
    if problems:
        raise ConfigError(problems)
    bounds = _bounds(support, dim)
    onto = _onto(bounds)
    if gradient == "auto":
        gradient = "pathwise" if component.name == "flow" else "sticking-the-landing"
    if component.name == "flow" and gradient == "measure-valued":
        raise ConfigError("gradient: measure-valued is known for family=mean-field only")
    began = time.perf_counter()
    with seeded(seed):
        like = torch.zeros(dim, dtype=dtype)
        u = _start(start, bounds, onto, like)
        needs_slope = gradient in ("pathwise", "sticking-the-landing")
        function = _batched(log_density, onto.forward(u[None])[0], dtype, needs_slope)
        loc, tril = _first_guess(Target(function, onto), u) if needs_slope else (u, torch.eye(dim, dtype=dtype))
        if component.name not in ("full", "flow"):  # the others are what they are along the axes
            tril = _axes(tril)
        transform = Composed([Triangular(loc, tril), onto])
        q = Choice(component, chosen)(dim).to(dtype)
        goal = Target(function, transform)
        doubts = _does_not_fall_off(Target(function, onto), loc, tril.square().sum(1).sqrt(), bounds)
        size = step_size or (0.005 if component.name == "flow" else 0.05)
        for text in doubts:  # at once, for the fit may fail of it
            warnings.warn(text, InferenceWarning, stacklevel=2)
        told = len(doubts)
        fit = _ascend(goal, q, gradient, samples, window, max_steps, size, listener, like)
        found = _judge(goal, q.requires_grad_(False), transform, draws, like)
    if not fit.converged:
        doubts.append(
            f"the bound was still rising after {fit.steps:,} steps: what was found is not the best q; raise max_steps"
        )
    doubts += found.pop("doubts")
    result = Inference(
        family=family, settings=_shown(chosen, family, component), dim=dim, support=bounds, gradient=gradient,
        seed=seed, target=target or getattr(log_density, "__name__", "log_density"), converged=fit.converged,
        steps=fit.steps, seconds=time.perf_counter() - began, warnings=doubts, q=q, transform=transform, **found,
    )  # fmt: skip
    if not result.trustworthy:
        result.warnings.append(result.verdict)
    for text in result.warnings[told:]:
        warnings.warn(text, InferenceWarning, stacklevel=2)
    if out is not None:
        result.save(out)
    return result


def open_inference(path: str | Path) -> Inference:
    """What `Inference.save` wrote: q draws and gives densities; the target itself is not stored.

    Raises:
        ConfigError: there is no such folder.
        IntegrityError: it is corrupt, or of another format.
    """
    folder = Path(path)
    if not (folder / "inference.yaml").exists():
        raise ConfigError(f"no inference at {folder}: it has no inference.yaml")
    tensors, _ = load_tensors(folder / "q.safetensors")
    try:
        record = yaml.safe_load((folder / "inference.yaml").read_text())
        if record.pop("format") != FORMAT:
            raise IntegrityError(f"{folder}: expected format {FORMAT}")
        component, chosen = _family(record["family"], record["settings"])
        record["support"] = [tuple(b) for b in record["support"]]
        dim, dtype = record["dim"], tensors["mean"].dtype
        transform = Composed([Triangular(torch.zeros(dim), torch.eye(dim)), _onto(record["support"])]).to(dtype)
        q = Choice(component, chosen)(dim).to(dtype)
        q.requires_grad_(False).load_state_dict({k[2:]: v for k, v in tensors.items() if k.startswith("q.")})
        transform.load_state_dict({k[10:]: v for k, v in tensors.items() if k.startswith("transform.")})
        for name in ("verdict", "trustworthy", "misses_mass", "missed_mass"):
            record.pop(name, None)  # follows from the others
        kept = {name: tensors[name] for name in _TENSORS}
        return Inference(**{**record, **kept}, q=q, transform=transform)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, yaml.YAMLError, ConfigError) as e:
        raise IntegrityError(f"{folder} is corrupt: {str(e).splitlines()[0]}") from None


# What was asked for


def _family(name: str, settings: Mapping[str, Any]) -> tuple[Component, dict[str, Any]]:
    """The family's component with its settings, checked; the name of a flow is short for `flow` of that flow."""
    if name in names("flow"):
        component = find("family", "flow")
        try:
            return component, configure(component, {"flow": {"name": name, **settings}})
        except ConfigError as e:  # as the settings were given
            raise ConfigError([problem.removeprefix("flow.") for problem in e.problems]) from None
    if name in names("family"):
        component = find("family", name)
        return component, configure(component, settings)
    raise ConfigError(f"family: {name!r} is none{did_you_mean(name, [*names('family'), *names('flow')])}")


def _shown(chosen: dict[str, Any], family: str, component: Component) -> dict[str, Any]:
    """Settings as they are given."""
    if component.name == "flow" and family != "flow":
        return {key: value for key, value in chosen["flow"].items() if key != "name"}
    return chosen


def _bounds(support: Any, dim: int) -> list[Bounds]:
    """Where each dimension lives, (low, high) with None for no end."""

    def one(given: Any, where: str) -> Bounds:
        named = {None: (None, None), "real": (None, None), "positive": (0.0, None)}
        if given is None or isinstance(given, str):
            if given not in named:
                raise ConfigError(f"{where}: {given!r} is none; choose real, positive or (low, high)")
            return named[given]
        try:
            low, high = (None if b is None or math.isinf(b) else float(b) for b in given)
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: expected real, positive or (low, high), got {given!r}") from None
        if low is not None and high is not None and not low < high:
            raise ConfigError(f"{where}: expected low < high, got {given!r}")
        return low, high

    if isinstance(support, Mapping):
        wrong = [key for key in support if not isinstance(key, int) or not 0 <= key < dim]
        if wrong:
            raise ConfigError(f"support: expected dimensions in 0..{dim - 1}, got {wrong[0]!r}")
        return [one(support.get(d), f"support[{d}]") for d in range(dim)]
    if isinstance(support, list):
        if len(support) != dim:
            raise ConfigError(f"support: expected one entry for each of {dim} dimensions, got {len(support)}")
        return [one(given, f"support[{d}]") for d, given in enumerate(support)]
    return [one(support, "support")] * dim


def _onto(bounds: list[Bounds]) -> Transform:
    """From R^D to where the target lives: low + exp, high − exp, or a stretched sigmoid."""
    groups: dict[Bounds, list[int]] = {}
    for d, ends in enumerate(bounds):
        if ends != (None, None):
            groups.setdefault(ends, []).append(d)
    parts: list[tuple[list[int], Transform]] = []
    for (low, high), dims in groups.items():
        shape = (len(dims),)
        if low is not None and high is not None:
            part = interval(shape, low, high)
        elif low is not None:
            part = Composed([Exp(shape), Affine(shape, low)])
        else:
            part = Composed([Exp(shape), Affine(shape, high or 0.0, -1.0)])
        parts.append((dims, part))
    return Columns(len(bounds), parts)


def _start(start: Any, bounds: list[Bounds], onto: Transform, like: Tensor) -> Tensor:
    """A point of R^D, (D,)."""
    onto.to(like.dtype)
    if start is None:
        return like.clone()
    x = torch.as_tensor(start).to(like)
    if x.shape != like.shape or not torch.isfinite(x).all():
        raise ConfigError(f"start: expected {len(like)} finite numbers, got {start!r}")
    for d, (low, high) in enumerate(bounds):
        if (low is not None and x[d] <= low) or (high is not None and x[d] >= high):
            raise ConfigError(f"start: dimension {d} is {float(x[d]):g}, outside its support {(low, high)}")
    return onto.inverse(x[None])[0]


def _batched(
    function: Callable[[Tensor], Any], point: Tensor, dtype: torch.dtype, needs_slope: bool
) -> Callable[[Tensor], Tensor]:
    """log_density of rows, (N, D) → (N,), whichever way it was written.

    Raises:
        ConfigError: it fails, or gives another shape, or one that depends on the other rows, or has no gradient where
            one is needed.
    """
    rows = torch.stack([point, point + 1e-3 * (1 + point.abs()), point])

    def call(x: Tensor) -> Tensor:
        try:
            return torch.as_tensor(function(x))
        except RuntimeError as e:
            if "dtype" in str(e) or "same type" in str(e):
                raise ConfigError(
                    f"log_density: {str(e).splitlines()[0]}; it is called with {str(dtype).removeprefix('torch.')} "
                    f"(dtype=torch.float32 to change that)"
                ) from None
            raise

    def by_row(x: Tensor) -> Tensor:
        return torch.stack([call(row).to(dtype) for row in x])

    def by_batch(x: Tensor) -> Tensor:
        return call(x).to(dtype)

    single: Tensor | None = None
    try:
        many: Any = call(rows.clone().requires_grad_())
    except ConfigError:
        raise
    except Exception as failure:  # written for one point
        many = failure
    if isinstance(many, Tensor) and many.shape == (3,):
        alone = torch.cat([call(row[None]).reshape(-1)[:1] for row in rows]).to(dtype)
        if torch.allclose(alone, many.detach().to(dtype), rtol=1e-3, atol=1e-6, equal_nan=True):
            return _differentiable(by_batch, rows) if needs_slope else by_batch
    try:
        single = call(point)
    except ConfigError:
        raise
    except Exception:
        single = None
    if single is not None and single.shape == ():
        mapped = torch.func.vmap(lambda x: call(x).to(dtype))
        try:
            mapped(rows)
        except Exception:  # it looks at values, or does what cannot be mapped
            mapped = by_row
        return _differentiable(mapped, rows) if needs_slope else mapped
    if isinstance(many, Exception):
        raise ConfigError(
            f"log_density fails at rows of shape {tuple(rows.shape)}: {type(many).__name__}: {many}; is dim right?"
        ) from many
    shape = tuple(many.shape)
    raise ConfigError(
        f"log_density: expected a number for each row, (3,) for rows {tuple(rows.shape)}, got {shape}"
        + (" that depends on the other rows" if shape == (3,) else "")
    )


def _differentiable(function: Callable[[Tensor], Tensor], rows: Tensor) -> Callable[[Tensor], Tensor]:
    x = rows.clone().requires_grad_()
    value = function(x)
    if not value.requires_grad:
        raise ConfigError(
            "log_density: no gradient reaches its argument (was it computed in NumPy, or detached?); write it in "
            "torch, or use gradient=score"
        )
    return function


# Where to begin


def _first_guess(target: Target, start: Tensor) -> tuple[Tensor, Tensor]:
    """Centre, (D,), and lower triangular scale, (D, D), of the best normal along an ascent of log p̃, on the real line.

    At each point the covariance is the inverse curvature, or where that is none its diagonal, and draws estimate the
    bound.
    """
    target.strict = False
    path, point = [start], nn.Parameter(start.clone())
    value, slope = _value_and_slope(target, start[None])
    if not torch.isfinite(value).all():
        target.strict = True
        target().log_prob(start[None])  # says what is wrong where the target forbids the start
    if not torch.isfinite(slope).all():
        raise DataError(f"the gradient of log_density is not finite where the search starts, {_point(target, start)}")
    optimizer = torch.optim.LBFGS([point], max_iter=3, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -target().log_prob(point[None])[0]
        value.backward()
        return value

    for _ in range(PATH):
        try:
            optimizer.step(loss)
        except (DataError, RuntimeError, ZeroDivisionError):  # it stepped out of what can be computed
            break
        here = point.detach().clone()
        if not torch.isfinite(here).all() or torch.equal(here, path[-1]):
            break
        path.append(here)
    best = (-math.inf, start, torch.eye(len(start), dtype=start.dtype))
    noise = torch.randn(NEARBY, len(start), dtype=start.dtype)
    for here in path if len(start) <= LARGEST_CURVATURE else path[-1:]:
        for tril in _scales(target, here):
            try:
                with torch.no_grad():
                    log_p = target().log_prob(here + noise @ tril.mT)
            except DataError:
                continue
            score = float(log_p.mean() + tril.diagonal().log().sum())
            if math.isfinite(score) and score > best[0]:
                best = (score, here, tril)
    target.strict = True
    return best[1], best[2]


def _scales(target: Target, here: Tensor) -> list[Tensor]:
    """Guesses of a lower triangular scale, (D, D), from the curvature H of log p̃ by differences of slopes.

    The diagonal (−H_dd)^(−½), 1 where the density is not concave; and the root of (−H)⁻¹ where that is positive.
    """
    d, width = len(here), 1e-4 if here.dtype == torch.float64 else 1e-2
    if d > LARGEST_CURVATURE:
        return [torch.eye(d, dtype=here.dtype)]
    steps = width * here.abs().clamp_min(1.0).diag()
    try:
        _, slope = _value_and_slope(target, torch.cat([here + steps, here - steps]))
    except DataError:
        return [torch.eye(d, dtype=here.dtype)]
    ahead, behind = slope.chunk(2)
    curvature = (ahead - behind) / (2 * steps.diagonal()[:, None])
    along = (-curvature.diagonal()).clamp_min(0.0).rsqrt()
    guesses = [torch.where(torch.isfinite(along), along, 1.0).clamp(*SCALES).diag()]
    if torch.isfinite(curvature).all():
        precision = -(curvature + curvature.mT) / 2
        root, failed = torch.linalg.cholesky_ex(precision.double())
        if not failed:
            covariance = torch.cholesky_inverse(root)
            tril, failed = torch.linalg.cholesky_ex((covariance + covariance.mT) / 2)
            inside = SCALES[0] <= float(tril.diagonal().min()) and float(tril.norm(dim=1).max()) <= SCALES[1]
            if not failed and inside:
                guesses.append(tril.to(here.dtype))
    return guesses


def _axes(tril: Tensor) -> Tensor:
    """The scales along the axes, other dimensions held, as a diagonal matrix: (L Lᵀ)⁻¹_dd^(−½)."""
    inverse = torch.linalg.solve_triangular(tril, torch.eye(len(tril), dtype=tril.dtype), upper=False)
    return inverse.square().sum(0).rsqrt().diag()


def _value_and_slope(target: Target, u: Tensor) -> tuple[Tensor, Tensor]:
    u = u.detach().requires_grad_()
    value = target().log_prob(u)
    (slope,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), slope


def _point(target: Target, u: Tensor) -> str:
    values = target.transform.forward(u[None])[0].tolist()
    return "(" + ", ".join(f"{value:.4g}" for value in values[:6]) + (", ...)" if len(values) > 6 else ")")


@torch.no_grad()
def _does_not_fall_off(target: Target, loc: Tensor, scale: Tensor, bounds: list[Bounds]) -> list[str]:
    """Warnings for axes along which p̃(r) r does not decrease at a distance: along them it has no finite integral."""
    target.strict = False
    found = []
    for d in range(len(loc)):
        for sign, way in ((1.0, "upwards"), (-1.0, "downwards")):
            axis = torch.zeros_like(loc)
            axis[d] = sign * scale[d]
            rows = torch.stack([loc + r * axis for r in FAR])
            try:
                near, far = (target().log_prob(rows) + torch.tensor(FAR, dtype=loc.dtype).log()).tolist()
            except DataError:  # beyond what can be computed: nothing is known
                continue
            if math.isfinite(near) and far > near - 0.5:
                where = f"dimension {d}" + ("" if bounds[d] == (None, None) else f" (support {bounds[d]})")
                found.append(
                    f"log_density does not fall off along {where} {way}: its integral there seems infinite, and an "
                    f"improper target has no posterior; a prior, or a support, would make it proper"
                )
                break
    target.strict = True
    return found


# The ascent


@dataclass(frozen=True)
class _Fit:
    steps: int
    converged: bool


def _ascend(
    target: Target, q: nn.Module, gradient: Gradient, samples: int, window: int, max_steps: int, size: float,
    listener: Callable[[Progress], None] | None, like: Tensor,
) -> _Fit:  # fmt: skip
    """Adam at step sizes that fall; each holds until the bound, by windows, stops rising, and ends in an average."""
    parameters = list(q.parameters())
    step = 0
    for level in range(LEVELS):
        optimizer = LeanAdam(parameters, size * FALL**level)
        optimizer.param_groups[0]["betas"] = (0.9, 0.99)  # an outlier among the gradients is soon forgotten
        flat, last = 0, None
        while flat < PATIENCE:
            bounds, average = [], [torch.zeros_like(p) for p in parameters]
            for _ in range(window):
                value, log_w = bound(target, q, samples, gradient, like)
                gradients = torch.autograd.grad(-value, parameters, allow_unused=True)
                _refuse_not_finite(gradients, q)
                for p, g in zip(parameters, gradients, strict=True):
                    p.grad = g
                optimizer.step()
                torch._foreach_add_(average, [p.detach() for p in parameters], alpha=1 / window)
                bounds.append(log_w.mean())
            step += window
            means = torch.stack(bounds).double()
            now = float(means.mean()), float(means.std() / math.sqrt(window))
            if listener is not None:
                listener(Progress(step, *now, size * FALL**level))
            _refuse_runaway(q)
            rose = last is None or now[0] - last[0] > max(TOLERANCE, math.hypot(now[1], last[1]))
            flat, last = (0 if rose else flat + 1), now
            if step >= max_steps:
                break
        with torch.no_grad():
            for p, kept in zip(parameters, average, strict=True):
                p.copy_(kept)
        if step >= max_steps and (level < LEVELS - 1 or flat < PATIENCE):
            return _Fit(step, False)
    return _Fit(step, True)


def _refuse_not_finite(gradients: Sequence[Tensor | None], q: nn.Module) -> None:
    for (name, _), g in zip(q.named_parameters(), gradients, strict=True):
        if g is not None and not torch.isfinite(g).all():
            raise DataError(
                f"the gradient of the bound with respect to q's {name} is not finite: log_density is finite at the "
                f"draws but its own gradient is not (a square root at 0, a where() that hides NaN?)"
            )


@torch.no_grad()
def _refuse_runaway(q: nn.Module) -> None:
    """Stop where nothing bounds a scale."""
    scale = getattr(q, "log_scale", None)
    scale = getattr(getattr(q, "base", None), "log_scale", None) if scale is None else scale
    if scale is not None and scale.numel() and float(scale.max()) > math.log(RUNAWAY):
        where = int(scale.flatten().argmax()) % scale.shape[-1]
        raise DataError(
            f"q grew without end along dimension {where}, to {RUNAWAY:.0e} times the first guess of its scale: nothing "
            f"bounds it, so the integral of exp(log_density) seems infinite (an improper target)"
        )


# How good it is


@torch.no_grad()
def _judge(target: Target, q: nn.Module, transform: Composed, draws: int, like: Tensor) -> dict[str, Any]:
    """Draws, weights, and what they say."""
    target.strict = False
    parts = [walk(target, q, min(BLOCK, draws - done), like) for done in range(0, draws, BLOCK)]
    log_w = torch.cat([e.log_w[:, 0] for e in parts])
    u, log_q = torch.cat([e.values["u"] for e in parts]), torch.cat([e.log_q["u"][:, 0] for e in parts])
    x = transform.forward(u)
    doubts = []
    lost = int((log_w == -math.inf).sum())
    if lost:
        doubts.append(
            f"log_density is -inf at {lost} of {draws} draws of q: the target has no mass where q has some, and the "
            f"bound is -inf; say where the target lives by support"
        )
    if lost == draws:
        raise DataError(f"log_density is -inf at all {draws} draws of q")
    smoothed = smooth(log_w)
    weight = smoothed.log_weights.exp().to(x)
    weighted = weight @ x
    spread = (weight @ (x - weighted).square()).sqrt()
    mean, std = _moments(q, transform, x)
    w = (log_w - log_w.max()).exp()
    chosen = torch.multinomial(weight, draws, replacement=True)
    second = look_again(partial(_plain, target), q(), u, log_w, log_q)
    return {
        "mean": mean,
        "std": std,
        "weighted_mean": weighted,
        "weighted_std": spread,
        "elbo": float(log_w.mean()),
        "elbo_stderr": float(log_w.std() / math.sqrt(draws)),
        "log_evidence": float(log_w.logsumexp(0) - math.log(draws)),
        "log_evidence_stderr": float(w.std() / w.mean() / math.sqrt(draws)),
        "defensive_log_evidence": second.log_evidence,
        "defensive_log_evidence_stderr": second.stderr,
        "k_hat": smoothed.shape,
        "k_hat_stderr": smoothed.stderr,
        "effective_sample_size": float(w.sum().square() / w.square().sum()),
        "draws": x,
        "log_weights": smoothed.log_weights,
        "resampled": x[chosen],
        "doubts": doubts,
    }


def _plain(target: Target, u: Tensor) -> Tensor:
    """log p̃(u), (N,), whatever it is."""
    x, ladj = target.transform.forward_and_ladj(u)
    return target.log_density(x) + ladj


def _moments(q: nn.Module, transform: Composed, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q in the target's coordinates: exact where they are known, else of the draws."""
    affine, onto = transform.chain
    mean, std = x.mean(0), x.std(0)
    if not isinstance(q, Flow) and isinstance(affine, Triangular) and isinstance(onto, Columns):
        dist = q()
        straight = torch.ones(len(mean), dtype=torch.bool)
        for n in range(len(onto.parts)):
            straight[getattr(onto, f"index{n}")] = False
        tril = affine.scale_tril
        if hasattr(dist, "covariance_matrix"):
            variance = ((tril @ dist.covariance_matrix) * tril).sum(1)
        else:  # independent along the axes, and L is diagonal
            variance = tril.square() @ dist.variance
        mean = torch.where(straight, affine.loc + tril @ dist.mean, mean)
        std = torch.where(straight, variance.sqrt(), std)
    return mean, std
