"""Models and their parts by name. A typed signature is the configuration.

A *component* fills a role (a prior, a network, a likelihood, ...); a *model* is a builder whose keyword-only
parameters are its settings, some of them slots for components. From the signatures come the checks, the
command-line overrides, `jensen show`, the docs pages and the record in a run folder.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from jensen.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Role:
    """Marks a setting as a slot to be filled by a component of this role."""

    name: str


@dataclass(frozen=True)
class Paper:
    """Where a model or component comes from."""

    text: str


# Slots, as they stand in a builder's signature. The value inside the builder is a callable, a `Choice`.
Network = Annotated[Any, Role("network")]
Likelihood = Annotated[Any, Role("likelihood")]
Prior = Annotated[Any, Role("prior")]
Posterior = Annotated[Any, Role("posterior")]
Missingness = Annotated[Any, Role("missingness")]
Objective = Annotated[Any, Role("objective")]
FlowSlot = Annotated[Any, Role("flow")]
Dequantizer = Annotated[Any, Role("dequantizer")]
CausalSlot = Annotated[Any, Role("causal")]
QuantizerSlot = Annotated[Any, Role("quantizer")]
ViewSlot = Annotated[Any, Role("view")]


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter of a builder or a component."""

    name: str
    annotation: Any
    default: Any

    @property
    def role(self) -> str | None:
        """The role of the component that fills this setting, or None where it is a plain value."""
        for extra in typing.get_args(self.annotation)[1:]:
            if isinstance(extra, Role):
                return extra.name
        return None

    def check(self, value: Any) -> Any:
        """The value, converted to this setting's type. Raises `ValueError` with a one-line reason."""
        from pydantic import ValidationError

        if _holds_bool(value) and bool not in _plain_types(self.annotation):
            raise ValueError(f"expected {self.type_name()}, got {value!r}")
        try:
            return self._adapter.validate_python(value)
        except ValidationError as e:
            first = e.errors()[0]
            if first["type"] == "list_type" and not first["loc"] and isinstance(value, str | int | float):
                raise ValueError(f"expected a list, as [{value}], got {value!r}") from None
            if first["type"] == "finite_number":
                raise ValueError(f"expected a finite number, got {value!r}") from None
            raise ValueError(f"expected {self.type_name()}, got {value!r}") from None

    @functools.cached_property
    def _adapter(self) -> Any:
        from pydantic import ConfigDict, TypeAdapter

        return TypeAdapter(self.annotation, config=ConfigDict(allow_inf_nan=False))

    def type_name(self) -> str:
        """The type in words, with its bounds: `int, >= 1`."""
        if self.role:
            return self.role
        return _in_words(self.annotation)


@dataclass(frozen=True)
class Component:
    """A registered function with its role, name, settings and sources."""

    role: str
    name: str
    function: Callable[..., Any]
    settings: Mapping[str, Setting]
    paper: str = ""
    positional: tuple[str, ...] = ()
    toy: str = ""  # for models: the kind of data on which its capabilities are computed

    @property
    def meanings(self) -> dict[str, str]:
        """What each setting means, by name, from the section "Settings:" of the docstring."""
        _, _, section = (inspect.getdoc(self.function) or "").partition("Settings:\n")
        found: dict[str, str] = {}
        name = ""
        for line in section.splitlines():
            if not line.strip():
                break
            if line.startswith(" " * 8) and name:
                found[name] += " " + line.strip()
            else:
                name, _, text = line.strip().partition(":")
                found[name] = text.strip()
        return found

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]


@dataclass(frozen=True)
class Choice:
    """A component with its settings chosen; called with what the model supplies.

    What it cannot be built for is told by the setting that chose it, `slot`.
    """

    component: Component
    settings: Mapping[str, Any]
    slot: str = ""

    @property
    def name(self) -> str:
        return self.component.name

    def __call__(self, *args: Any) -> Any:
        try:
            return self.component.function(*args, **_filled(self.component, self.settings))
        except ConfigError as e:
            if not self.slot or any(problem.startswith(self.slot) for problem in e.problems):
                raise
            raise ConfigError([f"{self.slot}: {problem}" for problem in e.problems]) from e


