"""A table as it comes: columns without a cell or of one value, words, gaps; what is said of it, how rows count."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas
import pytest

from jensen.cli.arguments import read_kinds
from jensen.errors import ConfigError

COLUMNS = ["age", "same", "empty", "city", "size"]


@pytest.fixture(scope="module")
def people(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = [
        f"{rng.integers(18, 80) if k % 9 else ''},7,,{rng.choice(['Oslo', 'Rome'])},{rng.choice(list('SML'))}"
        for k in range(80)
    ]
    path = folder / "people.csv"
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def run(trained, people: Path) -> Path:
    small = ("latents=2", "encoder.hidden=[8]", "decoder.hidden=[8]", "objective=iw", "--epochs", 4)
    return trained("people", "vae", people, *small, "--kind", "size=ordinal,S,M,L")


def test_columns_that_say_nothing_are_said_and_keep_their_place(jensen, run, people, tmp_path):
    assert "warning: column 'empty' has no cell" in jensen("data", people).err
    again = jensen("train", "vae", people, "--epochs", 1, "latents=1", "--out", tmp_path / "run")
    assert "warning: column 'empty' has no cell" in again.err
    told = jensen("impute", run, people, "--out", tmp_path / "whole.csv")
    assert "left empty, since the model learned from no cell of them: empty" in told.err
    assert json.loads(jensen("impute", run, people, "--out", tmp_path / "w.csv", "--json").out)["values_filled"] == 9
    assert jensen("sample", run, "-n", 5, "--out", tmp_path / "drawn.csv").code == 0
    assert jensen("sample", run, "-n", 5, "--given", "city=Oslo", "--out", tmp_path / "held.csv").code == 0
    for name in ("whole", "drawn", "held"):
        made = pandas.read_csv(tmp_path / f"{name}.csv")
        assert list(made.columns) == COLUMNS
        assert made["empty"].isna().all() and made.drop(columns="empty").notna().all(axis=None)
    assert (made["city"] == "Oslo").all()


def test_no_outliers_are_said_to_be_none(jensen, run):
    none = jensen("outliers", run, "--columns", "--alpha", 0.01)
    assert "none is an outlier at this level; the strangest rows" in none.out
    assert not re.search(r"^\*", none.out, re.MULTILINE)
    some = jensen("outliers", run, "--columns", "--alpha", 0.9)
    assert re.search(r"^\* row \d+: ", some.out, re.MULTILINE)
    for out in (none.out, some.out):
        assert "-0.0 bits" not in out and "same 7" not in out and "empty" not in out


def test_a_constant_column_that_is_not_is_strange(jensen, run, tmp_path):
    odd = tmp_path / "odd.csv"
    odd.write_text(",".join(COLUMNS) + "\n30,7,,Oslo,S\n30,8,,Oslo,S\n")
    told = jensen("outliers", run, odd, "--columns").out.splitlines()
    assert any(line[2:].startswith("row 2: ") and "; same 8 " in line for line in told)


def test_rows_count_from_one(jensen, run, people, tmp_path):
    for command in ("score", "outliers"):
        assert jensen(command, run, people, "--out", tmp_path / "rows.csv").code == 0
        assert pandas.read_csv(tmp_path / "rows.csv")["row"].tolist() == list(range(1, 81))
    options = ("--details", tmp_path / "details.csv", "--draws", 1, "--out", tmp_path / "draws.csv")
    assert jensen("impute", run, people, *options).code == 0
    assert pandas.read_csv(tmp_path / "details.csv")["row"].tolist() == list(range(1, 81))
    assert pandas.read_csv(tmp_path / "draws.csv")[".id"].tolist() == 2 * list(range(1, 81))
    assert json.loads(jensen("outliers", run, people, "--alpha", 0.99, "--json").out)["rows"][0] >= 1
    ranked = json.loads(jensen("acquire", run, people, "--target", "city", "--limit", 3, "--json").out)
    assert all(1 <= row["row"] <= 80 for row in ranked["rows"])


def test_what_is_asked_for_can_tell_something_and_typos_are_no_values(jensen, run):
    typed = "ctiy=Rome\nsize=XS\ncity=Rome\nage=about 4\nage=40\nsize=M\nstop\n"
    answer = jensen("acquire", run, "--target", "city", "--min-gain", 0, stdin=typed)
    listed = {line.split()[0] for line in answer.out.splitlines() if "±" in line}
    assert listed == {"age", "size"}
    for words in (
        "no column 'ctiy'; did you mean 'city'?",
        "size: expected a category of the training data, got 'XS'",
        "city is the target",
        "age: expected a count 0, 1, 2, ..., got 'about 4'",
    ):
        assert words in answer.err
    assert "spent: 2" in answer.out


def test_progress_and_summary_name_the_same(jensen, people, tmp_path):
    small = ("latents=1", "encoder.hidden=[4]", "decoder.hidden=[4]", "--epochs", 2)
    told = jensen("train", "vae", people, "objective=iw", *small, "--out", tmp_path / "run")
    assert "best validation iw: " in told.out and ", iw train " in told.err and "elbo" not in told.err


def test_kinds_as_they_are_typed(jensen, fails, people):
    assert read_kinds(["a=b=real", "s=bounded,0,1", 'o=ordinal,"a, b",c']) == {
        "a=b": "real",
        "s": {"kind": "bounded", "low": 0, "high": 1},
        "o": {"kind": "ordinal", "categories": ["a, b", "c"]},
    }
    with pytest.raises(ConfigError, match="COL=bounded,LOW,HIGH"):
        read_kinds(["s=bounded,0"])
    wrong = jensen("data", people, "--kind", "city=catgory", "--kind", "age=bounded,5,4")
    fails(
        wrong, 2, "--kind: city: expected one of", "did you mean 'category'", "--kind: age: expected numbers low < high"
    )
    fails(jensen("data", people, "--kind", "town=category"), 2, "--kind: ", "no column 'town'")
    assert "bounded,LOW,HIGH" in " ".join(jensen("data", "--help").out.replace("│", " ").split())


def test_of_a_wide_table_sixty_columns_are_described(jensen, tmp_path):
    names = [f"x{j}" for j in range(68)]
    path = tmp_path / "wide.csv"
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(20, 68)), columns=names)
    frame.assign(word=["a", "b"] * 10, n=range(20)).to_csv(path, index=False)
    told = jensen("data", path).out
    assert "\nx59 " in told and "\nx60 " not in told
    assert "and 10 columns more (real 8, category 1, count 1); --json tells of all" in told
    assert len(json.loads(jensen("data", path, "--json").out)["columns"]) == 70
