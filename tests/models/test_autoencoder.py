"""The autoencoder: PCA's subspace where it is linear, noise in training alone, penalties by hand, no likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from torch import Tensor, nn

from jensen.core import Model
from jensen.data import Dataset, Schema, Split
from jensen.data.text_tokens import Tokens
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.train import train
from jensen.objectives import Terms
from jensen.objectives.reconstruction import squared_jacobian
from jensen.registry import build

LINEAR = {"encoder": "linear", "decoder": "linear", "likelihood": {"name": "gaussian", "variance": "fixed"}}


def table(rows: int = 300) -> np.ndarray:
    """Standardised columns whose first two principal components stand well above the rest."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(rows, 6))
    return (x - x.mean(0)) / x.std(0)


def dataset(x: np.ndarray) -> Dataset:
    split = Split(x)
    schema = Schema.of_table(x, [f"c{i}" for i in range(x.shape[1])])
    return Dataset("made", schema, {"train": split, "valid": split, "test": split})


def test_a_linear_autoencoder_finds_the_subspace_of_pca():
    x = table()
    run = train("autoencoder", dataset(x), settings={"latents": 2, **LINEAR}, epochs=200, batch_size=100, lr=0.03)
    pca = PCA(2).fit(x)
    decoder = run.model.p["x"].module.network.output.weight.detach().numpy()
    angles = subspace_angles(decoder, pca.components_.T)
    assert np.rad2deg(angles).max() < 0.5
    # And reconstructs as PCA does.
    prepared = run.schema.prepare(x)
    found = run.model.evidence({"x": prepared}).p["x"].mean.detach().numpy()
    np.testing.assert_allclose(found, pca.inverse_transform(pca.transform(x)), atol=0.02)


def test_noise_is_added_in_training_alone():
    model = build("autoencoder", dataset(table()).schema, {"latents": 2, "noise": 0.5, **LINEAR})
    x = torch.from_numpy(table()).float()
    model.eval()
    clean = model.evidence({"x": x}).values["z"]
    torch.testing.assert_close(model.evidence({"x": x}).values["z"], clean)
    torch.testing.assert_close(clean, model.q["z"].module.module(x))
    model.train()
    gap = model.evidence({"x": x}).values["z"] - clean
    weight = model.q["z"].module.module.output.weight
    spread = (0.5 * weight.norm(dim=1)).detach()
    torch.testing.assert_close(gap.detach().std(0), spread, rtol=0.15, atol=0)


def test_noise_on_a_single_number_is_finite():
    schema = Schema.of_table(np.zeros((2, 1)), ["a"])
    model = build("autoencoder", schema, {"latents": 1, "noise": 0.5, **LINEAR})
    model.train()
    assert torch.isfinite(model.evidence({"x": torch.ones(1, 1)}).values["z"]).all()


def test_it_has_no_likelihood_and_no_samples_and_says_why():
    run = train("autoencoder", dataset(table(30)), settings={"latents": 2, **LINEAR}, epochs=1)
    with pytest.raises(CapabilityError, match="autoencoder cannot score: it has no likelihood: 'z' is a deterministic"):
        run.score()
    with pytest.raises(CapabilityError, match="autoencoder cannot sample"):
        run.sample(3)
    assert "reconstruction" in run.log[-1]["valid"]
    assert "elbo" not in run.log[-1]["valid"]


# Corruption


def corrupted(schema: Schema, x: Tensor, kind: str, noise: float) -> Tensor:
    """What the encoder sees in training."""
    model = build("autoencoder", schema, {"latents": 2, "noise": noise, "noise_kind": kind})
    seen = []
    model.q["z"].module.corruption.register_forward_hook(lambda module, args, output: seen.append(output))
    torch.manual_seed(0)
    model.eval()
    model.evidence({"x": x})
    assert not seen
    model.train()
    model.evidence({"x": x})
    return seen[0]


def shares(changed: Tensor, share: float) -> None:
    assert changed.double().mean().item() == pytest.approx(
        share, abs=4 * (share * (1 - share) / changed.numel()) ** 0.5
    )


def test_masking_sets_a_share_of_elements_to_zero():
    x = torch.rand(400, 6) + 1
    found = corrupted(dataset(table()).schema, x, "masking", 0.3)
    shares(found == 0, 0.3)
    assert torch.equal(found[found != 0], x[found != 0])


