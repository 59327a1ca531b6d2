"""What the estimators share: parameters, the check of data in scikit-learn's words, and the run that `fit` trains."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state, get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from jensen.core import seeded
from jensen.data import Dataset, Schema, load_data, splits
from jensen.data.field import Field
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.estimators import frames
from jensen.jobs.job import REASONS
from jensen.jobs.run import Run
from jensen.jobs.train import check, train
from jensen.registry import MODEL, build, find

NESTED = "settings__"
LARGEST_SEED = 2**31 - 1


class Estimator(BaseEstimator):
    """A model of a table, trained by `fit`.

    Parameters of all estimators:
        model: a registered name (`jensen models`).
        settings: of the model and of training, as `{"latents": 8, "decoder.hidden": [64], "train.patience": 5}`. In
            `set_params`, and so in a grid search, each is a parameter: `settings__latents=8`,
            `settings__decoder__hidden=[64]`.
        epochs, minutes: how long to train; neither: until the validation rows are predicted no better.
        batch_size, lr: rows of a step, None for 128, and the learning rate at its highest.
        validation_fraction: share of the rows that are not trained on and choose the weights; 0 for none.
        kinds: kinds of columns by name, where they are not to be guessed; an array's columns are x0, x1, ...
        device: "cpu", "cuda" or "auto".
        random_state: of initial weights, validation rows, order and draws.

    Attributes:
        run_: the trained run, in float64, with which every other job can be done (`jensen.Run`).
        n_features_in_, feature_names_in_: of the table it was fitted on.
    """

    choosing: tuple[str, ...] = ()
    """Words in place of a model, by which an estimator chooses one."""

    def __init__(
        self,
        model: str = "vae",
        *,
        settings: dict[str, Any] | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        batch_size: int | None = 128,
        lr: float = 1e-3,
        validation_fraction: float = 0.1,
        kinds: dict[str, str] | None = None,
        device: str = "cpu",
        random_state: Any = None,
    ):
        self.model = model
        self.settings = settings
        self.epochs = epochs
        self.minutes = minutes
        self.batch_size = batch_size
        self.lr = lr
        self.validation_fraction = validation_fraction
        self.kinds = kinds
        self.device = device
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; `deep` adds each of the settings that are given, as `settings__latents`."""
        found = super().get_params(deep)
        if deep and isinstance(self.settings, Mapping):
            found |= {NESTED + key.replace(".", "__"): value for key, value in self.settings.items()}
        return found

    def set_params(self, **params: Any) -> Self:
        """Set parameters; `settings__latents=8` sets one of the settings and leaves the others as they are."""
        nested = {key: value for key, value in params.items() if key.startswith(NESTED)}
        super().set_params(**{key: value for key, value in params.items() if key not in nested})
        if nested:  # a dictionary of its own: the one that was given may be another estimator's, too
            chosen = {key.removeprefix(NESTED).replace("__", "."): value for key, value in nested.items()}
            self.settings = {**(self.settings or {}), **chosen}
        return self

    # Data

    def _checked(self, X: Any, *, reset: bool) -> Any:
        """X as an array or as the frame that it is, after scikit-learn's checks.

        Args:
            reset: whether these are the data to be fitted; the model is then known by its name, or refused.
        """
        if reset:
            with as_scikit_learn():
                if self.model not in self.choosing:
                    find(MODEL, self.model)  # before gaps are refused, which hangs on the model
        finite: Any = "allow-nan" if get_tags(self).input_tags.allow_nan else True
        if not frames.library(X):
            return validate_data(self, X, reset=reset, ensure_all_finite=finite)
        validate_data(self, X, reset=reset, skip_check_array=True)
        if frames.is_numeric(X):
            check_array(X, ensure_all_finite=finite)
        else:
            check_array(np.zeros((min(1, X.shape[0]), X.shape[1])))  # that there is something at all
        return X

    def _table(self, X: Any) -> Any:
        """Rows that are to be used, checked, under the names that the run knows their columns by."""
        check_is_fitted(self)
        return frames.named(self._checked(X, reset=False), self.run_.schema.names)

    def _dataset(self, X: Any) -> Dataset:
        """Rows that are to be used, fitted to the schema of the run."""
        table = self._table(X)
        with as_scikit_learn():
            return load_data(table, schema=self.run_.schema)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = takes_gaps(self.model)
        return tags

    # Training

    def _fit(self, whole: Dataset, needs: str, fixed: Mapping[str, Any] = {}, stratify: Any = None) -> None:
        """Train `run_` on the rows of a data set whose only split is "train".

        Args:
            needs: what the model must offer, a name in `Capabilities`.
            fixed: settings of the model that the estimator needs.
            stratify: classes (N,), each of which is cut alike into rows for training and for validation; or None.
        """
        self._seed = seed_of(self.random_state)
        settings = {**self._given_settings(), **fixed}
        options = {
            "epochs": self.epochs,
            "minutes": self.minutes,
            "lr": self.lr,
            "device": self.device,
            "seed": self._seed,
            **({} if self.batch_size is None else {"batch_size": self.batch_size}),
        }
        with as_scikit_learn():
            _refuse(self.model, settings, options, whole.schema, needs)
            data = self._cut(whole, stratify)
            self._keep(train(self.model, data, settings=settings, **options))

    def _given_settings(self) -> Mapping[str, Any]:
        given = {} if self.settings is None else self.settings
        if not isinstance(given, Mapping):
            raise ValueError(f"settings: expected a dictionary or None, got {given!r}")
        return given

    def _keep(self, run: Run) -> None:
        """The run without its data, in float64: so a row's numbers do not depend on the rows beside it, down to the
        last digits that matter.
        """
        for one in (run, *run.members):
            one.model.double()
            one._data = None
        self.run_ = run

    def _whole(self, X: Any) -> Dataset:
        """Rows to be trained on, all in the split "train"."""
        with as_scikit_learn():
            return load_data(X, fractions=(1.0, 0.0, 0.0), kinds=self.kinds)

    def _cut(self, whole: Dataset, stratify: Any) -> Dataset:
        share, rows = self.validation_fraction, whole.split("train")
        if not 0 <= share < 1:
            raise ConfigError(f"validation_fraction: expected a share in [0, 1), got {share!r}")
        if share == 0:
            return whole
        fractions = (1.0 - share, share, 0.0)
        if stratify is None:
            cut = splits.cut(len(rows), self._seed, fractions)
        else:
            cut = splits.cut_by_class(stratify, self._seed, fractions)
        return Dataset(whole.name, whole.schema, {name: rows.rows(np.sort(index)) for name, index in cut.items()})

    def _log_prob(self, data: Dataset, estimator: str = "auto", particles: int | None = None) -> np.ndarray:
        """log p(x) of each row, (n,), in nats, in the units of the data; a row's does not depend on the others."""
        with as_scikit_learn():
            score = self.run_.score(
                data, estimator=estimator, particles=particles, seed=self._seed, common_draws=True, keep=False
            )
        assert score.rows is not None
        return score.rows.double().numpy()


