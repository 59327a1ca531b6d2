"""Couplings: a part of the event is kept, the other is changed by a map whose parameters a network of the first gives.

    x_A = z_A        x_B = f(z_B; θ(z_A, c))        log |det ∂x/∂z| = Σ_B log f′(z_d)

Both directions take one pass of the network. Dinh, Krueger and Bengio, "NICE", 2015, arXiv:1410.8516; Dinh,
Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017, arXiv:1605.08803.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jensen.transforms.monotone import Monotone
from jensen.transforms.transform import Shape, Transform

FIRST_ROWS = 2000  # of the first data, that go through a network


class Partition(nn.Module):
    """Which part of an event is kept (A) and which is changed (B).

    Attributes:
        shape: of the event.
        kept_shape, changed_shape: of the parts as they are handed on, with the first dimension for features.
    """

    shape: Shape
    kept_shape: Shape
    changed_shape: Shape

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The kept and the changed part, `(N, *kept_shape)` and `(N, *changed_shape)`."""
        raise NotImplementedError

    def join(self, kept: Tensor, changed: Tensor) -> Tensor:
        """The event again, `(N, *shape)`."""
        raise NotImplementedError

    def restrict(self, parameters: Tensor) -> Tensor:
        """Parameters of the map, `(N, P, *changed_shape)`: those of the identity wherever nothing is to change."""
        return parameters

    def network_shapes(self, size: int, context: int = 0) -> tuple[Shape, Shape]:
        """What a network takes and gives when each changed element has `size` parameters.

        >>> half((5,)).network_shapes(2, context=3)
        ((6,), (4,))
        """
        (kept, *rest), (changed, *_) = self.kept_shape, self.changed_shape
        return (kept + context, *rest), (changed * size, *rest)


class Blocks(Partition):
    """The first features and the others: a cut, with no copy on the way apart."""

    def __init__(self, shape: Shape, cut: int, keep_first: bool = True):
        super().__init__()
        self.shape, self.cut, self.keep_first = tuple(shape), cut, keep_first
        sizes = (cut, shape[0] - cut) if keep_first else (shape[0] - cut, cut)
        _check(self.shape, sizes)
        self.kept_shape, self.changed_shape = ((n, *shape[1:]) for n in sizes)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split((self.cut, self.shape[0] - self.cut), 1)
        return (first, second) if self.keep_first else (second, first)

    def join(self, kept: Tensor, changed: Tensor) -> Tensor:
        return torch.cat((kept, changed) if self.keep_first else (changed, kept), 1)


class Chosen(Partition):
    """Any features kept, the others changed.

    Args:
        shape: of the event.
        kept: indices along its first dimension.
    """

    order: Tensor
    inverse_order: Tensor

    def __init__(self, shape: Shape, kept: Sequence[int]):
        super().__init__()
        self.shape, self.count = tuple(shape), len(kept)
        others = [i for i in range(shape[0]) if i not in set(kept)]
        _check(self.shape, (len(kept), len(others)))
        self.kept_shape, self.changed_shape = (len(kept), *shape[1:]), (len(others), *shape[1:])
        order = torch.tensor([*kept, *others])
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort())

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = x.index_select(1, self.order).split((self.count, self.shape[0] - self.count), 1)
        return kept, changed

    def join(self, kept: Tensor, changed: Tensor) -> Tensor:
        return torch.cat((kept, changed), 1).index_select(1, self.inverse_order)


