"""What a user tells of the columns of a table: by an option, or in a file beside the data."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from jensen.data.field import Field
from jensen.errors import ConfigError, DataError, did_you_mean

KINDS = ("real", "positive", "bounded", "count", "binary", "category", "ordinal", "time")
SIDECAR = ".columns.yaml"
KEYS = ("kind", "low", "high", "categories")

Told = Mapping[str, Any]
"""By column, its kind, or a mapping with `kind` and what that takes: `low` and `high`, or `categories` in order."""


def sidecar(ref: Any, columns: Collection[str] | None = None) -> dict[str, Any]:
    """What FILE.columns.yaml beside a file says of its columns, checked; {} where there is none.

    Names and categories are taken as they are written: `no` is a word, and no truth value.

    Args:
        columns: of the file; None where they are not known.

    Raises:
        DataError: it is no mapping of columns.
        ConfigError: listing all that is wrong in it, line by line.
    """
    if not isinstance(ref, str | os.PathLike):
        return {}
    path = Path(f"{os.fspath(ref)}{SIDECAR}").expanduser()
    if not path.is_file():
        return {}
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise DataError(f"{path}{f', line {mark.line + 1}' if mark else ''}: no YAML: {e.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: no YAML: {str(e).splitlines()[0]}") from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path}: expected columns with their kinds, as age: count, got a {node.id}")
    told: dict[str, Any] = {}
    problems, lines = [], {}
    for key, value in node.value:
        place, name = f"{path}, line {key.start_mark.line + 1}", str(key.value)
        if name in told:
            problems.append(f"{place}: {name!r} stands twice")
        elif columns is not None and name not in columns:
            problems.append(f"{place}: the data have no column {name!r}{did_you_mean(name, columns)}")
        else:
            told[name], lines[name] = _plain(value), place
    try:
        found = checked(told, lines.__getitem__)
    except ConfigError as e:
        problems += e.problems
    if problems:
        raise ConfigError(problems)
    return found


def described(fields: Collection[Field]) -> str:
    """Fields as a sidecar has them, to be corrected."""
    found: dict[str, Any] = {}
    for field in fields:
        if field.kind == "bounded":
            found[field.name] = {"kind": field.kind, "low": field.low, "high": field.high}
        elif field.kind == "ordinal":
            found[field.name] = {"kind": field.kind, "categories": list(field.categories or ())}
        else:
            found[field.name] = field.kind
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True)


def checked(told: Told, place: Callable[[str], str] = lambda name: "kinds") -> dict[str, dict[str, Any]]:
    """What is told of each column, its `kind` and what that takes.

    Args:
        place: where a column is told of, for messages.

    Raises:
        ConfigError: listing all that is wrong.

    >>> checked({"age": "count"})
    {'age': {'kind': 'count'}}
    """
    specs: dict[str, Any] = {name: {"kind": spec} if isinstance(spec, str) else spec for name, spec in told.items()}
    problems = [f"{place(name)}: {name}: {problem}" for name, spec in specs.items() for problem in _problems(spec)]
    if problems:
        raise ConfigError(problems)
    return {name: dict(spec) for name, spec in specs.items()}


def _plain(node: Any) -> Any:
    """A YAML node as words, lists and mappings."""
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value) for key, value in node.value}
    return [_plain(item) for item in node.value] if isinstance(node, yaml.SequenceNode) else node.value


def _problems(spec: Any) -> list[str]:
    """What is wrong with what is told of one column."""
    if not isinstance(spec, Mapping):
        return [f"expected a kind, as count, or a mapping with {', '.join(KEYS)}, got {spec!r}"]
    kind, found = spec.get("kind"), []
    unknown = [str(key) for key in spec if key not in KEYS]
    if unknown:
        found.append(f"expected {', '.join(KEYS)}, got {', '.join(unknown)}")
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS).partition(" choose ")[0].rstrip(";") if isinstance(kind, str) else ""
        return [*found, f"expected one of {', '.join(KINDS)}, got {kind!r}{hint}"]
    bounds = [spec[end] for end in ("low", "high") if end in spec]
    if kind != "bounded" and bounds:
        found.append(f"low and high go with bounded, got {kind}")
    elif kind == "bounded" and len(bounds) < 2:
        found.append(
            "bounded takes both low and high, as {kind: bounded, low: 0, high: 1}, or NAME=bounded,0,1 as an option"
        )
    elif bounds and not -math.inf < _number(bounds[0]) < _number(bounds[1]) < math.inf:
        found.append(f"expected numbers low < high, got {bounds[0]} and {bounds[1]}")
    if "categories" in spec:
        found += _of_categories(spec["categories"], kind)
    return found


def _of_categories(words: Any, kind: str) -> list[str]:
    if kind not in ("category", "ordinal"):
        return [f"categories go with category and ordinal, got {kind}"]
    if isinstance(words, str | Mapping) or not hasattr(words, "__iter__"):
        return [f"categories: expected a list, as [S, M, L], got {words!r}"]
    words = list(words)
    if any(isinstance(word, bool) for word in words):
        return ["categories: expected words, got truth values; put them in quotes"]
    twice = [str(word) for i, word in enumerate(words) if word in words[:i]]
    return [f"categories: {', '.join(map(repr, twice))} stands twice"] if twice else []


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
