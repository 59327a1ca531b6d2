"""A model is one file: the example of CONTRIBUTING.md, written to a folder, is a model like any other."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import FactorAnalysis
from typer.testing import CliRunner

import jensen.models
from jensen import registry
from jensen.cli import app
from jensen.errors import ConfigError
from jensen.jobs.models import table
from jensen.jobs.run import Run, open_run
from jensen.jobs.train import train
from jensen.registry import MODEL, names

NAME = "factor-analysis"
PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def example() -> tuple[str, str]:
    """File name and content as the page has them."""
    page = PAGE.read_text()
    name = re.search(r"`src/jensen/models/(\w+\.py)`", page)
    code = re.search(r"<!-- example: [^\n]* -->\n```python\n(.*?)```\n", page, flags=re.DOTALL)
    assert name
    assert code
    return name[1], code[1]


@pytest.fixture(scope="module", autouse=True)
def _one_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The file lies where models lie, and the registry looks again; afterwards it was never there."""
    folder = tmp_path_factory.mktemp("models")
    name, code = example()
    (folder / name).write_text(code)
    known = dict(registry._components)
    jensen.models.__path__.append(str(folder))
    registry._loaded = False
    yield
    jensen.models.__path__.remove(str(folder))
    registry._components.clear()
    registry._components.update(known)
    sys.modules.pop(f"jensen.models.{name.removesuffix('.py')}", None)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(400, 1)) @ rng.normal(size=(1, 5)) + rng.normal(size=(400, 5)) * np.linspace(0.3, 1, 5)


@pytest.fixture(scope="module")
def run(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "one"
    options = {"epochs": 150, "batch_size": 80, "lr": 0.05, "settings": {"objective.warmup": 0.0}}
    return train(NAME, rows, out=out, **options)


def shell(*words: object) -> str:
    answer = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout


def test_it_is_found():
    assert NAME in names(MODEL)


def test_it_learns_what_scikit_learn_does(run):
    """With one factor the bound is tight: test log-likelihood as that of factor analysis by EM."""
    schema = run.schema
    train_rows, test_rows = (schema.prepare(run._data.split(n).x).double().numpy() for n in ("train", "test"))
    oracle = FactorAnalysis(1, tol=1e-6, max_iter=5000).fit(train_rows)
    truth = oracle.score_samples(test_rows) + schema.log_jacobian
    score = run.score(particles=500)
    assert score.kind == "lower_bound"
    assert score.rows is not None
    assert score.nats == pytest.approx(truth.mean(), abs=0.05)
    assert np.corrcoef(score.rows, truth)[0, 1] > 0.99


def test_it_is_saved_and_loaded(run):
    again = open_run(run.folder.path)
    assert again.spec["model"] == NAME
    x = run._data.split("test").x
    assert again.score(x, particles=5).nats == run.score(x, particles=5).nats


def test_it_samples_and_encodes(run, rows):
    drawn = np.asarray(run.sample(2000))
    assert drawn.shape == (2000, 5)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.corrcoef(rows.T), atol=0.1)
    assert run.encode(rows).shape == (400, 1)


def test_its_settings_are_checked(rows):
    with pytest.raises(ConfigError) as caught:
        train(NAME, rows, settings={"factors": 0, "likelihood.varaince": "fixed"})
    assert len(caught.value.problems) == 2
    assert "did you mean 'variance'?" in str(caught.value)


def test_its_row_is_computed():
    (row,) = (row for row in table() if row["model"] == NAME)
    assert row["likelihood"] == "lower bound"
    assert row["encoding"] == "yes"
    assert row["lossless compression"] == "no"


def test_the_command_line_knows_it(tmp_path, rows):
    assert NAME in shell("models")
    shown = shell("show", NAME)
    for words in ("factors", "int, >= 1", "dimensions of z", "Spearman"):
        assert words in shown
    np.save(tmp_path / "rows.npy", rows)
    shell("train", NAME, tmp_path / "rows.npy", "--out", tmp_path / "run", "factors=2", "--epochs", 2)
    assert open_run(tmp_path / "run").spec["settings"]["factors"] == 2
    found = json.loads(shell("score", tmp_path / "run", "--particles", 3, "--json"))
    assert found["kind"] == "lower_bound"