class Checkerboard(Partition):
    """Squares of one colour on a picture of even height and width.

    The squares of a colour are every other pixel of the even rows and of the odd rows, shifted: two pictures of half
    the height and width, as channels. So a network sees no holes and computes nothing twice.
    """

    def __init__(self, shape: Shape, parity: int = 0):
        super().__init__()
        channels, height, width = shape
        if height % 2 or width % 2:
            raise ValueError(f"expected a picture of even height and width, got {tuple(shape)}")
        self.shape, self.parity = tuple(shape), parity % 2
        self.kept_shape = self.changed_shape = (2 * channels, height // 2, width // 2)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (c, h, w), n = self.shape, len(x)
        (a, b), (d, e) = (row.unbind(-1) for row in x.reshape(n, c, h // 2, 2, w // 2, 2).unbind(3))
        same, other = torch.cat((a, e), 1), torch.cat((b, d), 1)
        return (other, same) if self.parity else (same, other)

    def join(self, kept: Tensor, changed: Tensor) -> Tensor:
        same, other = (changed, kept) if self.parity else (kept, changed)
        (a, e), (b, d) = same.chunk(2, 1), other.chunk(2, 1)
        rows = torch.stack((torch.stack((a, b), -1), torch.stack((d, e), -1)), 3)
        return rows.reshape(len(kept), *self.shape)


class Masked(Partition):
    """Any mask: the network sees the event with zeros in place of what is changed.

    Args:
        mask: of an event's shape, 1 where kept.
    """

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        self.shape = self.kept_shape = self.changed_shape = tuple(mask.shape)
        kept = int((mask != 0).sum())
        _check(self.shape, (kept, mask.numel() - kept))
        self.register_buffer("mask", mask.to(torch.get_default_dtype()))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.mask, x

    def join(self, kept: Tensor, changed: Tensor) -> Tensor:
        return kept + changed * (1 - self.mask)

    def restrict(self, parameters: Tensor) -> Tensor:
        return parameters * (1 - self.mask)


def half(shape: Shape, keep_first: bool = True) -> Partition:
    """The first half of the features (or channels), the larger where they are odd in number, and the second."""
    return Blocks(shape, (shape[0] + 1) // 2, keep_first)


def alternating(shape: Shape, parity: int = 0) -> Partition:
    """Features of even number kept where `parity` is 0, of odd number where it is 1."""
    return Chosen(shape, range(parity % 2, shape[0], 2))


def random_half(shape: Shape) -> Partition:
    """Half of the features (or channels), drawn at random."""
    return Chosen(shape, sorted(torch.randperm(shape[0])[: (shape[0] + 1) // 2].tolist()))


def checkerboard(shape: Shape, parity: int = 0) -> Partition:
    """Pixels whose row and column add up to `parity` (modulo 2) kept; any height and width."""
    if shape[1] % 2 == 0 and shape[2] % 2 == 0:
        return Checkerboard(shape, parity)
    row, column = torch.meshgrid(torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
    return Masked(((row + column) % 2 == parity % 2).expand(shape))


def _check(shape: Shape, sizes: tuple[int, int]) -> None:
    if min(sizes) < 1:
        raise ValueError(f"expected something to keep and something to change in an event {shape}, got {sizes}")


class Coupling(Transform):
    """x_A = z_A, x_B = f(z_B; θ(z_A, c)).

    Args:
        partition: says what A and B are.
        network: gives `(N, P · changed, ...)` for the kept part, `(N, kept, ...)`, to which a context is joined, as
            more features of a vector or as constant channels of a picture (`Partition.network_shapes`). Its last layer
            is set to zero, so that the coupling starts as the identity.
        monotone: f.

    The network may run in bfloat16 (`precision`); the map never does.

    >>> from jensen.transforms import AffineMap
    >>> Coupling(half((4,)), nn.Linear(2, 4), AffineMap())(torch.ones(1, 4)).tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(self, partition: Partition, network: nn.Module, monotone: Monotone):
        super().__init__()
        self.partition, self.network, self.monotone = partition, network, monotone
        self.domain_shape = self.codomain_shape = partition.shape
        self.domain, self.codomain = monotone.domain, monotone.codomain
        self.precision: torch.dtype | None = None
        start_at_zero(network)

    def parameters_of(self, kept: Tensor, context: Tensor | None) -> Tensor:
        """θ(z_A, c), `(N, P, *changed_shape)`."""
        if context is not None:
            if kept.dim() > 2:
                context = context[:, :, None, None].expand(-1, -1, *kept.shape[2:])
            kept = torch.cat((kept, context), 1)
        if self.precision is None:
            raw = self.network(kept)
        else:
            with torch.autocast(kept.device.type, self.precision):
                raw = self.network(kept).to(kept.dtype)
        return self.partition.restrict(raw.unflatten(1, (self.monotone.size, self.partition.changed_shape[0])))

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, changed = self.partition.split(z)
        changed, ladj = self.monotone.forward_and_ladj(changed, self.parameters_of(kept, context))
        return self.partition.join(kept, changed), ladj

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        kept, changed = self.partition.split(z)
        return self.partition.join(kept, self.monotone.forward(changed, self.parameters_of(kept, context)))

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, changed = self.partition.split(x)
        changed, ladj = self.monotone.inverse_and_ladj(changed, self.parameters_of(kept, context))
        return self.partition.join(kept, changed), ladj

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.inverse(x[:FIRST_ROWS], context if context is None else context[:FIRST_ROWS])


def start_at_zero(network: nn.Module) -> None:
    """Set the last layer of a network to zero.

    Raises:
        ValueError: it has no linear or convolutional layer.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError("expected a network with a linear or convolutional last layer")
    nn.init.zeros_(layers[-1].weight)
    if layers[-1].bias is not None:
        nn.init.zeros_(layers[-1].bias)
