"""Commands on a trained flow: exact codes there and back, temperature, a diagnosis, and scores of lost digits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jensen.training.folder import load_tensors, save_tensors


@pytest.fixture(scope="module")
def flow(trained: Callable[..., Path], table: Path) -> Path:
    return trained("flow", "realnvp", table, "layers=2", "hidden=[8]", "--label", "kind", "--epochs", 3)


@pytest.fixture(scope="module")
def flow_of_pictures(trained: Callable[..., Path], pictures: Path) -> Path:
    small = ("scales=1", "couplings=1", "channels=4", "blocks=0")
    return trained("flow-pictures", "realnvp", pictures, *small, "--epochs", 1)


def test_models_says_that_flows_encode(jensen):
    rows = {row["model"]: row for row in json.loads(jensen("models", "--json").out)["models"]}
    flow = rows["realnvp"]
    assert (flow["likelihood"], flow["encoding"], flow["sampling"]) == ("exact", "yes", "fast")
    assert (flow["lossy compression"], flow["lossless compression"]) == ("no", "with bits-back")


def test_a_table_comes_back_from_its_codes(jensen, flow, table, tmp_path):
    own = pd.read_csv(table)[["x", "y", "n"]]
    answer = jensen("encode", flow, table, "-o", tmp_path / "z.csv")
    assert answer.code == 0, answer
    assert list(pd.read_csv(tmp_path / "z.csv").columns) == ["z0", "z1", "z2"]
    assert jensen("reconstruct", flow, table, "-o", tmp_path / "back.csv").code == 0
    back = pd.read_csv(tmp_path / "back.csv")
    np.testing.assert_allclose(back, own, atol=1e-5)
    assert back["n"].dtype == np.int64


@pytest.mark.parametrize("how", ["linear", "spherical"])
def test_a_path_ends_at_its_rows(jensen, flow, table, tmp_path, how):
    options = ("--start", 2, "--end", 7, "--steps", 4, "--how", how)
    assert jensen("interpolate", flow, table, "-o", tmp_path / "path.csv", *options).code == 0
    path, own = pd.read_csv(tmp_path / "path.csv"), pd.read_csv(table)[["x", "y", "n"]]
    np.testing.assert_allclose(path.iloc[[0, -1]], own.iloc[[1, 6]], atol=1e-5)


def test_a_geodesic_is_refused(jensen, fails, flow, tmp_path):
    answer = jensen("interpolate", flow, "-o", tmp_path / "path.csv", "--how", "geodesic")
    fails(answer, 4, "one to one", "--how linear")


def test_temperature_narrows_samples(jensen, flow, tmp_path):
    spread = {}
    for temperature in (0.2, 1.0):
        out = tmp_path / f"{temperature}.csv"
        assert jensen("sample", flow, "-n", 500, "--temperature", temperature, "-o", out).code == 0
        spread[temperature] = pd.read_csv(out)["x"].std()
    assert spread[0.2] < 0.5 * spread[1.0]


def test_pictures_come_back_exactly(jensen, flow_of_pictures, pictures, tmp_path):
    x = np.load(pictures)["X"]
    assert jensen("reconstruct", flow_of_pictures, pictures, "-o", tmp_path / "back.npz").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "back.npz")["X"].reshape(x.shape), x)
    for command in ("sample", "interpolate"):
        assert jensen(command, flow_of_pictures, "-o", tmp_path / f"{command}.png").code == 0
    draws = ("--draws", 2, "--limit", 3)
    assert jensen("encode", flow_of_pictures, "-o", tmp_path / "z.csv", *draws).code == 0
    rows = pd.read_csv(tmp_path / "z.csv")
    assert rows.shape == (3, 1 + 2 * 36) and rows["row"].is_unique


def test_a_diagnosis_has_numbers(jensen, flow):
    found = json.loads(jensen("diagnose", flow, "--json").out)
    names = {f["name"]: f for f in found["findings"]}
    assert names["round trip"]["evidence"]["float64"]["data_max"] < 1e-9
    assert names["stretching"]["evidence"]["largest"] >= 1
    assert "posterior collapse" not in names
    assert "round trip" in jensen("diagnose", flow).out


def test_lost_digits_are_noted_and_recorded(jensen, flow, folder):
    """Weights a thousand times as large: float32 is off, the score is float64's, and a note says so once."""
    wild = folder / "wild"
    if not wild.exists():
        shutil.copytree(flow, wild)
        tensors, metadata = load_tensors(wild / "model.safetensors")
        large = {n: 1000 * v if v.dim() > 1 else v for n, v in tensors.items()}
        save_tensors(wild / "model.safetensors", large, metadata)
    answer = jensen("score", wild, "--json")
    assert answer.code == 0, answer
    score = json.loads(answer.out)
    assert score["precision"] == "float64" and score["float32_error"] > 0.01
    assert answer.err.count("note: float32 was off by") == 1
    kept = json.loads((wild / "scores.json").read_text())[-1]
    assert kept["precision"] == "float64"
    quiet = jensen("score", flow, "--json")
    assert json.loads(quiet.out)["precision"] == "float32" and quiet.err == ""
