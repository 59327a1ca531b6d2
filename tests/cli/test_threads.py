"""Threads that wait: what the program asks for, and that nobody's own wish is overruled."""

import os
import subprocess
import sys

import pytest

from jensen.cli.threads import SPINS, wait_briefly


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_the_environment_has_the_last_word(monkeypatch, environment, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_it_is_said_before_torch_is_there():
    program = """
import os, sys
os.environ.pop("GOMP_SPINCOUNT", None)
import importlib
program = importlib.import_module("jensen.cli.app")
program.app = lambda **_: print("torch" in sys.modules, os.environ["GOMP_SPINCOUNT"])
program.main()
"""
    kept = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    answer = subprocess.run([sys.executable, "-c", program], env=kept, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", SPINS]
