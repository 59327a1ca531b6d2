"""What is said while training goes on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from jensen.cli.progress import TrainingProgress
from jensen.training.trainer import Event


def event(kind: str, step: int, **logged: dict[str, Any]) -> Event:
    return Event(kind, step / 10, step, step, 100.0, 1.0, logged)


@pytest.mark.parametrize("name", ["log_likelihood", "elbo"])
def test_numbers_stand_under_the_name_of_what_they_measure(name, capsys):
    """A loss that is no log-likelihood is neither called one nor changed into the user's units."""
    with TrainingProgress(quiet=False, offset=lambda: -100.0) as progress:
        progress(event("epoch", 1, train={"flow_matching_loss": 1.5}))
        progress(event("epoch", 2, train={"flow_matching_loss": 1.4}, valid={name: -7.0}))
        progress(event("step", 3, train={"flow_matching_loss": 1.3}))
        progress(event("end", 4))
    said = capsys.readouterr().err
    assert "98." not in said
    assert f"{name.replace('_', ' ')} valid -107.00" in said
    assert f"{name.replace('_', ' ')} train" not in said
    assert "flow matching loss train 1.50" in said


def test_it_is_said_that_compiling_takes_long(capsys):
    with TrainingProgress(quiet=False) as progress:
        progress(event("epoch", 1, train={"elbo": 1.5}))
        progress(event("compile", 2))
        progress(event("epoch", 3, train={"elbo": 1.6}))
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "epoch 2: compiling, which takes tens of seconds"
    assert "elbo train 1.60" in said[2]


def test_on_a_terminal_it_is_said_that_training_stops_after_the_step(capsys, monkeypatch):
    with TrainingProgress(quiet=True) as progress:
        progress(event("stop", 2))  # where there is no terminal nothing is, so that the last line says how to go on
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with TrainingProgress(quiet=True) as progress:
        progress(event("step", 1, train={"elbo": 1.5}))
        progress(event("stop", 2))
        progress._bar.refresh()
        assert "stops after this step; Ctrl-C again stops at once" in capsys.readouterr().err


def test_what_stands_in_for_validation_data_is_not_called_valid(capsys):
    with TrainingProgress(quiet=False) as progress:
        told = event("epoch", 1, train={"elbo": -3.0}, valid={"elbo": -2.5})
        progress(told)
        progress(dataclasses.replace(told, epoch=2, held_out=False))
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert "elbo train -3.00 valid -2.50" in first
    assert "elbo train -2.50" in second and "valid" not in second
