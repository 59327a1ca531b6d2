"""Density estimation: log p(x) of rows, and rows drawn from p."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted

from jensen.estimators import frames
from jensen.estimators.base import Estimator, as_scikit_learn, seed_of


class DensityEstimator(DensityMixin, Estimator):
    """The density of a table.

    Args:
        estimator, particles: how log p(x) is estimated (`jensen.Run.score`): exactly where the model can, else by the
            importance-weighted bound with so many draws a row.

    Its other parameters are those of `Estimator`.

    >>> X = np.random.default_rng(0).normal(3, 2, size=(200, 2))
    >>> density = DensityEstimator("ppca", settings={"latents": 1}, random_state=0).fit(X)
    >>> density.score_samples([[3, 3]]).round(1)
    array([-3.2])
    """

    def __init__(
        self,
        model: str = "vae",
        *,
        settings: dict[str, Any] | None = None,
        estimator: str = "auto",
        particles: int | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        batch_size: int = 128,
        lr: float = 1e-3,
        validation_fraction: float = 0.1,
        kinds: dict[str, str] | None = None,
        device: str = "cpu",
        random_state: Any = None,
    ):
        super().__init__(
            model, settings=settings, epochs=epochs, minutes=minutes, batch_size=batch_size, lr=lr,
            validation_fraction=validation_fraction, kinds=kinds, device=device, random_state=random_state,
        )  # fmt: skip
        self.estimator = estimator
        self.particles = particles

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn p(x) from rows (n, D)."""
        table = self._checked(X, reset=True)
        self._polars = X.head(0) if frames.library(X) == "polars" else None
        self._fit(self._whole(table), needs="likelihood")
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row, (n,), in nats, in the units of the data."""
        return self._log_prob(self._dataset(X), self.estimator, self.particles)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of log p(x) over the rows, in nats: what a grid search maximises."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """So many new rows, as the table that it was fitted on: an array, or a frame with its names and dtypes.

        Args:
            random_state: None for other rows each time.
        """
        check_is_fitted(self)
        with as_scikit_learn():
            rows = self.run_.sample(n_samples, seed=seed_of(random_state))
        return rows if self._polars is None else frames.polars_like(rows, self._polars)
