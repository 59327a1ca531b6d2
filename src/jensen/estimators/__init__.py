"""scikit-learn estimators: density, embedding, imputation, outliers and classification by any model of a table.

    from jensen.estimators import DensityEstimator
    DensityEstimator("maf", epochs=20, random_state=0).fit(X).score_samples(X)

They take arrays and pandas or polars frames, stand in pipelines and grid searches, and are pickled whole.
"""

from jensen.estimators.classification import Classifier
from jensen.estimators.density import DensityEstimator
from jensen.estimators.embedding import Embedder
from jensen.estimators.imputation import Imputer
from jensen.estimators.outliers import OutlierDetector

__all__ = ["Classifier", "DensityEstimator", "Embedder", "Imputer", "OutlierDetector"]
