"""A part that makes a model: from one function, a component and the model of that name."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from jensen.conditionals.flows import Columns, Context, Labels, Picture
from jensen.core import Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.registry import component


def family(
    role: str,
    name: str,
    builder: Callable[..., Any],
    density: Callable[..., Model],
    *,
    paper: str,
    toy: str,
    defaults: Mapping[str, Any],
    **fixed: Any,
) -> None:
    """Register `builder` as a component of that role, and a model that `density` makes of it.

    The model is `density(schema, builder with its settings, **fixed, **its own settings)`; it has the settings of both,
    with other defaults of the builder's where `defaults` says so.
    """
    component(role, name, paper=paper)(builder)
    shared = {p.name: p for p in settings_of(density)}

    def model(schema: Schema, **settings: Any) -> Model:
        common = {key: settings.pop(key) for key in list(settings) if key in shared}
        return density(schema, functools.partial(builder, **settings), **fixed, **common)

    own = [p.replace(default=defaults.get(p.name, p.default)) for p in settings_of(builder)]
    parameters = [*own, *shared.values()]
    schema = inspect.Parameter("schema", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    hints = {**_hints(builder), **_hints(density)}
    model.__signature__ = inspect.Signature([schema, *parameters])  # pyright: ignore[reportFunctionMemberAccess]
    model.__annotations__ = {p.name: hints[p.name] for p in parameters}
    model.__doc__ = _documentation(builder, density)
    model.__module__, model.__name__ = builder.__module__, builder.__name__
    model.shares = frozenset(shared)  # pyright: ignore[reportFunctionMemberAccess]
    component("model", name, paper=paper, toy=toy)(model)


def given(schema: Schema, conditional: bool) -> tuple[list[str], Context | None]:
    """What p is conditioned on: labels y where asked for, and the columns or the picture c that the data give."""
    parts: dict[str, Labels | Columns | Picture] = {}
    if conditional and not schema.classes:
        raise ConfigError("conditional: the data have no labels to condition on (name their column with --label)")
    if conditional and schema.classes:
        parts["y"] = Labels(len(schema.classes))
    picture = schema.given_picture
    if picture is not None:
        parts["c"] = Picture(picture.shape, picture.levels or 256)
    elif schema.given:
        parts["c"] = Columns(schema.given_width)
    return list(parts), Context(parts.values()) if parts else None


def settings_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The keyword-only parameters of a function."""
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function, include_extras=True)


def _documentation(builder: Callable[..., Any], density: Callable[..., Any]) -> str:
    """The builder's docstring, with the settings of `density` after its own."""
    text, _, rest = (inspect.getdoc(builder) or "").partition("Settings:\n")
    own, _, after = rest.partition("\n\n")
    common = (inspect.getdoc(density) or "").partition("Settings:\n")[2]
    settings = "\n".join(part for part in (own.rstrip(), common.rstrip()) if part)
    return f"{text.rstrip()}\n\nSettings:\n{settings}\n\n{after}".rstrip()
