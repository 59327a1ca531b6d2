"""Every command on tiny data: what it prints, what it writes, and that --json is JSON alone."""

from __future__ import annotations

import io
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from jensen.data import load_data
from jensen.jobs.pictures import grid
from jensen.jobs.run import open_run
from jensen.registry import build

SCORE_KEYS = {
    "nats", "stderr", "bits_per_dim", "kind", "estimator", "particles", "n", "data", "split", "split_sha256",
    "binarization",
}  # fmt: skip


def one_object(answer) -> dict:
    """stdout is one JSON object and nothing else; stderr, no terminal, is empty."""
    assert answer.code == 0, answer
    found = json.loads(answer.out)
    assert isinstance(found, dict)
    assert answer.err == ""
    return found


# Looking


def test_models_prints_every_model_and_what_it_offers(jensen):
    answer = jensen("models")
    rows = {line.split()[0]: line for line in answer.out.splitlines() if line}
    assert "exact" in rows["ppca"]
    assert "lower bound" in rows["vae"]
    assert "none" in rows["autoencoder"]


def test_models_as_json(jensen):
    rows = {row["model"]: row for row in one_object(jensen("models", "--json"))["models"]}
    assert rows["ppca"]["likelihood"] == "exact"
    assert rows["autoencoder"]["sampling"] == "no"


def test_show_prints_settings_with_meaning_and_paper(jensen):
    answer = jensen("show", "vae")
    assert answer.code == 0, answer
    for word in (
        "latents",
        "dimensions of z",
        "int, >= 1",
        "arXiv:1312.6114",
        "encoder.hidden",
        "train.lr",
        "1e-3",
    ):
        assert word in answer.out or word == "1e-3", word


def test_show_as_json_holds_components_and_training(jensen):
    found = one_object(jensen("show", "vae", "--json"))
    settings = {setting["setting"]: setting for setting in found["settings"]}
    assert settings["latents"]["type"] == "int, >= 1"
    assert settings["latents"]["meaning"]
    assert "mlp" in settings["encoder"]["choices"]
    assert "mlp" in [component["name"] for component in found["components"]["network"]]
    assert "train.epochs" in [setting["setting"] for setting in found["training"]]
    assert not found["ignored"]


def test_every_model_can_be_shown_and_every_setting_says_what_it_means(jensen):
    for row in one_object(jensen("models", "--json"))["models"]:
        found = one_object(jensen("show", row["model"], "--json"))
        assert all(setting["meaning"] for setting in found["settings"] + found["training"]), row["model"]


def test_settings_that_change_nothing_are_not_offered(jensen, table, tmp_path, caplog):
    """EM takes no step along a gradient, and a closed form passes the data once."""
    listed = {}
    for name in ("mixture", "ppca"):
        found = one_object(jensen("show", name, "--json"))
        listed[name] = {setting["setting"] for setting in found["training"]}
        assert not listed[name] & found["ignored"].keys()
        assert "train.lr" in found["ignored"] and "train.seed" in listed[name]
    assert "train.epochs" in listed["mixture"] - listed["ppca"]
    words = ("train", "mixture", table, "--drop", "kind", "--out", tmp_path / "r")
    answer = jensen(*words, "train.lr=0.1", "--precision", "bf16")
    assert answer.code == 2
    assert "train.lr: it changes nothing for this mixture: no step along a gradient is taken" in answer.err
    assert "train.precision: it changes nothing" in answer.err
    assert not (tmp_path / "r").exists()
    assert jensen(*words, "fit=gradient", "train.lr=0.1", "components=2", "--epochs", 1).code == 0
    told = jensen("train", "ppca", table, "--drop", "kind", "--out", tmp_path / "p", "latents=1", "--epochs", 3)
    assert told.code == 0
    assert "train.epochs: it changes nothing for this ppca: the data are passed once" in caplog.text


def test_a_wrong_value_is_told_by_the_option_that_gave_it(jensen, fails, table, tmp_path):
    words = ("train", "vae", table, "--out", tmp_path / "r", "--epochs", 0, "--batch-size", 0, "train.lr=-1")
    fails(jensen(*words), 2, "- --epochs: expected", "- --batch-size: expected", "- train.lr: expected")


