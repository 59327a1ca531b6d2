"""Posteriors of each datum's own, against linear models, where the best of them is known in closed form.

With x = W z + σ ε the posterior is N(m, Λ⁻¹), Λ = (Wᵀ W + σ² I) / σ². The best diagonal normal has mean m and
variances 1/Λ_ii, and stands KL = ½ (Σ log Λ_ii − log det Λ) below log p(x).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.distributions.independent import Independent

from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, Split, TensorSplit
from jensen.errors import CapabilityError, ConfigError, ResourceError
from jensen.jobs.diagnose import diagnose
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.objectives import per_datum, refinement
from jensen.objectives.per_datum import Store
from jensen.objectives.refinement import PerDatum, ascend, refine
from jensen.registry import build
from jensen.training.folder import Folder
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer

DIMS, LATENTS, SCALE = 5, 3, 0.7


def loadings() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(DIMS, LATENTS, generator=generator, dtype=torch.float64)


def data(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(rows, LATENTS, generator=generator, dtype=torch.float64)
    return z @ loadings().T + SCALE * torch.randn(rows, DIMS, generator=generator, dtype=torch.float64)


def table() -> Schema:
    """Columns that are taken as they are."""
    unit = np.array([[-1.0] * DIMS, [1.0] * DIMS])
    return Schema.of_table(unit, list("abcde"))


def linear_vae(slope: float = 1.0, **settings: object) -> Model:
    """p is the model that the data come from; the encoder's mean is m(x) times a number, its scale 1."""
    fixed = {"name": "gaussian", "variance": "fixed", "scale": SCALE}
    chosen = {"latents": LATENTS, "encoder": "linear", "decoder": "linear", "likelihood": fixed, **settings}
    with seeded(0):
        model = build("vae", table(), chosen).double()
    decoder, encoder = model.p["x"].module.network.output, model.q["z"].module.network.output
    with torch.no_grad():
        decoder.weight.copy_(loadings())
        decoder.bias.zero_()
        encoder.weight.zero_()
        encoder.weight[:LATENTS] = slope * torch.linalg.solve(precision() * SCALE**2, loadings().T)
        encoder.bias.zero_()
    return model.eval()


def precision() -> Tensor:
    """Λ."""
    w = loadings()
    return (w.T @ w + SCALE**2 * torch.eye(LATENTS, dtype=w.dtype)) / SCALE**2


def posterior(x: Tensor) -> MultivariateNormal:
    mean = x @ loadings() @ torch.linalg.inv(precision()) / SCALE**2
    return MultivariateNormal(mean, precision_matrix=precision())


def log_likelihood(x: Tensor) -> Tensor:
    w = loadings()
    covariance = w @ w.T + SCALE**2 * torch.eye(DIMS, dtype=w.dtype)
    return MultivariateNormal(torch.zeros(DIMS, dtype=w.dtype), covariance).log_prob(x)


def least_divergence() -> float:
    """Of diagonal normals from the posterior: the approximation gap."""
    return float(0.5 * (precision().diagonal().log().sum() - torch.logdet(precision())))


def divergence(loc: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """KL(N(loc, diag scale²) ‖ p(z | x)), (B,)."""
    q = MultivariateNormal(loc, scale_tril=torch.diag_embed(scale.expand(len(x), LATENTS)))
    return kl_divergence(q, posterior(x))


def test_the_truths_themselves():
    """The closed forms against a fine search and a definition."""
    x = data(3)
    best = divergence(posterior(x).mean, precision().diagonal().rsqrt(), x)
    torch.testing.assert_close(best, torch.full_like(best, least_divergence()))
    for nudge in (0.9, 1.1):
        assert (divergence(posterior(x).mean, nudge * precision().diagonal().rsqrt(), x) > best).all()
    z = torch.zeros(3, LATENTS, dtype=x.dtype)
    joint = Independent(Normal(z, 1.0), 1).log_prob(z) + Independent(Normal(z @ loadings().T, SCALE), 1).log_prob(x)
    torch.testing.assert_close(joint - posterior(x).log_prob(z), log_likelihood(x))


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.5])
def test_refinement_finds_the_best_diagonal_normal(slope):
    x = data(40)
    own, parameters = refine(linear_vae(slope), {"x": x}, 400)
    q = own.evidence({"x": x}, parameters).q["z"]
    assert (q.mean - posterior(x).mean).abs().max() < 0.1
    assert (q.stddev / precision().diagonal().rsqrt() - 1).abs().max() < 0.15  # pyright: ignore
    excess = divergence(q.mean, q.stddev, x) - least_divergence()  # pyright: ignore
    assert excess.mean() < 0.01
    assert excess.max() < 0.05


