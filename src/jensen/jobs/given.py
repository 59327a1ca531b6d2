"""What a user gives when drawing data: values of conditions, and of columns that the model explains itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.conditionals.heads import Support
from jensen.conditionals.views import Viewed
from jensen.core import Model
from jensen.data import Split, tables
from jensen.data.columns import encode
from jensen.data.conditions import conditions, views_as_given
from jensen.data.field import Field
from jensen.data.fitting import fit_levels
from jensen.data.raw import ALL, Part, Raw
from jensen.data.sources import Source, as_pandas, is_frame, open_source
from jensen.errors import ConfigError, DataError, DataWarning, did_you_mean
from jensen.jobs.run import Run, check_conditions

LABEL = ("label", "y")  # what labels may be called besides the name of their column
FAR = 20  # deviations from the mean of training data
_Y = ("y",)  # stands for labels among columns by name, none of which it is equal to


@dataclass(frozen=True)
class Given:
    """n rows of what is given.

    Attributes:
        n: how many.
        y: labels, (n,), or None.
        c: conditions in the user's units, (n, G), or pictures (n, C, H, W); or None.
        x: the datum in the user's units, (n, D), NaN where it is to be drawn; None where none of it is given.
        context: y and c as the model takes them, by name, on its device.
        hidden: views of the data that are wanted, (n, C, H, W) by name, as the model takes them.
    """

    n: int
    y: np.ndarray | None = None
    c: np.ndarray | None = None
    x: np.ndarray | None = None
    context: dict[str, Tensor] = field(default_factory=dict)
    hidden: dict[str, Tensor] = field(default_factory=dict)


def read_given(run: Run, n: int | None, given: Any, given_from: Any, usual: int) -> Given:
    """Rows of what is given.

    Args:
        n: how many; None for as many as there are values, or `usual` where each is one.
        given: by column, a value for all rows, or one for each, taken in turn, as a mapping or a frame. Labels by the
            name of their column, `y` or `label`; a label by its name or its number.
        given_from: a table, its rows taken in turn: the columns that condition the model, or, where nothing does, those
            that it explains. Of a model that is given pictures, or makes data from views of them, such pictures.

    Raises:
        ConfigError: listing every condition that is missing, and every column that the model does not know.
        DataError: the table holds what the model cannot take.
    """
    views, given = views_of(run.model), by_column(given)
    if given_from is not None and views and not run.model.conditions:
        if given:
            raise ConfigError("given: expected values or pictures (given_from), got both")
        return _of_views(run, n, given_from, views)
    pictures = _given_pictures(run, given_from)
    columns, source = _columns(run, given, None if pictures is not None else given_from)
    if given_from is not None and pictures is None and not columns and not given:
        raise _unused(run, source)
    labels = _label_names(run)
    columns = {_Y if name in labels else name: value for name, value in columns.items()}
    _check_names(run, columns, pictures)
    lengths = {name: len(v) for name, v in columns.items() if isinstance(v, np.ndarray)}
    lengths |= {} if pictures is None else {"given_from": len(pictures)}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"given: expected columns of one length, got {lengths}")
    length = next(iter(lengths.values()), 1)
    n = n if n is not None else (length if lengths else usual)
    if n < 1:
        raise ConfigError(f"-n: expected >= 1, got {n}")
    turn = np.arange(n) % length
    rows: dict[Any, np.ndarray] = {
        name: v[turn] if isinstance(v, np.ndarray) else np.full(n, v) for name, v in columns.items()
    }
    try:
        y = _labels(run, rows[_Y]) if "y" in run.model.context else None
        c = pictures[turn] if pictures is not None else None
        if c is None and "c" in run.model.context:
            c = _conditions(run, rows, source)
        x = _explained(run, rows, source)
    except DataError as e:
        if given_from is not None:
            raise
        raise ConfigError(e.said) from None
    return Given(n, y, c, x, context_of(run, y, c))


def by_column(given: Any) -> Mapping[str, Any]:
    """Values by column. Raises `ConfigError` where these are neither a mapping nor a frame."""
    if given is None or isinstance(given, Mapping):
        return given or {}
    if not is_frame(given):
        example = "given={'age': 30}, given={'age': [30, 40]} or a frame"
        raise ConfigError(f"given: expected values by column, as {example}, got {type(given).__name__}")
    return dict(as_pandas(given, "given").items())


def _unused(run: Run, source: Source) -> Exception:
    """Of what is given in a file, the model has no use for anything."""
    if run.model.conditions or not run.schema.is_array:
        known = [*run.schema.given_names, *_label_names(run)] if run.model.conditions else run.schema.names
        return DataError(f"{source.name}: expected columns among {', '.join(known)}, got none of them")
    return ConfigError(
        f"given_from: {run.spec['model']} was trained without conditions, and makes data from no view of them; train "
        "one with --given-view, or a self-vae"
    )


def views_of(model: Model) -> dict[str, Support]:
    """Views of the datum that a model makes data from, by name, with what they can be."""
    nodes = {factor.name: factor.module for factor in model.q if factor.name in model.p}
    return {name: node.support for name, node in nodes.items() if isinstance(node, Viewed)}


def _given_pictures(run: Run, given_from: Any) -> np.ndarray | None:
    """The pictures that the model is given, uint8 (n, C, H, W); None where it is given none, or columns.

    Where these are views of the data, whole pictures may stand for them.
    """
    picture = run.schema.given_picture if "c" in run.model.context else None
    if picture is None or given_from is None:
        return None
    source = open_source(given_from)
    part = next(iter(source.raw.parts.values()))
    x: Any = part.given if part.given is not None else part.x
    found, levels = x.shape[1:], run.schema.levels or 2
    if found == picture.shape:
        return fit_levels(x, picture.levels or 256, source)
    if picture.view is not None and found == run.schema.event_shape:
        return views_as_given(fit_levels(x, levels, source), levels, picture)
    whole = f", or the {_by(run.schema.event_shape)} of which they are views" if picture.view is not None else ""
    raise DataError(f"{source.name}: expected pictures of {_by(picture.shape)} that are given{whole}, got {_by(found)}")


def _of_views(run: Run, n: int | None, given_from: Any, views: Mapping[str, Support]) -> Given:
    """Pictures in turn, as the view whose shape they have, the first of several; whole pictures are viewed first."""
    source = open_source(given_from)
    shape, x = source.raw.shape, next(iter(source.raw.parts.values())).x
    fitting = [name for name, support in views.items() if support.shape == shape]
    if not fitting and shape == run.schema.event_shape:
        name, view = next((f.name, f.module) for f in run.model.q if f.name in views and f.parents == (run.model.data,))
        whole = torch.tensor(fit_levels(x, run.schema.levels or 2, source)).float().to(run.device)
        with torch.no_grad():
            y = torch.cat([view(part) for part in whole.split(1000)])
        return _in_turn(n, name, y)
    if not fitting:
        known = " or ".join(f"{_by(support.shape)} ({name})" for name, support in views.items())
        whole = f", or whole pictures of {_by(run.schema.event_shape)}"
        raise DataError(f"{source.name}: expected pictures of {known}{whole}, got {_by(shape)}")
    name, support = fitting[0], views[fitting[0]]
    return _in_turn(n, name, torch.tensor(fit_levels(x, support.levels or 2, source)).float().to(run.device))


def _in_turn(n: int | None, name: str, y: Tensor) -> Given:
    n = len(y) if n is None else n
    if n < 1:
        raise ConfigError(f"-n: expected >= 1, got {n}")
    return Given(n, hidden={name: y[torch.arange(n) % len(y)]})


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def given_as(run: Run, part: Split, n: int) -> Given:
    """n rows under the conditions of a split's data, in turn, which do not stand in the table that is drawn."""
    turn = np.arange(n) % len(part)
    check_conditions(run.model, run.schema, part)
    y = part.y[turn] if part.y is not None and "y" in run.model.context else None
    c = part.c[turn] if part.c is not None and "c" in run.model.context else None
    return Given(n, context=context_of(run, y, c))


