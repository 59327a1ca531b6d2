"""Train any model on any data."""

from __future__ import annotations

import inspect
import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from importlib import metadata, resources
from typing import Any

import torch
import yaml

from jensen.conditionals.ranges import ranges_of
from jensen.core import Model, seeded
from jensen.data import Dataset, load_data, splits
from jensen.data.doubts import spikes
from jensen.data.sources import reference
from jensen.errors import CapabilityError, ConfigError, DataError, DataWarning, did_you_mean, nearest
from jensen.hardware import has_bfloat16, pick_device
from jensen.jobs.run import Run, check_conditions, load_recorded, open_run
from jensen.jobs.while_training import Diary, can_note
from jensen.objectives.prior import prior_objective, take_all_but_priors
from jensen.registry import MODEL, build, configure, find, flatten, nest, override
from jensen.training.folder import Folder
from jensen.training.settings import OF_BUDGET, Settings, ignored, training_settings
from jensen.training.trainer import Event, Trainer

log = logging.getLogger(__name__)
DATA_OPTIONS = set(inspect.signature(load_data).parameters) - {"ref", "seed", "schema", "gaps", "rule"}
ARGUMENTS = ("out", "settings", "preset", "resume", "overwrite", "listener")
MAY_CHANGE = ("epochs", "minutes", "device", "threads", "workers", "checkpoint_seconds")  # when a run goes on


def train(
    model: str,
    data: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Callable[[Event], None] | None = None,
    **options: Any,
) -> Run:
    """Train a model on data and return the run.

    Args:
        model: a registered name (`jensen models`).
        data: a registered name, a path, an array, a frame, these by split, or a `Dataset`; see `load_data`. The record
            says how to find them again where they have a name or a path, which a `Dataset` of `load_data` remembers.
        out: the run folder; None keeps the run in memory.
        settings: of model and training, dotted or nested; training's stand under `train`.
        preset: the name of shipped settings; what is given besides overrides them.
        resume: go on where the folder's run stopped.
        overwrite: replace the folder's run.
        listener: told of progress.
        options: settings of the model, of training (`epochs`, `lr`, ...) and of loading data (`binarize`, ...).

    Raises:
        ConfigError: listing all problems with the settings.
        DataError: data that cannot be read or used.
        TrainingError: a term became infinite or not a number.

    Warns:
        DataWarning: a column that nothing can be learned of, by `Dataset.warnings`; of a flow one where its density
            peaks, by `spikes`.

    >>> import numpy as np
    >>> run = train("ppca", np.random.default_rng(0).normal(size=(200, 4)), latents=2)
    >>> run.score().kind
    'exact'
    """
    if resume:
        if out is None:
            raise ConfigError("--resume needs --out, the run to go on with")
        return _resume(out, model, data, settings or {}, preset, options, listener)
    configured, checked, data_options = check(model, settings or {}, preset, options)
    device = pick_device(checked.device)
    loaded = data if isinstance(data, Dataset) and not data_options else load_data(data, **data_options)
    if "train" not in loaded.splits:
        raise DataError(f"{loaded.name}: expected a split 'train', got {', '.join(loaded.splits)}")
    schema = loaded.schema
    try:
        any_part = getattr(find(MODEL, model).function, "takes_any_part", False) and not schema.is_array
        schema = schema.with_gaps() if checked.hide or any_part else schema
        with seeded(checked.seed):
            built = build(model, schema, configured)
    except ConfigError as e:
        raise ConfigError([f"train.hide: {problem}" for problem in e.problems]) if checked.hide else e from None
    if checked.hide and "seen" in built.p:
        raise ConfigError(f"train.hide: {model} explains why cells are missing, and what is hidden has another reason")
    if checked.learn_valid:
        _check_learned(loaded, built, checked)
        loaded = loaded.merged()
    if loaded.schema.given and "c" not in built.context:
        way = "drop the columns, or let it explain them"
        if schema.given_picture is not None:
            way = "leave --given-view out" if "given_view" in data_options else "leave out the pictures that are given"
        raise ConfigError(f"given: {model} takes no conditions; {way}")
    _refuse_ignored(model, built, _sort(model, settings or {}, preset, options)[1])
    if checked.precision == "bf16" and not has_bfloat16(device):
        log.warning("train.precision: this device imitates bf16, slowly; precision=auto takes it where it is native")
    if checked.compile is True and checked.workers > 1:
        log.warning("train.compile: nothing is compiled where several workers share a batch")
    peaks = spikes(schema.fields, loaded.splits["train"].x) if built.inverted and not schema.is_array else []
    for text in [*loaded.warnings, *peaks]:
        warnings.warn(text, DataWarning, stacklevel=2)
    ref, recorded = loaded.recipe if loaded.recipe is not None else (None, data_options)
    spec = {
        "model": model,
        "settings": configured,
        "training": {**checked.__dict__},
        "preset": preset,
        "data": {
            "ref": ref,
            "name": loaded.name,
            "options": recorded,
            "rule": splits.RULE,
            "merged": checked.learn_valid,
            "splits": {name: split.sha256 for name, split in loaded.splits.items()},
        },
        "versions": versions(),
    }
    folder = Folder.create(out, spec, schema, overwrite) if out is not None else None
    return fit(Run(spec, schema, built, folder, _data=loaded), False, listener)


