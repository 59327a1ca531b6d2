"""Settings: from typed signatures to checked, complete, plain configurations."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from jensen import registry
from jensen.errors import ConfigError
from jensen.jobs.train import check, load_preset, presets
from jensen.registry import MODEL, SLOTS, Choice, Network, component, configure, find, names


@component("test", "thing")
def thing(
    given: int,
    *,
    count: Annotated[int, Field(ge=1, le=9)] = 3,
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    sizes: list[Annotated[int, Field(ge=1)]] = [4],
    mode: Literal["a", "b"] = "a",
    limit: float | None = None,
    flag: bool = False,
    word: str = "auto",
    net: Network = {"name": "mlp", "hidden": [7]},  # type: ignore[assignment]
) -> tuple:
    """A thing."""
    return given, count, rate, sizes, mode, limit, flag, word, net


THING = find("test", "thing")
MLP = {"name": "mlp", "hidden": [7], "activation": "relu", "dropout": 0.0, "input_dropout": 0.0}


def problems(settings: dict, of: registry.Component = THING) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configure(of, settings)
    return caught.value.problems


def test_defaults_are_filled_in():
    assert configure(THING, {}) == {
        "count": 3,
        "rate": 0.5,
        "sizes": [4],
        "mode": "a",
        "limit": None,
        "flag": False,
        "word": "auto",
        "net": MLP,
    }


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"count": "7"}, "count", 7),
        ({"count": 7.0}, "count", 7),
        ({"rate": "1e-3"}, "rate", 1e-3),
        ({"sizes": [1, "2"]}, "sizes", [1, 2]),
        ({"limit": 2}, "limit", 2.0),
        ({"limit": None}, "limit", None),
        ({"flag": True}, "flag", True),
        ({"mode": "b"}, "mode", "b"),
    ],
)
def test_values_take_the_type_of_their_setting(given, key, value):
    found = configure(THING, given)[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count: expected int, >= 1, <= 9, got 0"),
        ({"count": 10}, "count: expected int, >= 1, <= 9, got 10"),
        ({"count": 2.5}, "count: expected int, >= 1, <= 9, got 2.5"),
        ({"count": "many"}, "count: expected int, >= 1, <= 9, got 'many'"),
        ({"count": None}, "count: expected int, >= 1, <= 9, got None"),
        ({"count": True}, "count: expected int, >= 1, <= 9, got True"),
        ({"count": {"a": 1}}, "count: expected int, >= 1, <= 9, got {'a': 1}"),
        ({"rate": 0.0}, "rate: expected float, > 0, < 1, got 0.0"),
        ({"rate": 1.0}, "rate: expected float, > 0, < 1, got 1.0"),
        ({"rate": math.nan}, "rate: "),
        ({"limit": math.inf}, "limit: expected a finite number, got inf"),
        ({"rate": False}, "rate: expected float, > 0, < 1, got False"),
        ({"sizes": 3}, "sizes: expected a list, as [3], got 3"),
        ({"sizes": [3, 0]}, "sizes: expected list of int, >= 1, got [3, 0]"),
        ({"sizes": [3, True]}, "sizes: expected list of int, >= 1, got [3, True]"),
        ({"mode": "c"}, "mode: expected a | b, got 'c'"),
        ({"word": 3}, "word: expected str, got 3"),
        ({"cuont": 3}, "cuont: test 'thing' has no such setting; did you mean 'count'?"),
        ({"net": "mpl"}, "net: 'mpl' is not a net; did you mean 'mlp'?"),
        ({"net": None}, "net: expected the name of a network, got None"),
        ({"net": [1]}, "net: expected the name of a network, got [1]"),
        ({"net.hiden": [3]}, "net.hiden: network 'mlp' has no such setting; did you mean 'hidden'?"),
        ({"net.hidden": [0]}, "net.hidden: expected list of int, >= 1, got [0]"),
        ({"net": "linear", "net.hidden": [3]}, "net.hidden: network 'linear' has no such setting"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(given, message):
    (problem,) = problems(given)
    assert problem.startswith(message)


def test_all_problems_at_once():
    found = problems({"count": 0, "rate": 7, "nett": "mlp", "net": {"hidden": [0], "activation": "sine"}})
    assert sorted(p.split(":")[0] for p in found) == ["count", "net.activation", "net.hidden", "nett", "rate"]


@pytest.mark.parametrize(
    "given",
    [
        {"net": {"name": "mlp", "hidden": [5], "activation": "tanh"}},
        {"net": {"hidden": [5], "activation": "tanh"}},
        {"net": "mlp", "net.hidden": [5], "net.activation": "tanh"},
        {"net.hidden": [5], "net.activation": "tanh", "net": "mlp"},
        {"net": {"hidden": [5]}, "net.activation": "tanh"},
        {"net.activation": "tanh", "net": {"hidden": [5]}},
        {"net": {"hidden": [6]}, "net.hidden": [5], "net.activation": "tanh"},
    ],
)
def test_nested_and_dotted_settings_mean_the_same(given):
    assert configure(THING, given)["net"] == {**MLP, "hidden": [5], "activation": "tanh"}


def test_defaults_of_a_slot_go_with_their_component_alone():
    """[7] is what this thing gives an mlp; another network has its own defaults."""
    assert configure(THING, {"net": "mlp"})["net"]["hidden"] == [7]
    assert configure(THING, {"net": "gated"})["net"]["hidden"] == [300, 300]


def test_a_configuration_is_plain_and_a_fixed_point():
    for role in (*SLOTS, MODEL, "training", "test"):
        for name in names(role):
            found = find(role, name)
            once = configure(found, {})
            assert yaml.safe_load(yaml.safe_dump(once)) == once
            assert configure(found, once) == once


def test_slots_become_callables_with_their_settings_chosen():
    filled = registry._filled(THING, configure(THING, {"net.hidden": [2, 3]}))
    assert isinstance(filled["net"], Choice)
    assert filled["net"].name == "mlp"
    widths = [m.out_features for m in filled["net"]((5,), (4,)) if hasattr(m, "out_features")]
    assert widths == [2, 3, 4]
    assert thing(1, **filled)[1] == 3


def test_a_choice_may_stand_as_a_setting():
    choice = Choice(find("network", "mlp"), {"hidden": [9]})
    assert configure(THING, {"net": choice})["net"] == {**MLP, "hidden": [9]}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("count", "int, >= 1, <= 9"),
        ("rate", "float, > 0, < 1"),
        ("sizes", "list of int, >= 1"),
        ("mode", "a | b"),
        ("limit", "float or none"),
        ("net", "network"),
    ],
)
def test_types_in_words(setting, words):
    assert THING.settings[setting].type_name() == words


def test_every_setting_needs_a_type_and_a_default():
    with pytest.raises(TypeError, match="setting 'a' needs a type and a default"):

        @component("test", "untyped")
        def untyped(*, a=3):
            """Untyped."""

    with pytest.raises(TypeError, match="setting 'a' needs a type and a default"):

        @component("test", "required")
        def required(*, a: int):
            """Required."""


def test_unknown_names_get_a_hint():
    with pytest.raises(ConfigError, match=r"'ppcaa' is not a model; did you mean 'ppca'\?"):
        find(MODEL, "ppcaa")
    with pytest.raises(ConfigError, match=r"'zzz' is not an objective; choose from .*elbo, .*iw"):
        find("objective", "zzz")


def test_problems_of_model_and_training_come_together():
    with pytest.raises(ConfigError) as caught:
        check("vae", {"latents": 0, "train.lr": -1, "batchsize": 3}, None, {"epochs": 0})
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "batchsize",
        "latents",
        "train.epochs",
        "train.lr",
    ]


@pytest.mark.parametrize("name", presets())
def test_presets_configure(name):
    preset = load_preset(name)
    assert {"model", "data", "settings", "about"} <= set(preset)
    configured, _, _ = check(preset["model"], {}, name, {})
    assert configured == configure(find(MODEL, preset["model"]), configured)
    setting, value = next((key, value) for key, value in configured.items() if type(value) in (int, bool))
    other = 3 if type(value) is int else not value
    changed, _, _ = check(preset["model"], {}, name, {setting: other})
    assert changed == {**configured, setting: other}


def test_there_are_presets_and_another_models_is_refused():
    assert presets()
    preset = load_preset(presets()[0])
    other = next(n for n in names(MODEL) if n != preset["model"])
    with pytest.raises(ConfigError, match=f"is for '{preset['model']}', got '{other}'"):
        check(other, {}, presets()[0], {})
    with pytest.raises(ConfigError, match="'nonesuch' is not a preset"):
        load_preset("nonesuch")
