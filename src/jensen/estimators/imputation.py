"""Imputation: what is missing of rows, by what the model says of it given the rest."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils._set_output import _get_output_config

from jensen.data import Dataset
from jensen.estimators import frames
from jensen.estimators.base import Estimator, as_scikit_learn, seed_of, takes_gaps
from jensen.jobs.candidates import AUTO, CANDIDATES
from jensen.jobs.choose import BATCH, choose
from jensen.jobs.trials import enough
from jensen.registry import MODEL, find


class Imputer(OneToOneFeatureMixin, TransformerMixin, Estimator):
    """A transformer that fills in missing cells (NaN), each row by itself: numbers by E[missing | observed], names by
    the likeliest one, or all by a draw.

    With model "auto" the model and its settings are chosen by cells that are hidden for that, as `jensen choose` does;
    `settings`, `epochs`, `minutes`, `batch_size` and `lr` then hold for each that is tried, and `run_.spec["chosen"]`
    says what was found. Of tables with too few cells to hide some, the first of them learns.

    Args:
        sample_posterior: fill in a draw of p(missing | observed) in place of its mean, as multiple imputation needs.
        particles: of importance resampling, of each row.
        batch_size: rows of a step; None: 64 with model "auto", else 128.

    Its other parameters are those of `Estimator`.
    """

    choosing = (AUTO,)

    def __init__(
        self,
        model: str = "vae",
        *,
        settings: dict[str, Any] | None = None,
        sample_posterior: bool = False,
        particles: int = 1000,
        epochs: int | None = None,
        minutes: float | None = None,
        batch_size: int | None = None,
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
        self.sample_posterior = sample_posterior
        self.particles = particles

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn p(x) from rows (n, D) with gaps, or, where the model takes none, from the rows without any.

        A model with a choice of objectives is trained by the importance-weighted bound, as MIWAE is, unless the
        settings say otherwise.
        """
        table = self._checked(X, reset=True)
        if self.model == AUTO:
            return self._choose(self._whole(table))
        with as_scikit_learn():
            choice = "objective" in find(MODEL, self.model).settings and "objective" not in (self.settings or {})
        rows = table if takes_gaps(self.model) else _complete_rows(table)
        self._fit(self._whole(rows), "likelihood", {"objective": "iw"} if choice else {})
        return self

    def _choose(self, whole: Dataset) -> Self:
        self._seed = seed_of(self.random_state)
        with as_scikit_learn():
            data = self._cut(whole, None)
            several = enough(data.split("train"))
            run = choose(
                data,
                candidates=CANDIDATES if several else dict(list(CANDIDATES.items())[:1]),
                settings={"lr": self.lr, "device": self.device, **self._given_settings()},
                epochs=self.epochs,
                minutes=self.minutes,
                batch_size=BATCH if self.batch_size is None else self.batch_size,
                seed=self._seed,
            )
        self._keep(run)
        return self

    def transform(self, X: Any) -> Any:
        """Rows whole, (n, D): an array, or as `set_output` asks a frame with the dtypes of the rows; what was observed
        is exactly as it was.
        """
        table = self._table(X)
        with as_scikit_learn():
            found = self.run_.impute(table, particles=self.particles, seed=self._seed)
        whole = found.completed(0 if self.sample_posterior else None)
        asked = _get_output_config("transform", self)["dense"]
        if not frames.library(X) or asked == "default":
            return np.asarray(whole)
        return whole if asked == "pandas" else frames.polars_like(whole, X if frames.library(X) == "polars" else None)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _complete_rows(X: Any) -> Any:
    """The rows of a table without gaps. Raises `ValueError` where there are none."""
    if frames.library(X) == "polars":
        whole = X.fill_nan(None).drop_nulls()
    elif frames.library(X) == "pandas":
        whole = X.dropna()
    else:
        whole = X[~np.isnan(X).any(1)]
    if not len(whole):
        raise ValueError("this model learns from rows without gaps only, and there are none; vae takes gaps")
    return whole
