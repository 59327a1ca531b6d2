"""What variational inference found: q, its draws and weights, how far to trust them, and a folder of all that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from jensen.core import Shown, seeded
from jensen.errors import ConfigError, IntegrityError
from jensen.jobs.infer.asked import Bounds, family_of, map_onto
from jensen.objectives.defensive import SecondLook
from jensen.objectives.pareto import trustworthy
from jensen.registry import Choice
from jensen.training.folder import load_tensors, save_tensors, write_atomically
from jensen.transforms import Composed, Transform, Triangular

FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """What a listener is told after every window: steps done, the window's mean bound, its standard error, in nats."""

    step: int
    elbo: float
    stderr: float
    step_size: float


@dataclass(repr=False)
class Inference(Shown):
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
        component, chosen = family_of(record["family"], record["settings"])
        record["support"] = [tuple(b) for b in record["support"]]
        dim, dtype = record["dim"], tensors["mean"].dtype
        transform = Composed([Triangular(torch.zeros(dim), torch.eye(dim)), map_onto(record["support"])]).to(dtype)
        q = Choice(component, chosen)(dim).to(dtype)
        q.requires_grad_(False).load_state_dict({k[2:]: v for k, v in tensors.items() if k.startswith("q.")})
        transform.load_state_dict({k[10:]: v for k, v in tensors.items() if k.startswith("transform.")})
        for name in ("verdict", "trustworthy", "misses_mass", "missed_mass"):
            record.pop(name, None)  # follows from the others
        kept = {name: tensors[name] for name in _TENSORS}
        return Inference(**{**record, **kept}, q=q, transform=transform)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, yaml.YAMLError, ConfigError) as e:
        raise IntegrityError(f"{folder} is corrupt: {str(e).splitlines()[0]}") from None