def test_the_example_is_of_data_that_the_model_takes(jensen, jensen_data):
    """Log-linear classes enumerate their data."""
    words = shlex.split(jensen("show", "log-linear").out.splitlines()[-1].partition(": ")[2])
    assert words[:3] == ["jensen", "train", "log-linear"]
    build("log-linear", load_data(words[3]).schema)


def test_show_of_a_component(jensen):
    answer = jensen("show", "gated")
    assert answer.code == 0
    assert "network gated" in answer.out


def test_show_of_an_unknown_model_says_what_was_meant(jensen, fails):
    fails(jensen("show", "vaee"), 2, "'vaee' is not a model", "did you mean 'vae'?")


def test_data_lists_the_sets(jensen):
    assert "mnist-5k" in jensen("data").out
    assert "digits" in [row["name"] for row in one_object(jensen("data", "--json"))["data"]]


def test_data_describes_one(jensen, table):
    found = one_object(jensen("data", table, "--label", "kind", "--drop", "n", "--json"))
    assert [column["name"] for column in found["columns"]] == ["x", "y"]
    assert sum(split["rows"] for split in found["splits"].values()) == 80
    answer = jensen("data", table, "--label", "kind")
    for word in ("a table of 3 columns", "train", "sha256", "label", "int64"):
        assert word in answer.out, answer


def test_data_describes_pictures(jensen, pictures):
    answer = jensen("data", pictures)
    assert "pictures 1 x 6 x 6 (36 pixels)" in answer.out
    assert "0 to 255" in answer.out


def test_data_by_stdin(jensen, table):
    found = one_object(jensen("data", "-", "--label", "kind", "--json", stdin=table.read_bytes()))
    assert found["name"] == "stdin"


# Training


def test_train_says_where_how_good_and_what_next(jensen, table, tmp_path):
    out = tmp_path / "run"
    answer = jensen("train", "ppca", table, "latents=1", "--label", "kind", "--out", out)
    assert answer.code == 0, answer
    assert str(out) in answer.out
    assert "exact log p(x)" in answer.out
    assert f"next: jensen score {out}" in answer.out
    assert "log likelihood" in answer.err


def test_train_as_json(jensen, table, tmp_path):
    out = tmp_path / "run"
    found = one_object(jensen("train", "ppca", table, "--drop", "kind", "latents=1", "--out", out, "--json"))
    assert found["out"] == str(out)
    assert found["epochs"] == 1
    assert found["seconds"] >= 0
    assert found["valid"]["kind"] == "exact"


def test_validation_is_told_in_the_units_of_the_score(jensen, ppca):
    run = ppca.parent / "again"
    shutil.copytree(ppca, run)
    table = ppca.parent / "table.csv"
    told = one_object(jensen("train", "ppca", table, "--out", run, "--resume", "--json"))["valid"]["nats"]
    score = one_object(jensen("score", run, "--split", "valid", "--json"))["nats"]
    assert told == pytest.approx(score, rel=1e-5)


