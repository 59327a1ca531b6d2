"""Settings as they are typed: `key=value` tokens, and YAML files."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jensen.errors import ConfigError, did_you_mean

OF_SOUND = ("length", "rate", "levels", "encoding")
WHOLE = ("kinds",)  # mappings that are values: their keys are names of columns


def read_kinds(told: Sequence[str] | None) -> dict[str, Any]:
    """`COL=KIND` options by column, with bounds or categories after commas.

    Raises:
        ConfigError: listing those that are not written so.

    >>> read_kinds(["age=count", "a=b=real", "size=ordinal,S,M,L"])
    {'age': 'count', 'a=b': 'real', 'size': {'kind': 'ordinal', 'categories': ['S', 'M', 'L']}}
    """
    found: dict[str, Any] = {}
    problems = []
    for token in told or ():
        column, _, text = token.rpartition("=")
        kind, *words = column_names([text]) or [""]
        if not column:
            problems.append(f"--kind: expected COL=KIND, as age=count, got {token!r}")
        elif kind == "bounded" and len(words) != 2:
            problems.append(f"--kind: expected COL=bounded,LOW,HIGH, as share=bounded,0,1, got {token!r}")
        elif kind == "bounded":
            found[column] = {"kind": kind, "low": number_or_word(words[0]), "high": number_or_word(words[1])}
        elif words:
            found[column] = {"kind": kind, "categories": words}
        else:
            found[column] = kind
    if problems:
        raise ConfigError(problems)
    return found


@dataclass
class Settings:
    """Settings by dotted key.

    Attributes:
        values: of a file, overridden by tokens.
        problems: with the tokens, to be told together with those of the values.
        lines: of keys that came from the file, as `F.yaml, line 3`.
    """

    values: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    lines: dict[str, str] = field(default_factory=dict)

    def located(self, problem: str) -> str:
        """A problem `key: …` with the line that the key stands in, where it came from the file."""
        key = problem.partition(":")[0].removeprefix("train.")
        place = self.lines.get(key) or self.lines.get(f"train.{key}")
        return f"{problem} ({place})" if place else problem


def read_settings(tokens: Sequence[str], file: str | None = None) -> Settings:
    """Settings of a file, overridden by `key=value` tokens.

    Raises:
        ConfigError: the file is missing or no YAML mapping.
    """
    settings = read_file(file) if file else Settings()
    for key, value in read_tokens(tokens, settings.problems).items():
        # `prior=normal` replaces the file's prior with all that it says of it.
        for other in [other for other in settings.values if other == key or other.startswith(f"{key}.")]:
            del settings.values[other]
            settings.lines.pop(other, None)
        settings.values[key] = value
    return settings


def read_tokens(tokens: Sequence[str], problems: list[str]) -> dict[str, Any]:
    """`key=value` tokens, each value a YAML scalar or list.

    >>> read_tokens(["latents=20", "encoder.hidden=[300, 300]", "lr=1e-3", "prior=normal"], [])
    {'latents': 20, 'encoder.hidden': [300, 300], 'lr': 0.001, 'prior': 'normal'}
    """
    settings: dict[str, Any] = {}
    for token in tokens:
        key, sign, text = token.partition("=")
        if not sign:
            problems.append(f"{token!r}: expected key=value, as latents=20")
        elif not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
            problems.append(f"{token!r}: {key!r} is no key; expected key=value, as latents=20")
        elif key in settings:
            problems.append(f"{key}: given twice, as {settings[key]} and {text}")
        else:
            settings[key] = _read_value(text, key, problems)
    return settings


def column_names(words: Sequence[str] | None) -> list[str]:
    """Names of columns that an option gives, several with commas between them; one with a comma of its own in quotes.

    >>> column_names(["age,sex", '"a, b"'])
    ['age', 'sex', 'a, b']
    """
    return [name for word in words or () for name in next(csv.reader([word], skipinitialspace=True), [])]


def text_options(words: Sequence[str] | None) -> dict[str, Any]:
    """Options of text, several with commas between them; their values are checked where the text is read.

    Raises:
        ConfigError: a word that is no option.

    >>> text_options(["tokens=bpe,vocabulary=500", "lines=true"])
    {'tokens': 'bpe', 'vocabulary': 500, 'lines': True}
    """
    problems: list[str] = []
    values = read_tokens([part.strip() for word in words or () for part in word.split(",")], problems)
    if problems:
        raise ConfigError([f"--text: {problem}" for problem in problems])
    return values


def sound_options(words: Sequence[str] | None) -> dict[str, Any]:
    """Options of sound, several with commas between them; their values are checked where the sound is read.

    Raises:
        ConfigError: a word that is no option.

    >>> sound_options(["rate=8000,length=4096"])
    {'rate': 8000, 'length': 4096}
    """
    problems: list[str] = []
    values = read_tokens([part.strip() for word in words or () for part in word.split(",")], problems)
    for name in values:
        if name not in OF_SOUND:
            problems.append(f"no option {name!r}; expected {', '.join(OF_SOUND)}{did_you_mean(name, OF_SOUND)}")
    if problems:
        raise ConfigError([f"--sound: {problem}" for problem in problems])
    return values


def read_values(tokens: Sequence[str] | None, option: str) -> dict[str, Any]:
    """`column=value` tokens; a value is a number where it reads as one, else a word.

    Raises:
        ConfigError: a token that is none, or two of one column.

    >>> read_values(["age=40", "sex=f", "size=1.5", "answer=no"], "--given")
    {'age': 40, 'sex': 'f', 'size': 1.5, 'answer': 'no'}
    """
    values: dict[str, Any] = {}
    problems = []
    for token in tokens or ():
        name, sign, text = token.partition("=")
        if not sign or not name:
            problems.append(f"{option}: expected column=value, as age=40, got {token!r}")
        elif name in values:
            problems.append(f"{option}: {name} given twice, as {values[name]} and {text}")
        else:
            values[name] = number_or_word(text)
    if problems:
        raise ConfigError(problems)
    return values


def read_temperature(tokens: Sequence[str] | None) -> float | dict[str, float]:
    """`T`, or `NAME=T` for each of some variables; 1 where nothing is given.

    >>> read_temperature(["0.7"]), read_temperature(["z1=0.7", "z2=0.9"])
    (0.7, {'z1': 0.7, 'z2': 0.9})
    """
    found: dict[str, float] = {}
    for token in tokens or ():
        name, _, value = token.rpartition("=")
        if name in found:
            raise ConfigError(f"--temperature: {name or 'one for all'} is given twice: {found[name]:g} and {value}")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(
                f"--temperature: expected a number or NAME=NUMBER (repeat it for more), got {token!r}"
            ) from None
    if "" in found and len(tokens or ()) > 1:
        raise ConfigError(f"--temperature: expected one number, or one for each name, got {', '.join(tokens or ())}")
    return found.get("", found or 1.0)


def number_or_word(text: str) -> Any:
    """What was typed, as a number where it reads as one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_file(name: str) -> Settings:
    """A YAML mapping from a file, or from stdin where the name is `-`.

    Raises:
        ConfigError: naming file and line.
    """
    import yaml

    name, text = ("stdin", sys.stdin.read()) if name == "-" else (name, _read_text(name))
    settings = Settings()
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return settings
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"--config: {name}: expected lines 'key: value', got a {node.id}")
        _flatten(loader, node, "", name, settings)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"--config: {name}{line}: {e.problem or e.context}") from None
    except yaml.YAMLError as e:
        raise ConfigError(f"--config: {name}: {' '.join(str(e).split())}") from None
    return settings


