"""Likelihood-based deep generative models: one package, many jobs."""

__version__ = "0.1.0.dev0"
