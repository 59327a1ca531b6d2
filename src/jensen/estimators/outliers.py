"""Outlier detection: rows that are less likely than others."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin

from jensen.data import Dataset, splits
from jensen.data.columns import fitted
from jensen.errors import ConfigError
from jensen.estimators.base import Estimator, as_scikit_learn, seed_of
from jensen.jobs.conformal import conformal_p_values


class OutlierDetector(OutlierMixin, Estimator):
    """Rows are outliers whose log p(x) lies below that of a share of the training rows.

    Signs are scikit-learn's: scores are higher for the more normal, `predict` gives 1 for inliers and −1 for outliers.
    PyOD's are the opposite, and so are those of `jensen outliers`. `p_values` are low for outliers.

    Args:
        contamination: share of outliers in the training rows, in (0, 0.5]: it sets the threshold.
        calibration: share of the rows that nothing is learned from, in (0, 1), by whose scores `p_values` are told;
            None takes the validation rows, which chose the weights and no more.
        estimator, particles: as of `DensityEstimator`.

    Its other parameters are those of `Estimator`.

    Attributes:
        offset_: the threshold, in nats: `decision_function` is `score_samples` less it.
        calibration_scores_: `score_samples` of the rows for calibration, (n,).

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
        calibration: float | None = None,
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
        self.calibration = calibration
        self.estimator = estimator
        self.particles = particles

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what is normal from rows (n, D), a share of which may be outliers."""
        with as_scikit_learn():
            if not 0 < self.contamination <= 0.5:
                raise ConfigError(f"contamination: expected a share in (0, 0.5], got {self.contamination!r}")
            if self.calibration is not None and not 0 < self.calibration < 1:
                raise ConfigError(f"calibration: expected a share in (0, 1), or None, got {self.calibration!r}")
        whole = self._whole(self._checked(X, reset=True))
        rest, kept = self._calibrating(whole)
        self._fit(rest, needs="likelihood")
        scores = self._log_prob(whole, self.estimator, self.particles)
        self.offset_ = float(np.percentile(scores, 100 * self.contamination))
        if self.calibration is None:
            valid = self._cut(rest, None).splits.get("valid")
            kept = kept if valid is None else valid.index
        self.calibration_scores_ = scores[kept]
        return self

    def _calibrating(self, whole: Dataset) -> tuple[Dataset, np.ndarray]:
        """The rows to learn from, by which alone columns are standardised, and numbers of those held out."""
        rows, schema = whole.split("train"), whole.schema
        if self.calibration is None:
            return whole, rows.index[:0]
        cut = splits.cut(len(rows), seed_of(self.random_state), (1.0 - self.calibration, 0.0, self.calibration))
        learned = rows.rows(np.sort(cut["train"]))
        schema = schema.model_copy(update={"fields": fitted(schema.fields, learned.x, [rows.x])})
        return Dataset(whole.name, schema, {"train": learned}), np.sort(cut.get("test", rows.index[:0]))

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row, (n,), in nats: higher is more normal."""
        return self._log_prob(self._dataset(X), self.estimator, self.particles)

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` less the threshold, (n,): below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def p_values(self, X: Any) -> np.ndarray:
        """Conformal p-value of each row, (n,), low for outliers: the share of the rows for calibration that are as
        little normal, (1 + #{score ≤ that of the row}) / (n + 1).

        Of fresh rows from where those for calibration are from, a share of at most α has p ≤ α, for any α and whatever
        the model (`jensen.jobs.conformal`); not so of rows that were learned from. Outliers among the rows for
        calibration make p-values larger, and so miss some.

        Raises:
            ValueError: no rows were kept for calibration.
        """
        scores = self.score_samples(X)
        if not len(self.calibration_scores_):
            raise ValueError("p_values: no rows for calibration; fit with calibration=0.2, or validation_fraction > 0")
        return conformal_p_values(-self.calibration_scores_, -scores)

    def predict(self, X: Any) -> np.ndarray:
        """1 for inliers and −1 for outliers, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)