@pytest.mark.parametrize("levels", [2, 256])
def test_salt_and_pepper_is_the_blackest_or_whitest_grey(levels):
    x = torch.full((400, 1, 2, 3), 0.5)  # neither, so that what is set shows
    found = corrupted(Schema.of_pictures((1, 2, 3), levels=levels), x, "salt-and-pepper", 0.4)
    shares(found == 0, 0.2)
    shares(found == levels - 1, 0.2)
    assert (found[(found != 0) & (found != levels - 1)] == 0.5).all()


def test_salt_and_pepper_of_numbers_is_the_least_or_greatest_of_the_batch_in_its_column():
    x = torch.randn(400, 6)
    found = corrupted(dataset(table()).schema, x, "salt-and-pepper", 0.4)
    low, high = x.amin(0), x.amax(0)
    shares(((found == low) & (x != low)) | ((found == high) & (x != high)), 0.4 * 399 / 400)
    assert ((found == x) | (found == low) | (found == high)).all()


def test_noise_that_makes_no_sense_is_refused():
    schema = dataset(table()).schema
    with pytest.raises(ConfigError, match="noise: with noise_kind=masking it is a share of the elements, expected at"):
        build("autoencoder", schema, {"noise": 1.5, "noise_kind": "masking"})
    text = Schema.of_text(3, Tokens.of_characters(["ab"], lines=True))
    for setting in ("noise", "contractive"):
        with pytest.raises(ConfigError, match=f"{setting} takes numbers"):
            build("autoencoder", text, {"encoder": "rnn", setting: 0.5})
    with pytest.raises(ConfigError, match=r"sparse_kind: kl is for activations in \(0, 1\)"):
        build("autoencoder", schema, {"sparse": 1.0, "sparse_kind": "kl"})


# Penalties

TANH = {"name": "mlp", "hidden": [5], "activation": "tanh"}


def loss_of(model: Model, batch: dict[str, Tensor]) -> Terms:
    return model.objective.stages[0].phases[0].loss(model, batch, 1.0)


@pytest.mark.parametrize(
    "encoder", ["linear", TANH, {"name": "conv", "channels": [3], "hidden": 6, "activation": "elu"}]
)
def test_the_contractive_penalty_is_the_squared_jacobian(encoder):
    """And its gradient, against autograd's Jacobian of each row; grey levels count as the network sees them, −1..1."""
    schema = Schema.of_pictures((1, 4, 4), levels=256)
    settings = {"latents": 3, "encoder": encoder, "code": "sigmoid", "contractive": 0.7}
    model = build("autoencoder", schema, settings).double()
    x = torch.randint(256, (5, 1, 4, 4)).double()
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0], dtype=torch.float64)
    terms = loss_of(model, {"x": x, "weight": weight})
    _, network = model.q["z"].module.module[0]  # after rescaling
    sigmoid = nn.Sequential(network, nn.Sigmoid())
    rows = [torch.autograd.functional.jacobian(sigmoid, row[None] / 127.5 - 1, create_graph=True) for row in x]
    truth = sum(w * j.square().sum() for w, j in zip(weight, rows, strict=True)) / weight.sum()
    torch.testing.assert_close(terms.logged["contraction"], truth.detach())
    reconstruction = (model.evidence({"x": x}).reconstruction() * weight).sum() / weight.sum()
    torch.testing.assert_close(terms.loss, 0.7 * truth - reconstruction)
    inside = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    one = torch.autograd.grad(terms.loss + reconstruction, inside, retain_graph=True)
    two = torch.autograd.grad(0.7 * truth, inside)
    for found, wanted in zip(one, two, strict=True):
        torch.testing.assert_close(found, wanted)


def test_of_one_sigmoid_layer_it_is_the_formula_of_the_paper():
    """Rifai et al. 2011, equation 9: Σ_j (h_j (1 − h_j))² Σ_i W_ij²."""
    layer = nn.Sequential(nn.Linear(6, 4), nn.Sigmoid()).double()
    x = torch.randn(7, 6, dtype=torch.float64)
    h = layer(x)
    truth = ((h * (1 - h)).square() * layer[0].weight.square().sum(1)).sum(1)
    torch.testing.assert_close(squared_jacobian(layer, x), truth)


