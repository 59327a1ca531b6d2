"""Masked perceptrons as causal networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jensen.nets.causal import Causal, Step
from jensen.nets.masked import MaskedMLP
from jensen.nets.stack import Activation


class MADE(Causal):
    """A masked perceptron over the flattened datum.

    Germain et al., "MADE: masked autoencoder for distribution estimation", 2015, arXiv:1502.03509.

    Args:
        orders: of the elements, first to last, (M, D); the same weights serve all of them.
        any_order: whether it is trained in all orders; `orders` are those that its density is the average of.
        middle, unit: x enters as (x − middle) / unit.
        logarithm: whether it enters as log(1 + x): counts.
        others: see `MaskedMLP`.
    """

    orders: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        per_element: int,
        hidden: Sequence[int],
        *,
        context: int = 0,
        activation: Activation = "relu",
        residual: bool = False,
        orders: Tensor | None = None,
        any_order: bool = False,
        middle: float = 0.0,
        unit: float = 1.0,
        logarithm: bool = False,
    ):
        super().__init__(shape, per_element)
        self.register_buffer("orders", torch.arange(self.dims).expand(1, -1) if orders is None else orders)
        self.net = MaskedMLP(
            self.dims,
            per_element,
            hidden,
            context=context,
            activation=activation,
            residual=residual,
            order=self.orders[0],
        )
        self.any_order = any_order
        self.middle, self.unit, self.logarithm = middle, unit, logarithm

    @property
    def order(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.net.order

    @property
    def orderings(self) -> int:
        return len(self.orders)

    def use(self, ordering: int) -> None:
        self.arrange(self.orders[ordering])

    def arrange(self, order: Tensor) -> None:
        if not torch.equal(self.net.order, order.to(self.net.order.device)):
            self.net.set_order(order)

    def _scaled(self, x: Tensor) -> Tensor:
        if self.logarithm:
            return x.log1p()
        return x if (self.middle, self.unit) == (0.0, 1.0) else (x - self.middle) / self.unit

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(self._scaled(x.flatten(1)), context)

    def walk(self, rows: int, context: Tensor | None = None) -> Step:
        walk = self.net.walk(rows, context)

        def step(x: Tensor | None) -> Tensor:
            return walk.step(None if x is None else self._scaled(x.unsqueeze(1)))[:, :, 0]

        return step

    def set_output_bias(self, bias: Tensor) -> None:
        last = self.net.linears[-1].bias
        assert last is not None
        with torch.no_grad():
            last.copy_(bias.flatten())