def test_settings_come_from_tokens_over_a_file(jensen, pictures, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("latents: 5\nencoder:\n  name: gated\n  hidden: [7]\ntrain:\n  epochs: 1\n  lr: 1e-2\n")
    out = tmp_path / "run"
    words = ("decoder.hidden=[6, 5]", "latents=3", "train.clip=5", "--binarize", "static")
    answer = jensen("train", "vae", pictures, "--config", config, *words, "--out", out)
    assert answer.code == 0, answer
    spec = yaml_of(out)
    assert spec["settings"]["latents"] == 3
    assert spec["settings"]["encoder"]["name"] == "gated"
    assert spec["settings"]["encoder"]["hidden"] == [7]
    assert spec["settings"]["decoder"]["hidden"] == [6, 5]
    assert spec["training"]["lr"] == 0.01
    assert spec["training"]["clip"] == 5
    assert spec["training"]["epochs"] == 1


def test_a_slot_given_anew_drops_what_the_file_says_of_it(jensen, pictures, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("encoder: {name: residual, width: 7}\nepochs: 1\n")
    out = tmp_path / "run"
    answer = jensen(
        "train",
        "vae",
        pictures,
        "--config",
        config,
        "encoder=mlp",
        "encoder.hidden=[4]",
        "--out",
        out,
        "--json",
    )
    assert answer.code == 0, answer
    assert yaml_of(out)["settings"]["encoder"]["hidden"] == [4]


def test_configuration_by_stdin(jensen, table, tmp_path):
    out = tmp_path / "run"
    words = ("--drop", "kind", "--config", "-", "--out", out)
    answer = jensen("train", "ppca", table, *words, stdin="latents: 1\nfit: em\n")
    assert answer.code == 0, answer
    assert yaml_of(out)["settings"]["fit"] == "em"


def test_training_data_by_stdin(jensen, table, tmp_path):
    out = tmp_path / "run"
    words = ("latents=1", "--label", "kind", "--out", out)
    answer = jensen("train", "ppca", "-", *words, stdin=table.read_bytes())
    assert answer.code == 0, answer
    assert jensen("score", out, table).code == 0


def test_overwrite_replaces_a_run(jensen, table, tmp_path):
    out = tmp_path / "run"
    words = ("train", "ppca", table, "--label", "kind", "--out", out)
    assert jensen(*words, "latents=1").code == 0
    assert jensen(*words, "latents=2", "--overwrite").code == 0
    assert yaml_of(out)["settings"]["latents"] == 2


def yaml_of(run: Path) -> dict:
    import yaml

    return yaml.safe_load((run / "spec.yaml").read_text())


# Using


def test_score_says_what_the_number_is(jensen, ppca, vae):
    exact = jensen("score", ppca)
    assert "log p(x) =" in exact.out
    assert "exact" in exact.out
    bound = jensen("score", vae, "--particles", 7)
    for word in ("log p(x) ≥", "bits/dim", "lower bound", "7 particles", "effective sample size", "test"):
        assert word in bound.out, bound


def test_score_as_json(jensen, vae):
    found = one_object(jensen("score", vae, "--particles", 3, "--limit", 4, "--seed", 1, "--json"))
    assert found.keys() >= SCORE_KEYS
    assert (found["kind"], found["estimator"], found["particles"], found["n"]) == ("lower_bound", "iw", 3, 4)
    assert found["binarization"] == "static"
    assert "4 of" in found["subset"]


def test_bits_of_a_continuous_table_are_null(jensen, ppca):
    assert one_object(jensen("score", ppca, "--json"))["bits_per_dim"] is None


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_score_writes_rows_whose_mean_is_the_score(jensen, ppca, tmp_path, suffix):
    out = tmp_path / f"rows.{suffix}"
    found = one_object(jensen("score", ppca, "--split", "train", "--limit", 9, "--out", out, "--json"))
    rows = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
    assert list(rows.columns) == ["row", "nats"]
    assert rows["nats"].mean() == pytest.approx(found["nats"], rel=1e-6)
    assert rows["row"].is_unique


def test_score_of_data_by_stdin(jensen, ppca, table, tmp_path):
    found = one_object(jensen("score", ppca, "-", "--json", stdin=table.read_bytes()))
    assert (found["data"], found["n"]) == ("stdin", 80)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(table.read_bytes())
    by_path = one_object(jensen("score", ppca, copy, "--json"))
    assert "was trained on: most of these rows" in jensen("score", ppca, table).err
    assert found["nats"] == pytest.approx(by_path["nats"], rel=1e-9)


def test_score_rows_to_stdout(jensen, ppca):
    answer = jensen("score", ppca, "--out", "-")
    assert len(pd.read_csv(io.StringIO(answer.out))) == 8


def test_sample_writes_tables_with_their_columns(jensen, ppca, tmp_path):
    for suffix, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        out = tmp_path / f"s.{suffix}"
        answer = jensen("sample", ppca, "-n", 5, "--out", out)
        assert answer.code == 0, answer
        assert answer.out == ""
        frame = read(out)
        assert frame.shape == (5, 3)
        assert list(frame.columns) == ["x", "y", "n"]
        assert frame["n"].dtype == "int64"


def test_sample_to_stdout_is_csv(jensen, ppca):
    answer = jensen("sample", ppca, "-n", 4, "--out", "-")
    assert pd.read_csv(io.StringIO(answer.out)).shape == (4, 3)
    assert answer.err == ""


def test_samples_of_a_seed_are_equal(jensen, ppca):
    a, b, c = (jensen("sample", ppca, "-n", 4, "--out", "-", "--seed", seed).out for seed in (1, 1, 2))
    assert a == b != c


def test_sample_writes_pictures(jensen, vae, tmp_path):
    for suffix in ("png", "npz", "npy", "csv", "parquet"):
        answer = jensen("sample", vae, "-n", 6, "--out", tmp_path / f"s.{suffix}")
        assert answer.code == 0, answer
    assert np.load(tmp_path / "s.npy").shape == (6, 1, 6, 6)
    assert np.load(tmp_path / "s.npz")["X"].shape == (6, 1, 6, 6)
    assert pd.read_csv(tmp_path / "s.csv").shape == (6, 36)
    greys = set(np.asarray(Image.open(tmp_path / "s.png")).ravel().tolist())
    assert greys & {0, 255}


def test_what_is_sampled_can_be_scored(jensen, vae, tmp_path):
    jensen("sample", vae, "-n", 6, "--out", tmp_path / "s.npz")
    assert one_object(jensen("score", vae, tmp_path / "s.npz", "--json"))["n"] == 6


def test_pictures_to_stdout_are_a_png(vae, start):
    process = start("sample", vae, "-n", 4, "--out", "-", text=False)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert Image.open(io.BytesIO(out)).format == "PNG"


def test_encode(jensen, vae, ppca, tmp_path):
    assert jensen("encode", vae, "--out", tmp_path / "z.npy").code == 0
    assert np.load(tmp_path / "z.npy").shape == (6, 2)
    answer = jensen("encode", ppca, "--out", "-", "--limit", 3)
    assert list(pd.read_csv(io.StringIO(answer.out)).columns) == ["row", "z0"]
    answer = jensen("encode", vae, "--out", "-", "--draws", 2)
    assert list(pd.read_csv(io.StringIO(answer.out)).columns) == [
        "z0_draw0",
        "z1_draw0",
        "z0_draw1",
        "z1_draw1",
    ]


def test_codes_that_are_probabilities_of_classes_are_named_so(jensen, table, trained):
    mixture = trained("mixture", "mixture", table, "--drop", "kind", "components=2", "--epochs", 1)
    codes = pd.read_csv(io.StringIO(jensen("encode", mixture, "--out", "-").out))
    assert list(codes.columns) == ["p(z=0)", "p(z=1)"]
    assert np.allclose(codes.sum(axis=1), 1)
    draws = pd.read_csv(io.StringIO(jensen("encode", mixture, "--out", "-", "--draws", 2).out))
    assert list(draws.columns) == ["z=0_draw0", "z=1_draw0", "z=0_draw1", "z=1_draw1"]
    classes = ("prior=categorical", "posterior=categorical", "prior.classes=3", "posterior.classes=3", "latents=6")
    table_of_two = trained(
        "classes", "vae", table, "--drop", "kind", *classes, "encoder=linear", "decoder=linear", "--epochs", 1
    )
    columns = pd.read_csv(io.StringIO(jensen("encode", table_of_two, "--out", "-").out)).columns
    assert list(columns) == [f"p(z{v}={k})" for v in range(2) for k in range(3)]


def test_reconstruct(jensen, vae, autoencoder, tmp_path):
    assert jensen("reconstruct", autoencoder, "--split", "train", "--out", tmp_path / "r.npy").code == 0
    assert np.load(tmp_path / "r.npy").shape == (48, 1, 6, 6)
    assert jensen("reconstruct", vae, "--out", tmp_path / "r.png").code == 0
    run = open_run(vae)
    x = run.data().split("test").x
    sheet = np.concatenate([x, run.reconstruct()])  # six data, and below them what came back
    shown = grid(sheet, columns=len(x), levels=run.schema.levels or 256)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "r.png")), np.asarray(shown))