def _read_text(name: str) -> str:
    try:
        return Path(name).read_text()
    except OSError as e:
        raise ConfigError(f"--config: cannot read {name}: {(e.strerror or str(e)).lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config: {name} is no text file") from None


def _flatten(loader: Any, node: Any, prefix: str, file: str, settings: Settings) -> None:
    """`prior: {name: vamp, components: 9}` becomes `prior` and `prior.components`, as on the command line."""
    import yaml

    for key_node, value_node in node.value:
        key, line = prefix + str(key_node.value), key_node.start_mark.line + 1
        key = prefix[:-1] if prefix and key_node.value == "name" else key
        if isinstance(value_node, yaml.MappingNode) and key not in WHOLE:
            _flatten(loader, value_node, f"{key}.", file, settings)
            continue
        if key in settings.values:
            raise ConfigError(f"--config: {file}, line {line}: {key!r} stands twice")
        settings.values[key] = loader.construct_object(value_node, deep=True)
        settings.lines[key] = f"{file}, line {line}"


def _read_value(text: str, key: str, problems: list[str]) -> Any:
    import yaml

    try:
        return yaml.load(text, _loader())
    except yaml.YAMLError:
        problems.append(f"{key}: cannot read {text!r}; expected a number, a word or a list, as [300, 300]")


def _loader() -> Any:
    """YAML's safe loader, for which 1e-3 is a number; YAML 1.1 takes it for a word."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader
