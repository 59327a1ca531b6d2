"""Encode, reconstruct, interpolate, sample with flows: codes are exact, and data come back from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from jensen.data import Schema
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.registry import build

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(40, 5))
PICTURES = RNG.integers(0, 256, size=(40, 1, 4, 4), dtype=np.uint8)
LABELS = np.arange(40) % 3


def pictures(**extra) -> Schema:
    return Schema.of_pictures((1, 4, 4), **extra)


def test_codes_are_the_base_of_the_data(coupling_flow, run_of, columns):
    """z = T⁻¹(x), so T(z) = x, and log p(x) is the normal's at z less the log-determinant there."""
    model = coupling_flow(columns(5))
    run = run_of(model, columns(5), ROWS)
    z = run.encode()
    assert z.shape == (40, 5) and z.dtype == np.float32
    p = model.p["x"].module()
    with torch.no_grad():
        x, ladj = p.from_base(torch.from_numpy(z))
        log_p = p.base.log_prob(torch.from_numpy(z)) - ladj
    np.testing.assert_allclose(x.numpy(), ROWS, atol=1e-5)
    np.testing.assert_allclose(log_p.numpy(), run.score(keep=False).rows.numpy(), atol=1e-4)


def test_a_table_comes_back(coupling_flow, run_of, columns):
    run = run_of(coupling_flow(columns(5), enlarge=5.0), columns(5), ROWS)
    np.testing.assert_allclose(run.reconstruct(), ROWS, atol=1e-6)


@pytest.mark.parametrize("levels", [2, 256])
def test_whole_numbers_come_back_to_the_last_one(coupling_flow, run_of, levels):
    schema, x = pictures(levels=levels), PICTURES if levels == 256 else PICTURES % 2
    run = run_of(coupling_flow(schema, enlarge=5.0), schema, x)
    np.testing.assert_array_equal(run.reconstruct(), x)
    np.testing.assert_array_equal(run.reconstruct(mean=False), x)


def test_counts_come_back(coupling_flow, run_of):
    x = RNG.poisson(50.0, size=(40, 3)).astype(float)
    schema = Schema.of_table(x, ["a", "b", "c"], ["count"] * 3)
    np.testing.assert_array_equal(run_of(coupling_flow(schema), schema, x).reconstruct(), x)


def test_draws_of_the_noise_stay_in_their_bins(coupling_flow, run_of):
    """Each drawn code decodes to the datum, and the codes differ."""
    schema = pictures()
    model = coupling_flow(schema)
    z = run_of(model, schema, PICTURES).encode(draws=3, limit=5)
    assert z.shape == (5, 3, 16)
    with torch.no_grad():
        v = model.p["v"].module().from_base(torch.from_numpy(z).reshape(-1, 1, 4, 4))[0]
    chosen = np.sort(np.random.default_rng(0).permutation(40)[:5])
    np.testing.assert_array_equal(v.floor().reshape(5, 3, 16), PICTURES[chosen].reshape(5, 1, 16).repeat(3, 1))
    assert (z[:, 0] != z[:, 1]).any(1).all()


def test_a_flow_of_real_numbers_has_no_draws(coupling_flow, run_of, columns):
    with pytest.raises(CapabilityError, match="one code for a datum"):
        run_of(coupling_flow(columns(5)), columns(5), ROWS).encode(draws=2)


@pytest.mark.parametrize("how", ["linear", "spherical"])
def test_a_path_ends_at_its_data(coupling_flow, run_of, columns, how):
    path = run_of(coupling_flow(columns(5)), columns(5), ROWS).interpolate(start=3, end=8, steps=6, how=how)
    assert path.shape == (6, 5)
    np.testing.assert_allclose(path[[0, -1]], ROWS[[3, 8]], atol=1e-6)
    schema = pictures()
    path = run_of(coupling_flow(schema), schema, PICTURES).interpolate(start=3, end=8, steps=6, how=how)
    np.testing.assert_array_equal(path[[0, -1]], PICTURES[[3, 8]])


def test_a_path_is_straight_between_codes(coupling_flow, run_of, columns):
    """Encoding what lies on the path gives equal steps from code to code."""
    run = run_of(coupling_flow(columns(5)), columns(5), ROWS)
    z = run.encode(run.interpolate(start=3, end=8, steps=6))
    np.testing.assert_allclose(np.diff(z, axis=0), np.diff(z, axis=0).mean(0, keepdims=True).repeat(5, 0), atol=1e-5)


def test_a_geodesic_of_a_flow_is_refused(coupling_flow, run_of, columns):
    with pytest.raises(CapabilityError, match="straight line between the two data"):
        run_of(coupling_flow(columns(5)), columns(5), ROWS).interpolate(how="geodesic")