def test_that_only_some_are_shown_is_said_where_it_is_so(jensen, vae, pictures, tmp_path):
    impute = ("impute", vae, "--region", "top", "--particles", 9, "--out", tmp_path / "i.png")
    few, many = jensen(*impute), jensen(*impute, "--split", "train")
    assert few.code == many.code == 0
    assert "at random" not in few.err and "showing at most 8, at random" in many.err
    reconstruct = ("reconstruct", vae, "--out", tmp_path / "r.png")
    assert "at random" not in jensen(*reconstruct).err
    np.save(tmp_path / "many.npy", np.tile(np.load(pictures)["X"], (5, 1, 1)))
    assert "showing at most 100, at random" in jensen(*reconstruct, tmp_path / "many.npy").err


@pytest.mark.parametrize("how", ["linear", "spherical", "geodesic"])
def test_interpolate(jensen, vae, tmp_path, how):
    words = ("--start", 1, "--end", 3, "--steps", 5, "--how", how)
    assert jensen("interpolate", vae, *words, "--out", tmp_path / "i.npy").code == 0
    assert np.load(tmp_path / "i.npy").shape == (5, 1, 6, 6)


def test_overwriting_a_plain_file_is_fine(jensen, vae, tmp_path):
    out = tmp_path / "s.png"
    out.write_text("old")
    assert jensen("sample", vae, "--out", out).code == 0
    Image.open(out).verify()


