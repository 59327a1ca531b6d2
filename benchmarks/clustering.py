"""Clustering of digits by a VAE whose prior is a mixture of ten normals, fitted to its codes.

    python benchmarks/clustering.py [--seeds 3] [--epochs 30] [--latents 10] [--threads 2]
        [--out benchmarks/results/clustering.json]

A VAE is trained on the pictures of MNIST, binarised anew in every pass, without labels; then a mixture with full
covariances takes the place of its standard normal prior, `jensen train prior RUN prior=mixture
prior.covariance=full`. Accuracy is that of `jensen cluster` on the 10,000 test pictures, each cluster called by one
label at most, matched so that it is highest.
"""

from __future__ import annotations

import time

import numpy as np

import jensen
from harness import arguments, keep_table

SETTINGS = {
    "encoder.hidden": [500, 500],
    "decoder.hidden": [500, 500],
    "encoder.input_dropout": 0.1,
    "train.precision": "auto",
}
PRIOR = {"prior": "mixture", "prior.components": 10, "prior.covariance": "full"}


def main() -> None:
    options = arguments(__doc__, seeds=3, epochs=30, latents=10)
    data, rows, found = jensen.load_data("mnist", binarize="dynamic"), [], []
    for seed in range(options.seeds):
        began = time.perf_counter()
        settings = {**SETTINGS, "latents": options.latents, "train.seed": seed}
        run = jensen.train("vae", data, settings=settings, epochs=options.epochs)
        run = jensen.train_prior(run, settings={**PRIOR, "train.seed": seed}, epochs=10)
        agreement = run.cluster(seed=seed).agreement()
        assert agreement is not None
        minutes = (time.perf_counter() - began) / 60
        found.append({**agreement, "seed": seed, "minutes": round(minutes, 2)})
        rows.append([str(seed), *(f"{agreement[k]:.3f}" for k in list(agreement)[:3]), f"{minutes:.1f}"])
        print(rows[-1], flush=True)
    accuracy = np.array([f["accuracy"] for f in found])
    error = accuracy.std(ddof=1) / len(accuracy) ** 0.5 if len(accuracy) > 1 else float("nan")
    rows.append(["mean", f"{accuracy.mean():.3f} ± {error:.3f}", "", "", ""])
    keep_table(
        options.out,
        "Ten clusters of MNIST test digits beside their labels.",
        ["seed", "accuracy", "adjusted Rand index", "normalised mutual information", "minutes"],
        rows,
        {"settings": SETTINGS, "prior": PRIOR, "epochs": options.epochs, "latents": options.latents, "runs": found},
    )


if __name__ == "__main__":
    main()