def test_refinement_stays_in_a_family_of_fixed_scale():
    """Its best is N(m, I), which stands ½ (tr Λ − L − log det Λ) below log p."""
    x = data(40)
    own, parameters = refine(linear_vae(0.5, posterior="mean"), {"x": x}, 400, samples=16)
    q = own.evidence({"x": x}, parameters).q["z"]
    assert (q.stddev == 1).all()  # pyright: ignore
    assert (q.mean - posterior(x).mean).abs().mean() < 0.05
    truth = 0.5 * (precision().trace() - LATENTS - torch.logdet(precision()))
    torch.testing.assert_close(divergence(q.mean, q.stddev, x).mean(), truth, atol=0.02, rtol=0)  # pyright: ignore


def test_the_bound_at_given_parameters_is_the_elbo():
    """ELBO(λ) = log p − KL, here for parameters that no encoder gave."""
    x, model = data(6), linear_vae()
    own = PerDatum.of(model)
    parameters = own.standard(len(x), x)
    assert {name: tuple(v.shape) for name, v in parameters.items()} == {"parameters_of_z": (6, 2 * LATENTS)}
    with torch.no_grad():
        found = torch.stack([own.bound({"x": x}, parameters, 50) for _ in range(100)])
    zero, one = torch.zeros_like(posterior(x).mean), torch.ones(LATENTS, dtype=x.dtype)
    truth = log_likelihood(x) - divergence(zero, one, x)
    assert ((found.mean(0) - truth).abs() < 4.5 * found.std(0) / 10).all()


def test_refining_a_flow_raises_its_bound_too():
    """Its base and context are free, its own weights stay: the bound rises and stays below log p."""
    x, model = data(30), linear_vae()
    with seeded(1):
        flow = build("vae", table(), {"latents": LATENTS, "encoder": "linear", "posterior": "flow"}).double().eval()
    flow.p = model.p
    weights = [p.detach().clone() for p in flow.parameters()]
    own, parameters = refine(flow, {"x": x}, 150)
    with torch.no_grad():
        before, after = (own.bound({"x": x}, at, 200) for at in (own.amortised({"x": x}), parameters))
    assert (after - before).mean() > 1
    assert (after.mean() - log_likelihood(x).mean()) < 0.05
    assert all(torch.equal(a, b) for a, b in zip(weights, flow.parameters(), strict=True))
    assert all(p.requires_grad and p.grad is None for p in flow.parameters())


@pytest.mark.parametrize(
    ("model", "settings", "why"),
    [
        ("ppca", {"latents": 2}, "exact posterior"),
        ("maf", {}, "infers nothing"),
        ("helmholtz", {"layers": [2]}, "not differentiable"),
        ("helmholtz", {"layers": [2, 2]}, "hangs on what q draws"),
    ],
)
def test_what_cannot_be_refined_says_why(model, settings, why):
    if model == "helmholtz":
        settings = {**settings, "likelihood": "gaussian"}
    built = build(model, table(), settings).double()
    with pytest.raises(CapabilityError, match=why):
        refine(built, {"x": data(4)}, 5)


# Jobs


def run_of(model: Model, x: Tensor) -> Run:
    made = Dataset("made", table(), {"test": Split(x.numpy())})
    return Run({"model": "vae", "settings": {}}, table(), model.float(), None, [], made)


def test_scores_with_refined_posteriors_meet_the_closed_form():
    x = data(60)
    run = run_of(linear_vae(0.5), x)
    truth = log_likelihood(x)
    bound = run.score(estimator="elbo", particles=200, refine=400)
    assert (bound.estimator, bound.refine, bound.kind) == ("refined elbo", 400, "lower_bound")
    assert "refined elbo" in str(bound)
    assert bound.nats == pytest.approx(float(truth.mean()) - least_divergence(), abs=0.02 + 4 * bound.stderr_mc)
    amortised = run.score(estimator="elbo", particles=200)
    assert (amortised.estimator, amortised.refine) == ("elbo", 0)
    assert bound.nats > amortised.nats + 0.3
    tight = run.score(estimator="iw", particles=300, refine=400)
    assert tight.estimator == "refined iw"
    assert tight.nats == pytest.approx(float(truth.mean()), abs=0.01 + 4 * tight.stderr_mc)
    assert tight.effective_sample_size > run.score(estimator="iw", particles=300).effective_sample_size  # pyright: ignore