# Judging


def test_diagnose(jensen, vae):
    answer = jensen("diagnose", vae, "--limit", 5)
    assert answer.code == 0, answer
    assert "posterior collapse" in answer.out
    found = one_object(jensen("diagnose", vae, "--limit", 5, "--json"))
    assert {"name", "ok", "sentence", "evidence", "try"} <= found["findings"][0].keys()


def test_compare(jensen, trained, ppca, table, tmp_path):
    other = trained("ppca-2", "ppca", table, "latents=2", "--label", "kind")
    answer = jensen("compare", ppca, other)
    assert answer.code == 0, answer
    assert "±" in answer.out
    copy = tmp_path / "copy.csv"
    copy.write_bytes(table.read_bytes())
    found = one_object(jensen("compare", ppca, other, copy, "--json"))
    assert len(found["runs"]) == 2
    assert found["runs"][1]["difference"]["stderr"] > 0
    assert found["runs"][0]["n"] == 80


def test_a_report_to_stdout(jensen, vae, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = jensen("report", vae, "--out", "-")
    assert answer.code == 0 and answer.out.startswith("<!") and answer.out.rstrip().endswith("</html>")
    assert not list(tmp_path.iterdir())


def test_a_report_is_html(jensen, fails, vae, tmp_path, monkeypatch):
    monkeypatch.setattr("jensen.jobs.report.sections", None)  # nothing is worked out
    fails(jensen("report", vae, "--out", tmp_path / "r.pdf"), 2, "--out: ", "expected a file ending in .html")
    assert not list(tmp_path.iterdir())


def test_report(jensen, vae, tmp_path):
    pytest.importorskip("jensen.jobs.report")
    answer = jensen("report", vae, "--out", tmp_path / "r.html")
    assert answer.code == 0, answer
    assert (tmp_path / "r.html").read_text().lstrip().startswith("<!")


def test_codes_of_some_data_say_which(jensen, vae, tmp_path):
    assert jensen("encode", vae, "--out", tmp_path / "all.csv").code == 0
    assert jensen("encode", vae, "--limit", 3, "--out", tmp_path / "some.csv").code == 0
    every, some = (pd.read_csv(tmp_path / name) for name in ("all.csv", "some.csv"))
    assert list(some) == ["row", *every] and len(some) == 3
    data = open_run(vae).data().split("test").index
    places = [list(data).index(row - 1) for row in some["row"]]
    np.testing.assert_allclose(some[list(every)].to_numpy(), every.iloc[places].to_numpy(), atol=1e-6)
