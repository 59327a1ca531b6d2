"""Honest evaluation: a model beside simple methods, on the same masks and seeds, with standard errors."""

from jensen.jobs.evaluate.comparison import Evaluation, Metric
from jensen.jobs.evaluate.imputation import imputation
from jensen.jobs.evaluate.outliers import outliers
from jensen.jobs.evaluate.synthetic import synthetic

__all__ = ["Evaluation", "Metric", "imputation", "outliers", "synthetic"]
