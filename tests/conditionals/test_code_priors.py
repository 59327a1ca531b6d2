"""Networks of symbols with a context that each cell has of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jensen.conditionals.autoregressive import Autoregressive
from jensen.conditionals.heads import CategoricalHead, Support
from jensen.core import seeded
from jensen.registry import find

NETWORKS = ("pixelcnn", "transformer", "rnn", "wavenet", "markov")
SHARED, LOCAL, CELLS = 3, 2, 12


class Given(nn.Module):
    size = SHARED + LOCAL

    def forward(self, c: Tensor) -> Tensor:
        return c


def conditional(name: str, local: int) -> Autoregressive:
    support = Support("symbol", (1, 3, 4), levels=5)
    with seeded(0):
        network = find("causal", name).function(support, 5, SHARED + local, width=16)
        network.local = local
        made = Autoregressive(network, CategoricalHead(support), Given()).double().eval()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("local", [0, LOCAL])
@pytest.mark.parametrize("name", NETWORKS)
def test_cells_drawn_one_by_one_are_those_of_full_passes(name, local):
    made = conditional(name, local)
    with seeded(1), torch.no_grad():
        p = made(torch.randn(6, SHARED + local * CELLS, dtype=torch.float64))
        u = p.noise((6, 1, 3, 4))
        assert torch.equal(p.from_noise(u), p.from_noise_naively(u))


@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_sum_to_one_cell_by_cell(name):
    made = conditional(name, LOCAL)
    with seeded(2), torch.no_grad():
        c = torch.randn(1, SHARED + LOCAL * CELLS, dtype=torch.float64)
        x = torch.randint(5, (1, 1, 3, 4)).double().repeat(5, 1, 1, 1)
        x[:, 0, 1, 2] = torch.arange(5.0)
        terms = made(c.expand(5, -1)).terms(x)
    assert terms[:, 0, 1, 2].exp().sum().item() == pytest.approx(1)
    before = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    assert torch.equal(terms[:, 0, before], terms[:1, 0, before].expand(5, -1))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_cell_sees_its_own_context_and_the_shared_one(name):
    made, cell = conditional(name, LOCAL), 6
    with seeded(3), torch.no_grad():
        c = torch.randn(4, SHARED + LOCAL * CELLS, dtype=torch.float64)
        x = torch.randint(5, (4, 1, 3, 4)).double()

        def change(position: int) -> Tensor:
            other = c.clone()
            other[:, position] += 1
            return (made(other).terms(x) - made(c).terms(x)).flatten(1).abs().amax(0)

        assert (change(0) > 1e-6).all()
        for channel in range(LOCAL):
            assert change(SHARED + channel * CELLS + cell)[cell] > 1e-6
        if name != "pixelcnn":  # whose convolutions look around
            assert change(SHARED + cell)[:cell].max() == 0
