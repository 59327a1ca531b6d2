"""Conditionals computed by a network: p(x | z) and q(z | x) as they stand in a variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.conditionals.flows import Context
from jensen.conditionals.heads import Head, Support
from jensen.conditionals.record import cells
from jensen.core import Deterministic
from jensen.errors import ConfigError
from jensen.nets.reading import Reader
from jensen.nets.stack import Stack

Build = Callable[[tuple[int, ...], tuple[int, ...]], nn.Module]
"""From the shapes of inputs and outputs to a network."""


class Rescale(nn.Module):
    """Grey levels 0..levels−1 to −1..1, so that networks see numbers of order one."""

    def __init__(self, levels: int):
        super().__init__()
        self.middle = (levels - 1) / 2

    def forward(self, x: Tensor) -> Tensor:
        return x / self.middle - 1.0


class Squash(nn.Module):
    """asinh x, about log 2x where x is large: counts as numbers that a network takes, however large they are."""

    def forward(self, x: Tensor) -> Tensor:
        return x.asinh()


def to_order_one(support: Support) -> nn.Module | None:
    """What brings levels and counts to order one; None where numbers are that already."""
    if support.kind == "levels":
        return Rescale(support.levels or 256)
    return Squash() if support.kind == "count" else None


def rescaled(network: nn.Module, support: Support) -> nn.Module:
    """A network that takes data of that support: levels are rescaled first, counts squashed, symbols embedded, and all
    else is of order one already.

    Raises:
        ConfigError: the data are symbols, and the network takes numbers.
    """
    if support.kind == "symbol":
        if not isinstance(network, Reader):
            raise ConfigError("encoder: this network takes numbers; for a text choose rnn or transformer")
        network.take_symbols(support.levels or 2, support.end)
        return network
    first = to_order_one(support)
    return network if first is None else nn.Sequential(first, network)


class Beside(nn.Module):
    """A value and what it stands under, as one input: conditions behind a vector, or as planes behind a picture.

    Args:
        context: turns the conditions into one context, (N, C), or into planes.
        first: what is done to the value, as rescaling.
        own: how many of the parents `first` takes.
    """

    def __init__(self, context: Context, first: nn.Module | None = None, own: int = 1):
        super().__init__()
        self.context, self.first, self.own = context, first if first is not None else nn.Identity(), own

    def shape(self, value: tuple[int, ...]) -> tuple[int, ...]:
        """Of both together, where the value has that shape."""
        more = self.context.channels if len(value) == 3 else self.context.size
        return (value[0] + more, *value[1:])

    def forward(self, *parents: Tensor) -> Tensor:
        value, conditions = self.first(*parents[: self.own]), parents[self.own :]
        picture = value.dim() == 4
        c = self.context.planes(value.shape[2:], *conditions) if picture else self.context(*conditions)  # pyright: ignore
        return torch.cat([value, c.to(value.dtype)], 1)


class Onto(nn.Module):
    """A network of a vector and of given pictures, to a picture: what it draws meets the pictures at its own size.

    Args:
        join: the vector with the conditions behind it.
        body: a convolutional network of these, which puts out some planes.
        outputs: shape of the result.
    """

    takes_parents = True

    def __init__(self, join: Beside, body: nn.Module, planes: int, outputs: tuple[int, ...]):
        super().__init__()
        self.join, self.body, self.size = join, body, outputs[1:]
        both = nn.Conv2d(planes + join.context.channels, planes, 3, padding=1)
        self.merge = Stack(both, nn.SiLU(), nn.Conv2d(planes, outputs[0], 3, padding=1))

    @property
    def output(self) -> nn.Module:
        """Where an output bias can be set from the data."""
        return self.merge.output

    def forward(self, value: Tensor, *conditions: Tensor) -> Tensor:
        drawn = self.body(self.join(value, *conditions))
        given = self.join.context.planes(self.size, *conditions)  # pyright: ignore[reportArgumentType]
        return self.merge(torch.cat([drawn, given.to(drawn.dtype)], 1))


class Told(nn.Module):
    """A network that reads a row of symbols and is told what is given with it.

    Args:
        reader: takes symbols already.
        context: turns the conditions into one context.
    """

    takes_parents = True

    def __init__(self, reader: nn.Module, context: Context):
        super().__init__()
        assert isinstance(reader, Reader)
        reader.take_context(context.size)
        self.reader, self.context = reader, context

    @property
    def output(self) -> nn.Module:
        """Where an output bias can be set from the data."""
        return self.reader.output

    def forward(self, row: Tensor, *conditions: Tensor) -> Tensor:
        return self.reader(row, self.context(*conditions).to(row.dtype))


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
        start_from(self.network, self.head.initial_bias(x))


@torch.no_grad()
def start_from(network: nn.Module, bias: Tensor | None) -> None:
    """Let a network put out about that at first, whatever it sees, if its last layer can."""
    output = getattr(network, "output", None)
    if bias is not None and output is not None and output.bias is not None:
        output.bias.copy_(bias.reshape(output.bias.numel(), -1).mean(1))  # a convolution has one bias a channel


def encoding(network: Build, support: Support, head: Head, context: Context | None = None) -> Amortized:
    """q(z | x), or q(z | x, c) with a context: a network of data of that support.

    Raises:
        ConfigError: the data are symbols, and the network takes numbers.
    """
    seeing, join = reading(network, support, head.parameter_shape, context)
    return Amortized(seeing, head, join)


def reading(
    network: Build, support: Support, outputs: tuple[int, ...], context: Context | None = None
) -> tuple[nn.Module, nn.Module | None]:
    """A network of data of that support, and what joins them with a context, if there is one.

    Raises:
        ConfigError: the data are symbols, and the network takes numbers.
    """
    if support.columns or support.gaps:
        return _reading_cells(network, support, outputs, context)
    if context is None or support.kind == "symbol":
        seeing = rescaled(network(support.shape, outputs), support)
        return (seeing if context is None else Told(seeing, context)), None
    join = Beside(context, to_order_one(support))
    return network(join.shape(support.shape), outputs), join


def _reading_cells(
    network: Build, support: Support, outputs: tuple[int, ...], context: Context | None
) -> tuple[nn.Module, nn.Module | None]:
    """A network of the cells of a table, and what makes its input of the row, which cells are there, and a context."""
    first = cells(support)
    assert first is not None
    if context is None:
        built = network(support.shape, outputs)
        if hasattr(built, "take_cells"):
            built.take_cells(first)  # pyright: ignore[reportCallIssue]
            return built, None
    join = first if context is None else Beside(context, first, len(support.parents))
    built = network((first.size,) if context is None else join.shape((first.size,)), outputs)  # pyright: ignore
    return built, join


def decoding(network: Build, z: tuple[int, ...], head: Head, context: Context | None = None) -> Amortized:
    """p(x | z), or p(x | z, c) with a context.

    Given pictures, a convolutional network that makes a picture of a vector meets them again as planes.
    """
    if context is None:
        return Amortized(network(z, head.parameter_shape), head)
    join, outputs = Beside(context), head.parameter_shape
    built = network(join.shape(z), outputs)
    if context.holds_pictures and len(z) == 1 and len(outputs) == 3 and _is_convolutional(built):
        body = network(join.shape(z), (PLANES, *outputs[1:]))
        return Amortized(Onto(join, body, PLANES, outputs), head)
    return Amortized(built, head, join)


PLANES = 16  # of what a network draws before it meets given pictures


def _is_convolutional(network: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in network.modules())


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
    """A network's output on its parents, joined where it does not take several, float32 or better."""
    joined = tuple(parents)
    if len(parents) > 1 and not getattr(network, "takes_parents", False):
        joined = (torch.cat([x.flatten(1) for x in parents], 1),)
    if precision is None:
        return network(*joined)
    with torch.autocast(joined[0].device.type, precision):
        return network(*joined).float()


def set_precision(model: nn.Module, precision: torch.dtype | None) -> None:
    """Let the networks of a model run in that precision, or in their own where None."""
    for module in model.modules():
        if hasattr(module, "precision"):
            module.precision = precision  # pyright: ignore
