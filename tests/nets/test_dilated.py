"""WaveNet's core against its definition, one element after another, and its walk against both."""

import pytest
import torch
from torch import nn

from jensen.data import Schema
from jensen.nets.causal import Dilated
from jensen.registry import build


def by_definition(core: Dilated, h):
    """The equations of the docstring, (N, T, H): a loop over layers, positions and nothing else."""
    width, skip = core.width, 0
    for dilation, gate, out in zip(core.dilations, core.gates, core.outs, strict=True):
        v, w = gate.weight[:, :width], gate.weight[:, width:]
        r, s = out.weight[:width], out.weight[width:]
        after, added = [], []
        for t in range(h.shape[1]):
            past = h[:, t - dilation] if t >= dilation else torch.zeros_like(h[:, 0])
            a, g = (past @ v.T + h[:, t] @ w.T + gate.bias).chunk(2, 1)
            u = torch.tanh(a) / (1 + torch.exp(-g))
            after.append(h[:, t] + u @ r.T + out.bias[:width])
            added.append(u @ s.T + out.bias[width:])
        h, skip = torch.stack(after, 1), skip + torch.stack(added, 1)
    return core.last(skip)


def jittered(core: nn.Module):
    """No parameter at a special value."""
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return core.double()


@pytest.mark.parametrize(("blocks", "layers", "length"), [(1, 1, 5), (2, 3, 40), (1, 5, 9), (3, 2, 1)])
def test_both_ways_through_are_the_definition(blocks, layers, length):
    torch.manual_seed(0)
    core = jittered(Dilated(6, 5, blocks, layers))
    h = torch.randn(3, length, 6, dtype=torch.float64)
    with torch.no_grad():
        expected, state = by_definition(core, h), core.start(3)
        walked = torch.stack([core.step(h[:, t], state) for t in range(length)], 1)
        torch.testing.assert_close(core(h), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(walked, expected, rtol=1e-12, atol=1e-12)


def test_walks_of_one_core_do_not_meet():
    torch.manual_seed(0)
    core = jittered(Dilated(4, 4, 1, 3))
    h = torch.randn(2, 12, 4, dtype=torch.float64)
    with torch.no_grad():
        first, second = core.start(1), core.start(1)
        both = [torch.cat([core.step(h[:1, t], first), core.step(h[1:, t], second)]) for t in range(12)]
        torch.testing.assert_close(torch.stack(both, 1), core(h), rtol=1e-12, atol=1e-12)


def test_an_output_sees_its_receptive_field_and_nothing_else():
    torch.manual_seed(0)
    core = jittered(Dilated(4, 4, 2, 3))
    h = torch.randn(1, 30, 4, dtype=torch.float64, requires_grad=True)
    (seen,) = torch.autograd.grad(core(h)[0, 25].sum(), h)
    reached = seen[0].abs().sum(1) > 0
    assert reached.nonzero()[:, 0].tolist() == list(range(26 - core.receptive_field, 26))


def test_sound_walked_is_sound_drawn_by_full_passes():
    torch.manual_seed(0)
    schema = Schema.of_sound(70, 8000)
    settings = {"width": 8, "skip": 8, "blocks": 2, "layers": 4, "positions": False, "likelihood": "categorical"}
    model = build("wavenet", schema, settings)
    factor = jittered(model.p["x"].module).eval()
    with torch.no_grad():
        for p in factor.parameters():  # sharp enough for the past to matter
            p.mul_(2)
    density = factor()
    u = density.noise((3, 70))
    walked = density.from_noise(u)
    assert torch.equal(walked, density.from_noise_naively(u))
    assert len(walked.unique()) > 20
