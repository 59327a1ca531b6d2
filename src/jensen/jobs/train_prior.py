"""Give a trained model another prior, fitted to its codes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jensen.core import seeded
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.run import Run, open_run
from jensen.jobs.train import check, fit, versions
from jensen.objectives.prior import prior_objective, priors, take_all_but_priors
from jensen.registry import build, find, flatten, override
from jensen.training.folder import Folder
from jensen.training.trainer import Event


def train_prior(
    run: Run | str | os.PathLike[str],
    prior: str | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    listener: Callable[[Event], None] | None = None,
    **options: Any,
) -> Run:
    """A run whose model is that of another run with p(z) replaced and fitted, all else as it was.

    Args:
        run: a trained model with a prior among its settings, or its folder.
        prior: the name of the new one; see `jensen show vae`.
        out: the folder of the new run; None keeps it in memory.
        settings: of the prior (`prior.components`) and of training (`train.lr`).
        overwrite: replace the run in `out`.
        listener: told of progress.
        options: settings of the prior, of training.

    Raises:
        CapabilityError: the model has no prior to replace.
        ConfigError: listing all problems with the settings.

    >>> import numpy as np
    >>> from jensen.jobs.train import train
    >>> x = np.random.default_rng(0).normal(size=(200, 4))
    >>> run = train("vae", x, latents=2, epochs=2)
    >>> train_prior(run, "mixture", epochs=2, settings={"prior.components": 3}).spec["settings"]["prior"]["name"]
    'mixture'
    """
    old = run if isinstance(run, Run) else open_run(run)
    name, was = old.spec["model"], old.spec["settings"]
    if "prior" not in was or not priors(old.model):
        raise CapabilityError(f"cannot train a prior: {name} has none that could be replaced")
    others = [code for code in old.model.codes if code not in (f.name for f in priors(old.model))]
    if others:
        raise CapabilityError(
            f"cannot train a prior: that of {name} has several parts, one of {others[0]!r} among them"
        )
    given = {**(settings or {}), **({"prior": prior} if prior else {}), **options}
    changed = {k: v for k, v in flatten(given).items() if k == "prior" or k.startswith("prior.")}
    if "prior" not in changed:
        raise ConfigError("prior: expected the new one, as prior=mixture; see jensen show vae")
    rest = {k: v for k, v in given.items() if k not in changed and k != "prior"}
    of_training = find("training", "gradient").settings
    others = [key for key in rest if key not in of_training and key.partition(".")[0] != "train"]
    if others:
        raise ConfigError([f"{key}: only the prior and its training can be chosen here" for key in others])
    configured, training, _ = check(name, {**override(flatten(was), changed), **rest}, None, {})
    data = old.data()
    with seeded(training.seed):
        model = build(name, old.schema, configured)
    take_all_but_priors(model, old.model)
    spec = {
        **old.spec,
        "settings": configured,
        "training": {**training.__dict__},
        "preset": None,
        "prior_of": str(Path(old.folder.path).resolve()) if old.folder else old.name,
        "versions": versions(),
    }
    if old.folder is not None and out is not None and Path(out).resolve() == Path(old.folder.path).resolve():
        raise ConfigError(f"--out: {out} is the run whose prior is replaced; name another folder")
    folder = Folder.create(out, spec, old.schema, overwrite) if out is not None else None
    model.objective = prior_objective(model)
    return fit(Run(spec, old.schema, model, folder, _data=data), False, listener)