def test_a_conditional_flow_takes_the_datums_own_label(coupling_flow, run_of, columns):
    schema = columns(5, classes=("a", "b", "c"), label="kind")
    model = coupling_flow(schema, conditional=True, enlarge=3.0)
    run = run_of(model, schema, ROWS, LABELS)
    np.testing.assert_allclose(run.reconstruct(), ROWS, atol=1e-6)
    with torch.no_grad():
        one = model.p["x"].module(torch.full((40,), 1)).to_base(torch.from_numpy(ROWS).float())[0].numpy()
    own = run.encode()
    np.testing.assert_allclose(own[LABELS == 1], one[LABELS == 1], atol=1e-4)
    assert np.abs(own[LABELS != 1] - one[LABELS != 1]).max() > 0.1
    np.testing.assert_allclose(run.interpolate(start=0, end=1, steps=4)[[0, -1]], ROWS[:2], atol=1e-6)


def test_data_without_the_condition_are_refused(coupling_flow, run_of, columns):
    schema = columns(5, classes=("a", "b"), label="kind")
    with pytest.raises(DataError, match="'kind'"):
        run_of(coupling_flow(schema, conditional=True), schema, ROWS).encode()


def test_a_flow_as_prior_leaves_the_representation_to_the_posterior(run_of, columns):
    model = build("vae", columns(5), {"latents": 2}).eval()
    assert (model.inferred, model.inverted) == (["z"], [])
    flow = build_flow_prior(model)
    run = run_of(flow, columns(5), ROWS)
    with torch.no_grad():
        expected = flow.q["z"].module(torch.from_numpy(ROWS).float()).mean
    np.testing.assert_allclose(run.encode(), expected, atol=1e-5)
    assert run.capabilities.lossy == "yes"


def build_flow_prior(vae):
    """The same with p(z) a flow."""
    from jensen.conditionals.flows import Flow
    from jensen.conditionals.priors import Normal
    from jensen.core import Joint, Model
    from jensen.transforms import Scaling

    p = Joint({"z": Flow(Normal((2,)), Scaling((2,))), "x | z": vae.p["x"].module})
    return Model(p, vae.q, vae.objective).eval()


def test_what_a_flow_offers(coupling_flow, columns):
    real, grey = coupling_flow(columns(5)), coupling_flow(pictures())
    c = real.capabilities("lebesgue")
    assert (c.likelihood, c.encode, c.lossy, c.lossless) == ("exact", True, "no", "no")
    c = grey.capabilities("counting")
    assert (c.likelihood, c.encode, c.lossy, c.lossless) == ("lower_bound", True, "no", "with bits-back")


# Samples


def test_temperature_scales_the_base(coupling_flow, run_of, columns):
    """Samples, encoded, are normal with the temperature as their standard deviation."""
    run = run_of(coupling_flow(columns(5)), columns(5), ROWS)
    for temperature in (0.5, 1.0, 1.5):
        z = run.encode(run.sample(2000, temperature=temperature))
        assert kstest(z.ravel() / temperature, "norm").pvalue > 1e-4


def test_temperature_of_pictures_and_of_a_hidden_flow(coupling_flow, run_of, columns):
    schema = pictures()
    run = run_of(coupling_flow(schema), schema, PICTURES)
    cold, warm = (run.sample(200, temperature=t) for t in (1e-6, 1.0))
    assert cold.dtype == np.uint8 and cold.shape == (200, 1, 4, 4)
    assert cold.std(0).max() <= 0.5 < 10 < warm.std(0).min()
    vae = build_flow_prior(build("vae", columns(5), {"latents": 2}).eval())
    assert vae.sample(4000, temperature=0.3)["z"].std() == pytest.approx(0.3, rel=0.05)


def test_a_base_without_scale_refuses_a_temperature(coupling_flow, run_of, columns):
    class Uniform(torch.nn.Module):
        def forward(self):
            return torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(5), torch.ones(5)), 1)

    model = coupling_flow(columns(5))
    model.p["x"].module.base = Uniform()
    run = run_of(model, columns(5), ROWS)
    assert run.sample(3).shape == (3, 5)
    with pytest.raises(ConfigError, match="--temperature"):
        run.sample(3, temperature=0.5)


def test_the_mean_of_what_a_map_makes_is_what_it_makes(coupling_flow, run_of, columns):
    run = run_of(coupling_flow(columns(5)), columns(5), ROWS)
    np.testing.assert_array_equal(run.sample(10, mean=True), run.sample(10))
