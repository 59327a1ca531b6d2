"""EM for a log-linear model of classes: this package beside a plain NumPy enumeration, in turn, in one run.

    python benchmarks/loglinear_em.py [--bits 12] [--classes 4] [--rounds 10] [--out FILE]

Both fit p(x) = Σ_z p(z) p(x | z, w) to the same counts of binary rows, features being the columns and their products in
pairs, from the same w: each round of EM enumerates x and z, and takes ten steps of SciPy's L-BFGS-B to the expected
counts. The plain one is what one writes first, with dense arrays. What both reach is kept: here
weights are scaled by their curvature, so that the same steps lead elsewhere on the way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits

from harness import arguments, interleave_processes, keep
from jensen.core import Model, seeded
from jensen.data import Schema
from jensen.models.log_linear import indicators
from jensen.objectives.log_linear import em
from jensen.registry import build

EM_ROUNDS, STEPS, L2 = 5, 10, 1e-3


def counts(bits: int) -> np.ndarray:
    """How often each row occurs, (2^bits,): 10,000 rows of two noisy patterns."""
    rng = np.random.default_rng(0)
    pattern = rng.random((2, bits))
    rows = rng.random((10_000, bits)) < pattern[rng.integers(0, 2, 10_000)]
    return np.bincount(rows @ (1 << np.arange(bits)[::-1]), minlength=1 << bits).astype(float)


def model(bits: int, classes: int) -> Model:
    schema = Schema.of_table(np.zeros((2, bits)), [f"c{i}" for i in range(bits)], ["binary"] * bits)
    with seeded(0):
        return build("log-linear", schema, {"classes": classes}).double()


def fit_plainly(features: np.ndarray, n: np.ndarray, w: np.ndarray) -> float:
    """EM with arrays; mean log p(x) in nats, less the penalty, in the end."""
    share, total = np.full(w.shape[1], 1 / w.shape[1]), n.sum()

    def tables(w: np.ndarray) -> np.ndarray:
        scores = features @ w
        return scores - logsumexp(scores, axis=0)

    for turn in range(EM_ROUNDS + 1):
        log_joint = np.log(share) + tables(w)  # (X, Z)
        log_p = logsumexp(log_joint, axis=1)
        if turn == EM_ROUNDS:
            return float(n @ log_p / total - L2 / 2 * (w**2).sum())
        expected = n[:, None] * np.exp(log_joint - log_p[:, None])
        of_class, observed = expected.sum(0), features.T @ expected

        def loss(v: np.ndarray, of_class: np.ndarray = of_class, observed: np.ndarray = observed):
            v = v.reshape(observed.shape)
            scores = features @ v
            normalizer = logsumexp(scores, axis=0)
            value = (of_class @ normalizer - (observed * v).sum()) / total + L2 / 2 * (v**2).sum()
            gradient = (features.T @ (of_class * np.exp(scores - normalizer)) - observed) / total + L2 * v
            return value, gradient.ravel()

        options = {"maxiter": STEPS, "ftol": 0.0, "gtol": 1e-8}
        w = minimize(loss, w.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(w.shape)
        share = of_class / total
    raise AssertionError


def start(bits: int, classes: int) -> np.ndarray:
    return model(bits, classes).p["x"].module.weight.detach().numpy().copy()


def fit_ours(m: Model, n: np.ndarray, w: np.ndarray) -> float:
    p = m.p["x"].module
    with torch.no_grad():
        p.weight.copy_(torch.from_numpy(w))
        m.p["z"].module.logits.zero_()
    met = np.flatnonzero(n)
    data = {"x": p.domain.values(torch.from_numpy(met)), "weight": torch.from_numpy(n[met])}
    return em(m, data, l2=L2, steps=STEPS, rounds=EM_ROUNDS, tolerance=0.0)[-1].objective


def ours(bits: int, classes: int) -> Callable[[], int]:
    m, n, w = model(bits, classes), counts(bits), start(bits, classes)

    def work() -> int:
        fit_ours(m, n, w)
        return EM_ROUNDS

    return work


def plain(bits: int, classes: int) -> Callable[[], int]:
    threadpool_limits(torch.get_num_threads())  # NumPy's products, too
    features, n, w = indicators([2] * bits, "pairs", [])[0], counts(bits), start(bits, classes)

    def work() -> int:
        fit_plainly(features, n, w)
        return EM_ROUNDS

    return work


def main() -> None:
    options = arguments(__doc__, bits=12, classes=4, rounds=10)
    size = (options.bits, options.classes)
    w = start(*size)
    reached = {
        "jensen": fit_ours(model(*size), counts(options.bits), w),
        "plain NumPy": fit_plainly(indicators([2] * options.bits, "pairs", [])[0], counts(options.bits), w),
    }
    print(f"mean log p(x) less the penalty after {EM_ROUNDS} rounds: {reached}")
    contestants = {"jensen": (ours, size), "plain NumPy": (plain, size)}
    table = interleave_processes(contestants, options.rounds, unit="rounds of EM/s")
    extra = {"bits": options.bits, "classes": options.classes, "em_rounds": EM_ROUNDS, "steps": STEPS}
    keep(options.out, table, "jensen", {**extra, "reached_nats": reached})


if __name__ == "__main__":
    main()
