"""Likelihood-based deep generative models: one package, many jobs.

import jensen
run = jensen.train("vae", "mnist-5k", binarize="static", latents=20, epochs=20, out="runs/vae")
run = jensen.open("runs/vae")
run.score(); run.sample(64); run.encode(); run.report()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

# Names are imported when first used: `jensen --help` must not wait for torch.
_PUBLIC = {
    "train": ("jensen.jobs.train", "train"),
    "train_prior": ("jensen.jobs.train_prior", "train_prior"),
    "open": ("jensen.jobs.run", "open_run"),
    "Run": ("jensen.jobs.run", "Run"),
    "load_data": ("jensen.data", "load_data"),
    "Dataset": ("jensen.data", "Dataset"),
    "Schema": ("jensen.data", "Schema"),
    "choose": ("jensen.jobs.choose", "choose"),
    "compare": ("jensen.jobs.compare", "compare"),
    "build": ("jensen.registry", "build"),
    "Joint": ("jensen.core", "Joint"),
    "Model": ("jensen.core", "Model"),
    "Score": ("jensen.core", "Score"),
    "evidence": ("jensen.core", "evidence"),
    "infer": ("jensen.jobs.infer", "infer"),
    "gradients": ("jensen.objectives.gradients", ""),
    "estimators": ("jensen.estimators", ""),
}

if TYPE_CHECKING:
    from jensen import estimators
    from jensen.core import Joint, Model, Score, evidence
    from jensen.data import Dataset, Schema, load_data
    from jensen.jobs.choose import choose
    from jensen.jobs.compare import compare
    from jensen.jobs.infer import infer
    from jensen.jobs.run import Run
    from jensen.jobs.run import open_run as open
    from jensen.jobs.train import train
    from jensen.jobs.train_prior import train_prior
    from jensen.objectives import gradients
    from jensen.registry import build

__all__ = [
    "Dataset",
    "Joint",
    "Model",
    "Run",
    "Schema",
    "Score",
    "build",
    "choose",
    "compare",
    "estimators",
    "evidence",
    "gradients",
    "infer",
    "load_data",
    "open",
    "train",
    "train_prior",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jensen' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, "__version__"])
