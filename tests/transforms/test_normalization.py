"""Activation normalisation starts from the first data it meets, and from no others."""

from __future__ import annotations

import pytest
import torch

from jensen.transforms import ActNorm, Composed


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("shape", [(3,), (2, 4, 5)])
def test_it_starts_once(shape, learned):
    torch.manual_seed(0)
    norm, x = ActNorm(shape, learned), 3 + 2 * torch.randn(500, *shape)
    z = norm.initialize(x)
    dims = (0, *range(2, x.dim()))
    torch.testing.assert_close(z.mean(dims), torch.zeros(shape[0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std(dims, correction=0), torch.ones(shape[0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(norm.initialize(5 * x), norm.inverse(5 * x))
    torch.testing.assert_close(norm.inverse(x), z)


@pytest.mark.parametrize("learned", [True, False])
def test_it_does_not_start_anew_once_loaded(learned):
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(500, 3)
    trained, loaded = ActNorm((3,), learned), ActNorm((3,), learned)
    z = trained.initialize(x)
    loaded.load_state_dict(trained.state_dict())
    loaded.train().initialize(7 - x)
    torch.testing.assert_close(loaded.inverse(x), z)


@pytest.mark.parametrize("value", [0.0, 7.3, 1e6])
def test_what_never_varies_is_only_centred(value):
    """Divided by next to nothing in each of ten layers, a step of 0.001 aside would be one of 10^27."""
    torch.manual_seed(0)
    x = torch.stack([torch.randn(500), torch.full((500,), value)], 1)
    chain = Composed([ActNorm((2,)) for _ in range(10)])
    chain.initialize(x)
    z, ladj = chain.inverse_and_ladj(x + torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(z[:, 1], torch.ones(500), rtol=0, atol=1e-6 * max(1.0, value))
    torch.testing.assert_close(ladj, -x[:, 0].std(correction=0).log(), rtol=0, atol=1e-5)
