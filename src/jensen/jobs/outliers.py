"""Outliers: how strange each datum is, with a p-value whose rate of false alarms holds, and what is strange about it.

| method | score, higher = stranger | needs |
|---|---|---|
| likelihood     | −log p(x), exact or by a bound | a likelihood |
| typicality     | how far −log p(x) is from its mean on training data | a likelihood |
| reconstruction | −E_q log p(x given z) | hidden variables |
| latent         | Mahalanobis distance of the code from the codes of training data | codes |
| ensemble       | −(mean − variance) of log p(x) over several runs, WAIC | likelihoods |

A score alone says nothing about how rare it is. Data for calibration, which training did not fit, do: see
`jensen.jobs.conformal`. Likelihood is of a density, which changes with the coordinates of the data (Le Lan and Dinh
2021, arXiv:2012.03808) and which simple pictures have more of (Nalisnick et al. 2019a, arXiv:1810.09136).

Nalisnick, Matsukawa, Teh and Lakshminarayanan, "Detecting out-of-distribution inputs to deep generative models using
typicality", 2019, arXiv:1906.02994. Choi, Jang and Alemi, "WAIC, but why?", 2018, arXiv:1810.01392. Lee, Lee, Lee and
Shin, "A simple unified framework for detecting out-of-distribution samples", 2018, arXiv:1807.03888: the distance.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jensen.core import Shown, seeded
from jensen.data import Dataset, Split
from jensen.errors import CapabilityError, ConfigError, DataError, DataWarning, did_you_mean
from jensen.jobs.conformal import benjamini_hochberg, conformal_p_values
from jensen.jobs.encode import encode
from jensen.jobs.ensembles import strangers, together
from jensen.jobs.job import job
from jensen.jobs.precision import as_in
from jensen.jobs.run import Run
from jensen.jobs.score import score
from jensen.jobs.surprise import PARTICLES as OF_SURPRISE
from jensen.jobs.surprise import Surprise, surprise

PARTICLES = 50  # of the bound, where there is no exact likelihood
MOST = 10_000  # training data, and data for calibration, that are looked at
BATCH = 1000
USUAL = 100  # data for calibration that tell how surprising a column usually is
SHOWN, OF_ROW = 5, 3  # rows, and columns of each, that are told of
DEVIATION = 1.0  # bits more than usual from which on a column that was constant in training is told of


@dataclass(frozen=True, eq=False, repr=False)
class Outliers(Shown):
    """How strange n data are.

    Attributes:
        rows: numbers of the data in what they came from, (n,), the first one 0.
        score: (n,), higher = stranger; of the unit of the method, nats but for distances.
        p_value: conformal, (n,): the share of usual data that are as strange.
        outlier: (n,), whether p ≤ α; with `fdr` whether the p-value adjusted for the batch is.
        alpha, fdr: rate of false alarms among usual data, or share of false alarms among outliers.
        method: by which they were scored.
        calibration: how many data p-values come from, and where these are from.
        surprise: by column; None where it was not asked for.
        usual_bits: mean surprise of each column in some of the data for calibration, (D,); None likewise.
        data, split: what was looked at.
        elsewhere: members of an ensemble that were trained on other rows than the first, whose split calibrates.
    """

    rows: np.ndarray
    score: np.ndarray
    p_value: np.ndarray
    outlier: np.ndarray
    alpha: float
    fdr: bool
    method: str
    calibration: tuple[int, str]
    surprise: Surprise | None
    usual_bits: np.ndarray | None
    data: str
    split: str
    elsewhere: Sequence[str] = ()

    def table(self) -> Any:
        """A frame of one row a datum: row, score, p_value, outlier; where asked for, by column, bits of surprise and
        what was expected.
        """
        import pandas

        columns = {"row": self.rows, "score": self.score, "p_value": self.p_value, "outlier": self.outlier}
        if self.surprise is not None:
            names, expected = self.surprise.names, pandas.DataFrame(self.surprise.expected)
            columns |= {f"surprise_{name}": self.surprise.bits[:, d] for d, name in enumerate(names)}
            columns |= {f"expected_{name}": expected.iloc[:, d].to_numpy() for d, name in enumerate(names)}
        return pandas.DataFrame(columns)

    def to_dict(self) -> dict[str, Any]:
        """A summary fit for JSON, its rows counted from 1."""
        finite = self.score[np.isfinite(self.score)]
        return {
            "data": self.data,
            "split": self.split,
            "n": len(self.rows),
            "method": self.method,
            "alpha": self.alpha,
            "fdr": self.fdr,
            "outliers": int(self.outlier.sum()),
            "rows": (self.rows[self.outlier] + 1).tolist(),
            "least_p_value": float(self.p_value.min()) if len(self.rows) else None,
            "median_score": float(np.median(finite)) if len(finite) else None,
            "calibration": {"n": self.calibration[0], "data": self.calibration[1]},
            "usual_bits": None
            if self.surprise is None or self.usual_bits is None
            else dict(zip(self.surprise.names, self.usual_bits.tolist(), strict=True)),
        }

    @property
    def warnings(self) -> list[str]:
        """What not to trust, in sentences."""
        n, least = self.calibration[0], 1 / (self.calibration[0] + 1)
        return [*self._of_size(n, least), *(f"{name} {ELSEWHERE}" for name in self.elsewhere)]

    def _of_size(self, n: int, least: float) -> list[str]:
        if least > self.alpha:
            few = (
                f"{n:,} data for calibration give no p-value below {least:.2g}, so none is an outlier at {self.alpha:g}"
            )
            return [f"{few}; more of them, by --calibration, or a larger --alpha"]
        if self.fdr and least * len(self.rows) > self.alpha:
            many = math.ceil(least * len(self.rows) / self.alpha - 1e-9)
            return [f"with {n:,} data for calibration --fdr needs {many:,} rows as strange as can be, or it finds none"]
        return []

    def __str__(self) -> str:
        bound = "a share of false ones among them" if self.fdr else "a rate of false alarms"
        lines = [
            f"outliers: {self.outlier.sum():,} of {len(self.rows):,} data of {self.data}"
            f"{'' if self.split == 'all' else f' {self.split}'} at {bound} of at most {self.alpha:g}",
            f"scores by {self.method}; p-values from {self.calibration[0]:,} data of {self.calibration[1]}",
        ]
        strangest = np.argsort(-self.score, kind="stable")[:SHOWN]
        if not self.outlier[strangest].any():
            lines.append("none is an outlier at this level; the strangest rows (the first of the data is 1):")
        else:
            lines.append("the strangest rows (the first of the data is 1), outliers marked with *:")
        for i in strangest:
            mark = "*" if self.outlier[i] else " "
            told = f"score {self.score[i]:.4g}, p = {self.p_value[i]:.3g}{self._why(i)}"
            lines.append(f"{mark} row {self.rows[i] + 1}: {told}")
        return "\n".join(lines)

    def _why(self, i: int) -> str:
        """The columns that surprise most in a row, beside what is usual of them, with what was expected there."""
        if self.surprise is None or self.usual_bits is None:
            return ""
        import pandas

        found, names, told = self.surprise.bits[i], self.surprise.names, []
        values, usual = (pandas.DataFrame(t).iloc[i] for t in (self.surprise.values, self.surprise.expected))
        more = found - np.nan_to_num(self.usual_bits)
        speaks = np.isfinite(found) & ~(self.surprise.constant & (more < DEVIATION))
        for d in [d for d in np.argsort(-more) if speaks[d]][:OF_ROW]:
            amount = f"{found[d]:z.1f} bits, usually {self.usual_bits[d]:z.1f}"
            told.append(f"{names[d]} {_short(values.iloc[d])} ({amount}; expected {_short(usual.iloc[d])})")
        return "; " * bool(told) + ", ".join(told)


@job("outliers")
def outliers(
    run: Run,
    data: Any = None,
    *,
    split: str | None = None,
    method: str = "auto",
    ensemble: Sequence[Run | str | os.PathLike[str]] = (),
    alpha: float = 0.05,
    fdr: bool = False,
    calibration: Any = "valid",
    columns: bool = False,
    particles: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Outliers:
    """How strange each datum is, and which are outliers at a rate of false alarms that holds.

    Args:
        data, split: what to look at; by default the test part of the run's own data.
        method: "likelihood", "typicality", "reconstruction", "latent", "ensemble", or "auto": the ensemble where
            further runs are given, else likelihood where the model has one, else reconstruction.
        ensemble: further runs, or their folders, of the same data; for the method of that name.
        alpha: rate of false alarms.
        fdr: let it be the share of false alarms among the outliers of the batch instead, by Benjamini and Hochberg.
        calibration: usual data that the model was not fitted to: a split of the run's own data, or data. The validation
            part, which is the default, chose the epoch that training ended with, and no more.
        columns: tell by column how surprising its value is and what was expected.
        particles: of the bound and of reconstructions, default 50; of the surprise of columns, default 200.
        limit: a random subset of so many.
        seed: of draws and subset.

    Raises:
        ConfigError: listing every option that cannot be.
        CapabilityError: the model cannot score data in that way, or cannot tell columns apart.
        DataError: data that do not fit the model, or none for calibration.
    """
    runs = together(run, ensemble)
    method = _method(run, method, runs)
    _check(method, runs, alpha, particles)
    found, name, part = run.split(data, split)
    run.warn_of_training_rows(data, name)
    if data is None and isinstance(calibration, str) and name == calibration:
        warnings.warn(
            f"p-values of {name!r} rows are calibrated by these rows themselves, and so no less than 2 in so many; "
            "other rows stand in --split or --calibration",
            DataWarning,
            stacklevel=2,
        )
    part = part.rows(run.pick(part, limit, seed))
    if not len(part):
        raise DataError(f"{found.name}: expected data to look at, got none")
    usual, where = _calibration(run, calibration, seed)
    k = particles or PARTICLES
    both = outlier_scores(method, runs, [usual, part], k, seed)
    p = conformal_p_values(*both)
    judged = benjamini_hochberg(p) if fdr else p
    told, typical = None, None
    if columns:
        of_usual, told = (
            surprise(run, run.tensors(some), np.arange(len(some)), particles or OF_SURPRISE, seed)
            for some in (usual.rows(run.pick(usual, USUAL, seed)), part)
        )
        typical = np.array([np.mean(b[~np.isnan(b)]) if (~np.isnan(b)).any() else np.nan for b in of_usual.bits.T])
    return Outliers(
        part.index,
        both[1],
        p,
        judged <= alpha,
        alpha,
        fdr,
        method,
        (len(usual), where),
        told,
        typical,
        found.name,
        name,
        [other.name for other in runs[1:] if isinstance(calibration, str) and _rows_of(other) != _rows_of(run)],
    )


ELSEWHERE = (
    "was trained on other rows, and may have been fitted to those that p-values are calibrated by: "
    "train all on one split, or give data by --calibration"
)


def _rows_of(run: Run) -> Any:
    """What a run's record says of the rows that it was trained on."""
    return run.spec.get("data", {}).get("splits")


