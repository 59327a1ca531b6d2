"""A critic: a network that learns beside the model to tell two kinds of codes apart."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Critic(nn.Module):
    """A number for each code z, (N, *event) to (N,): the logit of z being of the first kind.

    At its best it is log p₁(z) − log p₂(z). The network is made when a code is first seen, for only then is its shape
    known: by `prepare` before training, so that there is something to optimise and to load into.

    Args:
        build: `build(inputs, outputs)` makes the network.
    """

    def __init__(self, build: Callable[[tuple[int, ...], tuple[int, ...]], nn.Module]):
        super().__init__()
        self.build = build
        self.network: nn.Module | None = None

    def prepare(self, z: Tensor) -> None:
        if self.network is None:
            self.network = self.build(tuple(z.shape[1:]), (1,)).to(z.device, z.dtype)

    def forward(self, z: Tensor) -> Tensor:
        self.prepare(z)
        assert self.network is not None
        return self.network(z).squeeze(-1)
