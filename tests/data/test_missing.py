"""Words and numbers that stand for a missing cell."""

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

import jensen
from jensen.cli.app import app
from jensen.data import load_data
from jensen.errors import ConfigError, DataError

MESSY = "age,job,pay,born\n31,cook,10.5,1990-01-02\n?,-,-999,?\n45, ? ,12.25,1980-05-06\n-999,nurse,9,1999-01-01\n"


@pytest.fixture
def messy(tmp_path):
    path = tmp_path / "messy.csv"
    path.write_text(MESSY)
    return path


def test_cells_are_empty_and_columns_of_the_kind_that_is_left(messy):
    """As pandas reads the file where it is told the same words."""
    data = load_data(messy, missing=["?", "-", "-999"], fractions=(1, 0, 0))
    told = pandas.read_csv(messy, na_values=["?", "-", "-999"], skipinitialspace=True)
    told["job"] = told["job"].where(told["job"].str.strip() != "?")
    assert [field.kind for field in data.schema.fields] == ["count", "category", "real", "time"]
    assert data.schema.fields[1].categories == ("cook", "nurse")
    back = data.schema.model_copy(update={"container": "pandas"}).table(
        load_data(messy, schema=data.schema).split("all").x
    )
    assert np.array_equal(back.isna(), told.isna())
    assert back["age"].dtype == "Int64"
    np.testing.assert_array_equal(back["pay"].to_numpy(float), told["pay"].to_numpy(float))


def test_frames_keep_their_dtypes():
    frame = pandas.DataFrame(
        {
            "whole": np.array([1, -9, 3], dtype="int16"),
            "real": [0.5, np.nan, -9.0],
            "round": [1.0, 2.0, -9.0],  # real numbers that happen to be whole stay real
            "flag": [True, False, True],
        }
    )
    data = load_data(frame, missing="-9", fractions=(1, 0, 0))
    assert [field.dtype for field in data.schema.fields] == ["Int16", "float64", "float64", "bool"]
    gaps = np.isnan(load_data(frame, schema=data.schema).split("all").x)
    assert gaps.tolist() == [[False] * 4, [True, True, False, False], [False, True, True, False]]
    assert frame["whole"].tolist() == [1, -9, 3]  # the user's own is left alone


def test_truth_values_among_words_are_truth_values(tmp_path):
    """As pandas reads them where it is told the word."""
    path = tmp_path / "flags.csv"
    path.write_text("flag,fruit\nTrue,apple\n?,pear\nFalse,apple\n")
    told = pandas.read_csv(path, na_values="?")["flag"]
    data = load_data(path, missing="?", fractions=(1, 0, 0))
    assert (data.schema.fields[0].kind, data.schema.fields[0].dtype) == ("binary", "boolean")
    x = load_data(path, schema=data.schema).split("all").x[:, 0]
    np.testing.assert_array_equal(x, told.map({True: 1.0, False: 0.0}).to_numpy(float))


def test_a_run_takes_the_words_for_missing_in_other_data_too(messy, tmp_path):
    data = load_data(messy, missing=["?", "-", "-999"], fractions=(1, 0, 0))
    run = jensen.train("vae", data, epochs=1, settings={"encoder.hidden": [4], "decoder.hidden": [4], "latents": 1})
    filled = run.impute(messy).completed()
    assert not filled.isna().any(axis=None)
    assert filled["age"].iloc[0] == 31 and filled["pay"].iloc[0] == 10.5
    assert set(filled["job"]) == {"cook", "nurse"}
    with pytest.raises(ConfigError, match=r"missing: expected \?, -, -999 as in training"):
        load_data(messy, schema=run.schema, missing=["?"])


def test_what_may_stand_for_a_missing_cell_is_said(messy):
    with pytest.raises(DataError, match=r"row 2 .*holds '\?'.* say so with --missing '\?'"):
        load_data(messy, kinds={"age": "real"})
    words = load_data(pandas.DataFrame({"job": ["cook", "?", "cook", "nurse"] * 5, "pay": [1.0, 2.0, -999.0, 0.0] * 5}))
    assert (
        "column 'job' holds '?'; where that stands for a missing cell, say so with --missing '?'" in words.warnings[0]
    )
    assert "column 'pay' holds '-999'" in words.warnings[1]
    fine = load_data(pandas.DataFrame({"job": ["cook", "none"] * 9, "t": [-1.0, -99.0, 3.0] * 6, "n": [-1.0, 0.0] * 9}))
    assert fine.warnings == []


def test_words_that_are_none_are_refused(messy):
    with pytest.raises(ConfigError, match="missing: expected words, as '\\?' or '-999', got -999"):
        load_data(messy, missing=[-999])
    with pytest.raises(ConfigError, match="missing: expected a table"):
        load_data("digits", missing=["?"])


def test_the_command_line_takes_them(messy, tmp_path):
    told = CliRunner().invoke(app, ["data", str(messy), "--missing", "?", "--missing=-", "--missing=-999"])
    assert told.exit_code == 0, told.output
    assert "cells are empty" in told.output and "Int64" in told.output


def test_words_for_missing_are_told_in_training(messy, tmp_path):
    """By the command line as in Python, and stored with the run."""
    words, out = ["--missing", "?", "--missing=-", "--missing=-999"], tmp_path / "a"
    told = CliRunner().invoke(
        app, ["train", "vae", str(messy), *words, "--epochs", "1", "latents=1", "--out", str(out)]
    )
    assert told.exit_code == 0, told.stderr
    run = jensen.open(out)
    assert sorted(run.schema.missing) == ["-", "-999", "?"]
    assert run.schema == jensen.train("vae", messy, missing=["?", "-", "-999"], epochs=1, latents=1).schema
    assert any(np.isnan(part.x).any() for part in run.data().splits.values())