def _method(run: Run, method: str, runs: Sequence[Run]) -> str:
    if method == "auto":
        if len(runs) > 1:
            return "ensemble"
        return "likelihood" if run.capabilities.likelihood else "reconstruction"
    if method not in METHODS:
        raise ConfigError(f"--method: {method!r} is no method{did_you_mean(method, [*METHODS, 'auto'])}")
    return method


def _check(method: str, runs: Sequence[Run], alpha: float, particles: int | None) -> None:
    """Raises `ConfigError` listing every option that is out of range."""
    problems = []
    if not 0 < alpha < 1:
        problems.append(f"--alpha: expected between 0 and 1, got {alpha:g}")
    if particles is not None and particles < 1:
        problems.append(f"--particles: expected >= 1, got {particles}")
    if (method == "ensemble") != (len(runs) > 1):
        told = "expected further runs with --ensemble" if len(runs) < 2 else f"--ensemble is not for {method}"
        problems.append(f"--method: {told}")
    problems += strangers(runs)
    if problems:
        raise ConfigError(problems)


def _calibration(run: Run, given: Any, seed: int) -> tuple[Split, str]:
    """Usual data, at most `MOST` at random, and where they are from."""
    own = isinstance(given, str) and given in ("train", "valid", "test")
    if own and given == "train":
        raise ConfigError(
            "--calibration: the model was fitted to the training part; expected valid, test or other data"
        )
    try:
        found, name, part = run.split(None if own else given, given if own else None)
    except DataError as e:
        raise DataError(f"{e}; usual data that the model was not fitted to are needed, by --calibration") from None
    if not len(part):
        raise DataError(f"{found.name}: expected data for calibration, got none")
    return part.rows(run.pick(part, MOST, seed)), f"{found.name}{'' if name == 'all' else f' {name}'}"


