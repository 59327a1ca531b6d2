"""Joints as written on paper; what a model offers is read off its (p, q)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jensen.conditionals.amortized import AmortizedCode
from jensen.conditionals.linear_gaussian import LinearGaussian, LinearGaussianPosterior
from jensen.conditionals.priors import Normal
from jensen.core import Deterministic, Joint, Model
from jensen.distributions import Bernoulli, Categorical, DiagonalNormal


class Gaussian(nn.Module):
    """N(sum of parents, 1) over `dims` elements."""

    def __init__(self, dims: int = 1):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dims))

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        loc = self.shift + sum(parent.float().sum(1, keepdim=True) for parent in parents)
        return DiagonalNormal(loc, torch.ones_like(loc))


class Coin(nn.Module):
    def __init__(self, dims: int = 1):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(dims))

    def forward(self, *parents: Tensor) -> Bernoulli:
        return Bernoulli(self.logits + sum(parent.sum(1, keepdim=True) for parent in parents))


class Rounded(Deterministic):
    discrete = True

    def forward(self, x: Tensor) -> Tensor:
        return x.round()


class TestJoint:
    def test_reads_factors_as_written(self):
        p = Joint({"z": Normal((2,)), "x|z,c": Gaussian(), "y | x , z": Gaussian()})
        assert str(p) == "(z) (x | z, c) (y | x, z)"
        assert p.names == ["z", "x", "y"]
        assert p["y"].parents == ("x", "z")
        assert p.context == ["c"]
        assert "x" in p
        assert "c" not in p
        assert len(p) == 3
        assert str(Joint()) == "1"

    def test_shares_parameters_under_one_name_each(self):
        shared = Gaussian()
        p = Joint({"x": shared, "y | x": shared})
        assert len(list(p.parameters())) == 1

    @pytest.mark.parametrize(
        ("factors", "message"),
        [
            ({"x": Gaussian(), "x | z": Gaussian()}, "'x' stands twice"),
            ({"x | z": Gaussian(), "z": Gaussian()}, r"'x \| z' comes before its parent 'z'"),
            ({"x | x": Gaussian()}, r"'x \| x' comes before its parent 'x'"),
            ({"x given z": Gaussian()}, "expected a factor like"),
            ({"": Gaussian()}, "expected a factor like"),
        ],
    )
    def test_refuses_what_is_no_product(self, factors, message):
        with pytest.raises(ValueError, match=message):
            Joint(factors)

    def test_unknown_factor(self):
        with pytest.raises(KeyError):
            Joint({"x": Gaussian()})["z"]

    def test_model_must_explain_its_datum(self):
        with pytest.raises(ValueError, match=r"expected p to explain 'x', got p = \(z\)"):
            Model(Joint({"z": Gaussian()}))


def ppca() -> Model:
    likelihood = LinearGaussian(1, (3,))
    p = Joint({"z": Normal((1,)), "x | z": likelihood})
    return Model(p, Joint({"z | x": LinearGaussianPosterior(likelihood)}))


def vae() -> Model:
    return Model(Joint({"z": Normal((2,)), "x | z": Gaussian(3)}), Joint({"z | x": Gaussian(2)}))


def autoencoder() -> Model:
    return Model(Joint({"x | z": Gaussian(3)}), Joint({"z | x": AmortizedCode(nn.Linear(3, 2))}))


def autoencoder_with_prior() -> Model:
    """A Wasserstein autoencoder: p(z) is there, but q(z | x) is a continuous map."""
    p = Joint({"z": Normal((2,)), "x | z": Gaussian(3)})
    return Model(p, Joint({"z | x": AmortizedCode(nn.Linear(3, 2))}))


def discrete_code() -> Model:
    return Model(Joint({"y": Coin(3), "x | y": Gaussian(3)}), Joint({"y | x": Rounded()}))


def flow() -> Model:
    return Model(Joint({"x": Normal((3,))}))


def ladder() -> Model:
    """p and q share a deterministic block."""
    block = Deterministic(nn.Linear(2, 2))
    p = Joint({"b": Normal((2,)), "d | b": block, "a | d": Gaussian(2), "x | a": Gaussian(3)})
    q = Joint(
        {
            "h | x": Deterministic(nn.Linear(3, 4)),
            "b | h": Gaussian(2),
            "d | b": block,
            "a | h, d": Gaussian(2),
        }
    )
    return Model(p, q)


def hybrid() -> Model:
    """p(x) p(y | x): nothing hidden."""
    return Model(Joint({"x": Normal((3,)), "y | x": Coin(1)}))


def half_exact() -> Model:
    """One factor of q is declared exact, the other is not."""
    likelihood = LinearGaussian(1, (3,))
    p = Joint({"z": Normal((1,)), "x | z": likelihood, "w": Normal((1,)), "v | w": Gaussian()})
    return Model(p, Joint({"z | x": LinearGaussianPosterior(likelihood), "w | v": Gaussian()}))


def conditional() -> Model:
    p = Joint({"z": Normal((2,)), "x | z, y": Gaussian(3)})
    return Model(p, Joint({"z | x, y": Gaussian(2)}))


class TestKindOfLikelihood:
    """It is structural: a property of the pair, whatever its parameters are."""

    @pytest.mark.parametrize(
        ("build", "kind"),
        [
            (ppca, "exact"),
            (flow, "exact"),
            (hybrid, "exact"),
            (vae, "lower_bound"),
            (ladder, "lower_bound"),
            (discrete_code, "lower_bound"),
            (half_exact, "lower_bound"),
            (conditional, "lower_bound"),
            (autoencoder, None),
            (autoencoder_with_prior, None),
        ],
    )
    def test_kind(self, build, kind):
        assert build().likelihood == kind

    def test_a_continuous_code_says_why_there_is_none(self):
        for build in (autoencoder, autoencoder_with_prior):
            reason = build().capabilities("lebesgue").no_likelihood
            assert "'z' is a deterministic function of the data" in reason
            assert "q(z | x) has no density" in reason

    def test_a_model_with_a_likelihood_has_no_such_reason(self):
        assert vae().capabilities("lebesgue").no_likelihood == ""


class TestCapabilities:
    @pytest.mark.parametrize(
        ("build", "measure", "sample", "encode", "lossy", "lossless"),
        [
            (vae, "counting", True, True, "yes", "with bits-back"),
            (vae, "lebesgue", True, True, "yes", "no"),
            (flow, "lebesgue", True, False, "no", "no"),
            (flow, "counting", True, False, "no", "yes"),
            (autoencoder, "counting", False, True, "yes", "no"),
            (autoencoder_with_prior, "counting", True, True, "yes", "no"),
            (discrete_code, "counting", True, True, "yes", "yes"),  # y, then x given y: no bits come back
            (conditional, "counting", True, True, "yes", "with bits-back"),
        ],
    )
    def test_rows(self, build, measure, sample, encode, lossy, lossless):
        row = build().capabilities(measure)
        found = (row.sample, row.encode, row.lossy, row.lossless)
        assert found == (sample, encode, lossy, lossless)

    def test_names(self):
        model = ladder()
        assert model.hidden == ["b", "a"]
        assert model.context == []
        assert conditional().context == ["y"]
        assert str(vae()) == "p = (z) (x | z), q = (z | x)"


class TestSampling:
    def test_moments_are_those_of_the_marginal(self):
        model, n = ppca(), 40_000
        likelihood = model.p["x"].module
        x = model.sample(n)["x"].detach()
        covariance = likelihood.marginal().covariance_matrix.detach()
        # Standard error of an entry of a Gaussian's covariance: √((C_ij² + C_ii C_jj)/n).
        variances = covariance.diagonal()
        stderr = ((covariance**2 + torch.outer(variances, variances)) / n).sqrt()
        assert ((x.T.cov() - covariance).abs() < 4 * stderr).all()
        assert ((x.mean(0) - likelihood.mean.detach()).abs() < 4 * (variances / n).sqrt()).all()

    def test_deterministic_nodes_and_every_variable_are_returned(self):
        drawn = ladder().sample(7)
        assert {name: value.shape for name, value in drawn.items()} == {
            "b": (7, 2),
            "d": (7, 2),
            "a": (7, 2),
            "x": (7, 3),
        }

    def test_given_values_are_kept(self):
        y = torch.full((4, 1), 50.0)
        drawn = conditional().sample(4, {"y": y})
        assert drawn["y"] is y
        assert (drawn["x"] > 30).all()

    def test_what_nothing_gives_is_named(self):
        with pytest.raises(ValueError, match=r"cannot sample \(x \| z, y\): nothing gives 'y'"):
            conditional().sample(4)
        with pytest.raises(ValueError, match="nothing gives 'z'"):
            autoencoder().sample(4)

    def test_temperature_scales_hidden_variables_alone(self):
        class Sharp(nn.Module):
            def forward(self, z: Tensor) -> DiagonalNormal:
                return DiagonalNormal(z, torch.full_like(z, 1e-6))

        model, n = Model(Joint({"z": Normal((2,)), "x | z": Sharp()})), 20_000
        for temperature in (0.5, 1.0, 2.0):
            drawn = model.sample(n, temperature=temperature)
            assert drawn["z"].std().item() == pytest.approx(temperature, rel=0.02)
            torch.testing.assert_close(drawn["x"], drawn["z"], atol=1e-4, rtol=0)

    def test_temperature_leaves_what_has_no_scale(self):
        class Level(nn.Module):
            def forward(self) -> Categorical:
                return Categorical(torch.tensor([0.0, 0.0]), event_dims=0)

        class Emission(nn.Module):
            def forward(self, k: Tensor) -> DiagonalNormal:
                return DiagonalNormal(k[:, None].float(), torch.ones(1))

        drawn = Model(Joint({"k": Level(), "x | k": Emission()})).sample(2000, temperature=0.1)
        assert 850 < drawn["k"].sum() < 1150


class TestInitialize:
    def test_each_conditional_sees_its_own_variable(self):
        class Start(Gaussian):
            @torch.no_grad()
            def initialize(self, value: Tensor) -> None:
                self.shift.copy_(value.mean(0))

        model = Model(Joint({"z": Normal((1,)), "x | z": Start(2)}), Joint({"z | x": Start(1)}))
        model.initialize({"x": torch.tensor([[1.0, 2.0], [3.0, 6.0]])})
        assert model.p["x"].module.shift.tolist() == [2.0, 4.0]
        assert model.q["z"].module.shift.tolist() == [0.0]
