"""Outlier detection: rows that are less likely than others."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin

from jensen.errors import ConfigError
from jensen.estimators.base import Estimator, as_scikit_learn


class OutlierDetector(OutlierMixin, Estimator):
    """Rows are outliers whose log p(x) lies below that of a share of the training rows.

    Signs are scikit-learn's: scores are higher for the more normal, `predict` gives 1 for inliers and −1 for outliers.
    PyOD's are the opposite, and so are those of `jensen outliers`.

    Args:
        contamination: share of outliers in the training rows, in (0, 0.5]: it sets the threshold.
        estimator, particles: as of `DensityEstimator`.

    Its other parameters are those of `Estimator`.

    Attributes:
        offset_: the threshold, in nats: `decision_function` is `score_samples` less it.

    >>> X = np.concatenate([np.random.default_rng(0).normal(size=(99, 2)), [[9, 9]]])
    >>> int(OutlierDetector("ppca", settings={"latents": 1}, contamination=0.01).fit_predict(X).argmin())
    99
    """

    def __init__(
        self,
        model: str = "vae",
        *,
        settings: dict[str, Any] | None = None,
        contamination: float = 0.1,
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
        self.contamination = contamination
        self.estimator = estimator
        self.particles = particles

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what is normal from rows (n, D), a share of which may be outliers."""
        with as_scikit_learn():
            if not 0 < self.contamination <= 0.5:
                raise ConfigError(f"contamination: expected a share in (0, 0.5], got {self.contamination!r}")
        whole = self._whole(self._checked(X, reset=True))
        self._fit(whole, needs="likelihood")
        scores = self._log_prob(whole, self.estimator, self.particles)
        self.offset_ = float(np.percentile(scores, 100 * self.contamination))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row, (n,), in nats: higher is more normal."""
        return self._log_prob(self._dataset(X), self.estimator, self.particles)

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` less the threshold, (n,): below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for inliers and −1 for outliers, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)