# Methods: rows of several parts, scored.

Parts = Sequence[Split]


def _dataset(run: Run, part: Split) -> Dataset:
    return Dataset("data", run.schema, {"all": part})


def _nats(run: Run, part: Split, particles: int, seed: int) -> np.ndarray:
    """log p(x) or a bound on it, (n,); −∞ where it is no number."""
    k = particles if run.capabilities.likelihood == "lower_bound" and run.model.hidden else None
    rows = score(run, _dataset(run, part), particles=k, seed=seed, keep=False).rows
    assert rows is not None
    # With gaps a row has the units of the cells that are there; in prepared units rows are ranked whatever the units.
    rows = rows + torch.as_tensor(run.schema.log_jacobian - run.schema.log_jacobians(part.x))
    return np.nan_to_num(rows.double().numpy(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)


def _with_seeds(parts: Parts, seed: int) -> list[tuple[Split, int]]:
    """Parts with a seed each, the last that which is given, so that none has the draws of another: else p-values
    would not be of independent scores.
    """
    return [(part, seed + len(parts) - 1 - k) for k, part in enumerate(parts)]


def _likelihood(runs: Sequence[Run], parts: Parts, particles: int, seed: int) -> list[np.ndarray]:
    return [-_nats(runs[0], part, particles, own) for part, own in _with_seeds(parts, seed)]


def _typicality(runs: Sequence[Run], parts: Parts, particles: int, seed: int) -> list[np.ndarray]:
    of_training, *others = (
        _nats(runs[0], part, particles, own) for part, own in _with_seeds([_training(runs[0], seed), *parts], seed)
    )
    possible = of_training[np.isfinite(of_training)]
    mean = possible.mean() if len(possible) else 0.0
    return [np.abs(nats - mean) for nats in others]


def _ensemble(runs: Sequence[Run], parts: Parts, particles: int, seed: int) -> list[np.ndarray]:
    found = []
    for part, own in _with_seeds(parts, seed):
        nats = np.stack([_nats(run, part, particles, own) for run in runs])
        with np.errstate(invalid="ignore"):
            found.append(np.nan_to_num(nats.var(0, ddof=1) - nats.mean(0), nan=np.inf, posinf=np.inf))
    return found


@torch.no_grad()
def _reconstruction(runs: Sequence[Run], parts: Parts, particles: int, seed: int) -> list[np.ndarray]:
    run = runs[0]
    model = run.model.eval()
    if not model.inferred or model.completes:
        raise CapabilityError(
            f"{run.spec['model']} has no hidden variables to reconstruct data from; use --method likelihood"
        )
    found, k = [], particles if model.hidden else 1
    for part, own in _with_seeds(parts, seed):
        tensors, rows = run.tensors(part), []
        with seeded(own, run.device):
            for start in range(0, len(part), max(1, BATCH // k)):
                batch = as_in(model, tensors.take(slice(start, start + max(1, BATCH // k))))
                e = model.evidence(batch, k)
                rows.append(-e.log_p[model.data].mean(0).double().cpu())
        found.append(torch.cat(rows).nan_to_num(nan=np.inf).numpy() - run.schema.log_jacobian)
    return found


def _latent(runs: Sequence[Run], parts: Parts, particles: int, seed: int) -> list[np.ndarray]:
    from sklearn.covariance import LedoitWolf

    run = runs[0]
    every = _with_seeds([_training(run, seed), *parts], seed)
    codes = [encode(run, _dataset(run, part), seed=own) for part, own in every]
    train, *others = (np.asarray(z, dtype=np.float64).reshape(len(z), -1) for z in codes)
    usual = LedoitWolf().fit(train)
    return [np.nan_to_num(np.sqrt(usual.mahalanobis(z)), nan=np.inf) for z in others]


METHODS: dict[str, Callable[[Sequence[Run], Parts, int, int], list[np.ndarray]]] = {
    "likelihood": _likelihood,
    "typicality": _typicality,
    "reconstruction": _reconstruction,
    "latent": _latent,
    "ensemble": _ensemble,
}


def outlier_scores(
    method: str, runs: Sequence[Run], parts: Sequence[Split], particles: int = PARTICLES, seed: int = 0
) -> list[np.ndarray]:
    """Scores alone, (n,) of each part, by a method of the table above; of all but "ensemble" by the first run."""
    return METHODS[method](runs, parts, particles, seed)


def _training(run: Run, seed: int) -> Split:
    """Training data, at most `MOST` at random."""
    part = run.data().split("train")
    return part.rows(run.pick(part, MOST, seed))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
