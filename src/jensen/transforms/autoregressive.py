"""Masked autoregressive transforms: each element is changed by a map whose parameters depend on the elements before it.

    x_d = f(z_d; θ_d(x_<d, c))        log |det ∂x/∂z| = Σ_d log f′(z_d), for the Jacobian is triangular

From data to base all θ_d come from one pass of a masked network; from base to data each needs the elements before it.
`Inverse` of it is fast the other way round. Germain et al., "MADE", 2015, arXiv:1502.03509; Kingma et al., "Improving
variational inference with inverse autoregressive flow", 2016, arXiv:1606.04934; Papamakarios, Pavlakou and Murray,
"Masked autoregressive flow for density estimation", 2017, arXiv:1705.07057.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from jensen.hardware import threads
from jensen.transforms.monotone import Monotone
from jensen.transforms.transform import Transform

ROWS = 4096  # walked at a time: what the steps come back to stays in the processor's cache
SMALL = 1 << 24  # multiplications a step for which threads wait for one another longer than they work


class MaskedAutoregressive(Transform):
    """x_d = f(z_d; θ_d(x_<d, c)), with "before" in the order of the network.

    From base to data the network is walked from element to element: each hidden unit is computed once, when the last
    element it depends on is known, so that D steps cost about as many multiplications as one pass.

    Args:
        network: gives θ, `(N, P, D)`, for x, `(N, D)`, and a context, and can be walked: `jensen.nets.MaskedMLP`.
        monotone: f.

    Raises:
        ValueError: the network gives another number of parameters than f takes.
    """

    def __init__(self, network: nn.Module, monotone: Monotone):
        super().__init__()
        made: Any = network
        if made.per_element != monotone.size:
            raise ValueError(
                f"expected a network that gives {monotone.size} numbers an element, got {made.per_element}"
            )
        self.network, self.monotone = made, monotone
        self.domain_shape = self.codomain_shape = (made.dims,)
        self.domain, self.codomain = monotone.domain, monotone.codomain
        self.forward_steps, self.inverse_steps = made.dims, 1

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = _elements_first(x)
        return self.monotone.inverse_and_ladj(x, self.network(x, context))

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self._has_gradients(z, context):
            return self._walk(z, context)
        xs, ladjs = [], []
        for part, given in _parts(z, context):
            with torch.inference_mode():
                x, z, parameters = self._walk_in_place(part, given)
                ladj = self.monotone.forward_and_ladj(z, parameters)[1]
            xs.append(x)
            ladjs.append(ladj)
        return _joined(xs), torch.cat(ladjs) if ladjs[0].dim() else ladjs[0].clone()

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        if self._has_gradients(z, context):
            return self._walk(z, context)[0]
        with torch.inference_mode():
            xs = [self._walk_in_place(*part)[0] for part in _parts(z, context)]
        return _joined(xs)

    def _has_gradients(self, z: Tensor, context: Tensor | None) -> bool:
        if not torch.is_grad_enabled():
            return False
        return any(t is not None and t.requires_grad for t in (z, context, *self.parameters()))

    def _walk(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        order = self.network.order.tolist()
        walk, columns = self.network.walk(len(z), context, gradients=True), z.split(1, 1)
        xs, ladj, x = [z] * len(order), z.new_zeros(()), None
        for d in order:
            x, term = self.monotone.forward_and_ladj(columns[d], walk.step(x))
            xs[d], ladj = x, ladj + term
        return torch.cat(xs, 1), ladj

    def _walk_in_place(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x, and z and θ in the order of the walk."""
        z = _elements_first(z).T.index_select(0, self.network.order).T
        with threads(1 if len(z) * self.network.size < SMALL * z.shape[1] else None):
            walk, xs, x, f = self.network.walk(len(z), context), [z] * z.shape[1], None, self.monotone.forward
            for d, column in zip(self.network.order.tolist(), z.split(1, 1), strict=True):
                xs[d] = x = f(column, walk.step(x))
        return torch.cat([x.T for x in xs]).T, z, walk.found


def _parts(z: Tensor, context: Tensor | None) -> Iterable[tuple[Tensor, Tensor | None]]:
    """Rows that are walked together."""
    if z.device.type != "cpu" or len(z) <= ROWS:
        return [(z, context)]
    return zip(z.split(ROWS), repeat(None) if context is None else context.split(ROWS), strict=False)


def _joined(xs: list[Tensor]) -> Tensor:
    """In memory of its own: what inference mode made may meet no gradient again."""
    return torch.cat([x.T for x in xs], 1).T


def _elements_first(x: Tensor) -> Tensor:
    """The same `(N, D)`, each element's values contiguous in memory, as the network gives its parameters."""
    return x if x.stride(0) == 1 else x.T.contiguous().T
