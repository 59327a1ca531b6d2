"""The coder: symbols come back, in as many bits as their probabilities say, and a wrong probability is noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jensen.codecs.entropy import Decoder, Encoder, on_grid


@settings(deadline=None, max_examples=40)
@given(classes=st.integers(2, 300), n=st.integers(1, 60), sharp=st.floats(0, 60), seed=st.integers(0, 2**31))
def test_symbols_come_back(classes: int, n: int, sharp: float, seed: int):
    """However sharp the probabilities are, and unlikely the symbols."""
    rng = torch.Generator().manual_seed(seed)
    log_p = sharp * torch.randn(n, classes, generator=rng).double()
    symbols = torch.randint(classes, (n,), generator=rng).double()
    encoder = Encoder()
    encoder.code(log_p, symbols)
    written, digest = encoder.finish()
    decoder = Decoder(written, torch.float64)
    assert torch.equal(decoder.code(log_p, None), symbols)
    assert decoder.finish() == digest


def test_bits_are_the_entropy():
    """Of draws from known probabilities: −log₂ p, as scipy has it, and the bytes within a thousandth of that."""
    from scipy.stats import entropy

    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(20, 0.3))
    symbols = torch.from_numpy(rng.choice(20, size=20000, p=p)).double()
    encoder = Encoder()
    for part in symbols.split(1000):
        encoder.code(torch.from_numpy(p).log().expand(len(part), -1), part)
    own = -math.fsum(math.log2(p[int(s)]) for s in symbols)
    assert encoder.bits == pytest.approx(own, rel=1e-12)
    assert own == pytest.approx(20000 * entropy(p, base=2), rel=0.02)
    assert len(encoder.finish()[0]) * 8 == pytest.approx(own, rel=1e-3, abs=64)


def test_no_class_is_impossible():
    p = on_grid(torch.tensor([[0.0, -1e9, -torch.inf]]).double())
    assert (p > 0).all() and p.sum() == pytest.approx(1)
    assert p[0, 1] == pytest.approx(2**-20, rel=1e-3)


def test_other_probabilities_are_noticed():
    log_p = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)).double()
    symbols = torch.arange(200.0).double() % 8
    encoder = Encoder()
    encoder.code(log_p, symbols)
    written, digest = encoder.finish()
    decoder = Decoder(written, torch.float64)
    decoder.code(log_p + 1e-4 * torch.arange(8), None)
    assert decoder.finish() != digest


def test_differences_in_the_last_digit_change_nothing():
    log_p = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)).double()
    other = log_p * (1 + 1e-15)
    assert not torch.equal(log_p, other)
    np.testing.assert_array_equal(on_grid(log_p), on_grid(other))


def test_bytes_that_are_none():
    log_p = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(ValueError, match="none of these symbols"):
        Decoder(b"\xff" * 400, torch.float64).code(log_p, None)
