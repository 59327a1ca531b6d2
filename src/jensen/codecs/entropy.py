"""Entropy coding by the probabilities of a model: whole numbers to bits, and back.

A symbol of probability p takes −log₂ p bits, but for rounding. Both ways must meet the very same probabilities: one in
the last digit decodes to something else, without an error. So they are put on a grid first, and a digest of what was
coded tells afterwards whether what was decoded is that.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jensen.errors import ConfigError
from jensen.units import bits

GRID = 1 << 20  # a class has at least one in so many


def on_grid(log_p: Tensor) -> np.ndarray:
    """Log-probabilities (n, K) as probabilities on the grid: none is 0, and each row sums to 1.

    >>> p = on_grid(torch.tensor([[0.5, 0.5, 0.0]]).double().log())
    >>> bool(p.min() > 0), float(p.sum())
    (True, 1.0)
    """
    weights = np.floor(log_p.double().softmax(-1).cpu().numpy() * GRID) + 1
    return weights / weights.sum(-1, keepdims=True)


class Coder(Protocol):
    """Either way of coding: each call meets the symbols of n variables at once."""

    def code(self, log_p: Tensor, symbols: Tensor | None) -> Tensor:
        """Symbols (n,) under log-probabilities (n, K): written where they are known, else read; both give them back."""
        ...


class Encoder:
    """Symbols to bytes.

    Attributes:
        bits: −Σ log₂ p of all symbols so far, under the model itself.
    """

    def __init__(self):
        self._stream = _constriction().stream.queue.RangeEncoder()
        self._family = _family()
        self._digest = hashlib.blake2b(digest_size=DIGEST)
        self.bits = 0.0

    def code(self, log_p: Tensor, symbols: Tensor | None) -> Tensor:
        assert symbols is not None
        whole = symbols.long()
        self.bits -= bits(float(log_p.double().log_softmax(-1).gather(-1, whole[:, None]).sum()))
        written = whole.cpu().numpy().astype(np.int32)
        self._stream.encode(written, self._family, on_grid(log_p))
        self._digest.update(written.tobytes())
        return symbols

    def finish(self) -> tuple[bytes, bytes]:
        """What was written, and the digest of the symbols."""
        return self._stream.get_compressed().astype("<u4").tobytes(), self._digest.digest()


class Decoder:
    """Bytes to symbols.

    Args:
        written: by an `Encoder`.
        dtype: of the symbols that come back.

    Raises:
        ValueError: the bytes are not of an `Encoder`, or not of these probabilities; few are noticed so, and the digest
            notices all.
    """

    def __init__(self, written: bytes, dtype: torch.dtype):
        words = np.frombuffer(written, "<u4").astype(np.uint32)
        self._stream = _constriction().stream.queue.RangeDecoder(words)
        self._family, self._dtype = _family(), dtype
        self._digest = hashlib.blake2b(digest_size=DIGEST)

    def code(self, log_p: Tensor, symbols: Tensor | None) -> Tensor:
        try:
            read = self._stream.decode(self._family, on_grid(log_p))
        except AssertionError:  # as constriction says it
            raise ValueError("bits that none of these symbols stands for") from None
        self._digest.update(read.astype(np.int32).tobytes())
        return torch.from_numpy(read.astype(np.int64)).to(self._dtype)

    def finish(self) -> bytes:
        """The digest of what was read."""
        return self._digest.digest()


DIGEST = 8  # bytes


def _family() -> Any:
    return _constriction().stream.model.Categorical(perfect=False)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise ConfigError("compress: it takes the package constriction (pip install 'jensen[compress]')") from None
    return constriction