def test_codes_of_refined_posteriors_are_the_posterior_means():
    x = data(30)
    run = run_of(linear_vae(0.5), x)
    wrong = run.encode() - posterior(x).mean.numpy()
    found = run.encode(refine=400) - posterior(x).mean.numpy()
    assert np.abs(wrong).max() > 0.3
    assert np.abs(found).max() < 0.1
    drawn = run.encode(refine=400, draws=200)
    assert drawn.shape == (30, 200, LATENTS)
    assert np.abs(drawn.std(1).mean(0) / precision().diagonal().rsqrt().numpy() - 1).max() < 0.1


def test_refining_where_q_is_not_used_is_refused():
    run = run_of(linear_vae(), data(5))
    with pytest.raises(ConfigError, match="--refine: it changes q, of which --estimator prior makes no use"):
        run.score(estimator="prior", refine=10)
    with pytest.raises(ConfigError, match="expected >= 0"):
        run.encode(refine=-1)


def test_the_inference_gap_splits_as_the_closed_forms_do():
    """Amortisation: KL of the encoder's q from the posterior, less that of the best diagonal one."""
    x = data(100)
    model = linear_vae(0.6)
    (found,) = (f for f in diagnose(run_of(model, x), limit=None).findings if f.name == "inference gap")
    wrong = divergence(0.6 * posterior(x).mean, torch.ones(LATENTS, dtype=x.dtype), x)
    gap = found.evidence
    assert gap["refined"] == 100
    assert abs(gap["approximation_gap"] - least_divergence()) < 4 * gap["approximation_stderr"] + 0.03
    assert gap["approximation_stderr"] < 0.1
    amortization = float(wrong.mean()) - least_divergence()
    # Of the same data, so that only the draws and what refinement leaves undone differ.
    assert gap["amortization_gap"] == pytest.approx(amortization, rel=0.05, abs=0.05)
    assert 0.9 < gap["amortization_stderr"] / (float(wrong.std()) / 10) < 2  # that of the data, and of the draws
    assert gap["gap"] == pytest.approx(float(wrong.mean()), abs=0.2)
    for part in ("amortisation", "approximation", "±"):
        assert part in found.sentence


def test_a_good_encoder_has_no_amortisation_gap():
    model = linear_vae(1.0)
    with torch.no_grad():  # the right scales too: floor + softplus(raw + c) = Λ_ii^(-1/2)
        head, output = model.q["z"].module.head, model.q["z"].module.network.output
        wanted = precision().diagonal().rsqrt()
        low, high = torch.full_like(wanted, -20), torch.full_like(wanted, 20)
        for _ in range(60):
            middle = (low + high) / 2
            below = head(torch.cat([middle, middle])).stddev < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        output.bias[LATENTS:] = low
    (found,) = (f for f in diagnose(run_of(model, data(100)), limit=None).findings if f.name == "inference gap")
    assert abs(found.evidence["amortization_gap"]) < 4 * found.evidence["amortization_stderr"] + 0.01
    assert found.evidence["approximation_gap"] == pytest.approx(least_divergence(), abs=0.05)
    assert "richer posterior" in found.try_


# Semi-amortised


def objective(through: str, steps: int = 3) -> dict[str, object]:
    return {"name": "semi-amortized", "steps": steps, "rate": 0.05, "gradient": through}


def test_the_gradient_through_the_steps_is_that_of_differences():
    """With the draws held fixed, what the steps end at is a smooth function of all weights."""
    model, x = linear_vae(0.5, objective=objective("through")), data(7)
    (phase,) = model.objective.stages[0].phases

    def loss() -> Tensor:
        with seeded(2):
            return phase.loss(model, {"x": x}, 0.0).loss

    parameters = list(model.parameters())
    slopes = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(1)
    for parameter, slope in zip(parameters, slopes, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        with torch.no_grad():
            parameter.add_(1e-5 * direction)
            up = loss()
            parameter.sub_(2e-5 * direction)
            down = loss()
            parameter.add_(1e-5 * direction)
        difference = (up - down) / 2e-5
        torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-4, atol=1e-6)