def infer(model: Model, known: Mapping[str, Tensor], mean: bool = False) -> dict[str, Tensor]:
    """What is known, each (n, *event), and what q infers of it alone: drawn, or E[z | known], parents at their own.

    A factor of q that stands on what is not known is left out.
    """
    values = dict(known)
    for factor in model.q:
        if factor.name not in values and all(parent in values for parent in factor.parents):
            met = factor.module(*(values[parent] for parent in factor.parents))
            values[factor.name] = met if isinstance(met, Tensor) else met.mean if mean else met.sample()
    return values


def context_of(run: Run, y: np.ndarray | None, c: np.ndarray | None) -> dict[str, Tensor]:
    """What the model is given, by name, on its device."""
    out = {} if y is None else {"y": torch.from_numpy(y).to(run.device)}
    return out if c is None else {**out, "c": run.schema.prepare_given(c).to(run.device)}


def _columns(run: Run, given: Mapping[str, Any], given_from: Any) -> tuple[dict[str, Any], Source]:
    """Values by column, arrays where there are several; and where they come from, for messages."""
    source = Source(Raw({ALL: Part(np.empty(0))}), "given")
    columns: dict[str, Any] = {}
    if given_from is not None:
        source = open_source(given_from)
        part = next(iter(source.raw.parts.values()))
        frame: Any = part.x
        if len(frame) == 0:
            raise DataError(f"{source.name}: expected at least one row, got none")
        wanted = [*run.schema.given_names, *_label_names(run)] if run.model.conditions else run.schema.names
        own = list(getattr(frame, "columns", ()))
        if own and not source.raw.named and len(own) == len(run.schema.given):
            frame, own = frame.set_axis(run.schema.given_names, axis=1), run.schema.given_names
        columns = {name: _cells(frame[name]) for name in wanted if name in own}
        if part.given is not None and np.shape(part.given)[1:] == (len(run.schema.given),):
            columns |= dict(zip(run.schema.given_names, np.asarray(part.given).T, strict=True))
        if part.y is not None and _label_names(run) and not set(columns) & set(_label_names(run)):
            columns[_label_names(run)[0]] = _cells(part.y)
    for name, value in given.items():
        several = not isinstance(value, str) and np.ndim(value) > 0
        if not several and (value is None or str(value).strip().lower() in ("nan", "none", "<na>", "nat")):
            raise ConfigError(f"given: {name}: expected a value, got {value}; what is not given is drawn")
        columns[str(name)] = _cells(value) if several else value
        if several and len(value) == 0:
            raise ConfigError(f"given: {name}: expected values, got none")
    return columns, source


