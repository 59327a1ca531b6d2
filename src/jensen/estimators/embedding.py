"""Embedding: rows by what represents them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from jensen.data import Dataset
from jensen.estimators.base import Estimator, as_scikit_learn


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """A transformer to codes: the mean of q(z | x); of a flow z = T⁻¹(x).

    Its parameters are those of `Estimator`.

    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> Embedder("ppca", settings={"latents": 2}).fit_transform(X).shape
    (200, 2)
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the codes of rows (n, D)."""
        whole = self._whole(self._checked(X, reset=True))
        self._fit(whole, needs="encode")
        first = whole.split("train").rows(np.arange(1))
        self._n_features_out = self.run_.encode(Dataset(whole.name, self.run_.schema, {"all": first})).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Codes (n, L) of rows (n, D), in their dtype where that is real."""
        data = self._dataset(X)
        with as_scikit_learn():
            z = self.run_.encode(data)
        dtype = getattr(X, "dtype", None)
        return z if dtype == np.float32 else z.astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
