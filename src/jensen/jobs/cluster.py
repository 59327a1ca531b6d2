"""Cluster: which component of a mixture each datum belongs to.

    p(k | x) = E_{q(z | x)}[p(k | z)]        p(k | z) = π_k p_k(z) / Σ_j π_j p_j(z)

z is whatever has a mixture for its density: the datum itself, the base of a flow, or a hidden variable, which q draws.
Where q infers the component itself, its posterior is the answer. So a mixture clusters, a mixture of flows, and an
autoencoder whose prior is a mixture (Jiang et al. 2017, "Variational deep embedding", arXiv:1611.05148).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, OneHotCategorical

from jensen.core import Evidence, Joint, Model, Shown, evidence, seeded
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.job import job
from jensen.jobs.precision import as_in
from jensen.jobs.run import Run
from jensen.objectives.prior import priors

ROWS = 2000  # walked at once
DRAWS = 100  # of what q draws
SHOWN = 20  # clusters whose size is told


@dataclass(frozen=True, repr=False)
class Clusters(Shown):
    """Which cluster each datum belongs to.

    Attributes:
        probabilities: p(k | x), (n, K).
        rows: where the data stood in the data they came from, (n,).
        labels: of the data, (n,), -1 where a datum has none; None where nothing has.
        classes: names of the labels.
        data, split: what was clustered.
    """

    probabilities: np.ndarray
    rows: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    data: str
    split: str

    @property
    def cluster(self) -> np.ndarray:
        """The likeliest, 0..K−1, (n,)."""
        return self.probabilities.argmax(1)

    @property
    def probability(self) -> np.ndarray:
        """Of the likeliest, (n,)."""
        return self.probabilities.max(1)

    @property
    def entropy(self) -> np.ndarray:
        """Of p(k | x) in nats, (n,): 0 where there is no doubt."""
        p = self.probabilities
        return -(p * np.log(np.where(p > 0, p, 1.0))).sum(1)

    def table(self) -> Any:
        """A frame: row, cluster, probability, entropy and, where there is one, label."""
        import pandas

        columns: dict[str, Any] = {
            "row": self.rows,
            "cluster": self.cluster,
            "probability": self.probability,
            "entropy": self.entropy,
        }
        if self.labels is not None:
            names = np.array([*(self.classes or map(str, range(self.labels.max() + 1))), ""], dtype=object)
            columns["label"] = names[self.labels]
        return pandas.DataFrame(columns)

    def agreement(self) -> dict[str, float] | None:
        """With labels, whatever the clusters are called: 1 where they are the same division, about 0 by chance.

        The adjusted Rand index (Hubert and Arabie 1985), the normalised mutual information, and the accuracy where each
        cluster is called by at most one label, matched so that it is highest (Kuhn 1955, the "Hungarian" method).
        """
        if self.labels is None or not (self.labels >= 0).any():
            return None
        from scipy.optimize import linear_sum_assignment
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
        from sklearn.metrics.cluster import contingency_matrix

        known = self.labels >= 0
        pair = self.labels[known], self.cluster[known]
        counts = contingency_matrix(*pair)
        return {
            "accuracy": float(counts[linear_sum_assignment(counts, maximize=True)].sum() / known.sum()),
            "adjusted_rand_index": float(adjusted_rand_score(*pair)),
            "normalized_mutual_information": float(normalized_mutual_info_score(*pair)),
            "labelled": int(known.sum()),
        }

    def to_dict(self) -> dict[str, Any]:
        """A summary fit for JSON."""
        return {
            "data": self.data,
            "split": self.split,
            "n": len(self.rows),
            "clusters": self.probabilities.shape[1],
            "sizes": np.bincount(self.cluster, minlength=self.probabilities.shape[1]).tolist(),
            "probability": float(self.probability.mean()),
            "entropy": float(self.entropy.mean()),
            "agreement": self.agreement(),
        }

    def __str__(self) -> str:
        found = self.to_dict()
        used = sum(size > 0 for size in found["sizes"])
        sizes = ", ".join(f"{size:,}" for size in sorted(found["sizes"], reverse=True)[: min(used, SHOWN)])
        sizes += f" and {used - SHOWN:,} smaller ones" if used > SHOWN else ""
        lines = [
            f"{found['n']:,} data of {self.data} {self.split} in {used} of {found['clusters']} clusters: {sizes}",
            f"mean probability of the likeliest {found['probability']:.3f}, entropy {found['entropy']:.3f} nats",
        ]
        if found["agreement"] is not None:
            accuracy, rand, mutual, n = found["agreement"].values()
            lines.append(
                f"against labels of {n:,}: accuracy {accuracy:.3f}, with each cluster called by one label at most; "
                f"adjusted Rand index {rand:.3f}, normalised mutual information {mutual:.3f}"
            )
        return "\n".join(lines)


@job("cluster")
@torch.no_grad()
def cluster(
    run: Run,
    data: Any = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Clusters:
    """Which component of a mixture each datum belongs to, and how surely.

    Args:
        data: None for the run's own.
        split, limit: which part; a random subset of so many.
        draws: of what q draws, over which p(k | x) is averaged; where nothing is drawn, one tells all.
        seed: of draws and subset.

    Raises:
        CapabilityError: there is no mixture in the model.
        ConfigError: no draws.
    """
    if draws < 1:
        raise ConfigError(f"--draws: expected >= 1, got {draws}")
    found, name, part = run.split(data, split)
    model, tensors, chosen = run.model.eval(), run.tensors(part), run.pick(part, limit, seed)
    shares = []
    with seeded(seed, run.device):
        where = components_in(model, as_in(model, tensors.take(slice(0, 1))))
        if where is None:
            raise CapabilityError(
                f"{run.spec['model']} cannot cluster: none of its densities is a mixture, and q infers no component"
                + _another_prior(run)
            )
        k = draws if model.hidden and not _infers(model, where) else 1
        for index in torch.from_numpy(chosen).to(run.device).split(max(1, ROWS // k)):
            shares.append(shares_of(model, where, as_in(model, tensors.take(index)), k).cpu())
    labels = None if part.y is None else part.y[chosen]
    return Clusters(
        torch.cat(shares).double().numpy(), part.index[chosen], labels, run.schema.classes, found.name, name
    )


def components_in(model: Model, batch: Mapping[str, Tensor]) -> str | None:
    """The variable whose component can be told: one that is a component, or whose density is a mixture."""
    e = model.evidence(batch)
    inferred = (name for name, q in e.q.items() if name in model.p and isinstance(q, OneHotCategorical))
    return next(inferred, None) or next((name for name, p in e.p.items() if _tells(p)), None)


def shares_of(model: Model, name: str, batch: Mapping[str, Tensor], draws: int) -> Tensor:
    """p(k | x), (B, K)."""
    known = {n: v for n, v in batch.items() if n in (model.data, *model.context)}
    if _infers(model, name):
        q = evidence(Joint(), model.q, known).q[name]
        assert isinstance(q, OneHotCategorical)
        return q.probs
    parts = {str(f): f.module for f in model.p if f.deterministic or f.name == name}
    e = evidence(Joint(parts), model.q, known, draws)
    return _responsibilities(e, name).mean(0)


def _another_prior(run: Run) -> str:
    """Where a mixture can be had without training anew."""
    could = "prior" in run.spec.get("settings", {}) and any(not p.parents for p in priors(run.model))
    return "; jensen train prior RUN prior=mixture fits one to its codes" if could else ""


def _infers(model: Model, name: str) -> bool:
    """Whether a variable is the component itself, of which q has the probabilities."""
    return name in model.q and getattr(model.q[name].module, "discrete", False)


def _tells(dist: Distribution) -> bool:
    return hasattr(dist, "responsibilities") or hasattr(getattr(dist, "base", None), "responsibilities")


def _responsibilities(e: Evidence, name: str) -> Tensor:
    """p(k | z) at each draw, (draws or 1, B, K)."""
    dist: Any = e.p[name]
    value = e.values[name]
    if len(value) != e.batch:
        value = value.unflatten(0, (e.particles, e.batch))
        if dist.batch_shape[:1] == (e.particles * e.batch,):
            dist = dist.unflatten((e.particles, e.batch))
    if not hasattr(dist, "responsibilities"):  # a flow from a mixture
        value, dist = dist.to_base(value)[0], dist.base
    found = dist.responsibilities(value)
    return found if found.dim() == 3 else found[None]
