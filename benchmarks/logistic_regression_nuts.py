"""Bayesian logistic regression on the breast-cancer table by a long run of another library's sampler: a truth to test
`jensen infer` against.

    y_i ~ Bernoulli(σ(x_iᵀ w + b)),   w, b ~ N(0, 1),   columns standardised

    python benchmarks/logistic_regression_nuts.py          # needs numpyro: pip install 'jensen[bench]'

It writes tests/jobs/logistic_regression_nuts.json: means, standard deviations and Monte Carlo errors of the posterior.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS
from sklearn.datasets import load_breast_cancer

OUT = Path(__file__).parent.parent / "tests" / "jobs" / "logistic_regression_nuts.json"
CHAINS, WARMUP, DRAWS, SEED = 4, 1000, 10_000, 0


def model(x, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ w).to_event(1), obs=y)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    x = np.concatenate([x, np.ones((len(x), 1))], 1)  # the last weight is b
    mcmc = MCMC(NUTS(model), num_warmup=WARMUP, num_samples=DRAWS, num_chains=CHAINS, chain_method="sequential")
    mcmc.run(jax.random.PRNGKey(SEED), x, y)
    w = np.asarray(mcmc.get_samples(group_by_chain=True)["w"])  # (chains, draws, D)
    size = effective_sample_size(w)
    std = w.std((0, 1))
    record = {
        "command": "python benchmarks/logistic_regression_nuts.py",
        "numpyro": numpyro.__version__,
        "chains": CHAINS,
        "draws": DRAWS,
        "seed": SEED,
        "largest_r_hat": float(split_gelman_rubin(w).max()),
        "least_effective_sample_size": float(size.min()),
        "mean": w.mean((0, 1)).tolist(),
        "std": std.tolist(),
        "mean_stderr": (std / np.sqrt(size)).tolist(),
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    print(f"R-hat {record['largest_r_hat']:.4f}, least effective sample size {size.min():,.0f}, in {OUT}")


if __name__ == "__main__":
    main()
