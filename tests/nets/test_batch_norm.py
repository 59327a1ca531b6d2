"""Batch normalisation beside PyTorch's."""

import pytest
import torch
from torch import nn

from jensen.nets.batch_norm import BatchNorm


@pytest.fixture
def ours_and_theirs() -> tuple[BatchNorm, nn.BatchNorm1d]:
    torch.manual_seed(0)
    ours, theirs = BatchNorm(5).double(), nn.BatchNorm1d(5, momentum=None).double()  # None: averages over all batches
    for own, other in ((ours.scale, theirs.weight), (ours.shift, theirs.bias)):
        own.data.uniform_(0.5, 2.0)
        other.data.copy_(own.data)
    return ours, theirs


def test_it_is_what_pytorch_computes(ours_and_theirs):
    ours, theirs = ours_and_theirs
    for _ in range(7):
        x = (3 * torch.randn(32, 5, dtype=torch.double) + 2).requires_grad_()
        again = x.detach().clone().requires_grad_()
        got, expected = ours(x), theirs(again)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(
            torch.autograd.grad(got.square().sum(), x)[0], torch.autograd.grad(expected.square().sum(), again)[0]
        )
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.variance * 32 / 31, theirs.running_var)  # theirs is the unbiased one
    ours.eval()
    x = torch.randn(3, 5, dtype=torch.double)
    torch.testing.assert_close(ours(x)[:1], ours(x[:1]))  # a row does not depend on the others
    expected = (x - ours.mean) / (ours.variance + 1e-5).sqrt() * ours.scale + ours.shift
    torch.testing.assert_close(ours(x), expected)


def test_averages_forget():
    """After ten batches or more a batch replaces a tenth, as PyTorch's with momentum 0.1."""
    ours = BatchNorm(1)
    for _ in range(100):
        ours(torch.tensor([[-1.0], [1.0]]))
    for _ in range(20):
        ours(torch.tensor([[9.0], [11.0]]))
    assert ours.mean.item() == pytest.approx(10 * (1 - 0.9**20), rel=1e-4)


def test_statistics_are_of_float32_where_networks_run_in_bfloat16():
    x = (4 + 0.1 * torch.randn(512, 3)).bfloat16()
    ours = BatchNorm(3)
    with torch.autocast("cpu", torch.bfloat16):
        got = ours(x)
    variance, mean = torch.var_mean(x.double(), 0, correction=0)
    torch.testing.assert_close(got.double(), (x.double() - mean) / (variance + 1e-5).sqrt(), atol=1e-4, rtol=1e-4)


def test_a_batch_of_one_is_taken_by_the_averages():
    ours = BatchNorm(3)
    ours(torch.randn(16, 3))
    kept, x = ours.mean.clone(), torch.randn(1, 3)
    got = ours(x)
    assert torch.equal(kept, ours.mean)
    ours.eval()
    assert torch.equal(got, ours(x))