_components: dict[tuple[str, str], Component] = {}
MODEL = "model"
SLOTS = (
    *("network", "likelihood", "prior", "posterior", "flow", "causal"),
    *("dequantizer", "quantizer", "view", "missingness", "objective"),
)
"""Roles of what fills a slot."""


def component(
    role: str, name: str, *, paper: str = "", toy: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a component. Keyword-only parameters are its settings and need type and default."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = typing.get_type_hints(function, include_extras=True)
        settings, positional = {}, []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                positional.append(parameter.name)
                continue
            if parameter.name not in hints or parameter.default is inspect.Parameter.empty:
                raise TypeError(f"{role} {name!r}: setting {parameter.name!r} needs a type and a default")
            settings[parameter.name] = Setting(parameter.name, hints[parameter.name], parameter.default)
        _components[role, name] = Component(role, name, function, settings, paper, tuple(positional), toy)
        return function

    return register


def model(name: str, *, paper: str = "", toy: str = "picture") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a model builder: `builder(schema, *, settings...) -> Model`.

    `toy` is the kind of data, "picture" or "table", on which `jensen models` builds it to compute what it offers.
    """
    return component(MODEL, name, paper=paper, toy=toy)


def names(role: str) -> list[str]:
    """Registered names of a role, sorted."""
    _load()
    return sorted(n for r, n in _components if r == role)


def find(role: str, name: str) -> Component:
    """The component of that role and name. Raises `ConfigError` with a hint."""
    _load()
    if (role, name) not in _components:
        raise ConfigError(f"{name!r} {_is_not_a(role)}{did_you_mean(str(name), names(role))}")
    return _components[role, name]


def _is_not_a(role: str) -> str:
    return f"is not {'an' if role[0] in 'aeiou' else 'a'} {role}"


def configure(component: Component, settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Check settings against a component's signature and fill in defaults.

    `settings` may be nested (`{"prior": {"name": "vamp", "components": 9}}`), dotted (`{"prior": "vamp",
    "prior.components": 9}`) or both. Returns the full nested configuration, plain values only, fit for YAML.
    Raises `ConfigError` listing all problems at once.
    """
    problems: list[str] = []
    filled = _configure(component, nest(settings, problems), path, problems)
    if problems:
        raise ConfigError(problems)
    return filled


def build(name: str, schema: Any, settings: Mapping[str, Any] | None = None) -> Any:
    """Build a registered model for a schema from (checked) settings."""
    found = find(MODEL, name)
    return found.function(schema, **_filled(found, configure(found, settings or {})))


def _filled(component: Component, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for a component's function: its slots become callables."""
    arguments = dict(settings)
    for key, setting in component.settings.items():
        if setting.role:
            chosen = dict(arguments[key])
            arguments[key] = Choice(find(setting.role, chosen.pop("name")), chosen, key)
    return arguments


def _configure(component: Component, given: Any, path: str, problems: list[str]) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key in given:
        if key not in component.settings:
            hint = did_you_mean(key, component.settings) if component.settings else "; it has none"
            problems.append(f"{path}{key}: {component.role} {component.name!r} has no such setting{hint}")
    for key, setting in component.settings.items():
        value = given.get(key, setting.default)
        if setting.role:
            filled[key] = _configure_slot(setting, value, f"{path}{key}", problems)
            continue
        try:
            filled[key] = setting.check(value)
        except ValueError as e:
            problems.append(f"{path}{key}: {e}")
    return filled


def _configure_slot(setting: Setting, value: Any, path: str, problems: list[str]) -> dict[str, Any]:
    default = setting.default if isinstance(setting.default, Mapping) else {"name": setting.default}
    chosen = dict(value) if isinstance(value, Mapping) else {"name": value}
    if isinstance(chosen.get("name"), Choice):
        chosen = {"name": chosen["name"].name, **chosen["name"].settings}
    if "name" not in chosen or chosen["name"] == default["name"]:
        chosen = {**default, **chosen}
    assert setting.role
    name = chosen.pop("name")
    if not isinstance(name, str):
        problems.append(f"{path}: expected the name of a {setting.role}, got {name!r}")
        return {}
    try:
        found = find(setting.role, name)
    except ConfigError as e:
        own = _is_not_a(path.rpartition(".")[2])  # "base: 'foo' is not a base", whatever role fills that slot
        problems.extend(f"{path}: {problem.replace(_is_not_a(setting.role), own)}" for problem in e.problems)
        return {}
    return {"name": found.name, **_configure(found, chosen, path + ".", problems)}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The dotted form of nested settings.

    >>> flatten({"prior": {"name": "vamp", "components": 9}, "latents": 4})
    {'prior': 'vamp', 'prior.components': 9, 'latents': 4}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix[:-1] if prefix and key == "name" else prefix + key] = value
    return flat


def override(settings: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, dotted, with others over them. A slot given anew drops what was said of it before.

    >>> override({"prior": "vamp", "prior.components": 9}, {"prior": "normal"})
    {'prior': 'normal'}
    >>> override({"prior": "vamp", "prior.components": 9}, {"prior.components": 5})
    {'prior': 'vamp', 'prior.components': 5}
    """
    over = flatten(by)
    kept = {k: v for k, v in flatten(settings).items() if not any(k.startswith(f"{o}.") for o in over)}
    return {**kept, **over}


def nest(settings: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """`{"a": "x", "a.b": 1}` becomes `{"a": {"name": "x", "b": 1}}`."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        head, _, rest = str(key).partition(".")
        if rest or isinstance(value, Mapping):
            there = nested.get(head, {})
            there = there if isinstance(there, dict) else {"name": there}
            inner = nest({rest: value} if rest else value, problems)
            nested[head] = _merge(there, inner)
        elif isinstance(nested.get(head), dict):
            nested[head]["name"] = value
        else:
            nested[head] = value
    return nested


def _merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    out = dict(a)
    for key, value in b.items():
        if isinstance(out.get(key), dict) or (isinstance(value, dict) and key in out):
            left = out[key] if isinstance(out[key], dict) else {"name": out[key]}
            out[key] = _merge(left, value if isinstance(value, dict) else {"name": value})
        else:
            out[key] = value
    return out


def _in_words(annotation: Any) -> str:
    """A type in words, with its bounds and those of what a list holds.

    >>> from pydantic import Field
    >>> _in_words(list[Annotated[int, Field(ge=1)]]), _in_words(int | None), _in_words(typing.Literal["a", "b"])
    ('list of int, >= 1', 'int or none', 'a | b')
    """
    base, *extras = typing.get_args(annotation) if _is_annotated(annotation) else (annotation,)
    return ", ".join([_words(base), *(b for extra in extras for b in _bounds(extra))])


def _words(annotation: Any) -> str:
    """A type in words, its own bounds left out."""
    if _is_annotated(annotation):
        return _words(typing.get_args(annotation)[0])
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin is list:
        return f"list of {_in_words(arguments[0])}"
    if arguments:
        return " or ".join(map(_words, arguments))
    return "none" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def _is_annotated(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Annotated


def _plain_types(annotation: Any) -> set[Any]:
    if _is_annotated(annotation):
        return _plain_types(typing.get_args(annotation)[0])
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return {type(a) for a in arguments}
    return set().union(*map(_plain_types, arguments)) if arguments else {annotation}


def _holds_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_bool, value)))


def _bounds(extra: Any) -> list[str]:
    found = []
    for part in getattr(extra, "metadata", [extra]):
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if getattr(part, attribute, None) is not None:
                found.append(f"{sign} {getattr(part, attribute)}")
    return found


_loaded = False


def _load() -> None:
    """Import every module that may register something: a new model is one new file in `models/`."""
    global _loaded
    if _loaded:
        return
    _loaded = True  # set first: the modules imported below may ask for names themselves
    try:
        _import_all()
    except BaseException:
        _loaded = False
        raise


def _import_all() -> None:
    for package in ("nets", "conditionals", "objectives", "models", "training"):
        found = importlib.import_module(f"jensen.{package}")
        for module in pkgutil.iter_modules(found.__path__):
            importlib.import_module(f"jensen.{package}.{module.name}")
