"""Data: where they come from, what they are made of, and how they are prepared for a model."""

from jensen.data.catalogue import cache_folder, catalogue
from jensen.data.dataset import Dataset, Split, TensorSplit, describe
from jensen.data.field import Field
from jensen.data.loading import load_data
from jensen.data.schema import Schema

__all__ = [
    "Dataset",
    "Field",
    "Schema",
    "Split",
    "TensorSplit",
    "cache_folder",
    "catalogue",
    "describe",
    "load_data",
]
