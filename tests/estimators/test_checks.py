"""scikit-learn's own checks of estimators, with nothing that is expected to fail."""

from __future__ import annotations

import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from jensen.estimators import Classifier, DensityEstimator, Embedder, Imputer, OutlierDetector

QUICK = {"epochs": 2, "batch_size": 64}
VAE = {"latents": 2, "encoder.hidden": [16], "decoder.hidden": [16]}
FLOW = {"layers": 1, "hidden": [8]}
ESTIMATORS = [
    DensityEstimator(settings=VAE, particles=5, **QUICK),
    Embedder(settings=VAE, **QUICK),
    Imputer(settings=VAE, particles=10, **QUICK),
    Imputer("auto", settings=VAE, particles=10, **QUICK),
    OutlierDetector("maf", settings=FLOW, **QUICK),
    Classifier("maf", settings=FLOW, epochs=8, batch_size=32, lr=3e-2),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_names_of_columns_are_kept_and_compared(estimator):
    estimator_checks.check_dataframe_column_names_consistency(type(estimator).__name__, estimator)


@pytest.mark.filterwarnings("ignore:X .*feature names")  # the checks mix them
@pytest.mark.parametrize(
    "estimator", [e for e in ESTIMATORS if hasattr(e, "transform")], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize(
    "check",
    [
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_set_output_transform_polars",
    ],
)
def test_what_scikit_learn_asks_of_frames(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)