def check(
    model: str, settings: Mapping[str, Any], preset: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Settings, dict[str, Any]]:
    """Settings of the model, of training and of loading data, before anything is done.

    Raises:
        ConfigError: listing all problems.
    """
    found = find(MODEL, model)
    model_settings, training, data_options = _sort(model, settings, preset, options)
    hints = _hints(found.settings, model_settings, options)
    problems = [f"{key}: model {found.name!r} has no such setting{hint}" for key, hint in hints.items()]
    known = {key: value for key, value in model_settings.items() if key not in hints}
    configured = _collect(problems, lambda: configure(found, known))
    checked = _collect(problems, lambda: training_settings(training))
    if problems:
        raise ConfigError(problems)
    return configured, checked, data_options


def _hints(own: Iterable[str], given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
    """Of given keys that are no setting of a model but spelt like one, like one of training, of loading data, or like
    an argument of `train`: a hint `; did you mean 'x'?`.
    """
    known = [*own, *find("training", "gradient").settings, *DATA_OPTIONS]
    unknown = [key for key in given if key not in own and "." not in key]
    found = {key: nearest(key, [*known, *(ARGUMENTS if key in options else ())]) for key in unknown}
    return {key: hint for key, hint in found.items() if hint}


def _refuse_ignored(name: str, model: Model, given: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for settings of training that would change nothing; a budget that is not used up is told."""
    without, known = ignored(model), find("training", "gradient").settings
    told = {
        key: f"train.{key}: it changes nothing for this {name}: {without[key]}; jensen show {name} lists what counts"
        for key, value in given.items()
        if key in without and value not in (None, known[key].default) and (key, value) != ("compile", False)
    }
    problems = [text for key, text in told.items() if key not in OF_BUDGET]
    if problems:
        raise ConfigError(problems)
    for text in told.values():
        log.warning(text)


def _resume(
    out: str | os.PathLike[str],
    model: str,
    data: Any,
    settings: Mapping[str, Any],
    preset: str | None,
    options: Mapping[str, Any],
    listener: Callable[[Event], None] | None,
) -> Run:
    """Go on with a run. Its record decides; a change of what `MAY_CHANGE` does not name is refused."""
    folder = Folder.open(out)
    spec, schema = folder.spec(), folder.schema()
    configured, _, _ = check(model, settings, None, options)
    given, training, data_options = _sort(model, settings, None, options)
    problems = _differences(spec, model, data, preset)
    if not problems:
        problems = _changed(nest(given, []), configured, spec["settings"])
        kept = {key: value for key, value in training.items() if key not in MAY_CHANGE}
        problems += _changed(kept, kept, spec["training"], "train.")
        loading = {key: _as_recorded(key, value) for key, value in data_options.items()}
        problems += _changed(loading, loading, spec["data"]["options"], "data: ")
    if problems:
        raise ConfigError([f"--resume: {problem}" for problem in problems])
    changes = {k: v for k, v in training.items() if k in MAY_CHANGE and v is not None}
    no_budget = {"epochs": None, "minutes": None} if changes.keys() & {"epochs", "minutes"} else {}
    known = {**spec["training"], **no_budget, **changes}
    spec = {**spec, "training": known}
    checked = training_settings(known)
    with seeded(checked.seed):
        built = build(spec["model"], schema, spec["settings"])
    if "prior_of" in spec:
        if folder.model_path.exists():  # all but the prior is as it was
            folder.load_model(built)
        else:
            take_all_but_priors(built, open_run(spec["prior_of"]).model)
        built.objective = prior_objective(built)
    if known != folder.spec()["training"]:
        with folder.in_training():
            folder.write_spec(spec)
    run = Run(spec, schema, built, folder)
    if spec["data"]["ref"] is None:
        run._data = load_recorded(data, spec["data"])
    return fit(run, True, listener)


def _differences(spec: Mapping[str, Any], model: str, data: Any, preset: str | None) -> list[str]:
    """Where model, data or preset are not those of a run's record."""
    recorded, known = spec["data"]["ref"], data.recipe if isinstance(data, Dataset) else None
    ref = known[0] if known else reference(data)
    pairs = [("model", spec["model"], model), ("preset", spec.get("preset"), preset or spec.get("preset"))]
    if recorded is not None and ref is not None:
        pairs.append(("data", recorded, ref))
    problems = [f"the run's {name} is {was!r}, got {now!r}" for name, was, now in pairs if was != now]
    if known and known[0] == recorded and known[1] != spec["data"]["options"]:
        problems.append(f"the run's data were loaded with {spec['data']['options']}, got {known[1]}")
    if recorded is None and data is None:
        problems.append("the run was trained on data in memory; give them again")
    return problems


def _as_recorded(option: str, value: Any) -> Any:
    """An option of loading data as a record holds it: several names as a list, one among them, too."""
    if isinstance(value, str) and option in ("drop", "given", "missing"):
        return [value]
    return list(value) if isinstance(value, tuple) else value


def _changed(given: Mapping[str, Any], now: Mapping[str, Any], was: Mapping[str, Any], path: str = "") -> list[str]:
    """Which given settings would change what a record says; `now` is the configuration that they make."""
    problems = []
    for key, value in given.items():
        a, b = now.get(key), was.get(key)
        if isinstance(value, Mapping) and isinstance(a, Mapping) and isinstance(b, Mapping):
            problems += _changed(value, a, b, f"{path}{key}.")
            continue
        a, b = (v["name"] if isinstance(v, Mapping) and "name" in v else v for v in (a, b))
        if a != b:
            problems.append(f"{path}{key} is {b!r} in the run's record, got {a!r}; it cannot change now")
    return problems


def fit(run: Run, resume: bool, listener: Callable[[Event], None] | None) -> Run:
    settings = training_settings(run.spec["training"])
    data, device = run.data(), pick_device(settings.device)
    try:
        _check_rows(run, data)
    except DataError:
        _leave_nothing(run, resume)
        raise
    train_split = data.split("train").to(run.schema, device)
    valid = data.splits["valid"].to(run.schema, device) if "valid" in data.splits else None
    if can_note(run):
        listener = Diary(run, listener, resume)
    trainer = Trainer(run.model, train_split, valid, settings, run.folder, listener)
    with run.folder.in_training() if run.folder is not None else nullcontext():
        try:
            run.log = trainer.run(resume)
        except (ConfigError, CapabilityError):
            _leave_nothing(run, resume)
            raise
    if run.folder is not None:
        done = open_run(run.folder.path, str(device))
        done._data = run._data
        return done
    return run


def _check_learned(data: Dataset, model: Model, settings: Settings) -> None:
    """Raises `ConfigError` where "valid" cannot be learned from."""
    if data.schema.binarization == "dynamic":
        raise ConfigError("train.learn_valid: pixels of train are drawn anew each time, those of valid once")
    if settings.epochs is settings.minutes is None and "epochs" not in ignored(model):
        raise ConfigError("train.learn_valid: nothing would tell when to stop; expected train.epochs or train.minutes")


def _check_rows(run: Run, data: Dataset) -> None:
    """Raises `DataError` where rows lack a condition, or are out of the ranges of a flow's columns."""
    ranges = ranges_of(run.model.modules())
    for part in ("train", "valid"):
        if part in data.splits:
            check_conditions(run.model, run.schema, data.split(part))
            if ranges is not None:
                ranges.check(data.split(part).x, data.split(part).index)


def _leave_nothing(run: Run, resume: bool) -> None:
    """Behind, of a training that was refused."""
    if run.folder is not None and not resume and not run.folder.metrics():
        run.folder.discard()


def load_preset(name: str) -> dict[str, Any]:
    """Shipped settings by name: `model`, `data`, `settings`, `about`. Raises `ConfigError` with a hint."""
    path = resources.files("jensen.presets") / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"{name!r} is not a preset{did_you_mean(name, presets())}")
    return yaml.safe_load(path.read_text())


def presets() -> list[str]:
    """Names of shipped settings."""
    return sorted(p.name[:-5] for p in resources.files("jensen.presets").iterdir() if p.name.endswith(".yaml"))


def _sort(
    model: str, settings: Mapping[str, Any], preset: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings by whom they concern: model, training, loading of data. Later ones override earlier ones."""
    model_settings: dict[str, Any] = {}
    training: dict[str, Any] = {}
    data_options: dict[str, Any] = {}
    of_training = find("training", "gradient").settings
    if preset:
        shipped = load_preset(preset)
        if shipped["model"] != model:
            raise ConfigError(f"preset {preset!r} is for {shipped['model']!r}, got {model!r}")
        bare = {k: v for k, v in options.items() if k not in DATA_OPTIONS}
        given = {f"train.{k}" if k in of_training else k: v for k, v in {**settings, **bare}.items()}
        budget = {"train.epochs", "train.minutes"}
        shipped = flatten(shipped.get("settings", {}))
        if budget & given.keys():  # one budget replaces the other
            shipped = {k: v for k, v in shipped.items() if k not in budget}
        settings = override(shipped, given)
        options = {k: v for k, v in options.items() if k in DATA_OPTIONS}
    for key, value in {**settings, **options}.items():
        if key == "train":
            if not isinstance(value, Mapping):
                raise ConfigError(f"train: expected settings of training, as train.lr=0.01, got {value!r}")
            training.update(value)
        elif key.startswith("train."):
            training[key[6:]] = value
        elif key in of_training:
            training[key] = value
        elif key in DATA_OPTIONS:
            if value is not None and value != ():
                data_options[key] = list(value) if isinstance(value, tuple) else value
        else:
            model_settings[key] = value
    return model_settings, training, data_options


def _collect(problems: list[str], check: Callable[[], Any]) -> Any:
    try:
        return check()
    except ConfigError as e:
        problems.extend(e.problems)


def versions() -> dict[str, str]:
    return {"jensen": metadata.version("jensen"), "torch": str(torch.__version__), "python": platform.python_version()}