def _cells(values: Any) -> np.ndarray:
    return np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)


def _label_names(run: Run) -> list[str]:
    """What labels may be called, no column of the data being called so; () where the model is not given them."""
    if "y" not in run.model.context:
        return []
    names = [*([run.schema.label] if run.schema.label else []), *LABEL]
    return [name for name in names if name not in (*run.schema.names, *run.schema.given_names)]


def _check_names(run: Run, columns: Mapping[Any, Any], pictures: np.ndarray | None) -> None:
    schema, context, problems = run.schema, run.model.conditions, []
    of_columns = schema.given_names if "c" in context and schema.given_picture is None else []
    label = (_label_names(run) or LABEL)[0]
    explained = [] if schema.is_array else schema.names
    known = [*of_columns, *([label] if "y" in context else []), *explained]
    for name in columns:
        if name in known or name == _Y:
            continue
        if name in (schema.label, *LABEL):
            problems.append(f"given: {run.spec['model']} was not trained on labels as a condition (conditional=true)")
        else:
            problems.append(f"given: the model has no column {name!r}{did_you_mean(name, known)}")
    needed = [label] if "y" in context and _Y not in columns else []
    needed += [name for name in of_columns if name not in columns]
    if "c" in context and schema.given_picture is not None and pictures is None:
        factor = next(str(f) for f in run.model.p if "c" in f.parents)
        shape = _by(schema.given_shape)
        problems.append(
            f"given_from: the model is p({factor}): expected pictures of {shape} that are given, as --given-from FILE "
            "(in Python given_from=)"
        )
    if needed:
        factor = next(str(f) for f in run.model.p if set(f.parents) & set(context))
        what = "a value" if len(needed) == 1 else "values"
        problems.append(
            f"given: the model is p({factor}): expected {what} of {', '.join(needed)}, as --given {needed[0]}=VALUE "
            f"(in Python given={{{needed[0]!r}: VALUE}})"
        )
    if problems:
        raise ConfigError(problems)


def _labels(run: Run, values: np.ndarray) -> np.ndarray:
    """Labels as numbers, (n,), from names or, where no name is a number, from numbers."""
    classes = run.schema.classes or ()
    words, real = tables.words(values)
    position = {name: i for i, name in enumerate(classes)}
    if real is None and not any(name.lstrip("-").isdigit() for name in classes):
        position = {**{str(i): i for i in range(len(classes))}, **position}
    for word in words:
        if word not in position:
            found = str(real) if real is not None else word
            raise ConfigError(
                f"given: {run.schema.label or 'label'}: {found!r} is no label{did_you_mean(found or '', classes)}"
            )
    return np.array([position[word] for word in words], dtype=np.int64)


def _conditions(run: Run, rows: Mapping[str, np.ndarray], source: Source) -> np.ndarray:
    import pandas

    frame = pandas.DataFrame({name: pandas.Series(list(rows[name])) for name in run.schema.given_names})
    found = conditions(frame, run.schema.given, source)
    _warn_of_far(run.schema.given, found)
    return found


def _explained(run: Run, rows: Mapping[str, np.ndarray], source: Source) -> np.ndarray | None:
    """The given part of the datum, NaN elsewhere; None where none is given."""
    schema = run.schema
    found = [] if schema.is_array else [name for name in schema.names if name in rows]
    if not found:
        return None
    import pandas

    frame = pandas.DataFrame({name: pandas.Series(list(rows[name])) for name in found})
    x = np.full((len(frame), schema.dims), np.nan)
    places = [schema.names.index(name) for name in found]
    x[:, places] = encode(frame, [schema.fields[j] for j in places], source)
    _warn_of_far([schema.fields[j] for j in places], x[:, places])
    return x


def _warn_of_far(fields: Sequence[Field], values: np.ndarray) -> None:
    """Warns of given numbers, (n, G), about which the model can know next to nothing."""
    for j, of in enumerate(fields):
        if of.kind not in ("real", "positive", "bounded", "count") or of.constant:
            continue
        away = np.nan_to_num(abs(values[:, j] - of.center) / of.scale)
        if away.max() > FAR:
            value = values[away.argmax(), j]
            warnings.warn(
                f"given: {of.name}={value:g} lies {away.max():,.0f} deviations from the mean of training data "
                f"({of.center:.4g}): what follows from it was never seen",
                DataWarning,
                stacklevel=2,
            )
