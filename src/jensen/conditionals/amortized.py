"""Conditionals computed by a network: p(x | z) and q(z | x) as they stand in a variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.conditionals.heads import Head, Support
from jensen.core import Deterministic
from jensen.errors import ConfigError
from jensen.nets.reading import Reader

Build = Callable[[tuple[int, ...], tuple[int, ...]], nn.Module]
"""From the shapes of inputs and outputs to a network."""


class Rescale(nn.Module):
    """Grey levels 0..levels−1 to −1..1, so that networks see numbers of order one."""

    def __init__(self, levels: int):
        super().__init__()
        self.middle = (levels - 1) / 2

    def forward(self, x: Tensor) -> Tensor:
        return x / self.middle - 1.0


def rescaled(network: nn.Module, support: Support) -> nn.Module:
    """A network that takes data of that support: levels are rescaled first, symbols embedded, and all else is of order
    one already.

    Raises:
        ConfigError: the data are symbols, and the network takes numbers.
    """
    if support.kind == "symbol":
        if not isinstance(network, Reader):
            raise ConfigError("encoder: this network takes numbers; for a text choose rnn or transformer")
        network.take_symbols(support.levels or 2, support.end)
        return network
    return nn.Sequential(Rescale(support.levels or 256), network) if support.kind == "levels" else network


class Beside(nn.Module):
    """A value and what it stands under, as one input: conditions behind a vector, or as planes behind a picture.

    Args:
        context: turns the conditions into one context, (N, C).
        first: what is done to the value, as rescaling.
    """

    def __init__(self, context: nn.Module, first: nn.Module | None = None):
        super().__init__()
        self.context, self.first = context, first if first is not None else nn.Identity()

    def shape(self, value: tuple[int, ...]) -> tuple[int, ...]:
        """Of both together, where the value has that shape."""
        size: int = self.context.size  # pyright: ignore
        return (value[0] + size, *value[1:])

    def forward(self, value: Tensor, *conditions: Tensor) -> Tensor:
        value, c = self.first(value), self.context(*conditions)
        planes = c.reshape(*c.shape, *(1,) * (value.dim() - 2)).expand(*c.shape, *value.shape[2:])
        return torch.cat([value, planes.to(value.dtype)], 1)


class Amortized(nn.Module):
    """p(value | parents): a network of the parents, then a head.

    Args:
        network: takes (N, *inputs), gives (N, *head.parameter_shape). Several parents are flattened and joined.
        head: turns that into a distribution.
        join: makes the network's input of the parents, in place of that.

    Networks may run in bfloat16 (`precision`); distributions never do.
    """

    def __init__(self, network: nn.Module, head: Head, join: nn.Module | None = None):
        super().__init__()
        self.network, self.head, self.join = network, head, join
        self.precision: torch.dtype | None = None

    def forward(self, *parents: Tensor) -> Distribution:
        return self.head(self.put_out(*parents))

    def put_out(self, *parents: Tensor) -> Tensor:
        """What the network says, (N, *head.parameter_shape)."""
        joined = parents if self.join is None else (self.join(*parents),)
        return run_network(self.network, joined, self.precision)

    @torch.no_grad()
    def initialize(self, x: Tensor, *parents: Tensor) -> None:
        """Set the output bias so that, untrained, this gives the marginal of the data x, (n, *event)."""
        bias, output = self.head.initial_bias(x), getattr(self.network, "output", None)
        if bias is None or output is None or output.bias is None:
            return
        output.bias.copy_(bias.reshape(output.bias.numel(), -1).mean(1))  # a convolution has one bias a channel


def encoding(network: Build, support: Support, head: Head, context: nn.Module | None = None) -> Amortized:
    """q(z | x), or q(z | x, c) with a context: a network of data of that support.

    Raises:
        ConfigError: the data are symbols, and something is given or the network takes numbers.
    """
    seeing, join = reading(network, support, head.parameter_shape, context)
    return Amortized(seeing, head, join)


def reading(
    network: Build, support: Support, outputs: tuple[int, ...], context: nn.Module | None = None
) -> tuple[nn.Module, nn.Module | None]:
    """A network of data of that support, and what joins them with a context, if there is one.

    Raises:
        ConfigError: the data are symbols, and something is given or the network takes numbers.
    """
    if context is None:
        return rescaled(network(support.shape, outputs), support), None
    if support.kind == "symbol":
        raise ConfigError("given: an encoder of texts takes no conditions")
    join = Beside(context, Rescale(support.levels or 256) if support.kind == "levels" else None)
    return network(join.shape(support.shape), outputs), join


def decoding(network: Build, z: tuple[int, ...], head: Head, context: nn.Module | None = None) -> Amortized:
    """p(x | z), or p(x | z, c) with a context."""
    if context is None:
        return Amortized(network(z, head.parameter_shape), head)
    join = Beside(context)
    return Amortized(network(join.shape(z), head.parameter_shape), head, join)


class AmortizedCode(Deterministic):
    """A deterministic z = network(x): the autoencoder's code.

    Args:
        network: takes x, gives z.
        corruption: what is done to x in training.
    """

    def __init__(self, network: nn.Module, corruption: nn.Module | None = None):
        super().__init__(network)
        self.corruption = corruption
        self.precision: torch.dtype | None = None

    def forward(self, *parents: Tensor) -> Tensor:
        if self.corruption is not None and self.training:
            parents = tuple(map(self.corruption, parents))
        return self.code(*parents)

    def code(self, *parents: Tensor) -> Tensor:
        """Of the parents as they are."""
        return run_network(self.module, parents, self.precision)


def run_network(network: nn.Module, parents: Sequence[Tensor], precision: torch.dtype | None) -> Tensor:
    """A network's output on its joined parents, float32 or better."""
    joined = parents[0] if len(parents) == 1 else torch.cat([x.flatten(1) for x in parents], 1)
    if precision is None:
        return network(joined)
    with torch.autocast(joined.device.type, precision):
        return network(joined).float()


def set_precision(model: nn.Module, precision: torch.dtype | None) -> None:
    """Let the networks of a model run in that precision, or in their own where None."""
    for module in model.modules():
        if hasattr(module, "precision"):
            module.precision = precision  # pyright: ignore
