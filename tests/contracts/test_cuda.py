"""Every model on a GPU does what it does on the processor. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.contracts.toys import DATA, small

from jensen.core import EXACT
from jensen.data import Dataset, Split
from jensen.errors import ConfigError
from jensen.jobs.run import Run, open_run
from jensen.jobs.train import train
from jensen.registry import MODEL, build, find, names

pytestmark = pytest.mark.cuda
DEVICE = "cuda"
GAPS = "table with gaps"


def first_data(name: str) -> str:
    """The first kind of data that the model takes."""
    for kind, (schema, _) in DATA.items():
        try:
            build(name, schema, small(find(MODEL, name)))
        except ConfigError:
            continue
        return kind
    raise AssertionError(f"{name} takes no data")


def of(kind: str) -> Dataset:
    schema, rows = DATA[kind]
    return Dataset("toy", schema, {"train": Split(rows), "valid": Split(rows[:8]), "test": Split(rows[8:16])})


def trained(name: str, kind: str, **options) -> Run:
    run = train(name, of(kind), settings=small(find(MODEL, name)), batch_size=10, device=DEVICE, **options)
    assert {p.device.type for p in (*run.model.parameters(), *run.model.buffers())} == {DEVICE}
    return run


@pytest.mark.parametrize("name", names(MODEL))
def test_trained_resumed_scored_and_sampled(name, tmp_path):
    kind = first_data(name)
    run = trained(name, kind, out=tmp_path / "run", epochs=2)
    run = trained(name, kind, out=tmp_path / "run", epochs=3, resume=True)
    if run.capabilities.sample:
        with torch.no_grad():
            drawn = run.model.sample(3)["x"]
        assert drawn.device.type == DEVICE and torch.isfinite(drawn).all()
    here = open_run(tmp_path / "run")
    assert here.device.type == "cpu"
    if run.capabilities.likelihood:
        rows, same = (some.score(of(kind), split="test", particles=5).rows for some in (run, here))
        assert rows is not None and same is not None and torch.isfinite(rows).all()
        if run.capabilities.likelihood == EXACT:
            torch.testing.assert_close(rows, same, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", names(MODEL))
def test_gaps_are_filled_in(name):
    try:
        build(name, DATA[GAPS][0], small(find(MODEL, name)))
    except ConfigError:
        pytest.skip("takes no gaps")
    found = trained(name, GAPS, epochs=2).impute(of(GAPS), split="test", particles=20)
    assert np.isfinite(found.mean).all()


def test_a_gpu_and_the_processor_learn_the_same():
    options = {"settings": {"latents": 2, "decoder.hidden": [16]}, "epochs": 3, "batch_size": 8, "seed": 1}
    there, here = (train("vae", of("real table"), device=device, **options) for device in (DEVICE, "cpu"))
    assert there.score(particles=200).nats == pytest.approx(here.score(particles=200).nats, abs=0.5)
    there, here = (train("ppca", of("real table"), device=device) for device in (DEVICE, "cpu"))
    assert there.score().nats == pytest.approx(here.score().nats, abs=1e-3)