def test_probes_estimate_it_without_bias():
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.manual_seed(0)
    truth = squared_jacobian(network, x)
    found = squared_jacobian(network, x.repeat(4000, 1), probes=1).unflatten(0, (4000, 3)).detach()
    stderr = found.std(0) / 4000**0.5
    assert ((found.mean(0) - truth).abs() < 4 * stderr).all()
    assert (stderr > 0).all()
    several = squared_jacobian(network, x.repeat(4000, 1), probes=4).unflatten(0, (4000, 3)).detach()
    torch.testing.assert_close(several.var(0), found.var(0) / 4, rtol=0.15, atol=0)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.0, 2.0, 1.0])])
def test_sparse_codes_by_hand(weight):
    x = torch.randn(4, 6)
    batch = {"x": x} if weight is None else {"x": x, "weight": weight}
    share = (torch.ones(4) if weight is None else weight)[:, None]
    share = share / share.sum()
    settings = {"latents": 3, "encoder": TANH, "code": "sigmoid", "sparse": 2.0}
    model = build("autoencoder", dataset(table()).schema, settings)
    z = model.evidence(batch).values["z"]
    reconstruction = (share[:, 0] * model.evidence(batch).reconstruction()).sum()
    torch.testing.assert_close(loss_of(model, batch).loss, 2 * (share * z.abs()).sum() - reconstruction)
    model = build("autoencoder", dataset(table()).schema, {**settings, "sparse_kind": "kl", "activity": 0.2})
    mean = (share * model.evidence(batch).values["z"]).sum(0)
    truth = (0.2 * (0.2 / mean).log() + 0.8 * (0.8 / (1 - mean)).log()).sum()
    torch.testing.assert_close(loss_of(model, batch).logged["sparsity"], truth.detach())
    with torch.no_grad():  # every unit dead: finite all the same
        model.q["z"].module.module[0].output.bias.fill_(-1000)
    assert torch.isfinite(loss_of(model, batch).loss)


def test_a_contractive_code_moves_less_and_a_sparse_one_is_less_active():
    x = table()
    common = {"latents": 4, "encoder": TANH, "decoder": "linear", "code": "sigmoid"}

    def codes(**settings) -> tuple[float, float]:
        run = train("autoencoder", dataset(x), settings={**common, **settings}, epochs=60, batch_size=100, lr=0.01)
        rows = run.schema.prepare(x)
        code = run.model.q["z"].module.code
        return squared_jacobian(code, rows).mean().item(), code(rows).mean().item()

    plain, contracted, sparse = codes(), codes(contractive=30.0), codes(sparse=5.0, sparse_kind="kl", activity=0.05)
    assert contracted[0] < 0.5 * plain[0]
    assert sparse[1] < 0.5 * plain[1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"noise": 0.3, "noise_kind": "salt-and-pepper"},
        {"contractive": 0.1, "probes": 1},
        {"sparse": 0.1, "code": "relu"},
    ],
    ids=str,
)
def test_convolutional_ones_of_pictures(settings):
    rng = np.random.default_rng(0)
    where = rng.integers(0, 6, size=(200, 2))
    x = np.zeros((200, 1, 8, 8), dtype=np.uint8)
    for picture, (i, j) in zip(x, where, strict=True):
        picture[0, i : i + 2, j : j + 2] = 255
    data = Dataset("squares", Schema.of_pictures((1, 8, 8), levels=256), {"train": Split(x), "valid": Split(x[:50])})
    conv = {"name": "conv", "channels": [8, 8], "hidden": 32}
    settings = {"latents": 8, "encoder": conv, "decoder": conv, **settings}
    run = train("autoencoder", data, settings=settings, epochs=12, batch_size=25, lr=3e-3)
    assert run.log[-1]["valid"]["reconstruction"] > run.log[0]["valid"]["reconstruction"] + 10
    assert run.reconstruct(x[:3]).shape == (3, 1, 8, 8)
    with pytest.raises(CapabilityError, match="autoencoder cannot score: it has no likelihood: 'z' is a deterministic"):
        run.score(x)
