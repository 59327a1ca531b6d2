"""Doubtful columns are named, with what to do, and sound ones are not."""

from __future__ import annotations

import warnings

import numpy as np
import pandas
import pytest

import jensen
from jensen.data import load_data
from jensen.errors import DataError, DataWarning


def frame(n: int = 300) -> pandas.DataFrame:
    return pandas.DataFrame(np.random.default_rng(0).normal(size=(n, 3)), columns=["a", "b", "c"])


def said(table: pandas.DataFrame) -> str:
    return "\n".join(load_data(table).warnings)


def test_a_number_that_dwarfs_all_others_is_named():
    far = frame()
    far.loc[4, "b"] = 1e30
    assert "column 'b' holds 1e+30, so far from all others" in said(far)
    assert said(frame()) == ""
    heavy = frame()
    heavy["a"] = np.random.default_rng(1).standard_t(2, size=300)
    heavy["b"] = np.exp(2 * heavy["b"])
    assert said(heavy) == ""


def test_a_flow_warns_of_columns_where_its_density_peaks():
    table = frame()
    table["few words"] = np.arange(300) % 6
    table["zeros"] = table["a"].where(table["a"] > 0, 0.0)
    peaks = r"'few words' \(6 numbers in 240 rows\), 'zeros' \(\d\d% of the rows hold 0\)"
    with pytest.warns(DataWarning, match=peaks) as found:
        jensen.train("maf", table, epochs=1)
    assert "--given 'few words'" in str(found[0].message)
    assert "as nade with --kind 'few words'=count or =ordinal" in str(found[0].message)
    with pytest.warns(DataWarning, match="a model for values that come again, kernels"):  # zeros are no counts
        jensen.train("maf", table, epochs=1, drop=["few words"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        jensen.train("maf", table, epochs=1, drop=["zeros", "few words"])
        jensen.train("vae", table, epochs=1)
        jensen.train("kernels", table, epochs=1, drop=["few words"])
        jensen.train("nade", table, epochs=1, drop=["zeros"], kinds={"few words": "count"})


def test_rows_that_were_learned_from_are_told_of(tmp_path):
    frame().to_csv(tmp_path / "all.csv", index=False)
    frame(40).to_csv(tmp_path / "some.csv", index=False)
    run = jensen.train("maf", tmp_path / "all.csv", epochs=1)
    with pytest.warns(DataWarning, match=r"all\.csv is what .* was trained on"):
        run.score(tmp_path / "all.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        run.score(tmp_path / "some.csv")
        run.score()


def test_infinite_cells_are_not_said_to_be_filled_in():
    table = frame()
    table.loc[4, "b"] = np.inf
    with pytest.raises(DataError, match=r"infinite values.*; empty those cells, or leave out"):
        load_data(table)


def test_names_of_rows_as_conditions_are_doubted():
    table = frame()
    table["name"] = [f"row {i}" for i in range(300)]
    assert "column 'name' holds 300 different words" in "\n".join(load_data(table, given="name").warnings)


def test_rows_that_calibrate_themselves_and_training_rows_are_told_of(tmp_path):
    frame().to_csv(tmp_path / "all.csv", index=False)
    run = jensen.train("maf", tmp_path / "all.csv", epochs=1)
    with pytest.warns(DataWarning, match="was trained on"):
        run.outliers(tmp_path / "all.csv", alpha=0.2)
    with pytest.warns(DataWarning, match="calibrated by these rows themselves"):
        run.outliers(split="valid", alpha=0.2)


def test_overfitting_is_not_looked_for_where_nothing_was_held_out():
    run = jensen.train("maf", frame(), epochs=1, fractions=(1.0, 0.0, 0.0))
    finding = next(f for f in run.diagnose().findings if f.name == "overfitting")
    assert finding.sentence == "not looked at: nothing was held out"


def test_a_column_that_numbers_the_rows_is_named():
    table = frame()
    table.insert(0, "id", np.random.default_rng(0).permutation(300) + 1)
    assert "column 'id' numbers the rows" in said(table) and "--drop id" in said(table)
    assert said(table.assign(id=table["id"] // 2)) == ""
    assert "numbers the rows" in said(table.assign(word=["a", "b"] * 150))