def test_the_truncated_gradient_takes_the_steps_as_constants():
    """It is the gradient at λ_0 + Δ with Δ held, and differs from the one through the steps."""
    model, x = linear_vae(0.5, objective=objective("truncated")), data(7)
    (phase,) = model.objective.stages[0].phases
    own, encoder = PerDatum.of(model), model.q["z"].module.network.output.weight
    with seeded(2):
        found = torch.autograd.grad(phase.loss(model, {"x": x}, 0.0).loss, encoder)[0]
    with seeded(2):
        start = own.amortised({"x": x})
        held = ascend(lambda at: own.bound({"x": x}, at), start, 3, 0.05, 5.0)
        step = {name: (held[name] - start[name]).detach() for name in start}
        bound = own.bound({"x": x}, {name: start[name] + step[name] for name in start}).mean()
    torch.testing.assert_close(found, -torch.autograd.grad(bound, encoder)[0])
    whole = linear_vae(0.5, objective=objective("through"))
    loss, weight = whole.objective.stages[0].phases[0].loss, whole.q["z"].module.network.output.weight
    with seeded(2):
        through = torch.autograd.grad(loss(whole, {"x": x}, 0.0).loss, weight)[0]
    assert (through - found).norm() > 0.01 * found.norm()


def test_steps_raise_the_bound():
    model, x = linear_vae(0.5, objective=objective("truncated", steps=30)), data(50)
    logged = model.objective.validate(model, {"x": x})
    assert (logged["elbo"] - logged["elbo_amortized"]).mean() > 0.3
    assert (logged["elbo"].mean() - log_likelihood(x).mean()) < -0.5 * least_divergence()


def test_long_gradients_are_shortened():
    """A step is never longer than rate · longest, and short ones are the gradient itself."""
    start = {"z": torch.zeros(2, 3, dtype=torch.float64)}
    slopes = torch.tensor([[30.0, 40.0, 0.0], [0.3, 0.4, 0.0]], dtype=torch.float64)
    moved = ascend(lambda at: (at["z"] * slopes).sum(1), start, 1, 0.1, 5.0)["z"]
    torch.testing.assert_close(moved, torch.tensor([[0.3, 0.4, 0.0], [0.03, 0.04, 0.0]], dtype=torch.float64))


# Non-amortised


def test_stored_posteriors_learn_what_maximum_likelihood_finds():
    """A linear decoder of known σ under per-datum posteriors: its best covariance is known from eigenvalues.

    Diagonal normals suffice there: W may be rotated so that the posterior is one.
    """
    x = data(400)
    split = Dataset("made", table(), {name: Split(x.numpy()) for name in ("train", "valid", "test")})
    settings = {
        "latents": 2,
        "encoder": "linear",
        "decoder": "linear",
        "likelihood": {"name": "gaussian", "variance": "fixed", "scale": SCALE},
        "objective": {"name": "per-datum", "rate": 0.1},
    }
    run = train("vae", split, settings=settings, epochs=100, lr=0.02, batch_size=100, seed=0)
    values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
    values[:-2] = SCALE**2
    best = float(MultivariateNormal(x.mean(0), (vectors * values) @ vectors.T).log_prob(x).mean())
    with torch.no_grad():
        output = run.model.p["x"].module.network.output  # pyright: ignore
        w, mean = output.weight.double(), output.bias.double()
        found = MultivariateNormal(mean, w @ w.T + SCALE**2 * torch.eye(DIMS))
        reached = float(found.log_prob(x).mean())
        nothing = MultivariateNormal(x.mean(0), SCALE**2 * torch.eye(DIMS, dtype=x.dtype)).log_prob(x).mean()
    assert best - float(nothing) > 1  # that W is worth
    assert best - 0.1 < reached < best + 1e-6
    bound = run.score(estimator="elbo", particles=50, refine=200)
    assert reached - 0.1 < bound.nats < reached + 4 * bound.stderr_mc