@functools.lru_cache
def takes_gaps(model: str) -> bool:
    """Whether a model learns from a table with empty cells."""
    schema = Schema(fields=tuple(Field(name=name, kind="real", gaps=True) for name in "ab"))
    try:
        with seeded(0):
            build(model, schema)
    except ConfigError:
        return False
    return True


@contextmanager
def as_scikit_learn() -> Iterator[None]:
    """What is wrong with parameters or data, as the `ValueError` that scikit-learn's users expect."""
    try:
        yield
    except (ConfigError, DataError, CapabilityError) as e:
        raise ValueError(str(e)) from e


def relabelled(data: Dataset, y: np.ndarray, schema: Schema) -> Dataset:
    """Data with other labels (N,), and the schema that names these; each split takes those of its own rows."""
    return Dataset(data.name, schema, {name: replace(part, y=y[part.index]) for name, part in data.splits.items()})


def seed_of(random_state: Any) -> int:
    """A whole number is the seed itself, so that a run can be repeated by `jensen.train`."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(LARGEST_SEED))


def _refuse(model: str, settings: Mapping[str, Any], options: Mapping[str, Any], schema: Schema, needs: str) -> None:
    """Raises `CapabilityError` before any training where the model cannot do what the estimator is for."""
    configured, checked, _ = check(model, settings, None, options)
    with seeded(checked.seed):
        built = Run({"model": model}, schema, build(model, schema, configured))
        can = built.capabilities
    if not getattr(can, needs):
        raise CapabilityError(f"{model}: {REASONS[needs](can)}")
