"""Classification by what each class says of a row: Bayes' rule.

p(y | x) = p(y) p(x | y) / Σ_y' p(y') p(x | y')
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.special import logsumexp
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_consistent_length, column_or_1d

from jensen.errors import ConfigError
from jensen.estimators.base import Estimator, as_scikit_learn, relabelled
from jensen.registry import MODEL, find, names


class Classifier(ClassifierMixin, Estimator):
    """Classes told apart by their densities: one model learns p(x | y) of all, p(y) are their shares.

    Args:
        model: one that can be conditional: a VAE, a flow or an autoregressive model.
        priors: p(y) by class, in the order of `classes_`; None for their shares in training.
        estimator, particles: how log p(x | y) is estimated, as of `DensityEstimator`.

    Its other parameters are those of `Estimator`.

    Attributes:
        classes_: (C,), sorted.
        class_prior_: p(y), (C,).
    """

    def __init__(
        self,
        model: str = "vae",
        *,
        settings: dict[str, Any] | None = None,
        priors: Any = None,
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
        self.priors = priors
        self.estimator = estimator
        self.particles = particles

    def fit(self, X: Any, y: Any) -> Self:
        """Learn p(x | y) and p(y) from rows (n, D) and their classes (n,)."""
        if y is None:
            raise ValueError("Classifier requires y to be passed, but the target y is None")
        table = self._checked(X, reset=True)
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        check_consistent_length(table, labels)
        self.classes_, which = np.unique(labels, return_inverse=True)
        with as_scikit_learn():
            self.class_prior_ = _priors(self.priors, which, len(self.classes_))
            _expect_conditional(self.model)
        whole = self._whole(table)
        words = tuple(str(name) for name in self.classes_.tolist())
        schema = whole.schema.model_copy(update={"classes": words})
        self._fit(relabelled(whole, which, schema), "likelihood", {"conditional": True}, stratify=which)
        return self

    def predict_joint_log_proba(self, X: Any) -> np.ndarray:
        """log p(x, y) of each row and class, (n, C), in nats, in the units of the data."""
        data = self._dataset(X)
        n = len(next(iter(data.splits.values())))
        found = np.empty((n, len(self.classes_)))
        for k in range(len(self.classes_)):
            as_of_class = relabelled(data, np.full(n, k), self.run_.schema)
            found[:, k] = self._log_prob(as_of_class, self.estimator, self.particles)
        with np.errstate(divide="ignore"):  # a class that cannot be has a prior of 0
            return found + np.log(self.class_prior_)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log p(y | x), (n, C), in nats."""
        joint = self.predict_joint_log_proba(X)
        return joint - logsumexp(joint, axis=1, keepdims=True)

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(y | x), (n, C)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row, (n,)."""
        likeliest = self.predict_joint_log_proba(X).argmax(1)
        return self.classes_[likeliest]


def _expect_conditional(model: str) -> None:
    """Raises `ConfigError` naming the models that are conditional where this one cannot be."""
    if "conditional" not in find(MODEL, model).settings:
        able = [name for name in names(MODEL) if "conditional" in find(MODEL, name).settings]
        raise ConfigError(f"model: {model} learns no p(x | y); choose from {', '.join(able)}")


def _priors(given: Any, which: np.ndarray, classes: int) -> np.ndarray:
    """p(y), (C,), as given or as the classes (N,) occur."""
    if given is None:
        return np.bincount(which, minlength=classes) / len(which)
    priors = np.asarray(given, dtype=np.float64)
    if priors.shape != (classes,) or (priors < 0).any() or not np.isclose(priors.sum(), 1):
        raise ConfigError(f"priors: expected {classes} shares that sum to 1, got {given!r}")
    return priors