def trainer(folder: Folder | None = None, rows: int = 12, epochs: int = 4) -> Trainer:
    with seeded(0):
        model = build("vae", table(), {"latents": 2, "encoder": "linear", "objective": "per-datum"})
    settings = training_settings({"epochs": epochs, "batch_size": 5})
    return Trainer(model, TensorSplit(data(rows).float()), None, settings, folder)


def test_each_datum_has_a_row_and_its_own_steps():
    """Every row is met once an epoch, and what is stored belongs to its datum."""
    made = trainer(rows=12, epochs=4)
    made.run()
    store = made.helpers
    assert isinstance(store, Store)
    assert store.parameters_of_z_count[:12].tolist() == [4.0] * 12  # pyright: ignore
    assert len(store.parameters_of_z_count) < 18  # pyright: ignore
    assert store.parameters_of_z[:12].flatten(1).unique(dim=0).shape[0] == 12  # pyright: ignore


def test_a_step_of_the_store_is_one_of_adam():
    model = linear_vae(objective="per-datum")
    own, store, x = PerDatum.of(model), Store(), data(4)
    reference = torch.zeros(4, 2 * LATENTS, dtype=x.dtype, requires_grad=True)
    adam = torch.optim.Adam([reference], 0.1, maximize=True)
    for turn in range(3):
        rows = torch.tensor([2, 0, 3, 1])
        batch = {"x": x[rows], "row": rows}
        slopes = torch.randn(4, 2 * LATENTS, dtype=x.dtype, generator=torch.Generator().manual_seed(turn))
        store.step(batch, store.start(own, batch), {"parameters_of_z": slopes[rows]}, 0.1)
        reference.grad = slopes
        adam.step()
    everything = store.start(own, {"x": x, "row": torch.arange(4)})["parameters_of_z"]
    torch.testing.assert_close(everything, reference.detach())


def test_a_store_is_resumed_bit_for_bit(tmp_path):
    spec = {"model": "vae", "settings": {}}
    whole = trainer(Folder.create(tmp_path / "a", spec, table(), overwrite=False), epochs=4)
    whole.run()
    folder = Folder.create(tmp_path / "b", spec, table(), overwrite=False)
    half = trainer(folder, epochs=4)
    half.settings = half.settings.__class__(**{**half.settings.__dict__, "checkpoint_seconds": 1e-9})
    stopped = RuntimeError("stop")
    original = half._epoch

    def epoch() -> None:
        original()
        if half.at.epoch == 2:
            raise stopped

    half._epoch = epoch  # pyright: ignore
    with pytest.raises(RuntimeError, match="stop"):
        half.run()
    again = trainer(folder, epochs=4)
    again.run(resume=True)
    assert again.helpers is not None
    assert whole.helpers is not None
    expected = whole.helpers.state_dict()
    assert expected
    for name, value in again.helpers.state_dict().items():
        assert torch.equal(value, expected[name]), name
    for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_store_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(per_datum, "STORE_MEGABYTES", 0.001)
    store, own = Store(), PerDatum.of(linear_vae())
    with pytest.raises(ResourceError, match="objective per-datum: posteriors of 1,000 data would take"):
        store.start(own, {"x": data(1), "row": torch.tensor([999])})


def test_p_learns_from_stored_posteriors_alone():
    """The encoder's phase leaves p untouched, and p's loss does not look at the encoder."""
    model = linear_vae(0.5, objective="per-datum")
    learn, follow = model.objective.stages[0].phases
    batch = {"x": data(5), "row": torch.arange(5)}
    learn.loss(model, batch, 0.0).loss.backward()
    assert all(p.grad is None for p in model.q["z"].module.network.parameters())
    assert {id(p) for p in follow.parameters(model)} == {id(p) for p in model.q.parameters()}
    assert {id(p) for p in learn.parameters(model)} == {id(p) for p in model.p.parameters()}


def test_ascent_ends_where_nothing_rises_any_more(monkeypatch):
    """Far fewer steps are taken than allowed once the bound is flat."""
    steps = [0]
    original = PerDatum.bound

    def counted(self, *args, **kwargs):
        steps[0] += 1
        return original(self, *args, **kwargs)

    monkeypatch.setattr(refinement.PerDatum, "bound", counted)
    refine(linear_vae(0.9), {"x": data(50)}, 5000)
    assert steps[0] < 1000
    assert math.isfinite(steps[0])
